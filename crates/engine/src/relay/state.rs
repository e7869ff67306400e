//! What the lanes of a run know of each other: objects of the run in the vault.
//!
//! ```text
//! run.json                                   the run's record; it is over when this is gone
//! server.json                                what is read: databases, roles, facts; written once
//! lane-3.json                                the last sign of lane 3
//! last-backup.json                           which backup this one builds on
//! database-16400/attempt-1/plan.json.zst     one snapshot: entries and items
//! database-16400/attempt-1/baton-0-2-x.json  a holder of that snapshot (lane 0, generation 2)
//! database-16400/attempt-1/left-0-2-x.json   the same, once it let go of it
//! database-16400/attempt-1/known-003.json    what lane 3 leaves to its next one
//! database-16400/attempt-1/item-000017.json  an item, read and stored
//! database-16400/attempt-1/conflict.json     why a replica cancelled a holder; written once
//! database-16400/attempt-1/lost.json         why the snapshot is given up; written once
//! database-16400/done.json                   what the manifest says of it; written once
//! ```

use std::collections::BTreeSet;

use flexkeep_vault::manifest::{DatabaseSummary, Extension, Holder, Loss, ObjectRef};
use flexkeep_vault::store::{PutMode, StoreErrorKind};
use flexkeep_vault::{MAX_RUN_OBJECT_BYTES, RunId, RunState, ServerName, Vault, VaultError};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::journal::SliceDone;
use crate::plan::{Item, PlannedEntry};
use crate::source::{Database, ServerFacts};
use crate::types::TypeMarks;

/// Most bytes of a plan, unpacked. The oids of fifty million large objects fit.
const MAX_PLAN_BYTES: usize = 512 << 20;

/// zstd level of a plan.
const PLAN_LEVEL: i32 = 3;

/// What is read, decided when the run begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ServerPlan {
    pub(super) facts: ServerFacts,
    pub(super) databases: Vec<Database>,
    /// Bytes on disk of each, for the progress.
    pub(super) sizes: Vec<u64>,
    pub(super) losses: Vec<Loss>,
    pub(super) notes: Vec<String>,
    pub(super) globals: ObjectRef,
    /// The roles that they are of ([`source::roles`]).
    #[serde(default)]
    pub(super) roles: BTreeSet<String>,
    /// Lanes that work at once.
    pub(super) lanes: u32,
}

/// One snapshot of a database, and what there is to do on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AttemptPlan {
    pub(super) database: Database,
    pub(super) attempt: u32,
    pub(super) snapshot_time: Timestamp,
    pub(super) encoding: String,
    pub(super) toc: ObjectRef,
    pub(super) entries: Vec<PlannedEntry>,
    pub(super) items: Vec<Item>,
    pub(super) bytes: u64,
    pub(super) extensions: Vec<Extension>,
    #[serde(default)]
    pub(super) types: TypeMarks,
    pub(super) losses: Vec<Loss>,
    pub(super) notes: Vec<String>,
}

/// A connection that holds a snapshot, and the id under which others can have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Baton {
    #[serde(flatten)]
    pub(super) holder: Holder,
    /// Tables that it could not lock, because somebody stands in line for an exclusive lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unlocked: Vec<u32>,
    /// It let go of the snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) left: bool,
}

/// An item, done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ItemDone {
    pub(super) slices: Vec<SliceDone>,
    pub(super) new_chunks: u64,
    pub(super) new_bytes: u64,
}

/// Why a snapshot is given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lost {
    pub(super) reason: String,
    pub(super) at: Timestamp,
    /// A replica cancelled it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) conflict: bool,
}

/// A database that is in the vault, or gone from the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DatabaseDone {
    /// `None` when it was dropped meanwhile.
    pub(super) summary: Option<DatabaseSummary>,
    pub(super) losses: Vec<Loss>,
    pub(super) notes: Vec<String>,
}

/// A run's objects.
#[derive(Clone, Debug)]
pub(super) struct RunObjects {
    pub(super) vault: Vault,
    pub(super) server: ServerName,
    pub(super) run: RunId,
}

impl RunObjects {
    /// Whether the run is still to be worked on.
    pub(super) fn state(&self) -> Result<Option<RunState>, BackupError> {
        Ok(self.vault.run(&self.server, &self.run)?.map(|record| record.state))
    }

