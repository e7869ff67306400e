//! The function app as users run it: `flexkeep host`, the real handler process, and files.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use flexkeep_bus::{LocalQueues, Message};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::handler;
use crate::vaulted::flexkeep_command;
use crate::{Running, Server, run};

/// How long the host may take to listen, and to stop.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The queue of backups.
const QUEUE: &str = "backups";

/// The queue of lanes.
const LANES: &str = "lanes";

/// The queue of restores and drills.
const RESTORES: &str = "restores";

/// A function app in a folder of its own; what runs of it is killed when it is dropped.
pub struct TestApp {
    folder: TempDir,
    settings: Vec<(String, String)>,
    host: Option<(Running, SocketAddr)>,
}

impl TestApp {
    /// An app whose policy has the server under the name `src`, weekly; its timer never fires by
    /// itself.
    pub fn new(server: &Server) -> Self {
        let app = Self::without_policy();
        app.write_policy(&app.policy_of(server, "src", ""));
        app
    }

    /// An app without a policy file.
    pub fn without_policy() -> Self {
        let folder = tempfile::Builder::new().prefix("fka-").tempdir_in("/tmp");
        let folder = folder.expect("a folder in /tmp");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
        let mut command = Command::new(root.join("scripts/app.sh"));
        run(command.arg(handler()).arg(folder.path().join("app")), START_LIMIT).expect_success();
        let mut app = Self { folder, settings: Vec::new(), host: None };
        // Far away: 29 February, where a test does not ask for another.
        app.set("FLEXKEEP_TICK", "0 0 0 29 2 *");
        app
    }

