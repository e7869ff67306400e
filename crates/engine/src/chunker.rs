//! Rows into chunks: where they are cut, hashed, looked up, compressed and sent off.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use flexkeep_pg_copy::CopySink;
use flexkeep_vault::contents::{ChunkRef, EntryKind};
use flexkeep_vault::{ContentHash, Vault};

use crate::journal::ItemJournal;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::uploads::{NewChunk, UploadFailed, Uploads};

/// A chunk ends at the first row end past this many raw bytes.
pub(crate) const SOFT_CHUNK_BYTES: usize = 16 << 20;

/// A chunk ends here in the middle of a row, if it must.
pub(crate) const HARD_CHUNK_BYTES: usize = 24 << 20;

/// Chunks that the vault is known to hold, with their stored length: those of the last backup,
/// and those of this run. The last backup may have hundreds of thousands, so they are kept short.
#[derive(Debug, Default)]
pub(crate) struct KnownChunks {
    /// In the order of their hashes.
    last: Vec<(ContentHash, u32)>,
    new: RwLock<HashMap<ContentHash, u32>>,
}

impl KnownChunks {
    /// Those of the last backup, in any order.
    pub(crate) fn new(mut last: Vec<(ContentHash, u32)>) -> Self {
        last.sort_unstable();
        last.dedup_by_key(|(hash, _)| *hash);
        last.shrink_to_fit();
        Self { last, new: RwLock::default() }
    }

    /// A chunk is in the vault now.
    pub(crate) fn insert(&self, hash: ContentHash, stored_bytes: u32) {
        let mut new = self.new.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        new.insert(hash, stored_bytes);
    }

    /// The length of a chunk's object in the vault, if it is known to be there.
    pub(crate) fn stored_bytes(&self, hash: &ContentHash) -> Option<u32> {
        if let Some(place) = self.place(hash) {
            return Some(self.last[place].1);
        }
        self.new.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(hash).copied()
    }

    fn place(&self, hash: &ContentHash) -> Option<usize> {
        self.last.binary_search_by_key(hash, |(hash, _)| *hash).ok()
    }

    /// Begins to look which of them are there.
    pub(crate) fn looks(&self) -> Looks<'_> {
        Looks { known: self, there: vec![false; self.last.len()] }
    }

    /// Takes chunks of the last backup out.
    pub(crate) fn forget(&mut self, gone: &[ContentHash]) {
        if gone.is_empty() {
            return;
        }
        let gone: HashSet<&ContentHash> = gone.iter().collect();
        self.last.retain(|(hash, _)| !gone.contains(hash));
    }
}

/// Which chunks of the last backup are there.
pub(crate) struct Looks<'k> {
    known: &'k KnownChunks,
    there: Vec<bool>,
}

impl Looks<'_> {
    /// A chunk was found, of this length.
    pub(crate) fn found(&mut self, hash: &ContentHash, stored_bytes: u64) {
        if let Some(place) = self.known.place(hash)
            && u64::from(self.known.last[place].1) == stored_bytes
        {
            self.there[place] = true;
        }
    }

    /// Those that were not found.
    pub(crate) fn missing(self) -> Vec<ContentHash> {
        let all = self.known.last.iter().zip(&self.there);
        all.filter(|(_, there)| !**there).map(|((hash, _), _)| *hash).collect()
    }
}

/// Why a chunk could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error(transparent)]
    Upload(#[from] UploadFailed),
    #[error("cancelled")]
    Cancelled,
    #[error("binary COPY data: {0}")]
    Binary(&'static str),
    #[error("a row is longer than 1 GiB as text")]
    RowTooLong,
    #[error("the server sent a large object in an unexpected form")]
    BadLargeObject,
}

/// What all lanes share.
pub(crate) struct ChunkTools {
    pub(crate) vault: Arc<Vault>,
    pub(crate) known: Arc<KnownChunks>,
    pub(crate) uploads: Uploads,
    pub(crate) progress: Arc<Progress>,
    pub(crate) pace: Option<Pace>,
}

/// Makes chunks of one lane, one after the other.
pub(crate) struct Chunker<'a> {
    tools: &'a ChunkTools,
    raw: Vec<u8>,
}

impl<'a> Chunker<'a> {
    pub(crate) fn new(tools: &'a ChunkTools) -> Self {
        Self { tools, raw: Vec::new() }
    }

    /// Hashes the content, and hands it over unless the vault is known to have it. The length of what
    /// is handed over is zero until the journal says otherwise. `raw` is empty afterwards.
    pub(crate) fn store(
        &mut self,
        kind: EntryKind,
        continued: bool,
        raw: &mut Vec<u8>,
        journal: &Arc<ItemJournal>,
    ) -> Result<ChunkRef, ChunkError> {
        if self.tools.progress.is_cancelled() {
            return Err(ChunkError::Cancelled);
        }
        let hash = ContentHash::of(raw);
        self.tools.progress.read_some(raw.len() as u64);
        if let Some(pace) = &self.tools.pace {
            pace.spend(raw.len() as u64, || self.tools.progress.is_cancelled());
        }
        let raw_bytes = u32::try_from(raw.len()).expect("chunks are at most 24 MiB");
        let stored_bytes = self.tools.known.stored_bytes(&hash);
        if stored_bytes.is_some() {
            raw.clear();
        } else {
            let raw = std::mem::replace(raw, self.tools.uploads.buffer());
            self.tools.uploads.submit(NewChunk { kind, hash, raw }, journal)?;
        }
        Ok(ChunkRef { hash, raw_bytes, stored_bytes: stored_bytes.unwrap_or(0), continued })
    }

