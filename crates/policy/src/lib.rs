//! What to back up and when: the policy file and its schedule.
//!
//! [`Policy`] is the way in: it reads the file and says all that is wrong with it. Each
//! [`ServerPolicy`] has a [`Schedule`], and a [`ScheduleState`] remembers from one tick to the next
//! what was sent, what failed, and what was reported. A [`TargetPolicy`] says where backups
//! may be restored to, and a [`DrillPolicy`] when that is tried. `docs/policy.md` is the reference for users.
//!
//! Nothing here waits, sends or stores: the time is passed in, the environment is an [`Env`], and
//! only [`Policy::load`] reads a file (time zones come from the system's database, or from the one
//! in this crate).

mod auth;
mod connection;
mod drill;
mod drill_state;
mod env;
mod leak;
mod near;
mod policy;
mod problem;
mod schedule;
mod schedule_keys;
mod section;
mod server;
mod state;
mod target;
mod zone;

pub use auth::{Auth, UnknownAuth};
pub use drill::{
    Amcheck, AssertionPolicy, DEFAULT_ASSERTION_SECONDS, DrillDatabases, DrillPolicy,
    MAX_ASSERTION_SECONDS,
};
pub use drill_state::{DrillNote, DrillState, Scratch};
pub use env::{Env, ProcessEnv};
pub use policy::{MAX_POLICY_BYTES, Policy};
pub use problem::{PolicyError, Problem, Problems};
pub use schedule::{Every, Schedule};
pub use server::{
    DEFAULT_KEEP_CONNECTIONS_FREE, DEFAULT_LANES, DEFAULT_MAX_ATTEMPTS, MAX_LANES,
    MAX_MAX_ATTEMPTS, ServerPolicy,
};
pub use state::{
    ClockBehind, Due, FAILURES_TO_FALL_BACK, LeftOut, OVERDUE_AFTER, Outcome, Overdue,
    RestoreReason, ScheduleState, Tick, Transition,
};
pub use target::TargetPolicy;
