use flexkeep_functions::{App, BoxError, ServiceBusMessage};
use serde_json::{Value, json};

use crate::host::{Host, Reply, Seen, service_bus};

/// Sends a fixture to a function that declares this `dataType`.
async fn send(data_type: &str, name: &str) -> (Reply, Vec<ServiceBusMessage>) {
    let seen = Seen::new();
    let mut app = App::new();
    let put = seen.clone();
    app.service_bus("onMsg", &service_bus("msg", data_type), move |message, _| {
        put.put(message);
        async { Ok::<_, BoxError>(()) }
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("onMsg", name).await;
    (reply, seen.take())
}

async fn receive(data_type: &str, name: &str) -> ServiceBusMessage {
    let (reply, mut messages) = send(data_type, name).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

const UNDECLARED: &str = "";
const STRING: &str = r#""dataType":"string","#;
const BINARY: &str = r#""dataType":"binary","#;

#[tokio::test]
async fn the_full_sample_is_read() {
    let message = receive(UNDECLARED, "service_bus_full_sample.json").await;
    assert_eq!(message.body, br#"{"a":1}"#);
    assert_eq!(message.json::<Value>().unwrap(), json!({"a": 1}));
    assert_eq!(message.message_id.as_deref(), Some("m-1"));
    assert_eq!(message.delivery_count, Some(1));
    assert_eq!(message.sequence_number, Some(5));
    assert_eq!(message.enqueued_time, Some("2026-11-22T11:50:35Z".parse().unwrap()));
    assert_eq!(message.expires_at, Some("2026-12-06T11:50:35Z".parse().unwrap()));
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(message.lock_token.as_deref(), Some("0b1c…"));
    assert_eq!(Value::from(message.application_properties.clone()), json!({"k": "v"}));
    assert_eq!((&message.session_id, &message.subject), (&None, &None));
    assert!(message.overwritten().is_empty());
}

#[tokio::test]
async fn a_json_body_without_a_data_type_keeps_every_byte() {
    let message = receive(UNDECLARED, "service_bus_undeclared.json").await;
    let expected = "{\"a\":1,\"text\":\"zwölf \\\"quoted\\\" – \\u0041\"}";
    assert_eq!(String::from_utf8(message.body).unwrap(), expected);
    assert_eq!(message.sequence_number, Some(9_007_199_254_740_993));
    assert_eq!(message.session_id.as_deref(), Some("s-1"));
    assert_eq!(message.subject.as_deref(), Some("sub"));
    assert_eq!(message.reply_to.as_deref(), Some("answers"));
    assert_eq!(message.to.as_deref(), Some("here"));
    assert_eq!(message.partition_key.as_deref(), Some("s-1"));
}

#[tokio::test]
async fn a_text_body_is_unwrapped_twice() {
    let message = receive(STRING, "service_bus_string.json").await;
    assert_eq!(message.text().unwrap(), "hello, \"wörld\"\n");
    let error = message.json::<Value>().unwrap_err().to_string();
    assert!(error.contains("\"m-1\""), "{error}");
}

#[tokio::test]
async fn a_binary_body_has_its_exact_bytes() {
    let message = receive(BINARY, "service_bus_binary.json").await;
    assert_eq!(message.body, (0..=255).collect::<Vec<u8>>());
    assert!(message.text().is_err());
    assert_eq!(message.delivery_count, Some(2));
}

#[tokio::test]
async fn metadata_that_the_body_overwrote_is_not_believed() {
    for data_type in [UNDECLARED, STRING] {
        let message = receive(data_type, "service_bus_polluted.json").await;
        assert_eq!(message.message_id, None);
        assert_eq!(message.delivery_count, None);
        assert_eq!(message.sequence_number, None);
        assert!(message.application_properties.is_empty());
        // Arrays do not overwrite, and other keys have the same value.
        assert_eq!(message.session_id.as_deref(), Some("s-1"));
        assert_eq!(message.enqueued_time, Some("2026-11-22T11:50:35Z".parse().unwrap()));
        assert_eq!(message.subject.as_deref(), Some("sub"));
        assert_eq!(
            message.overwritten(),
            [
                "MessageId",
                "DeliveryCount",
                "SequenceNumber",
                "EnqueuedTime",
                "ApplicationProperties",
                "UserProperties"
            ]
        );
        assert_eq!(message.json::<Value>().unwrap()["messageid"], "forged");
    }
}

#[tokio::test]
async fn a_body_that_only_the_hosts_lenient_parser_reads_takes_all_metadata_away() {
    let message = receive(STRING, "service_bus_polluted_leniently.json").await;
    assert_eq!(message.body, b"{ MessageId: 'forged' }");
    assert_eq!((&message.message_id, message.delivery_count), (&None, None));
    assert!(message.overwritten().contains(&"LockToken".to_owned()));
}

#[tokio::test]
async fn the_same_body_does_no_harm_to_a_binary_binding() {
    let message = receive(BINARY, "service_bus_polluted_binary.json").await;
    assert_eq!(message.message_id.as_deref(), Some("m-1"));
    assert_eq!(message.delivery_count, Some(2));
    assert!(message.overwritten().is_empty());
}

#[tokio::test]
async fn a_message_without_any_metadata_is_a_body_and_nothing_else() {
    let message = receive(BINARY, "service_bus_without_metadata.json").await;
    assert_eq!(message, ServiceBusMessage::new("x"));
}

#[tokio::test]
async fn an_empty_message_that_never_expires_is_read() {
    let message = receive(BINARY, "service_bus_never_expires.json").await;
    assert!(message.body.is_empty());
    assert_eq!(message.expires_at, Some(jiff::Timestamp::MAX));
}

#[tokio::test]
async fn the_declared_type_decides_and_not_the_look_of_the_value() {
    // "1234" is base64 and JSON; "\"dGVzdA==\"" is a text that looks like base64.
    for (data_type, value, body) in [
        (BINARY, r#""1234""#, &[0xd7, 0x6d, 0xf8][..]),
        (BINARY, r#""null""#, &[0x9e, 0xe9, 0x65][..]),
        (STRING, r#""\"dGVzdA==\"""#, b"dGVzdA=="),
        (STRING, r#""\"1234\"""#, b"1234"),
        (UNDECLARED, r#""\"\\\"5\\\"\"""#, b"\"5\""),
        (UNDECLARED, r#""\"\"""#, b""),
        (UNDECLARED, r#""null""#, b""),
    ] {
        let seen = Seen::new();
        let mut app = App::new();
        let put = seen.clone();
        app.service_bus("onMsg", &service_bus("msg", data_type), move |message, _| {
            put.put(message.body);
            async { Ok::<_, BoxError>(()) }
        })
        .unwrap();
        let request = format!(r#"{{"Data":{{"msg":{value}}},"Metadata":{{}}}}"#);
        let reply = Host::start(app).await.invoke("onMsg", request.as_bytes()).await;
        assert_eq!(reply.status, 200, "{value}: {reply:?}");
        assert_eq!(seen.only(), body, "{value}");
    }
}

#[tokio::test]
async fn a_value_of_another_type_than_declared_is_refused_and_the_type_named() {
    for (data_type, value, words) in [
        (BINARY, r#""{\"a\":1}""#, r#""dataType": "binary""#),
        (BINARY, r#"{"a":1}"#, "expected a JSON string"),
        (STRING, r#""eyJhIjoxfQ==""#, "Data.msg"),
        (UNDECLARED, r#"{"a":1}"#, "expected a JSON string"),
        (UNDECLARED, r#""{\"a\":1}""#, "Data.msg"),
        (STRING, r#""\"\\ud800\"""#, "Data.msg"),
    ] {
        let mut app = App::new();
        app.service_bus(
            "onMsg",
            &service_bus("msg", data_type),
            async |_, _| Ok::<_, BoxError>(()),
        )
        .unwrap();
        let request = format!(r#"{{"Data":{{"msg":{value}}}}}"#);
        let reply = Host::start(app).await.invoke("onMsg", request.as_bytes()).await;
        assert_eq!(reply.status, 400, "{value}");
        assert!(reply.error().contains(words), "{value}: {}", reply.error());
    }
}

#[tokio::test]
async fn metadata_that_makes_no_sense_is_refused_and_named() {
    let (reply, calls) = send(BINARY, "service_bus_delivery_count_is_a_word.json").await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("Metadata.DeliveryCount"), "{}", reply.error());
    assert!(calls.is_empty());
}
