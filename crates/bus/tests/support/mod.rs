//! What the tests of the queues share.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use flexkeep_bus::{Clock, Delivery, LocalQueues, Message, QueueOptions, Sent};
use jiff::Timestamp;

/// The queue of most tests.
pub const QUEUE: &str = "backups";

/// A clock that moves when it is told to.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as i64, Ordering::SeqCst);
    }

    pub fn back(&self, by: Duration) {
        self.0.fetch_sub(by.as_micros() as i64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).expect("a time of this century")
    }
}

/// A queue file with one queue and a clock of its own.
pub struct Bench {
    pub queues: LocalQueues,
    pub clock: Arc<ManualClock>,
    /// Removed with the bench.
    _folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(&QueueOptions::default())
    }

    pub fn with(options: &QueueOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let start = AtomicI64::new(1_795_000_000_000_000);
        let clock = Arc::new(ManualClock(start));
        let path = folder.path().join("queues.db");
        let queues = LocalQueues::open_with_clock(&path, clock.clone()).expect("a new file");
        queues.declare(QUEUE, options).expect("a queue");
        Self { queues, clock, _folder: folder }
    }

    /// The same file through another connection, as another process would have it.
    pub fn reopened(&self) -> LocalQueues {
        LocalQueues::open_with_clock(self.queues.path(), self.clock.clone()).expect("the file")
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn send(&self, message: &Message) -> Sent {
        self.queues.send(QUEUE, message).expect("a message is sent")
    }

    pub fn send_ids(&self, ids: &[&str]) {
        ids.iter().for_each(|id| assert_ne!(self.send(&text(id)), Sent::Duplicate));
    }

    pub fn receive(&self) -> Option<Delivery> {
        self.queues.receive(QUEUE, "test").expect("a queue is read")
    }

    pub fn expect(&self, id: &str) -> Delivery {
        let delivery = self.receive().unwrap_or_else(|| panic!("{id} is due"));
        assert_eq!(delivery.message.id, id);
        delivery
    }

    /// The ids in the order in which they come, each completed.
    pub fn drain(&self) -> Vec<String> {
        std::iter::from_fn(|| {
            let delivery = self.receive()?;
            self.queues.complete(&delivery.lock).expect("a fresh lock");
            Some(delivery.message.id)
        })
        .collect()
    }
}

/// A message about nothing but its id.
pub fn text(id: &str) -> Message {
    Message::new(id, format!("body of {id}"))
}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
