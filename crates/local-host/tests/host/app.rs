//! An app with the test handler, and a host that runs it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flexkeep_bus::{LocalQueues, Message, QueueOptions};
use flexkeep_local_host::{Host, HostError, HostEvent, HostExit, HostOptions, Settings};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing that a test waits for takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(40);

pub(crate) const QUEUE: &str = "jobs";

/// An app root in a temporary folder.
pub(crate) struct App {
    root: tempfile::TempDir,
    host_json: Value,
    pub(crate) settings: Settings,
}

impl App {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let control = root.path().join("control");
        std::fs::create_dir(&control).unwrap();
        let mut settings = Settings::default();
        settings.override_with([
            ("CONTROL", control.to_str().unwrap()),
            ("SB", "sqlite:queue.db"),
            ("QUEUE", QUEUE),
            ("TEST:Section__Value", "from the settings"),
        ]);
        let handler = env!("CARGO_BIN_EXE_local-host-test-handler");
        let host_json = json!({
            "version": "2.0",
            "customHandler": {"description": {"defaultExecutablePath": handler}},
        });
        let app = Self { root, host_json, settings };
        app.write_host_json();
        app
    }

    fn write_host_json(&self) {
        std::fs::write(self.root().join("host.json"), self.host_json.to_string()).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Sets a top-level key of host.json, or one of its customHandler.
    pub(crate) fn host_json(mut self, key: &str, value: Value) -> Self {
        match key.strip_prefix("customHandler.") {
            Some(key) => self.host_json["customHandler"][key] = value,
            None => self.host_json[key] = value,
        }
        self.write_host_json();
        self
    }

    /// `extensions.serviceBus`.
    pub(crate) fn service_bus(self, value: Value) -> Self {
        self.host_json("extensions", json!({"serviceBus": value}))
    }

    pub(crate) fn function(self, name: &str, bindings: Value) -> Self {
        let folder = self.root().join(name);
        std::fs::create_dir(&folder).unwrap();
        let text = json!({"bindings": bindings}).to_string();
        std::fs::write(folder.join("function.json"), text).unwrap();
        self
    }

    /// A function with a queue trigger `msg`, and whatever is given beside it.
    pub(crate) fn queue_function(self, name: &str, trigger: Value, outputs: &[Value]) -> Self {
        let mut binding = json!({
            "type": "serviceBusTrigger", "direction": "in", "name": "msg",
            "queueName": "%QUEUE%", "connection": "SB",
        });
        binding.as_object_mut().unwrap().extend(trigger.as_object().unwrap().clone());
        let mut bindings = vec![binding];
        bindings.extend_from_slice(outputs);
        self.function(name, Value::Array(bindings))
    }

    pub(crate) fn timer_function(self, name: &str, schedule: &str, more: Value) -> Self {
        let mut binding = json!({"type": "timerTrigger", "direction": "in", "name": "tick", "schedule": schedule});
        binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.function(name, json!([binding]))
    }

    pub(crate) fn http_function(self, name: &str, more: Value) -> Self {
        let mut binding = json!({"type": "httpTrigger", "direction": "in", "name": "req"});
        binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.function(name, json!([binding, {"type": "http", "direction": "out", "name": "res"}]))
    }

    pub(crate) fn control(&self, name: &str) -> PathBuf {
        self.root().join("control").join(name)
    }

    /// Says how a function answers from now on, or what a handler does at its start.
    pub(crate) fn behave(&self, name: &str, script: &str) {
        let new = self.control("new");
        std::fs::write(&new, script).unwrap();
        std::fs::rename(new, self.control(name)).unwrap();
    }

    /// The queue database, opened as another process would.
    pub(crate) fn queues(&self) -> LocalQueues {
        let queues = LocalQueues::open(&self.root().join("queue.db")).unwrap();
        if queues.queues().unwrap().is_empty() {
            queues.declare(QUEUE, &QueueOptions::default()).unwrap();
        }
        queues
    }

    pub(crate) fn send(&self, body: &str) {
        let id = format!("id-{body}").chars().take(100).collect::<String>();
        self.queues().send(QUEUE, &Message::new(id, body)).unwrap();
    }

    fn lines(&self, file: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.control(file)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the handler was asked so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.lines("requests.jsonl")
    }

    /// The bodies of the requests, parsed.
    pub(crate) fn envelopes(&self) -> Vec<Value> {
        let body =
            |request: &Value| serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
        self.requests().iter().map(body).collect()
    }

    /// How the handler was started so far.
    pub(crate) fn starts(&self) -> Vec<Value> {
        self.lines("starts.jsonl")
    }

    pub(crate) fn options(&self) -> HostOptions {
        let mut options = HostOptions::new(self.root(), self.settings.clone());
        options.http_addr.set_port(0);
        options
    }

    pub(crate) async fn start(&self) -> Running {
        self.start_with(self.options()).await
    }

    /// Starts a host and waits until it listens.
    pub(crate) async fn start_with(&self, mut options: HostOptions) -> Running {
        let (sender, events) = unbounded_channel();
        options.observer = Some(Arc::new(move |event: &HostEvent| {
            let _ = sender.send(event.clone());
        }));
        let host = Host::load(options).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(host.run(stop.clone().cancelled_owned()));
        let mut running =
            Running { events, stop, task, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        running.addr = running
            .until(|event| match event {
                HostEvent::Listening { addr } => Some(*addr),
                _ => None,
            })
            .await;
        running
    }
}

/// A host that runs.
pub(crate) struct Running {
    events: UnboundedReceiver<HostEvent>,
    stop: CancellationToken,
    task: JoinHandle<Result<HostExit, HostError>>,
    pub(crate) addr: SocketAddr,
}

/// How an invocation went.
#[derive(Debug)]
pub(crate) struct Invoked {
    pub(crate) ok: bool,
    pub(crate) error: String,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
}

impl Running {
    /// Waits for an event; those before it are gone.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&HostEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the host ended");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.expect("no such event in time")
    }

    /// Waits for the end of the next invocation of a function.
    pub(crate) async fn invoked(&mut self, name: &str) -> Invoked {
        self.until(|event| match event {
            HostEvent::Invoked { function, ok, error, .. } if function == name => {
                Some(Invoked { ok: *ok, error: error.clone().unwrap_or_default() })
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn ready(&mut self) -> u32 {
        self.until(|event| match event {
            HostEvent::Ready { pid, .. } => Some(*pid),
            _ => None,
        })
        .await
    }

    pub(crate) async fn listeners_started(&mut self) {
        self.until(|event| matches!(event, HostEvent::ListenersStarted).then_some(())).await;
    }

    /// The event, if it comes within some time.
    pub(crate) async fn within<T>(
        &mut self,
        time: Duration,
        wanted: impl FnMut(&HostEvent) -> Option<T>,
    ) -> Option<T> {
        tokio::time::timeout(time, self.until(wanted)).await.ok()
    }

    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the host, and waits for its end.
    pub(crate) async fn stop(self) -> HostExit {
        self.stop.cancel();
        self.exit().await
    }

    /// Waits for the host to end by itself.
    pub(crate) async fn exit(self) -> HostExit {
        tokio::time::timeout(LIMIT, self.task).await.expect("the host ends").unwrap().unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("http://{}{path}", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = tokio::time::timeout(LIMIT, client.request(request)).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.call("GET", path, &[], "").await
    }

    /// Runs a function through the admin API and waits for its end.
    pub(crate) async fn trigger(&self, function: &str, input: &str) -> Response {
        let body = json!({"input": input}).to_string();
        let path = format!("/admin/functions/{function}?wait=true");
        self.call("POST", &path, &[("content-type", "application/json")], &body).await
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
