//! What the handler is sent, and what its answer means.

use flexkeep_bus::{Message, QueueOptions};
use serde_json::{Value, json};

use crate::app::{App, QUEUE};

fn output(name: &str, more: Value) -> Value {
    let mut binding = json!({
        "type": "serviceBus", "direction": "out", "name": name, "queueName": "out", "connection": "SB",
    });
    binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    binding
}

#[tokio::test]
async fn a_message_is_posted_chunked_with_the_headers_of_the_host() {
    let app = App::new().queue_function("onMsg", json!({}), &[]);
    let mut host = app.start().await;
    host.listeners_started().await;
    let message = Message::new("m-1", r#"{"MessageId":"x","n":1}"#).with_property("k", "v");
    app.queues().send(QUEUE, &message).unwrap();
    assert!(host.invoked("onMsg").await.ok);
    let request = &app.requests()[0];
    assert_eq!((&request["method"], &request["path"]), (&json!("POST"), &json!("/onMsg")));
    let header = |name: &str| request["headers"][name].as_str().unwrap_or_default();
    assert_eq!(header("transfer-encoding"), "chunked");
    assert_eq!(request["headers"].get("content-length"), None);
    assert_eq!(header("content-type"), "application/json; charset=utf-8");
    assert!(header("host").starts_with("127.0.0.1:"));
    let version = header("x-azure-functions-hostversion");
    assert_eq!(header("user-agent"), format!("Azure-Functions-Host/{version}"));
    assert!(uuid::Uuid::try_parse(header("x-azure-functions-invocationid")).is_ok());
    let trace: Vec<usize> = header("traceparent").split('-').map(str::len).collect();
    assert_eq!(trace, [2, 32, 16, 2]);
    let envelope = &app.envelopes()[0];
    assert_eq!(envelope["Data"]["msg"], json!(r#""{\"MessageId\":\"x\",\"n\":1}""#));
    let metadata = &envelope["Metadata"];
    assert_eq!(metadata["MessageId"], json!("\"x\""), "the body pollutes the metadata");
    assert_eq!(metadata["n"], json!("\"1\""));
    assert_eq!(metadata["ApplicationProperties"], json!({"k": "v"}));
    assert_eq!(metadata["sys"]["MethodName"], json!("onMsg"));
    host.stop().await;
}

#[tokio::test]
async fn a_binary_message_arrives_as_base64_of_its_exact_bytes() {
    let app = App::new().queue_function("onMsg", json!({"dataType": "binary"}), &[]);
    let mut host = app.start().await;
    host.listeners_started().await;
    app.queues().send(QUEUE, &Message::new("m-1", [0, 255, 254, 10])).unwrap();
    assert!(host.invoked("onMsg").await.ok);
    assert_eq!(app.envelopes()[0]["Data"]["msg"], json!("AP/+Cg=="));
    host.stop().await;
}

#[tokio::test]
async fn only_a_json_object_with_status_2xx_is_a_success() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let mut host = app.start().await;
    host.ready().await;
    for (behaviour, status, cause) in [
        ("json {}", 200, ""),
        ("status 202 {}", 200, ""),
        ("status 500", 500, "status 500"),
        ("status 404", 500, "status 404"),
        ("text", 500, "content type is text/plain"),
        ("empty", 500, "no body"),
        ("status 204", 500, "no body"),
        ("json null", 500, "is null"),
        ("json {broken", 500, "not a JSON object"),
        ("json []", 500, "not a JSON object"),
    ] {
        app.behave("t", behaviour);
        let answer = host.trigger("t", "").await;
        assert_eq!(answer.status, status, "{behaviour}: {}", answer.body);
        assert!(answer.body.contains(cause), "{behaviour}: {}", answer.body);
    }
    host.stop().await;
}

#[tokio::test]
async fn redirects_are_followed_as_dotnet_does() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let mut host = app.start().await;
    host.ready().await;
    app.behave("t", "redirect 307 /elsewhere");
    assert_eq!(host.trigger("t", "").await.status, 200);
    app.behave("t", "redirect 302 /elsewhere");
    assert_eq!(host.trigger("t", "").await.status, 200);
    app.behave("t", "redirect 307 /t");
    let answer = host.trigger("t", "").await;
    assert!(answer.body.contains("redirected more than 50 times"), "{}", answer.body);
    let requests = app.requests();
    let seen = |place: usize| (requests[place]["method"].clone(), requests[place]["path"].clone());
    assert_eq!(seen(1), (json!("POST"), json!("/elsewhere")));
    assert_eq!(requests[0]["body"], requests[1]["body"]);
    assert_eq!(seen(3), (json!("GET"), json!("/elsewhere")));
    assert_eq!(requests[3]["body"], json!(""));
    host.stop().await;
}

#[tokio::test]
async fn outputs_become_messages_before_the_trigger_is_completed() {
    let app = App::new().queue_function(
        "f",
        json!({}),
        &[output("plain", json!({})), output("exact", json!({"dataType": "binary"}))],
    );
    app.queues().declare("out", &QueueOptions::default()).unwrap();
    let answer = concat!(
        r#"{"outputs":{"plain":["{\"a\":1}",{"b":1,"a":2},"test"],"exact":"test","#,
        r#""Plain":"not a binding"},"Logs":["done"]}"#
    );
    app.behave("f", &format!("json {answer}"));
    let mut host = app.start().await;
    host.listeners_started().await;
    app.send("go");
    assert!(host.invoked("f").await.ok);
    let sent = app.queues().peek("out", 10).unwrap();
    let bodies: Vec<_> =
        sent.iter().map(|m| String::from_utf8(m.message.body.clone()).unwrap()).collect();
    assert_eq!(bodies, ["{\"a\":1}", "{\n  \"b\": 1,\n  \"a\": 2\n}", "test", "test"]);
    assert_eq!(sent[0].message.content_type.as_deref(), Some("text/plain"));
    let id = &app.requests()[0]["headers"]["x-azure-functions-invocationid"];
    assert_eq!(&sent[0].message.properties["$AzureWebJobsParentId"], id);
    app.behave("f", "json {\"Outputs\":{\"plain\":\"test\"}}");
    app.send("again");
    assert!(host.invoked("f").await.ok);
    let last = app.queues().peek("out", 10).unwrap().pop().unwrap();
    assert_eq!(last.message.body, b"System.Byte[]", "a text that is base64 by chance");
    host.stop().await;
}

#[tokio::test]
async fn an_output_that_cannot_be_sent_fails_the_function() {
    let app = App::new().queue_function("f", json!({}), &[output("out1", json!({}))]);
    let large = "too large! ".repeat(100_000);
    app.behave("f", &format!("json {}\nok", json!({"Outputs": {"out1": large}})));
    let mut host = app.start().await;
    host.listeners_started().await;
    app.send("go");
    let first = host.invoked("f").await;
    assert!(first.error.starts_with("cannot send to queue out: message"), "{}", first.error);
    assert!(host.invoked("f").await.ok, "it was given back");
    host.stop().await;
}

#[tokio::test]
async fn logs_of_an_answer_and_lines_of_the_console_reach_the_log_with_their_levels() {
    let app = App::new().timer_function("t", "0 0 0 1 1 *", json!({}));
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    app.behave("t", "say Warning: hot\nsay it burns\njson {\"Logs\":[\"all is well\"]}\nempty");
    let mut host = app.start().await;
    host.ready().await;
    for _ in 0..4 {
        host.trigger("t", "").await;
    }
    host.stop().await;
    let text = log.text();
    let has = |level: &str, part: &str| {
        text.lines().any(|line| line.trim_start().contains(level) && line.contains(part))
    };
    assert!(has(" WARN ", "handler: Warning: hot"), "{text}");
    assert!(has("ERROR ", "handler: it burns"), "{text}");
    assert!(has(" INFO ", "handler: it burns"), "{text}");
    assert!(has(" INFO invocation{function=t id=", "all is well"), "{text}");
    assert!(has("ERROR ", "ON THE PLATFORM THIS HANGS"), "{text}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
