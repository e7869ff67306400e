//! A connection and the statements that run on it.

mod copy_in;
mod copy_out;

use std::collections::VecDeque;

use bytes::BytesMut;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

pub use copy_out::CopySink;

use crate::cancel::{CancelHandle, CancelTarget};
use crate::config::Config;
use crate::error::{BoxError, Error, ServerError};
use crate::options::ConnectOptions;
use crate::row::Row;
use crate::wire::Wire;

/// How much SQL may be sent ahead of the answers, in bytes.
///
/// A server that is busy sending does not read; what is sent to it then must fit into the
/// socket's buffers (about 200 KiB on Linux), or both sides would wait for each other.
const SENT_AHEAD: usize = 64 * 1024;

const ANSWER: &str = "waiting for the server's answer";

/// A blocking connection to one server.
///
/// After [`Error::Closed`], [`Error::TimedOut`] or [`Error::Protocol`] from the wire it is of no
/// more use: every later call gives [`Error::Closed`]. After [`Error::Server`] it can
/// be used on, unless the server ended the session.
pub struct Connection {
    wire: Wire,
    cancel: CancelTarget,
    raw_text: bool,
    /// The sizes of the queries whose answers have not been read.
    sent: VecDeque<usize>,
    status: TransactionStatus,
    broken: bool,
}

/// Where the session stands, by the server's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In no transaction.
    Idle,
    /// In a transaction.
    Active,
    /// In a transaction that failed; only a rollback helps.
    Failed,
}

impl Connection {
    /// Opens a connection: the hosts of the configuration in order until one will do.
    ///
    /// # Errors
    /// What failed and what to do about it; [`Error::AllHosts`] if there were several attempts.
    pub fn connect(config: &Config, options: &ConnectOptions) -> Result<Self, Error> {
        crate::connect::connect(config, options)
    }

    pub(crate) fn new(wire: Wire, cancel: CancelTarget, raw_text: bool) -> Self {
        Connection {
            wire,
            cancel,
            raw_text,
            sent: VecDeque::new(),
            status: TransactionStatus::Idle,
            broken: false,
        }
    }

    /// The version as a number: 150018 for 15.18; 0 if the server's words are not understood.
    pub fn server_version_num(&self) -> u32 {
        version_num(self.parameter("server_version").unwrap_or_default())
    }

