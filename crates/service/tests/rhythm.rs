//! What follows from backups that fail, succeed, or never come: daily becomes weekly and daily
//! again, and what is overdue is told.

mod support;

use std::collections::BTreeSet;

use flexkeep_service::{Fate, Worked};
use jiff::Timestamp;
use support::*;

/// Ticks each day at 01:30 and at noon, and works on what comes. Gives the requests.
async fn live(bench: &Bench, from: &str, days_: i64) -> Vec<String> {
    let mut requests = Vec::new();
    for day in 0..days_ {
        for hour in [0, 10] {
            bench.tick(at(from) + days(day) + hours(hour)).await.unwrap();
            requests.extend(bench.waiting().into_iter().map(|message| message.request));
            for worked in bench.work_all().await {
                assert!(matches!(worked, Worked::Failed { .. }), "{worked:?}");
            }
        }
    }
    requests
}

#[tokio::test(start_paused = true)]
async fn daily_backups_that_fail_twice_become_weekly_until_one_succeeds() {
    let bench = Bench::daily();
    // 2024-05-01 is a Wednesday.
    assert_eq!(live(&bench, "2024-05-01T01:30:00Z", 1).await, ["shop/20240501T013000Z"]);
    assert_eq!(bench.ids_of("schedule.degraded"), [""; 0]);
    let requests = live(&bench, "2024-05-02T01:30:00Z", 19).await;
    let sundays = ["shop/20240505T013000Z", "shop/20240512T013000Z", "shop/20240519T013000Z"];
    assert_eq!(requests[0], "shop/20240502T013000Z");
    assert_eq!(requests[1..], sundays);
    let [degraded] = <[_; 1]>::try_from(bench.events_of("schedule.degraded")).unwrap();
    assert_eq!(degraded.id, "shop/20240502T013000Z/degraded");
    assert_eq!((&degraded.data["failures"], &degraded.data["to"]), (&2.into(), &"week".into()));
    assert_eq!(bench.ids_of("backup.failed").len(), 5, "each request is told");
    let status = bench.service.status().await.unwrap();
    assert!(status.servers[0].degraded && status.servers[0].failures == 5, "{status:?}");

    // The next Sunday's backup is there.
    bench.tick(at("2024-05-26T01:30:00Z")).await.unwrap();
    let [message] = <[_; 1]>::try_from(bench.waiting()).unwrap();
    let manifest = seal(&bench.vault(), &message);
    assert_eq!(bench.work_all().await, [Worked::Completed { backup: manifest.backup }]);
    let [restored] = <[_; 1]>::try_from(bench.events_of("schedule.restored")).unwrap();
    assert_eq!(restored.id, "shop/20240526T013000Z/restored");
    assert_eq!(restored.data["why"], "backup_succeeded");
    // Daily again, and the count of failures begins anew.
    assert_eq!(live(&bench, "2024-05-27T01:30:00Z", 1).await, ["shop/20240527T013000Z"]);
    assert_eq!(bench.ids_of("schedule.degraded").len(), 1);
    assert_eq!(live(&bench, "2024-05-28T01:30:00Z", 1).await, ["shop/20240528T013000Z"]);
    assert_eq!(bench.ids_of("schedule.degraded").last().unwrap(), "shop/20240528T013000Z/degraded");
    assert_eq!(live(&bench, "2024-05-29T01:30:00Z", 3).await, [""; 0]);
    assert_eq!(bench.ids_of("schedule.restored").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_counts_as_one_failure() {
    let bench = Bench::daily();
    let message = scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1));
    for _ in 0..4 {
        assert!(matches!(bench.work(&message).await.unwrap(), Worked::Failed { .. }));
    }
    assert_eq!(bench.record("shop")["schedule"]["consecutive_failures"], 1);
    let ids: BTreeSet<_> = bench.ids_of("backup.failed").into_iter().collect();
    assert_eq!(ids, BTreeSet::from(["shop/20240501T013000Z/failed".to_owned()]));
    assert_eq!(bench.ids_of("schedule.degraded"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_old_success_that_is_told_again_hides_no_later_failure() {
    let bench = Bench::daily();
    let old = scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1));
    seal(&bench.vault(), &old);
    for message in [
        old.clone(),
        scheduled("shop", at("2024-05-02T01:30:00Z"), minutes(1)),
        old.clone(),
        scheduled("shop", at("2024-05-03T01:30:00Z"), minutes(1)),
        old,
    ] {
        bench.work(&message).await.unwrap();
    }
    assert_eq!(bench.ids_of("schedule.degraded"), ["shop/20240503T013000Z/degraded"]);
    assert_eq!(bench.ids_of("schedule.restored"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_asks_for_can_mend_the_schedule_but_not_harm_it() {
    let bench = Bench::daily();
    for key in ["one", "two", "three"] {
        assert!(matches!(bench.work(&by_hand("shop", key)).await.unwrap(), Worked::Failed { .. }));
    }
    assert_eq!(bench.ids_of("backup.failed").len(), 3);
    assert_eq!(bench.ids_of("schedule.degraded"), [""; 0]);
    for day in [1, 2] {
        let instant = at("2024-05-01T01:30:00Z") + days(day);
        bench.work(&scheduled("shop", instant, minutes(1))).await.unwrap();
    }
    assert_eq!(bench.ids_of("schedule.degraded").len(), 1);
    let asked = by_hand("shop", "mended");
    seal(&bench.vault(), &asked);
    bench.work(&asked).await.unwrap();
    let [restored] = <[_; 1]>::try_from(bench.events_of("schedule.restored")).unwrap();
    assert_eq!(restored.data["instant"], asked.requested.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_weekly_schedule_has_nothing_to_fall_back_to() {
    let weekly = r#"every = "week", on = "sunday", at = "01:30", zone = "UTC""#;
    let bench = Bench::new(&[server("shop", NOWHERE, weekly, "")]);
    let requests = live(&bench, "2024-05-01T01:30:00Z", 28).await;
    assert_eq!(requests.len(), 5, "{requests:?}");
    assert_eq!(bench.ids_of("backup.failed").len(), 5);
    assert_eq!(bench.ids_of("schedule.degraded"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_edited_schedule_is_daily_again_and_says_so_once() {
    let bench = Bench::daily();
    live(&bench, "2024-05-01T01:30:00Z", 2).await;
    assert_eq!(bench.ids_of("schedule.degraded").len(), 1);
    let edited = r#"every = "day", at = "02:00", zone = "UTC""#;
    bench.write_policy(&[server("shop", NOWHERE, edited, "")]);
    for n in 0..3 {
        bench.tick(at("2024-05-03T02:00:00Z") + minutes(5 * n)).await.unwrap();
    }
    let [restored] = <[_; 1]>::try_from(bench.events_of("schedule.restored")).unwrap();
    assert_eq!(restored.data["why"], "schedule_edited");
    assert_eq!(restored.id, "shop/20240503T020000Z/restored");
    assert_eq!(bench.drain().len(), 1);
}

/// Ticks each hour while nobody works on what comes.
async fn neglect(bench: &Bench, from: Timestamp, hours_: i64) {
    for hour in 0..hours_ {
        bench.tick(from + hours(hour)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_instant_that_is_overdue_is_told_once() {
    let bench = Bench::daily();
    neglect(&bench, at("2024-05-01T01:30:00Z"), 6 * 24).await;
    let expected: Vec<String> = (1..=5).map(|day| format!("shop/2024050{day}T013000Z")).collect();
    let ids = bench.ids_of("server.overdue");
    assert_eq!(ids, expected.iter().map(|id| format!("{id}/overdue")).collect::<Vec<_>>());
    let first = &bench.events_of("server.overdue")[0];
    assert_eq!(first.data["instant"], "2024-05-01T01:30:00Z");
    assert!(first.data["last_success"].is_null(), "{first:?}");
    // One backup, and there is peace for a day.
    let newest = bench.drain().pop().unwrap();
    seal(&bench.vault(), &newest);
    bench.work(&newest).await.unwrap();
    neglect(&bench, at("2024-05-07T01:30:00Z"), 24).await;
    assert_eq!(bench.ids_of("server.overdue").len(), 5);
    bench.tick(at("2024-05-08T01:30:00Z")).await.unwrap();
    let [.., last] = bench.events_of("server.overdue").try_into().unwrap_or_else(
        |events: Vec<_>| -> [flexkeep_bus::CloudEvent; 6] { panic!("{} events", events.len()) },
    );
    assert_eq!(last.data["instant"], "2024-05-07T01:30:00Z");
    assert_eq!(last.data["last_success"], "2024-05-06T01:30:00Z");
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_is_told_by_the_next_process_when_the_sink_is_back() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.sink.faults.down();
    for day in 2..=4 {
        let error = bench.tick(at("2024-05-01T01:30:00Z") + days(day)).await.unwrap_err();
        let text = flexkeep_engine::chain(&error);
        assert!(text.contains("shop") && text.contains("the test lets this fail"), "{text}");
    }
    assert_eq!(bench.events(), []);
    assert_eq!(bench.drain().len(), 4, "the messages are sent all the same");
    // This process dies; another comes.
    let other = bench.reopened();
    for n in 0..3 {
        other.tick(at("2024-05-05T02:00:00Z") + minutes(5 * n)).await.unwrap();
    }
    let expected = ["shop/20240502T013000Z", "shop/20240503T013000Z", "shop/20240504T013000Z"];
    assert_eq!(bench.ids_of("server.overdue"), expected.map(|id| format!("{id}/overdue")));
    assert!(bench.record("shop").get("owed").is_none(), "{}", bench.record("shop"));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_now_and_then_is_tried_again_at_once() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.sink.faults.fail_next(2);
    bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap();
    assert_eq!(bench.ids_of("server.overdue"), ["shop/20240501T013000Z/overdue"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_told_but_not_crossed_out_keeps_its_id() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.sink.faults.fail_after_doing();
    bench.sink.faults.lasting();
    bench.sink.faults.fail_next(1);
    bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap_err();
    bench.tick(at("2024-05-02T01:35:00Z")).await.unwrap();
    bench.tick(at("2024-05-02T01:40:00Z")).await.unwrap();
    let [first, second] = <[_; 2]>::try_from(bench.events_of("server.overdue")).unwrap();
    assert_eq!(first, second, "id, source, time and all");
}

#[tokio::test(start_paused = true)]
async fn what_is_overdue_is_told_while_the_bus_is_down() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.drain();
    bench.bus.faults.down();
    for n in 0..3 * 24 {
        // Each of them fails, as the message of the day can't be sent.
        let _ = bench.tick(at("2024-05-02T01:30:00Z") + hours(n)).await;
    }
    let told = bench.ids_of("server.overdue");
    assert_eq!(told.first().map(String::as_str), Some("shop/20240501T013000Z/overdue"), "{told:?}");
    assert_eq!(told.len(), 3, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_rhythm_is_told_although_the_sink_was_down_when_it_came() {
    let bench = Bench::daily();
    bench.sink.faults.only("shop/20240502T013000Z/degraded");
    bench.sink.faults.down();
    bench.work(&scheduled("shop", at("2024-05-01T01:30:00Z"), minutes(1))).await.unwrap();
    let second = scheduled("shop", at("2024-05-02T01:30:00Z"), minutes(1));
    let worked = bench.work(&second).await.unwrap();
    assert!(matches!(worked, Worked::PutOff { .. }), "{worked:?}");
    assert_eq!(bench.waiting().len(), 1, "a later message is there to tell");
    bench.sink.faults.up();
    // Whoever comes first tells it: here a tick.
    bench.tick(at("2024-05-02T02:00:00Z")).await.unwrap();
    assert_eq!(bench.ids_of("schedule.degraded"), ["shop/20240502T013000Z/degraded"]);
    bench.forward_to_next_message();
    let [Worked::Failed { .. }] = bench.work_all().await.as_slice() else {
        panic!("it has failed")
    };
    assert_eq!(bench.ids_of("schedule.degraded").len(), 1);
    let status = bench.service.status().await.unwrap();
    let fate = &status.servers[0].requests.last().unwrap().fate;
    assert!(matches!(fate, Fate::Failed { .. }), "{fate:?}");
}
