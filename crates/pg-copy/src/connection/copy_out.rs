//! COPY TO STDOUT: from the read buffer into a sink.

use std::time::Duration;

use postgres_protocol::message::backend::Message;

use super::Connection;
use crate::error::{CopyError, Error};
use crate::wire::{HEADER, Wire};

/// A row longer than this is handed over in parts rather than moved to the buffer's start.
const WHOLE_ROW: usize = 64 * 1024;

/// So much of an answer is read at once as it comes; a short answer shall not wait.
const EAGER: usize = 256 * 1024;

/// How much a read should bring: a good part of the 200 KiB that a Unix socket holds, but not so
/// much that the server has to wait for room.
const WANTED: std::ops::RangeInclusive<usize> = 96 * 1024..=160 * 1024;

/// The longest wait before a read, and the steps in which it grows.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
const PAUSE_STEP: Duration = Duration::from_micros(50);

const DURING: &str = "reading COPY data";

/// Takes COPY data as it comes.
pub trait CopySink {
    /// Why the sink may refuse.
    type Error;

    /// Takes a part of a row. `row_end` is true for a row's last part: in text format `part` then ends with
    /// the row's newline. Nearly all rows come whole; very long ones in several parts, each at most
    /// as long as the read buffer (256 KiB).
    ///
    /// # Errors
    /// Ends the COPY and makes the connection unusable.
    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), Self::Error>;
}

/// How far the answer to a COPY statement has come.
#[derive(Default)]
struct Progress {
    /// The server has said that data follow.
    began: bool,
    /// It has said that they are complete.
    done: bool,
    rows: u64,
    bytes: usize,
}

impl Connection {
    /// Runs one COPY TO STDOUT statement; gives the number of messages, which in text format are the rows.
    ///
    /// # Errors
    /// The sink's, the server's or the connection's.
    pub fn copy_out<S: CopySink>(
        &mut self,
        sql: impl AsRef<[u8]>,
        sink: &mut S,
    ) -> Result<u64, CopyError<S::Error>> {
        self.start(sql.as_ref())?;
        self.read_copy_out(sink)
    }

    /// Reads the answer to the oldest sent query, which must be a COPY TO STDOUT statement.
    ///
    /// # Errors
    /// The sink's, the server's or the connection's; [`Error::Protocol`] if it was no such
    /// statement. What the sink got before an error is not a complete copy.
    pub fn read_copy_out<S: CopySink>(&mut self, sink: &mut S) -> Result<u64, CopyError<S::Error>> {
        self.check_sent()?;
        let mut progress = Progress::default();
        let mut failure = None;
        loop {
            if progress.began && !progress.done {
                // Any way out of this but the orderly one loses the place in the stream.
                self.broken = true;
                self.read_data(sink, &mut progress)?;
                self.broken = false;
            }
            match self.next(&mut failure)? {
                Message::CopyOutResponse(_) if !progress.began => progress.began = true,
                Message::CopyDone => progress.done = true,
                message => {
                    // An error ends the data as well.
                    progress.done |= matches!(message, Message::ErrorResponse(_));
                    if let Some(result) = self.finish(message, &mut failure)? {
                        result?;
                        if !(progress.began && progress.done) {
                            return Err(
                                Error::protocol("the statement is no COPY TO STDOUT").into()
                            );
                        }
                        return Ok(progress.rows);
                    }
                }
            }
        }
    }

    /// Hands over all data up to the next message of another kind.
    fn read_data<S: CopySink>(
        &mut self,
        sink: &mut S,
        progress: &mut Progress,
    ) -> Result<(), CopyError<S::Error>> {
        loop {
            let wire = &mut self.wire;
            let bytes = &wire.buffer[wire.start..wire.end];
            let mut at = 0;
            // The hot loop: no call but the sink's, no copy.
            while let Some(&[b'd', a, b, c, d]) = bytes[at..].first_chunk::<HEADER>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length < 4 {
                    break;
                }
                let Some(row) = bytes.get(at + HEADER..at + 1 + length) else { break };
                sink.data(row, true).map_err(CopyError::Sink)?;
                progress.rows += 1;
                at += 1 + length;
            }
            wire.start += at;
            match wire.peek()? {
                Some((b'd', length)) if length > WHOLE_ROW => {
                    self.read_long_row(length, sink)?;
                    progress.rows += 1;
                }
                Some((b'd', _)) | None => fill(wire, progress)?,
                Some(_) => return Ok(()),
            }
        }
    }

    /// Hands over one row in the parts in which it arrives.
    fn read_long_row<S: CopySink>(
        &mut self,
        mut length: usize,
        sink: &mut S,
    ) -> Result<(), CopyError<S::Error>> {
        let wire = &mut self.wire;
        wire.start += HEADER;
        loop {
            let part = length.min(wire.available());
            length -= part;
            if part > 0 {
                let bytes = &wire.buffer[wire.start..wire.start + part];
                sink.data(bytes, length == 0).map_err(CopyError::Sink)?;
                wire.start += part;
            }
            if length == 0 {
                return Ok(());
            }
            wire.fill(DURING)?;
        }
    }
}

/// Reads more. A reader that is faster than the server would be woken for each 8 KiB message that
/// the server writes, and the two would spend much of their time switching to each other; so it
/// lets some messages gather. How long that takes follows from what the last reads brought.
fn fill(wire: &mut Wire, progress: &mut Progress) -> Result<(), Error> {
    let gather = progress.bytes > EAGER;
    if gather && !wire.pause.is_zero() {
        std::thread::sleep(wire.pause);
    }
    let had = wire.available();
    wire.fill(DURING)?;
    let came = wire.available() - had;
    progress.bytes += came;
    if gather && came < *WANTED.start() {
        wire.pause = (wire.pause + PAUSE_STEP).min(LONGEST_PAUSE);
    } else if came > *WANTED.end() {
        wire.pause /= 2;
    }
    Ok(())
}
