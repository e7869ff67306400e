//! Runs: what changes while a backup is made. Nothing sealed depends on it.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupId, RunId, ServerName, Vault, VaultError, parse_record};
use crate::store::{Etag, ObjectMeta, PutMode, StoreError, StoreErrorKind};

/// The most that an object of a run can have, bytes.
pub const MAX_RUN_OBJECT_BYTES: u64 = 64 << 20;

/// How many objects are removed at once, besides one.
const REMOVERS: usize = 15;

/// The run's own record.
const RECORD: &str = "run.json";

/// The work towards one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub run: RunId,
    /// The server that it backs up.
    pub server: ServerName,
    /// What asked for it (see [`crate::manifest::Manifest::request`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Which try of the request it is, from 1.
    #[serde(default = "one")]
    pub attempt: u32,
    /// When it began.
    pub started: Timestamp,
    /// The machine that began it.
    pub host: String,
    /// The process there that began it.
    pub pid: u32,
    /// How far it is.
    pub state: RunState,
}

fn one() -> u32 {
    1
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RunState {
    /// At work, or dead without having said so.
    Running,
    /// Done: the backup is sealed.
    Sealed {
        /// The backup.
        backup: BackupId,
    },
    /// Given up.
    Failed {
        /// Why, for people, without secrets.
        reason: String,
    },
}

fn run_name(server: &ServerName, run: &RunId, name: &str) -> String {
    format!("runs/{server}/{run}/{name}")
}

impl Vault {
    /// Writes the record of a new run.
    pub fn open_run(&self, record: &RunRecord) -> Result<Etag, VaultError> {
        self.put_record(record, PutMode::Create)
    }

    /// Replaces the record of a run that has the version `etag`; fails with
    /// [`StoreErrorKind::Changed`] if somebody else has replaced it.
    pub fn update_run(&self, record: &RunRecord, etag: Etag) -> Result<Etag, VaultError> {
        self.put_record(record, PutMode::Update(etag))
    }

    /// Writes that a run is given up, unless it is not there or somebody else changed it.
    /// Whether it did.
    pub fn fail_run(
        &self,
        server: &ServerName,
        run: &RunId,
        reason: &str,
    ) -> Result<bool, VaultError> {
        self.end_run(server, run, RunState::Failed { reason: reason.to_owned() })
    }

    /// Writes that a run's backup is sealed, unless the run is not there or somebody else changed
    /// it. Whether it did. To be called before the run is removed: who still works on it shall not
    /// take objects that are gone for work that was not done.
    pub fn seal_run(
        &self,
        server: &ServerName,
        run: &RunId,
        backup: &BackupId,
    ) -> Result<bool, VaultError> {
        self.end_run(server, run, RunState::Sealed { backup: backup.clone() })
    }

    fn end_run(
        &self,
        server: &ServerName,
        run: &RunId,
        state: RunState,
    ) -> Result<bool, VaultError> {
        let name = run_name(server, run, RECORD);
        // The version first: what changes in between is then found changed.
        let Some(meta) = self.runs().head(&name)? else { return Ok(false) };
        let Some(mut record) = self.run(server, run)? else { return Ok(false) };
        if record.state != RunState::Running {
            return Ok(false);
        }
        record.state = state;
        match self.update_run(&record, meta.etag) {
            Ok(_) => Ok(true),
            Err(VaultError::Store(StoreError { kind: StoreErrorKind::Changed, .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put_record(&self, record: &RunRecord, mode: PutMode) -> Result<Etag, VaultError> {
        let body = serde_json::to_vec(record)
            .map_err(|error| VaultError::Compress { what: "a run", source: error.into() })?;
        self.put_run_object(&record.server, &record.run, RECORD, &body, mode)
    }

    /// The record of a run, `None` when there is none.
    pub fn run(&self, server: &ServerName, run: &RunId) -> Result<Option<RunRecord>, VaultError> {
        match self.get_run_object(server, run, RECORD) {
            Ok(body) => parse_record(&run_name(server, run, RECORD), &body).map(Some),
            Err(VaultError::Store(StoreError { kind: StoreErrorKind::NotFound, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Servers that have runs, in order.
    pub fn servers_with_runs(&self) -> Result<Vec<ServerName>, VaultError> {
        let mut servers: Vec<ServerName> = Vec::new();
        self.runs().list("runs/", &mut |meta| {
            let server = meta.name.split('/').nth(1).and_then(|name| name.parse().ok());
            if let Some(server) = server
                && servers.last() != Some(&server)
            {
                servers.push(server);
            }
        })?;
        servers.sort();
        servers.dedup();
        Ok(servers)
    }

    /// All runs of a server that have a record, oldest first.
    pub fn list_runs(&self, server: &ServerName) -> Result<Vec<RunRecord>, VaultError> {
        let ids = self.list_run_ids(server, |name| name.ends_with(RECORD))?;
        ids.iter().filter_map(|run| self.run(server, run).transpose()).collect()
    }

    fn list_run_ids(
        &self,
        server: &ServerName,
        counts: impl Fn(&str) -> bool,
    ) -> Result<Vec<RunId>, VaultError> {
        let mut ids: Vec<RunId> = Vec::new();
        self.runs().list(&format!("runs/{server}/"), &mut |meta| {
            let run = meta.name.split('/').nth(2).and_then(|run| run.parse().ok());
            if let Some(run) = run
                && counts(&meta.name)
                && ids.last() != Some(&run)
            {
                ids.push(run);
            }
        })?;
        Ok(ids)
    }

    /// Writes an object of a run; `name` may have folders.
    pub fn put_run_object(
        &self,
        server: &ServerName,
        run: &RunId,
        name: &str,
        body: &[u8],
        mode: PutMode,
    ) -> Result<Etag, VaultError> {
        let bytes = body.len() as u64;
        if bytes > MAX_RUN_OBJECT_BYTES {
            let what = "an object of a run";
            return Err(VaultError::TooLong { what, bytes, limit_bytes: MAX_RUN_OBJECT_BYTES });
        }
        Ok(self.runs().put(&run_name(server, run, name), body, mode)?)
    }

    /// Reads an object of a run.
    pub fn get_run_object(
        &self,
        server: &ServerName,
        run: &RunId,
        name: &str,
    ) -> Result<Vec<u8>, VaultError> {
        Ok(self.runs().get(&run_name(server, run, name), MAX_RUN_OBJECT_BYTES)?)
    }

    /// Whether a run has an object.
    pub fn has_run_object(
        &self,
        server: &ServerName,
        run: &RunId,
        name: &str,
    ) -> Result<bool, VaultError> {
        Ok(self.runs().head(&run_name(server, run, name))?.is_some())
    }

    /// Objects of a run whose name starts with `prefix`, in order; names as given to
    /// [`Vault::put_run_object`].
    pub fn list_run_objects(
        &self,
        server: &ServerName,
        run: &RunId,
        prefix: &str,
    ) -> Result<Vec<ObjectMeta>, VaultError> {
        let base = run_name(server, run, "");
        let mut objects = Vec::new();
        self.runs().list(&format!("{base}{prefix}"), &mut |mut meta| {
            meta.name.drain(..base.len());
            objects.push(meta);
        })?;
        Ok(objects)
    }

    /// Calls `each` with the name of every object of a run that starts with `prefix`, in order; names
    /// as given to [`Vault::put_run_object`].
    pub fn each_run_object(
        &self,
        server: &ServerName,
        run: &RunId,
        prefix: &str,
        mut each: impl FnMut(&str),
    ) -> Result<(), VaultError> {
        let base = run_name(server, run, "");
        self.runs().list(&format!("{base}{prefix}"), &mut |meta| each(&meta.name[base.len()..]))?;
        Ok(())
    }

    /// Removes an object of a run; removing what is not there succeeds.
    pub fn remove_run_object(
        &self,
        server: &ServerName,
        run: &RunId,
        name: &str,
    ) -> Result<(), VaultError> {
        Ok(self.runs().delete(&run_name(server, run, name))?)
    }

    /// Removes all runs of a server, and what is left of runs whose record is gone: a process that
    /// was stopped while its run ended may have written something afterwards. For whoever knows that
    /// none of them is at work.
    pub fn remove_runs(&self, server: &ServerName) -> Result<(), VaultError> {
        let all = self.list_run_ids(server, |_| true)?;
        all.iter().try_for_each(|run| self.remove_run(server, run))
    }

    /// Removes a run, its record after all else: what is interrupted is still listed. Then once more
    /// what was written meanwhile; who writes later finds the record gone. Removing what is not there
    /// succeeds. A run may have a hundred thousand objects, so several are removed at once.
    pub fn remove_run(&self, server: &ServerName, run: &RunId) -> Result<(), VaultError> {
        self.remove_run_objects(server, run)?;
        self.remove_run_object(server, run, RECORD)?;
        self.remove_run_objects(server, run)
    }

    /// Removes all of a run but its record.
    fn remove_run_objects(&self, server: &ServerName, run: &RunId) -> Result<(), VaultError> {
        let mut objects = self.list_run_objects(server, run, "")?;
        objects.retain(|object| object.name != RECORD);
        let next = AtomicUsize::new(0);
        let remove = || -> Result<(), VaultError> {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.remove_run_object(server, run, &object.name)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let count = REMOVERS.min(objects.len() / 16);
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(remove)).collect();
            let own = remove();
            threads.into_iter().fold(own, |result, thread| {
                // A panic there is one here.
                result.and(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    }
}
