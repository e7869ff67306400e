//! A chunk of the vault as bytes of an archive: verbatim where pg_restore reads zstd, otherwise
//! as parts of zlib streams.

use std::io::{Seek, Write};

use flexkeep_pg_archive::{blocks, zlib};
use flexkeep_vault::ChunkBuffer;
use flexkeep_vault::contents::{ChunkRef, EntryKind};
use flexkeep_vault::large_objects::{self, Record};

use super::composer::{ComposeError, Composer};

/// zlib level of archives for old pg_restore.
const GZIP_LEVEL: u32 = 4;

/// zstd level of the five bytes that end a table.
const TERMINATOR_LEVEL: i32 = 1;

/// How data is compressed in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Zstd,
    Gzip,
}

/// A chunk, ready to be written.
pub(super) enum Ready {
    /// The chunk's object is a part of the block.
    Verbatim { object: Vec<u8>, edges: Edges },
    /// A part of the table's zlib stream.
    Table(zlib::DeflatedPart),
    /// Large objects as zlib streams.
    LargeObjects { segments: Vec<Segment>, edges: Edges },
}

/// Whether a chunk goes on with what the chunk before has begun, and leaves something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edges {
    continues: bool,
    open: bool,
}

/// Neighbouring large objects, or a part of one.
pub(super) enum Segment {
    /// Whole objects in the form of the archive.
    Whole(Vec<u8>),
    /// A part of an object's zlib stream.
    Part { begins: Option<u32>, ends: bool, part: zlib::DeflatedPart },
}

