use base64::{Engine as _, engine::general_purpose::STANDARD};
use flexkeep_functions::{App, BoxError, Outputs};
use serde_json::{Value, json};

use crate::host::{Host, Reply, TIMER};

async fn give(outputs: Outputs) -> Reply {
    let mut app = App::new();
    app.timer("tick", TIMER, move |_, _| {
        let outputs = outputs.clone();
        async { Ok::<_, BoxError>(outputs) }
    })
    .unwrap();
    Host::start(app).await.invoke_fixture("tick", "timer.json").await
}

/// What the host makes of an output (section 3.4 of its contract), as the texts of messages. Written from
/// the contract and not from the code under test.
fn as_the_host_sends(value: &Value, binary: bool) -> Vec<String> {
    let mut value = value.clone();
    if let Value::String(text) = &value {
        let text: String = text.split_ascii_whitespace().collect();
        if !binary && STANDARD.decode(text).is_ok() {
            return vec!["System.Byte[]".into()];
        }
    }
    if let Value::String(text) = &value
        && text.starts_with(['{', '['])
        && text.ends_with(['}', ']'])
    {
        value = serde_json::from_str(text).unwrap();
    }
    let items = if let Value::Array(items) = value { items } else { vec![value] };
    let text = |item: Value| match item {
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => {
            "a date of another form".into()
        }
        Value::String(text) => text,
        other => serde_json::to_string_pretty(&other).unwrap(),
    };
    items.into_iter().map(text).collect()
}

#[tokio::test]
async fn messages_arrive_as_they_were_given_whatever_they_look_like() {
    let texts = [
        "test",
        "",
        "0123456789abcdef0123456789abcdef",
        "dGVzdA==",
        "{\"a\":1.50,\"at\":\"2026-11-22T11:50:35.0000000Z\"}",
        "{broken}",
        "[1,2]",
        "[",
        "null",
        "5",
        "\"quoted\"",
        "line\r\nline\0\u{2028}",
        "żółw 🐢",
    ];
    for output in ["out1", "out2"] {
        let outputs =
            texts.iter().fold(Outputs::new(), |outputs, text| outputs.message(output, *text));
        let reply = give(outputs).await;
        assert_eq!(reply.status, 200);
        let value = &reply.json()["Outputs"][output];
        assert_eq!(as_the_host_sends(value, output == "out2"), texts);
        for text in texts {
            let reply = give(Outputs::new().message(output, text)).await;
            let value = &reply.json()["Outputs"][output];
            assert_eq!(as_the_host_sends(value, output == "out2"), [text], "a single message");
        }
    }
}

#[tokio::test]
async fn a_value_written_as_json_is_one_message_with_that_text() {
    let outputs = Outputs::new().json("out1", &json!({"b": 1.0, "a": [1, 2]})).unwrap();
    assert_eq!(outputs.messages("out1").collect::<Vec<_>>(), [r#"{"a":[1,2],"b":1.0}"#]);
    let reply = give(outputs).await;
    assert_eq!(reply.json(), json!({"Outputs": {"out1": [r#"{"a":[1,2],"b":1.0}"#]}}));
}

#[tokio::test]
async fn several_outputs_go_out_together() {
    let outputs = Outputs::new().message("out1", "a").message("out2", "b").message("out1", "c");
    let reply = give(outputs.value("file", "some words")).await;
    assert_eq!(
        reply.json(),
        json!({"Outputs": {"out1": ["a", "c"], "out2": ["b"], "file": "some words"}})
    );
}

#[tokio::test]
async fn an_output_that_is_not_declared_fails_and_names_those_that_are() {
    for name in ["out3", "Out1", "myTimer", ""] {
        let reply = give(Outputs::new().message(name, "x")).await;
        assert_eq!(reply.status, 500);
        let error = reply.error();
        assert!(error.contains(&format!("{name:?}")), "{error}");
        assert!(error.contains(r#""out1", "out2", "file""#), "{error}");
    }
}

#[tokio::test]
async fn a_text_that_the_host_would_change_fails() {
    for (outputs, words) in [
        (Outputs::new().message("out1", "2026-11-22T11:50:35Z"), r#""out1"[0]"#),
        (Outputs::new().message("out1", "x").message("out1", "/Date(1)/"), r#""out1"[1]"#),
        (Outputs::new().value("out1", json!(["a", "2026-11-22T11:50:35Z"])), r#""out1"[1]"#),
        (Outputs::new().value("file", "test"), "decode this text as base64"),
        (Outputs::new().value("file", ""), "decode this text as base64"),
        (Outputs::new().value("file", "{a}"), "read this text as JSON"),
        (Outputs::new().value("file", "2026-11-22T11:50:35"), "is a date"),
        (Outputs::new().value("out1", Value::Null), "null"),
    ] {
        let reply = give(outputs).await;
        assert_eq!(reply.status, 500);
        assert!(reply.error().contains(words), "{words}: {}", reply.error());
    }
}

#[tokio::test]
async fn a_text_that_looks_like_base64_may_be_the_value_of_a_binary_output() {
    let reply = give(Outputs::new().value("out2", "test")).await;
    assert_eq!(reply.json(), json!({"Outputs": {"out2": "test"}}));
}

#[tokio::test]
async fn an_output_takes_a_value_once_and_messages_only_where_there_are_items() {
    for (outputs, words) in [
        (Outputs::new().message("file", "x"), "use Outputs::value"),
        (Outputs::new().value("file", "x y").value("file", "x y"), "twice"),
        (Outputs::new().message("out1", "x").value("out1", "x y"), "twice"),
        (Outputs::new().value("out1", "x y").message("out1", "x"), "twice"),
    ] {
        let reply = give(outputs).await;
        assert_eq!(reply.status, 500);
        assert!(reply.error().contains(words), "{}", reply.error());
    }
}
