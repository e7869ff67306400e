//! The server's messages, read from one buffer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use crate::error::{Error, ServerError};
use crate::notice::Notices;
use crate::transport::Transport;

/// The size of the read buffer.
pub(crate) const BUFFER: usize = 256 * 1024;
/// The longest message that is neither COPY data nor a row.
const LONGEST_MESSAGE: usize = 16 << 20;
/// The longest message before authentication: a stranger gets less room.
const LONGEST_EARLY_MESSAGE: usize = 64 * 1024;
/// How many parameters a server may report; PostgreSQL has about fifteen.
const MOST_PARAMETERS: usize = 200;
/// A message's tag and length.
pub(crate) const HEADER: usize = 5;

/// The transport, the bytes read from it, and what the server says on the side.
pub(crate) struct Wire {
    pub(crate) transport: Transport,
    pub(crate) buffer: Vec<u8>,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) notices: Notices,
    pub(crate) longest_row: usize,
    /// How long a reader of COPY data waits for some of it to gather.
    pub(crate) pause: Duration,
    authenticated: bool,
}

impl Wire {
    pub(crate) fn new(transport: Transport, longest_row: usize) -> Self {
        Wire {
            transport,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            parameters: BTreeMap::new(),
            notices: Notices::default(),
            longest_row,
            pause: Duration::ZERO,
            authenticated: false,
        }
    }

    pub(crate) fn set_authenticated(&mut self) {
        self.authenticated = true;
    }

    /// Bytes that are read but not consumed.
    #[inline]
    pub(crate) fn available(&self) -> usize {
        self.end - self.start
    }

    /// Reads more, behind what is there. There must be room: less than a buffer is available.
    pub(crate) fn fill(&mut self, during: &'static str) -> Result<(), Error> {
        self.make_room();
        self.end += self.transport.read(&mut self.buffer[self.end..], during)?;
        Ok(())
    }

    /// As [`Wire::fill`], but without waiting; false if nothing came.
    pub(crate) fn fill_now(&mut self, during: &'static str) -> Result<bool, Error> {
        self.make_room();
        if self.end == self.buffer.len() {
            return Ok(false);
        }
        let got = self.transport.read_now(&mut self.buffer[self.end..], during)?;
        self.end += got.unwrap_or(0);
        Ok(got.is_some())
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The next message's tag and the length of its content, when both have come.
    #[inline]
    pub(crate) fn peek(&self) -> Result<Option<(u8, usize)>, Error> {
        let Some(header) = self.buffer[self.start..self.end].first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [tag, a, b, c, d] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match length.checked_sub(4) {
            Some(length) => Ok(Some((tag, length))),
            None => Err(Error::protocol(format!("a message has the impossible length {length}"))),
        }
    }

    /// The next message that is an answer; notices and parameters are put aside, COPY data skipped.
    pub(crate) fn next(&mut self, during: &'static str) -> Result<Message, Error> {
        loop {
            let Some((tag, length)) = self.peek()? else {
                self.fill(during)?;
                continue;
            };
            if tag == b'd' && self.authenticated {
                self.skip(HEADER + length, during)?;
                continue;
            }
            let longest = match tag {
                _ if !self.authenticated => LONGEST_EARLY_MESSAGE,
                b'D' => self.longest_row,
                _ => LONGEST_MESSAGE,
            };
            if length > longest {
                return Err(self.too_long(tag, length, longest));
            }
            let frame = self.take(HEADER + length, during)?;
            if let Some(message) = self.sort(frame)? {
                return Ok(message);
            }
        }
    }

    /// Takes notices and the like that have come whole from the front, without waiting.
    pub(crate) fn put_aside_notices(&mut self) -> Result<(), Error> {
        while let Some((b'N' | b'S' | b'A', length)) = self.peek()? {
            if length > LONGEST_MESSAGE {
                return Err(self.too_long(b'N', length, LONGEST_MESSAGE));
            }
            if self.available() < HEADER + length {
                // One longer than the buffer has to be waited for, or it would never fit.
                if HEADER + length <= self.buffer.len() {
                    return Ok(());
                }
            }
            let frame = self.take(HEADER + length, "reading a notice")?;
            self.sort(frame)?;
        }
        Ok(())
    }

    fn too_long(&self, tag: u8, length: usize, longest: usize) -> Error {
        if !self.authenticated {
            return Error::protocol(
                "the other side does not speak PostgreSQL's protocol; check host and port",
            );
        }
        Error::protocol(format!(
            "a message of type {:?} has {length} bytes, more than the {longest} allowed",
            char::from(tag)
        ))
    }

    /// Parses a whole message, unless it is one of those put aside.
    fn sort(&mut self, mut frame: BytesMut) -> Result<Option<Message>, Error> {
        let unreadable =
            |error: std::io::Error| Error::protocol(format!("a message can't be read: {error}"));
        let tag = frame.first().copied().unwrap_or_default();
        if tag == b'v' {
            // NegotiateProtocolVersion: nothing above 3.0 was asked for.
            return Ok(None);
        }
        let parsed = Message::parse(&mut frame).map_err(unreadable)?;
        match parsed {
            None => Err(Error::protocol("a message is shorter than its length says")),
            Some(Message::NoticeResponse(body)) => {
                self.notices.push(ServerError::read(body.fields()));
                Ok(None)
            }
            Some(Message::ParameterStatus(body)) => {
                let name = body.name().map_err(unreadable)?.to_owned();
                // A search_path may be in the database's own encoding.
                let value = body.value().unwrap_or_default().to_owned();
                if self.parameters.len() >= MOST_PARAMETERS && !self.parameters.contains_key(&name)
                {
                    return Err(Error::protocol("the server reports too many parameters"));
                }
                self.parameters.insert(name, value);
                Ok(None)
            }
            Some(Message::NotificationResponse(_)) => Ok(None),
            Some(message) => Ok(Some(message)),
        }
    }

    /// Takes so many bytes; memory grows only as they come.
    fn take(&mut self, mut length: usize, during: &'static str) -> Result<BytesMut, Error> {
        let mut taken = BytesMut::with_capacity(length.min(BUFFER));
        while length > 0 {
            if self.available() == 0 {
                self.fill(during)?;
            }
            let part = length.min(self.available());
            taken.extend_from_slice(&self.buffer[self.start..self.start + part]);
            self.start += part;
            length -= part;
        }
        Ok(taken)
    }

    fn skip(&mut self, mut length: usize, during: &'static str) -> Result<(), Error> {
        while length > 0 {
            if self.available() == 0 {
                self.fill(during)?;
            }
            let part = length.min(self.available());
            self.start += part;
            length -= part;
        }
        Ok(())
    }
}
