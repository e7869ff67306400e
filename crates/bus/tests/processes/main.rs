//! Many processes on one file, and processes that are killed.
//!
//! The tests start this program again with [`WORKER`] set: that is a worker process, whose modes
//! are in `worker`. What a worker did, it writes into a log: one line by one write, so that a
//! kill loses the last line at most.

mod log;
mod worker;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use flexkeep_bus::{CloudEvent, Counts, LocalQueues, QueueOptions};
use libtest_mimic::{Arguments, Failed, Trial};
use log::{Entry, read_log};

/// The mode of a worker process.
const WORKER: &str = "FLEXKEEP_BUS_TEST_WORKER";
/// The folder in which it works.
const FOLDER: &str = "FLEXKEEP_BUS_TEST_FOLDER";

const QUEUE: &str = "lanes";
const DEADLINE: Duration = Duration::from_secs(120);

fn main() {
    if let Ok(mode) = std::env::var(WORKER) {
        let folder = PathBuf::from(std::env::var_os(FOLDER).expect("a worker has a folder"));
        return worker::run(&mode, &folder);
    }
    let trials = vec![
        Trial::test("processes_never_hold_the_same_message_at_once", never_twice_at_once),
        Trial::test("kills_at_any_moment_lose_and_double_nothing", kills_lose_nothing),
        Trial::test("events_of_killed_writers_are_whole_and_none_is_lost", killed_event_writers),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A worker process, killed with its test.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(mode: &str, folder: &Path) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let child = Command::new(program)
            .env(WORKER, mode)
            .env(FOLDER, folder)
            .spawn()
            .expect("a worker process");
        Self { child }
    }

    /// SIGKILL: the process gets no chance to end well.
    fn kill(&mut self) {
        self.child.kill().expect("the worker is ours");
        self.child.wait().expect("it is gone");
    }

    fn finish(mut self) -> Result<(), Failed> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("a worker failed: {status}").into()),
                None if Instant::now() > deadline => return Err("a worker hangs".into()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open(folder: &Path) -> LocalQueues {
    LocalQueues::open(&folder.join("queues.db")).expect("the queue file")
}

fn never_twice_at_once() -> Result<(), Failed> {
    const MESSAGES: usize = 1000;
    let folder = tempfile::tempdir()?;
    let queues = open(folder.path());
    queues.declare(QUEUE, &QueueOptions::default())?;
    let batch: Vec<_> = (0..MESSAGES).map(worker::message).collect();
    queues.send_all(QUEUE, &batch)?;
    // Each message is given back twice, and done at its third receipt.
    let workers: Vec<_> = (0..4).map(|_| Worker::start("hold", folder.path())).collect();
    workers.into_iter().try_for_each(Worker::finish)?;
    let done: Vec<_> = read_log(folder.path(), "received.log")
        .into_iter()
        .filter(|entry| entry.what == "done")
        .map(|entry| entry.id)
        .collect();
    assert_eq!(done.len(), MESSAGES);
    assert_eq!(done.into_iter().collect::<HashSet<_>>().len(), MESSAGES);
    assert_eq!(queues.counts(QUEUE)?, Counts::default());
    Ok(())
}

fn kills_lose_nothing() -> Result<(), Failed> {
    const KILLS: usize = 150;
    let folder = tempfile::tempdir()?;
    let queues = open(folder.path());
    let options = QueueOptions {
        max_delivery_count: 10_000,
        lock_duration: Duration::from_millis(300),
        ..QueueOptions::default()
    };
    queues.declare(QUEUE, &options)?;
    let modes = ["send", "receive", "receive"];
    let mut workers: Vec<_> = modes.iter().map(|mode| Worker::start(mode, folder.path())).collect();
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_micros(worker::random(60_000)));
        let victim = kill % modes.len();
        workers[victim].kill();
        workers[victim] = Worker::start(modes[victim], folder.path());
    }
    std::fs::write(folder.path().join("stop"), "")?;
    workers.into_iter().try_for_each(Worker::finish)?;
    assert_eq!(queues.counts(QUEUE)?, Counts::default());
    account(folder.path());
    Ok(())
}

/// Every id that was sent was done, none came again after that, and no receipt happened twice.
fn account(folder: &Path) {
    let sent: HashSet<usize> =
        read_log(folder, "sent.log").into_iter().map(|entry| entry.id).collect();
    let ids = sent.iter().max().expect("messages were sent") + 1;
    assert_eq!(sent.len(), ids, "the sender left none out");
    let mut receipts: HashMap<usize, BTreeMap<u32, i64>> = HashMap::new();
    let mut done: HashMap<usize, Entry> = HashMap::new();
    let log = read_log(folder, "received.log");
    for entry in &log {
        if entry.what == "got" {
            let before =
                receipts.entry(entry.id).or_default().insert(entry.delivery_count, entry.number);
            assert_eq!(before, None, "received twice with one delivery count: {entry:?}");
        } else if entry.what == "done" {
            let before = done.insert(entry.id, entry.clone());
            assert!(before.is_none(), "completed twice: {before:?} and {entry:?}");
        }
    }
    for (id, receipts) in &receipts {
        let numbers: HashSet<_> = receipts.values().collect();
        assert_eq!(numbers.len(), 1, "message {id} was stored twice: {receipts:?}");
        if let (Some(done), Some((last, _))) = (done.get(id), receipts.last_key_value()) {
            assert!(*last <= done.delivery_count, "message {id} came again after it was done");
        }
    }
    // A receiver logs what it got before it settles: without that line a message was lost.
    let lost: Vec<_> = (0..ids).filter(|id| !receipts.contains_key(id)).collect();
    assert!(lost.is_empty(), "sent and never received: {lost:?}");
    // A kill between the completion and its line in the log loses the line, once per kill.
    let unlogged = ids - done.len();
    assert!(ids > 200 && unlogged <= 150, "{ids} sent, {} done", done.len());
    let again = receipts.values().filter(|receipts| receipts.len() > 1).count();
    assert!(again > 0, "no kill ever hit a receiver that had a message");
}

fn killed_event_writers() -> Result<(), Failed> {
    const KILLS: usize = 60;
    let folder = tempfile::tempdir()?;
    let mut workers: Vec<_> = (0..3).map(|_| Worker::start("publish", folder.path())).collect();
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_micros(worker::random(40_000)));
        let victim = kill % workers.len();
        workers[victim].kill();
        workers[victim] = Worker::start("publish", folder.path());
    }
    std::fs::write(folder.path().join("stop"), "")?;
    workers.into_iter().try_for_each(Worker::finish)?;
    let lines = std::fs::read_to_string(folder.path().join("events.jsonl"))?;
    let mut ids = HashSet::new();
    for line in lines.lines() {
        let event: CloudEvent =
            serde_json::from_str(line).map_err(|error| format!("{error} in a line: {line}"))?;
        assert!(ids.insert(event.id.clone()), "published once, written twice: {}", event.id);
    }
    let published = std::fs::read_to_string(folder.path().join("published.log"))?;
    let published: Vec<_> = published.lines().collect();
    assert!(published.len() > 100, "{}", published.len());
    assert!(published.iter().all(|id| ids.contains(*id)), "an event was lost");
    Ok(())
}
