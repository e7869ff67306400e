//! What answers where a PostgreSQL server is expected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A listener that refuses every login with a text of its own, or says nothing at all.
pub struct FakeServer {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
}

impl FakeServer {
    /// Says that the server does not take connections now (57P03), with `text`.
    pub fn refusing(text: &str) -> Self {
        Self::starting(Some(answer("57P03", text)))
    }

    /// Says that the login is wrong (28P01), with `text`.
    pub fn denying(text: &str) -> Self {
        Self::starting(Some(answer("28P01", text)))
    }

    /// Takes connections and never says a word.
    pub fn silent() -> Self {
        Self::starting(None)
    }

    fn starting(answer: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                match &answer {
                    Some(answer) => refuse(stream, answer),
                    None => kept.push(stream),
                }
            }
        });
        Self { address, connections }
    }

    pub fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=backup dbname=postgres sslmode=disable",
            self.address.port()
        )
    }

    /// How often somebody came.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An ErrorResponse.
fn answer(sqlstate: &str, text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0");
    let mut message = vec![b'E'];
    let length = u32::try_from(fields.len() + 4).expect("a short text");
    message.extend(length.to_be_bytes());
    message.extend(fields.as_bytes());
    message
}

/// Waits for the startup packet, so that the answer is not lost in a reset.
fn refuse(mut stream: TcpStream, answer: &[u8]) {
    let mut startup = [0; 4096];
    let _ = stream.read(&mut startup);
    let _ = stream.write_all(answer);
}
