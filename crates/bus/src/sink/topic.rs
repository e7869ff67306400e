//! Events on a topic of Service Bus, or any other [`Bus`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::EventSink;
use crate::bus::Bus;
use crate::error::BusError;
use crate::event::CloudEvent;
use crate::message::{MAX_MESSAGE_BYTES, MAX_MESSAGE_ID_CHARS, Message};

/// What CloudEvents calls its structured mode.
const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// What a message has beside the event's JSON, at most; of that, what is not a property.
const ROOM_FOR_PROPERTIES: usize = 16 * 1024;
const ROOM_FOR_FIELDS: usize = 2 * 1024;

/// The longest text of a property. What is longer, or has no room any more, is left out of the
/// properties; the event's JSON has it.
const MAX_PROPERTY_BYTES: usize = 2048;
const MAX_LABEL_CHARS: usize = 128;

/// Publishes events to a topic, one message each.
///
/// The body is the event's JSON (CloudEvents in structured mode). For the filters of
/// subscriptions, the label (Subject) is the event's type, and the application properties are
/// `id`, `type`, `source`, `subject`, `server` (that of the data) and the event's extensions,
/// each if the event has it.
///
/// MessageId is made of the event's id and source, which together are unique: an event that is
/// told again has the same, and those of two vaults on one topic never meet.
///
/// A message is smaller than an event may be. Of an event that is too large, the lists in its
/// data are shortened until it fits, and the log says so.
#[derive(Clone)]
pub struct TopicSink {
    bus: Arc<dyn Bus>,
    topic: String,
}

impl TopicSink {
    /// A sink to `topic`, which must exist when the first event is published.
    pub fn new(bus: Arc<dyn Bus>, topic: impl Into<String>) -> Self {
        Self { bus, topic: topic.into() }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

#[async_trait]
impl EventSink for TopicSink {
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError> {
        self.bus.send(&self.topic, &message(event)?).await
    }
}

impl fmt::Debug for TopicSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopicSink").field(&self.topic).finish()
    }
}

fn message(event: &CloudEvent) -> Result<Message, BusError> {
    let body = fitting_json(event, MAX_MESSAGE_BYTES - ROOM_FOR_PROPERTIES)?;
    let mut message = Message::new(message_id(event), body).with_content_type(CONTENT_TYPE);
    if event.type_.chars().count() <= MAX_LABEL_CHARS {
        message = message.with_subject(&event.type_);
    }
    let server = event.data.get("server").and_then(Value::as_str);
    let own = [
        ("id", Some(event.id.as_str())),
        ("type", Some(&event.type_)),
        ("source", Some(&event.source)),
        ("subject", event.subject.as_deref()),
        ("server", server),
    ];
    let own = own.into_iter().filter_map(|(name, text)| Some((name, Value::from(text?))));
    // An extension named as one of ours, such as `server`, is what the event says itself.
    let extensions = event.extensions.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut room = ROOM_FOR_PROPERTIES - ROOM_FOR_FIELDS;
    for (name, value) in own.chain(extensions) {
        let bytes = value.as_str().map_or(8, str::len);
        if bytes <= MAX_PROPERTY_BYTES && name.len() + bytes <= room {
            room -= name.len() + bytes;
            message = message.with_property(name, value);
        }
    }
    Ok(message)
}

