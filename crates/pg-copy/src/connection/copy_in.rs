//! COPY FROM STDIN.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::Connection;
use crate::error::{BoxError, Error};
use crate::transport::Silence;

/// Between looks at what the server may say meanwhile, in bytes sent.
const LOOK_EVERY: usize = 1 << 20;
/// The largest message sent; longer data go in several.
const LONGEST_MESSAGE: usize = 16 << 20;
const DURING: &str = "sending COPY data";

impl Connection {
    /// Runs one COPY FROM STDIN statement; gives the number of rows the server counted.
    ///
    /// `data` is called with an empty buffer to fill, and says whether there is more; rows may
    /// be split anywhere. When `data` fails, the COPY is cancelled and nothing of it is kept.
    ///
    /// # Errors
    /// The server's, the connection's, or [`Error::Callback`].
    pub fn copy_in(
        &mut self,
        sql: impl AsRef<[u8]>,
        data: &mut dyn FnMut(&mut Vec<u8>) -> Result<bool, BoxError>,
    ) -> Result<u64, Error> {
        self.start(sql.as_ref())?;
        let mut failure = None;
        let mut rows = None;
        loop {
            match self.next(&mut failure)? {
                Message::CopyInResponse(_) if rows.is_none() => {
                    rows = Some(0);
                    failure = self.send_data(data)?;
                }
                Message::CopyOutResponse(_) => {
                    failure.get_or_insert(Error::protocol("the statement is no COPY FROM STDIN"));
                }
                Message::CommandComplete(body) => {
                    let tag = body.tag().unwrap_or_default();
                    let count = tag.strip_prefix("COPY ").and_then(|count| count.parse().ok());
                    if let (Some(count), Some(rows)) = (count, &mut rows) {
                        *rows = count;
                    }
                }
                message => {
                    if let Some(result) = self.finish(message, &mut failure)? {
                        result?;
                        return rows
                            .ok_or_else(|| Error::protocol("the statement is no COPY FROM STDIN"));
                    }
                }
            }
        }
    }

    /// Sends all data and the word that it is complete, or that it is not. Gives the caller's failure
    /// or the server's early one; the outer error is the connection's.
    fn send_data(
        &mut self,
        data: &mut dyn FnMut(&mut Vec<u8>) -> Result<bool, BoxError>,
    ) -> Result<Option<Error>, Error> {
        let mut part = Vec::new();
        let mut since_look = 0;
        let mut more = true;
        while more {
            part.clear();
            more = match data(&mut part) {
                Ok(more) => more,
                Err(error) => {
                    self.send_copy_fail("stopped by the client")?;
                    return Ok(Some(Error::Callback(error)));
                }
            };
            for piece in part.chunks(LONGEST_MESSAGE) {
                let mut header = [b'd', 0, 0, 0, 0];
                // At most LONGEST_MESSAGE, which fits.
                let length = u32::try_from(piece.len() + 4).unwrap_or(u32::MAX);
                header[1..].copy_from_slice(&length.to_be_bytes());
                if self.send_part(&header)? || self.send_part(piece)? {
                    // The server's error is read next; it drops what it gets until then.
                    return Ok(None);
                }
                since_look += piece.len();
            }
            if since_look >= LOOK_EVERY {
                since_look = 0;
                if self.has_failed()? {
                    return Ok(None);
                }
            }
        }
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        self.send_part(&message)?;
        Ok(None)
    }

    /// Sends bytes while also taking what the server sends, as it may be blocked on that. True if the
    /// server has reported an error: what remained of a message is then sent nevertheless.
    fn send_part(&mut self, mut bytes: &[u8]) -> Result<bool, Error> {
        let mut silence = Silence::default();
        let mut failed = false;
        loop {
            let step = self.wire.transport.send_step(&mut bytes);
            match step {
                Ok(true) => return Ok(failed),
                Ok(false) => silence = Silence::default(),
                Err(error) => {
                    let waited = self.wire.transport.waited(error, &mut silence, DURING);
                    if let Err(lost) = waited {
                        return Err(self.last_words(lost));
                    }
                    failed |= self.has_failed()?;
                }
            }
        }
    }

    /// Looks, without waiting, whether the server has reported an error; notices are put aside.
    fn has_failed(&mut self) -> Result<bool, Error> {
        let filled = self.wire.fill_now(DURING);
        self.watch(filled)?;
        let sorted = self.wire.put_aside_notices();
        self.watch(sorted)?;
        let peeked = self.wire.peek();
        Ok(matches!(self.watch(peeked)?, Some((b'E', _))))
    }
}
