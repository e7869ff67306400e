//! Writes down what a lane has done, behind its back: an item counts once its chunks are stored
//! and durable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flexkeep_vault::store::PutMode;

use super::state::{self, ItemDone, RunObjects};
use crate::error::BackupError;
use crate::journal::{ItemJournal, SliceDone};
use crate::uploads::Uploads;

/// How often stored chunks are made durable, which is what items wait for.
const SYNC_EVERY: Duration = Duration::from_millis(500);

/// How often it looks for chunks that were stored.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An item that was read, and whose chunks are on their way.
pub(super) struct Read {
    pub(super) item: usize,
    /// The uploads before this one have to be done. Those of other items too: a chunk that two
    /// items share may be handed over once.
    pub(super) mark: u64,
    pub(super) journal: Arc<ItemJournal>,
    pub(super) slices: Vec<SliceDone>,
}

/// Items that are written down, and why no more will be.
#[derive(Default)]
pub(super) struct Written {
    items: Mutex<Vec<usize>>,
    hurry: AtomicBool,
    failure: Mutex<Option<BackupError>>,
}

impl Written {
    /// The items since the last call.
    pub(super) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for what is stored by now to be written down, without waiting for more to do it with.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// What went wrong, once.
    pub(super) fn failure(&self) -> Option<BackupError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: BackupError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Writes what comes in until nobody sends any more.
pub(super) fn work(
    objects: &RunObjects,
    folder: &str,
    uploads: &Uploads,
    reads: &Receiver<Read>,
    written: &Written,
) {
    let mut waiting: Vec<Read> = Vec::new();
    let mut synced = Instant::now();
    let mut open = true;
    while open || !waiting.is_empty() {
        if open {
            match reads.recv_timeout(LOOK_EVERY) {
                Ok(read) => waiting.push(read),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        } else if uploads.wait_for_some(LOOK_EVERY).is_err() {
            return written.fail(BackupError::UploadFailed);
        }
        let stored = waiting.iter().take_while(|read| uploads.has_passed(read.mark)).count();
        let is_soon_enough = synced.elapsed() < SYNC_EVERY
            && !(stored == waiting.len() && written.hurry.load(Ordering::Relaxed));
        if stored == 0 || (open && is_soon_enough) {
            if open && uploads.wait_for_some(Duration::ZERO).is_err() {
                return written.fail(BackupError::UploadFailed);
            }
            continue;
        }
        written.hurry.store(false, Ordering::Relaxed);
        synced = Instant::now();
        let ready: Vec<Read> = waiting.drain(..stored).collect();
        if let Err(error) = write(objects, folder, ready, written) {
            return written.fail(error);
        }
    }
}

fn write(
    objects: &RunObjects,
    folder: &str,
    ready: Vec<Read>,
    written: &Written,
) -> Result<(), BackupError> {
    objects.vault.data().sync().map_err(flexkeep_vault::VaultError::from)?;
    for mut read in ready {
        let tally = read.journal.take_tally();
        tally.complete(&mut read.slices);
        let mut chunks = read.slices.iter().flat_map(|slice| &slice.chunks);
        if let Some(chunk) = chunks.find(|chunk| chunk.stored_bytes == 0) {
            let what = format!("chunk {} is not in the vault", chunk.hash);
            return Err(BackupError::Internal(what));
        }
        let done = ItemDone {
            slices: read.slices,
            new_chunks: tally.new_chunks,
            new_bytes: tally.new_bytes,
        };
        // Who was thought dead may have written it already: the same rows of the same snapshot.
        objects.put(&state::item_name(folder, read.item), &done, PutMode::Create)?;
        written.items.lock().unwrap_or_else(PoisonError::into_inner).push(read.item);
    }
    Ok(())
}
