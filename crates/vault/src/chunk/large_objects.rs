//! The raw content of a large-object chunk: what is hashed, and compared between backups.
//!
//! A sequence of records, each a part of one object, in the order of the archive entry:
//!
//! ```text
//! [oid u32 LE][flags u8][len u32 LE][len bytes]
//! flags: 1 = the object begins with this record, 2 = it ends with it
//! ```
//!
//! There is exactly one way to write the same records, because the name of a chunk is the hash of
//! this content and because it must follow from the archive bytes alone:
//! - `oid` is 0 in a record that does not begin an object (it is the object of the record before,
//!   maybe in the chunk before);
//! - a record has at most [`MAX_RECORD_BYTES`], so that the last byte of `len` is 0: the content
//!   of a large-object chunk has a NUL and never equals COPY text;
//! - a record of no bytes either begins and ends its object (which is empty), or is the first of
//!   its chunk and only ends the object of the chunk before;
//! - a record after one that did not end its object continues it; an object begins only after an
//!   end, or first in a chunk.

use super::MAX_CHUNK_RAW_BYTES;

/// Oid, flags and length.
pub const HEADER_BYTES: usize = 9;

/// The most bytes of an object in one record.
pub const MAX_RECORD_BYTES: usize = (1 << 24) - 1;

/// The most records in a chunk, which bounds what the framing of tiny objects adds to it.
pub const MAX_RECORDS: usize = 65_536;

const BEGINS: u8 = 1;
const ENDS: u8 = 2;

/// A part of one large object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The object's oid where it begins, `None` where it goes on.
    pub begins: Option<u32>,
    /// Whether this is the object's last part.
    pub ends: bool,
    /// The part.
    pub bytes: &'a [u8],
}

/// Content that breaks a rule of this form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("large-object content is malformed at byte {at}: {problem}")]
pub struct Malformed {
    /// Offset of the record.
    pub at: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The records of `raw`, checked; ends after the first error.
pub fn records(raw: &[u8]) -> Records<'_> {
    Records { raw, at: 0, count: 0, inside: None }
}

/// Iterator made by [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    raw: &'a [u8],
    at: usize,
    count: usize,
    /// Whether the record before left its object open; `None` before the first.
    inside: Option<bool>,
}

