//! A proxy before an HTTP service that makes the faults which networks and services make.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long either side may be silent.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest head of a request or an answer, bytes.
const MAX_HEAD: u64 = 64 << 10;

/// What goes wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFault {
    /// The connection breaks after that many bytes of the request's body; nothing is passed on.
    CutRequest(u64),
    /// The request takes effect, but the connection breaks before the answer.
    DropAnswer,
    /// The answer breaks off after that many bytes of its body.
    CutAnswer(u64),
    /// This status and error code are answered, with `Retry-After` if seconds are given; nothing
    /// is passed on.
    Answer(u16, &'static str, Option<u32>),
    /// It takes that long before anything is passed on.
    Delay(Duration),
    /// Nothing happens any more on this connection, which stays open.
    Freeze,
    /// One bit of the request's body is turned over: the one at this byte, modulo the length.
    FlipBit(u64),
}

/// Which requests a fault is for: a method (empty for all) and a text that the path and query
/// must have (empty for all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests(pub &'static str, pub &'static str);

impl Requests {
    /// All of them.
    pub const ALL: Self = Self("", "");
    /// Put Block.
    pub const BLOCKS: Self = Self("PUT", "comp=block&");
    /// Put Block List.
    pub const COMMITS: Self = Self("PUT", "comp=blocklist");

    fn matches(&self, method: &str, target: &str) -> bool {
        (self.0.is_empty() || self.0 == method) && target.contains(self.1)
    }
}

struct Rule {
    requests: Requests,
    skip: u32,
    times: u32,
    fault: HttpFault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<String>,
    random: Option<(u64, u64, Vec<HttpFault>)>,
}

/// Listens on a port of 127.0.0.1 and passes HTTP/1.1 on to another one, one request to a
/// connection. Gone when it is dropped.
pub struct FaultProxy {
    port: u16,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FaultProxy {
    /// A proxy before the service on that port, without faults so far.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let state = Arc::new(Mutex::new(State::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&state), Arc::clone(&ended));
        thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(serve(client, upstream, &shared, &stop)));
            }
        });
        Self { port, state, ended }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next `times` such requests have this fault. Of several faults for a request the one
    /// that was given first is made.
    pub fn fail(&self, requests: Requests, times: u32, fault: HttpFault) {
        self.fail_later(requests, 0, times, fault);
    }

    /// As [`FaultProxy::fail`], after the first `skip` such requests.
    pub fn fail_later(&self, requests: Requests, skip: u32, times: u32, fault: HttpFault) {
        self.lock().rules.push(Rule { requests, skip, times, fault });
    }

    /// About `per_mille` of all requests have one of these faults; the same seed gives the same
    /// faults to the same sequence of requests.
    pub fn fail_at_random(&self, seed: u64, per_mille: u64, faults: &[HttpFault]) {
        self.lock().random = Some((seed, per_mille, faults.to_vec()));
    }

    /// No more faults; those that freeze or delay go on.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.random = None;
    }

    /// Method and target of all requests so far, as in `PUT /account/container/blob?comp=block`.
    pub fn seen(&self) -> Vec<String> {
        self.lock().seen.clone()
    }

    /// How many such requests there were.
    pub fn count(&self, requests: Requests) -> usize {
        let seen = self.seen();
        let matching = seen.iter().filter_map(|line| line.split_once(' '));
        matching.filter(|(method, target)| requests.matches(method, target)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the listener up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn fault(&mut self, method: &str, target: &str) -> Option<HttpFault> {
        self.seen.push(format!("{method} {target}"));
        for rule in self.rules.iter_mut().filter(|r| r.requests.matches(method, target)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 {
                rule.times -= 1;
                return Some(rule.fault.clone());
            }
        }
        let (seed, per_mille, faults) = self.random.as_mut()?;
        // SplitMix64.
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z % 1000 < *per_mille && !faults.is_empty())
            .then(|| faults[(z >> 32) as usize % faults.len()].clone())
    }
}

/// A request's or an answer's head.
struct Head {
    first: String,
    lines: Vec<String>,
}

impl Head {
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut from = from.take(MAX_HEAD);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                let mut lines = lines.into_iter();
                return Ok(lines.next().map(|first| Self { first, lines: lines.collect() }));
            }
            lines.push(line);
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn length(&self) -> u64 {
        self.value("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// As bytes, with `Connection: close`: one request to a connection.
    fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{}\r\nconnection: close\r\n", self.first);
        let hop = ["connection", "keep-alive", "expect"];
        for line in &self.lines {
            let name = line.split(':').next().unwrap_or_default();
            if !hop.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                out += line;
                out += "\r\n";
            }
        }
        (out + "\r\n").into_bytes()
    }
}

