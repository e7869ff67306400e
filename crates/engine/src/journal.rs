//! What a run has done so far, in the vault's run storage.
//!
//! One object an item, written when the last chunk that the item had to store is stored.

use std::sync::{Arc, Mutex, PoisonError};

use flexkeep_vault::contents::ChunkRef;
use flexkeep_vault::store::PutMode;
use flexkeep_vault::{RunId, ServerName, Vault, VaultError};
use serde::Serialize;

/// One slice, done.
#[derive(Clone, Debug, Serialize)]
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

/// The journal of one item. Every chunk on its way holds one reference, the lane another; who
/// lets go last writes.
#[derive(Debug)]
pub(crate) struct ItemJournal {
    place: JournalPlace,
    item: usize,
    done: Mutex<Option<Vec<SliceDone>>>,
}

impl ItemJournal {
    pub(crate) fn open(place: JournalPlace, item: usize) -> Arc<Self> {
        Arc::new(Self { place, item, done: Mutex::new(None) })
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
        let Some(done) = last.done.into_inner().unwrap_or_else(PoisonError::into_inner) else {
            return Ok(());
        };
        let text = serde_json::to_vec(&done).expect("numbers and hashes are always JSON");
        let name = format!("{}/item-{:06}.json", last.place.folder, last.item);
        vault.put_run_object(&last.place.server, &last.place.run, &name, &text, PutMode::Create)?;
        Ok(())
    }
}
