//! A socket, perhaps with TLS, on which every wait has a limit.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::Error;
use crate::tls::TlsStream;

/// How long one system call may wait; a limit is met to about this much.
const SLICE: Duration = Duration::from_millis(250);

/// When waiting ends.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// While connecting: at this instant, whatever came before.
    Deadline { at: Instant, whole: Duration },
    /// Later: after this long a silence.
    Silence(Duration),
}

/// A socket and what is needed to end it from another thread.
pub(crate) struct Transport {
    socket: Arc<Socket>,
    tls: Option<Box<TlsStream>>,
    limit: Limit,
    slice: Duration,
    aborted: Arc<AtomicBool>,
    stop: Option<Arc<AtomicBool>>,
}

/// How long nothing has come.
#[derive(Default)]
pub(crate) struct Silence(Option<Instant>);

impl Transport {
    /// Takes over a connected socket; until [`Transport::set_stall_timeout`] is called
    /// everything must be done within `whole` from `started`.
    pub(crate) fn new(socket: Socket, started: Instant, whole: Duration) -> io::Result<Self> {
        let slice = SLICE.min(whole).max(Duration::from_millis(1));
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(slice))?;
        socket.set_write_timeout(Some(slice))?;
        Ok(Transport {
            socket: Arc::new(socket),
            tls: None,
            limit: Limit::Deadline { at: started + whole, whole },
            slice,
            aborted: Arc::default(),
            stop: None,
        })
    }

    /// Ends every wait when `stop` becomes true.
    pub(crate) fn stop_on(&mut self, stop: Option<Arc<AtomicBool>>) {
        self.stop = stop;
    }

    fn is_stopped(&self) -> bool {
        let set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Acquire);
        set(&self.aborted) || self.stop.as_ref().is_some_and(set)
    }

    /// From now on only silence of this length ends a wait.
    pub(crate) fn set_stall_timeout(&mut self, stall: Duration) -> io::Result<()> {
        let stall = stall.max(Duration::from_millis(10));
        self.slice = SLICE.min(stall);
        self.limit = Limit::Silence(stall);
        self.socket.set_read_timeout(Some(self.slice))?;
        self.socket.set_write_timeout(Some(self.slice))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        self.tls.as_deref()
    }

    pub(crate) fn aborter(&self) -> Aborter {
        Aborter { socket: Arc::clone(&self.socket), aborted: Arc::clone(&self.aborted) }
    }

    /// Sets up TLS on the connected socket.
    pub(crate) fn start_tls(&mut self, mut stream: Box<TlsStream>) -> Result<(), Error> {
        let mut silence = Silence::default();
        loop {
            match stream.handshake_step(&self.socket) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => self.waited(error, &mut silence, "setting up TLS")?,
            }
        }
        self.tls = Some(stream);
        Ok(())
    }

    /// Reads at least one byte.
    pub(crate) fn read(&mut self, buffer: &mut [u8], during: &'static str) -> Result<usize, Error> {
        let mut silence = Silence::default();
        if let Limit::Deadline { at, whole } = self.limit
            && Instant::now() >= at
        {
            return Err(Error::TimedOut { during, waited: whole });
        }
        loop {
            match self.read_once(buffer) {
                Ok(0) => return Err(Error::Closed { during, source: None }),
                Ok(n) => return Ok(n),
                Err(error) => self.waited(error, &mut silence, during)?,
            }
        }
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => (&*self.socket).read(buffer),
            Some(tls) => tls.read(&self.socket, buffer),
        }
    }

    /// Reads what is there already; `None` if nothing is.
    pub(crate) fn read_now(
        &mut self,
        buffer: &mut [u8],
        during: &'static str,
    ) -> Result<Option<usize>, Error> {
        let lost = |source| Error::Closed { during, source: Some(source) };
        self.socket.set_nonblocking(true).map_err(lost)?;
        let got = self.read_once(buffer);
        self.socket.set_nonblocking(false).map_err(lost)?;
        match got {
            Ok(0) => Err(Error::Closed { during, source: None }),
            Ok(n) => Ok(Some(n)),
            Err(error) if is_wait(&error) => Ok(None),
            Err(error) => Err(self.failed(error, during)),
        }
    }

    /// Sends everything.
    pub(crate) fn send(&mut self, mut bytes: &[u8], during: &'static str) -> Result<(), Error> {
        let mut silence = Silence::default();
        loop {
            match self.send_step(&mut bytes) {
                Ok(true) => return Ok(()),
                Ok(false) => silence = Silence::default(),
                Err(error) => self.waited(error, &mut silence, during)?,
            }
        }
    }

    /// Sends a part, cutting it from the front; true when nothing remains to be sent.
    pub(crate) fn send_step(&mut self, bytes: &mut &[u8]) -> io::Result<bool> {
        let sent = match &mut self.tls {
            None if bytes.is_empty() => 0,
            None => match (&*self.socket).write(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => sent,
            },
            Some(tls) => tls.write(&self.socket, bytes)?,
        };
        *bytes = &bytes[sent..];
        if !bytes.is_empty() {
            return Ok(false);
        }
        match &mut self.tls {
            Some(tls) => tls.flush(&self.socket).map(|()| true),
            None => Ok(true),
        }
    }

    /// What to make of a failed call: nothing while the limit is not reached, else its error.
    pub(crate) fn waited(
        &self,
        error: io::Error,
        silence: &mut Silence,
        during: &'static str,
    ) -> Result<(), Error> {
        if !is_wait(&error) {
            return Err(self.failed(error, during));
        }
        if self.is_stopped() {
            return Err(Error::Closed { during, source: Some(aborted()) });
        }
        let now = Instant::now();
        // The first slice has passed before anyone looked at the clock. An interrupted call may
        // have waited for less, so that the limit errs by a slice at most.
        let since = *silence.0.get_or_insert_with(|| now.checked_sub(self.slice).unwrap_or(now));
        match self.limit {
            Limit::Deadline { at, whole } if now >= at => {
                Err(Error::TimedOut { during, waited: whole })
            }
            Limit::Silence(limit) if now.duration_since(since) >= limit => {
                Err(Error::TimedOut { during, waited: now.duration_since(since) })
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, error: io::Error, during: &'static str) -> Error {
        if self.is_stopped() {
            return Error::Closed { during, source: Some(aborted()) };
        }
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Error::Tls {
                target: self.tls().map(|tls| tls.target().to_owned()).unwrap_or_default(),
                advice: crate::tls::advice(tls, during),
                source: Some(tls.clone()),
            };
        }
        Error::Closed { during, source: Some(error) }
    }

    /// Ends the TLS session, if there is one, and the connection.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&self.socket);
        }
        // It may be closed already; there is nothing left to do about it.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Ends a connection from another thread.
#[derive(Clone)]
pub(crate) struct Aborter {
    socket: Arc<Socket>,
    aborted: Arc<AtomicBool>,
}

impl Aborter {
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        // An error means that it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "aborted by this program")
}

fn is_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
