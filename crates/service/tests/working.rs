//! One message: what it ends in, what is told, and what happens when that can't be told.

mod support;

use std::time::{Duration, Instant};

use flexkeep_bus::{MAX_EVENT_BYTES, Message, QueueOptions};
use flexkeep_engine::Lane;
use flexkeep_service::{BackupMessage, Fate, Incoming, LaneMessage, ServiceError, Worked};
use flexkeep_vault::{RunId, RunRecord, RunState, ServerName};
use jiff::Timestamp;
use support::*;

const INSTANT: &str = "2024-05-01T01:30:00Z";

/// Looks in vain, after five more of which a request is given up that never came to its work.
const NEARLY_A_DAY: u32 = 285;

fn message() -> BackupMessage {
    scheduled("shop", at(INSTANT), minutes(1))
}

fn fate_of(bench: &Bench, request: &str) -> Fate {
    let record = bench.record("shop");
    let notes: Vec<flexkeep_service::RequestNote> =
        serde_json::from_value(record["requests"].clone()).expect("notes");
    notes.into_iter().find(|note| note.request == request).expect("a note").fate
}

fn types(bench: &Bench) -> Vec<String> {
    let short = |type_: &str| type_.strip_prefix("flexkeep.").expect("one of ours").to_owned();
    bench.events().iter().map(|event| short(&event.type_)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_there_is_told_under_the_same_id_each_time() {
    let bench = Bench::daily();
    let manifest = seal(&bench.vault(), &message());
    for _ in 0..2 {
        let worked = bench.work(&message()).await.unwrap();
        assert_eq!(worked, Worked::Completed { backup: manifest.backup.clone() });
    }
    let [first, second] = <[_; 2]>::try_from(bench.events()).unwrap();
    assert_eq!(first.type_, "flexkeep.backup.completed");
    assert_eq!(first.id, "shop/20240501T013000Z/completed");
    assert_eq!((&first.id, &first.source, &first.data), (&second.id, &second.source, &second.data));
    assert_eq!(first.data["backup"], manifest.backup);
    assert_eq!(first.data["complete"], true);
    assert_eq!(first.subject.as_deref(), Some("shop"));
    assert!(first.source.starts_with("file:///") && first.source.ends_with("/vault"));
    assert_eq!(fate_of(&bench, &message().request), Fate::Sealed { backup: manifest.backup });
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_is_told_with_the_reason() {
    let bench = Bench::daily();
    let worked = bench.work(&message()).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.contains("127.0.0.1") && !why.contains("tries"), "{why}");
    assert_eq!(types(&bench), ["backup.started", "backup.failed"]);
    let failed = &bench.events()[1];
    assert_eq!(failed.id, "shop/20240501T013000Z/failed");
    assert_eq!(
        (&failed.data["why"], &failed.data["instant"]),
        (&why.clone().into(), &INSTANT.into())
    );
    assert_eq!(fate_of(&bench, &message().request), Fate::Failed { why });
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_later_and_given_up_after_the_last_try() {
    let bench = Bench::new(&[daily("shop", "max_attempts = 3")]);
    bench.tick(at(INSTANT)).await.unwrap();
    let mut pauses = Vec::new();
    for attempt in 1..=2 {
        let [Worked::PutOff { after, why }] = &bench.work_all().await[..] else {
            panic!("put off")
        };
        assert!(why.contains("127.0.0.1"), "{why}");
        pauses.push(after.as_mins());
        let [next] = <[_; 1]>::try_from(bench.waiting()).unwrap();
        assert_eq!((next.attempt, next.waits), (attempt + 1, 0));
        assert_eq!(next.last_error.as_ref(), Some(why));
        assert_eq!(next.requested, at(INSTANT), "it is the same request");
        assert_eq!(bench.record("shop")["schedule"]["consecutive_failures"], 0);
        bench.forward_to_next_message();
    }
    assert_eq!(pauses, [1, 4]);
    let [Worked::Failed { why }] = &bench.work_all().await[..] else { panic!("given up") };
    assert!(why.starts_with("given up after 3 tries; the last: "), "{why}");
    let told = ["started", "restarted", "restarted", "failed"].map(|what| format!("backup.{what}"));
    assert_eq!(types(&bench), told);
    let ids = bench.ids_of("backup.restarted");
    assert_eq!(ids, [2, 3].map(|n| format!("shop/20240501T013000Z/restarted/{n}.1")));
    assert_eq!(bench.record("shop")["schedule"]["consecutive_failures"], 1);
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_human_is_given_up_at_once() {
    let denying = FakeServer::denying("password authentication failed for user \\\"backup\\\"");
    let schedule = r#"every = "day", at = "01:30""#;
    let bench = Bench::new(&[server("shop", &denying.conninfo(), schedule, "max_attempts = 5")]);
    let worked = bench.work(&message()).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.contains("28P01") || why.contains("password authentication"), "{why}");
    assert_eq!((bench.waiting(), denying.connections()), (vec![], 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_before_its_beginning_is_told_and_nothing_is_lost_meanwhile() {
    let refusing = FakeServer::refusing("starting up");
    let schedule = r#"every = "day", at = "01:30", zone = "UTC""#;
    let bench = Bench::new(&[server("shop", &refusing.conninfo(), schedule, "")]);
    bench.tick(at(INSTANT)).await.unwrap();
    bench.sink.faults.down();
    let mut pauses = Vec::new();
    for waits in 1..=12 {
        let [Worked::PutOff { after, .. }] = &bench.work_all().await[..] else { panic!("put off") };
        pauses.push(after.as_secs());
        let [next] = <[_; 1]>::try_from(bench.waiting()).unwrap();
        assert_eq!((next.attempt, next.waits), (1, waits), "it is no try");
        bench.forward_to_next_message();
    }
    assert_eq!(pauses[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(refusing.connections(), 0);
    bench.sink.faults.up();
    assert!(matches!(bench.work_all().await[..], [Worked::Failed { .. }]));
    assert_eq!(types(&bench), ["backup.started", "backup.failed"]);
    assert_eq!(refusing.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_told_again_until_the_sink_takes_it() {
    let bench = Bench::new(&[daily("shop", ""), daily("crm", "")]);
    for server in ["shop", "crm"] {
        let message = scheduled(server, at(INSTANT), minutes(1));
        bench
            .queues
            .send(QUEUE, &queued(&BackupMessage { waits: NEARLY_A_DAY, ..message }))
            .unwrap();
    }
    seal(&bench.vault(), &scheduled("crm", at(INSTANT), minutes(1)));
    bench.sink.faults.only("crm/20240501T013000Z/completed");
    bench.sink.faults.down();
    for _ in 0..10 {
        bench.work_all().await;
        bench.forward_to_next_message();
    }
    assert_eq!(bench.ids_of("backup.failed"), ["shop/20240501T013000Z/failed"]);
    assert_eq!(bench.waiting().len(), 1);
    bench.sink.faults.up();
    assert!(matches!(bench.work_all().await[..], [Worked::Completed { .. }]));
    assert_eq!(bench.ids_of("backup.completed"), ["crm/20240501T013000Z/completed"]);
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_cannot_be_told_is_never_forgotten() {
    let bench = Bench::new(&[daily("shop", "enabled = false")]);
    bench.queues.send(QUEUE, &queued(&BackupMessage { waits: NEARLY_A_DAY, ..message() })).unwrap();
    bench.sink.faults.down();
    for _ in 0..10 {
        let worked = bench.work_all().await;
        assert!(matches!(worked[..], [Worked::PutOff { .. }]), "{worked:?}");
        bench.forward_to_next_message();
    }
    bench.sink.faults.up();
    assert!(matches!(bench.work_all().await[..], [Worked::Failed { .. }]));
    assert_eq!(bench.ids_of("backup.failed"), ["shop/20240501T013000Z/failed"]);
}

#[tokio::test(start_paused = true)]
async fn while_the_bus_is_down_a_message_is_left_to_be_delivered_again() {
    let bench = Bench::new(&[daily("shop", "max_attempts = 3")]);
    bench.tick(at(INSTANT)).await.unwrap();
    bench.bus.faults.down();
    for _ in 0..3 {
        let error = bench.work_one().await.unwrap().unwrap_err();
        assert!(matches!(error, ServiceError::Send { .. }), "{error:?}");
        let [same] = <[_; 1]>::try_from(bench.waiting()).unwrap();
        assert_eq!(same.attempt, 1);
    }
    bench.bus.faults.up();
    assert!(matches!(bench.work_all().await[..], [Worked::PutOff { .. }]));
    let [next] = <[_; 1]>::try_from(bench.waiting()).unwrap();
    assert_eq!(next.attempt, 2);
    assert_eq!(bench.ids_of("backup.failed"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn with_bus_and_sink_down_nothing_is_lost_either() {
    let bench = Bench::daily();
    bench.tick(at(INSTANT)).await.unwrap();
    let [message] = <[_; 1]>::try_from(bench.waiting()).unwrap();
    seal(&bench.vault(), &message);
    bench.bus.faults.down();
    bench.sink.faults.down();
    for _ in 0..3 {
        bench.work_one().await.unwrap().unwrap_err();
    }
    bench.bus.faults.up();
    bench.sink.faults.up();
    assert!(matches!(bench.work_all().await[..], [Worked::Completed { .. }]));
    assert_eq!(types(&bench), ["backup.completed"]);
}

#[tokio::test(start_paused = true)]
async fn a_next_message_that_was_sent_although_the_bus_said_no_comes_once() {
    let bench = Bench::new(&[daily("shop", "max_attempts = 3")]);
    bench.tick(at(INSTANT)).await.unwrap();
    bench.bus.faults.fail_after_doing();
    bench.bus.faults.fail_next(1);
    bench.work_one().await.unwrap().unwrap_err();
    assert!(matches!(bench.work_all().await[..], [Worked::PutOff { .. }]));
    let attempts: Vec<u32> = bench.waiting().iter().map(|message| message.attempt).collect();
    assert_eq!(attempts, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_worker_goes_on_as_another_try_until_it_is_given_up() {
    let refusing = FakeServer::refusing("starting up");
    let schedule = r#"every = "day", at = "01:30", zone = "UTC""#;
    let lines = "max_attempts = 2";
    let bench = Bench::new(&[server("shop", &refusing.conninfo(), schedule, lines)]);
    let first = message();
    let worked = bench.service.work(incoming(&queued(&first), 6)).await.unwrap();
    let Worked::PutOff { why, .. } = worked else { panic!("{worked:?}") };
    assert!(why.contains("5 times"), "{why}");
    let [second] = <[_; 1]>::try_from(bench.waiting()).unwrap();
    assert_eq!((second.attempt, second.last_error.as_ref()), (2, Some(&why)));
    let worked = bench.service.work(incoming(&queued(&second), 7)).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.starts_with("given up after 2 tries") && why.contains("6 times"), "{why}");
    assert_eq!((refusing.connections(), types(&bench)), (0, vec!["backup.failed".to_owned()]));
    // Up to the limit it is worked on, and says that it is a new beginning.
    let other = by_hand("shop", "other");
    bench.service.work(incoming(&queued(&other), 5)).await.unwrap();
    assert_eq!(bench.ids_of("backup.restarted"), ["shop/by-hand/other/restarted/1.5"]);
    assert_eq!(refusing.connections(), 1);
    // A late delivery of an earlier try changes nothing.
    let worked = bench.service.work(incoming(&queued(&first), 2)).await.unwrap();
    assert!(matches!(worked, Worked::NotNeeded { .. }), "{worked:?}");
    assert_eq!(refusing.connections(), 1);
    // What is there is found, however often its message killed somebody.
    seal(&bench.vault(), &first);
    let worked = bench.service.work(incoming(&queued(&first), 9)).await.unwrap();
    assert!(matches!(worked, Worked::Completed { .. }), "{worked:?}");
}

#[tokio::test(start_paused = true)]
async fn whatever_a_message_says_of_its_tries_they_have_an_end() {
    let bench = Bench::new(&[daily("shop", "max_attempts = 20")]);
    for (attempt, waits) in [(20, 0), (21, 7), (u32::MAX, 0), (u32::MAX, u32::MAX)] {
        let message = BackupMessage { attempt, waits, ..message() };
        let worked = bench.work(&message).await.unwrap();
        assert!(matches!(worked, Worked::Failed { .. }), "{attempt}: {worked:?}");
        assert_eq!(bench.waiting(), []);
    }
    // What waits for others waits a day, then says so.
    bench.sink.faults.only("shop/by-hand/waits/started");
    bench.sink.faults.down();
    let waiting = |waits| BackupMessage { waits, ..by_hand("shop", "waits") };
    let worked = bench.work(&waiting(NEARLY_A_DAY + 4)).await.unwrap();
    assert!(matches!(worked, Worked::PutOff { .. }), "{worked:?}");
    let worked = bench.work(&waiting(NEARLY_A_DAY + 5)).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.starts_with("given up after waiting for a day"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_long_error_makes_no_message_that_is_refused_and_no_record_that_cannot_be_written() {
    // What a server may say (libpq's limit), in characters that JSON or UTF-8 make longer; and a
    // target that is named in the error.
    let servers = ["x".repeat(28_000), "\u{1}".repeat(28_000), "\u{1F9E8}".repeat(7_000)]
        .map(|text| FakeServer::refusing(&text));
    let mut targets: Vec<String> = servers.iter().map(FakeServer::conninfo).collect();
    targets.push(NOWHERE.replace("postgres", &"d".repeat(100_000)));
    for target in targets {
        let schedule = r#"every = "day", at = "01:30", zone = "UTC""#;
        let bench = Bench::new(&[server("shop", &target, schedule, "max_attempts = 2")]);
        for n in 0..22 {
            let instant = at(INSTANT) + hours(n);
            let message = scheduled("shop", instant, minutes(1));
            let worked = bench.work(&message).await.unwrap();
            let Worked::PutOff { why, .. } = worked else { panic!("{worked:.500?}") };
            assert!(why.len() > 900, "{why}");
        }
        assert_eq!(bench.waiting().len(), 22);
        for message in bench.waiting() {
            let error = message.last_error.as_ref().unwrap();
            assert!(error.ends_with(" ...") && error.chars().count() <= 1_004, "{error}");
            let worked = bench.work(&message).await.unwrap();
            assert!(matches!(worked, Worked::Failed { .. }), "{worked:.500?}");
        }
        let failed = bench.events_of("backup.failed");
        assert_eq!(failed.len(), 22);
        assert!(failed.iter().all(|event| event.to_json().unwrap().len() < 10_000));
        let bytes = std::fs::metadata(bench.record_path("shop")).unwrap().len();
        assert!(bytes < 200_000, "{bytes}");
        let status = bench.service.status().await.unwrap();
        assert_eq!(status.servers[0].requests.len(), 20, "the newest are remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_read_puts_off_for_a_day_without_counting_tries() {
    let bench = Bench::daily();
    bench.tick(at(INSTANT)).await.unwrap();
    let wrong: String = (0..2_000).map(|n| format!("[[server]]\nname = \"Shop {n}\"\n")).collect();
    bench.write_policy_text(&wrong);
    // No try counts: a human is at work on it, perhaps for hours.
    for waits in 1..=20 {
        let [Worked::PutOff { why, .. }] = &bench.work_all().await[..] else { panic!("put off") };
        assert!(why.contains("policy"), "{why:.500}");
        let [next] = <[_; 1]>::try_from(bench.waiting()).unwrap();
        assert_eq!((next.attempt, next.waits), (1, waits));
        bench.forward_to_next_message();
    }
    // It has an end all the same.
    let late = BackupMessage { waits: NEARLY_A_DAY + 5, ..message() };
    assert!(matches!(bench.work(&late).await.unwrap(), Worked::Failed { .. }));
    let [failed] = <[_; 1]>::try_from(bench.events()).unwrap();
    assert_eq!(
        (failed.id.as_str(), failed.source.as_str()),
        ("shop/20240501T013000Z/failed", "/flexkeep")
    );
    assert!(failed.data["why"].as_str().unwrap().contains("policy"), "{failed:?}");
    // Once it is mended, the request goes on where it was.
    bench.write_policy(&[daily("shop", "")]);
    let [Worked::Failed { why }] = &bench.work_all().await[..] else { panic!("tried") };
    assert!(why.contains("cannot connect"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_completed_event_fits_whatever_could_not_be_read() {
    let bench = Bench::daily();
    // PostgreSQL cuts names at 63 bytes; a quoted name with its schema has twice that.
    let plausible = loss(&"\u{7}".repeat(63 * 2));
    let absurd = loss(&"\u{7}".repeat(1_000));
    for (day, loss) in [plausible, absurd].into_iter().enumerate() {
        let message = scheduled("shop", at(INSTANT) + days(day as i64), minutes(1));
        let losses = vec![loss; 250];
        seal_losing(&bench.vault(), &message, message.requested + minutes(1), losses);
        let worked = bench.work(&message).await.unwrap();
        assert!(matches!(worked, Worked::Completed { .. }), "{day}: {worked:?}");
        let event = bench.events().pop().unwrap();
        assert_eq!(event.data["not_backed_up_count"], 250);
        assert_eq!(event.data["complete"], false);
        assert!(event.to_json().unwrap().len() <= MAX_EVENT_BYTES);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instant_that_is_sent_again_much_later_finds_its_backup() {
    let bench = Bench::daily();
    let first = message();
    let manifest = seal(&bench.vault(), &first);
    // The record could not be written, and the queue has forgotten the id: the same instant, asked
    // for after its backup had begun.
    let again = scheduled("shop", at(INSTANT), hours(10));
    let worked = bench.work(&again).await.unwrap();
    assert_eq!(worked, Worked::Completed { backup: manifest.backup });
}

#[tokio::test]
async fn a_backup_is_stopped_before_the_deadline_and_tried_again() {
    let silent = FakeServer::silent();
    let schedule = r#"every = "day", at = "01:30", zone = "UTC""#;
    let bench = Bench::new(&[server("shop", &silent.conninfo(), schedule, "max_attempts = 2")]);
    let mut incoming = incoming(&queued(&message()), 1);
    let deadline = Instant::now() + Duration::from_secs(11);
    incoming.deadline = Some(deadline);
    let worked = bench.service.work(incoming).await.unwrap();
    assert!(Instant::now() < deadline, "it ended in time");
    let Worked::PutOff { why, .. } = worked else { panic!("{worked:?}") };
    assert_eq!(bench.waiting().len(), 1);
    assert!(why.contains("functionTimeout"), "{why}");
}

#[test]
fn a_backup_ends_when_nobody_waits_for_it_any_more() {
    let silent = FakeServer::silent();
    let schedule = r#"every = "day", at = "01:30", zone = "UTC""#;
    let bench = Bench::new(&[server("shop", &silent.conninfo(), schedule, "")]);
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let work = bench.service.work(incoming(&queued(&message()), 1));
        let connected = async {
            while silent.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            worked = work => panic!("{worked:?}"),
            () = connected => {}
        }
    });
    // This waits for the thread that works on the backup. A connection is tried for 20 seconds.
    drop(runtime);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_no_request_is_told_by_its_id_and_without_its_text() {
    let bench = Bench::daily();
    let body = |text: &str| Incoming {
        body: text.as_bytes().to_vec(),
        message_id: "an id\u{7}".repeat(100),
        delivery_count: 1,
        deadline: None,
    };
    let good =
        r#"{"version":1,"server":"shop","request":"shop/r","requested":"2024-05-01T01:30:00Z"}"#;
    for text in [
        "hunter2".to_owned(),
        good.replace("\"shop/r\"", "\"shop/r\",\"password\":\"hunter2\""),
        good.replace("shop/r", "crm/hunter2"),
        good.replace("2024", "9024"),
        " ".repeat(1 << 20),
    ] {
        let worked = bench.service.work(body(&text)).await.unwrap();
        assert!(matches!(worked, Worked::Failed { .. }), "{text}: {worked:?}");
    }
    let events = bench.events_of("backup.failed");
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|event| event.id == events[0].id), "one message, one id");
    assert!(events[0].id.starts_with("message/") && events[0].id.ends_with("/refused"));
    let shown = serde_json::to_string(&events[0]).unwrap();
    assert!(!shown.contains("hunter2") && shown.len() < 2_000, "{shown}");
    // What can't be told is delivered again.
    bench.sink.faults.down();
    bench.service.work(body("hunter2")).await.unwrap_err();
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn a_request_by_hand_is_one_by_its_key_and_answered_by_its_fate() {
    let bench = Bench::daily();
    let error = bench.service.back_up_now("shop", "no blanks").await.unwrap_err();
    assert!(matches!(error, ServiceError::BadRequest(_)), "{error:?}");
    let error = bench.service.back_up_now("crm", "k").await.unwrap_err();
    assert!(error.to_string().contains("it has shop"), "{error}");
    bench.clock.set(Timestamp::now());
    for _ in 0..3 {
        let asked = bench.service.back_up_now("shop", "before-release").await.unwrap();
        assert_eq!((asked.request.as_str(), asked.known), ("shop/by-hand/before-release", None));
    }
    assert_eq!(bench.waiting().len(), 1);
    assert!(matches!(bench.work_all().await[..], [Worked::Failed { .. }]));
    let asked = bench.service.back_up_now("shop", "before-release").await.unwrap();
    let note = asked.known.expect("it is known");
    assert!(matches!(note.fate, Fate::Failed { .. }), "{note:?}");
    assert_eq!((note.request, bench.waiting().len()), (asked.request, 0));
    let asked = bench.service.back_up_now("shop", "another").await.unwrap();
    let [message] = <[_; 1]>::try_from(bench.waiting()).unwrap();
    assert_eq!((&message.request, message.instant), (&asked.request, None));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_switched_off_is_backed_up_by_hand_only() {
    let bench = Bench::new(&[daily("shop", "enabled = false")]);
    let worked = bench.work(&message()).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.contains("enabled = false"), "{why}");
    let asked = by_hand("shop", "once");
    seal(&bench.vault(), &asked);
    assert!(matches!(bench.work(&asked).await.unwrap(), Worked::Completed { .. }));
    assert_eq!(types(&bench), ["backup.failed", "backup.completed"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_left_the_policy_is_given_up_and_named() {
    let bench = Bench::new(&[daily("shop", "max_attempts = 5"), daily("crm", "")]);
    bench.tick(at(INSTANT)).await.unwrap();
    bench.write_policy(&[daily("crm", "")]);
    let worked = bench.work_all().await;
    assert_eq!(worked.len(), 2);
    let failed = &bench.events_of("backup.failed")[0];
    assert_eq!(failed.id, "shop/20240501T013000Z/failed");
    let why = failed.data["why"].as_str().unwrap();
    assert!(why.contains("no server \"shop\"") && why.contains("it has crm"), "{why}");
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_gone_for_good_is_told() {
    let bench = Bench::daily();
    std::fs::write(bench.folder.path().join("vault"), "a file").unwrap();
    bench.tick(at(INSTANT)).await.unwrap_err();
    assert_eq!(bench.waiting(), [], "no message without a record");
    let worked = bench.work(&message()).await.unwrap();
    let Worked::Failed { why } = worked else { panic!("{worked:?}") };
    assert!(why.contains("the vault cannot be used"), "{why}");
    assert_eq!(types(&bench), ["backup.failed"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_memory_for_ids_two_messages_of_a_request_are_one_backup() {
    let options = QueueOptions { duplicate_window: Duration::ZERO, ..QueueOptions::default() };
    let bench = Bench::with_queue(&[daily("shop", "")], &options);
    let server: ServerName = "shop".parse().unwrap();
    seal(&bench.vault(), &message());
    for _ in 0..3 {
        let sent: Message = queued(&message());
        bench.queues.send(QUEUE, &sent).unwrap();
    }
    assert_eq!(bench.work_all().await.len(), 3);
    assert_eq!(bench.vault().backups(&server).unwrap().len(), 1);
    let ids = bench.ids_of("backup.completed");
    assert_eq!((ids.len(), ids.iter().all(|id| *id == ids[0])), (3, true));
}

fn run_of(message: &BackupMessage) -> RunRecord {
    let started = at(INSTANT);
    RunRecord {
        run: RunId::new(started),
        server: message.server.clone(),
        request: Some(message.request.clone()),
        attempt: 1,
        started,
        host: "here".to_owned(),
        pid: 1,
        state: RunState::Running,
    }
}

async fn work_as_lane(bench: &Bench, message: &LaneMessage) -> Worked {
    let body = serde_json::to_vec(message).unwrap();
    let queued = Message::new(message.message_id(), body);
    bench.service.lane(incoming(&queued, 1)).await.expect("it is answered")
}

fn waiting_lanes(bench: &Bench) -> Vec<LaneMessage> {
    let peeked = bench.queues.peek(LANES, 100).expect("a queue is read");
    peeked
        .iter()
        .map(|one| LaneMessage::parse(&one.message.body, Timestamp::now()).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_lane_waits_while_the_policy_or_the_vault_cannot_be_read() {
    let bench = Bench::daily();
    let lane = Lane { run: run_of(&message()).run, lane: 0, generation: 3 };
    let first = LaneMessage::new(&message(), &lane);
    bench.write_policy_text("nonsense");
    let worked = work_as_lane(&bench, &first).await;
    let Worked::PutOff { why, .. } = worked else { panic!("{worked:?}") };
    assert!(why.contains("policy"), "{why}");
    let [later] = <[_; 1]>::try_from(waiting_lanes(&bench)).unwrap();
    assert_eq!((later.lane(), later.waits), (lane, 1));
    // It has an end: the request's own message waits longer.
    let late = LaneMessage { waits: 1_000, ..later };
    assert!(matches!(work_as_lane(&bench, &late).await, Worked::NotNeeded { .. }));
    bench.write_policy(&[daily("shop", "")]);
    std::fs::write(bench.folder.path().join("vault"), "a file").unwrap();
    let worked = work_as_lane(&bench, &LaneMessage { generation: 4, ..first }).await;
    assert!(matches!(worked, Worked::PutOff { .. }), "{worked:?}");
    assert_eq!((waiting_lanes(&bench).len(), bench.events().len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_disabled_in_the_middle_is_backed_up_to_the_end() {
    let bench = Bench::new(&[daily("shop", "enabled = false")]);
    let (vault, record) = (bench.vault(), run_of(&message()));
    vault.open_run(&record).unwrap();
    // The run goes on: what the lane lacks is its plan.
    let lane =
        LaneMessage::new(&message(), &Lane { run: record.run.clone(), lane: 1, generation: 0 });
    let worked = work_as_lane(&bench, &lane).await;
    assert!(matches!(worked, Worked::PutOff { .. }), "{worked:?}");
    assert_eq!(bench.events(), []);
    // Not of a server that the policy does not have any more: the request ends the run, and tells it.
    bench.write_policy(&[daily("crm", "")]);
    let worked = work_as_lane(&bench, &lane).await;
    assert!(matches!(worked, Worked::NotNeeded { .. }), "{worked:?}");
    assert_eq!(bench.events(), []);
    let worked = bench.work(&message()).await.unwrap();
    assert!(matches!(worked, Worked::Failed { .. }), "{worked:?}");
    let state = vault.run(&record.server, &record.run).unwrap().unwrap().state;
    assert!(matches!(state, RunState::Failed { .. }), "{state:?}");
    assert_eq!(types(&bench), ["backup.failed"]);
}
