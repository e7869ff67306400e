//! What a caller decides about a backup and an export.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flexkeep_vault::ServerName;
use flexkeep_vault::store::BlockStore;
use jiff::Timestamp;
use serde::Serialize;

/// How to take a backup.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The server's name in the vault; made from the connection's host, and a port other
    /// than 5432, when absent.
    pub name: Option<ServerName>,
    /// Connections that read data at once, at least 1.
    pub lanes: usize,
    /// The most that all lanes together read, bytes of data a second.
    pub max_bytes_per_second: Option<u64>,
    /// Connections of the server that are left to others: where fewer are free, no lane but the
    /// first begins, and the backup goes on with fewer lanes.
    pub keep_connections_free: u32,
    /// Whether tables that would keep one lane busy after the others may be read by ranges, several
    /// at once; otherwise each is read whole, by one lane, through PostgreSQL's small ring of
    /// buffers.
    pub split_tables: bool,
    /// Databases to leave out, by exact name. They are listed in the manifest's notes.
    pub exclude_databases: Vec<String>,
    /// Folder that holds `pg_dump` and `pg_dumpall`; searched for when absent.
    pub pg_bin: Option<PathBuf>,
    /// Whether password hashes of roles are kept, where the server lets them be read.
    pub role_passwords: bool,
    /// Snapshots that are tried for one database before the backup fails.
    pub attempts: u32,
    /// zstd level of table chunks; negative levels are zstd's fast ones.
    pub level: i32,
    /// Longest silence of the server before it counts as gone.
    pub stall_timeout: Duration,
    /// Program and version for the manifest.
    pub tool: String,
    /// What asked for the backup. One request makes one backup: if there is one already, it is the
    /// result, and nothing is read.
    pub request: Option<Request>,
}

/// What asks for a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique for the server in this vault; up to 128 characters.
    pub id: String,
    /// When it was made; the backup's id has this time.
    pub at: Timestamp,
    /// A backup with an id of before is not this request's. Earlier than `at` for a request that may
    /// have been made more than once.
    pub since: Timestamp,
    /// Which try this is, from 1: a run that an earlier try gave up is begun anew.
    pub attempt: u32,
}

/// The zstd level whose speed and size were measured best for COPY text
/// (docs/performance.md).
pub const DEFAULT_LEVEL: i32 = -7;

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            name: None,
            lanes: 2,
            max_bytes_per_second: None,
            keep_connections_free: 3,
            split_tables: true,
            exclude_databases: Vec::new(),
            pg_bin: None,
            role_passwords: true,
            attempts: 5,
            level: DEFAULT_LEVEL,
            stall_timeout: Duration::from_secs(600),
            tool: concat!("flexkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
            request: None,
        }
    }
}

/// How to export a backup.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Where it goes.
    pub to: ExportTarget,
    /// Only these databases; all when empty.
    pub databases: Vec<String>,
    /// Only these schemas of the one chosen database.
    pub schemas: Vec<String>,
    /// Only these tables of the one chosen database, as `name` or `schema.name`.
    pub tables: Vec<String>,
    /// What a database is written as.
    pub format: ExportFormat,
    /// How data is compressed; `None` is the usual one of the format.
    pub compression: Option<ExportCompression>,
    /// Major version of the oldest pg_restore that shall read the archives. `None` keeps the
    /// format and the chunks as they are (pg_restore 17, or 16, as the README says). Of plain SQL
    /// the major version of the pg_restore that writes it: that of the server when `None`.
    pub pg_restore: Option<u32>,
    /// Begin plain SQL with the making of the database.
    pub create: bool,
    /// Folder that holds `pg_restore`, for plain SQL; searched for when absent.
    pub pg_bin: Option<PathBuf>,
    /// For which kind of server `roles.sql` is written.
    pub roles_for: RolesFor,
    /// Threads that verify and compress.
    pub threads: usize,
    /// Replace files of an earlier export.
    pub overwrite: bool,
    /// Read and check every chunk, also where the storage service could copy it by itself.
    pub verify: bool,
}

/// Where an export goes.
#[derive(Clone, Debug)]
pub enum ExportTarget {
    /// A folder; made when it is not there.
    Folder(PathBuf),
    /// A container, or a folder in one.
    Blocks(Arc<dyn BlockStore>),
    /// Standard output: one database and nothing else.
    Stdout,
}

/// What a database is exported as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One file for pg_restore, as of `pg_dump -Fc`.
    #[default]
    Custom,
    /// A folder for pg_restore, as of `pg_dump -Fd`.
    Directory,
    /// SQL for psql, as of `pg_dump -Fp`. The stock pg_restore writes it from the archive, which it
    /// gets through a pipe.
    Plain,
}

/// How an export's data is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportCompression {
    /// zstd; without a level the vault's own chunks, as they are.
    Zstd(Option<i32>),
    /// gzip, levels 1 to 9.
    Gzip(Option<u32>),
    /// Not at all.
    None,
}

/// For which kind of server `roles.sql` is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolesFor {
    /// For Flexible Server when the backup came from one, else for PostgreSQL.
    #[default]
    Same,
    /// As pg_dumpall wrote it, but safe to replay.
    Postgres,
    /// Without what Azure Database for PostgreSQL Flexible Server refuses.
    FlexibleServer,
}

impl ExportOptions {
    /// Everything of a backup, as custom archives, in the usual way.
    pub fn new(to: ExportTarget) -> Self {
        Self {
            to,
            databases: Vec::new(),
            schemas: Vec::new(),
            tables: Vec::new(),
            format: ExportFormat::Custom,
            compression: None,
            pg_restore: None,
            create: false,
            pg_bin: None,
            roles_for: RolesFor::Same,
            threads: 2,
            overwrite: false,
            verify: false,
        }
    }

    /// Whether only a part of a database is wanted.
    pub(crate) fn is_selective(&self) -> bool {
        !self.schemas.is_empty() || !self.tables.is_empty()
    }
}
