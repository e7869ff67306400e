//! The handler's process: start, readiness, crashes, restarts.

use std::time::Duration;

use flexkeep_local_host::{CleanExit, HostEvent, HostExit};
use serde_json::json;

use crate::app::{App, eventually, is_alive};

#[tokio::test]
async fn a_handler_gets_its_port_its_ids_the_app_root_and_the_settings() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let mut host = app.start().await;
    let pid = host.ready().await;
    let start = &app.starts()[0];
    assert_eq!(start["pid"], json!(pid));
    assert_eq!(start["directory"], json!(app.root()));
    let environment = |name: &str| start["environment"][name].as_str().unwrap_or_default();
    assert_eq!(environment("FUNCTIONS_APP_ROOT_PATH"), app.root().to_str().unwrap());
    let port = environment("FUNCTIONS_CUSTOMHANDLER_PORT");
    assert!(port.parse::<u16>().unwrap() > 0);
    assert_eq!(environment("FUNCTIONS_HTTPWORKER_PORT"), port);
    let id = environment("FUNCTIONS_CUSTOMHANDLER_WORKER_ID");
    assert!(uuid::Uuid::try_parse(id).is_ok(), "{id}");
    assert_eq!(environment("FUNCTIONS_HTTPWORKER_ID"), id);
    assert_eq!(environment("TEST__Section__Value"), "from the settings");
    let queue = format!("sqlite:{}", app.root().join("queue.db").display());
    assert_eq!(start["queue"], json!(queue), "the relative path is made absolute");
    assert_eq!(host.stop().await, HostExit::Stopped { unfinished: 0 });
    eventually("the handler is gone", || !is_alive(pid)).await;
}

#[tokio::test]
async fn arguments_and_folders_of_the_description_are_used() {
    let handler = env!("CARGO_BIN_EXE_local-host-test-handler");
    let description = json!({
        "defaultExecutablePath": handler,
        "arguments": ["--port=%FUNCTIONS_CUSTOMHANDLER_PORT%", "two words"],
        "workingDirectory": "made/by/the/host",
    });
    let app = App::new().host_json("customHandler.description", description).queue_function(
        "f",
        json!({}),
        &[],
    );
    let mut host = app.start().await;
    host.ready().await;
    let start = &app.starts()[0];
    assert_eq!(start["directory"], json!(app.root().join("made/by/the/host")));
    let port = start["environment"]["FUNCTIONS_CUSTOMHANDLER_PORT"].as_str().unwrap();
    assert_eq!(start["arguments"], json!([format!("--port={port}"), "two", "words"]));
    host.stop().await;
}

#[tokio::test]
async fn messages_wait_for_a_slow_handler_without_using_up_deliveries() {
    let app = App::new().queue_function("f", json!({}), &[]);
    app.behave("start", "slow 700");
    app.send("early");
    let mut host = app.start().await;
    let ms = host
        .until(|event| match event {
            HostEvent::Ready { ms, .. } => Some(*ms),
            _ => None,
        })
        .await;
    assert!(ms >= 700, "{ms}");
    assert!(host.invoked("f").await.ok);
    assert_eq!(app.envelopes()[0]["Metadata"]["DeliveryCount"], json!("1"));
    host.stop().await;
}

#[tokio::test]
async fn three_crashes_stop_the_host_and_the_error_holds_the_last_words() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("start", "say first\nsay out of luck\nexit 3");
    let host = app.start().await;
    let HostExit::HandlerKeepsFailing { error, exit_code } = host.exit().await else {
        panic!("another exit")
    };
    assert_eq!(exit_code, Some(3));
    assert!(error.contains("exit code 3"), "{error}");
    assert!(error.contains("first | out of luck"), "{error}");
    assert_eq!(app.starts().len(), 3);
    let ports = app
        .starts()
        .iter()
        .map(|s| s["environment"]["FUNCTIONS_CUSTOMHANDLER_PORT"].clone())
        .collect::<std::collections::HashSet<_>>();
    assert_eq!(ports.len(), 1, "a restarted handler gets the same port");
}

#[tokio::test]
async fn a_handler_that_never_answers_counts_as_an_error() {
    let app = App::new()
        .host_json("customHandler.initializationTimeout", json!("00:00:01"))
        .timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("start", "hang");
    let host = app.start().await;
    let HostExit::HandlerKeepsFailing { error, .. } = host.exit().await else {
        panic!("another exit")
    };
    assert!(error.contains("did not answer within 1s"), "{error}");
    for start in app.starts() {
        assert!(!is_alive(start["pid"].as_u64().unwrap() as u32));
    }
}

