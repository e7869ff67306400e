//! The text that goes to the sink.

use super::BinaryError;
use crate::connection::CopySink;

/// Longer rows are handed over in parts.
const CAPACITY: usize = 64 << 10;

/// What one value of a type with a bounded length takes at most.
pub(super) const ROOM: usize = 64;

/// Text is looked at in blocks of this length.
const BLOCK: usize = 32;

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
}

impl<'s, S: CopySink> Text<'s, S> {
    pub(super) fn new(sink: &'s mut S) -> Self {
        Self { sink, buffer: vec![0; CAPACITY].into_boxed_slice(), length: 0 }
    }

    /// Hands over the row, or its last part.
    #[inline]
    pub(super) fn end_row(&mut self) -> Result<(), BinaryError<S::Error>> {
        self.byte(b'\n')?;
        let length = std::mem::take(&mut self.length);
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
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        for block in blocks {
            // Each byte may become two.
            let room = self.room(2 * BLOCK)?;
            if is_plain(block) {
                room[..BLOCK].copy_from_slice(block);
                self.used(BLOCK);
            } else {
                let used = escape(block, room);
                self.used(used);
            }
        }
        let room = self.room(2 * BLOCK)?;
        let used = escape(rest, room);
        self.used(used);
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
fn is_plain(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(0, |found, byte| found | u8::from(is_special(*byte))) == 0
}

fn escape(text: &[u8], out: &mut [u8]) -> usize {
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