impl<'a> Records<'a> {
    fn parse(&mut self) -> Result<Record<'a>, &'static str> {
        let rest = &self.raw[self.at..];
        let (&[a, b, c, d, flags, e, f, g, h], rest) =
            rest.split_first_chunk::<HEADER_BYTES>().ok_or("a record header is cut short")?;
        let oid = u32::from_le_bytes([a, b, c, d]);
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        if flags & !(BEGINS | ENDS) != 0 {
            return Err("unknown flags");
        }
        let (begins, ends) = (flags & BEGINS != 0, flags & ENDS != 0);
        if begins == (oid == 0) {
            return Err("an oid must stand where an object begins, and 0 elsewhere");
        }
        if self.inside == Some(begins) {
            return Err("an object begins within another, or goes on after its end");
        }
        if length > MAX_RECORD_BYTES {
            return Err("a record is too long");
        }
        if length == 0 && (!ends || !begins && self.inside.is_some()) {
            return Err("a record of no bytes that is not needed");
        }
        let bytes = rest.get(..length).ok_or("a record is cut short")?;
        self.count += 1;
        if self.count > MAX_RECORDS {
            return Err("too many records");
        }
        self.at += HEADER_BYTES + length;
        self.inside = Some(!ends);
        Ok(Record { begins: begins.then_some(oid), ends, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.raw.len() {
            return None;
        }
        let at = self.at;
        Some(self.parse().map_err(|problem| {
            self.at = self.raw.len();
            Malformed { at, problem }
        }))
    }
}

/// The header of a record.
pub(super) fn header(begins: Option<u32>, ends: bool, length: usize) -> [u8; HEADER_BYTES] {
    let flags = if begins.is_some() { BEGINS } else { 0 } | if ends { ENDS } else { 0 };
    let [a, b, c, d] = begins.unwrap_or(0).to_le_bytes();
    let [e, f, g, h] = (length as u32).to_le_bytes();
    [a, b, c, d, flags, e, f, g, h]
}

/// Collects large objects into the raw content of chunks.
///
/// `begin`, `append` as often as there are bytes, `end`; take the content with [`Builder::take`]
/// wherever a chunk shall end, and at the latest when [`Builder::append`] or
/// [`Builder::has_room`] says that it is full.
#[derive(Debug, Default)]
pub struct Builder {
    raw: Vec<u8>,
    records: usize,
    /// Where the header of the open object's record stands; `None` outside an object, and at the
    /// start of a chunk that continues one until bytes come.
    open: Option<Open>,
    inside: bool,
    limit_bytes: usize,
}

#[derive(Debug)]
struct Open {
    header: usize,
    begins: Option<u32>,
}

impl Builder {
    /// A builder of chunks of at most `limit_bytes` (clamped to 1 KiB ..
    /// [`MAX_CHUNK_RAW_BYTES`]).
    pub fn new(limit_bytes: usize) -> Self {
        let limit_bytes = limit_bytes.clamp(1024, MAX_CHUNK_RAW_BYTES);
        Self { limit_bytes, ..Self::default() }
    }

    /// Whether another object can begin in this chunk. If not, take the chunk first.
    pub fn has_room(&self) -> bool {
        self.records < MAX_RECORDS && self.raw.len() + HEADER_BYTES < self.limit_bytes
    }

    /// Whether there is nothing to take (an object that has begun, but has no byte yet, stays).
    pub fn is_empty(&self) -> bool {
        let open = self.open.as_ref().map(|open| open.header + HEADER_BYTES);
        self.raw.is_empty() || open == Some(HEADER_BYTES) && self.raw.len() == HEADER_BYTES
    }

    /// Length of the content so far, bytes.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Begins the object `oid`.
    ///
    /// # Panics
    /// When the object before was not ended, when `oid` is 0, or when there is no room.
    pub fn begin(&mut self, oid: u32) {
        assert!(!self.inside && oid != 0 && self.has_room(), "begin out of turn");
        self.inside = true;
        self.open_record(Some(oid));
    }

    /// Adds as many of `bytes` to the object as fit and returns how many; fewer than given means
    /// that the chunk is full: take it and append the rest.
    ///
    /// # Panics
    /// When no object is open.
    pub fn append(&mut self, mut bytes: &[u8]) -> usize {
        assert!(self.inside, "append outside an object");
        let mut taken = 0;
        while !bytes.is_empty() {
            let in_record = self.open.as_ref().map(|o| self.raw.len() - o.header - HEADER_BYTES);
            if in_record.is_none_or(|length| length == MAX_RECORD_BYTES) {
                if !self.has_room() {
                    break;
                }
                self.close_record(false);
                self.open_record(None);
                continue;
            }
            let room = (MAX_RECORD_BYTES - in_record.unwrap_or(0))
                .min(self.limit_bytes.saturating_sub(self.raw.len()));
            let fits = room.min(bytes.len());
            if fits == 0 {
                break;
            }
            self.raw.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            taken += fits;
        }
        taken
    }

    /// Ends the object.
    ///
    /// # Panics
    /// When no object is open.
    pub fn end(&mut self) {
        assert!(self.inside, "end outside an object");
        self.inside = false;
        if self.open.is_none() {
            // The object's last byte was the last of the chunk before: this chunk only ends it.
            self.open_record(None);
        }
        self.close_record(true);
    }

    /// Swaps the content into `content` (whose old bytes are dropped, its memory reused) and
    /// returns whether it ends within an object, which the next chunk continues.
    pub fn take(&mut self, content: &mut Vec<u8>) -> bool {
        // An object that began without a byte cannot be split off its first byte: it moves on.
        let moved = match &self.open {
            Some(open) if self.raw.len() == open.header + HEADER_BYTES => {
                self.raw.truncate(open.header);
                let begins = open.begins;
                self.open = None;
                begins
            }
            _ => None,
        };
        self.close_record(false);
        content.clear();
        std::mem::swap(&mut self.raw, content);
        self.records = 0;
        if moved.is_some() {
            self.open_record(moved);
            return false;
        }
        self.inside
    }

    fn open_record(&mut self, begins: Option<u32>) {
        self.open = Some(Open { header: self.raw.len(), begins });
        self.raw.extend_from_slice(&[0; HEADER_BYTES]);
        self.records += 1;
    }

    fn close_record(&mut self, ends: bool) {
        if let Some(Open { header: at, begins }) = self.open.take() {
            let length = self.raw.len() - at - HEADER_BYTES;
            self.raw[at..at + HEADER_BYTES].copy_from_slice(&header(begins, ends, length));
        }
    }
}
