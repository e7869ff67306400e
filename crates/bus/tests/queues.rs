//! What a queue promises: order, duplicates, schedules, locks, dead letters.

mod support;

use std::time::Duration;

use flexkeep_bus::{
    BusErrorKind, Counts, MAX_DELIVERY_COUNT_EXCEEDED, Message, MessageState, QueueOptions, Sent,
    Settled, TTL_EXPIRED,
};
use support::{Bench, QUEUE, seconds, text};

const DAY: Duration = seconds(24 * 60 * 60);

fn counts(active: u64, locked: u64, scheduled: u64, dead: u64) -> Counts {
    Counts { active, locked, scheduled, dead }
}

#[test]
fn a_message_comes_back_as_it_was_sent() {
    let bench = Bench::new();
    let mut sent =
        Message::json("server-1/2026-11-22T01:00Z", &serde_json::json!({"a": [1, null]}))
            .unwrap()
            .with_subject("lane")
            .with_correlation_id("run-7")
            .with_session_id("server-1")
            .with_property("attempt", 2)
            .with_property("database", "größe")
            .with_property("full", true)
            .with_property("share", 0.25)
            .with_deliver_at(bench.now());
    sent.body.extend([0, 255, 10]);
    assert_eq!(bench.send(&sent), Sent::Accepted { sequence_number: 1 });
    let delivery = bench.receive().unwrap();
    assert_eq!(delivery.message, sent);
    assert_eq!(delivery.delivery_count, 1);
    assert_eq!(delivery.sequence_number, 1);
    assert_eq!(delivery.enqueued_at, bench.now());
    assert_eq!(delivery.locked_until, bench.now() + seconds(60));
    assert_eq!(delivery.expires_at, bench.now() + 14 * DAY);
}

#[test]
fn messages_come_in_the_order_in_which_they_were_sent() {
    let bench = Bench::new();
    bench.send_ids(&["c", "a", "b"]);
    bench.queues.send_all(QUEUE, &[text("z"), text("y")]).unwrap();
    assert_eq!(bench.drain(), ["c", "a", "b", "z", "y"]);
    assert!(bench.receive().is_none());
}

#[test]
fn queues_do_not_see_each_others_messages_or_ids() {
    let bench = Bench::new();
    bench.queues.declare("lanes", &QueueOptions::default()).unwrap();
    bench.send_ids(&["a"]);
    assert!(bench.queues.receive("lanes", "test").unwrap().is_none());
    assert_ne!(bench.queues.send("lanes", &text("a")).unwrap(), Sent::Duplicate);
    bench.expect("a");
    assert_eq!(bench.queues.counts("lanes").unwrap(), counts(1, 0, 0, 0));
}

#[test]
fn names_of_queues_ignore_the_case_of_letters_as_in_service_bus() {
    let bench = Bench::new();
    bench.queues.send("BACKUPS", &text("a")).unwrap();
    bench.expect("a");
    bench.queues.declare("Backups", &QueueOptions::default()).unwrap();
    let names: Vec<_> = bench.queues.queues().unwrap().into_iter().map(|q| q.name).collect();
    assert_eq!(names, [QUEUE]);
}

#[test]
fn a_queue_that_was_not_declared_is_named_and_so_are_those_that_were() {
    let bench = Bench::new();
    let error = bench.queues.send("restores", &text("a")).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::UnknownQueue);
    assert!(!error.is_transient());
    let shown = error.to_string();
    assert!(shown.contains("\"restores\"") && shown.contains(QUEUE), "{shown}");
    for failed in [
        bench.queues.receive("restores", "test").unwrap_err(),
        bench.queues.counts("restores").unwrap_err(),
        bench.queues.next_due("restores").unwrap_err(),
        bench.queues.peek_dead("restores", 1).unwrap_err(),
        bench.queues.purge_dead("restores", None).unwrap_err(),
    ] {
        assert_eq!(failed.kind(), BusErrorKind::UnknownQueue);
    }
}