    /// A parameter that the server reports, such as `server_encoding` or `TimeZone`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.wire.parameters.get(name).map(String::as_str)
    }

    /// The process id of the session at the server.
    pub fn backend_pid(&self) -> i32 {
        self.cancel.pid
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.wire.transport.is_tls()
    }

    /// Whether the session is in a transaction.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the connection can still be used, as far as is known.
    pub fn is_usable(&self) -> bool {
        !self.broken
    }

    /// Takes the notices that came since the last call, at most the newest hundred.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.wire.notices.take()
    }

    /// What another thread needs to cancel a statement or end this connection.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle { target: self.cancel.clone(), aborter: self.wire.transport.aborter() }
    }

    /// Runs SQL by the simple protocol, several statements too, and drops any rows.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn execute(&mut self, sql: impl AsRef<[u8]>) -> Result<(), Error> {
        self.start(sql.as_ref())?;
        self.answer(&mut |_| Ok(()))
    }

    /// Runs SQL and collects all rows.
    ///
    /// # Errors
    /// The server's, the connection's, or a row that is too long or not UTF-8.
    pub fn query(&mut self, sql: impl AsRef<[u8]>) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.for_each_row(sql, &mut |row| {
            rows.push(row.clone());
            Ok(())
        })?;
        Ok(rows)
    }

    /// Runs SQL and calls `f` with each row; memory is bounded by the longest row.
    ///
    /// When `f` fails, the rest of the answer is read and dropped, so that the transaction lives on;
    /// for a very long answer cancel it.
    ///
    /// # Errors
    /// The server's, the connection's, a row that is too long or not UTF-8, or
    /// [`Error::Callback`].
    pub fn for_each_row(
        &mut self,
        sql: impl AsRef<[u8]>,
        f: &mut dyn FnMut(&Row) -> Result<(), BoxError>,
    ) -> Result<(), Error> {
        self.start(sql.as_ref())?;
        let raw_text = self.raw_text;
        let mut row = Row::default();
        self.answer(&mut |body| {
            row.fill(body, raw_text)?;
            f(&row).map_err(Error::Callback)
        })
    }

    /// Whether [`Connection::send_query`] takes SQL of this length now, with answers still unread.
    pub fn can_send_ahead(&self, bytes: usize) -> bool {
        self.sent.is_empty() || self.sent.iter().sum::<usize>() + bytes <= SENT_AHEAD
    }

    /// Sends SQL without reading the answer; answers come in the order of sending and are
    /// read by [`Connection::read_copy_out`] or [`Connection::read_answer`].
    ///
    /// # Errors
    /// [`Error::Protocol`] if more than 64 KiB of SQL would be sent ahead of unread answers:
    /// read some first. (A single query on an idle connection may have any size.)
    pub fn send_query(&mut self, sql: impl AsRef<[u8]>) -> Result<(), Error> {
        let sql = sql.as_ref();
        self.check()?;
        if !self.can_send_ahead(sql.len()) {
            return Err(Error::protocol(format!(
                "{} bytes of SQL are sent already and {} more would pass the {SENT_AHEAD} that may \
                 wait; read an answer first",
                self.sent.iter().sum::<usize>(),
                sql.len()
            )));
        }
        let message = query_message(sql)?;
        if let Err(lost) = self.wire.transport.send(&message, "sending a statement") {
            return Err(self.last_words(lost));
        }
        self.sent.push_back(sql.len());
        Ok(())
    }

    /// Reads the answer to the oldest sent query and drops its rows.
    ///
    /// # Errors
    /// The server's, the connection's, or [`Error::Protocol`] if nothing was sent.
    pub fn read_answer(&mut self) -> Result<(), Error> {
        self.check_sent()?;
        self.answer(&mut |_| Ok(()))
    }

    /// Says goodbye and closes. Dropping a connection does the same.
    pub fn close(self) {
        drop(self);
    }

    /// Sends a query whose answer is read next: none may be outstanding.
    fn start(&mut self, sql: &[u8]) -> Result<(), Error> {
        self.check()?;
        if !self.sent.is_empty() {
            return Err(Error::protocol(format!(
                "{} sent queries have unread answers; read them first",
                self.sent.len()
            )));
        }
        self.send_query(sql)
    }

    fn check(&self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Closed { during: "using it after it had failed", source: None });
        }
        Ok(())
    }

    fn check_sent(&self) -> Result<(), Error> {
        self.check()?;
        if self.sent.is_empty() {
            return Err(Error::protocol("no query was sent whose answer could be read"));
        }
        Ok(())
    }

    /// Remembers that the wire failed: nobody knows where the next message begins.
    fn watch<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.broken = true;
        }
        result
    }

    /// When sending fails, the reason may be waiting to be read.
    fn last_words(&mut self, lost: Error) -> Error {
        self.broken = true;
        if matches!(lost, Error::Closed { .. }) {
            while let Ok(message) = self.wire.next(ANSWER) {
                if let Message::ErrorResponse(body) = message {
                    return Error::Server(Box::new(ServerError::read(body.fields())));
                }
            }
        }
        lost
    }

    /// The next message. When the connection ends right after the server's last words, those are the error.
    fn next(&mut self, failure: &mut Option<Error>) -> Result<Message, Error> {
        let next = self.wire.next(ANSWER);
        match self.watch(next) {
            Err(Error::Closed { .. }) if is_fatal(failure.as_ref()) => {
                Err(failure.take().unwrap_or(Error::Closed { during: ANSWER, source: None }))
            }
            other => other,
        }
    }

    /// Reads one whole answer; the first failure is the result, and all is read to the end first.
    fn answer(
        &mut self,
        on_row: &mut dyn FnMut(&DataRowBody) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut failure = None;
        loop {
            match self.next(&mut failure)? {
                Message::DataRow(body) => {
                    if failure.is_none() {
                        failure = on_row(&body).err();
                    }
                }
                Message::CopyOutResponse(_) => {
                    failure.get_or_insert(Error::protocol(
                        "COPY TO STDOUT was sent as a plain statement; use copy_out",
                    ));
                }
                message => {
                    if let Some(result) = self.finish(message, &mut failure)? {
                        return result;
                    }
                }
            }
        }
    }

    /// What all answers have in common; gives the outcome when the answer is complete.
    fn finish(
        &mut self,
        message: Message,
        failure: &mut Option<Error>,
    ) -> Result<Option<Result<(), Error>>, Error> {
        match message {
            Message::ErrorResponse(body) => {
                failure.get_or_insert(Error::Server(Box::new(ServerError::read(body.fields()))));
            }
            Message::ReadyForQuery(body) => {
                self.status = match body.status() {
                    b'I' => TransactionStatus::Idle,
                    b'T' => TransactionStatus::Active,
                    _ => TransactionStatus::Failed,
                };
                self.sent.pop_front();
                return Ok(Some(failure.take().map_or(Ok(()), Err)));
            }
            Message::CopyInResponse(_) => {
                failure.get_or_insert(Error::protocol(
                    "COPY FROM STDIN was sent as a plain statement; use copy_in",
                ));
                self.send_copy_fail("not expected")?;
            }
            Message::RowDescription(_)
            | Message::DataRow(_)
            | Message::CommandComplete(_)
            | Message::CopyDone
            | Message::EmptyQueryResponse => {}
            _ => {
                return self.watch(Err(Error::protocol("a message came that no answer contains")));
            }
        }
        Ok(None)
    }

    fn send_copy_fail(&mut self, reason: &str) -> Result<(), Error> {
        let mut message = BytesMut::new();
        frontend::copy_fail(&reason.replace('\0', " "), &mut message)
            .map_err(|error| Error::protocol(format!("the reason can't be sent: {error}")))?;
        let sent = self.wire.transport.send(&message, "ending a COPY");
        self.watch(sent)
    }
}

