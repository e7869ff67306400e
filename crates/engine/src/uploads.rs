//! Writes chunks behind the lanes' backs, within a bound on memory.
//!
//! A lane that waited for every fsync or every answer of a far store would leave the server
//! waiting too. It hands its chunk over instead and reads on. What is on its way is bounded in
//! bytes; a lane that is too far ahead waits. The first failure stops everything: nothing after it
//! is worth uploading, because the backup will not be sealed.
//!
//! What is written is made durable twice a second while the lanes read on, so that sealing need not
//! wait for all of it at its end, and a folder's file system does not gather a gigabyte of changes
//! (docs/performance.md has what that costs).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flexkeep_vault::store::{StoreError, StoreErrorKind};
use flexkeep_vault::{ContentHash, Put, Vault, VaultError};

use crate::error::chain;
use crate::journal::ItemJournal;
use crate::progress::Progress;

/// How often what was written is made durable.
const SYNC_EVERY: Duration = Duration::from_millis(500);

/// One chunk on its way into the vault.
struct Job {
    hash: ContentHash,
    object: Vec<u8>,
    /// The vault holds a damaged object of this name.
    replace: bool,
    journal: Arc<ItemJournal>,
    /// Its place in the order in which chunks were handed over.
    number: u64,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// How many were handed over so far, and which of them are not written yet.
    submitted: u64,
    unwritten: BTreeSet<u64>,
    /// Bytes of jobs that wait or are being written.
    bytes: usize,
    jobs: usize,
    failure: Option<VaultError>,
    /// There was a failure, whether or not somebody has taken it since.
    failed: bool,
    closed: bool,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    /// Chunks that somebody else stored first, with another length: another writer may use
    /// another level.
    lengths: HashMap<ContentHash, u64>,
    new_chunks: u64,
    new_bytes: u64,
}

struct Shared {
    vault: Arc<Vault>,
    progress: Arc<Progress>,
    limit_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Chunks that were written so far.
    written: AtomicU64,
}

/// The threads that write chunks. All lanes of a backup share one.
pub(crate) struct Uploads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped to end the thread that syncs.
    end_of_syncs: Option<Sender<()>>,
}

/// What was uploaded.
#[derive(Debug)]
pub(crate) struct Uploaded {
    pub(crate) lengths: HashMap<ContentHash, u64>,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
}

impl Uploads {
    pub(crate) fn start(
        vault: Arc<Vault>,
        progress: Arc<Progress>,
        threads: usize,
        limit_bytes: usize,
    ) -> Self {
        let shared = Arc::new(Shared {
            vault,
            progress,
            limit_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
            written: AtomicU64::new(0),
        });
        let mut threads: Vec<_> = (0..threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work())
            })
            .collect();
        let (end_of_syncs, ended) = mpsc::channel();
        let syncing = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || syncing.sync_until(&ended)));
        Self { shared, threads, end_of_syncs: Some(end_of_syncs) }
    }

    /// An empty buffer for the next chunk.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.shared.lock().spare.pop().unwrap_or_default()
    }

    /// Hands a chunk over; waits while too much is on its way.
    ///
    /// # Errors
    /// Says only that an earlier upload failed; [`Uploads::drain`] tells why.
    pub(crate) fn submit(
        &self,
        hash: ContentHash,
        object: Vec<u8>,
        replace: bool,
        journal: &Arc<ItemJournal>,
    ) -> Result<(), UploadFailed> {
        let shared = &self.shared;
        let mut state = shared.lock();
        while state.failure.is_none()
            && state.jobs > 0
            && state.bytes + object.len() > shared.limit_bytes
        {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failure.is_some() {
            return Err(UploadFailed);
        }
        state.bytes += object.len();
        state.jobs += 1;
        let number = state.submitted;
        state.submitted += 1;
        state.unwritten.insert(number);
        state.waiting.push_back(Job {
            hash,
            object,
            replace,
            journal: Arc::clone(journal),
            number,
        });
        drop(state);
        shared.changed.notify_all();
        Ok(())
    }

    /// A mark behind everything that was handed over so far.
    pub(crate) fn mark(&self) -> u64 {
        self.shared.lock().submitted
    }

    /// Whether everything before `mark` is written.
    pub(crate) fn has_passed(&self, mark: u64) -> bool {
        self.shared.lock().unwritten.first().is_none_or(|&first| first >= mark)
    }

    /// Waits until something more is written or `limit` has passed; an upload that has failed
    /// stays failed.
    pub(crate) fn wait_for_some(&self, limit: Duration) -> Result<(), UploadFailed> {
        let state = self.shared.lock();
        let state = if state.failure.is_none() && state.jobs > 0 {
            let waited = self.shared.changed.wait_timeout(state, limit);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            state
        };
        if state.failed { Err(UploadFailed) } else { Ok(()) }
    }

    /// Whether an upload has failed: what was handed over may never be written.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.lock().failed
    }

    /// Waits until all that was handed over is written.
    pub(crate) fn drain(&self) -> Result<(), VaultError> {
        let mut state = self.shared.lock();
        while state.jobs > 0 && state.failure.is_none() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    /// What was uploaded since the last call.
    pub(crate) fn take_uploaded(&self) -> Uploaded {
        let mut state = self.shared.lock();
        Uploaded {
            // Not taken: a later database may have the same chunk.
            lengths: state.lengths.clone(),
            new_chunks: std::mem::take(&mut state.new_chunks),
            new_bytes: std::mem::take(&mut state.new_bytes),
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.end_of_syncs = None;
        let mut state = self.shared.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of a writer was reported when it happened; its job never counted as done.
            let _ = thread.join();
        }
    }
}