#[test]
fn options_that_service_bus_does_not_have_are_refused_by_name() {
    let bench = Bench::new();
    let good = QueueOptions::default();
    for (option, bad) in [
        ("max_delivery_count", QueueOptions { max_delivery_count: 0, ..good }),
        ("lock_duration", QueueOptions { lock_duration: seconds(301), ..good }),
        ("lock_duration", QueueOptions { lock_duration: Duration::ZERO, ..good }),
        ("duplicate_window", QueueOptions { duplicate_window: 8 * DAY, ..good }),
        ("message_ttl", QueueOptions { message_ttl: Duration::ZERO, ..good }),
        ("message_ttl", QueueOptions { message_ttl: Duration::MAX, ..good }),
    ] {
        let error = bench.queues.declare("other", &bad).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid);
        assert!(error.to_string().contains(option), "{error}");
    }
    for name in ["", "-a", "a/", "a b", "größe", "a\"b", &"a".repeat(261)] {
        let error = bench.queues.declare(name, &good).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Invalid, "{name:?}");
    }
    assert_eq!(bench.queues.queues().unwrap().len(), 1);
}

#[test]
fn declaring_again_changes_the_options_and_keeps_the_messages() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let options = QueueOptions { max_delivery_count: 1, ..QueueOptions::default() };
    bench.queues.declare(QUEUE, &options).unwrap();
    assert_eq!(bench.queues.queues().unwrap()[0].options, options);
    let delivery = bench.expect("a");
    assert_eq!(bench.queues.abandon(&delivery.lock).unwrap(), Settled::DeadLettered);
}

#[test]
fn a_duplicate_is_dropped_while_the_first_waits_is_locked_and_is_done() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    let delivery = bench.expect("a");
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    bench.queues.complete(&delivery.lock).unwrap();
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    assert!(bench.receive().is_none());
    assert_eq!(bench.send(&text("A")), Sent::Accepted { sequence_number: 2 });
}

#[test]
fn an_id_is_forgotten_after_the_duplicate_window_and_not_before() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    bench.clock.forward(7 * DAY - Duration::from_micros(1));
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    bench.clock.forward(Duration::from_micros(1));
    assert_ne!(bench.send(&text("a")), Sent::Duplicate);
    assert_eq!(bench.send(&text("a")), Sent::Duplicate, "the window begins anew");
}

#[test]
fn a_duplicate_does_not_prolong_the_window() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    bench.clock.forward(4 * DAY);
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    bench.clock.forward(3 * DAY);
    assert_ne!(bench.send(&text("a")), Sent::Duplicate);
}

#[test]
fn a_scheduled_message_and_its_duplicates_are_one() {
    let bench = Bench::new();
    let later = text("a").with_deliver_at(bench.now() + seconds(60));
    assert_ne!(bench.send(&later), Sent::Duplicate);
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    assert_eq!(bench.send(&later), Sent::Duplicate);
    bench.send_ids(&["b"]);
    let b_later = text("b").with_deliver_at(bench.now() + seconds(60));
    assert_eq!(bench.send(&b_later), Sent::Duplicate);
    bench.clock.forward(seconds(61));
    assert_eq!(bench.drain(), ["b", "a"]);
}

#[test]
fn duplicates_are_told_within_a_batch_too() {
    let bench = Bench::new();
    let batch = [text("a"), text("b"), text("a")];
    let sent = bench.queues.send_all(QUEUE, &batch).unwrap();
    let accepted = |sequence_number| Sent::Accepted { sequence_number };
    assert_eq!(sent, [accepted(1), accepted(2), Sent::Duplicate]);
}

#[test]
fn a_batch_with_one_bad_message_sends_none() {
    let bench = Bench::new();
    let error = bench.queues.send_all(QUEUE, &[text("a"), text("")]).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::Invalid);
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), Counts::default());
    assert_ne!(bench.send(&text("a")), Sent::Duplicate, "its id was not remembered");
}

#[test]
fn without_a_duplicate_window_every_message_is_new() {
    let options = QueueOptions { duplicate_window: Duration::ZERO, ..QueueOptions::default() };
    let bench = Bench::with(&options);
    bench.send_ids(&["a", "a"]);
    assert_eq!(bench.drain(), ["a", "a"]);
}

#[test]
fn scheduled_messages_come_when_due_in_the_order_of_their_moments() {
    let bench = Bench::new();
    let at = |id: &str, s| text(id).with_deliver_at(bench.now() + seconds(s));
    for message in [at("late", 30), at("early", 10), at("same moment", 10)] {
        bench.send(&message);
    }
    assert!(bench.receive().is_none());
    assert_eq!(bench.queues.next_due(QUEUE).unwrap(), Some(bench.now() + seconds(10)));
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 0, 3, 0));
    bench.clock.forward(seconds(10));
    assert_eq!(bench.queues.next_due(QUEUE).unwrap(), Some(bench.now()));
    let early = bench.expect("early");
    assert_eq!(early.enqueued_at, bench.now());
    bench.send_ids(&["sent now"]);
    bench.clock.forward(seconds(20));
    assert_eq!(bench.drain(), ["same moment", "sent now", "late"]);
}

