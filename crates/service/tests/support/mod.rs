//! What the tests of the service share: a policy file, a vault, a queue and an events file in a
//! folder of their own, with a clock that moves when it is told to.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "no test uses all of it")]

mod faults;
mod seal;
mod servers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use flexkeep_bus::{
    Clock, CloudEvent, Delivery, FileSink, LocalBus, LocalQueues, Message, QueueOptions,
};
use flexkeep_service::{
    BackupMessage, Incoming, Service, ServiceError, ServiceOptions, Ticked, Worked,
};
use flexkeep_vault::{FoldersOnly, Place, Vault};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

pub use faults::{Faults, ShakyBus, ShakySink};
pub use seal::{loss, seal, seal_losing};
pub use servers::FakeServer;

/// The queue of all tests.
pub const QUEUE: &str = "backups";

/// The queue of lanes.
pub const LANES: &str = "lanes";
/// The queue of restores.
pub const RESTORE_QUEUE: &str = "restores";

/// Part of every planted secret.
pub const SECRET: &str = "hunter2";

/// Where nobody listens: the port of tcpmux.
pub const NOWHERE: &str = "host=127.0.0.1 port=1 user=backup dbname=postgres";

/// A moment.
pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

pub const fn minutes(n: i64) -> SignedDuration {
    SignedDuration::from_mins(n)
}

pub const fn hours(n: i64) -> SignedDuration {
    SignedDuration::from_hours(n)
}

pub const fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

/// A clock that moves when it is told to.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_microsecond(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).expect("a time of this century")
    }
}

/// One `[[server]]` of a policy: a daily one at 01:30 UTC that nobody can reach and whose
/// requests are tried once, with further lines.
pub fn daily(name: &str, lines: &str) -> String {
    let schedule = "every = \"day\", at = \"01:30\", zone = \"UTC\", weekly_on = \"sunday\"";
    server(name, NOWHERE, schedule, lines)
}

/// One `[[server]]` of a policy.
pub fn server(name: &str, connection: &str, schedule: &str, lines: &str) -> String {
    let attempts = if lines.contains("max_attempts") { "" } else { "max_attempts = 1\n" };
    format!(
        "[[server]]\nname = \"{name}\"\nconnection = \"{connection}\"\n\
         schedule = {{ {schedule} }}\n{attempts}{lines}\n"
    )
}

/// A folder with all that a service needs.
pub struct Bench {
    pub folder: TempDir,
    pub clock: Arc<ManualClock>,
    pub queues: LocalQueues,
    pub bus: Arc<ShakyBus>,
    pub sink: Arc<ShakySink>,
    pub service: Service,
}

impl Bench {
    /// With a policy of these servers.
    pub fn new(servers: &[String]) -> Self {
        Self::with_queue(servers, &QueueOptions::default())
    }

    pub fn with_queue(servers: &[String], options: &QueueOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Arc::new(ManualClock(AtomicI64::new(0)));
        clock.set(at("2024-01-01T00:00:00Z"));
        let path = folder.path().join("queues.db");
        let queues = LocalQueues::open_with_clock(&path, clock.clone()).expect("a new file");
        queues.declare(QUEUE, options).expect("a queue");
        queues.declare(LANES, &QueueOptions::default()).expect("a queue");
        queues.declare(RESTORE_QUEUE, &QueueOptions::default()).expect("a queue");
        let bus = Arc::new(ShakyBus::new(LocalBus(queues.clone())));
        let sink = Arc::new(ShakySink::new(FileSink::new(folder.path().join("events.jsonl"))));
        let service = Service::new(options_of(&folder, bus.clone(), sink.clone()));
        let bench = Self { folder, clock, queues, bus, sink, service };
        bench.write_policy(servers);
        bench
    }

    /// The same with one daily server, `shop`, that nobody can reach.
    pub fn daily() -> Self {
        Self::new(&[daily("shop", "")])
    }

    /// Replaces the policy.
    pub fn write_policy(&self, servers: &[String]) {
        let place = self.folder.path().join("vault");
        let text = format!("[vault]\nplace = \"{}\"\n{}", place.display(), servers.join("\n"));
        self.write_policy_text(&text);
    }

    pub fn write_policy_text(&self, text: &str) {
        std::fs::write(self.folder.path().join("policy.toml"), text).expect("writes the policy");
    }

    /// The same files as another process would have them.
    pub fn reopened(&self) -> Service {
        let queues = LocalQueues::open_with_clock(self.queues.path(), self.clock.clone());
        let bus = Arc::new(LocalBus(queues.expect("the file")));
        let sink = Arc::new(FileSink::new(self.folder.path().join("events.jsonl")));
        Service::new(options_of(&self.folder, bus, sink))
    }

    pub fn vault(&self) -> Vault {
        let place = Place::Folder(self.folder.path().join("vault"));
        Vault::open_or_create(&place, &FoldersOnly).expect("a vault")
    }

    /// The file with what is remembered of a server.
    pub fn record_path(&self, server: &str) -> PathBuf {
        self.folder.path().join(format!("vault/schedule/{server}.json"))
    }

