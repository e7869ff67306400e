//! Queue messages as a trigger's value and binding data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flexkeep_bus::Delivery;
use jiff::Timestamp;

use crate::encode::{Metadata, Value, full_date};
use crate::function::DataType;
use crate::json::{Json, object};

/// The namespace that a handler sees in place of a Service Bus one.
const NAMESPACE: &str = "localhost";

/// The value and the binding data of one message.
pub(crate) fn one(delivery: &Delivery, data_type: DataType) -> (Value, Metadata) {
    let message = &delivery.message;
    let text = |text: &Option<String>| text.as_deref().map(Value::text);
    let properties = properties(delivery);
    let mut metadata = Metadata::default();
    metadata.set("MessageReceiver", Value::Object(object([])));
    metadata.set("Client", Value::Object(client()));
    metadata.set("MessageActions", Value::Object(object([])));
    metadata.set("ReceiveActions", Value::Object(object([])));
    metadata.set("DeliveryCount", Value::number(delivery.delivery_count));
    metadata.set("LockToken", Value::text(delivery.lock.to_string()));
    metadata.set("ExpiresAtUtc", Value::Date(delivery.expires_at));
    metadata.set("ExpiresAt", Value::DateOffset(delivery.expires_at));
    metadata.set("EnqueuedTimeUtc", Value::Date(delivery.enqueued_at));
    metadata.set("EnqueuedTime", Value::DateOffset(delivery.enqueued_at));
    metadata.set("MessageId", Value::text(&message.id));
    metadata.set_some("ContentType", text(&message.content_type));
    metadata.set("SequenceNumber", Value::number(delivery.sequence_number));
    metadata.set_some("Subject", text(&message.subject));
    metadata.set_some("Label", text(&message.subject));
    metadata.set_some("CorrelationId", text(&message.correlation_id));
    metadata.set_some("SessionId", text(&message.session_id));
    metadata.set("ApplicationProperties", Value::Object(properties.clone()));
    metadata.set("UserProperties", Value::Object(properties));
    let value = match data_type {
        DataType::Binary => Value::Bytes(message.body.clone()),
        DataType::Undefined | DataType::String => {
            let body = String::from_utf8_lossy(&message.body);
            metadata.pollute(&body);
            Value::text(body)
        }
    };
    (value, metadata)
}

/// The value and the binding data of a batch. Fails, as the host does, if the type is not declared
/// and one of the bodies is not JSON.
pub(crate) fn many(
    deliveries: &[Delivery],
    data_type: DataType,
) -> Result<(Value, Metadata), String> {
    let bodies = deliveries.iter().map(|delivery| {
        let message = &delivery.message;
        match data_type {
            DataType::Binary => Ok(Json::String(BASE64.encode(&message.body))),
            DataType::String => Ok(String::from_utf8_lossy(&message.body).into_owned().into()),
            DataType::Undefined => Json::parse(&message.body).map_err(|error| {
                format!("message {} of the batch is not JSON ({error}); set dataType", message.id)
            }),
        }
    });
    let value = Value::Plain(Json::Array(bodies.collect::<Result<_, _>>()?));
    let list = |each: &dyn Fn(&Delivery) -> Json| {
        Value::Plain(Json::Array(deliveries.iter().map(each).collect()))
    };
    let text = |text: &Option<String>| text.as_deref().map_or(Json::Null, Json::from);
    let date = |at: Timestamp, zone: &str| Json::String(full_date(at, zone));
    let mut metadata = Metadata::default();
    metadata.set("MessageReceiver", Value::Object(object([])));
    metadata.set("Client", Value::Object(client()));
    metadata.set("MessageActions", Value::Object(object([])));
    metadata.set("ReceiveActions", Value::Object(object([])));
    metadata.set("DeliveryCountArray", list(&|d| u64::from(d.delivery_count).into()));
    metadata.set("LockTokenArray", list(&|d| d.lock.to_string().into()));
    metadata.set("ExpiresAtUtcArray", list(&|d| date(d.expires_at, "Z")));
    metadata.set("ExpiresAtArray", list(&|d| date(d.expires_at, "+00:00")));
    metadata.set("EnqueuedTimeUtcArray", list(&|d| date(d.enqueued_at, "Z")));
    metadata.set("EnqueuedTimeArray", list(&|d| date(d.enqueued_at, "+00:00")));
    metadata.set("MessageIdArray", list(&|d| d.message.id.as_str().into()));
    metadata.set("ContentTypeArray", list(&|d| text(&d.message.content_type)));
    metadata.set("SequenceNumberArray", list(&|d| Json::Number(d.sequence_number.into())));
    metadata.set("SubjectArray", list(&|d| text(&d.message.subject)));
    metadata.set("LabelArray", list(&|d| text(&d.message.subject)));
    metadata.set("CorrelationIdArray", list(&|d| text(&d.message.correlation_id)));
    metadata.set("SessionIdArray", list(&|d| text(&d.message.session_id)));
    metadata.set("ApplicationPropertiesArray", list(&properties));
    metadata.set("UserPropertiesArray", list(&properties));
    Ok((value, metadata))
}

fn client() -> Json {
    object([
        ("FullyQualifiedNamespace", NAMESPACE.into()),
        ("IsClosed", false.into()),
        ("TransportType", 0.into()),
        ("Identifier", NAMESPACE.into()),
    ])
}

fn properties(delivery: &Delivery) -> Json {
    let properties = delivery.message.properties.iter();
    Json::Object(properties.map(|(name, value)| (name.clone(), convert(value))).collect())
}