    /// Writes an object; `false` when it may not replace what is there.
    pub(super) fn put<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        mode: PutMode,
    ) -> Result<bool, BackupError> {
        let body = serde_json::to_vec(value).map_err(|error| internal(name, &error))?;
        self.put_bytes(name, &body, mode)
    }

    fn put_bytes(&self, name: &str, body: &[u8], mode: PutMode) -> Result<bool, BackupError> {
        match self.vault.put_run_object(&self.server, &self.run, name, body, mode) {
            Ok(_) => Ok(true),
            Err(VaultError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an object, `None` when there is none.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, BackupError> {
        let Some(body) = self.get_bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&body).map(Some).map_err(|error| internal(name, &error))
    }

    fn get_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, BackupError> {
        match self.vault.get_run_object(&self.server, &self.run, name) {
            Ok(body) => Ok(Some(body)),
            Err(VaultError::Store(error)) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `each` with the name of every object that begins with `prefix`, in order.
    pub(super) fn each_name(
        &self,
        prefix: &str,
        each: impl FnMut(&str),
    ) -> Result<(), BackupError> {
        Ok(self.vault.each_run_object(&self.server, &self.run, prefix, each)?)
    }

    /// Names of objects that begin with `prefix`, in order.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>, BackupError> {
        let mut names = Vec::new();
        self.each_name(prefix, |name| names.push(name.to_owned()))?;
        Ok(names)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), BackupError> {
        Ok(self.vault.remove_run_object(&self.server, &self.run, name)?)
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, BackupError> {
        Ok(self.vault.has_run_object(&self.server, &self.run, name)?)
    }

    pub(super) fn put_plan(&self, folder: &str, plan: &AttemptPlan) -> Result<bool, BackupError> {
        let name = plan_name(folder);
        let failed = |error: std::io::Error| internal(&name, &error);
        // Written as it is packed: the text of a plan may have a gigabyte, its pack hardly one
        // part in twenty.
        let mut encoder = zstd::Encoder::new(Vec::new(), PLAN_LEVEL).map_err(failed)?;
        serde_json::to_writer(&mut encoder, plan).map_err(|error| internal(&name, &error))?;
        let body = encoder.finish().map_err(failed)?;
        self.put_bytes(&name, &body, PutMode::Create)
    }

    pub(super) fn plan(&self, folder: &str) -> Result<Option<AttemptPlan>, BackupError> {
        let name = plan_name(folder);
        let Some(body) = self.get_bytes(&name)? else { return Ok(None) };
        let decoder = zstd::Decoder::new(&body[..]).map_err(|error| internal(&name, &error))?;
        let limited = std::io::Read::take(decoder, MAX_PLAN_BYTES as u64);
        serde_json::from_reader(std::io::BufReader::new(limited))
            .map(Some)
            .map_err(|error| internal(&name, &error))
    }
}

const _: () = assert!(MAX_RUN_OBJECT_BYTES >= 16 << 20);

/// What a run's object says can't be understood: it is of another version, or damaged.
fn internal(name: &str, error: &dyn std::fmt::Display) -> BackupError {
    BackupError::Internal(format!("the run's object {name}: {error}"))
}

pub(super) const SERVER: &str = "server.json";

pub(super) const LAST_BACKUP: &str = "last-backup.json";

pub(super) fn lane_name(lane: u32) -> String {
    format!("lane-{lane}.json")
}

pub(super) fn attempt_folder(oid: u32, attempt: u32) -> String {
    format!("database-{oid}/attempt-{attempt}")
}

pub(super) fn done_name(oid: u32) -> String {
    format!("database-{oid}/done.json")
}

pub(super) fn plan_name(folder: &str) -> String {
    format!("{folder}/plan.json.zst")
}

pub(super) fn lost_name(folder: &str) -> String {
    format!("{folder}/lost.json")
}

/// Where the first lane that a replica cancelled says so.
pub(super) fn conflict_name(folder: &str) -> String {
    format!("{folder}/conflict.json")
}

pub(super) fn item_prefix(folder: &str) -> String {
    format!("{folder}/item-")
}

pub(super) fn item_name(folder: &str, item: usize) -> String {
    format!("{folder}/item-{item:06}.json")
}

/// Items whose journals are listed by one prefix.
pub(super) const BLOCK: usize = 100;

/// The prefix of the journals of an item and its neighbours.
pub(super) fn block_prefix(folder: &str, item: usize) -> String {
    format!("{folder}/item-{:04}", item / BLOCK)
}

pub(super) fn known_name(folder: &str, lane: u32) -> String {
    format!("{folder}/known-{lane:03}.json")
}

/// The item of an object's name.
pub(super) fn item_of(name: &str) -> Option<usize> {
    name.rsplit_once("/item-")?.1.strip_suffix(".json")?.parse().ok()
}

pub(super) fn baton_prefix(folder: &str) -> String {
    format!("{folder}/baton-")
}

/// The holder in the name of a baton, whether it is held or left.
pub(super) fn holder_of(name: &str) -> Option<&str> {
    let (_, name) = name.rsplit_once('/')?;
    name.strip_prefix("baton-").or_else(|| name.strip_prefix("left-"))
}

/// The lane of a holder.
pub(super) fn lane_of(holder: &str) -> Option<u32> {
    holder.split('-').nth(1)?.parse().ok()
}

pub(super) fn left_prefix(folder: &str) -> String {
    format!("{folder}/left-")
}

/// Batons are looked at from the newest: what sorts last was written by the latest generation.
pub(super) fn baton_name(folder: &str, holder: &Holder) -> String {
    format!("{}{}", baton_prefix(folder), holder_name(holder))
}

pub(super) fn left_name(folder: &str, holder: &Holder) -> String {
    format!("{}{}", left_prefix(folder), holder_name(holder))
}

fn holder_name(holder: &Holder) -> String {
    let id: String =
        holder.baton.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    format!("{:06}-{:03}-{id}.json", holder.generation, holder.lane)
}
