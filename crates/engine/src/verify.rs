//! Whether a vault still has what its manifests name, byte for byte.
//!
//! # What is looked at
//! 1. Every manifest that is to be verified, and what lies where manifests lie.
//! 2. Its tables of contents, contents lists and globals, whole; and that list and table of
//!    contents agree.
//! 3. Every chunk that the lists name: whether it is there and how long it is.
//! 4. The content of all chunks, or of a sample: read, decompressed, hashed. A chunk whose length
//!    is not the one in a list is always read.
//!
//! An object that several backups name is looked at once. What is damaged is then looked for in all
//! backups of the vault, also in those that were not to be verified.
//!
//! # Memory
//! About 60 bytes for each distinct chunk of the verified backups, one contents list, and two
//! chunks a thread.

mod chunks;
mod error;
mod lists;
mod report;
mod users;

use std::collections::HashSet;

use flexkeep_vault::contents::EntryKind;
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{BackupId, ContentHash, Vault, VaultError};
use jiff::Timestamp;

use crate::progress::Progress;
pub use error::VerifyError;
pub use report::{
    DamagedPart, HurtBackup, HurtDatabase, ReportedDepth, UnreadableManifest, Unreferenced,
    VerifiedCounts, VerifyReport,
};

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// These backups; all of the vault when empty.
    pub backups: Vec<BackupId>,
    /// How much of the chunks' content is read.
    pub depth: Depth,
    /// Threads that list, read and hash.
    pub threads: usize,
}

/// How much of the chunks' content is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Depth {
    /// None: only whether chunks are there and how long they are.
    Sizes,
    /// The chunks that `seed` picks, this share of all. Another seed picks others, so that in time
    /// all are read.
    Sample {
        /// More than 0, at most 100.
        percent: f64,
        /// Any number.
        seed: u64,
    },
    /// All.
    All,
}

/// What the lists say of a chunk.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    kind: EntryKind,
    raw_bytes: u32,
    stored_bytes: u32,
}

/// What is known so far.
#[derive(Default)]
struct Findings {
    damaged: Vec<DamagedPart>,
    damaged_hashes: HashSet<ContentHash>,
    counts: VerifiedCounts,
}

/// Damaged objects that a report names one by one; all of them count.
const MOST_NAMED: usize = 1000;

impl Findings {
    fn damage(&mut self, hash: ContentHash, object: String, problem: String) {
        if self.damaged_hashes.insert(hash) {
            self.counts.damaged += 1;
            if self.damaged.len() < MOST_NAMED {
                self.damaged.push(DamagedPart { object, problem });
            }
        }
    }
}

/// Verifies backups of `vault`. Damage is a result, in the report; an error says that the vault
/// could not be looked at to the end.
pub fn verify(
    vault: &Vault,
    options: &VerifyOptions,
    progress: &Progress,
) -> Result<VerifyReport, VerifyError> {
    let started = Timestamp::now();
    progress.phase("manifests");
    let read = manifests(vault, &options.backups, progress)?;
    let mut findings = Findings::default();
    findings.counts.backups = read.wanted.len() as u64;
    progress.phase("tables of contents");
    let (chunks, inconsistent) = lists::read(vault, &read.wanted, &mut findings, progress)?;
    findings.counts.chunks = chunks.len() as u64;
    progress.phase("looking for the chunks");
    let all = options.backups.is_empty() && read.unreadable.is_empty();
    let present = chunks::look(vault, chunks, options.threads, &mut findings, progress)?;
    progress.phase("reading chunks");
    chunks::read(vault, &present.chunks, options, &mut findings, progress)?;
    progress.phase("who is hurt");
    let mut hurt = users::find(vault, &read, &findings.damaged_hashes, progress)?;
    users::add_inconsistent(&mut hurt, inconsistent);
    Ok(VerifyReport {
        vault: vault.location(),
        started,
        finished: Timestamp::now(),
        depth: options.depth.into(),
        counts: findings.counts,
        damaged: findings.damaged,
        unreadable: read.unreadable,
        hurt,
        unreferenced: all.then_some(present.unreferenced),
    })
}

/// The manifests of a vault.
struct Read {
    /// Those that are to be verified.
    wanted: Vec<(BackupId, Manifest)>,
    /// The ids of the others.
    others: Vec<BackupId>,
    unreadable: Vec<UnreadableManifest>,
}

