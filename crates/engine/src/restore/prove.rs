//! Reads and checks all chunks that a restore needs, before it changes anything.

use flexkeep_vault::contents::{ChunkRef, Entry as Data};
use flexkeep_vault::{ChunkBuffer, Vault, chunk_name};

use super::choose::Item;
use super::error::RestoreError;
use super::report::DatabaseAction;
use crate::entries::entry_name;
use crate::export::pipeline::in_order;
use crate::export::{Damage, MOST_DAMAGED};
use crate::progress::Progress;

struct Job<'a> {
    data: &'a Data,
    chunk: &'a ChunkRef,
}

/// Checks the chunks of all items.
pub(super) fn all(
    vault: &Vault,
    items: &[Item<'_>],
    threads: usize,
    progress: &Progress,
) -> Result<(), RestoreError> {
    let mut damage = Damage::default();
    for item in items.iter().filter(|item| item.action != DatabaseAction::Finished) {
        let name = &item.parts.summary.name;
        let entries = item.parts.entries().iter().zip(&item.selection.roles);
        let wanted = entries.filter(|(_, role)| role.is_some());
        let jobs: Vec<Job<'_>> = wanted
            .filter_map(|(entry, _)| item.parts.data_of(entry))
            .flat_map(|data| data.chunks.iter().map(move |chunk| Job { data, chunk }))
            .collect();
        let work = |buffer: &mut ChunkBuffer, job: &Job<'_>| {
            vault.get_chunk(job.data.kind, job.chunk, buffer)
        };
        in_order(&jobs, threads, threads * 2, ChunkBuffer::new, work, |job, outcome| {
            if progress.is_cancelled() {
                return Err(RestoreError::Cancelled { report: None });
            }
            progress.read_some(u64::from(job.chunk.raw_bytes));
            match outcome {
                Err(error) if error.is_damage() && damage.count_of(name) >= MOST_DAMAGED => {
                    damage.more = true;
                }
                Err(error) if error.is_damage() => {
                    let hash = job.chunk.hash;
                    damage.add(hash, chunk_name(&hash), &error, Some(name), entry_name(job.data));
                }
                other => other?,
            }
            Ok(())
        })?;
    }
    if damage.objects.is_empty() {
        return Ok(());
    }
    Err(RestoreError::Damaged { objects: damage.objects, more: damage.more })
}
