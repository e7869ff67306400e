//! What a caller decides about a restore.

use std::time::Duration;

use serde::Serialize;

/// How to restore a backup.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Which databases; all of the backup when empty.
    pub databases: Vec<DatabaseChoice>,
    /// Only these schemas of the one chosen database.
    pub schemas: Vec<String>,
    /// Only these tables of the one chosen database, as `name` or `schema.name`.
    pub tables: Vec<String>,
    /// Definitions, rows, or both.
    pub parts: RestoreParts,
    /// What may be done about what is there already.
    pub existing: Existing,
    /// Go on with a restore that was interrupted: one of its databases has its journal, or nothing was
    /// in the way when it began. With [`Existing::Clean`] databases that it had not come to
    /// are replaced.
    pub resume: bool,
    /// Whether roles that are missing are made.
    pub roles: bool,
    /// Whether objects get the owners that they had.
    pub owners: bool,
    /// Whether rights are granted as they were.
    pub acls: bool,
    /// Read and check every chunk that is needed before anything is written.
    pub verify: bool,
    /// Connections that write at once, at least 1.
    pub lanes: usize,
    /// Longest silence of the server before it counts as gone, and longest wait for a lock.
    pub stall_timeout: Duration,
}

/// One database to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseChoice {
    /// Its name in the backup.
    pub name: String,
    /// The name on the target; the same when absent.
    pub restored_as: Option<String>,
}

/// Definitions, rows, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreParts {
    /// Both.
    #[default]
    Everything,
    /// Definitions without rows, large objects and positions of sequences.
    SchemaOnly,
    /// Rows, large objects and positions of sequences, into tables that are there and empty.
    DataOnly,
}

/// What may be done about what is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// A database must not be there.
    #[default]
    Refuse,
    /// A database may be there, but none of the objects that are going to be made.
    Keep,
    /// What is in the way is dropped and made anew: the database, or the chosen schemas and tables.
    /// With rows only, the tables are emptied.
    Clean,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            schemas: Vec::new(),
            tables: Vec::new(),
            parts: RestoreParts::Everything,
            existing: Existing::Refuse,
            resume: false,
            roles: true,
            owners: true,
            acls: true,
            verify: false,
            lanes: 4,
            stall_timeout: Duration::from_secs(600),
        }
    }
}

impl RestoreOptions {
    /// Whether only a part of a database is wanted.
    pub(crate) fn is_selective(&self) -> bool {
        !self.schemas.is_empty() || !self.tables.is_empty()
    }

    pub(crate) fn definitions(&self) -> bool {
        self.parts != RestoreParts::DataOnly
    }

    pub(crate) fn data(&self) -> bool {
        self.parts != RestoreParts::SchemaOnly
    }

    /// What must be the same for one restore to go on with another, as text.
    pub(crate) fn identity(&self) -> String {
        let mut schemas = self.schemas.clone();
        let mut tables = self.tables.clone();
        schemas.sort();
        tables.sort();
        format!(
            "parts={:?} schemas={schemas:?} tables={tables:?} owners={} acls={}",
            self.parts, self.owners, self.acls
        )
    }

    /// What contradicts itself.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.is_selective() && self.databases.len() != 1 {
            return Some("schemas and tables can be chosen from one database; name it");
        }
        if self.parts == RestoreParts::DataOnly && self.existing == Existing::Refuse && !self.resume
        {
            return Some(
                "rows alone go into tables that are there; allow an existing database, or have \
                 its tables emptied",
            );
        }
        None
    }
}
