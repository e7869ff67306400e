//! A message: what is sent to a queue.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::error::BusError;

/// The longest message id, in characters.
pub const MAX_MESSAGE_ID_CHARS: usize = 128;

/// The largest message: body, texts and properties together. It is the limit of the Standard
/// tier of Service Bus, so that what works locally works there.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// The longest of the other texts of a message (subject and so on), in characters.
const MAX_TEXT_CHARS: usize = 128;

/// A unit of work for a queue.
///
/// The id is what duplicates are told by: a queue drops a message whose id it saw within its
/// duplicate window, so an id is made from what the message is about, not drawn at random.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// MessageId: 1 to 128 characters, none of them a control character.
    pub id: String,
    /// The content, as bytes.
    pub body: Vec<u8>,
    /// What the body is, for example `application/json`.
    pub content_type: Option<String>,
    /// A label for people and filters.
    pub subject: Option<String>,
    /// What this message belongs to.
    pub correlation_id: Option<String>,
    /// The session, for queues with sessions. The local queues carry it and deliver without
    /// regard to it, as a Service Bus queue without sessions does.
    pub session_id: Option<String>,
    /// Application properties: strings, numbers and booleans only.
    pub properties: BTreeMap<String, Value>,
    /// Not to be delivered before this moment.
    pub deliver_at: Option<Timestamp>,
}

impl Message {
    /// A message with this body and nothing else.
    pub fn new(id: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            id: id.into(),
            body: body.into(),
            content_type: None,
            subject: None,
            correlation_id: None,
            session_id: None,
            properties: BTreeMap::new(),
            deliver_at: None,
        }
    }

    /// A message whose body is `body` as JSON.
    ///
    /// # Errors
    /// `Invalid` if `body` has no JSON form, or the message breaks a rule of [`Self::validate`].
    pub fn json(id: impl Into<String>, body: &impl Serialize) -> Result<Self, BusError> {
        let id = id.into();
        let body = serde_json::to_vec(body).map_err(|error| {
            BusError::invalid(format!("the body of message {id:?} has no JSON form"))
                .with_source(error)
        })?;
        let message = Self::new(id, body).with_content_type("application/json");
        message.validate()?;
        Ok(message)
    }

    /// Sets what the body is.
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the subject.
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets what this message belongs to.
    pub fn with_correlation_id(mut self, correlation_id: impl Into<String>) -> Self {
        self.correlation_id = Some(correlation_id.into());
        self
    }

    /// Sets the session.
    pub fn with_session_id(mut self, session_id: impl Into<String>) -> Self {
        self.session_id = Some(session_id.into());
        self
    }

    /// Sets one application property.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Sets the moment before which the message is not delivered.
    pub fn with_deliver_at(mut self, deliver_at: Timestamp) -> Self {
        self.deliver_at = Some(deliver_at);
        self
    }

    /// Checks the rules of the fields, which every bus does before it sends.
    ///
    /// # Errors
    /// `Invalid`, naming the message and the field.
    pub fn validate(&self) -> Result<(), BusError> {
        let id_chars = self.id.chars().count();
        if !(1..=MAX_MESSAGE_ID_CHARS).contains(&id_chars) {
            return Err(BusError::invalid(format!(
                "a message id has 1 to {MAX_MESSAGE_ID_CHARS} characters, not {id_chars}"
            )));
        }
        if self.id.chars().any(char::is_control) {
            return Err(BusError::invalid(format!(
                "the message id {:?} has a control character",
                self.id
            )));
        }
        for (field, text) in self.texts() {
            self.check_text(field, text)?;
        }
        for (name, value) in &self.properties {
            self.check_property(name, value)?;
        }
        let bytes = self.bytes();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(BusError::invalid(format!(
                "message {:?} has {bytes} bytes, the limit is {MAX_MESSAGE_BYTES}; put the content \
                 into the vault and send its name",
                self.id
            )));
        }
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("content type", self.content_type.as_deref()),
            ("subject", self.subject.as_deref()),
            ("correlation id", self.correlation_id.as_deref()),
            ("session id", self.session_id.as_deref()),
        ]
        .into_iter()
        .filter_map(|(field, text)| text.map(|text| (field, text)))
    }

    fn check_text(&self, field: &str, text: &str) -> Result<(), BusError> {
        let chars = text.chars().count();
        let wrong = if !(1..=MAX_TEXT_CHARS).contains(&chars) {
            format!("has {chars} characters, not 1 to {MAX_TEXT_CHARS}")
        } else if text.chars().any(char::is_control) {
            "has a control character".to_owned()
        } else {
            return Ok(());
        };
        Err(BusError::invalid(format!("the {field} of message {:?} {wrong}", self.id)))
    }

    fn check_property(&self, name: &str, value: &Value) -> Result<(), BusError> {
        self.check_text("name of a property", name)?;
        match value {
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(BusError::invalid(format!(
                "the property {name:?} of message {:?} is not a string, number or boolean; leave \
                 out what is null, and put structures into the body",
                self.id
            ))),
        }
    }

    /// The size that counts against [`MAX_MESSAGE_BYTES`].
    fn bytes(&self) -> usize {
        let texts: usize = self.texts().map(|(_, text)| text.len()).sum();
        let properties: usize = self
            .properties
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(8, str::len))
            .sum();
        self.id.len() + self.body.len() + texts + properties
    }
}

/// Shows the length of the body in its place: bodies are large, and none of a log's business.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("body_bytes", &self.body.len())
            .field("content_type", &self.content_type)
            .field("subject", &self.subject)
            .field("correlation_id", &self.correlation_id)
            .field("session_id", &self.session_id)
            .field("properties", &self.properties)
            .field("deliver_at", &self.deliver_at)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_sets_the_body_and_its_type_and_checks_the_id() {
        let message = Message::json("m-1", &[1, 2]).unwrap();
        assert_eq!(message.body, b"[1,2]");
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        assert!(Message::json("", &1).is_err());
    }

    #[test]
    fn a_body_without_a_json_form_is_refused() {
        let no_text_as_key = BTreeMap::from([(vec![1], 2)]);
        let error = Message::json("m-1", &no_text_as_key).unwrap_err();
        assert!(error.to_string().contains("\"m-1\""), "{error}");
    }

    #[test]
    fn debug_shows_no_body() {
        let shown = format!("{:?}", Message::new("m-1", "c2VjcmV0"));
        assert!(shown.contains("m-1") && shown.contains("body_bytes: 8"), "{shown}");
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("99, 50"), "{shown}");
    }
}
