//! The function app on one machine: real handler process, real host, real server, real files.

#[path = "function_app/mod.rs"]
mod app;

use std::time::Duration;

use flexkeep_tests::{TestApp, flexkeep_command, json, run, wait_for};

use app::{MINUTE, request, server, small_server};

#[test]
fn the_timer_fires_and_one_backup_is_made_and_told() {
    let server = server();
    let mut app = TestApp::new(&server);
    app.set("FLEXKEEP_TICK", "* * * * * *");
    app.start(&server);
    let completed = app.wait_for_event("backup.completed", MINUTE);
    // More ticks come for the same instant.
    std::thread::sleep(Duration::from_secs(3));
    app.wait_until_drained(MINUTE);
    app.stop();

    let backups = app.backups();
    assert_eq!(backups.len(), 1);
    let data = &completed["data"];
    assert_eq!(data["backup"], backups[0].as_str());
    assert_eq!(data["server"], "src");
    assert_eq!(data["complete"], true);
    assert_eq!(data["reason"], "catch_up");
    assert_eq!(data["rows"], 200_100);
    assert!(data["new_stored_bytes"].as_u64().unwrap() > 100_000, "{data:#}");
    assert_eq!(data["databases"].as_array().unwrap().len(), 3);
    assert!(completed["source"].as_str().unwrap().starts_with("file:///tmp/"), "{completed:#}");
    let types: Vec<_> = app.events().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["flexkeep.backup.started", "flexkeep.backup.completed"]);
    app.assert_events_keep_the_schema();
}

#[test]
fn a_backup_asked_for_twice_under_one_key_is_made_once() {
    let server = small_server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    let url = app.url();
    let trigger = |key: &str| {
        let arguments = ["trigger", "src", "--json", "--wait", "1m", "--url", &url];
        let mut command = flexkeep_command(&arguments);
        json(&run(command.args(["--idempotency-key", key]), MINUTE).expect_success())
    };
    let first = trigger("one");
    assert_eq!(first["status"], "sealed");
    assert_eq!(first["request"], "src/by-hand/one");
    let again = trigger("one");
    assert_eq!(again["backup"], first["backup"]);
    let other = trigger("two");
    assert_ne!(other["backup"], first["backup"]);
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 2);
    let status = run(&mut flexkeep_command(&["status", "--url", &url]), MINUTE).expect_success();
    assert!(status.text().contains(other["backup"].as_str().unwrap()), "{}", status.text());
    assert_eq!(app.events_of("backup.completed").len(), 2);
    app.assert_events_keep_the_schema();
}

#[test]
fn the_schedule_can_be_run_by_hand_and_sends_an_instant_once() {
    let server = small_server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    for _ in 0..3 {
        let arguments = ["trigger", "--schedule", "--url", &app.url()];
        run(&mut flexkeep_command(&arguments), MINUTE).expect_success();
    }
    app.wait_for_event("backup.completed", MINUTE);
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 1);
    assert_eq!(app.events_of("backup.started").len(), 1);
}

#[test]
fn a_second_message_of_a_request_at_work_leaves_and_nothing_is_doubled() {
    let server = server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    let body = request("src", "src/twins", "2026-11-22T01:30:00Z");
    for number in 0..4 {
        app.send(&format!("twin-{number}"), &body);
    }
    app.wait_for_event("backup.completed", MINUTE);
    // Those that found the first at work look again soon, and find its backup.
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 1, "{}", app.log());
    let completed = app.events_of("backup.completed");
    assert!(completed.iter().all(|event| event["id"] == "src/twins/completed"), "{completed:#?}");
    assert!(
        completed.iter().all(|event| event["data"]["backup"] == completed[0]["data"]["backup"])
    );
}

