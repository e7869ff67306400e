//! How a host ends, in order or not.

use std::process::Stdio;
use std::time::Duration;

use flexkeep_local_host::{HostEvent, HostExit, Settlement};
use serde_json::json;

use crate::app::{App, QUEUE, eventually, is_alive};

#[tokio::test]
async fn what_runs_may_end_within_the_grace_period() {
    let app = App::new().queue_function("f", json!({}), &[]);
    app.behave("f", "sleep 1000");
    app.send("running");
    let mut host = app.start().await;
    eventually("the message is being worked on", || app.requests().len() == 1).await;
    app.send("too late");
    host.begin_stop();
    let outcome = host
        .until(|event| match event {
            HostEvent::Settled { outcome, .. } => Some(*outcome),
            _ => None,
        })
        .await;
    assert_eq!(outcome, Settlement::Completed);
    assert_eq!(host.stop().await, HostExit::Stopped { unfinished: 0 });
    let counts = app.queues().counts(QUEUE).unwrap();
    assert!(counts.active <= 1, "nothing new is received once the host stops");
    assert_eq!(counts.locked, 0);
}

#[tokio::test]
async fn clients_that_are_only_connected_do_not_delay_the_end() {
    let app = App::new().http_function("f", json!({}));
    let mut host = app.start().await;
    host.ready().await;
    let silent = tokio::net::TcpStream::connect(host.addr).await.unwrap();
    let mut slow = tokio::net::TcpStream::connect(host.addr).await.unwrap();
    let head = b"POST /api/f HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel";
    tokio::io::AsyncWriteExt::write_all(&mut slow, head).await.unwrap();
    assert_eq!(host.get("/api/f").await.status, 200);
    drop(slow);
    let started = std::time::Instant::now();
    assert_eq!(host.stop().await, HostExit::Stopped { unfinished: 0 });
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    drop(silent);
}

#[tokio::test]
async fn what_does_not_end_is_killed_and_its_message_is_given_back() {
    let app = App::new().queue_function("f", json!({}), &[]);
    app.behave("f", "sleep 60000");
    app.behave("start", "child");
    app.send("endless");
    let mut options = app.options();
    options.shutdown_grace = Duration::from_millis(500);
    let mut host = app.start_with(options).await;
    let pid = host.ready().await;
    eventually("the message is being worked on", || app.requests().len() == 1).await;
    assert_eq!(host.stop().await, HostExit::Stopped { unfinished: 1 });
    assert!(!is_alive(pid));
    let child: u32 = std::fs::read_to_string(app.control("child")).unwrap().parse().unwrap();
    eventually("what the handler started is gone", || !is_alive(child)).await;
    let counts = app.queues().counts(QUEUE).unwrap();
    assert_eq!((counts.active, counts.locked), (1, 0));
}

#[tokio::test]
async fn a_host_whose_future_is_dropped_leaves_no_handler() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let host = flexkeep_local_host::Host::load(app.options()).unwrap();
    let run = host.run(std::future::pending());
    assert!(tokio::time::timeout(Duration::from_millis(2500), run).await.is_err());
    let pid = app.starts()[0]["pid"].as_u64().unwrap() as u32;
    eventually("the handler is gone", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_killed_host_takes_its_handler_along_and_another_host_gets_the_message() {
    let app = App::new().queue_function("f", json!({}), &[]);
    let options =
        flexkeep_bus::QueueOptions { lock_duration: Duration::from_secs(2), ..Default::default() };
    app.queues().declare(QUEUE, &options).unwrap();
    app.behave("f", "sleep 60000\nok");
    app.behave("start", "child");
    app.send("orphan");
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_local-host-test-handler"))
        .arg("host")
        .arg(app.root())
        .env("CONTROL", app.root().join("control"))
        .env("SB", "sqlite:queue.db")
        .env("QUEUE", QUEUE)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the message is being worked on", || app.requests().len() == 1).await;
    let handler = app.starts()[0]["pid"].as_u64().unwrap() as u32;
    let child: u32 = std::fs::read_to_string(app.control("child")).unwrap().parse().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    eventually("the handler died with its host", || !is_alive(handler)).await;
    eventually("so did what it started", || !is_alive(child)).await;
    assert_eq!(app.queues().counts(QUEUE).unwrap().locked, 1, "nobody gave the message back");
    let mut second = app.start().await;
    assert!(second.invoked("f").await.ok);
    assert_eq!(app.envelopes()[1]["Metadata"]["DeliveryCount"], json!("2"));
    second.stop().await;
}
