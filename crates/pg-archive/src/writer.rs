//! Writing a whole archive into a file.

use std::io::{self, Seek, SeekFrom, Write};

use crate::blocks;
use crate::entry::{Entry, Offset};
use crate::header::Compression;
use crate::toc::{Toc, TocError};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output failed. The archive is incomplete and cannot be continued.
    #[error("writing the archive")]
    Io(#[from] io::Error),
    /// The table of contents has no such entry.
    #[error("the block is for no entry of the archive")]
    Toc(#[from] TocError),
    /// Blocks are written with integers of four bytes.
    #[error("cannot write an archive with integers of {int_size} bytes, only of 4")]
    IntSize {
        /// The head's size.
        int_size: u8,
    },
    /// The entry's data is of another kind, or it has none.
    #[error("entry {dump_id} has no {expected}")]
    Kind {
        /// The entry.
        dump_id: i32,
        /// What was to be written.
        expected: &'static str,
    },
    /// Blocks must come in the order of the table of contents, or a restore from a pipe fails.
    #[error("the data of entry {dump_id} comes after that of a later entry, or twice")]
    OutOfOrder {
        /// The entry.
        dump_id: i32,
    },
    /// An entry's data was left out.
    #[error("the data of entry {dump_id} is missing")]
    Missing {
        /// The entry.
        dump_id: i32,
    },
    /// `pg_restore` needs a zlib stream even where there is no data.
    #[error("a table or large object of a gzip archive has no piece: write an empty zlib stream")]
    EmptyGzip,
    /// The piece is longer than the format can hold.
    #[error("a piece of {len} bytes is longer than 2^31-1")]
    PieceTooLong {
        /// Its length.
        len: usize,
    },
    /// The calls came in an order that gives no archive.
    #[error("cannot {operation} here")]
    Misplaced {
        /// What was called.
        operation: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BetweenBlocks,
    InTable,
    BetweenBlobs,
    InBlob,
    Failed,
}

/// Writes an archive: head and table of contents, then the blocks in their order, and at last the
/// table of contents again with the offsets of the blocks, which a parallel `pg_restore` seeks to.
///
/// The bytes of a piece must be compressed as the head says; see [`blocks`] for where pieces may
/// be cut. After an error of the output every call fails.
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    out: W,
    toc: Toc,
    /// Where in the output the archive begins.
    base: u64,
    /// Bytes of the archive so far.
    written: u64,
    /// The first entry whose data may still come.
    next_entry: usize,
    state: State,
    has_piece: bool,
}

impl<W: Write + Seek> ArchiveWriter<W> {
    /// Begins an archive where `out` stands, which should be its start: offsets count from here.
    ///
    /// # Errors
    /// If the output fails or the head wants integers of more than four bytes.
    pub fn new(mut out: W, toc: Toc) -> Result<Self, WriteError> {
        let int_size = toc.header().int_size;
        if int_size != 4 {
            return Err(WriteError::IntSize { int_size });
        }
        let (header, mut entries) = toc.into_parts();
        for entry in &mut entries {
            entry.set_offset(if entry.had_dumper() { Offset::NotSet } else { Offset::NoData });
        }
        let toc = Toc::new(header, entries)?;
        let base = out.stream_position()?;
        toc.write_to(&mut out)?;
        let written = toc.encoded_len();
        let state = State::BetweenBlocks;
        Ok(ArchiveWriter { out, toc, base, written, next_entry: 0, state, has_piece: false })
    }

    /// The table of contents, with the offsets so far.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Begins the data of a table.
    ///
    /// # Errors
    /// If the entry has no table data, an entry before it still lacks its data, or the output
    /// fails.
    pub fn start_table(&mut self, dump_id: i32) -> Result<(), WriteError> {
        self.expect(State::BetweenBlocks, "start a table")?;
        self.start_block(dump_id, "table data", |entry| entry.desc() != Some(b"BLOBS"))?;
        self.has_piece = false;
        self.put(&blocks::table_data_start(dump_id))?;
        self.state = State::InTable;
        Ok(())
    }

    /// Begins a group of large objects.
    ///
    /// # Errors
    /// As [`ArchiveWriter::start_table`].
    pub fn start_blobs(&mut self, dump_id: i32) -> Result<(), WriteError> {
        self.expect(State::BetweenBlocks, "start a group of large objects")?;
        self.start_block(dump_id, "large objects", |entry| entry.desc() == Some(b"BLOBS"))?;
        self.put(&blocks::blobs_start(dump_id))?;
        self.state = State::BetweenBlobs;
        Ok(())
    }

    /// Begins a large object of the group.
    ///
    /// # Errors
    /// If no group is open, the oid is 0, or the output fails.
    pub fn start_blob(&mut self, oid: u32) -> Result<(), WriteError> {
        self.expect(State::BetweenBlobs, "start a large object")?;
        if oid == 0 {
            return Err(WriteError::Misplaced { operation: "start a large object with oid 0" });
        }
        self.has_piece = false;
        self.put(&blocks::oid(oid))?;
        self.state = State::InBlob;
        Ok(())
    }

    /// Writes a piece of the open table or large object. Nothing is written for an empty one.
    ///
    /// # Errors
    /// If none is open, the piece is too long, or the output fails.
    pub fn piece(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.expect_open("write a piece")?;
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len();
        let header = blocks::piece_header(len).ok_or(WriteError::PieceTooLong { len })?;
        self.put(&header)?;
        self.has_piece = true;
        self.put(bytes)
    }

    /// Writes bytes that are whole pieces already, each behind its header.
    ///
    /// # Errors
    /// If no table or large object is open, or the output fails. The bytes are not looked at.
    pub fn prepared(&mut self, pieces: &[u8]) -> Result<(), WriteError> {
        self.expect_open("write prepared pieces")?;
        self.has_piece |= !pieces.is_empty();
        self.put(pieces)
    }

    /// Ends the open large object.
    ///
    /// # Errors
    /// If none is open, it needs a piece and has none, or the output fails.
    pub fn end_blob(&mut self) -> Result<(), WriteError> {
        self.expect(State::InBlob, "end a large object")?;
        self.check_pieces()?;
        self.put(&blocks::END)?;
        self.state = State::BetweenBlobs;
        Ok(())
    }

    /// Ends the open table or group of large objects.
    ///
    /// # Errors
    /// If none is open, a large object is, a table needs a piece and has none, or the output
    /// fails.
    pub fn end_block(&mut self) -> Result<(), WriteError> {
        match self.state {
            State::InTable => self.check_pieces()?,
            State::BetweenBlobs => {}
            _ => return Err(WriteError::Misplaced { operation: "end a block" }),
        }
        self.put(&blocks::END)?;
        self.state = State::BetweenBlocks;
        Ok(())
    }

    /// Completes the archive and gives the output back, flushed and at the archive's end.
    ///
    /// # Errors
    /// If a block is open, an entry lacks its data, or the output fails.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.expect(State::BetweenBlocks, "finish the archive")?;
        self.check_missing(self.toc.entries().len())?;
        self.out.seek(SeekFrom::Start(self.base))?;
        self.toc.write_to(&mut self.out)?;
        self.out.seek(SeekFrom::Start(self.base + self.written))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn start_block(
        &mut self,
        dump_id: i32,
        expected: &'static str,
        is_kind: impl Fn(&Entry) -> bool,
    ) -> Result<(), WriteError> {
        let place = self.toc.position(dump_id).ok_or(TocError::Unknown { dump_id })?;
        let entry = &self.toc.entries()[place];
        if !entry.had_dumper() || !is_kind(entry) {
            return Err(WriteError::Kind { dump_id, expected });
        }
        if place < self.next_entry {
            return Err(WriteError::OutOfOrder { dump_id });
        }
        self.check_missing(place)?;
        self.next_entry = place + 1;
        Ok(self.toc.set_offset(dump_id, Offset::At(self.written))?)
    }

    /// Fails if an entry before `end` still lacks its data.
    fn check_missing(&self, end: usize) -> Result<(), WriteError> {
        let mut skipped = self.toc.entries()[self.next_entry..end].iter();
        match skipped.find(|entry| entry.had_dumper()) {
            Some(entry) => Err(WriteError::Missing { dump_id: entry.dump_id() }),
            None => Ok(()),
        }
    }

    fn check_pieces(&self) -> Result<(), WriteError> {
        let gzip = self.toc.header().compression == Compression::Gzip;
        if gzip && !self.has_piece { Err(WriteError::EmptyGzip) } else { Ok(()) }
    }

    fn expect(&self, state: State, operation: &'static str) -> Result<(), WriteError> {
        if self.state == state { Ok(()) } else { Err(WriteError::Misplaced { operation }) }
    }

    fn expect_open(&self, operation: &'static str) -> Result<(), WriteError> {
        let open = matches!(self.state, State::InTable | State::InBlob);
        if open { Ok(()) } else { Err(WriteError::Misplaced { operation }) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Err(error) = self.out.write_all(bytes) {
            self.state = State::Failed;
            return Err(error.into());
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}
