//! The archive's primitive encodings, read from bytes that nobody vouches for.

use std::fmt;
use std::io::{self, ErrorKind, Read};

/// How much of an archive a reader is willing to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest single string of a table of contents, in bytes.
    pub max_string_bytes: usize,
    /// The most entries of a table of contents.
    pub max_entries: usize,
    /// The most bytes of a head and table of contents together. Memory stays below about twice
    /// this.
    pub max_total_bytes: u64,
    /// The longest piece of a data block, in bytes.
    pub max_piece_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_string_bytes: 64 << 20,
            max_entries: 10_000_000,
            max_total_bytes: 1 << 30,
            max_piece_bytes: 1 << 30,
        }
    }
}

/// Where in an archive something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the start of the archive to the start of the field.
    pub position: u64,
    /// The entry of the table of contents, counted from 0.
    pub entry: Option<usize>,
    /// The field, in words.
    pub field: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}, ", self.position)?;
        if let Some(entry) = self.entry {
            write!(f, "entry {entry}, ")?;
        }
        f.write_str(self.field)
    }
}

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream failed.
    #[error("reading the archive at {place}")]
    Io {
        /// Where it failed.
        place: Place,
        /// What the stream said.
        source: io::Error,
    },
    /// The stream ended too early.
    #[error("the archive ends in the middle, at {place}")]
    Truncated {
        /// The field that is missing or cut.
        place: Place,
    },
    /// The bytes are not what `pg_dump` writes.
    #[error("the archive is invalid at {place}: {reason}")]
    Invalid {
        /// The offending field.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive is larger than the caller allows.
    #[error("the archive at {place} is over the limit {limit} of {allowed}")]
    OverLimit {
        /// The offending field.
        place: Place,
        /// The name of the [`Limits`] field.
        limit: &'static str,
        /// Its value.
        allowed: u64,
    },
}

/// A stream with a position. It never asks for a byte beyond the field it reads, so that it can
/// read from a pipe whose writer waits.
pub(crate) struct Source<'a, R> {
    inner: &'a mut R,
    limits: &'a Limits,
    place: Place,
    next: u64,
    end: u64,
    pub(crate) int_size: usize,
}

impl<'a, R: Read> Source<'a, R> {
    /// A source at the start of an archive, for at most `max_total_bytes`.
    pub(crate) fn new(inner: &'a mut R, limits: &'a Limits) -> Self {
        let place = Place { position: 0, entry: None, field: "magic" };
        Source { inner, limits, place, next: 0, end: limits.max_total_bytes, int_size: 4 }
    }

    /// A source for data blocks, which may be of any length in all.
    pub(crate) fn at(inner: &'a mut R, limits: &'a Limits, position: u64, int_size: usize) -> Self {
        let place = Place { position, entry: None, field: "block type" };
        Source { inner, limits, place, next: position, end: u64::MAX, int_size }
    }

    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    pub(crate) fn set_entry(&mut self, entry: Option<usize>) {
        self.place.entry = entry;
    }

