//! A chunk of the vault as bytes of an archive: verbatim where pg_restore reads zstd, otherwise
//! compressed anew, or not at all.

use flexkeep_pg_archive::{Compression, blocks, zlib};
use flexkeep_vault::contents::{ChunkRef, EntryKind};
use flexkeep_vault::large_objects::{self, Record};
use flexkeep_vault::{ChunkBuffer, ChunkEncoder, EncodeError};

use super::composer::{ArchiveOut, ComposeError, Composer};

/// zlib level of archives for old pg_restore.
pub(super) const GZIP_LEVEL: u32 = 4;

/// zstd level of the five bytes that end a table.
const TERMINATOR_LEVEL: i32 = 1;

/// How data is compressed in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// The vault's own frames.
    Stored,
    /// zstd at this level.
    Zstd(i32),
    /// zlib at this level.
    Gzip(u32),
    None,
}

impl Codec {
    pub(super) fn compression(self) -> Compression {
        match self {
            Self::Stored | Self::Zstd(_) => Compression::Zstd,
            Self::Gzip(_) => Compression::Gzip,
            Self::None => Compression::None,
        }
    }
}

/// What a thread keeps between chunks.
pub(super) struct Worker {
    pub(super) buffer: ChunkBuffer,
    encoder: Option<ChunkEncoder>,
}

/// A chunk, ready to be written.
pub(super) enum Ready {
    /// The chunk's object is a part of the block.
    Verbatim { object: Vec<u8>, edges: Edges },
    /// A part of the table's stream.
    Table(Part),
    /// Large objects as streams.
    LargeObjects { segments: Vec<Segment>, edges: Edges },
}

/// A part of a stream.
pub(super) enum Part {
    Deflated(zlib::DeflatedPart),
    Raw(Vec<u8>),
}

/// Whether a chunk goes on with what the chunk before has begun, and leaves something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edges {
    pub(super) continues: bool,
    pub(super) open: bool,
}

/// Neighbouring large objects, or a part of one.
pub(super) enum Segment {
    /// Whole objects in the form of the archive.
    Whole(Vec<u8>),
    /// A part of an object's stream.
    Part { begins: Option<u32>, ends: bool, part: Part },
}

