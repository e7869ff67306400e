//! A TLS session over a socket that someone else owns.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::Socket;

use super::binding;

/// Bytes read from the socket at once; rustls alone would read 4 KiB.
const INPUT: usize = 128 * 1024;

/// The TLS state and the bytes that came but are not decrypted yet.
pub(crate) struct TlsStream {
    session: ClientConnection,
    target: String,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl TlsStream {
    pub(crate) fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        target: String,
    ) -> Result<Self, rustls::Error> {
        let session = ClientConnection::new(config, name)?;
        Ok(TlsStream { session, target, input: vec![0; INPUT], start: 0, end: 0 })
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// The protocol chosen by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// The data of the channel binding `tls-server-end-point`, if the certificate has one.
    pub(crate) fn server_end_point(&self) -> Option<Vec<u8>> {
        binding::server_end_point(self.session.peer_certificates()?.first()?)
    }

    /// Goes on with the handshake; true when it is done. An error may mean to wait and call again.
    pub(crate) fn handshake_step(&mut self, socket: &Socket) -> io::Result<bool> {
        self.flush(socket)?;
        if !self.session.is_handshaking() {
            return Ok(true);
        }
        if self.receive(socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(false)
    }

    /// Reads decrypted bytes: as many as came, at least one unless the session has ended.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(filled),
                Err(error) => return Err(error),
            }
            // More only if it costs no wait.
            if filled > 0 && (filled == buffer.len() || self.start == self.end) {
                return Ok(filled);
            }
            if self.receive(socket)? == 0 && filled == 0 && !self.session.wants_read() {
                return Ok(0);
            }
        }
    }

    /// Gives rustls what is in the input, after reading if that is empty.
    fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        if self.start == self.end {
            let got = { socket }.read(&mut self.input)?;
            self.start = 0;
            self.end = got;
        }
        let taken = self.session.read_tls(&mut &self.input[self.start..self.end])?;
        self.start += taken;
        if let Err(error) = self.session.process_new_packets() {
            // The alert that tells the server why; it does not matter if it fails.
            let _ = self.flush(socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        // Answers to key updates; what does not fit now goes out with the next write.
        if !self.session.is_handshaking() {
            let _ = self.flush(socket);
        }
        Ok(taken)
    }

    /// Encrypts some bytes and sends what it can; returns how many were taken.
    pub(crate) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        self.session.writer().write(bytes)
    }

    /// Sends all that is encrypted.
    pub(crate) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut { socket })?;
        }
        Ok(())
    }

    pub(crate) fn close(&mut self, socket: &Socket) {
        self.session.send_close_notify();
        // The peer may be gone; the connection is closed next anyway.
        let _ = self.flush(socket);
    }
}
