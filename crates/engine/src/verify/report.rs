//! What a verification found.

use jiff::Timestamp;
use serde::Serialize;

use super::Depth;

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// The vault's place, without credentials.
    pub vault: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// How much of the chunks' content was to be read.
    pub depth: ReportedDepth,
    /// What was looked at.
    pub counts: VerifiedCounts,
    /// Objects that are damaged or missing, at most 1000 of them; `counts.damaged` has all.
    pub damaged: Vec<DamagedPart>,
    /// What lies where manifests lie and is none of this vault, or is damaged.
    pub unreadable: Vec<UnreadableManifest>,
    /// The backups that cannot be restored whole.
    pub hurt: Vec<HurtBackup>,
    /// Chunks that no backup names; only when all backups were verified and readable.
    pub unreferenced: Option<Unreferenced>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.counts.damaged == 0 && self.unreadable.is_empty() && self.hurt.is_empty()
    }
}

/// [`Depth`], for readers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "read", rename_all = "snake_case")]
pub enum ReportedDepth {
    /// No content.
    Sizes,
    /// A share of the chunks.
    Sample {
        /// The share.
        percent: f64,
        /// What picked them.
        seed: u64,
    },
    /// All content.
    All,
}

impl From<Depth> for ReportedDepth {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Sizes => Self::Sizes,
            Depth::Sample { percent, seed } => Self::Sample { percent, seed },
            Depth::All => Self::All,
        }
    }
}

/// What was looked at; each object once, however many backups name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifiedCounts {
    /// Backups that were verified.
    pub backups: u64,
    /// Tables of contents, contents lists and globals, all of which were read.
    pub meta_objects: u64,
    /// Distinct chunks that the backups name.
    pub chunks: u64,
    /// Chunks whose content was read and hashed.
    pub chunks_read: u64,
    /// Bytes of those chunks, as stored.
    pub stored_bytes_read: u64,
    /// Bytes of those chunks, uncompressed.
    pub raw_bytes_read: u64,
    /// Objects that are damaged or missing.
    pub damaged: u64,
}

/// An object that is damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedPart {
    /// Its name in the vault.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// An object that should be a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableManifest {
    /// Its name in the vault.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A backup that cannot be restored whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HurtBackup {
    /// Its id.
    pub backup: String,
    /// What of it is hurt.
    pub databases: Vec<HurtDatabase>,
}

/// What of a database is hurt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HurtDatabase {
    /// The database; `None` for roles and what else belongs to the server.
    pub database: Option<String>,
    /// Tables and other entries, `schema.name`; at most 100 of them.
    pub entries: Vec<String>,
    /// How many there are.
    pub count: u64,
}

/// Chunks that no backup names: of backups that are being made or were broken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unreferenced {
    /// How many.
    pub chunks: u64,
    /// Bytes, as stored.
    pub bytes: u64,
}
