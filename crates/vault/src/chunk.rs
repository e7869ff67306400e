//! The chunk object: content compressed so that its bytes are already part of a pg_dump archive.
//!
//! A table chunk is one *piece* of the archive's custom format: a piece header (sign byte 0 and
//! the length of what follows, 4 bytes, little endian) and one zstd frame. A large-object chunk
//! is what stands between `BLOBS` block header and block end for its objects, see
//! [`large_objects`]. Every frame begins a piece and is alone in it, because pg_restore drops
//! silently what follows a frame inside a piece.

pub mod large_objects;

use zstd::zstd_safe::{
    self, CCtx, CParameter, DCtx, ParamSwitch, find_frame_compressed_size, get_frame_content_size,
};

use crate::contents::{ChunkRef, EntryKind};
use crate::hash::ContentHash;
use large_objects::Record;

/// The most raw content that one chunk holds, bytes.
pub const MAX_CHUNK_RAW_BYTES: usize = 32 << 20;

/// The most that a chunk object can have, bytes: incompressible content plus all framing.
pub const MAX_CHUNK_STORED_BYTES: usize = 36 << 20;

/// Sign byte and four bytes of length.
pub(crate) const INT_BYTES: usize = 5;

/// A piece header and the smallest zstd frame there is.
pub(crate) const MIN_CHUNK_STORED_BYTES: u64 = INT_BYTES as u64 + 4;

/// What every zstd frame begins with; a skippable frame does not.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Name of a chunk in the vault: `chunks/<2 hex>/<64 hex>`.
pub fn chunk_name(hash: &ContentHash) -> String {
    let hex = hash.to_string();
    format!("chunks/{}/{hex}", &hex[..2])
}

/// Content that cannot become a chunk: a mistake of the caller, not of the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Chunks of nothing are never written.
    #[error("a chunk of zero bytes is never written")]
    Empty,
    /// Over [`MAX_CHUNK_RAW_BYTES`].
    #[error("{0} bytes are too many for one chunk (at most {MAX_CHUNK_RAW_BYTES})")]
    TooLong(usize),
    /// The content is not in the one form that large objects have.
    #[error("large-object content is malformed at byte {at}: {problem}")]
    Malformed {
        /// Offset into the raw content.
        at: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// The compression library refused.
    #[error("zstd cannot compress: {0}")]
    Zstd(String),
}

/// Makes chunk objects; reuses one compression context and one output buffer (at most
/// [`MAX_CHUNK_STORED_BYTES`]), so keep one a thread.
pub struct ChunkEncoder {
    context: CCtx<'static>,
    out: Vec<u8>,
}

impl ChunkEncoder {
    /// An encoder at `level`: 1 to 22, or negative for speed over size; out of range values are
    /// clamped. The level changes the bytes of an object, never its name.
    pub fn new(level: i32) -> Result<Self, EncodeError> {
        let level = level.clamp(zstd_safe::min_c_level(), zstd_safe::max_c_level());
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            // So that whoever has only `zstd` or pg_restore notices damage too.
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
            // The fast levels leave literals as they are; COPY text is mostly digits, of which
            // entropy coding halves the size at little cost (docs/performance.md).
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            context.set_parameter(parameter).map_err(encode_failure)?;
        }
        if level < 0 {
            // Of rows of text longer matches are found in less time, and fewer of them are worth as
            // much (docs/performance.md).
            for parameter in [CParameter::MinMatch(7), CParameter::HashLog(12)] {
                context.set_parameter(parameter).map_err(encode_failure)?;
            }
        }
        Ok(Self { context, out: Vec::new() })
    }

    /// The object of a chunk of COPY text.
    pub fn encode_table(&mut self, raw: &[u8]) -> Result<&[u8], EncodeError> {
        check_length(raw)?;
        let end = self.piece(0, raw)?;
        Ok(&self.out[..end])
    }

    /// The object of a chunk of large objects; `raw` is in the form that
    /// [`large_objects::Builder`] makes.
    pub fn encode_large_objects(&mut self, raw: &[u8]) -> Result<&[u8], EncodeError> {
        check_length(raw)?;
        let mut end = 0;
        for record in large_objects::records(raw) {
            let Record { begins, ends, bytes } = record
                .map_err(|bad| EncodeError::Malformed { at: bad.at, problem: bad.problem })?;
            if let Some(oid) = begins {
                end = self.int(end, archive_int(oid as i32));
            }
            if !bytes.is_empty() || begins.is_some() {
                end = self.piece(end, bytes)?;
            }
            if ends {
                end = self.int(end, [0; INT_BYTES]);
            }
        }
        Ok(&self.out[..end])
    }

    /// Appends piece header and frame at `at`; returns the end.
    fn piece(&mut self, at: usize, raw: &[u8]) -> Result<usize, EncodeError> {
        let body = at + INT_BYTES;
        self.reserve(body + zstd_safe::compress_bound(raw.len()));
        let written = self.context.compress2(&mut self.out[body..], raw).map_err(encode_failure)?;
        self.int(at, archive_int(written as i32));
        Ok(body + written)
    }

    fn int(&mut self, at: usize, bytes: [u8; INT_BYTES]) -> usize {
        self.reserve(at + INT_BYTES);
        self.out[at..at + INT_BYTES].copy_from_slice(&bytes);
        at + INT_BYTES
    }

    fn reserve(&mut self, bytes: usize) {
        if self.out.len() < bytes {
            self.out.resize(bytes, 0);
        }
    }
}