    /// An error about the field read last.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> ReadError {
        ReadError::Invalid { place: self.place, reason: reason.into() }
    }

    pub(crate) fn over_limit(&self, limit: &'static str, allowed: u64) -> ReadError {
        ReadError::OverLimit { place: self.place, limit, allowed }
    }

    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, ReadError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// A byte, or `None` when the stream ends exactly here.
    pub(crate) fn byte_or_end(&mut self, field: &'static str) -> Result<Option<u8>, ReadError> {
        match self.byte(field) {
            Ok(byte) => Ok(Some(byte)),
            Err(ReadError::Truncated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.begin(field);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn int(&mut self, field: &'static str) -> Result<i32, ReadError> {
        let mut bytes = [0; 9];
        self.begin(field);
        let width = self.int_size;
        self.fill(&mut bytes[..=width])?;
        let (sign, mut magnitude) = (bytes[0], [0; 8]);
        magnitude[..width].copy_from_slice(&bytes[1..=width]);
        let magnitude = u64::from_le_bytes(magnitude);
        let value = match sign {
            0 => i64::try_from(magnitude).ok(),
            1 if magnitude != 0 => 0i64.checked_sub_unsigned(magnitude),
            _ => None,
        };
        value.and_then(|value| i32::try_from(value).ok()).ok_or_else(|| {
            self.invalid(format!("sign {sign} with magnitude {magnitude} is not a 32-bit integer"))
        })
    }

    /// A string of its own; for the few that are not kept in an entry.
    pub(crate) fn string(&mut self, field: &'static str) -> Result<Option<Vec<u8>>, ReadError> {
        let mut bytes = Vec::new();
        Ok(self.string_into(field, &mut bytes)?.map(|_| bytes))
    }

    /// Appends a string to `out` and gives its length, or `None` for a null one.
    pub(crate) fn string_into(
        &mut self,
        field: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, ReadError> {
        let length = match self.int(field)? {
            -1 => return Ok(None),
            length => usize::try_from(length)
                .map_err(|_| self.invalid(format!("a string of length {length}")))?,
        };
        let allowed = self.limits.max_string_bytes;
        if length > allowed {
            return Err(self.over_limit("max_string_bytes", allowed as u64));
        }
        self.append(length, out)?;
        Ok(Some(length))
    }

    /// A number stored as decimal text, as `%u` writes it.
    pub(crate) fn decimal(
        &mut self,
        field: &'static str,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<u32>, ReadError> {
        scratch.clear();
        if self.string_into(field, scratch)?.is_none() {
            return Ok(None);
        }
        parse_decimal(scratch).map(Some).ok_or_else(|| {
            let shown = String::from_utf8_lossy(&scratch[..scratch.len().min(20)]);
            self.invalid(format!("{shown:?} is not a decimal number below 2^32"))
        })
    }

    /// Appends `length` bytes of the field read last. `out` grows as they arrive, so that a
    /// length which lies costs nothing.
    pub(crate) fn append(&mut self, length: usize, out: &mut Vec<u8>) -> Result<(), ReadError> {
        self.check_total(length)?;
        let copied = self.inner.by_ref().take(length as u64).read_to_end(out);
        match copied {
            Ok(copied) => {
                self.next += copied as u64;
                let whole = copied == length;
                if whole { Ok(()) } else { Err(ReadError::Truncated { place: self.place }) }
            }
            Err(source) => Err(ReadError::Io { place: self.place, source }),
        }
    }

    fn begin(&mut self, field: &'static str) {
        self.place.position = self.next;
        self.place.field = field;
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        self.check_total(bytes.len())?;
        self.inner.read_exact(bytes).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => ReadError::Truncated { place: self.place },
            _ => ReadError::Io { place: self.place, source },
        })?;
        self.next += bytes.len() as u64;
        Ok(())
    }

    fn check_total(&self, length: usize) -> Result<(), ReadError> {
        match self.next.checked_add(length as u64) {
            Some(after) if after <= self.end => Ok(()),
            _ => Err(self.over_limit("max_total_bytes", self.end)),
        }
    }
}

/// A number in the one form that `%u` writes: no sign, no leading zero, no space.
pub(crate) fn parse_decimal(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    text.iter().try_fold(0u32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int_of(bytes: &[u8], int_size: usize) -> Result<i32, ReadError> {
        let limits = Limits::default();
        let mut bytes = bytes;
        Source::at(&mut bytes, &limits, 0, int_size).int("number")
    }

    #[test]
    fn an_integer_covers_all_of_i32_and_nothing_else() {
        assert_eq!(int_of(&[0, 255, 255, 255, 127], 4).unwrap(), i32::MAX);
        assert_eq!(int_of(&[1, 0, 0, 0, 128], 4).unwrap(), i32::MIN);
        assert_eq!(int_of(&[1, 5, 0, 0, 0, 0, 0, 0, 0], 8).unwrap(), -5);
        for wrong in [[0, 0, 0, 0, 128], [1, 1, 0, 0, 128], [1, 0, 0, 0, 0], [2, 1, 0, 0, 0]] {
            assert!(matches!(int_of(&wrong, 4), Err(ReadError::Invalid { .. })), "{wrong:?}");
        }
        assert!(int_of(&[0, 0, 0, 0, 0, 1, 0, 0, 0], 8).is_err());
        assert!(int_of(&[1, 0, 0, 0, 0, 0, 0, 0, 128], 8).is_err());
    }

    #[test]
    fn a_decimal_has_one_spelling() {
        assert_eq!(parse_decimal(b"0"), Some(0));
        assert_eq!(parse_decimal(b"4294967295"), Some(u32::MAX));
        for wrong in ["", "00", "01", "+1", "-1", " 1", "1 ", "4294967296", "99999999999", "1a"] {
            assert_eq!(parse_decimal(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_string_that_lies_about_its_length_is_truncated_not_allocated() {
        let limits = Limits { max_string_bytes: 1 << 30, ..Limits::default() };
        let mut bytes: &[u8] = &[0, 0, 0, 0, 63, b'a', b'b'];
        let mut out = Vec::new();
        let error =
            Source::new(&mut bytes, &limits).string_into("tag", &mut out).expect_err("truncated");
        assert_eq!(error.to_string(), "the archive ends in the middle, at byte 0, tag");
        assert!(out.capacity() < 1024);
    }
}
