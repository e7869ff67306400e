//! Ending from another thread what a connection is doing.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::config::Keepalive;
use crate::connect::{Encryption, encrypt};
use crate::dial::{self, Address};
use crate::error::Error;
use crate::tls::TlsSetup;
use crate::transport::{Aborter, Transport};

/// The longest time for a cancel request.
const WAIT: Duration = Duration::from_secs(10);

/// Where a cancel request goes, and for which session.
#[derive(Clone)]
pub(crate) struct CancelTarget {
    pub(crate) address: Address,
    pub(crate) keepalive: Keepalive,
    /// How to encrypt, where the session itself is encrypted; true: without asking first.
    pub(crate) tls: Option<(TlsSetup, bool)>,
    pub(crate) pid: i32,
    pub(crate) key: i32,
}

/// Ends a statement or a whole connection from another thread; see [`crate::Connection::cancel_handle`].
#[derive(Clone)]
pub struct CancelHandle {
    pub(crate) target: CancelTarget,
    pub(crate) aborter: Aborter,
}

impl CancelHandle {
    /// Asks the server to cancel what the connection is running, on a connection of its own, within 10 s.
    ///
    /// The statement then fails with SQLSTATE 57014, unless it is finished already: success here
    /// only means that the request was taken.
    ///
    /// # Errors
    /// The request could not be delivered.
    pub fn cancel(&self) -> Result<(), Error> {
        let started = Instant::now();
        let target = &self.target;
        let socket = dial::connect(&target.address, &target.keepalive, WAIT)?;
        let mut transport = Transport::new(socket, started, WAIT)
            .map_err(|source| Error::Closed { during: "cancelling", source: Some(source) })?;
        if let Some((setup, direct)) = &target.tls {
            let name = &target.address.target;
            encrypt(&mut transport, setup, *direct, Encryption::Always, name)?;
        }
        let mut message = BytesMut::new();
        frontend::cancel_request(target.pid, target.key, &mut message);
        transport.send(&message, "cancelling")?;
        // The server answers by closing, after it has passed the signal on.
        match transport.read(&mut [0], "cancelling") {
            Err(Error::TimedOut { during, waited }) => Err(Error::TimedOut { during, waited }),
            _ => Ok(()),
        }
    }

    /// Ends the connection at once: a thread that waits on it returns [`Error::Closed`].
    ///
    /// The server notices when it next sends or reads; call [`CancelHandle::cancel`] before this to stop a
    /// long statement too.
    pub fn abort(&self) {
        self.aborter.abort();
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelHandle({} pid {})", self.target.address.target, self.target.pid)
    }
}