#[test]
fn a_moment_in_the_past_is_now() {
    let bench = Bench::new();
    bench.send(&text("a").with_deliver_at(bench.now() - DAY));
    let delivery = bench.expect("a");
    assert_eq!(delivery.enqueued_at, bench.now());
}

#[test]
fn a_locked_message_is_nobody_elses_until_its_lock_expires() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let first = bench.expect("a");
    bench.clock.forward(seconds(60) - Duration::from_micros(1));
    assert!(bench.reopened().receive(QUEUE, "other").unwrap().is_none());
    assert_eq!(bench.queues.next_due(QUEUE).unwrap(), Some(first.locked_until));
    bench.clock.forward(Duration::from_micros(1));
    let second = bench.expect("a");
    assert_eq!(second.delivery_count, 2);
    assert_eq!(second.sequence_number, first.sequence_number);
    assert_ne!(second.lock, first.lock);
}

#[test]
fn a_lost_lock_settles_nothing() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let lost = bench.expect("a").lock;
    bench.clock.forward(seconds(60));
    let refused = |when: &str| {
        for error in [
            bench.queues.renew(&lost).unwrap_err(),
            bench.queues.complete(&lost).unwrap_err(),
            bench.queues.abandon(&lost).unwrap_err(),
            bench.queues.dead_letter(&lost, "r", "d").unwrap_err(),
        ] {
            assert_eq!(error.kind(), BusErrorKind::LockLost, "{when}");
            assert!(error.to_string().contains(&lost.to_string()), "{error}");
        }
        assert_eq!(bench.queues.complete_all(&[lost]).unwrap(), [lost], "{when}");
    };
    refused("expired, and nobody took it yet");
    let held = bench.expect("a");
    refused("another has it");
    bench.queues.complete(&held.lock).unwrap();
    refused("another completed it");
    assert_eq!(bench.queues.complete(&held.lock).unwrap_err().kind(), BusErrorKind::LockLost);
}

#[test]
fn a_renewed_lock_lasts_its_full_duration_again() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let delivery = bench.expect("a");
    for _ in 0..10 {
        bench.clock.forward(seconds(59));
        assert_eq!(bench.queues.renew(&delivery.lock).unwrap(), bench.now() + seconds(60));
        assert!(bench.receive().is_none());
    }
    bench.queues.complete(&delivery.lock).unwrap();
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), Counts::default());
}

#[test]
fn an_abandoned_message_waits_behind_the_others_so_that_poison_holds_up_nobody() {
    let bench = Bench::new();
    bench.send_ids(&["poison", "b", "c"]);
    let poison = bench.expect("poison");
    assert_eq!(bench.queues.abandon(&poison.lock).unwrap(), Settled::Requeued);
    bench.expect("b");
    bench.send_ids(&["d"]);
    bench.expect("c");
    let again = bench.expect("poison");
    assert_eq!((again.delivery_count, again.sequence_number), (2, poison.sequence_number));
    bench.expect("d");
}

#[test]
fn a_message_whose_lock_expired_waits_behind_the_others_too() {
    let bench = Bench::new();
    bench.send_ids(&["poison", "b"]);
    bench.expect("poison");
    bench.clock.forward(seconds(60));
    assert_eq!(bench.drain(), ["b", "poison"]);
}

#[test]
fn abandoned_as_often_as_allowed_it_is_a_dead_letter() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    for count in 1..=10 {
        let delivery = bench.expect("a");
        assert_eq!(delivery.delivery_count, count);
        let expected = if count < 10 { Settled::Requeued } else { Settled::DeadLettered };
        assert_eq!(bench.queues.abandon(&delivery.lock).unwrap(), expected);
    }
    assert!(bench.receive().is_none());
    let dead = bench.queues.peek_dead(QUEUE, 10).unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].delivery_count, &dead[0].message), (10, &text("a")));
    let MessageState::Dead { at, reason, .. } = &dead[0].state else { panic!("{dead:?}") };
    assert_eq!((*at, reason.as_str()), (bench.now(), MAX_DELIVERY_COUNT_EXCEEDED));
}

