//! The text that goes to the sink.

use super::BinaryError;
use crate::connection::CopySink;

/// Longer rows are handed over in parts.
const CAPACITY: usize = 64 << 10;

/// The text of a row is shorter: no server takes a longer one, and none would have sent it as text.
pub(super) const LONGEST_ROW: usize = 0x3fff_ffff;

/// What one value of a type with a bounded length takes at most.
pub(super) const ROOM: usize = 64;

/// Text is looked at in blocks of this length, and its end in smaller ones.
const BLOCK: usize = 32;
const SMALL_BLOCK: usize = 8;

/// Two hexadecimal digits for each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// Gathers a row and gives it to the sink.
pub(super) struct Text<'s, S> {
    sink: &'s mut S,
    buffer: Box<[u8]>,
    length: usize,
    /// What the row may still have, of parts that were handed over.
    left: usize,
    longest_row: usize,
}

impl<'s, S: CopySink> Text<'s, S> {
    pub(super) fn new(sink: &'s mut S, longest_row: usize) -> Self {
        let buffer = vec![0; CAPACITY].into_boxed_slice();
        Self { sink, buffer, length: 0, left: longest_row, longest_row }
    }

    /// Hands over the row, or its last part.
    #[inline]
    pub(super) fn end_row(&mut self) -> Result<(), BinaryError<S::Error>> {
        self.byte(b'\n')?;
        let length = std::mem::take(&mut self.length);
        self.left = self.longest_row;
        self.sink.data(&self.buffer[..length], true).map_err(BinaryError::Sink)
    }

    /// Makes room for `bytes` more, and gives it.
    #[inline]
    pub(super) fn room(&mut self, bytes: usize) -> Result<&mut [u8], BinaryError<S::Error>> {
        if CAPACITY - self.length < bytes {
            self.hand_over()?;
        }
        Ok(&mut self.buffer[self.length..])
    }

    /// Says how much of the room was used.
    #[inline]
    pub(super) fn used(&mut self, bytes: usize) {
        self.length += bytes;
    }

    #[cold]
    fn hand_over(&mut self) -> Result<(), BinaryError<S::Error>> {
        let length = std::mem::take(&mut self.length);
        // The last part has a place too.
        let left = self.left.checked_sub(length).filter(|left| *left > CAPACITY);
        self.left = left.ok_or(BinaryError::RowTooLong)?;
        self.sink.data(&self.buffer[..length], false).map_err(BinaryError::Sink)
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) -> Result<(), BinaryError<S::Error>> {
        self.room(1)?[0] = byte;
        self.used(1);
        Ok(())
    }

    /// A few bytes as they are.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), BinaryError<S::Error>> {
        self.room(bytes.len())?[..bytes.len()].copy_from_slice(bytes);
        self.used(bytes.len());
        Ok(())
    }

    /// Text of any length, with what COPY escapes escaped.
    #[inline]
    pub(super) fn escaped(&mut self, text: &[u8]) -> Result<(), BinaryError<S::Error>> {
        // Each byte may become two.
        for some in text.chunks(CAPACITY / 4) {
            let room = self.room(2 * some.len())?;
            let used = escape(some, room);
            self.used(used);
        }
        Ok(())
    }

    /// Bytes of any length in hexadecimal digits.
    pub(super) fn hex(&mut self, bytes: &[u8]) -> Result<(), BinaryError<S::Error>> {
        for some in bytes.chunks(BLOCK) {
            let room = self.room(2 * BLOCK)?;
            hex(some, room);
            self.used(2 * some.len());
        }
        Ok(())
    }
}

/// Writes two digits for each byte.
#[inline]
pub(super) fn hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, digits) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        *digits = HEX[usize::from(*byte)];
    }
}

/// `\b \t \n \v \f \r` are next to each other.
#[inline]
fn is_special(byte: u8) -> bool {
    (byte.wrapping_sub(8) < 6) | (byte == b'\\')
}

/// Without branches, so that it is done for many bytes at once.
#[inline]
fn is_plain<const LENGTH: usize>(block: &[u8; LENGTH]) -> bool {
    block.iter().fold(0, |found, byte| found | u8::from(is_special(*byte))) == 0
}

/// Writes text as COPY has it; gives its length. `out` is twice as long as `text`.
#[inline]
fn escape(text: &[u8], out: &mut [u8]) -> usize {
    let plain = match text.len() {
        BLOCK.. => copy_plain::<BLOCK>(text, out),
        SMALL_BLOCK.. => copy_plain::<SMALL_BLOCK>(text, out),
        _ => 0,
    };
    if plain == text.len() { plain } else { plain + escape_rest(&text[plain..], &mut out[plain..]) }
}

/// Copies text, which is not shorter than a block, up to the first block with something to escape;
/// gives how far it came. The last block overlaps the one before.
#[inline]
fn copy_plain<const LENGTH: usize>(text: &[u8], out: &mut [u8]) -> usize {
    let (blocks, _) = text.as_chunks::<LENGTH>();
    for (index, block) in blocks.iter().enumerate() {
        if !is_plain(block) {
            return index * LENGTH;
        }
        out[index * LENGTH..][..LENGTH].copy_from_slice(block);
    }
    match text.last_chunk::<LENGTH>() {
        Some(last) if is_plain(last) => {
            out[text.len() - LENGTH..][..LENGTH].copy_from_slice(last);
            text.len()
        }
        _ => blocks.len() * LENGTH,
    }
}

fn escape_rest(text: &[u8], out: &mut [u8]) -> usize {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut at = 0;
    for block in blocks {
        if is_plain(block) {
            out[at..at + BLOCK].copy_from_slice(block);
            at += BLOCK;
        } else {
            at += escape_bytes(block, &mut out[at..]);
        }
    }
    at + escape_bytes(rest, &mut out[at..])
}

#[inline]
fn escape_bytes(text: &[u8], out: &mut [u8]) -> usize {
    let mut at = 0;
    for &byte in text {
        if is_special(byte) {
            out[at] = b'\\';
            at += 1;
            out[at] = match byte {
                8 => b'b',
                b'\t' => b't',
                b'\n' => b'n',
                11 => b'v',
                12 => b'f',
                b'\r' => b'r',
                other => other,
            };
        } else {
            out[at] = byte;
        }
        at += 1;
    }
    at
}