/// A Query message. Made here because postgres-protocol takes UTF-8 only, and SQL is in the
/// client's encoding, which may be another one.
fn query_message(sql: &[u8]) -> Result<Vec<u8>, Error> {
    if sql.contains(&0) {
        return Err(Error::protocol("the SQL can't be sent: it has a NUL byte"));
    }
    let length = i32::try_from(sql.len() + 5)
        .map_err(|_| Error::protocol("the SQL can't be sent: it is longer than 2 GiB"))?;
    let mut message = Vec::with_capacity(sql.len() + 6);
    message.push(b'Q');
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(sql);
    message.push(0);
    Ok(message)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.broken && self.sent.is_empty() {
            let mut message = BytesMut::new();
            frontend::terminate(&mut message);
            // Courtesy only; the server also notices the end of the connection.
            let _ = self.wire.transport.send(&message, "closing");
        }
        self.wire.transport.close();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} pid {})", self.cancel.address.target, self.cancel.pid)
    }
}

fn is_fatal(failure: Option<&Error>) -> bool {
    failure.and_then(Error::server).is_some_and(ServerError::is_fatal)
}

/// `15.18 (Debian …)`, `18beta1`, `9.6.24`.
fn version_num(text: &str) -> u32 {
    let digits = |text: &str| -> String { text.chars().take_while(char::is_ascii_digit).collect() };
    let mut parts = text.split(['.', ' ']).map(|part| digits(part).parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0).min(9_999);
    match next() {
        0 => 0,
        major @ 1..10 => major * 10_000 + next() * 100 + next(),
        major => major * 10_000 + next(),
    }
}

#[cfg(test)]
mod tests {
    use super::version_num;

    #[test]
    fn versions_are_read_as_the_server_counts_them() {
        assert_eq!(version_num("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_num("18beta1"), 180_000);
        assert_eq!(version_num("18.0"), 180_000);
        assert_eq!(version_num("9.6.24"), 90_624);
        assert_eq!(version_num(""), 0);
    }
}
