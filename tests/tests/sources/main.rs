//! Sources that are not a plain server of a version with client programs: older servers, a standby,
//! and PostgreSQL's own regression database.

mod older;
mod regression;
#[path = "../restoring/mod.rs"]
mod restoring;
mod standby;
#[path = "../vaulted/mod.rs"]
mod vaulted;
