//! What a restore plans and what it did, for people and for programs.

use serde::Serialize;

use super::options::RestoreParts;
use crate::check::Finding;

/// What a restore would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestorePlan {
    /// The backup's id.
    pub backup: String,
    /// The target, without secrets.
    pub target: String,
    /// Its version, for people.
    pub target_version: String,
    /// One for each database, in the order in which they are restored.
    pub databases: Vec<DatabasePlan>,
    /// Roles that would be made.
    pub roles: Vec<String>,
    /// What was looked at, from good to bad. With one that is an error the restore does not begin.
    pub findings: Vec<Finding>,
}

/// What would be done about one database.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatabasePlan {
    /// Its name in the backup.
    pub database: String,
    /// Its name on the target.
    pub restored_as: String,
    /// What happens to the database itself.
    pub action: DatabaseAction,
    /// Definitions, rows, or both.
    pub parts: RestoreParts,
    /// Objects to make, those with rows included.
    pub objects: u64,
    /// Tables with rows to load.
    pub tables: u64,
    /// Rows to load.
    pub rows: u64,
    /// Large objects to load.
    pub large_objects: u64,
    /// Bytes to load.
    pub bytes: u64,
    /// What is needed besides what was chosen, and is made too.
    pub also: Vec<String>,
    /// What is left out, and why.
    pub skipped: Vec<Skipped>,
}

/// What happens to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseAction {
    /// It is made.
    Create,
    /// It is dropped and made anew.
    Replace,
    /// It is there and used.
    Use,
    /// It is there; the chosen objects are dropped, or emptied, first.
    UseAndDrop,
    /// A restore of it is continued.
    Continue,
    /// Nothing: an interrupted restore has finished it.
    Finished,
}

impl DatabaseAction {
    pub(crate) fn creates(self) -> bool {
        matches!(self, Self::Create | Self::Replace)
    }
}

/// What is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The object, such as `trigger app.orders check_it`.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// How a restore, or one database of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStatus {
    /// All of it is there.
    Complete,
    /// All rows are there; definitions that the server refused are named.
    WithFailures,
    /// Something is not there that another run can bring.
    Incomplete,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestoreReport {
    /// How it ended.
    pub status: RestoreStatus,
    /// The backup's id.
    pub backup: String,
    /// The target, without secrets.
    pub target: String,
    /// How long it took, verification included.
    pub duration_seconds: f64,
    /// What became of roles.
    pub roles: RolesReport,
    /// One for each database that was begun, in the order in which they were restored.
    pub databases: Vec<DatabaseReport>,
    /// Databases that were not begun.
    pub not_begun: Vec<String>,
    /// What a person has to do now.
    pub to_do: Vec<String>,
}

/// What became of roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RolesReport {
    /// Made by this run.
    pub created: Vec<String>,
    /// Of the backup, and there already: left as they are.
    pub kept: Vec<String>,
    /// What the server refused of them.
    pub refused: Vec<String>,
}

/// What became of one database.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatabaseReport {
    /// Its name in the backup.
    pub database: String,
    /// Its name on the target.
    pub restored_as: String,
    /// How it ended.
    pub status: RestoreStatus,
    /// What happened to the database itself.
    pub action: DatabaseAction,
    /// Tables and groups of large objects whose rows were to be loaded.
    pub tables: Vec<TableReport>,
    /// Rows that are there, of earlier runs of the same restore too.
    pub rows: u64,
    /// Large objects that are there, likewise.
    pub large_objects: u64,
    /// Bytes that this run loaded.
    pub loaded_bytes: u64,
    /// Definitions that were made, by earlier runs of the same restore too.
    pub objects: u64,
    /// What the server or the vault refused.
    pub failures: Vec<ObjectFailure>,
    /// What was not chosen, and made too because that needs it.
    pub also: Vec<String>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Seconds of each phase, in order.
    pub phases: Vec<PhaseReport>,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// Its schema; `None` for large objects.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// Rows (or large objects) by the server's count.
    pub rows: u64,
    /// Rows that the backup has.
    pub expected_rows: u64,
    /// Whether all is loaded.
    pub complete: bool,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectFailure {
    /// The object, such as `index app.orders_customer`.
    pub object: String,
    /// In the words of the server or the vault.
    pub error: String,
    /// The server's five-character code, where it was the server.
    pub sqlstate: Option<String>,
    /// The statement, cut after 2,000 characters; `None` for rows.
    pub statement: Option<String>,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseReport {
    /// `definitions`, `data`, ...
    pub phase: &'static str,
    /// How long it took.
    pub seconds: f64,
}
