//! What the functions do, without a word about functions: [`Service::tick`] finds the servers that
//! are due and sends a message for each, [`Service::work`] takes such a message and backs the
//! server up, [`Service::status`] says how things are. [`Service::work_restore`] does the same for the
//! queue of restores and restore drills.
//!
//! # What it promises
//! - A message is answered once it never needs to come again: its backup is sealed and the
//!   completion event told, or it is given up and the failure told, or a later message goes on
//!   with it. Only when not even that can be sent is it left to be delivered again.
//! - One request makes at most one backup, whatever is delivered twice, late, or at once: the
//!   engine asks the vault for the request's backup while it holds the server's lock.
//! - Events are told at least once, under an id that follows from the request.

mod drills;
mod error;
mod events;
mod lane;
mod lane_message;
mod message;
mod progress;
mod record;
mod restore_events;
mod restore_message;
mod restore_record;
mod restore_requests;
mod restores;
mod service;
mod status;
mod target;
mod tick;
mod work;

pub use drills::{Chosen, Drill, DrillError, DrillResult};
pub use error::ServiceError;
pub use lane_message::LaneMessage;
pub use message::{BackupMessage, BadMessage, MESSAGE_VERSION, Reason};
pub use record::{Fate, RequestNote};
pub use restore_message::{
    BadRestoreMessage, DatabaseOrder, DrillOrder, RestoreMessage, RestoreOrder,
};
pub use restore_record::RestoreFate;
pub use restore_requests::{Order, RestoreRequest, What};
pub use restores::RestoreWorked;
pub use service::{Service, ServiceOptions};
pub use status::{Asked, BackupSummary, DrillStatus, RunStatus, ServerStatus, Status, last_backup};
pub use target::{TargetError, authenticated, restore_target, target};
pub use tick::{Ticked, TickedDrill, TickedServer};
pub use work::{Incoming, Worked};