/// An earlier upload failed.
#[derive(Debug, thiserror::Error)]
#[error("an earlier upload failed")]
pub(crate) struct UploadFailed;

/// Says that a chunk is not written when the thread that writes it panics: others wait for it.
struct Unfinished<'s> {
    shared: &'s Shared,
    object: String,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut state = self.shared.lock();
        state.failed = true;
        state.failure.get_or_insert_with(|| {
            VaultError::Store(StoreError {
                operation: "write",
                object: std::mem::take(&mut self.object),
                location: self.shared.vault.location(),
                kind: StoreErrorKind::Other,
                source: Some("the thread that writes chunks panicked".into()),
            })
        });
        state.waiting.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what was written durable now and then. Not what the seal relies on: it syncs itself.
    fn sync_until(&self, ended: &Receiver<()>) {
        let mut synced = 0;
        while ended.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
            let written = self.written.load(Ordering::Relaxed);
            if written == synced {
                continue;
            }
            synced = written;
            if let Err(error) = self.vault.data().sync() {
                // The store remembers it, and so the seal fails.
                tracing::warn!("cannot sync the vault: {}", chain(&error));
            }
        }
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let job = loop {
                if let Some(job) = state.waiting.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            self.write(job);
            self.written.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_all();
        }
    }

    fn write(&self, job: Job) {
        let _unfinished = Unfinished { shared: self, object: job.hash.to_string() };
        let Job { hash, mut object, replace, journal, number } = job;
        let bytes = object.len();
        let put = if replace {
            self.vault.replace_chunk(&hash, &object).map(|()| None)
        } else {
            self.vault.put_chunk(&hash, &object).map(|put| match put {
                Put::Stored => None,
                Put::AlreadyThere { stored_bytes } => Some(stored_bytes),
            })
        };
        match &put {
            Ok(None) => journal.stored(bytes as u64),
            Ok(Some(length)) => journal.found(hash, *length),
            Err(_) => {}
        }
        let put = put.and_then(|other| ItemJournal::release(journal, &self.vault).map(|()| other));
        let mut state = self.lock();
        state.bytes -= bytes;
        state.jobs -= 1;
        if put.is_ok() {
            state.unwritten.remove(&number);
        }
        match put {
            Ok(None) => {
                state.new_chunks += 1;
                state.new_bytes += bytes as u64;
                self.progress.stored(bytes as u64);
            }
            Ok(Some(length)) => {
                state.lengths.insert(hash, length);
            }
            Err(error) => {
                state.failed = true;
                state.failure.get_or_insert(error);
                state.waiting.clear();
            }
        }
        object.clear();
        // Small ones are cheap to make again, and huge ones should not stay.
        if state.spare.len() < 8 && object.capacity() <= 16 << 20 {
            state.spare.push(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::store::MemoryStore;

    use super::*;

    #[test]
    fn a_writer_that_panics_is_a_failure_and_nobody_waits_for_it() {
        let (data, runs) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let vault = Arc::new(Vault::create_in(data, runs).unwrap());
        let uploads = Uploads::start(vault, Arc::default(), 1, 1 << 20);
        uploads.shared.lock().jobs = 1;
        let shared = Arc::clone(&uploads.shared);
        let writer = std::thread::spawn(move || {
            let _unfinished = Unfinished { shared: &shared, object: "chunks/x".to_owned() };
            panic!("as a store with a defect might");
        });
        assert!(writer.join().is_err());
        let error = uploads.drain().unwrap_err();
        assert!(chain(&error).contains("panicked"), "{error}");
        assert!(uploads.has_failed());
    }
}