fn manifests(vault: &Vault, only: &[BackupId], progress: &Progress) -> Result<Read, VerifyError> {
    let mut read = Read { wanted: Vec::new(), others: Vec::new(), unreadable: Vec::new() };
    let mut failure = None;
    vault.all_manifests(|one| match one {
        Ok((id, manifest)) if only.is_empty() || only.contains(&id) => {
            read.wanted.push((id, manifest));
        }
        Ok((id, _)) => read.others.push(id),
        Err(error) => match lists::told(vault, &error) {
            Some((object, problem)) => read.unreadable.push(UnreadableManifest { object, problem }),
            None => failure = failure.take().or(Some(error)),
        },
    })?;
    progress.check_cancelled(VerifyError::Cancelled)?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    if read.wanted.is_empty() && read.unreadable.is_empty() {
        return Err(VerifyError::NothingToVerify { place: vault.location() });
    }
    Ok(read)
}

impl From<VaultError> for VerifyError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use flexkeep_vault::ContentsWriter;
    use flexkeep_vault::manifest::{DatabaseSummary, MANIFEST_FORMAT, Manifest, Source, Totals};
    use flexkeep_vault::store::{
        Etag, MemoryStore, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind,
    };

    use super::*;

    /// Memory that lets objects be read or not, as a folder does with files of another user.
    #[derive(Debug, Default)]
    struct Guarded {
        inner: MemoryStore,
        /// Beginnings of names that cannot be read.
        denied: Mutex<Vec<String>>,
    }

    impl Store for Guarded {
        fn put(&self, name: &str, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
            self.inner.put(name, body, mode)
        }

        fn get(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
            if self.denied.lock().unwrap().iter().any(|denied| name.starts_with(denied.as_str())) {
                return Err(StoreError {
                    operation: "read",
                    object: name.to_owned(),
                    location: self.location(),
                    kind: StoreErrorKind::PermissionDenied,
                    source: None,
                });
            }
            self.inner.get(name, limit_bytes)
        }

        fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
            self.inner.head(name)
        }

        fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectMeta)) -> Result<(), StoreError> {
            self.inner.list(prefix, each)
        }

        fn delete(&self, name: &str) -> Result<(), StoreError> {
            self.inner.delete(name)
        }

        fn location(&self) -> String {
            self.inner.location()
        }
    }

    fn seal(vault: &Vault, server: &str) -> Manifest {
        let started: Timestamp = "2026-11-22T22:53:00Z".parse().unwrap();
        let contents = ContentsWriter::new().unwrap();
        let database = DatabaseSummary {
            name: "shop".to_owned(),
            oid: 5,
            encoding: "UTF8".to_owned(),
            snapshot_time: started,
            attempts: 1,
            toc: vault.put_meta(server.as_bytes()).unwrap(),
            contents: contents.finish(vault).unwrap(),
            extensions: Vec::new(),
            totals: Totals::default(),
            holders: Vec::new(),
        };
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            vault: vault.id().to_owned(),
            backup: BackupId::new(server.parse().unwrap(), started).to_string(),
            server: server.to_owned(),
            tool: "flexkeep test".to_owned(),
            request: None,
            started,
            sealed: started,
            source: Source::default(),
            globals: None,
            databases: vec![database],
            losses: Vec::new(),
            notes: Vec::new(),
            totals: Totals::default(),
        };
        vault.seal(&manifest).unwrap();
        manifest
    }

    #[test]
    fn what_cannot_be_read_is_damage_unless_nothing_can() {
        let store = Arc::new(Guarded::default());
        let vault = Vault::create_in(store.clone(), store.clone()).unwrap();
        let [first, _second] = ["first", "second"].map(|server| seal(&vault, server));
        let options = VerifyOptions { backups: Vec::new(), depth: Depth::All, threads: 1 };
        let verify = |denied: &str| {
            *store.denied.lock().unwrap() = vec![denied.to_owned()];
            verify(&vault, &options, &Progress::default())
        };
        let toc = flexkeep_vault::meta_name(&first.databases[0].toc.hash);
        let report = verify(&toc).unwrap();
        assert_eq!(report.damaged[0].object, toc, "{report:?}");
        assert!(report.damaged[0].problem.contains("permission denied"), "{report:?}");
        assert!(report.hurt.iter().any(|hurt| hurt.backup == first.backup), "{report:?}");
        // The list is both backups'.
        let contents = flexkeep_vault::meta_name(&first.databases[0].contents.hash);
        let report = verify(&contents).unwrap();
        assert_eq!((&report.damaged[0].object, report.hurt.len()), (&contents, 2), "{report:?}");
        let report = verify("backups/first/").unwrap();
        assert!(report.unreadable[0].object.contains(&first.backup), "{report:?}");
        assert_eq!(report.counts.backups, 1);

        let error = verify("").unwrap_err();
        assert!(matches!(error, VerifyError::Vault(VaultError::Store(_))), "{error}");
    }
}
