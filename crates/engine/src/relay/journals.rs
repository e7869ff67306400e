//! Reading the journal of a snapshot: a hundred thousand objects, of which few are held in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use flexkeep_vault::RunState;
use flexkeep_vault::manifest::{ObjectRef, Totals};
use serde::de::DeserializeOwned;

use super::state::{self, AttemptPlan, ItemDone, RunObjects};
use crate::dump;
use crate::error::BackupError;
use crate::journal::SliceDone;

/// Objects that are read at once.
const READERS: usize = 16;

/// Items whose journals are read ahead.
const AHEAD: usize = 256;

/// What a snapshot's journal comes to.
#[derive(Debug)]
pub(super) struct Journaled {
    pub(super) contents: ObjectRef,
    pub(super) totals: Totals,
}

/// Makes the contents list of a snapshot all of whose items are done.
pub(super) fn write_contents(
    objects: &RunObjects,
    folder: &str,
    plan: &AttemptPlan,
) -> Result<Journaled, BackupError> {
    let mut journal = Journal::of(objects, folder, plan);
    let (contents, mut totals) =
        dump::write_contents(&objects.vault, &plan.entries, |entry, slice| {
            journal.take(entry, slice)
        })?;
    if let Some(&(entry, slice)) = journal.read.keys().next() {
        return Err(extra_slice(plan, entry, slice));
    }
    totals.new_chunks = journal.new_chunks;
    totals.new_stored_bytes = journal.new_bytes;
    Ok(Journaled { contents, totals })
}

fn extra_slice(plan: &AttemptPlan, entry: usize, slice: u64) -> BackupError {
    match plan.entries.get(entry) {
        Some(entry) => dump::missing_slice(entry, slice),
        None => BackupError::Internal(format!("slice {slice} of an unknown entry {entry}")),
    }
}

/// Chunks and bytes that a snapshot that was given up has left in the vault.
pub(super) fn uploaded(objects: &RunObjects, folder: &str) -> Result<(u64, u64), BackupError> {
    let names = objects.names(&state::item_prefix(folder))?;
    let mut sum = (0, 0);
    for some in names.chunks(AHEAD) {
        for item in get_all::<ItemDone>(objects, some)?.into_iter().flatten() {
            sum = (sum.0 + item.new_chunks, sum.1 + item.new_bytes);
        }
    }
    Ok(sum)
}

/// The journal, in the order of the table of contents, which is not that of the items: what was
/// read of an item and is not wanted yet is kept until it is. Slices of a large table fill items
/// of their own, so what is kept is of small ones.
struct Journal<'a> {
    objects: &'a RunObjects,
    folder: &'a str,
    plan: &'a AttemptPlan,
    /// By entry: the items that it is in. They follow each other.
    items: Vec<Range<usize>>,
    /// The entry up to which items were read, and the next one of its items.
    next: (usize, usize),
    done: Vec<bool>,
    read: HashMap<(usize, u64), SliceDone>,
    new_chunks: u64,
    new_bytes: u64,
}

impl<'a> Journal<'a> {
    fn of(objects: &'a RunObjects, folder: &'a str, plan: &'a AttemptPlan) -> Self {
        let mut items = vec![0..0; plan.entries.len()];
        for (id, item) in plan.items.iter().enumerate() {
            for part in &item.parts {
                let range = &mut items[part.entry];
                *range = if range.end == 0 { id..id + 1 } else { range.start..id + 1 };
            }
        }
        let start = items.first().map_or(0, |items| items.start);
        Self {
            objects,
            folder,
            plan,
            items,
            next: (0, start),
            done: vec![false; plan.items.len()],
            read: HashMap::new(),
            new_chunks: 0,
            new_bytes: 0,
        }
    }

    fn take(&mut self, entry: usize, slice: u64) -> Result<SliceDone, BackupError> {
        loop {
            if let Some(found) = self.read.remove(&(entry, slice)) {
                return Ok(found);
            }
            if self.next.0 > entry || !self.read_ahead()? {
                return Err(dump::missing_slice(&self.plan.entries[entry], slice));
            }
        }
    }

    /// Reads the items that are wanted next; `false` when all were read.
    fn read_ahead(&mut self) -> Result<bool, BackupError> {
        let mut ids = Vec::with_capacity(AHEAD);
        while ids.len() < AHEAD && self.next.0 < self.items.len() {
            let (entry, item) = self.next;
            if !self.items[entry].contains(&item) {
                let start = self.items.get(entry + 1).map_or(0, |items| items.start);
                self.next = (entry + 1, start);
                continue;
            }
            if !std::mem::replace(&mut self.done[item], true) {
                ids.push(item);
            }
            self.next.1 += 1;
        }
        let names: Vec<String> = ids.iter().map(|&id| state::item_name(self.folder, id)).collect();
        let items = get_all::<ItemDone>(self.objects, &names)?;
        for (name, item) in names.iter().zip(items) {
            let Some(item) = item else { return Err(self.is_missing(name)) };
            self.new_chunks += item.new_chunks;
            self.new_bytes += item.new_bytes;
            for mut slice in item.slices {
                let key = (slice.entry, slice.slice);
                slice.chunks.shrink_to_fit();
                if self.read.insert(key, slice).is_some() {
                    return Err(extra_slice(self.plan, key.0, key.1));
                }
            }
        }
        Ok(!ids.is_empty())
    }

    /// Somebody who sealed has removed the run; or it was never there.
    fn is_missing(&self, name: &str) -> BackupError {
        match self.objects.state() {
            Ok(Some(RunState::Running)) => {
                BackupError::Internal(format!("{name} was listed and is not there"))
            }
            Ok(_) => BackupError::RunOver,
            Err(error) => error,
        }
    }
}

/// Reads several objects at once, `None` for those that are not there.
pub(super) fn get_all<T: DeserializeOwned + Send>(
    objects: &RunObjects,
    names: &[String],
) -> Result<Vec<Option<T>>, BackupError> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::from_iter(names.iter().map(|_| None)));
    let read = || -> Result<(), BackupError> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(index) else { return Ok(()) };
            let object = objects.get(name)?;
            found.lock().unwrap_or_else(PoisonError::into_inner)[index] = object;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS.min(names.len())).map(|_| scope.spawn(read)).collect();
        let died = || BackupError::Internal("a thread for the journal died".to_owned());
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| died())?)
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}