fn serve(
    client: TcpStream,
    upstream: u16,
    state: &Mutex<State>,
    ended: &AtomicBool,
) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    client.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
    let mut parts = head.first.split(' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let fault = lock(state).fault(method, target);
    match fault {
        Some(HttpFault::CutRequest(bytes)) => {
            io::copy(&mut reader.take(bytes.min(head.length())), &mut io::sink())?;
            client.shutdown(Shutdown::Both)
        }
        Some(HttpFault::Answer(status, code, retry_after)) => {
            io::copy(&mut reader.take(head.length()), &mut io::sink())?;
            answer(&client, method, status, code, retry_after)
        }
        Some(HttpFault::Freeze) => {
            let end = Instant::now() + Duration::from_secs(600);
            while !ended.load(Ordering::SeqCst) && Instant::now() < end {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        fault => {
            if let Some(HttpFault::Delay(pause)) = fault {
                thread::sleep(pause);
            }
            pass_on(&client, reader, &head, upstream, fault.as_ref())
        }
    }
}

fn answer(
    mut client: &TcpStream,
    method: &str,
    status: u16,
    code: &str,
    retry_after: Option<u32>,
) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Made by the \
         fault proxy.</Message></Error>"
    );
    let retry = retry_after.map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} Fault\r\nconnection: close\r\nx-ms-error-code: {code}\r\n{retry}\
         content-type: application/xml\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    if method != "HEAD" {
        client.write_all(body.as_bytes())?;
    }
    client.shutdown(Shutdown::Write)
}

fn pass_on(
    mut client: &TcpStream,
    reader: BufReader<TcpStream>,
    head: &Head,
    upstream: u16,
    fault: Option<&HttpFault>,
) -> io::Result<()> {
    let mut service = TcpStream::connect(("127.0.0.1", upstream))?;
    service.set_read_timeout(Some(SILENCE))?;
    service.set_write_timeout(Some(SILENCE))?;
    service.write_all(&head.bytes())?;
    let mut body = reader.take(head.length());
    if let Some(HttpFault::FlipBit(at)) = fault {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        let length = bytes.len().max(1) as u64;
        if let Some(byte) = bytes.get_mut((at % length) as usize) {
            *byte ^= 1;
        }
        service.write_all(&bytes)?;
    } else {
        io::copy(&mut body, &mut service)?;
    }
    let mut answer = BufReader::new(service);
    let Some(mut head) = Head::read(&mut answer)? else { return client.shutdown(Shutdown::Both) };
    while head.first.starts_with("HTTP/1.1 100") {
        let Some(next) = Head::read(&mut answer)? else { return client.shutdown(Shutdown::Both) };
        head = next;
    }
    match fault {
        Some(HttpFault::DropAnswer) => {
            io::copy(&mut answer, &mut io::sink())?;
        }
        Some(HttpFault::CutAnswer(bytes)) => {
            client.write_all(&head.bytes())?;
            io::copy(&mut answer.take(*bytes), &mut client)?;
        }
        _ => {
            client.write_all(&head.bytes())?;
            // Ours is the last request on this connection, so that the service closes it.
            io::copy(&mut answer, &mut client)?;
        }
    }
    client.shutdown(Shutdown::Both)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that answers every request with its body.
    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let Ok(Some(head)) = Head::read(&mut reader) else { continue };
                let mut body = Vec::new();
                reader.take(head.length()).read_to_end(&mut body).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                // The proxy may have broken the connection.
                drop(stream.write_all(head.as_bytes()));
                drop(stream.write_all(&body));
            }
        });
        port
    }

    fn send(port: u16, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head =
            format!("PUT /x?comp=block&a=1 HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        drop(stream.write_all(body));
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader).ok().flatten();
        let mut answer = Vec::new();
        drop(reader.read_to_end(&mut answer));
        (head.map(|head| head.first).unwrap_or_default(), answer)
    }

    #[test]
    fn faults_come_as_ordered_and_then_end() {
        let proxy = FaultProxy::start(echo());
        proxy.fail(Requests::BLOCKS, 1, HttpFault::Answer(503, "ServerBusy", Some(1)));
        proxy.fail(Requests("PUT", ""), 1, HttpFault::DropAnswer);
        proxy.fail(Requests::ALL, 1, HttpFault::CutAnswer(2));
        proxy.fail(Requests::ALL, 1, HttpFault::FlipBit(1));
        proxy.fail(Requests::ALL, 1, HttpFault::CutRequest(1));
        let (head, body) = send(proxy.port(), b"hello");
        assert!(head.contains("503"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("ServerBusy"));
        assert_eq!(send(proxy.port(), b"hello"), (String::new(), vec![]));
        assert_eq!(send(proxy.port(), b"hello").1, b"he");
        assert_eq!(send(proxy.port(), b"hello").1, b"hdllo");
        assert_eq!(send(proxy.port(), b"hello"), (String::new(), vec![]));
        assert_eq!(send(proxy.port(), b"hello").1, b"hello");
        assert_eq!(proxy.count(Requests::BLOCKS), 6);
        assert_eq!(proxy.seen()[0], "PUT /x?comp=block&a=1");
    }
}