/// Why a chunk that is not damaged is no part of an archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadyError {
    #[error(transparent)]
    Deflate(#[from] zlib::DeflateError),
    #[error(transparent)]
    LargeObjects(#[from] large_objects::Malformed),
    #[error("its last row is cut off")]
    OpenRow,
    #[error("a piece of {0} bytes cannot be in an archive")]
    Piece(usize),
}

/// Prepares the chunk that `buffer` holds, verified.
pub(super) fn ready(
    codec: Codec,
    kind: EntryKind,
    chunk: &ChunkRef,
    buffer: &ChunkBuffer,
) -> Result<Ready, ReadyError> {
    let raw = buffer.raw();
    match (kind, codec) {
        (EntryKind::Table, _) if !chunk.continued && !raw.ends_with(b"\n") => {
            Err(ReadyError::OpenRow)
        }
        (EntryKind::Table, Codec::Zstd) => {
            // Rows may go on in the next chunk, and nothing has to be done about it.
            let edges = Edges { continues: false, open: false };
            Ok(Ready::Verbatim { object: buffer.object().to_vec(), edges })
        }
        (EntryKind::Table, Codec::Gzip) => {
            Ok(Ready::Table(zlib::compress_part(raw, GZIP_LEVEL, None)?))
        }
        (EntryKind::LargeObjects, Codec::Zstd) => {
            let mut edges = None;
            for record in large_objects::records(raw) {
                note_edges(&mut edges, &record?);
            }
            let edges = edges.unwrap_or(Edges { continues: false, open: false });
            Ok(Ready::Verbatim { object: buffer.object().to_vec(), edges })
        }
        (EntryKind::LargeObjects, Codec::Gzip) => deflate_objects(raw),
    }
}

fn note_edges(edges: &mut Option<Edges>, record: &Record<'_>) {
    let first = Edges { continues: record.begins.is_none(), open: false };
    edges.get_or_insert(first).open = !record.ends;
}

fn deflate_objects(raw: &[u8]) -> Result<Ready, ReadyError> {
    let (mut segments, mut edges) = (Vec::new(), None);
    for record in large_objects::records(raw) {
        let record = record?;
        note_edges(&mut edges, &record);
        let part = zlib::compress_part(record.bytes, GZIP_LEVEL, None)?;
        let Record { begins, ends, .. } = record;
        let (Some(oid), true) = (begins, ends) else {
            segments.push(Segment::Part { begins, ends, part });
            continue;
        };
        if !matches!(segments.last(), Some(Segment::Whole(_))) {
            segments.push(Segment::Whole(Vec::new()));
        }
        if let Some(Segment::Whole(bytes)) = segments.last_mut() {
            let mut stitcher = zlib::Stitcher::new();
            stitcher.add(&part);
            let trailer = stitcher.finish();
            let length = zlib::HEADER.len() + part.bytes.len() + trailer.len();
            bytes.extend_from_slice(&blocks::oid(oid));
            bytes
                .extend_from_slice(&blocks::piece_header(length).ok_or(ReadyError::Piece(length))?);
            bytes.extend_from_slice(&zlib::HEADER);
            bytes.extend_from_slice(&part.bytes);
            bytes.extend_from_slice(&trailer);
            bytes.extend_from_slice(&blocks::END);
        }
    }
    let edges = edges.unwrap_or(Edges { continues: false, open: false });
    Ok(Ready::LargeObjects { segments, edges })
}

/// Why a block could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Deflate(#[from] zlib::DeflateError),
    #[error("zstd failed: {0}")]
    Zstd(std::io::Error),
    #[error("{0}")]
    Broken(&'static str),
}

/// Writes the block of one entry.
pub(super) struct Block {
    codec: Codec,
    kind: EntryKind,
    /// The zlib stream of the table or of the open large object.
    stream: Option<zlib::Stitcher>,
    /// Whether a large object is open between chunks.
    open: bool,
}

impl Block {
    pub(super) fn start<W: Write + Seek>(
        out: &mut Composer<W>,
        codec: Codec,
        kind: EntryKind,
        dump_id: i32,
    ) -> Result<Self, BlockError> {
        out.start(kind, dump_id)?;
        let mut stream = None;
        if (kind, codec) == (EntryKind::Table, Codec::Gzip) {
            out.piece(&zlib::HEADER)?;
            stream = Some(zlib::Stitcher::new());
        }
        Ok(Self { codec, kind, stream, open: false })
    }

    pub(super) fn chunk<W: Write + Seek>(
        &mut self,
        out: &mut Composer<W>,
        ready: Ready,
    ) -> Result<(), BlockError> {
        match ready {
            Ready::Verbatim { object, edges } => {
                self.pass(edges)?;
                Ok(out.put(&object)?)
            }
            Ready::Table(part) => self.part(out, &part),
            Ready::LargeObjects { segments, edges } => {
                self.pass(edges)?;
                for segment in segments {
                    self.segment(out, segment)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn end<W: Write + Seek>(mut self, out: &mut Composer<W>) -> Result<(), BlockError> {
        if self.open {
            return Err(BlockError::Broken("the last large object of an entry has no end"));
        }
        match (self.kind, self.codec) {
            (EntryKind::Table, Codec::Zstd) => {
                let frame = zstd::bulk::compress(blocks::COPY_TERMINATOR, TERMINATOR_LEVEL)
                    .map_err(BlockError::Zstd)?;
                out.piece(&frame)?;
            }
            (EntryKind::Table, Codec::Gzip) => {
                let part = zlib::compress_part(blocks::COPY_TERMINATOR, GZIP_LEVEL, None)?;
                self.part(out, &part)?;
                self.finish_stream(out)?;
            }
            (EntryKind::LargeObjects, _) => {}
        }
        Ok(out.end()?)
    }

    /// Checks that neighbouring chunks of large objects fit each other.
    fn pass(&mut self, edges: Edges) -> Result<(), BlockError> {
        if edges.continues != self.open {
            return Err(BlockError::Broken("two chunks of large objects do not fit each other"));
        }
        self.open = edges.open;
        Ok(())
    }

    fn segment<W: Write + Seek>(
        &mut self,
        out: &mut Composer<W>,
        segment: Segment,
    ) -> Result<(), BlockError> {
        let (begins, ends, part) = match segment {
            Segment::Whole(bytes) => return Ok(out.put(&bytes)?),
            Segment::Part { begins, ends, part } => (begins, ends, part),
        };
        if let Some(oid) = begins {
            out.put(&blocks::oid(oid))?;
            out.piece(&zlib::HEADER)?;
            self.stream = Some(zlib::Stitcher::new());
        }
        self.part(out, &part)?;
        if ends {
            self.finish_stream(out)?;
            out.end()?;
        }
        Ok(())
    }

    fn part<W: Write + Seek>(
        &mut self,
        out: &mut Composer<W>,
        part: &zlib::DeflatedPart,
    ) -> Result<(), BlockError> {
        let stream = self.stream.as_mut().ok_or(BlockError::Broken("a part of no stream"))?;
        stream.add(part);
        if !part.bytes.is_empty() {
            out.piece(&part.bytes)?;
        }
        Ok(())
    }

    fn finish_stream<W: Write + Seek>(&mut self, out: &mut Composer<W>) -> Result<(), BlockError> {
        let stream = self.stream.take().ok_or(BlockError::Broken("the end of no stream"))?;
        Ok(out.piece(&stream.finish())?)
    }
}
