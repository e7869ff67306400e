use flexkeep_functions::{App, BoxError, ServiceBusMessage};
use serde_json::{Value, json};

use crate::host::{Host, Reply, Seen, service_bus};

async fn send(data_type: &str, name: &str) -> (Reply, Vec<Vec<ServiceBusMessage>>) {
    let seen = Seen::new();
    let mut app = App::new();
    let put = seen.clone();
    let function_json = service_bus("msgs", &format!(r#"{data_type}"cardinality":"many","#));
    app.service_bus_batch("onBatch", &function_json, move |messages, _| {
        put.put(messages);
        async { Ok::<_, BoxError>(()) }
    })
    .unwrap();
    let reply = Host::start(app).await.invoke_fixture("onBatch", name).await;
    (reply, seen.take())
}

async fn receive(data_type: &str, name: &str) -> [ServiceBusMessage; 2] {
    let (reply, mut batches) = send(data_type, name).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
    assert_eq!(batches.len(), 1);
    batches.remove(0).try_into().unwrap()
}

const STRING: &str = r#""dataType":"string","#;
const BINARY: &str = r#""dataType":"Binary","#;

#[tokio::test]
async fn a_binary_batch_has_exact_bytes_and_the_metadata_of_each_message() {
    let [first, second] = receive(BINARY, "service_bus_batch_binary.json").await;
    assert_eq!(
        (first.body.as_slice(), second.body.as_slice()),
        (&[0, 0xff][..], &br#"{"a":2}"#[..])
    );
    assert_eq!((first.delivery_count, second.delivery_count), (Some(1), Some(3)));
    assert_eq!(
        (first.message_id.as_deref(), second.message_id.as_deref()),
        (Some("m-1"), Some("m-2"))
    );
    assert_eq!((first.subject.as_deref(), second.subject.as_deref()), (None, Some("second")));
    assert_eq!((first.sequence_number, second.sequence_number), (Some(5), Some(6)));
    assert_eq!(
        (first.lock_token.as_deref(), second.lock_token.as_deref()),
        (Some("t-1"), Some("t-2"))
    );
    // In batches dates keep their fractions.
    assert_eq!(first.enqueued_time, Some("2026-11-22T11:50:35.123Z".parse().unwrap()));
    assert_eq!(second.expires_at, Some(jiff::Timestamp::MAX));
    assert_eq!(Value::from(first.application_properties), json!({"k": 1}));
    assert_eq!((first.correlation_id, second.partition_key), (None, None));
}

#[tokio::test]
async fn a_batch_of_strings_has_their_text_and_trusts_the_metadata() {
    let [first, second] = receive(STRING, "service_bus_batch_string.json").await;
    assert_eq!(
        (first.text().unwrap(), second.text().unwrap()),
        (r#"{"MessageId":"forged"}"#, "zwei")
    );
    assert_eq!(first.message_id.as_deref(), Some("m-1"));
    assert!(first.overwritten().is_empty());
}

#[tokio::test]
async fn a_batch_without_a_data_type_has_the_json_text_of_each_message() {
    let [first, second] = receive("", "service_bus_batch_undeclared.json").await;
    assert_eq!(first.text().unwrap(), r#"{"a":1.50,"b":[ ]}"#);
    assert_eq!(second.json::<String>().unwrap(), "text");
}

#[tokio::test]
async fn a_batch_without_metadata_is_bodies_and_nothing_else() {
    let [first, second] = receive(BINARY, "service_bus_batch_without_metadata.json").await;
    assert_eq!((first, second), (ServiceBusMessage::new("x"), ServiceBusMessage::new("y")));
}

#[tokio::test]
async fn metadata_of_another_length_than_the_batch_is_refused() {
    let (reply, calls) = send(BINARY, "service_bus_batch_metadata_too_short.json").await;
    assert_eq!(reply.status, 400);
    let error = reply.error();
    assert!(error.contains("Metadata.MessageIdArray has 1 elements for 2 messages"), "{error}");
    assert!(calls.is_empty());
}

#[tokio::test]
async fn a_batch_of_another_type_than_declared_is_refused() {
    for (data_type, name) in [
        (STRING, "service_bus_batch_undeclared.json"),
        (BINARY, "service_bus_batch_string.json"),
        ("", "service_bus_binary.json"),
    ] {
        let (reply, calls) = send(data_type, name).await;
        assert_eq!(reply.status, 400, "{name}");
        assert!(reply.error().contains("Data"), "{}", reply.error());
        assert!(calls.is_empty());
    }
}