#[test]
fn locks_that_expire_as_often_as_allowed_make_a_dead_letter_too() {
    let bench = Bench::with(&QueueOptions { max_delivery_count: 2, ..QueueOptions::default() });
    bench.send_ids(&["a"]);
    for _ in 0..2 {
        bench.expect("a");
        bench.clock.forward(seconds(60));
    }
    assert!(bench.receive().is_none());
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 0, 0, 1));
    assert_eq!(bench.queues.next_due(QUEUE).unwrap(), None);
}

#[test]
fn a_receiver_may_dead_letter_with_its_reason() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let delivery = bench.expect("a");
    let long = "ü".repeat(5000);
    bench.queues.dead_letter(&delivery.lock, "UnknownServer", &long).unwrap();
    let dead = bench.queues.peek_dead(QUEUE, 1).unwrap();
    let MessageState::Dead { reason, description, .. } = &dead[0].state else { panic!("{dead:?}") };
    assert_eq!((reason.as_str(), description.chars().count()), ("UnknownServer", 4096));
    assert_eq!(bench.send(&text("a")), Sent::Duplicate, "its id is still remembered");
}

#[test]
fn a_message_that_nobody_took_in_time_is_a_dead_letter() {
    let bench = Bench::new();
    bench.send(&text("scheduled").with_deliver_at(bench.now() + DAY));
    bench.send_ids(&["a"]);
    bench.clock.forward(14 * DAY);
    bench.expect("scheduled");
    assert!(bench.receive().is_none());
    let dead = bench.queues.peek_dead(QUEUE, 10).unwrap();
    let MessageState::Dead { reason, .. } = &dead[0].state else { panic!("{dead:?}") };
    assert_eq!((dead[0].message.id.as_str(), reason.as_str()), ("a", TTL_EXPIRED));
}

#[test]
fn a_locked_message_outlives_its_time_until_the_lock_ends() {
    let bench = Bench::with(&QueueOptions { message_ttl: seconds(30), ..QueueOptions::default() });
    bench.send_ids(&["done", "given back"]);
    let done = bench.expect("done");
    let given_back = bench.expect("given back");
    bench.clock.forward(seconds(31));
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 2, 0, 0));
    bench.queues.complete(&done.lock).unwrap();
    bench.queues.abandon(&given_back.lock).unwrap();
    assert!(bench.receive().is_none());
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 0, 0, 1));
}

#[test]
fn counts_and_peek_see_what_time_has_moved_without_a_receive() {
    let bench = Bench::new();
    bench.send_ids(&["a", "b"]);
    bench.send(&text("c").with_deliver_at(bench.now() + seconds(10)));
    bench.send(&text("d").with_deliver_at(bench.now() + seconds(100)));
    let a = bench.expect("a");
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(1, 1, 2, 0));
    let states = || -> Vec<_> {
        let peeked = bench.queues.peek(QUEUE, 10).unwrap();
        peeked.into_iter().map(|p| (p.message.id, p.state)).collect()
    };
    let state = |id: &str, state: MessageState| (id.to_owned(), state);
    let locked = MessageState::Locked { until: a.locked_until, receiver: "test".to_owned() };
    let expected = [
        state("a", locked),
        state("b", MessageState::Active),
        state("c", MessageState::Scheduled),
        state("d", MessageState::Scheduled),
    ];
    assert_eq!(states(), expected);
    bench.clock.forward(seconds(60));
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(3, 0, 1, 0));
    assert_eq!(states()[0], state("a", MessageState::Active));
    assert_eq!(states()[2], state("c", MessageState::Active));
    assert_eq!(bench.queues.peek(QUEUE, 2).unwrap().len(), 2);
}

#[test]
fn a_resubmitted_dead_letter_starts_anew_behind_the_others() {
    let bench = Bench::new();
    bench.send_ids(&["a", "b"]);
    let a = bench.expect("a");
    bench.queues.dead_letter(&a.lock, "r", "d").unwrap();
    bench.clock.forward(13 * DAY);
    bench.queues.resubmit_dead(QUEUE, a.sequence_number).unwrap();
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(2, 0, 0, 0));
    bench.expect("b");
    let again = bench.expect("a");
    assert_eq!((again.delivery_count, again.sequence_number), (1, a.sequence_number));
    assert_eq!(again.expires_at, bench.now() + 14 * DAY);
    let error = bench.queues.resubmit_dead(QUEUE, a.sequence_number).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::NotFound, "it is no dead letter now");
}

