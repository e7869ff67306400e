//! Compresses and writes chunks behind the lanes' backs, within a bound on memory.
//!
//! A lane that compressed its chunks itself would leave the server waiting, whose socket takes a fifth
//! of a chunk; one that waited for every answer of a far store would all the more. It hands its chunk
//! over instead and reads on. What is on its way is bounded in bytes; a lane that is too far ahead
//! waits. The first failure stops everything: nothing after it is worth uploading, because the backup
//! will not be sealed.
//!
//! What is written is made durable twice a second while the lanes read on, so that sealing need not
//! wait for all of it at its end, and a folder's file system does not gather a gigabyte of changes
//! (docs/performance.md has what that costs).

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flexkeep_vault::contents::EntryKind;
use flexkeep_vault::{ChunkBuffer, ChunkEncoder, ContentHash, EncodeError, Found, Put, Vault};

use crate::chunker::KnownChunks;
use crate::error::{BackupError, chain};
use crate::journal::ItemJournal;
use crate::progress::Progress;

/// How often what was written is made durable.
const SYNC_EVERY: Duration = Duration::from_millis(500);

/// A chunk that is not known to be in the vault.
pub(crate) struct NewChunk {
    pub(crate) kind: EntryKind,
    pub(crate) hash: ContentHash,
    pub(crate) raw: Vec<u8>,
}

/// One chunk on its way into the vault.
struct Job {
    chunk: NewChunk,
    journal: Arc<ItemJournal>,
    /// Its place in the order in which chunks were handed over.
    number: u64,
}

/// What became of one.
enum Stored {
    New(u64),
    /// Somebody else's object has this length.
    Found(u64),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// How many were handed over so far, and which of them are not written yet.
    submitted: u64,
    unwritten: BTreeSet<u64>,
    /// Raw bytes of jobs that wait or are being written.
    bytes: usize,
    jobs: usize,
    failure: Option<BackupError>,
    /// There was a failure, whether or not somebody has taken it since.
    failed: bool,
    closed: bool,
    /// Buffers to be used again, and their bytes.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    new_chunks: u64,
    new_bytes: u64,
}

struct Shared {
    vault: Arc<Vault>,
    known: Arc<KnownChunks>,
    progress: Arc<Progress>,
    limit_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Chunks that were written so far.
    written: AtomicU64,
}

/// The threads that compress and write chunks. All lanes of a backup share one.
pub(crate) struct Uploads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped to end the thread that syncs.
    end_of_syncs: Option<Sender<()>>,
}

/// What was uploaded.
#[derive(Debug)]
pub(crate) struct Uploaded {
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
}

