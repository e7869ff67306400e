//! The Service Bus trigger, for single messages and for batches.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    bindings::{Bindings, DataType},
    envelope::Envelope,
    error::PayloadError,
    text::quoted,
    value,
};

mod batch;
mod pollution;

pub(crate) use batch::decode as decode_batch;
use pollution::Trust;

/// A message of a queue or a subscription.
///
/// When the function returns an error the message is given back at once and comes again, until the queue's
/// limit of deliveries moves it to the dead letters.
///
/// # What can be believed
///
/// With `"dataType": "binary"` everything: declare it. With `"string"` or without a `dataType` the host lets
/// the top-level properties of a JSON body overwrite the metadata of the same names, without regard to case:
/// whoever writes the body `{"MessageId": "…"}` chooses the `MessageId` that arrives. Such a field is `None`
/// here, and its name is in [`overwritten`](Self::overwritten). A body that begins like a JSON object and is
/// not strictly JSON may have been read by the host's more lenient parser: then all of them are `None`.
/// The body itself is always right, and batches have no such trouble.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ServiceBusMessage {
    /// The bytes of the message. In a batch without a `dataType` it is the JSON text that the host made of
    /// them.
    pub body: Vec<u8>,
    /// The sender's id of the message.
    pub message_id: Option<String>,
    /// How often the message was delivered, this time included; from 1.
    pub delivery_count: Option<u32>,
    /// The broker's number of the message.
    pub sequence_number: Option<i64>,
    /// When the message came into the queue, to the second.
    pub enqueued_time: Option<Timestamp>,
    /// When the message expires, to the second; [`Timestamp::MAX`] if it never does.
    pub expires_at: Option<Timestamp>,
    /// The application's label.
    pub subject: Option<String>,
    /// The application's id of what the message belongs to.
    pub correlation_id: Option<String>,
    /// The session, in a queue with sessions.
    pub session_id: Option<String>,
    /// The type of the body, as the sender says.
    pub content_type: Option<String>,
    /// Where answers go.
    pub reply_to: Option<String>,
    /// The address of the receiver, as the sender says.
    pub to: Option<String>,
    /// The partition.
    pub partition_key: Option<String>,
    /// The queue that the message died in.
    pub dead_letter_source: Option<String>,
    /// The application's properties.
    pub application_properties: Map<String, Value>,
    /// The lock of this delivery. The host settles the message; the token is of use for logs only.
    pub lock_token: Option<String>,
    overwritten: Vec<String>,
}

impl ServiceBusMessage {
    /// A message with a body and nothing else, to call a function in a test.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// If it is not JSON, or not of this type. The error names the message.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_slice(&self.body).map_err(|source| {
            let id = self.message_id.as_deref().map_or("without an id".into(), quoted);
            let length = self.body.len();
            PayloadError::because(
                format!("the body of message {id} ({length} bytes) is not the JSON expected"),
                source,
            )
        })
    }

    /// The body as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&self) -> Result<&str, PayloadError> {
        std::str::from_utf8(&self.body)
            .map_err(|source| PayloadError::because("the body of the message is not UTF-8", source))
    }

    /// The metadata that the body may have overwritten, and that is `None` or empty for this reason; in the
    /// host's spelling. Always empty with `"dataType": "binary"`.
    pub fn overwritten(&self) -> &[String] {
        &self.overwritten
    }
}

/// One message.
pub(crate) fn decode(
    envelope: &Envelope<'_>,
    bindings: &Bindings,
) -> Result<ServiceBusMessage, PayloadError> {
    let what = format!("Data.{}", bindings.trigger);
    let raw = envelope.trigger(&bindings.trigger)?;
    let (body, trust) = match bindings.data_type {
        DataType::Binary => {
            let text = value::string(raw, &what)?;
            (base64(&text, &what)?, Trust::All)
        }
        DataType::String | DataType::Undeclared => {
            let body: Option<String> = value::doubled(raw, &what, "the text of the message")?;
            let body = body.unwrap_or_default();
            let trust = Trust::after(&body);
            (body.into_bytes(), trust)
        }
    };
    let mut reader = Reader { envelope, trust, overwritten: Vec::new() };
    let message = reader.message(body)?;
    Ok(ServiceBusMessage { overwritten: reader.overwritten, ..message })
}

fn base64(text: &str, what: &str) -> Result<Vec<u8>, PayloadError> {
    STANDARD.decode(text).map_err(|source| {
        PayloadError::because(
            format!(
                "{what}: expected base64, because function.json declares \"dataType\": \"binary\""
            ),
            source,
        )
    })
}

/// Reads metadata that the body can't have written.
struct Reader<'e, 'a> {
    envelope: &'e Envelope<'a>,
    trust: Trust,
    overwritten: Vec<String>,
}

impl<'a> Reader<'_, 'a> {
    fn message(&mut self, body: Vec<u8>) -> Result<ServiceBusMessage, PayloadError> {
        Ok(ServiceBusMessage {
            body,
            message_id: self.text("MessageId")?,
            delivery_count: self.number("DeliveryCount")?,
            sequence_number: self.number("SequenceNumber")?,
            enqueued_time: self.date(["EnqueuedTime", "EnqueuedTimeUtc"])?,
            expires_at: self.date(["ExpiresAt", "ExpiresAtUtc"])?,
            subject: self.either("Subject", "Label")?,
            correlation_id: self.text("CorrelationId")?,
            session_id: self.text("SessionId")?,
            content_type: self.text("ContentType")?,
            reply_to: self.text("ReplyTo")?,
            to: self.text("To")?,
            partition_key: self.text("PartitionKey")?,
            dead_letter_source: self.text("DeadLetterSource")?,
            application_properties: self.properties()?,
            lock_token: self.text("LockToken")?,
            overwritten: Vec::new(),
        })
    }

    fn raw(&mut self, key: &str) -> Option<&'a RawValue> {
        let raw = self.envelope.metadata(key)?;
        if self.trust.covers(key) {
            return Some(raw);
        }
        self.overwritten.push(key.to_owned());
        None
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, PayloadError> {
        self.raw(key).map_or(Ok(None), |raw| value::scalar(raw, &format!("Metadata.{key}")))
    }

    /// Two keys with the same value: one may be left when the other is lost.
    fn either(&mut self, first: &str, second: &str) -> Result<Option<String>, PayloadError> {
        match self.text(first)? {
            Some(text) => Ok(Some(text)),
            None => self.text(second),
        }
    }

    fn number<N: std::str::FromStr>(&mut self, key: &str) -> Result<Option<N>, PayloadError> {
        let text = self.text(key)?;
        text.map(|text| value::number(&text, &format!("Metadata.{key}"))).transpose()
    }

    fn date(&mut self, keys: [&str; 2]) -> Result<Option<Timestamp>, PayloadError> {
        for key in keys {
            if let Some(text) = self.text(key)? {
                return value::timestamp(&text, &format!("Metadata.{key}")).map(Some);
            }
        }
        Ok(None)
    }

    fn properties(&mut self) -> Result<Map<String, Value>, PayloadError> {
        for key in ["ApplicationProperties", "UserProperties"] {
            let Some(raw) = self.raw(key) else { continue };
            return serde_json::from_str::<Option<Map<String, Value>>>(raw.get())
                .map(Option::unwrap_or_default)
                .map_err(|source| {
                    PayloadError::because(format!("Metadata.{key}: expected an object"), source)
                });
        }
        Ok(Map::new())
    }
}
