//! Puts an archive together from pieces that are ready.

use std::io::{self, Write};

use flexkeep_pg_archive::{Offset, Toc, TocError, blocks};
use flexkeep_vault::contents::EntryKind;

/// What an archive is written to, one byte after the other. The table of contents comes first, but
/// where the blocks are is known last.
pub(super) trait ArchiveOut: Write {
    /// Writes, or leaves room for, the table of contents without the offsets.
    fn begin(&mut self, toc: &Toc) -> io::Result<()>;

    /// Puts the table of contents with the offsets in its place, where that can be done. It has as
    /// many bytes as the first one.
    fn complete(&mut self, toc: &Toc) -> io::Result<()>;
}

/// Writes head and table of contents, then blocks, and at last the table of contents again with
/// the offsets of the blocks. The caller keeps the order of the table of contents.
pub(super) struct Composer<W> {
    out: W,
    toc: Toc,
    written: u64,
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ComposeError {
    #[error("writing the archive")]
    Io(#[from] io::Error),
    #[error("an entry is not as it was")]
    Toc(#[from] TocError),
    #[error("a piece of {0} bytes cannot be in an archive")]
    Piece(usize),
}

impl<W: ArchiveOut> Composer<W> {
    pub(super) fn new(mut out: W, toc: Toc) -> Result<Self, ComposeError> {
        out.begin(&toc)?;
        let written = toc.encoded_len();
        Ok(Self { out, toc, written })
    }

    /// Begins the block of an entry.
    pub(super) fn start(&mut self, kind: EntryKind, dump_id: i32) -> Result<(), ComposeError> {
        self.toc.set_offset(dump_id, Offset::At(self.written))?;
        self.put(&block_start(kind, dump_id))
    }

    /// Writes bytes that are a part of a block already.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), ComposeError> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes compressed bytes as one piece.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<(), ComposeError> {
        let header = blocks::piece_header(bytes.len()).ok_or(ComposeError::Piece(bytes.len()))?;
        self.put(&header)?;
        self.put(bytes)
    }

    /// Ends a table, a large object or a block of them.
    pub(super) fn end(&mut self) -> Result<(), ComposeError> {
        self.put(&blocks::END)
    }

    /// Completes the archive.
    pub(super) fn finish(mut self) -> Result<W, ComposeError> {
        self.out.complete(&self.toc)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// What begins the block of an entry.
pub(super) fn block_start(kind: EntryKind, dump_id: i32) -> [u8; blocks::START_LEN] {
    match kind {
        EntryKind::Table => blocks::table_data_start(dump_id),
        EntryKind::LargeObjects => blocks::blobs_start(dump_id),
    }
}
