//! Ticks over simulated weeks: exactly one message for each instant, whatever happens.

mod support;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Duration;

use flexkeep_bus::QueueOptions;
use flexkeep_service::{BackupMessage, Reason, ServiceError};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use support::*;

const BERLIN_DAILY: &str = r#"every = "day", at = "02:30", zone = "Europe/Berlin""#;
const BERLIN_WEEKLY: &str = r#"every = "week", on = "saturday", at = "23:45", zone = "UTC""#;

/// 02:30 in Berlin, or 03:30 on the day that has no 02:30.
fn berlin(day: Date) -> Timestamp {
    let zone = TimeZone::get("Europe/Berlin").expect("a zone");
    day.at(2, 30, 0, 0).to_zoned(zone).expect("a time").timestamp()
}

fn request(server: &str, instant: Timestamp) -> String {
    format!("{server}/{}", instant.strftime("%Y%m%dT%H%M%SZ"))
}

/// Messages by request, with when they came.
type Sent = BTreeMap<String, Vec<(Timestamp, BackupMessage)>>;

fn take(bench: &Bench, now: Timestamp, sent: &mut Sent) {
    for message in bench.drain() {
        sent.entry(message.request.clone()).or_default().push((now, message));
    }
}

#[tokio::test]
async fn ticks_every_five_minutes_send_each_instant_once_at_its_first_tick() {
    // No memory in the queue: what keeps the second tick from sending is the record.
    let options = QueueOptions { duplicate_window: Duration::ZERO, ..QueueOptions::default() };
    let servers = [
        server("shop", NOWHERE, BERLIN_DAILY, ""),
        server("crm", NOWHERE, BERLIN_WEEKLY, ""),
        daily("off", "enabled = false"),
    ];
    let bench = Bench::with_queue(&servers, &options);
    // The clocks of Berlin change on 2024-03-31.
    let (first, last) = (at("2024-03-25T10:00:00Z"), at("2024-04-03T10:00:00Z"));
    let mut sent = Sent::new();
    let mut now = first;
    while now <= last {
        let before = bench.bus.asked().len();
        bench.tick(now).await.unwrap();
        // All instants lie in the second half of an hour.
        if now.as_second() % 3600 >= 1800 {
            bench.tick(now).await.unwrap();
        }
        if bench.bus.asked().len() > before {
            take(&bench, now, &mut sent);
        }
        now += minutes(5);
    }
    let mut expected: Vec<String> =
        (0..10).map(|n| request("shop", berlin(date(2024, 3, 25) + days(n)))).collect();
    expected.extend(
        ["2024-03-23T23:45:00Z", "2024-03-30T23:45:00Z"].map(|instant| request("crm", at(instant))),
    );
    expected.sort();
    assert_eq!(sent.keys().cloned().collect::<Vec<_>>(), expected);
    for messages in sent.values() {
        let [(came, message)] = messages.as_slice() else { panic!("sent again: {messages:?}") };
        let instant = message.instant.unwrap();
        assert_eq!(message.requested, *came);
        assert_eq!((message.attempt, message.waits), (1, 0));
        if instant < first {
            assert_eq!((*came, message.reason), (first, Reason::CatchUp), "{message:?}");
        } else {
            assert_eq!(message.reason, Reason::Schedule);
            assert!(came.duration_since(instant) < minutes(5), "{message:?} came at {came}");
        }
    }
    assert_eq!(bench.bus.asked().len(), expected.len(), "nothing but these was sent at all");
}