#[test]
fn purging_removes_one_dead_letter_or_all_and_nothing_else() {
    let bench = Bench::new();
    bench.send_ids(&["a", "b", "c", "d"]);
    let numbers: Vec<_> = (0..3)
        .map(|_| {
            let delivery = bench.receive().unwrap();
            bench.queues.dead_letter(&delivery.lock, "r", "d").unwrap();
            delivery.sequence_number
        })
        .collect();
    assert_eq!(bench.queues.purge_dead(QUEUE, Some(numbers[1])).unwrap(), 1);
    let error = bench.queues.purge_dead(QUEUE, Some(numbers[1])).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::NotFound);
    let living = bench.queues.peek(QUEUE, 10).unwrap()[0].sequence_number;
    let error = bench.queues.purge_dead(QUEUE, Some(living)).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::NotFound);
    assert_eq!(bench.queues.purge_dead(QUEUE, None).unwrap(), 2);
    assert_eq!(bench.queues.purge_dead(QUEUE, None).unwrap(), 0);
    assert_eq!(bench.drain(), ["d"]);
}

#[test]
fn many_are_received_and_completed_at_once() {
    let bench = Bench::new();
    bench.send_ids(&["a", "b", "c"]);
    let deliveries = bench.queues.receive_many(QUEUE, "test", 2).unwrap();
    let ids: Vec<_> = deliveries.iter().map(|d| d.message.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_ne!(deliveries[0].lock, deliveries[1].lock);
    assert_eq!(bench.queues.receive_many(QUEUE, "test", 2).unwrap().len(), 1);
    assert!(bench.queues.receive_many(QUEUE, "test", 2).unwrap().is_empty());
    let locks: Vec<_> = deliveries.iter().map(|d| d.lock).collect();
    assert!(bench.queues.complete_all(&locks).unwrap().is_empty());
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 1, 0, 0));
}

#[test]
fn a_clock_that_goes_back_makes_no_lock_last_longer_than_its_duration() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let delivery = bench.expect("a");
    bench.clock.back(365 * DAY);
    assert!(bench.receive().is_none(), "still locked, but no longer for a year");
    assert_eq!(bench.queues.next_due(QUEUE).unwrap(), Some(bench.now() + seconds(60)));
    bench.clock.forward(seconds(30));
    assert_eq!(bench.queues.renew(&delivery.lock).unwrap(), bench.now() + seconds(60));
    bench.clock.forward(seconds(60));
    assert_eq!(bench.expect("a").delivery_count, 2);
}

#[test]
fn a_clock_that_goes_back_changes_neither_order_nor_duplicates() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    bench.clock.back(DAY);
    bench.send_ids(&["b"]);
    assert_eq!(bench.send(&text("a")), Sent::Duplicate);
    let a = bench.expect("a");
    bench.clock.back(DAY);
    bench.queues.abandon(&a.lock).unwrap();
    assert_eq!(bench.drain(), ["b", "a"]);
}

#[test]
fn a_clock_that_jumps_ahead_redelivers_and_the_first_holder_learns_it() {
    let bench = Bench::new();
    bench.send_ids(&["a"]);
    let first = bench.expect("a");
    bench.clock.forward(DAY);
    let second = bench.expect("a");
    bench.clock.back(DAY);
    let error = bench.queues.complete(&first.lock).unwrap_err();
    assert_eq!(error.kind(), BusErrorKind::LockLost);
    bench.queues.complete(&second.lock).unwrap();
    assert!(bench.receive().is_none());
}

#[test]
fn thousands_that_expire_at_once_are_all_moved() {
    let bench = Bench::with(&QueueOptions { message_ttl: seconds(5), ..QueueOptions::default() });
    let batch: Vec<_> = (0..2500).map(|n| text(&n.to_string())).collect();
    bench.queues.send_all(QUEUE, &batch).unwrap();
    bench.clock.forward(seconds(5));
    assert!(bench.receive().is_none());
    assert_eq!(bench.queues.counts(QUEUE).unwrap(), counts(0, 0, 0, 2500));
}