/// The event's id, readable, with what tells its source; a hash of both where that is too long.
fn message_id(event: &CloudEvent) -> String {
    let hash = |text: &str| hex(digest(&SHA256, text.as_bytes()).as_ref());
    let id = format!("{}~{}", event.id, &hash(&event.source)[..16]);
    if id.chars().count() <= MAX_MESSAGE_ID_CHARS {
        return id;
    }
    // No line end is in an id or a source.
    format!("sha256~{}", hash(&format!("{}\n{}", event.source, event.id)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The event's JSON, with shorter lists if it is larger than `limit`.
fn fitting_json(event: &CloudEvent, limit: usize) -> Result<Vec<u8>, BusError> {
    // Checks the event as it is, before anything is taken away.
    let whole = event.to_json()?;
    if whole.len() <= limit {
        return Ok(whole);
    }
    let mut shorter = event.clone();
    let mut entries = longest_list(&event.data);
    while entries > 0 {
        entries /= 2;
        shorten(&mut shorter.data, entries);
        let json = shorter.to_json()?;
        if json.len() <= limit {
            tracing::warn!(
                event_id = event.id,
                bytes = whole.len(),
                limit,
                entries,
                "the event is larger than a message may be: its lists are shortened there"
            );
            return Ok(json);
        }
    }
    Err(BusError::invalid(format!(
        "the event {:?} has {} bytes, the limit on a topic is {limit}; leave the details to what \
         it points at",
        event.id,
        whole.len()
    )))
}

fn longest_list(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(longest_list).max().unwrap_or(0).max(list.len()),
        Value::Object(members) => members.values().map(longest_list).max().unwrap_or(0),
        _ => 0,
    }
}

fn shorten(value: &mut Value, entries: usize) {
    match value {
        Value::Array(list) => {
            list.truncate(entries);
            list.iter_mut().for_each(|value| shorten(value, entries));
        }
        Value::Object(members) => members.values_mut().for_each(|value| shorten(value, entries)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn event(id: &str, data: Value) -> CloudEvent {
        let time = Timestamp::from_second(1_795_000_000).unwrap();
        CloudEvent::new(id, "file:///vault", "flexkeep.backup.completed", time, data)
    }

    #[test]
    fn the_properties_are_what_filters_need() {
        let event = event("shop/1/completed", json!({"server": "shop", "rows": 7}))
            .with_subject("shop")
            .with_extension("tenant", "acme")
            .with_extension("level", 3);
        let message = message(&event).unwrap();
        message.validate().unwrap();
        assert_eq!(message.body, event.to_json().unwrap());
        assert_eq!(message.content_type.as_deref(), Some(CONTENT_TYPE));
        assert_eq!(message.subject.as_deref(), Some("flexkeep.backup.completed"));
        let expected = json!({
            "id": "shop/1/completed", "type": "flexkeep.backup.completed", "subject": "shop",
            "source": "file:///vault", "server": "shop", "tenant": "acme", "level": 3
        });
        assert_eq!(serde_json::to_value(&message.properties).unwrap(), expected);
    }

    #[test]
    fn an_id_is_the_same_again_and_another_for_another_source() {
        let one = event("shop/1/completed", Value::Null);
        let mut other = one.clone();
        other.source = "file:///other".to_owned();
        let again = CloudEvent { data: json!(1), ..one.clone() };
        assert_eq!(message_id(&one), message_id(&again));
        assert_ne!(message_id(&one), message_id(&other));
        assert!(message_id(&one).starts_with("shop/1/completed~"));
        let long = event(&"ä".repeat(160), Value::Null);
        assert_eq!(message_id(&long).len(), 7 + 64);
        message(&long).unwrap().validate().unwrap();
    }

    #[test]
    fn an_event_that_is_too_large_has_shorter_lists() {
        let kinds: Vec<_> =
            (0..100).map(|n| json!({"kind": n, "objects": vec!["x".repeat(1000); 9]})).collect();
        let event = event("large", json!({"not_backed_up": kinds, "not_backed_up_count": 100}));
        let whole = event.to_json().unwrap().len();
        let message = message(&event).unwrap();
        message.validate().unwrap();
        assert!(message.body.len() < MAX_MESSAGE_BYTES && MAX_MESSAGE_BYTES < whole);
        let told: CloudEvent = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(told.data["not_backed_up_count"], 100);
        let left = told.data["not_backed_up"].as_array().unwrap();
        assert_eq!(left.len(), 25);
        assert_eq!(left[0]["objects"].as_array().unwrap().len(), 9);
        let mut many = CloudEvent { data: Value::Null, ..event.clone() };
        for n in 0..100 {
            many = many.with_extension(format!("e{n}"), "ä".repeat(1000));
        }
        let message = super::message(&many).unwrap();
        message.validate().unwrap();
        assert!((5..15).contains(&message.properties.len()), "{}", message.properties.len());
        let text = CloudEvent { data: json!("x".repeat(300_000)), ..event };
        let error = super::message(&text).unwrap_err().to_string();
        assert!(error.contains("\"large\"") && error.contains("limit on a topic"), "{error}");
    }
}