#[test]
fn messages_that_can_never_work_are_answered_once_and_hold_nobody_up() {
    let server = small_server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    let good = |server: &str, name: &str| {
        request(server, &format!("{server}/{name}"), "2026-11-22T01:30:00Z")
    };
    let bad: Vec<(&str, String, &str)> = vec![
        ("not-json", "hunter2 {".to_owned(), "not JSON"),
        ("empty", String::new(), "not JSON"),
        ("list", "[1]".to_owned(), "not an object"),
        ("no-version", "{}".to_owned(), "\"version\""),
        ("new-version", good("src", "v").replace(":1,", ":2,"), "version 2"),
        ("more-fields", good("src", "f").replace(":1,", ":1,\"hunter2\":1,"), "not known"),
        ("bad-name", good("SRC hunter2", "n"), "cannot have"),
        ("bad-time", request("src", "src/t", "hunter2"), "cannot have"),
        ("bad-id", good("src", "x y hunter2"), "request id"),
        ("long", "x".repeat(100_000), "bytes"),
        ("early", request("src", "src/e", "2999-11-22T01:30:00Z"), "not come yet"),
        ("other", request("src", "other/o", "2026-11-22T01:30:00Z"), "request id"),
        ("unknown", good("nobody", "u"), "no server \"nobody\""),
    ];
    for (id, body, _) in &bad {
        app.send(id, body);
    }
    for number in 0..200 {
        app.send(&format!("poison-{number}"), "poison");
    }
    app.send("good", &good("src", "good"));
    app.wait_for_event("backup.completed", MINUTE);
    app.wait_until_drained(MINUTE);
    let failed = app.events_of("backup.failed");
    assert_eq!(failed.len(), bad.len() + 200);
    for (id, _, words) in &bad {
        let told: Vec<_> = failed
            .iter()
            .filter(|event| event["data"]["message_id"] == *id || event["id"] == "nobody/u/failed")
            .filter(|event| event["data"]["why"].as_str().unwrap().contains(words))
            .collect();
        assert_eq!(told.len(), 1, "{id}: {failed:#?}");
    }
    app.assert_events_keep_the_schema();
    let said = format!("{}{:?}", app.log(), app.events());
    assert!(!said.to_lowercase().contains("hunter2"), "{said}");
    assert_eq!(app.backups().len(), 1);
}

#[test]
fn what_may_pass_is_tried_again_and_then_succeeds() {
    let mut server = small_server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    server.stop();
    app.run_function("schedule");
    wait_for("it is put off", MINUTE, || {
        (app.queues().counts("backups").unwrap().scheduled == 1).then_some(())
    });
    let (_, status) = app.request("GET", "/api/status", None);
    let note = &status["servers"][0]["requests"][0];
    assert_eq!(note["is"], "put_off", "{status:#}");
    assert!(note["why"].as_str().unwrap().contains("cannot connect"), "{note:#}");
    assert_eq!(app.events_of("backup.failed").len(), 0);
    server.start_again();
    // The first delay is a minute.
    app.wait_for_event("backup.completed", 3 * MINUTE);
    let restarted = app.events_of("backup.restarted");
    assert_eq!(restarted.len(), 1);
    assert_eq!(restarted[0]["data"]["attempt"], 2);
    assert!(restarted[0]["data"]["why"].as_str().unwrap().contains("cannot connect"));
    app.wait_until_drained(MINUTE);
    app.assert_events_keep_the_schema();
}

#[test]
fn what_does_not_pass_is_given_up_and_told_with_its_reason() {
    let mut server = small_server();
    let mut app = TestApp::new(&server);
    let policy = app.policy_of(&server, "src", "max_attempts = 1\nlanes = 1");
    app.write_policy(&policy);
    app.start(&server);
    server.stop();
    app.run_function("schedule");
    let failed = app.wait_for_event("backup.failed", MINUTE);
    assert!(failed["data"]["why"].as_str().unwrap().contains("cannot connect"), "{failed:#}");
    app.wait_until_drained(MINUTE);

    server.start_again();
    for (more, words) in [
        ("exclude_databases = [\"nothing\"]", "does not exist"),
        ("password = { env = \"NOT_SET_ANYWHERE\" }", "NOT_SET_ANYWHERE"),
    ] {
        app.write_policy(&app.policy_of(&server, "src", more));
        let (status, accepted) = app.request("POST", "/api/backups", Some("{\"server\":\"src\"}"));
        assert_eq!(status, 202, "{accepted}");
        let id = format!("{}/failed", accepted["request"].as_str().unwrap());
        wait_for("it is told", MINUTE, || {
            let failed =
                app.events_of("backup.failed").into_iter().find(|event| event["id"] == *id)?;
            let why = failed["data"]["why"].as_str().unwrap();
            assert!(why.contains(words), "{why}");
            Some(())
        });
    }
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 0);
    app.assert_events_keep_the_schema();
}

