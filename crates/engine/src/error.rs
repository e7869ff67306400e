//! Why a backup or an export failed.

use std::path::PathBuf;

use flexkeep_pg_copy as pg;
pub use flexkeep_pg_copy::chain;
use flexkeep_vault::VaultError;

/// Why a backup was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The server can't be reached, or refuses the login.
    #[error("cannot connect to {target}")]
    Connect {
        /// The connection in words, without secrets.
        target: String,
        /// What the connection said.
        #[source]
        source: Box<pg::Error>,
    },
    /// The server is older than what flexkeep reads.
    #[error("the server is PostgreSQL {version}; flexkeep backs up PostgreSQL 13 and newer")]
    ServerTooOld {
        /// Its version.
        version: String,
    },
    /// A statement failed, or the connection broke while it ran.
    #[error("{doing} failed{}", in_database(.database))]
    Server {
        /// What was being done.
        doing: String,
        /// In which database.
        database: Option<String>,
        /// What the server said.
        #[source]
        source: Box<pg::Error>,
    },
    /// The server is a replica, and cancelled what was being read.
    #[error(
        "{doing} was cancelled by the replica{}, which goes on with the changes of its primary; set \
         hot_standby_feedback = on there, or raise its max_standby_streaming_delay and \
         max_standby_archive_delay",
        in_database(.database)
    )]
    RecoveryConflict {
        /// What was being done.
        doing: String,
        /// In which database.
        database: Option<String>,
        /// What the server said.
        #[source]
        source: Box<pg::Error>,
    },
    /// No usable pg_dump.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Tables and sequences that the user may not read. A backup without them would not be one.
    #[error(
        "{} in database {database:?} cannot be read: {}; grant SELECT (or the role pg_read_all_data), and BYPASSRLS where row security is active, or leave the database out",
        plural(.tables.len(), unreadable(.tables)),
        some(.tables)
    )]
    Unreadable {
        /// The database.
        database: String,
        /// The tables, qualified and quoted; then the sequences, each after the word `sequence`.
        tables: Vec<String>,
    },
    /// A table or its data changed in a way that no snapshot protects from.
    #[error("{what} changed while database {database:?} was being locked or read")]
    Changed {
        /// The database.
        database: String,
        /// The tables, or what pg_dump said.
        what: String,
    },
    /// A row that cannot be brought back, as no server takes it: pg_dump cannot dump it either.
    #[error(
        "table {table} of database {database:?} has a row that is longer than 1 GiB as text, which no server takes back by COPY; store its values in parts or as large objects, or leave the database out (--exclude-database)"
    )]
    RowTooLong {
        /// The database.
        database: String,
        /// The table, qualified and quoted.
        table: String,
    },
    /// The server has no room for a lock on every table.
    #[error(
        "database {database:?} has {tables} tables, and the server has no room for a lock on each of them; set max_locks_per_transaction to {wanted} (it is {set}) and restart the server"
    )]
    LockTableFull {
        /// The database.
        database: String,
        /// How many tables it has.
        tables: u64,
        /// The setting as it is.
        set: u64,
        /// A setting that is enough.
        wanted: u64,
    },
    /// Every attempt at a database failed.
    #[error("gave up database {database:?} after {attempts} attempts")]
    AttemptsExhausted {
        /// The database.
        database: String,
        /// How many snapshots were tried.
        attempts: u32,
        /// What ended the last of them.
        #[source]
        last: Box<BackupError>,
    },
    /// Every snapshot of a database was lost, each because nobody held it any more or because it
    /// was true no longer.
    #[error(
        "gave up database {database:?} after {attempts} snapshots were lost; the last: {reason}"
    )]
    SnapshotsLost {
        /// The database.
        database: String,
        /// How many snapshots were taken.
        attempts: u32,
        /// What ended the last of them.
        reason: String,
    },
    /// The database was dropped or renamed before it could be read.
    #[error("database {0:?} is gone")]
    DatabaseGone(String),
    /// Another process backs up the same server into the same vault.
    #[error(
        "another backup of {server:?} into this vault is running (server process {pid}); wait for it or stop it, then run this one again"
    )]
    AnotherBackup {
        /// The server's name.
        server: String,
        /// The backend that holds the lock, or `unknown`.
        pid: String,
    },
    /// A database that is to be left out is not there: perhaps its name is wrong, and it would be
    /// backed up.
    #[error("database {0:?}, which is to be left out, does not exist")]
    NoSuchDatabase(String),
    /// The server has no database that can be backed up.
    #[error("no database to back up: {0}")]
    NothingToDo(String),
    /// The vault refused or failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A chunk could not be stored; the upload itself says why.
    #[error("an upload failed")]
    UploadFailed,
    /// The run that a lane works for was finished, given up or removed by somebody else.
    #[error("the run is over")]
    RunOver,
    /// Another lane found that a snapshot is no longer held, or no longer true.
    #[error("snapshot {attempt} of database {database:?} is of no use any more: {what}")]
    SnapshotGivenUp {
        /// The database.
        database: String,
        /// Which of its snapshots.
        attempt: u32,
        /// Why.
        what: String,
    },
    /// The message that starts a lane's successor could not be sent.
    #[error("cannot start the lane that is to go on")]
    Successor(#[source] pg::BoxError),
    /// The caller asked for it.
    #[error("cancelled; nothing was sealed")]
    Cancelled,
    /// A promise that this program makes to itself was broken; nothing was sealed.
    #[error("internal check failed: {0}; nothing was sealed")]
    Internal(String),
}