    pub fn record(&self, server: &str) -> serde_json::Value {
        let body = std::fs::read(self.record_path(server)).expect("a record");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Ticks at `now`, by the queue's clock too.
    pub async fn tick(&self, now: Timestamp) -> Result<Ticked, ServiceError> {
        self.clock.set(now);
        self.service.tick(now).await
    }

    /// Takes what is on the queue now, without working on it.
    pub fn drain(&self) -> Vec<BackupMessage> {
        std::iter::from_fn(|| self.take()).map(|delivery| parsed(&delivery.message)).collect()
    }

    /// Takes one message for good.
    pub fn take(&self) -> Option<Delivery> {
        let delivery = self.queues.receive(QUEUE, "test").expect("a queue is read")?;
        self.queues.complete(&delivery.lock).expect("a fresh lock");
        Some(delivery)
    }

    /// Works on the next message as a host does: it is done if that succeeds, and comes again if
    /// not.
    pub async fn work_one(&self) -> Option<Result<Worked, ServiceError>> {
        let delivery = self.queues.receive(QUEUE, "test").expect("a queue is read")?;
        let worked = self.service.work(incoming(&delivery.message, delivery.delivery_count)).await;
        match &worked {
            Ok(_) => self.queues.complete(&delivery.lock).expect("a fresh lock"),
            Err(_) => drop(self.queues.abandon(&delivery.lock).expect("a fresh lock")),
        }
        Some(worked)
    }

    /// Works on all that is on the queue now.
    pub async fn work_all(&self) -> Vec<Worked> {
        let mut all = Vec::new();
        while let Some(worked) = self.work_one().await {
            all.push(worked.expect("the message is answered"));
        }
        all
    }

    /// Works on the message, which must not be on the queue.
    pub async fn work(&self, message: &BackupMessage) -> Result<Worked, ServiceError> {
        self.service.work(incoming(&queued(message), 1)).await
    }

    /// Moves the clock to when the next message that was put off is due.
    pub fn forward_to_next_message(&self) {
        let due = self.queues.next_due(QUEUE).expect("a queue is read");
        self.clock.set(due.expect("a message waits").max(self.clock.now()));
    }

    /// All messages on the queue, due or not.
    pub fn waiting(&self) -> Vec<BackupMessage> {
        let peeked = self.queues.peek(QUEUE, 1000).expect("a queue is read");
        peeked.iter().map(|peeked| parsed(&peeked.message)).collect()
    }

    /// What was told, in order.
    pub fn events(&self) -> Vec<CloudEvent> {
        let text = match std::fs::read_to_string(self.folder.path().join("events.jsonl")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("the events: {error}"),
        };
        text.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect()
    }

    /// What was told of one type.
    pub fn events_of(&self, type_: &str) -> Vec<CloudEvent> {
        let mut events = self.events();
        events.retain(|event| event.type_ == format!("flexkeep.{type_}"));
        events
    }

    /// The ids of what was told of one type, in order.
    pub fn ids_of(&self, type_: &str) -> Vec<String> {
        self.events_of(type_).into_iter().map(|event| event.id).collect()
    }

    /// All that was written anywhere: vault, queue, events.
    pub fn all_bytes(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((path.clone(), std::fs::read(&path).expect("a file")));
                }
            }
        }
        found
    }
}

fn options_of(
    folder: &TempDir,
    bus: Arc<dyn flexkeep_bus::Bus>,
    sink: Arc<dyn flexkeep_bus::EventSink>,
) -> ServiceOptions {
    ServiceOptions {
        stores: Arc::new(FoldersOnly),
        policy: folder.path().join("policy.toml"),
        env: Arc::new(env),
        queue: QUEUE.to_owned(),
        lanes: LANES.to_owned(),
        lane_budget: std::time::Duration::from_secs(480),
        progress_every: None,
        restore_queue: RESTORE_QUEUE.to_owned(),
        bus,
        sink,
        pg_bin: None,
        tool: "flexkeep test".to_owned(),
    }
}

/// The environment of all policies.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "SHOP_PASSWORD" => "hunter2 with 'quotes' and blanks",
        "SHOP_TARGET" => "host=127.0.0.1 port=1 user=backup dbname=shop password=hunter2",
        "BROKEN_TARGET" => "host=127.0.0.1 user=backup password=my hunter2",
        "EMPTY" => "",
        "NOT_RESOLVED" => "@Microsoft.KeyVault(SecretUri=https://hunter2.vault.azure.net/x)",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A message as the service puts it on the queue.
pub fn queued(message: &BackupMessage) -> Message {
    Message::json(message.message_id(), message).expect("a message")
}

/// A message as a host hands it over.
pub fn incoming(message: &Message, delivery_count: u32) -> Incoming {
    Incoming {
        body: message.body.clone(),
        message_id: message.id.clone(),
        delivery_count,
        deadline: None::<Instant>,
    }
}

/// The body of a message, which must be right.
pub fn parsed(message: &Message) -> BackupMessage {
    let parsed = BackupMessage::parse(&message.body, Timestamp::now()).expect("it can be read");
    if message.id != parsed.message_id() {
        // A request by hand may be sent again while the queue remembers the first.
        let id = message.id.rsplit_once('~').map(|(id, _)| id);
        assert_eq!(id, Some(parsed.message_id().as_str()), "its id follows from what it says");
        assert_eq!(parsed.instant, None, "only a request by hand is sent under several ids");
    }
    parsed
}

/// The request of a schedule for an instant that came `late` ago.
pub fn scheduled(server: &str, instant: Timestamp, late: SignedDuration) -> BackupMessage {
    let server = server.parse().expect("a name");
    BackupMessage::scheduled(&server, instant, instant + late, false)
}

/// A request by hand, made now.
pub fn by_hand(server: &str, key: &str) -> BackupMessage {
    let server = server.parse().expect("a name");
    BackupMessage::manual(&server, key, Timestamp::now()).expect("a good key")
}
