//! The function app killed at any point: the message comes again, the backup is sealed once, and
//! its completion is told.

#[path = "function_app/mod.rs"]
mod app;

use std::path::Path;
use std::time::{Duration, Instant};

use flexkeep_bus::{LocalQueues, QueueOptions};
use flexkeep_tests::{Server, TestApp, kill, rounds, wait_for};

use app::{MINUTE, expect_server_free, request, server};

/// Short, so that a test need not wait a minute for what a dead host had locked.
const LOCK: Duration = Duration::from_secs(2);

fn app_with_short_locks(server: &Server) -> TestApp {
    let app = TestApp::new(server);
    let queues = LocalQueues::open(&app.root().join("state/queues.db")).expect("a new file");
    let options = QueueOptions { lock_duration: LOCK, ..QueueOptions::default() };
    for queue in ["backups", "lanes"] {
        queues.declare(queue, &options).expect("declared");
    }
    app
}

/// A moment somewhere in a backup, another in each round; the rounds cover all of it.
fn moment(round: u32, rounds: u32, longest: Duration) -> Duration {
    longest * round / rounds
}

/// When a round's backup is due.
fn instant(round: u32) -> String {
    format!("2026-11-22T{:02}:{:02}:00Z", 1 + round / 60, round % 60)
}

#[track_caller]
fn expect_each_sealed_and_told_once(app: &TestApp, requests: &[String], server: &Server) {
    for request in requests {
        app.wait_for_event_id(&format!("{request}/completed"), 2 * MINUTE);
    }
    app.wait_until_drained(2 * MINUTE);
    assert_eq!(app.backups().len(), requests.len(), "{:?}\n{}", app.backups(), app.log());
    for request in requests {
        let id = format!("{request}/completed");
        let told: Vec<_> = app
            .events_of("backup.completed")
            .into_iter()
            .filter(|event| event["id"] == *id)
            .map(|event| event["data"]["backup"].clone())
            .collect();
        assert!(told.iter().all(|backup| *backup == told[0]), "{told:?}");
    }
    assert!(app.events_of("backup.failed").is_empty(), "{:#?}", app.events_of("backup.failed"));
    app.assert_events_keep_the_schema();
    expect_server_free(server);
}

/// How long a backup takes here, from the message to the event.
fn time_of_a_backup(app: &TestApp) -> Duration {
    let started = Instant::now();
    app.send("measure", &request("src", "src/measure", "2026-11-22T00:00:00Z"));
    app.wait_for_event("backup.completed", MINUTE);
    started.elapsed()
}

#[test]
fn a_handler_killed_at_any_point_is_started_again_and_the_backup_is_sealed_once() {
    let rounds = rounds(6);
    let server = server();
    let mut app = app_with_short_locks(&server);
    app.start(&server);
    let longest = time_of_a_backup(&app);
    let mut requests = vec!["src/measure".to_owned()];
    for round in 0..rounds {
        if round % 2 == 0 && round > 0 {
            // Three crashes within half an hour end a host, as on the platform; whoever watches
            // over it starts it again.
            app.stop();
            app.start(&server);
        }
        let name = format!("src/round-{round}");
        server.psql(
            "shop",
            &format!("UPDATE orders SET note = 'x' || note WHERE id % 10 = {}", round % 10),
        );
        app.send(&name, &request("src", &name, &instant(round)));
        std::thread::sleep(moment(round, rounds, longest));
        kill(app.handler_pid());
        requests.push(name);
        app.wait_for_event_id(&format!("src/round-{round}/completed"), MINUTE);
    }
    expect_each_sealed_and_told_once(&app, &requests, &server);
}

#[test]
fn a_host_killed_at_any_point_takes_its_handler_along_and_nothing_is_lost() {
    let rounds = rounds(5);
    let server = server();
    let mut app = app_with_short_locks(&server);
    app.start(&server);
    let longest = time_of_a_backup(&app);
    let mut requests = vec!["src/measure".to_owned()];
    for round in 0..rounds {
        let name = format!("src/round-{round}");
        app.send(&name, &request("src", &name, &instant(round)));
        std::thread::sleep(moment(round, rounds, longest));
        let handler = app.handler_pid();
        app.kill_host();
        wait_for("the handler ends with its host", MINUTE, || {
            (!Path::new(&format!("/proc/{handler}")).exists()).then_some(())
        });
        requests.push(name);
        app.start(&server);
    }
    expect_each_sealed_and_told_once(&app, &requests, &server);
}

#[test]
fn an_event_that_could_not_be_told_is_told_when_it_can_be() {
    let server = app::small_server();
    let mut app = app_with_short_locks(&server);
    // The folder of the events is not there.
    app.set("FLEXKEEP_EVENTS", "file:events/events.jsonl");
    app.start(&server);
    app.run_function("schedule");
    wait_for("the start cannot be told, so nothing begins", MINUTE, || {
        (app.queues().counts("backups").expect("counts").scheduled == 1).then_some(())
    });
    assert!(app.backups().is_empty());
    assert!(app.log().contains("cannot send event"), "{}", app.log());
    let events = app.root().join("events");
    std::fs::create_dir(&events).expect("our own folder");
    let file = events.join("events.jsonl");
    let text = wait_for("it is told", MINUTE, || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("flexkeep.backup.completed").then_some(text)
    });
    assert_eq!(text.matches("flexkeep.backup.started").count(), 1, "{text}");
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 1);
}
