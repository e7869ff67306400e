//! Reading the data blocks of an archive.

use std::io::Read;

use crate::blocks;
use crate::read::{Limits, ReadError, Source};
use crate::toc::Toc;

/// What [`DataBlocks::next_event`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockEvent<'a> {
    /// A table's data begins; pieces and an `End` follow.
    Table {
        /// The dump id of its entry.
        dump_id: i32,
    },
    /// A group of large objects begins; objects and an `End` follow.
    Blobs {
        /// The dump id of its entry.
        dump_id: i32,
    },
    /// A large object of the group begins; pieces and a `BlobEnd` follow.
    Blob {
        /// Its oid.
        oid: u32,
    },
    /// Compressed bytes, never empty.
    Piece(&'a [u8]),
    /// The large object ends.
    BlobEnd,
    /// The block ends.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BetweenBlocks,
    InTable,
    BetweenBlobs,
    InBlob,
    Failed,
}

/// Walks the data blocks that follow a table of contents. It holds one piece at a time, and
/// knows where it is in the archive.
#[derive(Debug)]
pub struct DataBlocks<R> {
    reader: R,
    limits: Limits,
    int_size: usize,
    position: u64,
    state: State,
    piece: Vec<u8>,
}

impl<R: Read> DataBlocks<R> {
    /// Reads from a stream that stands right behind `toc`. Of the limits only `max_piece_bytes`
    /// counts. It reads in small steps: give it something buffered.
    pub fn new(reader: R, toc: &Toc, limits: Limits) -> Self {
        DataBlocks {
            reader,
            limits,
            int_size: usize::from(toc.header().int_size),
            position: toc.encoded_len(),
            state: State::BetweenBlocks,
            piece: Vec::new(),
        }
    }

    /// Bytes from the start of the archive to what is read next. Before a `Table` or `Blobs`
    /// event this is the offset of its block.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next event, or `None` when the archive ends between two blocks.
    ///
    /// # Errors
    /// If the stream fails or ends elsewhere, the bytes are no data blocks, or a piece is over
    /// the limit. After an error the walk is over: `None` follows.
    pub fn next_event(&mut self) -> Result<Option<BlockEvent<'_>>, ReadError> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let mut source = Source::at(&mut self.reader, &self.limits, self.position, self.int_size);
        let event = match state {
            State::Failed => return Ok(None),
            State::BetweenBlocks => block_start(&mut source)?,
            State::BetweenBlobs => Some(match source.int("large object's oid")? {
                0 => Event::End,
                oid => Event::Blob(oid.cast_unsigned()),
            }),
            State::InTable | State::InBlob => {
                self.piece.clear();
                let more = read_piece(&mut source, &self.limits, &mut self.piece)?;
                Some(match (more, state) {
                    (true, _) => Event::Piece,
                    (false, State::InBlob) => Event::BlobEnd,
                    (false, _) => Event::End,
                })
            }
        };
        self.position = source.position();
        self.state = match event {
            None => State::Failed,
            Some(Event::Table(_)) => State::InTable,
            Some(Event::Blobs(_) | Event::BlobEnd) => State::BetweenBlobs,
            Some(Event::Blob(_)) => State::InBlob,
            Some(Event::Piece) => state,
            Some(Event::End) => State::BetweenBlocks,
        };
        Ok(event.map(|event| match event {
            Event::Table(dump_id) => BlockEvent::Table { dump_id },
            Event::Blobs(dump_id) => BlockEvent::Blobs { dump_id },
            Event::Blob(oid) => BlockEvent::Blob { oid },
            Event::Piece => BlockEvent::Piece(&self.piece),
            Event::BlobEnd => BlockEvent::BlobEnd,
            Event::End => BlockEvent::End,
        }))
    }
}

/// A [`BlockEvent`] that borrows nothing.
enum Event {
    Table(i32),
    Blobs(i32),
    Blob(u32),
    Piece,
    BlobEnd,
    End,
}

fn block_start<R: Read>(source: &mut Source<'_, R>) -> Result<Option<Event>, ReadError> {
    let kind = match source.byte_or_end("block type")? {
        None => return Ok(None),
        Some(kind @ (blocks::TABLE_DATA | blocks::BLOBS)) => kind,
        Some(other) => {
            let reason = format!("block type {other} is neither 1 (table) nor 3 (large objects)");
            return Err(source.invalid(reason));
        }
    };
    let dump_id = source.int("block's dump id")?;
    if dump_id <= 0 {
        return Err(source.invalid(format!("dump id {dump_id} is not above zero")));
    }
    let table = kind == blocks::TABLE_DATA;
    Ok(Some(if table { Event::Table(dump_id) } else { Event::Blobs(dump_id) }))
}

/// Reads a piece; false at the end of the data.
fn read_piece<R: Read>(
    source: &mut Source<'_, R>,
    limits: &Limits,
    piece: &mut Vec<u8>,
) -> Result<bool, ReadError> {
    let length = source.int("piece")?;
    let length = usize::try_from(length)
        .map_err(|_| source.invalid(format!("a piece of length {length}")))?;
    if length > limits.max_piece_bytes {
        return Err(source.over_limit("max_piece_bytes", limits.max_piece_bytes as u64));
    }
    source.append(length, piece)?;
    Ok(length > 0)
}
