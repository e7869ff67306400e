//! How fast a server can send: runs COPY statements on raw connections and throws the bytes away.
//!
//! `copy_limit SOCKET USER DATABASE FILE...` opens one connection for each file and runs the
//! file's statements, one a line, over it. All connections work at the same time. It prints the
//! bytes of all rows and the seconds from the first connect to the last end. The server must
//! trust the user: there is nothing here but the limit that a backup is measured against.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// Larger ones were not faster.
const BUFFER: usize = 256 << 10;
/// A server that is silent for so long has a problem.
const SILENCE: Duration = Duration::from_secs(120);

type Result<T> = std::result::Result<T, String>;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, user, database, files @ ..] = &arguments[..] else {
        fail("usage: copy_limit SOCKET USER DATABASE FILE...");
    };
    let scripts: Vec<String> = files
        .iter()
        .map(|f| fs::read_to_string(f).unwrap_or_else(|e| fail(&format!("{f}: {e}"))))
        .collect();
    let start = Instant::now();
    let bytes: Result<Vec<u64>> = thread::scope(|scope| {
        let lanes: Vec<_> = scripts
            .iter()
            .map(|script| scope.spawn(|| lane(Path::new(socket), user, database, script)))
            .collect();
        lanes.into_iter().map(|l| l.join().expect("a lane returns its errors")).collect()
    });
    match bytes {
        Ok(bytes) => {
            let total: u64 = bytes.iter().sum();
            let line = format!("{total} bytes {:.3} seconds\n", start.elapsed().as_secs_f64());
            std::io::stdout().write_all(line.as_bytes()).unwrap_or_else(|e| fail(&e.to_string()));
        }
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ! {
    drop(writeln!(std::io::stderr(), "copy_limit: {message}"));
    process::exit(1)
}

/// Runs a script on a connection of its own; the bytes of all rows that came.
fn lane(socket: &Path, user: &str, database: &str, script: &str) -> Result<u64> {
    let mut connection = Connection::open(socket, user, database)?;
    let mut total = connection.until_ready()?;
    for statement in script.lines().filter(|line| !line.trim().is_empty()) {
        connection.send(b'Q', &[statement.as_bytes(), b"\0"].concat())?;
        total += connection.until_ready()?;
    }
    Ok(total)
}

struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    fn open(socket: &Path, user: &str, database: &str) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
        stream.set_read_timeout(Some(SILENCE)).map_err(|e| e.to_string())?;
        let mut startup = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database] {
            startup.extend_from_slice(text.as_bytes());
            startup.push(0);
        }
        startup.push(0);
        let length = u32::try_from(startup.len() + 4).map_err(|e| e.to_string())?;
        let mut connection = Self { stream, buffer: vec![0; BUFFER], start: 0, end: 0 };
        connection.write(&[&length.to_be_bytes()[..], &startup].concat())?;
        Ok(connection)
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(|e| e.to_string())?;
        self.write(&[&[kind][..], &length.to_be_bytes(), body].concat())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| format!("sending: {e}"))
    }

    /// Reads messages up to ReadyForQuery; the bytes of the CopyData among them.
    fn until_ready(&mut self) -> Result<u64> {
        let mut copied = 0;
        loop {
            while let Some((kind, body)) = self.next_message()? {
                match kind {
                    b'd' => copied += body.len() as u64,
                    b'E' => return Err(error_text(body)),
                    b'R' if body != [0; 4] => return Err("the server asks for a password".into()),
                    b'Z' => return Ok(copied),
                    _ => {}
                }
            }
            self.fill()?;
        }
    }

    /// The next message that is wholly in the buffer.
    fn next_message(&mut self) -> Result<Option<(u8, &[u8])>> {
        let have = &self.buffer[self.start..self.end];
        let [kind, a, b, c, d, ..] = *have else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 {
            return Err(format!("a message of length {length}"));
        }
        if have.len() <= length {
            // The server's own limit for a message is 1 GiB.
            if length >= self.buffer.len() {
                self.buffer.resize(length + 1 + BUFFER, 0);
            }
            return Ok(None);
        }
        let body = self.start + 5..self.start + 1 + length;
        self.start = body.end;
        Ok(Some((kind, &self.buffer[body])))
    }

    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => Err("the server closed the connection".into()),
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(e) => Err(format!("receiving: {e}")),
        }
    }
}

/// The message of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0);
    let message = fields.filter_map(|field| field.strip_prefix(b"M")).next();
    String::from_utf8_lossy(message.unwrap_or(body)).into_owned()
}