fn convert(value: &serde_json::Value) -> Json {
    match value {
        serde_json::Value::Null => Json::Null,
        serde_json::Value::Bool(value) => Json::Bool(*value),
        serde_json::Value::Number(number) => Json::Number(number.clone()),
        serde_json::Value::String(text) => Json::String(text.clone()),
        serde_json::Value::Array(items) => Json::Array(items.iter().map(convert).collect()),
        serde_json::Value::Object(members) => Json::Object(
            members.iter().map(|(name, value)| (name.clone(), convert(value))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_bus::Message;

    use super::*;
    use crate::encode::envelope;

    fn delivery(body: &[u8]) -> Delivery {
        let message = Message::new("m-1", body)
            .with_content_type("application/json")
            .with_correlation_id("c-1")
            .with_property("k", "v");
        Delivery {
            message,
            delivery_count: 1,
            sequence_number: 5,
            enqueued_at: "2026-11-22T11:50:35.5Z".parse().unwrap(),
            expires_at: "2026-12-06T11:50:35.5Z".parse().unwrap(),
            locked_until: "2026-11-22T11:51:35Z".parse().unwrap(),
            lock: "0b1c0000-0000-4000-8000-000000000000".parse().unwrap(),
        }
    }

    fn body(value: &Value, metadata: &Metadata) -> String {
        let text = envelope("onMsg", ("msg", value), metadata, Timestamp::UNIX_EPOCH);
        text[..text.find(",\"sys\":").unwrap()].to_owned()
    }

    #[test]
    fn a_message_is_encoded_byte_for_byte_as_the_sample_of_the_contract() {
        let (value, metadata) = one(&delivery(b"{\"a\":1}"), DataType::Undefined);
        let expected = concat!(
            r#"{"Data":{"msg":"\"{\\\"a\\\":1}\""},"Metadata":{"MessageReceiver":{},"#,
            r#""Client":{"FullyQualifiedNamespace":"localhost","IsClosed":false,"#,
            r#""TransportType":0,"Identifier":"localhost"},"MessageActions":{},"#,
            r#""ReceiveActions":{},"DeliveryCount":"1","#,
            r#""LockToken":"\"0b1c0000-0000-4000-8000-000000000000\"","#,
            r#""ExpiresAtUtc":"2026-12-06T11:50:35","ExpiresAt":"2026-12-06T11:50:35+00:00","#,
            r#""EnqueuedTimeUtc":"2026-11-22T11:50:35","EnqueuedTime":"2026-11-22T11:50:35+00:00","#,
            r#""MessageId":"\"m-1\"","ContentType":"\"application/json\"","SequenceNumber":"5","#,
            r#""CorrelationId":"\"c-1\"","ApplicationProperties":{"k":"v"},"#,
            r#""UserProperties":{"k":"v"},"a":"\"1\"""#
        );
        assert_eq!(body(&value, &metadata), expected);
    }

    #[test]
    fn a_binary_message_is_base64_and_pollutes_nothing() {
        let (value, metadata) = one(&delivery(b"{\"MessageId\":\"x\"}"), DataType::Binary);
        let text = body(&value, &metadata);
        assert!(text.starts_with(r#"{"Data":{"msg":"eyJNZXNzYWdlSWQiOiJ4In0="}"#), "{text}");
        assert!(text.contains(r#""MessageId":"\"m-1\"""#), "{text}");
        let (value, metadata) = one(&delivery(b"{\"MessageId\":\"x\"}"), DataType::String);
        assert!(body(&value, &metadata).contains(r#""MessageId":"\"x\"""#));
    }

    #[test]
    fn a_batch_is_one_string_that_holds_an_array() {
        let deliveries = [delivery(b"{\"a\":1}"), delivery(b"{\"a\":2}")];
        let data = |data_type| {
            let (value, metadata) = many(&deliveries, data_type).unwrap();
            body(&value, &metadata)
        };
        let text = data(DataType::Undefined);
        assert!(text.starts_with(r#"{"Data":{"msg":"[{\"a\":1},{\"a\":2}]"}"#), "{text}");
        assert!(text.contains(r#""DeliveryCountArray":"[1,1]""#), "{text}");
        assert!(text.contains(r#""MessageIdArray":"[\"m-1\",\"m-1\"]""#), "{text}");
        assert!(text.contains(r#""SessionIdArray":"[null,null]""#), "{text}");
        assert!(text.contains(r#""ApplicationPropertiesArray":"[{\"k\":\"v\"},{\"k\":\"v\"}]""#));
        assert!(
            text.contains(r#""EnqueuedTimeUtcArray":"[\"2026-11-22T11:50:35.5Z\",\"#),
            "{text}"
        );
        assert!(!text.contains("\"a\":\"\\\"1"), "a batch pollutes nothing: {text}");
        let text = data(DataType::String);
        assert!(
            text.starts_with(r#"{"Data":{"msg":"[\"{\\\"a\\\":1}\",\"{\\\"a\\\":2}\"]"}"#),
            "{text}"
        );
        let text = data(DataType::Binary);
        assert!(
            text.starts_with(r#"{"Data":{"msg":"[\"eyJhIjoxfQ==\",\"eyJhIjoyfQ==\"]"}"#),
            "{text}"
        );
    }

    #[test]
    fn one_body_that_is_no_json_fails_an_undeclared_batch() {
        let problem = many(&[delivery(b"1"), delivery(b"hello")], DataType::Undefined).unwrap_err();
        assert!(problem.contains("message m-1 of the batch is not JSON"), "{problem}");
    }
}