impl Uploads {
    /// Starts so many threads. `limit_bytes` bounds the raw bytes that are on their way.
    pub(crate) fn start(
        vault: Arc<Vault>,
        known: Arc<KnownChunks>,
        progress: Arc<Progress>,
        level: i32,
        threads: usize,
        limit_bytes: usize,
    ) -> Result<Self, BackupError> {
        let encoders: Result<Vec<ChunkEncoder>, EncodeError> =
            (0..threads.max(1)).map(|_| ChunkEncoder::new(level)).collect();
        let encoders = encoders
            .map_err(|error| BackupError::Internal(format!("starting to compress: {error}")))?;
        let shared = Arc::new(Shared {
            vault,
            known,
            progress,
            limit_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
            written: AtomicU64::new(0),
        });
        let mut threads: Vec<_> = encoders
            .into_iter()
            .map(|encoder| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work(encoder))
            })
            .collect();
        let (end_of_syncs, ended) = mpsc::channel();
        let syncing = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || syncing.sync_until(&ended)));
        Ok(Self { shared, threads, end_of_syncs: Some(end_of_syncs) })
    }

    /// An empty buffer for the next chunk.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let mut state = self.shared.lock();
        let buffer = state.spare.pop().unwrap_or_default();
        state.spare_bytes -= buffer.capacity();
        buffer
    }

    /// Hands a chunk over; waits while too much is on its way. Its length in the vault is told to
    /// the journal, and to those that know chunks.
    ///
    /// # Errors
    /// Says only that an earlier upload failed; [`Uploads::drain`] tells why.
    pub(crate) fn submit(
        &self,
        chunk: NewChunk,
        journal: &Arc<ItemJournal>,
    ) -> Result<(), UploadFailed> {
        let shared = &self.shared;
        let mut state = shared.lock();
        while state.failure.is_none()
            && state.jobs > 0
            && state.bytes + chunk.raw.len() > shared.limit_bytes
        {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failure.is_some() {
            return Err(UploadFailed);
        }
        state.bytes += chunk.raw.len();
        state.jobs += 1;
        let number = state.submitted;
        state.submitted += 1;
        state.unwritten.insert(number);
        state.waiting.push_back(Job { chunk, journal: Arc::clone(journal), number });
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
    pub(crate) fn drain(&self) -> Result<(), BackupError> {
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
            let object = std::mem::take(&mut self.object);
            BackupError::Internal(format!("the thread that writes chunk {object} panicked"))
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

    fn work(&self, mut encoder: ChunkEncoder) {
        let mut reader = ChunkBuffer::new();
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
            self.write(job, &mut encoder, &mut reader);
            self.written.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_all();
        }
    }

    fn write(&self, job: Job, encoder: &mut ChunkEncoder, reader: &mut ChunkBuffer) {
        let Job { chunk, journal, number } = job;
        let _unfinished = Unfinished { shared: self, object: chunk.hash.to_string() };
        let stored = self.store(&chunk, encoder, reader, &journal).and_then(|stored| {
            ItemJournal::release(journal, &self.vault)?;
            Ok(stored)
        });
        let mut raw = chunk.raw;
        let mut state = self.lock();
        state.bytes -= raw.len();
        state.jobs -= 1;
        if stored.is_ok() {
            state.unwritten.remove(&number);
        }
        match stored {
            Ok(Stored::New(bytes)) => {
                state.new_chunks += 1;
                state.new_bytes += bytes;
                self.progress.stored(bytes);
            }
            Ok(Stored::Found(_)) => {}
            Err(error) => {
                state.failed = true;
                state.failure.get_or_insert(error);
                state.waiting.clear();
            }
        }
        raw.clear();
        // What is kept for later counts as if it were on its way.
        if state.bytes + state.spare_bytes + raw.capacity() <= self.limit_bytes {
            state.spare_bytes += raw.capacity();
            state.spare.push(raw);
        }
    }

    /// Puts a chunk into the vault, unless it is there.
    fn store(
        &self,
        chunk: &NewChunk,
        encoder: &mut ChunkEncoder,
        reader: &mut ChunkBuffer,
        journal: &ItemJournal,
    ) -> Result<Stored, BackupError> {
        let NewChunk { kind, hash, raw } = chunk;
        let raw_bytes = u32::try_from(raw.len()).map_err(|_| too_long(hash))?;
        // A run that broke off, or another server's backup, may have left it. No sealed backup of
        // this server vouches for it, so it is read before it is relied on.
        let found = self.vault.find_chunk(*kind, hash, raw_bytes, reader)?;
        let stored = if let Found::Good { stored_bytes } = found {
            Stored::Found(stored_bytes)
        } else {
            let encoded = match kind {
                EntryKind::Table => encoder.encode_table(raw),
                EntryKind::LargeObjects => encoder.encode_large_objects(raw),
            };
            let object =
                encoded.map_err(|error| BackupError::Internal(format!("chunk {hash}: {error}")))?;
            if found == Found::Damaged {
                let what = format!("chunk {hash} was damaged in the vault; replaced");
                self.progress.message(what);
                self.vault.replace_chunk(hash, object)?;
                Stored::New(object.len() as u64)
            } else {
                match self.vault.put_chunk(hash, object)? {
                    Put::Stored => Stored::New(object.len() as u64),
                    Put::AlreadyThere { stored_bytes } => Stored::Found(stored_bytes),
                }
            }
        };
        let (Stored::New(length) | Stored::Found(length)) = stored;
        if let Stored::New(bytes) = stored {
            journal.stored(bytes);
        }
        let length = u32::try_from(length).map_err(|_| too_long(hash))?;
        journal.length_is(*hash, length);
        self.known.insert(*hash, length);
        Ok(stored)
    }
}

fn too_long(hash: &ContentHash) -> BackupError {
    BackupError::Internal(format!("chunk {hash} is too long"))
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::store::MemoryStore;

    use super::*;

    #[test]
    fn a_writer_that_panics_is_a_failure_and_nobody_waits_for_it() {
        let (data, runs) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let vault = Arc::new(Vault::create_in(data, runs).unwrap());
        let known = Arc::new(KnownChunks::default());
        let uploads = Uploads::start(vault, known, Arc::default(), 1, 1, 1 << 20).unwrap();
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
