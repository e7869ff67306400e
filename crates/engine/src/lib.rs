//! Backups of PostgreSQL servers: checks, makes, exports, restores and verifies them, and hands a
//! backup over from process to process (the relay).
//!
//! [`backup`] reads every database of a server into a vault. For each it takes one snapshot, lets
//! pg_dump write its table of contents and stops it before the data, cuts the data into slices,
//! and lets several lanes (connections that share the snapshot) read them. Slices become
//! content-addressed chunks; what the vault has already is neither compressed nor stored again.

mod attver;
mod backup;
mod check;
mod chunker;
mod dump;
mod entries;
mod error;
mod export;
mod formats;
mod globals;
mod journal;
mod json;
mod lane;
mod large_objects;
mod options;
mod order;
mod outline;
mod pace;
mod plan;
mod progress;
mod relay;
mod report;
mod restore;
mod roles;
mod session;
mod snapshot;
mod source;
mod tools;
mod turn;
mod types;
mod uploads;
mod verify;

pub use backup::backup;
pub use check::{CheckReport, Finding, Severity, check};
pub use error::{BackupError, ToolError, chain};
pub use export::{DamagedObject, ExportError, ExportReport, ExportedFile, Transfer, export};
pub use options::{
    BackupOptions, DEFAULT_LEVEL, ExportCompression, ExportFormat, ExportOptions, ExportTarget,
    Request, RolesFor,
};
pub use progress::{Progress, ProgressReading, Restart};
pub use relay::{
    Amounts, Begun, DatabaseProgress, DatabaseState, Lane, LaneEnd, LaneOptions, LaneProgress,
    LaneSign, LostSnapshot, Sighting, Successors, begin, lane_signs, run_lane,
};
pub use report::{PROGRESS_EVERY, RunProgress, run_progress};
pub use restore::{
    Amcheck, Assertion, AssertionReport, DatabaseAction, DatabaseChoice, DatabasePlan,
    DatabaseReport, DrillOptions, DrillReport, Existing, ObjectFailure, PhaseReport, RestoreError,
    RestoreOptions, RestoreParts, RestorePlan, RestoreReport, RestoreStatus, RolesReport,
    ScratchLock, Skipped, TableReport, drill, drop_scratch, is_interrupted, is_there, plan_restore,
    restore, restore_then,
};
pub use roles::{PreparedRoles, RolesTarget, Unterminated, prepare as prepare_roles};
pub use tools::ClientTools;
pub use verify::{
    DamagedPart, Depth, HurtBackup, HurtDatabase, ReportedDepth, UnreadableManifest, Unreferenced,
    VerifiedCounts, VerifyError, VerifyOptions, VerifyReport, verify,
};
