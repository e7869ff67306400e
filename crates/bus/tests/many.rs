//! Many messages, many threads, one file.

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use flexkeep_bus::{Counts, LocalQueues, QueueOptions, Sent};
use support::{QUEUE, text};

#[test]
fn ten_thousand_messages_with_duplicates_drain_without_loss_in_seconds() {
    const MESSAGES: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.db");
    let queues = LocalQueues::open(&path).unwrap();
    queues.declare(QUEUE, &QueueOptions::default()).unwrap();
    let start = Instant::now();
    let mut duplicates = 0;
    for first in (0..MESSAGES).step_by(100) {
        // Each batch begins with the end of the one before.
        let batch: Vec<_> =
            (first.saturating_sub(10)..first + 100).map(|n| text(&n.to_string())).collect();
        let sent = queues.send_all(QUEUE, &batch).unwrap();
        duplicates += sent.iter().filter(|sent| **sent == Sent::Duplicate).count();
    }
    assert_eq!(duplicates, 990);
    let sent_in = start.elapsed();
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (path, done) = (&path, &done);
            scope.spawn(move || drain(path, &format!("worker {worker}"), done));
        }
    });
    let took = start.elapsed();
    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), MESSAGES);
    assert_eq!(done.iter().collect::<HashSet<_>>().len(), MESSAGES);
    assert_eq!(queues.counts(QUEUE).unwrap(), Counts::default());
    // Measured: 2 s with a quick disk (0.3 ms for a sync), 6 s with a slow one (4 ms).
    assert!(took < Duration::from_secs(60), "{took:?}, of it {sent_in:?} to send");
}

fn drain(path: &std::path::Path, receiver: &str, done: &Mutex<Vec<String>>) {
    let queues = LocalQueues::open(path).unwrap();
    loop {
        let deliveries = queues.receive_many(QUEUE, receiver, 16).unwrap();
        if deliveries.is_empty() {
            return;
        }
        let locks: Vec<_> = deliveries.iter().map(|delivery| delivery.lock).collect();
        assert!(queues.complete_all(&locks).unwrap().is_empty());
        done.lock().unwrap().extend(deliveries.into_iter().map(|delivery| delivery.message.id));
    }
}

#[test]
fn threads_never_hold_the_same_message_at_once() {
    const MESSAGES: usize = 600;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.db");
    let shared = LocalQueues::open(&path).unwrap();
    shared.declare(QUEUE, &QueueOptions::default()).unwrap();
    let batch: Vec<_> = (0..MESSAGES).map(|n| text(&n.to_string())).collect();
    shared.send_all(QUEUE, &batch).unwrap();
    let held = Mutex::new(HashSet::new());
    let completed = Mutex::new(0);
    std::thread::scope(|scope| {
        for worker in 0..8_usize {
            let (path, shared, held, completed) = (&path, &shared, &held, &completed);
            scope.spawn(move || {
                // Half of them share one connection, half have their own.
                let queues = if worker.is_multiple_of(2) {
                    shared.clone()
                } else {
                    LocalQueues::open(path).unwrap()
                };
                while *completed.lock().unwrap() < MESSAGES {
                    let Some(delivery) = queues.receive(QUEUE, "thread").unwrap() else {
                        std::thread::yield_now();
                        continue;
                    };
                    let id = delivery.message.id.clone();
                    assert!(held.lock().unwrap().insert(id.clone()), "{id} is held twice");
                    std::thread::yield_now();
                    let is_last = delivery.delivery_count > 1;
                    assert!(held.lock().unwrap().remove(&id));
                    if is_last {
                        queues.complete(&delivery.lock).unwrap();
                        *completed.lock().unwrap() += 1;
                    } else {
                        queues.abandon(&delivery.lock).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(shared.counts(QUEUE).unwrap(), Counts::default());
}

#[test]
fn threads_that_create_a_file_at_once_all_open_it() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.db");
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let queues = LocalQueues::open(path).unwrap();
                    queues.declare(QUEUE, &QueueOptions::default()).unwrap();
                    queues.send(QUEUE, &text(&worker.to_string())).unwrap();
                });
            }
        });
        let queues = LocalQueues::open(&path).unwrap();
        assert_eq!(queues.counts(QUEUE).unwrap().active, 8);
    }
}