/// Something about the PostgreSQL client programs.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// None found that is new enough.
    #[error(
        "no {tool} for a PostgreSQL {server_major} server was found ({found}); install the client package of PostgreSQL {server_major} or newer, or say where its programs are"
    )]
    Missing {
        /// `pg_dump` or `pg_dumpall`.
        tool: String,
        /// The server's major version.
        server_major: u32,
        /// What was found, in words.
        found: String,
    },
    /// It could not be started.
    #[error("cannot start {}", .path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The password that it is to connect with could not be had.
    #[error("cannot get the password for {tool}")]
    Password {
        /// The program.
        tool: String,
        /// Why.
        #[source]
        source: flexkeep_pg_copy::PasswordError,
    },
    /// It ended with an error.
    #[error("{tool} failed ({status}): {stderr}")]
    Failed {
        /// `pg_dump` or `pg_dumpall`.
        tool: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It could not connect, or lost its connection.
    #[error("{tool} has no connection to the server: {stderr}")]
    Connection {
        /// `pg_dump`.
        tool: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It wrote what can't be a table of contents.
    #[error("{tool} wrote a table of contents that cannot be read")]
    Output {
        /// The program.
        tool: String,
        /// What is wrong with it.
        #[source]
        source: flexkeep_pg_archive::ReadError,
    },
    /// It did not end in time.
    #[error("{tool} gave nothing for {seconds} s and was stopped")]
    Stalled {
        /// The program.
        tool: String,
        /// The limit.
        seconds: u64,
    },
}

impl BackupError {
    /// Whether the same backup may succeed later without anybody doing something: the server is
    /// restarting, the network is gone, the disk is full. `false` for what waits for a human, such
    /// as a wrong password or a table that may not be read.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::AnotherBackup { .. }
            | Self::RecoveryConflict { .. }
            | Self::AttemptsExhausted { .. }
            | Self::SnapshotsLost { .. }
            | Self::Changed { .. }
            | Self::UploadFailed
            | Self::Cancelled
            | Self::RunOver
            | Self::SnapshotGivenUp { .. }
            | Self::Successor(_)
            | Self::Internal(_) => true,
            Self::Connect { source, .. } | Self::Server { source, .. } => {
                source.is_transient() || source.sqlstate().is_some_and(is_concurrent_change)
            }
            // A program that was killed for want of memory leaves half a table of contents.
            Self::Tool(error) => !matches!(error, ToolError::Missing { .. }),
            Self::Vault(error) => error.may_pass(),
            _ => false,
        }
    }

    /// Whether a new snapshot of the same database may succeed.
    pub(crate) fn is_worth_a_new_attempt(&self) -> bool {
        match self {
            Self::Changed { .. } | Self::RecoveryConflict { .. } => true,
            Self::Server { source, .. } | Self::Connect { source, .. } => {
                source.is_transient() || source.sqlstate().is_some_and(is_concurrent_change)
            }
            Self::Tool(ToolError::Stalled { .. } | ToolError::Connection { .. }) => true,
            _ => false,
        }
    }

    /// Whether a lane may try again at once, on another connection.
    pub(crate) fn is_worth_another_look(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Server { source, .. } => source.is_transient(),
            Self::Vault(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether a replica cancelled the work, which it will do again unless its settings or the load
    /// of its primary change.
    pub(crate) fn is_recovery_conflict(&self) -> bool {
        matches!(self, Self::RecoveryConflict { .. })
    }

    /// Whether the server says that the database does not exist.
    pub(crate) fn is_database_gone(&self) -> bool {
        match self {
            Self::DatabaseGone(_) => true,
            Self::Connect { source, .. } | Self::Server { source, .. } => {
                source.sqlstate() == Some("3D000")
            }
            _ => false,
        }
    }
}

/// SQLSTATEs of objects that went away, or locks that were not to be had, between two statements.
fn is_concurrent_change(sqlstate: &str) -> bool {
    matches!(
        sqlstate,
        "42P01"
            | "42704"
            | "42883"
            | "3F000"
            | "55P03"
            | "40P01"
            | "40001"
            | "XX000"
            | "57014"
            | "22023"
            | "55000"
            | "42703"
    )
}

fn in_database(database: &Option<String>) -> String {
    database.as_ref().map(|name| format!(" in database {name:?}")).unwrap_or_default()
}

/// What names are of, in one word.
fn unreadable(names: &[String]) -> &'static str {
    match names.iter().filter(|name| name.starts_with("sequence ")).count() {
        0 => "table",
        sequences if sequences == names.len() => "sequence",
        _ => "table or sequence",
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Some names of a list.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
