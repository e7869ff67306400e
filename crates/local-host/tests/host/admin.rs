//! The admin API.

use std::time::Duration;

use flexkeep_local_host::HostEvent;
use serde_json::{Value, json};

use crate::app::{App, QUEUE};

#[tokio::test]
async fn the_status_names_the_handler_and_the_functions() {
    let app = App::new()
        .queue_function("q", json!({}), &[])
        .timer_function("t", "0 0 0 1 1 *", json!({}))
        .http_function("h", json!({"methods": ["get"]}));
    let mut host = app.start().await;
    let pid = host.ready().await;
    let answer = host.get("/admin/host/status").await;
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status["state"], json!("Running"));
    assert_eq!(status["handler"]["pid"], json!(pid));
    assert_eq!(
        status["functions"],
        json!([
            {"name": "h", "disabled": false,
             "trigger": {"type": "httpTrigger", "route": "api/h", "methods": ["GET"]}},
            {"name": "q", "disabled": false,
             "trigger": {"type": "serviceBusTrigger", "queueName": QUEUE, "connection": "SB"}},
            {"name": "t", "disabled": false,
             "trigger": {"type": "timerTrigger", "schedule": "0 0 0 1 1 *"}},
        ])
    );
    assert_eq!(host.get("/admin/host/ping").await.status, 200);
    assert_eq!(host.get("/admin/nothing").await.status, 404);
    host.stop().await;
}

#[tokio::test]
async fn timers_and_queue_functions_can_be_run_at_once() {
    let app = App::new()
        .queue_function("q", json!({"dataType": "binary"}), &[])
        .timer_function("t", "0 0 0 1 1 *", json!({}))
        .http_function("h", json!({}));
    let mut host = app.start().await;
    host.ready().await;
    let answer = host.trigger("T", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let id = answer.headers["x-azure-functions-invocationid"].to_str().unwrap().to_owned();
    assert_eq!(app.requests()[0]["headers"]["x-azure-functions-invocationid"], json!(id));
    assert_eq!(app.envelopes()[0]["Data"]["tick"]["IsPastDue"], json!(false));
    assert_eq!(host.trigger("q", "{\"a\":1}").await.status, 200);
    assert_eq!(app.envelopes()[1]["Data"]["msg"], json!("eyJhIjoxfQ=="));
    let json_type = [("content-type", "application/json")];
    let answer = host.call("POST", "/admin/functions/t", &json_type, "{}").await;
    assert_eq!(answer.status, 202, "as on the platform, nobody waits");
    assert!(host.invoked("t").await.ok);
    let post = async |path: &str, headers: &[(&str, &str)], body: &str| {
        host.call("POST", path, headers, body).await.status
    };
    assert_eq!(post("/admin/functions/none", &json_type, "{}").await, 404);
    assert_eq!(post("/admin/functions/h", &json_type, "{}").await, 400);
    assert_eq!(post("/admin/functions/t", &json_type, "{").await, 400);
    assert_eq!(post("/admin/functions/t", &[], "{}").await, 415);
    let from_a_page = [json_type[0], ("origin", "http://example.org")];
    assert_eq!(post("/admin/functions/t", &from_a_page, "{}").await, 403);
    let rebound = [("host", "example.org:7071")];
    assert_eq!(host.call("GET", "/api/h", &rebound, "").await.status, 403);
    host.stop().await;
}

#[tokio::test]
async fn a_drained_host_finishes_what_it_has_and_receives_nothing_until_it_resumes() {
    let app = App::new().queue_function("q", json!({}), &[]);
    app.behave("q", "sleep 1000\nok");
    let mut host = app.start().await;
    host.listeners_started().await;
    let state = async |host: &crate::app::Running| {
        let answer = host.get("/admin/host/drain/status").await;
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        status["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(&host).await, "Disabled");
    app.send("before");
    crate::app::eventually("the message is being worked on", || app.requests().len() == 1).await;
    assert_eq!(host.call("POST", "/admin/host/drain", &[], "").await.status, 202);
    assert_eq!(state(&host).await, "InProgress");
    assert!(host.invoked("q").await.ok);
    app.send("after");
    let invoked = |event: &HostEvent| matches!(event, HostEvent::Invoked { .. }).then_some(());
    assert!(host.within(Duration::from_millis(1200), invoked).await.is_none());
    assert_eq!(state(&host).await, "Completed");
    assert_eq!(host.call("POST", "/admin/host/resume", &[], "").await.status, 200);
    assert!(host.invoked("q").await.ok);
    host.stop().await;
}