#[tokio::test]
async fn an_executable_that_cannot_be_run_counts_as_an_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let mut options = app.options();
    let path = app.root().join("not-a-program");
    std::fs::write(&path, [0, 1, 2, 3]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    options.handler_override = Some(path);
    let HostExit::HandlerKeepsFailing { error, .. } = app.start_with(options).await.exit().await
    else {
        panic!("another exit")
    };
    assert!(error.contains("not-a-program could not be started"), "{error}");
}

#[tokio::test]
async fn exit_code_200_restarts_the_handler_and_is_not_counted() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("t", "exit 200\nexit 200\nexit 200\nexit 200\nok");
    let mut host = app.start().await;
    for _ in 0..4 {
        host.ready().await;
        let answer = host.trigger("t", "").await;
        assert_eq!(answer.status, 500);
        assert!(answer.body.contains("the handler's process ended"), "{}", answer.body);
    }
    host.ready().await;
    assert_eq!(host.trigger("t", "").await.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn exit_code_0_restarts_the_handler_ever_more_slowly() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("start", "exit 0");
    let mut host = app.start().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let starts = app.starts().len();
    assert!((2..=6).contains(&starts), "{starts} starts: 0, 100, 300, 700 and 1500 ms were due");
    app.behave("start", "");
    host.ready().await;
    assert_eq!(host.trigger("t", "").await.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn an_invocation_that_waits_in_vain_for_a_handler_ends_the_host() {
    let app = App::new()
        .host_json("customHandler.initializationTimeout", json!("00:00:01"))
        .timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("start", "exit 0");
    let host = app.start().await;
    let answer = host.trigger("t", "").await;
    assert!(answer.body.contains("was not ready within 4s"), "{}", answer.body);
    assert_eq!(host.exit().await, HostExit::NeverReady);
}

#[tokio::test]
async fn exit_code_0_leaves_the_app_without_a_handler_if_the_host_is_an_old_one() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    app.behave("t", "exit 0");
    let mut options = app.options();
    options.clean_exit = CleanExit::Leave;
    let mut host = app.start_with(options).await;
    host.ready().await;
    assert_eq!(host.trigger("t", "").await.status, 500);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = host.trigger("t", "").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("is not restarted"), "{}", answer.body);
    assert_eq!(app.starts().len(), 1);
    assert_eq!(host.stop().await, HostExit::Stopped { unfinished: 0 });
}

#[tokio::test]
async fn a_crash_gives_the_message_back_to_the_next_process() {
    let app = App::new().queue_function("f", json!({}), &[]);
    app.behave("f", "abort\nok");
    let mut host = app.start().await;
    host.listeners_started().await;
    app.send("survivor");
    let first = host.invoked("f").await;
    assert!(!first.ok);
    assert!(first.error.contains("process ended"), "{}", first.error);
    assert!(host.invoked("f").await.ok);
    let requests = app.requests();
    assert_ne!(requests[0]["pid"], requests[1]["pid"]);
    assert_eq!(app.envelopes()[1]["Metadata"]["DeliveryCount"], json!("2"));
    host.stop().await;
    let counts = app.queues().counts("jobs").unwrap();
    assert_eq!((counts.active, counts.locked, counts.dead), (0, 0, 0));
}

#[tokio::test]
async fn a_time_out_kills_the_process_fails_all_it_did_and_is_not_counted() {
    let app = App::new()
        .host_json("functionTimeout", json!("00:00:01"))
        .timer_function("slow", "0 0 0 1 1 *", json!({}))
        .timer_function("other", "0 0 0 1 1 *", json!({}));
    app.behave("slow", "sleep 60000");
    app.behave("other", "sleep 60000");
    app.behave("start", "child");
    let mut host = app.start().await;
    for round in 0..4 {
        let pid = host.ready().await;
        let child: u32 = std::fs::read_to_string(app.control("child")).unwrap().parse().unwrap();
        let (slow, other) = tokio::join!(host.trigger("slow", ""), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            host.trigger("other", "").await
        });
        assert!(slow.body.contains("longer than 1s"), "{round}: {}", slow.body);
        assert_eq!(other.status, 500, "{round}");
        assert!(!is_alive(pid));
        assert!(is_alive(child), "only the one process is killed, as on the platform");
        std::process::Command::new("kill").arg(child.to_string()).status().unwrap();
    }
    host.ready().await;
    let ports = app
        .starts()
        .iter()
        .map(|s| s["environment"]["FUNCTIONS_CUSTOMHANDLER_PORT"].clone())
        .collect::<std::collections::HashSet<_>>();
    assert_eq!((app.starts().len(), ports.len()), (5, 1));
    host.stop().await;
    let child: u32 = std::fs::read_to_string(app.control("child")).unwrap().parse().unwrap();
    eventually("what the last handler started is gone too", || !is_alive(child)).await;
}