    /// Takes the rows of one COPY.
    pub(crate) fn rows<'c>(
        &'c mut self,
        chunk_bytes: u32,
        slice_bytes: u64,
        journal: &'c Arc<ItemJournal>,
    ) -> RowCutter<'c, 'a> {
        // A COPY that broke off has left a part of its rows.
        self.raw.clear();
        let mean = (chunk_bytes as usize).clamp(64 << 10, SOFT_CHUNK_BYTES);
        RowCutter {
            chunker: self,
            journal,
            least_bytes: mean / 2,
            chance: u64::MAX / (mean as u64 / 2),
            row_start: 0,
            chunks: Vec::new(),
            rows: 0,
            undone_bytes: slice_bytes,
        }
    }
}

/// Appends rows to the current chunk and cuts it.
///
/// Where it cuts depends on the bytes alone, never on how they came in, so that the same rows make
/// the same chunks: at a row whose hash says so, at the first row end past 16 MiB, or at exactly
/// 24 MiB within a row.
pub(crate) struct RowCutter<'c, 'a> {
    chunker: &'c mut Chunker<'a>,
    journal: &'c Arc<ItemJournal>,
    /// No chunk is shorter, but for the last.
    least_bytes: usize,
    /// How likely a byte ends a chunk, of 2^64.
    chance: u64,
    row_start: usize,
    chunks: Vec<ChunkRef>,
    rows: u64,
    /// Bytes of the slice on disk that progress has not counted.
    undone_bytes: u64,
}

impl RowCutter<'_, '_> {
    /// Cuts what is left, and gives rows and chunks.
    pub(crate) fn finish(mut self) -> Result<(u64, Vec<ChunkRef>), ChunkError> {
        self.cut(false)?;
        self.chunker.tools.progress.done(self.undone_bytes);
        Ok((self.rows, self.chunks))
    }

    fn cut(&mut self, continued: bool) -> Result<(), ChunkError> {
        self.row_start = 0;
        if self.chunker.raw.is_empty() {
            return Ok(());
        }
        let mut raw = std::mem::take(&mut self.chunker.raw);
        let done = self.undone_bytes.min(raw.len() as u64);
        self.undone_bytes -= done;
        self.chunker.tools.progress.done(done);
        let stored = self.chunker.store(EntryKind::Table, continued, &mut raw, self.journal);
        self.chunker.raw = raw;
        self.chunks.push(stored?);
        Ok(())
    }

    #[cold]
    fn append_long(&mut self, mut part: &[u8]) -> Result<(), ChunkError> {
        while self.chunker.raw.len() + part.len() > HARD_CHUNK_BYTES {
            let (now, later) = part.split_at(HARD_CHUNK_BYTES - self.chunker.raw.len());
            self.chunker.raw.extend_from_slice(now);
            self.cut(true)?;
            part = later;
        }
        self.chunker.raw.extend_from_slice(part);
        Ok(())
    }

    /// Whether the row that ends here ends a chunk. The chance grows with the row's length, so
    /// that chunks have the same mean length for all tables.
    #[inline]
    fn row_ends_chunk(&self) -> bool {
        let row = &self.chunker.raw[self.row_start..];
        row_hash(row) < self.chance.saturating_mul(row.len().max(1) as u64)
    }
}

/// A hash of a row's first 16 bytes (mostly a key), its last 8, and its length: enough to pick rows,
/// and cheap for every row.
#[inline]
fn row_hash(row: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let first = word(&row[..row.len().min(8)]);
    let second = row.get(8..row.len().min(16)).map_or(0, word);
    let last = word(&row[row.len().saturating_sub(8)..]);
    let mut hash = row.len() as u64;
    for value in [first, second, last] {
        hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl CopySink for RowCutter<'_, '_> {
    type Error = ChunkError;

    #[inline]
    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), ChunkError> {
        if self.chunker.raw.len() + part.len() > HARD_CHUNK_BYTES {
            self.append_long(part)?;
        } else {
            self.chunker.raw.extend_from_slice(part);
        }
        if row_end {
            self.rows += 1;
            let length = self.chunker.raw.len();
            if length >= self.least_bytes && (length >= SOFT_CHUNK_BYTES || self.row_ends_chunk()) {
                self.cut(false)?;
            }
            self.row_start = self.chunker.raw.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_rows_are_as_frequent_as_the_mean_length_says_for_short_and_long_rows() {
        for width in [0_usize, 90, 1500] {
            let mean = 1_u64 << 14;
            let chance = u64::MAX / mean;
            let rows = 400 * mean / (width as u64 + 10);
            let picked = (0..rows)
                .filter(|i| {
                    let row = format!("{i}\t{}\n", "x".repeat(width));
                    row_hash(row.as_bytes()) < chance.saturating_mul(row.len() as u64)
                })
                .count();
            assert!((250..=600).contains(&picked), "width {width}: {picked} of about 400");
        }
    }
}