/// Why a chunk that is not damaged is no part of an archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadyError {
    #[error(transparent)]
    Deflate(#[from] zlib::DeflateError),
    #[error(transparent)]
    LargeObjects(#[from] large_objects::Malformed),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("it cannot be compressed: {0}")]
    Compress(#[from] std::io::Error),
    #[error("its last row is cut off")]
    OpenRow,
    #[error("a piece of {0} bytes cannot be in an archive")]
    Piece(usize),
}

impl Worker {
    pub(super) fn new() -> Self {
        Self { buffer: ChunkBuffer::new(), encoder: None }
    }

    /// Prepares the chunk that the buffer holds, verified, for an archive of one file.
    pub(super) fn ready(
        &mut self,
        codec: Codec,
        kind: EntryKind,
        chunk: &ChunkRef,
    ) -> Result<Ready, ReadyError> {
        let raw = self.buffer.raw();
        if kind == EntryKind::Table {
            check_row(raw, chunk)?;
        }
        match (kind, codec) {
            (_, Codec::Stored) => {
                let edges = edges_of(kind, raw)?;
                Ok(Ready::Verbatim { object: self.buffer.object().to_vec(), edges })
            }
            (_, Codec::Zstd(level)) => {
                let edges = edges_of(kind, raw)?;
                let encoder = match &mut self.encoder {
                    Some(encoder) => encoder,
                    none => none.insert(ChunkEncoder::new(level)?),
                };
                let object = match kind {
                    EntryKind::Table => encoder.encode_table(raw)?,
                    EntryKind::LargeObjects => encoder.encode_large_objects(raw)?,
                };
                Ok(Ready::Verbatim { object: object.to_vec(), edges })
            }
            (EntryKind::Table, Codec::Gzip(_) | Codec::None) => {
                Ok(Ready::Table(Part::of(codec, raw)?))
            }
            (EntryKind::LargeObjects, Codec::Gzip(_) | Codec::None) => objects(codec, raw),
        }
    }
}

/// A chunk of a table ends with a row, unless the next one goes on with it.
pub(super) fn check_row(raw: &[u8], chunk: &ChunkRef) -> Result<(), ReadyError> {
    if chunk.continued || raw.ends_with(b"\n") { Ok(()) } else { Err(ReadyError::OpenRow) }
}

/// Rows may go on in the next chunk, and nothing has to be done about it; large objects are looked
/// at.
fn edges_of(kind: EntryKind, raw: &[u8]) -> Result<Edges, ReadyError> {
    let mut edges = None;
    if kind == EntryKind::LargeObjects {
        for record in large_objects::records(raw) {
            note_edges(&mut edges, &record?);
        }
    }
    Ok(edges.unwrap_or(Edges { continues: false, open: false }))
}

pub(super) fn note_edges(edges: &mut Option<Edges>, record: &Record<'_>) {
    let first = Edges { continues: record.begins.is_none(), open: false };
    edges.get_or_insert(first).open = !record.ends;
}

impl Part {
    fn of(codec: Codec, raw: &[u8]) -> Result<Self, ReadyError> {
        Ok(match codec {
            Codec::Gzip(level) => Self::Deflated(zlib::compress_part(raw, level, None)?),
            _ => Self::Raw(raw.to_vec()),
        })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Deflated(part) => &part.bytes,
            Self::Raw(bytes) => bytes,
        }
    }
}

/// What begins and ends a stream of one part.
fn around(part: &Part) -> (&'static [u8], Vec<u8>) {
    match part {
        Part::Deflated(part) => {
            let mut stitcher = zlib::Stitcher::new();
            stitcher.add(part);
            (&zlib::HEADER, stitcher.finish().to_vec())
        }
        Part::Raw(_) => (&[], Vec::new()),
    }
}

fn objects(codec: Codec, raw: &[u8]) -> Result<Ready, ReadyError> {
    let (mut segments, mut edges) = (Vec::new(), None);
    for record in large_objects::records(raw) {
        let record = record?;
        note_edges(&mut edges, &record);
        let part = Part::of(codec, record.bytes)?;
        let Record { begins, ends, .. } = record;
        let (Some(oid), true) = (begins, ends) else {
            segments.push(Segment::Part { begins, ends, part });
            continue;
        };
        if !matches!(segments.last(), Some(Segment::Whole(_))) {
            segments.push(Segment::Whole(Vec::new()));
        }
        if let Some(Segment::Whole(bytes)) = segments.last_mut() {
            let (header, trailer) = around(&part);
            let length = header.len() + part.bytes().len() + trailer.len();
            bytes.extend_from_slice(&blocks::oid(oid));
            // An object without a byte has no piece, where nothing is compressed.
            if length > 0 {
                let piece = blocks::piece_header(length).ok_or(ReadyError::Piece(length))?;
                bytes.extend_from_slice(&piece);
                bytes.extend_from_slice(header);
                bytes.extend_from_slice(part.bytes());
                bytes.extend_from_slice(&trailer);
            }
            bytes.extend_from_slice(&blocks::END);
        }
    }
    let edges = edges.unwrap_or(Edges { continues: false, open: false });
    Ok(Ready::LargeObjects { segments, edges })
}

/// The frame that ends a table's COPY text.
pub(super) fn terminator_frame() -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(blocks::COPY_TERMINATOR, TERMINATOR_LEVEL)
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
    pub(super) fn start<W: ArchiveOut>(
        out: &mut Composer<W>,
        codec: Codec,
        kind: EntryKind,
        dump_id: i32,
    ) -> Result<Self, BlockError> {
        out.start(kind, dump_id)?;
        let mut block = Self { codec, kind, stream: None, open: false };
        if kind == EntryKind::Table {
            block.start_stream(out)?;
        }
        Ok(block)
    }

    pub(super) fn chunk<W: ArchiveOut>(
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

    pub(super) fn end<W: ArchiveOut>(mut self, out: &mut Composer<W>) -> Result<(), BlockError> {
        if self.open {
            return Err(BlockError::Broken("the last large object of an entry has no end"));
        }
        match (self.kind, self.codec) {
            (EntryKind::Table, Codec::Stored | Codec::Zstd(_)) => {
                out.piece(&terminator_frame().map_err(BlockError::Zstd)?)?;
            }
            (EntryKind::Table, Codec::Gzip(level)) => {
                let part = zlib::compress_part(blocks::COPY_TERMINATOR, level, None)?;
                self.part(out, &Part::Deflated(part))?;
                self.finish_stream(out)?;
            }
            (EntryKind::Table, Codec::None) => out.piece(blocks::COPY_TERMINATOR)?,
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

    fn segment<W: ArchiveOut>(
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
            self.start_stream(out)?;
        }
        self.part(out, &part)?;
        if ends {
            self.finish_stream(out)?;
            out.end()?;
        }
        Ok(())
    }

    fn start_stream<W: ArchiveOut>(&mut self, out: &mut Composer<W>) -> Result<(), BlockError> {
        if matches!(self.codec, Codec::Gzip(_)) {
            out.piece(&zlib::HEADER)?;
            self.stream = Some(zlib::Stitcher::new());
        }
        Ok(())
    }

    fn part<W: ArchiveOut>(
        &mut self,
        out: &mut Composer<W>,
        part: &Part,
    ) -> Result<(), BlockError> {
        if let Part::Deflated(part) = part {
            let stream = self.stream.as_mut().ok_or(BlockError::Broken("a part of no stream"))?;
            stream.add(part);
        }
        if !part.bytes().is_empty() {
            out.piece(part.bytes())?;
        }
        Ok(())
    }

    fn finish_stream<W: ArchiveOut>(&mut self, out: &mut Composer<W>) -> Result<(), BlockError> {
        if matches!(self.codec, Codec::Gzip(_)) {
            let stream = self.stream.take().ok_or(BlockError::Broken("the end of no stream"))?;
            out.piece(&stream.finish())?;
        }
        Ok(())
    }
}
