//! What the worker processes do.

use std::fs::{File, remove_file};
use std::path::Path;
use std::time::{Duration, Instant};

use flexkeep_bus::{
    BusErrorKind, CloudEvent, Counts, Delivery, EventSink, FileSink, LocalQueues, Message,
};
use jiff::Timestamp;

use crate::log::{append, read_log};
use crate::{DEADLINE, QUEUE, open};

/// Runs a worker in `mode`; it panics if a promise is broken.
pub(crate) fn run(mode: &str, folder: &Path) {
    match mode {
        "send" => send(folder),
        "receive" => receive(folder),
        "hold" => hold(folder),
        "publish" => publish(folder),
        other => panic!("no such mode: {other}"),
    }
}

/// A number below `limit`.
pub(crate) fn random(limit: u64) -> u64 {
    (uuid::Uuid::new_v4().as_u128() % u128::from(limit)) as u64
}

pub(crate) fn message(number: usize) -> Message {
    // Long enough for several pages of the file.
    Message::new(format!("message-{number}"), vec![b'x'; 1 + number * 97 % 9000])
}

pub(crate) fn number_of(id: &str) -> usize {
    id.strip_prefix("message-").and_then(|n| n.parse().ok()).expect("an id of these tests")
}

fn is_stopped(folder: &Path) -> bool {
    folder.join("stop").exists()
}

/// Sends numbers upwards, singly and in batches, from before where its predecessor was killed.
fn send(folder: &Path) {
    let queues = open(folder);
    let acknowledged = read_log(folder, "sent.log").iter().map(|entry| entry.id + 1).max();
    let mut next = acknowledged.unwrap_or(0).saturating_sub(20);
    while !is_stopped(folder) {
        let count = if random(3) == 0 { 5 } else { 1 };
        let batch: Vec<_> = (next..next + count).map(message).collect();
        match batch.as_slice() {
            [one] => drop(queues.send(QUEUE, one).expect("a message is sent")),
            many => drop(queues.send_all(QUEUE, many).expect("messages are sent")),
        }
        for number in next..next + count {
            append(folder, "sent.log", &format!("sent message-{number}"));
        }
        next += count;
        std::thread::sleep(Duration::from_micros(random(2000)));
    }
    // What a killed sender stored and did not log is stored now, or was.
    let last = next.saturating_sub(20);
    (last..next + 20).for_each(|number| {
        queues.send(QUEUE, &message(number)).expect("a message is sent");
        append(folder, "sent.log", &format!("sent message-{number}"));
    });
    File::create(folder.join("all sent")).expect("a file");
}

/// Receives and settles in every way until all is sent and done.
fn receive(folder: &Path) {
    let queues = open(folder);
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let was_all_sent = folder.join("all sent").exists();
        match queues.receive(QUEUE, "receiver").expect("the queue is read") {
            Some(delivery) => handle(folder, &queues, &delivery),
            None if was_all_sent && queues.counts(QUEUE).expect("counts") == Counts::default() => {
                return;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    panic!("the queue is not empty in time: {:?}", queues.counts(QUEUE));
}

fn handle(folder: &Path, queues: &LocalQueues, delivery: &Delivery) {
    assert_eq!(delivery.message, message(number_of(&delivery.message.id)));
    let log = |what: &str| {
        let Delivery { message, delivery_count, sequence_number, .. } = delivery;
        let line = format!("{what} {} {delivery_count} {sequence_number}", message.id);
        append(folder, "received.log", &line);
    };
    log("got");
    let settled = match random(10) {
        0 => queues.abandon(&delivery.lock).map(|_| "given-back"),
        1 => queues
            .renew(&delivery.lock)
            .and_then(|_| queues.complete(&delivery.lock))
            .map(|()| "done"),
        _ => queues.complete(&delivery.lock).map(|()| "done"),
    };
    match settled {
        Ok(what) => log(what),
        // A slow machine: another receiver has it now, or will.
        Err(error) if error.kind() == BusErrorKind::LockLost => log("lost"),
        Err(error) => panic!("{error:?}"),
    }
}

/// Holds every message under a file that only one process can create.
fn hold(folder: &Path) {
    let queues = open(folder);
    let deadline = Instant::now() + DEADLINE;
    while queues.counts(QUEUE).expect("counts") != Counts::default() {
        assert!(Instant::now() < deadline, "the queue is not empty in time");
        let Some(delivery) = queues.receive(QUEUE, "holder").expect("the queue is read") else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let held = folder.join(&delivery.message.id);
        drop(File::create_new(&held).expect("no other process holds the message"));
        std::thread::sleep(Duration::from_micros(random(500)));
        remove_file(&held).expect("it is ours");
        if delivery.delivery_count < 3 {
            queues.abandon(&delivery.lock).expect("the lock is fresh");
        } else {
            queues.complete(&delivery.lock).expect("the lock is fresh");
            let line = format!("done {}", delivery.message.id);
            append(folder, "received.log", &line);
        }
    }
}

/// Publishes events of many sizes, each with an id of its own.
fn publish(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let sink = FileSink::new(folder.join("events.jsonl"));
    while !is_stopped(folder) {
        let id = uuid::Uuid::new_v4().to_string();
        let data = serde_json::json!({ "text": "x".repeat(random(100_000) as usize) });
        let event = CloudEvent::new(&id, "/tests", "flexkeep.test", Timestamp::now(), data);
        runtime.block_on(sink.publish(&event)).expect("an event is published");
        append(folder, "published.log", &id);
    }
}
