//! The host's side: requests written by hand on a TCP socket.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use flexkeep_functions::{App, ServeError, logging::HostLayer};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tracing::{Level, subscriber::DefaultGuard};
use tracing_subscriber::layer::SubscriberExt as _;

/// No exchange of these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TIMER: &str = r#"{"bindings":[
    {"type":"timerTrigger","direction":"in","name":"myTimer","schedule":"0 */5 * * * *"},
    {"type":"serviceBus","direction":"out","name":"out1","queueName":"q","connection":"SB"},
    {"type":"serviceBus","direction":"out","name":"out2","queueName":"%Q2%","connection":"SB","dataType":"binary"},
    {"type":"blob","direction":"out","name":"file","path":"a/b","connection":"S"}]}"#;

pub(crate) const HTTP: &str = r#"{"bindings":[
    {"type":"httpTrigger","direction":"in","name":"req","authLevel":"function"},
    {"type":"http","direction":"out","name":"res"},
    {"type":"serviceBus","direction":"out","name":"out1","queueName":"q","connection":"SB"}]}"#;

/// A function.json for messages; `extra` is more of the trigger's keys, such as `"dataType":"binary",`.
pub(crate) fn service_bus(name: &str, extra: &str) -> String {
    format!(
        r#"{{"bindings":[{{{extra}"type":"serviceBusTrigger","direction":"in","name":"{name}",
            "queueName":"%Q%","connection":"SB"}}]}}"#
    )
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body, which every answer has as a JSON object.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        let value: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(value.is_object(), "{value}");
        value
    }

    pub(crate) fn error(&self) -> String {
        assert!(self.status >= 400, "{self:?}");
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// An app that is served, until dropped.
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Host {
    pub(crate) async fn start(app: App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or(()) };
        let server = tokio::spawn(app.serve_until(listener, stopped));
        Self { address, stop, server }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, reads one answer.
    pub(crate) async fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_reply(&mut stream).await
    }

    /// Invokes a function as the host does: chunked, with its headers.
    pub(crate) async fn invoke(&self, function: &str, body: &[u8]) -> Reply {
        self.raw(&invocation(function, body)).await
    }

    pub(crate) async fn invoke_fixture(&self, function: &str, name: &str) -> Reply {
        self.invoke(function, &fixture(name)).await
    }

    /// Asks it to stop, and waits for that.
    pub(crate) async fn stop(self) -> Result<(), ServeError> {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.server).await.unwrap().unwrap()
    }
}

pub(crate) fn invocation(function: &str, body: &[u8]) -> Vec<u8> {
    let mut request = head(function, "Transfer-Encoding: chunked").into_bytes();
    for chunk in body.chunks(4096) {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

pub(crate) fn head(function: &str, length: &str) -> String {
    format!(
        "POST /{function} HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\
         X-Azure-Functions-HostVersion: 4.1052.300.26370\r\n\
         X-Azure-Functions-InvocationId: 5b6c0000-1111-2222-3333-444455556666\r\n\
         User-Agent: Azure-Functions-Host/4.1052.300.26370\r\n\
         Content-Type: application/json; charset=utf-8\r\n{length}\r\n\r\n"
    )
}

pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    timeout(PATIENCE, async {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            let before = bytes.len();
            stream.read_buf(&mut bytes).await.unwrap();
            assert!(bytes.len() > before, "closed after {:?}", String::from_utf8_lossy(&bytes));
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HashMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        let mut body = bytes.split_off(end + 4);
        while body.len() < length {
            assert!(stream.read_buf(&mut body).await.unwrap() > 0, "closed in the body");
        }
        assert_eq!(body.len(), length);
        Reply { status, headers, body }
    })
    .await
    .expect("no answer in time")
}

/// What a function was called with.
pub(crate) struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Seen<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn put(&self, value: T) {
        self.0.lock().unwrap().push(value);
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub(crate) fn only(&self) -> T {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "calls");
        all.remove(0)
    }
}

/// The log lines of this thread (tests with logs run on one).
pub(crate) fn capture_logs() -> (Seen<(Level, String)>, DefaultGuard) {
    let lines = Seen::new();
    let writer = lines.clone();
    let layer = HostLayer::with_writer(move |level: Level, line: &str| {
        writer.put((level, line.to_owned()));
    });
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    (lines, guard)
}
