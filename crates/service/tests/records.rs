//! What is remembered of a server: damaged, written by many at once, and shown by the status.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use flexkeep_service::{Fate, ServiceError, Worked};
use flexkeep_vault::{MAX_SCHEDULE_BYTES, RunId, RunRecord, RunState};
use jiff::Timestamp;
use support::*;

/// The log of this process, all tests of it together.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
        log
    })
}

/// The lines of the log that have these words.
fn logged(words: &[&str]) -> Vec<String> {
    let bytes = log().0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    text.lines().filter(has_all).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_begun_anew_loudly() {
    log();
    let half = {
        let bench = Bench::daily();
        bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
        let whole = std::fs::read(bench.record_path("shop")).unwrap();
        whole[..whole.len() / 2].to_vec()
    };
    let damages: [&[u8]; 8] = [
        b"garbage",
        b"",
        b"null",
        b"\xff\xfe\x00",
        br#"{"schedule": 5}"#,
        br#"{"schedule": {"last_sent": "yesterday"}}"#,
        br#"{"requests": [{"request": "shop/x"}]}"#,
        br#"{"owed": [{"specversion": "1.0", "id": ""}]}"#,
    ];
    for (n, damage) in damages.into_iter().chain([half.as_slice()]).enumerate() {
        // A name of its own, to find it in the log.
        let name = format!("damaged-{n}");
        let bench = Bench::new(&[daily(&name, "")]);
        bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
        assert_eq!(bench.drain().len(), 1);
        std::fs::write(bench.record_path(&name), damage).unwrap();
        let status = bench.service.status().await.unwrap();
        assert_eq!(status.servers[0].failures, 0);
        let ticked = bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap();
        assert_eq!(ticked.servers[0].sent, Some(at("2024-05-02T01:30:00Z")));
        assert_eq!(bench.drain().len(), 1);
        let lines = logged(&["ERROR", &format!("schedule of {name} cannot be read")]);
        assert!(!lines.is_empty(), "{:?}", String::from_utf8_lossy(damage));
        assert_eq!(bench.record(&name)["schedule"]["last_sent"], "2024-05-02T01:30:00Z");
        bench.tick(at("2024-05-02T01:35:00Z")).await.unwrap();
        assert_eq!(bench.drain(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_over_a_damaged_record_too() {
    let bench = Bench::daily();
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    std::fs::write(bench.record_path("shop"), "garbage").unwrap();
    assert!(matches!(bench.work_all().await[..], [Worked::Failed { .. }]));
    let record = bench.record("shop");
    assert_eq!(record["schedule"]["consecutive_failures"], 1);
    assert_eq!(record["schedule"]["last_sent"], "2024-05-01T01:30:00Z", "it is not sent again");
    bench.tick(at("2024-05-01T01:35:00Z")).await.unwrap();
    assert_eq!(bench.waiting(), []);
}

#[tokio::test(start_paused = true)]
async fn a_record_beyond_its_limit_fails_its_server_loudly_and_no_other() {
    let bench = Bench::new(&[daily("shop", ""), daily("crm", "")]);
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.drain();
    std::fs::write(bench.record_path("shop"), vec![b' '; MAX_SCHEDULE_BYTES as usize + 1]).unwrap();
    let error = bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap_err();
    let text = flexkeep_engine::chain(&error);
    assert!(text.contains("schedule/shop.json"), "{text}");
    let requests: Vec<_> = bench.drain().into_iter().map(|message| message.request).collect();
    assert_eq!(requests, ["crm/20240502T013000Z"]);
    // A request is not lost over it.
    let asked = by_hand("shop", "now");
    let worked = bench.work(&asked).await.unwrap();
    assert!(matches!(worked, Worked::PutOff { .. }), "{worked:?}");
    std::fs::remove_file(bench.record_path("shop")).unwrap();
    bench.forward_to_next_message();
    assert!(matches!(bench.work_all().await[..], [Worked::Failed { .. }]));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_clock_that_was_wrong_is_told_once_and_mended_by_its_removal() {
    log();
    let bench = Bench::new(&[daily("ahead", "")]);
    bench.tick(at("2034-05-01T01:30:00Z")).await.unwrap();
    for n in 0..3 {
        bench.tick(at("2024-05-01T01:30:00Z") + minutes(5 * n)).await.unwrap();
    }
    let lines = logged(&["ERROR", "server ahead: the clock says", "schedule/ahead.json"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    std::fs::remove_file(bench.record_path("ahead")).unwrap();
    let ticked = bench.tick(at("2024-05-02T01:30:00Z")).await.unwrap();
    assert_eq!(ticked.servers[0].sent, Some(at("2024-05-02T01:30:00Z")));
}

#[test]
fn many_at_once_write_one_record_and_nothing_is_lost() {
    const THREADS: i64 = 16;
    let bench = Bench::daily();
    let vault = bench.vault();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(bench.tick(at("2024-04-30T01:30:00Z"))).unwrap();
    assert_eq!(bench.drain().len(), 1);
    let messages: Vec<_> = (0..THREADS)
        .map(|n| scheduled("shop", at("2024-05-01T01:30:00Z") + days(n), minutes(1)))
        .collect();
    for message in &messages {
        seal(&vault, message);
    }
    bench.clock.set(at("2024-05-20T01:30:00Z"));
    let barrier = std::sync::Barrier::new(messages.len());
    std::thread::scope(|scope| {
        for message in &messages {
            let (service, barrier) = (bench.reopened(), &barrier);
            scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                barrier.wait();
                runtime.block_on(async {
                    let worked = service.work(incoming(&queued(message), 1)).await.unwrap();
                    assert!(matches!(worked, Worked::Completed { .. }), "{worked:?}");
                    service.tick(at("2024-05-20T01:30:00Z")).await.unwrap();
                });
            });
        }
    });
    let requests: BTreeSet<_> = messages.iter().map(|message| message.request.clone()).collect();
    let record = bench.record("shop");
    let notes = record["requests"].as_array().unwrap();
    let noted = notes.iter().map(|note| note["request"].as_str().unwrap().to_owned());
    assert_eq!(noted.collect::<BTreeSet<_>>(), requests);
    assert_eq!(record["schedule"]["last_success"], "2024-05-16T01:30:00Z");
    assert_eq!(bench.ids_of("backup.completed").len(), messages.len());
    // Those that look before it is crossed out tell it too, under its one id.
    let overdue: BTreeSet<_> = bench.ids_of("server.overdue").into_iter().collect();
    assert_eq!(overdue, BTreeSet::from(["shop/20240519T013000Z/overdue".to_owned()]));
    assert_eq!(bench.drain().len(), 1, "all of them ticked, one message came");
}

#[test]
fn failures_that_many_find_at_once_are_counted_once_each() {
    let bench = Bench::daily();
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (service, barrier) = (bench.reopened(), &barrier);
            // Each of two requests comes four times.
            let instant = at("2024-05-01T01:30:00Z") + days(n % 2);
            let message = scheduled("shop", instant, minutes(1));
            scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                barrier.wait();
                let worked = runtime.block_on(service.work(incoming(&queued(&message), 1)));
                assert!(matches!(worked.unwrap(), Worked::Failed { .. }));
            });
        }
    });
    let schedule = &bench.record("shop")["schedule"];
    // When the later one is noted first, the earlier one says nothing new.
    let failures = schedule["consecutive_failures"].as_u64().unwrap();
    assert!((1..=2).contains(&failures), "{failures}");
    assert_eq!(schedule["degraded"], failures == 2);
    let degraded: BTreeSet<_> = bench.ids_of("schedule.degraded").into_iter().collect();
    assert_eq!(degraded.len() as u64, failures - 1);
    let failed: BTreeSet<_> = bench.ids_of("backup.failed").into_iter().collect();
    assert_eq!(failed.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn before_any_backup_the_status_says_what_will_be() {
    let bench = Bench::new(&[daily("shop", ""), daily("crm", "enabled = false")]);
    bench.tick(at("2024-05-01T12:00:00Z")).await.unwrap();
    let status = bench.service.status().await.unwrap();
    let [shop, crm] = &status.servers[..] else { panic!("{status:?}") };
    assert_eq!(
        (shop.server.as_str(), shop.in_policy, shop.enabled),
        ("shop", Some(true), Some(true))
    );
    assert!(shop.schedule.as_ref().unwrap().starts_with("every day"), "{shop:?}");
    let next = shop.next.unwrap();
    assert!(next > status.at && next <= status.at + hours(24), "{next}");
    assert!(shop.last_backup.is_none() && shop.requests.is_empty() && shop.runs.is_empty());
    assert_eq!((shop.degraded, shop.failures, shop.problems.len()), (false, 0, 0));
    assert_eq!((crm.enabled, crm.next), (Some(false), None));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_tick_the_status_is_no_error() {
    let bench = Bench::daily();
    let status = bench.service.status().await.unwrap();
    assert_eq!(status.servers[0].server, "shop");
    assert!(bench.service.backups(None).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_failures_tries_to_come_and_what_is_in_the_way() {
    let bench = Bench::new(&[
        daily("shop", "max_attempts = 2"),
        daily("crm", "password = { env = \"NOT_SET\" }"),
    ]);
    bench.tick(at("2024-05-01T01:30:00Z")).await.unwrap();
    bench.work_all().await;
    let status = bench.service.status().await.unwrap();
    let [shop, crm] = &status.servers[..] else { panic!("{status:?}") };
    let [note] = &shop.requests[..] else { panic!("{shop:?}") };
    let Fate::PutOff { why, again } = &note.fate else { panic!("{note:?}") };
    assert!(why.contains("127.0.0.1"), "{why}");
    assert!(again.duration_since(note.at) <= minutes(1) && *again > note.at, "{note:?}");
    assert_eq!((note.attempt, shop.failures), (1, 0));
    assert!(crm.problems[0].contains("NOT_SET"), "{:?}", crm.problems);
    assert_eq!(crm.failures, 1);

    bench.forward_to_next_message();
    bench.work_all().await;
    let status = bench.service.status().await.unwrap();
    let [note] = &status.servers[0].requests[..] else { panic!("{status:?}") };
    assert!(matches!(note.fate, Fate::Failed { .. }) && note.attempt == 2, "{note:?}");
    assert_eq!(status.servers[0].failures, 1);

    // A backup, and a run that has shown no sign for long.
    let asked = by_hand("shop", "now");
    let manifest = seal(&bench.vault(), &asked);
    bench.work(&asked).await.unwrap();
    let run = RunRecord {
        run: RunId::new(at("2024-05-03T00:00:00Z")),
        server: "shop".parse().unwrap(),
        request: None,
        attempt: 1,
        started: at("2024-05-03T00:00:00Z"),
        host: "elsewhere".to_owned(),
        pid: 1,
        state: RunState::Running,
    };
    bench.vault().open_run(&run).unwrap();
    bench.write_policy(&[daily("crm", "")]);
    let status = bench.service.status().await.unwrap();
    let [crm, shop] = &status.servers[..] else { panic!("those of the policy come first") };
    assert_eq!((crm.in_policy, shop.in_policy), (Some(true), Some(false)));
    let last = shop.last_backup.as_ref().unwrap();
    assert_eq!((&last.backup, &last.request), (&manifest.backup, &Some(asked.request)));
    assert_eq!(shop.runs.len(), 1);
    assert!(shop.runs[0].silent && shop.runs[0].record == run, "{:?}", shop.runs);
    let backups = bench.service.backups(Some("shop")).await.unwrap();
    assert_eq!(backups.iter().map(|b| &b.backup).collect::<Vec<_>>(), [&manifest.backup]);
    assert_eq!(bench.service.manifest("shop/latest").await.unwrap().backup, manifest.backup);
    serde_json::to_string(&status).unwrap();
    assert!(Timestamp::now() >= status.at);
}

#[tokio::test(start_paused = true)]
async fn a_status_without_a_policy_is_an_error_that_names_the_file() {
    let bench = Bench::daily();
    std::fs::remove_file(bench.folder.path().join("policy.toml")).unwrap();
    let error = bench.service.status().await.unwrap_err();
    assert!(matches!(error, ServiceError::Policy(_)), "{error:?}");
    assert!(flexkeep_engine::chain(&error).contains("policy.toml"));
}