#[tokio::test]
async fn a_process_that_dies_between_the_send_and_the_record_sends_no_second_message() {
    let bench = Bench::daily();
    bench.bus.faults.fail_after_doing();
    let mut sent = Sent::new();
    let (mut now, last) = (at("2024-05-01T00:00:00Z"), at("2024-05-15T00:00:00Z"));
    let (mut deaths, mut on_queue) = (0, 0);
    while now < last {
        // Each day's first try dies after the message is on the queue, for half an hour
        // and a quarter.
        if now.strftime("%H:%M").to_string() == "01:30" {
            bench.bus.faults.fail_next(3);
        }
        if let Err(error) = bench.tick(now).await {
            assert!(matches!(error, ServiceError::Some { failed: 1, all: 1, .. }), "{error:?}");
            deaths += 1;
        }
        on_queue = on_queue.max(bench.queues.counts(QUEUE).unwrap().active);
        take(&bench, now, &mut sent);
        now += minutes(15);
    }
    assert_eq!((deaths, on_queue), (14 * 3, 1));
    assert_eq!(sent.len(), 15, "14 days, and the one before them that was caught up");
    assert!(sent.values().all(|messages| messages.len() == 1), "{sent:?}");
    assert_eq!(bench.bus.asked().len(), 15 + 14 * 3);
}

#[test]
fn of_two_services_that_tick_at_the_same_moment_one_message_comes() {
    let bench = Bench::new(&[daily("shop", ""), server("crm", NOWHERE, BERLIN_WEEKLY, "")]);
    let begin = at("2024-05-01T01:00:00Z");
    bench.clock.set(begin);
    let barrier = Barrier::new(3);
    let mut sent = Sent::new();
    const ROUNDS: i64 = 14 * 8;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (service, barrier) = (bench.reopened(), &barrier);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for round in 0..ROUNDS {
                    barrier.wait();
                    let ticked = runtime.block_on(service.tick(begin + hours(3 * round)));
                    barrier.wait();
                    ticked.unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            let now = begin + hours(3 * round);
            bench.clock.set(now);
            barrier.wait();
            barrier.wait();
            take(&bench, now, &mut sent);
        }
    });
    // Two Saturdays and the one before; fourteen nights and the one before.
    assert_eq!(sent.len(), 3 + 15, "{:?}", sent.keys());
    assert!(sent.values().all(|messages| messages.len() == 1), "{sent:?}");
}

#[tokio::test]
async fn three_weeks_without_a_tick_are_caught_up_by_one_message() {
    let bench = Bench::new(&[daily("shop", ""), server("crm", NOWHERE, BERLIN_WEEKLY, "")]);
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    assert_eq!(bench.drain().len(), 2);
    let back = at("2024-05-22T14:00:00Z");
    let ticked = bench.tick(back).await.unwrap();
    assert!(ticked.servers.iter().all(|one| one.catch_up), "{ticked:?}");
    let messages = bench.drain();
    let told: Vec<_> = messages.iter().map(|m| (m.request.as_str(), m.reason)).collect();
    assert_eq!(
        told,
        [("shop/20240522T013000Z", Reason::CatchUp), ("crm/20240518T234500Z", Reason::CatchUp)]
    );
    for n in 1..100 {
        bench.tick(back + minutes(5 * n)).await.unwrap();
    }
    assert_eq!(bench.drain(), []);
    bench.tick(at("2024-05-23T01:30:00Z")).await.unwrap();
    let [next] = <[_; 1]>::try_from(bench.drain()).unwrap();
    assert_eq!((next.request.as_str(), next.reason), ("shop/20240523T013000Z", Reason::Schedule));
}

#[tokio::test]
async fn a_clock_that_goes_back_sends_nothing_old() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-10T02:00:00Z")).await.unwrap();
    assert_eq!(bench.drain().len(), 1);
    for day in 1..10 {
        bench.tick(at("2024-05-01T02:00:00Z") + days(day)).await.unwrap();
    }
    bench.tick(at("1999-12-31T23:59:59Z")).await.unwrap();
    assert_eq!(bench.drain(), []);
    bench.tick(at("2024-05-11T01:30:00Z")).await.unwrap();
    let requests: Vec<_> = bench.drain().into_iter().map(|message| message.request).collect();
    assert_eq!(requests, ["shop/20240511T013000Z"]);
}

