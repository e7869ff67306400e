//! The manifest: one JSON object a backup. A backup exists if and only if its manifest does.
//!
//! As stored it has one more field, a checksum of all the others.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// The manifest format that this version writes; it reads this and all older ones.
pub const MANIFEST_FORMAT: u32 = 1;

/// A sealed backup of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`] of the writer.
    pub format: u32,
    /// Id of the vault that this manifest belongs to.
    pub vault: String,
    /// The backup's id: `<server>-<UTC time as 20261122T225300Z>`; the time is when the run began,
    /// or when the request for it was made.
    pub backup: String,
    /// The protected server's name in this vault.
    pub server: String,
    /// The program that wrote it, with its version.
    pub tool: String,
    /// What asked for it, such as a schedule's instant or a person's request: one request makes
    /// one backup, however often it is delivered. `None` when a command made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When the run began.
    pub started: Timestamp,
    /// When the manifest was written.
    pub sealed: Timestamp,
    /// Where it was read from.
    pub source: Source,
    /// Roles, memberships, role settings and tablespaces, as SQL.
    pub globals: Option<ObjectRef>,
    /// One entry a database, in the order in which they were dumped.
    pub databases: Vec<DatabaseSummary>,
    /// What could not be backed up, and why. Empty for a complete backup.
    pub losses: Vec<Loss>,
    /// What was left out on purpose or does not exist for a logical backup; not a loss.
    pub notes: Vec<String>,
    /// Sums over all databases.
    pub totals: Totals,
}

/// The server that was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `server_version`, for people.
    pub version: String,
    /// `server_version_num`.
    pub version_num: u32,
    /// `system_identifier` from `pg_control_system()`, where it may be read.
    pub system_identifier: Option<String>,
    /// Whether it was a standby.
    pub standby: bool,
    /// Whether it looks like Azure Database for PostgreSQL Flexible Server.
    pub flexible_server: bool,
    /// Version of the pg_dump that wrote the tables of contents.
    pub pg_dump: String,
}

/// A compressed meta object, named by the hash of its raw content: `meta/<ab>/<hash>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Hash of the raw content.
    pub hash: ContentHash,
    /// Length of the raw content, bytes.
    pub raw_bytes: u64,
    /// Length as stored (one zstd frame), bytes.
    pub stored_bytes: u64,
}

/// One database of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseSummary {
    /// Its name; `U+FFFD` stands for bytes that are not UTF-8.
    pub name: String,
    /// Its oid on the source.
    pub oid: u32,
    /// Server encoding, such as `UTF8`.
    pub encoding: String,
    /// When its snapshot was taken (the source's clock).
    pub snapshot_time: Timestamp,
    /// Attempts (snapshots) that it took; more than one means that earlier ones were given up.
    pub attempts: u32,
    /// pg_dump's head and table of contents with completed dependencies, format 1.15 or 1.16,
    /// compression zstd, offsets not set: the beginning of an archive.
    pub toc: ObjectRef,
    /// The list of [`crate::contents::Entry`], one JSON document a line.
    pub contents: ObjectRef,
    /// Extensions installed, with versions.
    pub extensions: Vec<Extension>,
    /// Sums over its entries.
    pub totals: Totals,
    /// Who held its snapshot, one after the other and at once, when several processes read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
}

/// A connection that held the snapshot of a database. Each took it over from one that held it
/// then, so all saw the same state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its lane, from 0.
    pub lane: u32,
    /// How many were in this lane before it.
    pub generation: u32,
    /// The id under which it gave the snapshot on.
    pub baton: String,
    /// The id under which it got the snapshot; `None` for the one that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it had it.
    pub since: Timestamp,
}

/// An installed extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Something of the source that this backup does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The database, `None` for what belongs to the whole server.
    pub database: Option<String>,
    /// What kind of object: `large object`, `subscription`, `role password`, `user mapping`, ...
    pub kind: String,
    /// Which ones; long lists are cut, `count` is exact.
    pub objects: Vec<String>,
    /// How many.
    pub count: u64,
    /// Why, in the server's words where it said something.
    pub reason: String,
}

/// Sizes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Tables with data entries.
    pub tables: u64,
    /// Rows of tables.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Raw content of all chunks, bytes.
    pub raw_bytes: u64,
    /// Stored size of all chunks that the backup names, each counted as often as it is named, bytes.
    pub stored_bytes: u64,
    /// Chunks named.
    pub chunks: u64,
    /// Chunks that this backup added to the vault.
    pub new_chunks: u64,
    /// Bytes that this backup added to the vault (chunks only).
    pub new_stored_bytes: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.tables += other.tables;
        self.rows += other.rows;
        self.large_objects += other.large_objects;
        self.raw_bytes += other.raw_bytes;
        self.stored_bytes += other.stored_bytes;
        self.chunks += other.chunks;
        self.new_chunks += other.new_chunks;
        self.new_stored_bytes += other.new_stored_bytes;
    }
}