    /// The text of a policy for one server, with more lines for it.
    pub fn policy_of(&self, server: &Server, name: &str, more: &str) -> String {
        let connection = server.conninfo("postgres").replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "[vault]\nplace = {:?}\n\n[[server]]\nname = \"{name}\"\nconnection = \"{connection}\"\n\
             schedule = {{ every = \"week\", on = \"sunday\", at = \"02:30\", zone = \"UTC\" }}\n{more}\n",
            self.place().display().to_string()
        )
    }

    /// Lines of a policy for a target that restores may go to, as the server's superuser.
    pub fn target_of(&self, server: &Server, name: &str, more: &str) -> String {
        let connection = server.conninfo("postgres").replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "\n[[target]]\nname = \"{name}\"\nconnection = \"{connection}\"\nlanes = 2\n{more}\n"
        )
    }

    /// Backs a server up under the name `src`, with the command and not by way of the app.
    #[track_caller]
    pub fn back_up(&self, server: &Server) -> String {
        let from = server.conninfo("postgres");
        let mut command = flexkeep_command(&["backup", "-q", "--name", "src", "--from", &from]);
        command.arg("--pg-bin").arg(server.version().bin()).arg("--vault").arg(self.place());
        run(&mut command, Duration::from_secs(150)).expect_success().text().trim().to_owned()
    }

    /// Replaces the policy.
    pub fn write_policy(&self, text: &str) {
        fs::write(self.root().join("policy.toml"), text).expect("our own folder");
    }

    /// Sets an app setting, for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// The app's root.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    /// The vault.
    pub fn place(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    /// Starts the host and waits until it listens.
    #[track_caller]
    pub fn start(&mut self, server: &Server) {
        self.set("FLEXKEEP_PG_BIN", &server.version().bin().display().to_string());
        let example = self.root().join("local.settings.example.json");
        let text = fs::read_to_string(example).expect("app.sh put it there");
        let mut json: Value = serde_json::from_str(&text).expect("the example is JSON");
        for (name, value) in &self.settings {
            json["Values"][name] = Value::from(value.as_str());
        }
        fs::write(self.root().join("local.settings.json"), json.to_string()).expect("our folder");
        let mut command = flexkeep_command(&["host", "--listen", "127.0.0.1:0", "--app"]);
        let running = Running::start(command.arg(self.root()));
        let address = wait_for("the host listens", START_LIMIT, || {
            let log = running.errors_so_far();
            let at = log.find("listening on http://")? + "listening on http://".len();
            log[at..].split_whitespace().next()?.parse().ok()
        });
        self.host = Some((running, address));
    }

    /// What the host has logged since it was started.
    pub fn log(&self) -> String {
        self.host.as_ref().map(|(running, _)| running.errors_so_far()).unwrap_or_default()
    }

    /// The process of the host.
    #[track_caller]
    pub fn host_pid(&self) -> u32 {
        self.host.as_ref().expect("the host runs").0.pid()
    }

    /// Whether the host was started and has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.host.as_mut().is_some_and(|(running, _)| running.is_running())
    }

    /// The process of the handler that was started last.
    #[track_caller]
    pub fn handler_pid(&self) -> u32 {
        wait_for("the handler is started", START_LIMIT, || self.last_handler())
    }

    /// The handler that was started last, if it still runs.
    pub fn live_handler(&self) -> Option<u32> {
        let pid = self.last_handler()?;
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        program.starts_with(self.folder.path()).then_some(pid)
    }

    fn last_handler(&self) -> Option<u32> {
        let log = self.log();
        let at = log.rfind("started the handler")?;
        let rest = &log[at..];
        let at = rest.find("pid=")? + "pid=".len();
        rest[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// The folder of all that is this app's.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGKILL for the host; what it leaves behind has to care for itself.
    pub fn kill_host(&mut self) {
        if let Some((running, _)) = self.host.take() {
            running.kill_nine();
            drop(running);
        }
    }

    /// SIGTERM for the host, which must end in time and well.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some((running, _)) = self.host.take() {
            running.terminate();
            running.finish(START_LIMIT).expect_success();
        }
    }

    /// The events so far. Each line must be a whole event.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let text = match fs::read_to_string(self.root().join("state/events.jsonl")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("the events cannot be read: {error}"),
        };
        // A line that is being written has no end yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("no event: {e}: {line}"))
            })
            .collect()
    }

    /// The events of a type, such as `backup.completed`.
    #[track_caller]
    pub fn events_of(&self, type_: &str) -> Vec<Value> {
        let type_ = format!("flexkeep.{type_}");
        self.events().into_iter().filter(|event| event["type"] == type_.as_str()).collect()
    }

    /// Waits for an event of a type, and gives the first.
    #[track_caller]
    pub fn wait_for_event(&self, type_: &str, limit: Duration) -> Value {
        let full = format!("flexkeep.{type_}");
        self.wait_for_an_event(type_, limit, |event| event["type"] == full.as_str())
    }

    /// Waits for the event with an id.
    #[track_caller]
    pub fn wait_for_event_id(&self, id: &str, limit: Duration) -> Value {
        self.wait_for_an_event(id, limit, |event| event["id"] == id)
    }

    #[track_caller]
    fn wait_for_an_event(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + limit;
        loop {
            let events = self.events();
            if let Some(event) = events.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            if Instant::now() > until {
                let ids: Vec<_> =
                    events.iter().map(|event| (&event["id"], &event["data"]["why"])).collect();
                let counts = self.queues().counts(QUEUE);
                panic!("no event {what} in {limit:?}; {counts:?}, {ids:#?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The queues, as any process may open them.
    pub fn queues(&self) -> LocalQueues {
        let path = self.root().join("state/queues.db");
        LocalQueues::open(&path).expect("the host has made the queues")
    }

    /// Puts a message into the queue of backups.
    #[track_caller]
    pub fn send(&self, id: &str, body: &str) {
        self.queues().send(QUEUE, &Message::new(id, body.as_bytes())).expect("a message is sent");
    }

    /// Puts a message into the queue of restores.
    #[track_caller]
    pub fn send_restore(&self, id: &str, body: &str) {
        let sent = self.queues().send(RESTORES, &Message::new(id, body.as_bytes()));
        sent.expect("a message is sent");
    }

    /// Lets this app, before it is started, share the queues, events, policy and vault of another:
    /// two hosts, as two instances of one function app.
    pub fn share(&mut self, other: &Self) {
        let state = other.root().join("state");
        self.set("FLEXKEEP_BUS", &format!("sqlite:{}", state.join("queues.db").display()));
        self.set("FLEXKEEP_EVENTS", &format!("file:{}", state.join("events.jsonl").display()));
        self.set("FLEXKEEP_POLICY", &other.root().join("policy.toml").display().to_string());
    }

    /// Waits until no message waits, is locked, or is to come, and none was put aside.
    #[track_caller]
    pub fn wait_until_drained(&self, limit: Duration) {
        let queues = self.queues();
        for queue in [QUEUE, LANES, RESTORES] {
            wait_for("the queue is drained", limit, || {
                let counts = queues.counts(queue).expect("counts");
                (counts.active + counts.locked + counts.scheduled == 0).then_some(())
            });
            let dead = queues.counts(queue).expect("counts").dead;
            assert_eq!(dead, 0, "dead letters\n{}", self.log());
        }
    }

    /// A request to the host: the status, and the body as JSON or null.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let (_, address) = self.host.as_ref().expect("the host runs");
        let url = format!("http://{address}{path}");
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let request = ureq::http::Request::builder().method(method).uri(&url);
        let request = request.header("content-type", "application/json");
        let answer = match body {
            Some(body) => agent.run(request.body(body).expect("a request")),
            None => agent.run(request.body(()).expect("a request")),
        };
        let mut answer = answer.unwrap_or_else(|e| panic!("{method} {url}: {e}\n{}", self.log()));
        let body = answer.body_mut().read_to_string().expect("an answer is text");
        let body = serde_json::from_str(&body).unwrap_or(Value::Null);
        (answer.status().as_u16(), body)
    }

    /// The URL of the host.
    #[track_caller]
    pub fn url(&self) -> String {
        format!("http://{}", self.host.as_ref().expect("the host runs").1)
    }

    /// Runs a function that is not for HTTP, at once.
    #[track_caller]
    pub fn run_function(&self, name: &str) {
        let path = format!("/admin/functions/{name}");
        let (status, body) = self.request("POST", &path, Some("{\"input\": \"\"}"));
        assert_eq!(status, 202, "{name} is run: {body}\n{}", self.log());
    }

    /// Ids of the sealed backups, oldest first.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        if !self.place().join("format.json").exists() {
            return Vec::new();
        }
        let mut command = flexkeep_command(&["list", "-q", "--vault"]);
        let out = run(command.arg(self.place()), START_LIMIT).expect_success();
        out.text().lines().map(str::to_owned).collect()
    }

    /// Checks an event against docs/events.schema.json.
    #[track_caller]
    pub fn assert_events_keep_the_schema(&self) {
        static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
        let schema = SCHEMA.get_or_init(|| {
            let text = include_str!("../../docs/events.schema.json");
            let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
            jsonschema::validator_for(&schema).expect("the schema is one")
        });
        for event in self.events() {
            let errors: Vec<String> = schema
                .iter_errors(&event)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert_eq!(errors, Vec::<String>::new(), "{event:#}");
        }
    }
}

/// Waits until `ready` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