#[test]
fn bad_requests_are_answered_clearly() {
    let server = small_server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    let long = "x".repeat(20_000);
    let cases: [(&str, &str, Option<&str>, u16, &str); 12] = [
        ("GET", "/api/nothing", None, 404, "GET /api/status"),
        ("GET", "/api", None, 404, "GET /api/status"),
        ("POST", "/api/status", Some("{}"), 405, "takes GET"),
        ("POST", "/api/backups", None, 400, "the body is empty"),
        ("POST", "/api/backups", Some("hunter2"), 400, "{\"server\": \"NAME\"}"),
        (
            "POST",
            "/api/backups",
            Some("{\"server\":\"src\",\"x\":1}"),
            400,
            "{\"server\": \"NAME\"}",
        ),
        ("POST", "/api/backups", Some("{\"server\":\"nobody\"}"), 404, "it has src"),
        ("POST", "/api/backups", Some(&long), 413, "16 KiB"),
        ("GET", "/api/backups/nothing", None, 404, "no such"),
        ("GET", "/api/backups?server=NO%20NAME", None, 400, "is not a server name"),
        ("GET", "/api/backups/src/latest", None, 404, "no such"),
        ("GET", "/api/backups?server=nobody", None, 200, ""),
    ];
    for (method, path, body, status, words) in cases {
        let (got, answer) = app.request(method, path, body);
        assert_eq!(got, status, "{method} {path}: {answer}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{method} {path}: {answer}");
        assert!(!error.contains("hunter2"), "{answer}");
    }
    assert_eq!(app.queues().counts("backups").unwrap().active, 0);
    app.stop();
}

#[test]
fn a_broken_policy_is_told_with_its_line_and_works_again_when_it_is_mended() {
    let server = small_server();
    let mut app = TestApp::new(&server);
    let good = app.policy_of(&server, "src", "");
    app.write_policy(&good.replace("02:30", "25:30"));
    app.start(&server);
    let (status, answer) = app.request("GET", "/api/status?code=Hunter2", None);
    assert_eq!(status, 500, "{answer}");
    assert!(!app.log().contains("Hunter2"), "a key in the log: {}", app.log());
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("policy.toml:7:") && error.contains("25:30"), "{error}");
    app.run_function("schedule");
    wait_for("the tick fails loudly", MINUTE, || {
        app.log().contains("policy.toml:7:").then_some(())
    });
    app.write_policy(&good);
    app.run_function("schedule");
    app.wait_for_event("backup.completed", MINUTE);
}

#[test]
fn no_secret_is_in_any_log_event_or_file() {
    let server = app::server_with_password("Hunter2-secret");
    let mut app = TestApp::new(&server);
    let policy = app.policy_of(&server, "src", "password = { env = \"SRC_PASSWORD\" }");
    let (postgres, keeper) =
        (server.conninfo("postgres"), server.conninfo_as("keeper", None, "postgres"));
    assert!(policy.contains(&postgres), "{policy}");
    app.write_policy(&policy.replace(&postgres, &keeper));
    let mut said = String::new();
    for password in ["Hunter2-secret", "Hunter2-wrong"] {
        app.set("SRC_PASSWORD", password);
        app.start(&server);
        let (status, answer) = app.request("POST", "/api/backups", Some("{\"server\":\"src\"}"));
        assert_eq!(status, 202, "{answer}");
        let type_ = if password.ends_with("wrong") { "failed" } else { "completed" };
        app.wait_for_event(&format!("backup.{type_}"), MINUTE);
        said.push_str(&app.request("GET", "/api/status", None).1.to_string());
        said.push_str(&app.log());
        app.stop();
    }
    said.push_str(&format!("{:?}", app.events()));
    for file in app::files(&[app.root().join("state"), app.place()]) {
        said.push_str(&String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
    }
    assert!(!said.contains("Hunter2"), "{said}");
}

#[test]
fn an_orderly_stop_gives_the_message_back_and_leaves_nothing_running() {
    let server = server();
    let mut app = TestApp::new(&server);
    app.start(&server);
    app.run_function("schedule");
    app.wait_for_event("backup.started", MINUTE);
    let handler = app.handler_pid();
    app.stop();
    assert!(!std::path::Path::new(&format!("/proc/{handler}")).exists(), "the handler lives on");
    let counts = app.queues().counts("backups").unwrap();
    assert_eq!((counts.locked, counts.dead), (0, 0));
    app::expect_server_free(&server);
    app.start(&server);
    app.wait_for_event("backup.completed", MINUTE);
    app.wait_until_drained(MINUTE);
    assert_eq!(app.backups().len(), 1);
}
