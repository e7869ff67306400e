//! What a run has done so far, in the vault's run storage.
//!
//! One object an item, written when the last chunk that the item had to store is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flexkeep_vault::contents::ChunkRef;
use flexkeep_vault::store::PutMode;
use flexkeep_vault::{ContentHash, RunId, ServerName, Vault, VaultError};
use serde::{Deserialize, Serialize};

/// One slice, done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SliceDone {
    /// Index of the entry in the plan.
    pub(crate) entry: usize,
    /// Index of the slice in the entry.
    pub(crate) slice: u64,
    /// Rows, or large objects.
    pub(crate) rows: u64,
    /// The slice's chunks.
    pub(crate) chunks: Vec<ChunkRef>,
}

/// Where a run's journal goes.
#[derive(Clone, Debug)]
pub(crate) struct JournalPlace {
    pub(crate) server: ServerName,
    pub(crate) run: RunId,
    /// Folder of one attempt at one database.
    pub(crate) folder: String,
}

/// What became of an item's chunks on their way into the vault.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Chunks that were stored, and their bytes.
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
    /// The lengths of chunks that were not known to be in the vault.
    lengths: HashMap<ContentHash, u32>,
}

impl Tally {
    /// Completes the chunks of what was done, all of which are in the vault by now.
    pub(crate) fn complete(&self, done: &mut [SliceDone]) {
        for chunk in done.iter_mut().flat_map(|slice| &mut slice.chunks) {
            if let Some(&length) = self.lengths.get(&chunk.hash) {
                chunk.stored_bytes = length;
            }
        }
    }
}

/// The journal of one item. Every chunk on its way holds one reference, the lane another; who
/// lets go last writes, unless the lane writes it itself.
#[derive(Debug)]
pub(crate) struct ItemJournal {
    /// `None` where the lane writes.
    place: Option<JournalPlace>,
    item: usize,
    done: Mutex<Option<Vec<SliceDone>>>,
    tally: Mutex<Tally>,
}

impl ItemJournal {
    pub(crate) fn open(place: Option<JournalPlace>, item: usize) -> Arc<Self> {
        Arc::new(Self { place, item, done: Mutex::new(None), tally: Mutex::default() })
    }

    /// Says that the lane is done with the item; what it did is written as soon as the last chunk
    /// is stored.
    pub(crate) fn complete(
        this: Arc<Self>,
        done: Vec<SliceDone>,
        vault: &Vault,
    ) -> Result<(), VaultError> {
        *this.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Self::release(this, vault)
    }

    /// Lets go of one reference.
    pub(crate) fn release(this: Arc<Self>, vault: &Vault) -> Result<(), VaultError> {
        let Some(last) = Arc::into_inner(this) else { return Ok(()) };
        let Some(place) = last.place else { return Ok(()) };
        let Some(mut done) = last.done.into_inner().unwrap_or_else(PoisonError::into_inner) else {
            return Ok(());
        };
        last.tally.into_inner().unwrap_or_else(PoisonError::into_inner).complete(&mut done);
        let text = serde_json::to_vec(&done).expect("numbers and hashes are always JSON");
        let name = format!("{}/item-{:06}.json", place.folder, last.item);
        vault.put_run_object(&place.server, &place.run, &name, &text, PutMode::Create)?;
        Ok(())
    }

    /// Counts a chunk that was stored.
    pub(crate) fn stored(&self, bytes: u64) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.new_chunks += 1;
        tally.new_bytes += bytes;
    }

    /// Notes the length of a chunk that is in the vault now.
    pub(crate) fn length_is(&self, hash: ContentHash, bytes: u32) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).lengths.insert(hash, bytes);
    }

    /// What became of the chunks so far.
    pub(crate) fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