fn check_length(raw: &[u8]) -> Result<(), EncodeError> {
    match raw.len() {
        0 => Err(EncodeError::Empty),
        length if length > MAX_CHUNK_RAW_BYTES => Err(EncodeError::TooLong(length)),
        _ => Ok(()),
    }
}

fn encode_failure(code: zstd_safe::ErrorCode) -> EncodeError {
    EncodeError::Zstd(zstd_safe::get_error_name(code).to_owned())
}

/// The archive's `int` with four bytes of magnitude.
fn archive_int(value: i32) -> [u8; INT_BYTES] {
    let [a, b, c, d] = value.unsigned_abs().to_le_bytes();
    [u8::from(value < 0), a, b, c, d]
}

/// An object that is not the chunk that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk {hash} is damaged: {problem}")]
pub struct DamagedChunk {
    /// The chunk that was expected.
    pub hash: ContentHash,
    /// What is wrong with the bytes.
    pub problem: String,
}

/// Reads chunk objects, of which it believes nothing; keep one a thread.
pub struct ChunkDecoder {
    context: DCtx<'static>,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkDecoder {
    /// A decoder.
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Puts the raw content of `object` into `raw` (replacing what was there) once lengths,
    /// framing and the hash of the content agree with `expected`. On an error `raw` is empty.
    /// Never allocates more than [`MAX_CHUNK_RAW_BYTES`].
    pub fn decode(
        &mut self,
        kind: EntryKind,
        object: &[u8],
        expected: &ChunkRef,
        raw: &mut Vec<u8>,
    ) -> Result<(), DamagedChunk> {
        raw.clear();
        let result = self.try_decode(kind, object, expected, raw);
        result.map_err(|problem| {
            raw.clear();
            DamagedChunk { hash: expected.hash, problem }
        })
    }

    fn try_decode(
        &mut self,
        kind: EntryKind,
        object: &[u8],
        expected: &ChunkRef,
        raw: &mut Vec<u8>,
    ) -> Result<(), String> {
        let raw_bytes = expected.raw_bytes as usize;
        if raw_bytes == 0 || raw_bytes > MAX_CHUNK_RAW_BYTES {
            return Err(format!("a raw length of {raw_bytes} bytes is not possible"));
        }
        if object.len() != expected.stored_bytes as usize {
            return Err(format!(
                "it has {} bytes, not the {} that were stored",
                object.len(),
                expected.stored_bytes
            ));
        }
        raw.reserve_exact(raw_bytes);
        match kind {
            EntryKind::Table => {
                let rest = self.piece(object, raw_bytes, raw)?;
                if !rest.is_empty() {
                    return Err(format!("{} bytes follow the piece", rest.len()));
                }
            }
            EntryKind::LargeObjects => self.large_objects(object, raw_bytes, raw)?,
        }
        if raw.len() != raw_bytes {
            return Err(format!("its content has {} bytes, not {raw_bytes}", raw.len()));
        }
        if ContentHash::of(raw) != expected.hash {
            return Err("its content has another hash".to_owned());
        }
        Ok(())
    }