#[tokio::test]
async fn while_the_bus_is_down_an_instant_waits_and_is_sent_once_then() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T12:00:00Z")).await.unwrap();
    bench.drain();
    bench.bus.faults.down();
    let mut now = at("2024-05-02T01:30:00Z");
    for _ in 0..36 {
        let error = bench.tick(now).await.unwrap_err();
        assert!(matches!(error, ServiceError::Some { failed: 1, all: 1, .. }), "{error:?}");
        now += minutes(5);
    }
    bench.bus.faults.up();
    bench.tick(now).await.unwrap();
    bench.tick(now).await.unwrap();
    let [message] = <[_; 1]>::try_from(bench.drain()).unwrap();
    assert_eq!(message.request, "shop/20240502T013000Z");
    assert_eq!(message.reason, Reason::CatchUp, "it is three hours late");
}

#[tokio::test]
async fn what_fails_for_one_server_keeps_no_other_from_its_backup() {
    let bench = Bench::new(&[daily("crm", ""), daily("shop", ""), daily("erp", "")]);
    bench.bus.faults.only("backup/crm/");
    bench.bus.faults.down();
    let error = bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap_err();
    let ServiceError::Some { failed, all, server, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*failed, *all, server.as_str()), (1, 3, "crm"));
    let requests: Vec<_> = bench.drain().into_iter().map(|message| message.request).collect();
    assert_eq!(requests, ["shop/20240501T013000Z", "erp/20240501T013000Z"]);
}

#[tokio::test]
async fn an_edit_of_the_policy_counts_at_the_next_tick() {
    let bench = Bench::daily();
    let requests = |bench: &Bench| -> Vec<String> {
        bench.drain().into_iter().map(|message| message.request).collect()
    };
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    assert_eq!(requests(&bench), ["shop/20240501T013000Z"]);
    // One comes, one is switched off.
    bench.write_policy(&[daily("crm", ""), daily("shop", "enabled = false")]);
    bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap();
    assert_eq!(requests(&bench), ["crm/20240502T013000Z"]);
    // A file that can't be read stops all, loudly, and changes nothing.
    bench.write_policy_text("[vault]\nplace = \"\n");
    let error = bench.tick(at("2024-05-03T01:30:00Z")).await.unwrap_err();
    assert!(matches!(error, ServiceError::Policy(_)), "{error:?}");
    assert_eq!(requests(&bench), [""; 0]);
    bench.write_policy(&[daily("crm", ""), daily("shop", "")]);
    bench.tick(at("2024-05-03T01:40:00Z")).await.unwrap();
    assert_eq!(requests(&bench), ["crm/20240503T013000Z", "shop/20240503T013000Z"]);
    // One goes, with what was remembered of it left in peace.
    bench.write_policy(&[daily("crm", "")]);
    bench.tick(at("2024-05-04T01:30:00Z")).await.unwrap();
    assert_eq!(requests(&bench), ["crm/20240504T013000Z"]);
    assert!(bench.record_path("shop").is_file());
    // Another time of day: no second backup within half a day, then the new time.
    let later = r#"every = "day", at = "03:00", zone = "UTC""#;
    bench.write_policy(&[server("crm", NOWHERE, later, "")]);
    bench.tick(at("2024-05-04T03:10:00Z")).await.unwrap();
    bench.tick(at("2024-05-05T01:30:00Z")).await.unwrap();
    assert_eq!(requests(&bench), [""; 0]);
    bench.tick(at("2024-05-05T03:00:00Z")).await.unwrap();
    assert_eq!(requests(&bench), ["crm/20240505T030000Z"]);
}

#[tokio::test]
async fn a_record_that_is_lost_costs_one_message_more_at_most() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.drain();
    std::fs::remove_file(bench.record_path("shop")).unwrap();
    bench.tick(at("2024-05-01T01:35:00Z")).await.unwrap();
    assert_eq!(bench.drain(), [], "the queue knows its id");
    // The vault as a whole goes, and is made anew.
    std::fs::remove_dir_all(bench.folder.path().join("vault")).unwrap();
    bench.tick(at("2024-05-09T01:00:00Z")).await.unwrap();
    let requests: Vec<_> = bench.drain().into_iter().map(|message| message.request).collect();
    assert_eq!(requests, ["shop/20240508T013000Z"]);
    assert!(bench.record_path("shop").is_file());
}