    /// Decodes the piece that `object` begins with and returns what follows it; `raw` grows to
    /// at most `limit`.
    fn piece<'o>(
        &mut self,
        object: &'o [u8],
        limit: usize,
        raw: &mut Vec<u8>,
    ) -> Result<&'o [u8], String> {
        let (length, rest) = take_int(object)?;
        let length = usize::try_from(length).map_err(|_| "a piece has a negative length")?;
        let frame = rest.get(..length).ok_or("a piece is cut short")?;
        if !frame.starts_with(&ZSTD_MAGIC) {
            return Err("a piece does not begin with a zstd frame".to_owned());
        }
        if find_frame_compressed_size(frame) != Ok(length) {
            return Err("a piece is not exactly one zstd frame".to_owned());
        }
        let content = match get_frame_content_size(frame) {
            Ok(Some(content)) => content,
            _ => return Err("a zstd frame does not tell its content size".to_owned()),
        };
        let start = raw.len();
        let end = usize::try_from(content)
            .ok()
            .and_then(|content| start.checked_add(content))
            .filter(|end| *end <= limit)
            .ok_or("its content is longer than it should be")?;
        raw.resize(end, 0);
        let written = self
            .context
            .decompress(&mut raw[start..], frame)
            .map_err(|code| format!("zstd: {}", zstd_safe::get_error_name(code)))?;
        if start + written != end {
            return Err("a zstd frame is shorter than it tells".to_owned());
        }
        Ok(&rest[length..])
    }

    /// Rebuilds the records from the objects' archive bytes.
    fn large_objects(
        &mut self,
        mut object: &[u8],
        limit: usize,
        raw: &mut Vec<u8>,
    ) -> Result<(), String> {
        // What may come next: inside an object a piece or its end, outside an oid. The first
        // object may have begun in an earlier chunk; then its piece (known by the frame's magic)
        // or its end (an int of 0, which no oid is) comes first.
        let mut inside = object.starts_with(&[0; INT_BYTES])
            || object[INT_BYTES.min(object.len())..].starts_with(&ZSTD_MAGIC);
        while !object.is_empty() {
            let mut begins = None;
            if !inside {
                let (oid, rest) = take_int(object)?;
                begins = Some(oid as u32);
                object = rest;
            }
            let header = raw.len();
            let body = header + large_objects::HEADER_BYTES;
            if body > limit {
                return Err("its content is longer than it should be".to_owned());
            }
            raw.resize(body, 0);
            if !object.starts_with(&[0; INT_BYTES]) {
                object = self.piece(object, limit, raw)?;
            }
            let ends = object.starts_with(&[0; INT_BYTES]);
            if ends {
                object = &object[INT_BYTES..];
            }
            inside = !ends;
            let bytes = raw.len() - body;
            let head = large_objects::header(begins, ends, bytes);
            raw[header..body].copy_from_slice(&head);
        }
        Ok(())
    }
}

/// Splits an `int` off; the bit pattern of an oid over 2^31 comes back as its negative number.
fn take_int(bytes: &[u8]) -> Result<(i32, &[u8]), String> {
    let Some((&[sign, a, b, c, d], rest)) = bytes.split_first_chunk::<INT_BYTES>() else {
        return Err("it ends within a number".to_owned());
    };
    let magnitude = i64::from(u32::from_le_bytes([a, b, c, d]));
    let value = match sign {
        0 => magnitude,
        1 => -magnitude,
        _ => return Err(format!("a number has the sign byte {sign}")),
    };
    let value = i32::try_from(value).map_err(|_| "a number is out of range".to_owned())?;
    Ok((value, rest))
}

#[cfg(test)]
mod tests;
