//! Batches: one JSON string that holds an array, and an array of the same length for each key of the metadata.

use serde_json::{Map, Value, value::RawValue};

use super::{ServiceBusMessage, base64};
use crate::{
    bindings::{Bindings, DataType},
    envelope::Envelope,
    error::PayloadError,
    value,
};

/// A batch; the bodies are never looked into by the host, so that the metadata is what the broker says.
pub(crate) fn decode(
    envelope: &Envelope<'_>,
    bindings: &Bindings,
) -> Result<Vec<ServiceBusMessage>, PayloadError> {
    let what = format!("Data.{}", bindings.trigger);
    let raw = envelope.trigger(&bindings.trigger)?;
    let text = value::string(raw, &what)?;
    let wrong = |source: serde_json::Error| {
        let expected = match bindings.data_type {
            DataType::Undeclared => "an array of JSON values, one for each message",
            DataType::String => {
                "an array of strings, because function.json declares \"dataType\": \"string\""
            }
            DataType::Binary => {
                "an array of base64, because function.json declares \"dataType\": \"binary\""
            }
        };
        PayloadError::because(
            format!("{what}: expected a JSON string that holds {expected}"),
            source,
        )
    };
    let bodies: Vec<Vec<u8>> = match bindings.data_type {
        DataType::Undeclared => {
            let values: Vec<&RawValue> = serde_json::from_str(&text).map_err(wrong)?;
            values.into_iter().map(|value| value.get().as_bytes().to_vec()).collect()
        }
        DataType::String => {
            let values: Vec<Option<String>> = serde_json::from_str(&text).map_err(wrong)?;
            values.into_iter().map(|value| value.unwrap_or_default().into_bytes()).collect()
        }
        DataType::Binary => {
            let values: Vec<String> = serde_json::from_str(&text).map_err(wrong)?;
            let decode =
                |(index, value): (usize, &String)| base64(value, &format!("{what}[{index}]"));
            values.iter().enumerate().map(decode).collect::<Result<_, _>>()?
        }
    };
    let mut messages: Vec<_> = bodies.into_iter().map(ServiceBusMessage::new).collect();
    Columns { envelope }.fill(&mut messages)?;
    Ok(messages)
}

struct Columns<'e, 'a> {
    envelope: &'e Envelope<'a>,
}

impl Columns<'_, '_> {
    fn fill(&self, messages: &mut [ServiceBusMessage]) -> Result<(), PayloadError> {
        self.texts("MessageId", messages, |message, text| message.message_id = Some(text))?;
        self.texts("Label", messages, |message, text| message.subject = Some(text))?;
        self.texts("Subject", messages, |message, text| message.subject = Some(text))?;
        self.texts("CorrelationId", messages, |message, text| message.correlation_id = Some(text))?;
        self.texts("SessionId", messages, |message, text| message.session_id = Some(text))?;
        self.texts("ContentType", messages, |message, text| message.content_type = Some(text))?;
        self.texts("ReplyTo", messages, |message, text| message.reply_to = Some(text))?;
        self.texts("To", messages, |message, text| message.to = Some(text))?;
        self.texts("PartitionKey", messages, |message, text| message.partition_key = Some(text))?;
        self.texts("DeadLetterSource", messages, |message, text| {
            message.dead_letter_source = Some(text)
        })?;
        self.texts("LockToken", messages, |message, text| message.lock_token = Some(text))?;
        self.parsed("DeliveryCount", messages, value::number, |m, count| {
            m.delivery_count = Some(count)
        })?;
        self.parsed("SequenceNumber", messages, value::number, |m, n| m.sequence_number = Some(n))?;
        for key in ["EnqueuedTimeUtc", "EnqueuedTime"] {
            self.parsed(key, messages, value::timestamp, |m, at| m.enqueued_time = Some(at))?;
        }
        for key in ["ExpiresAtUtc", "ExpiresAt"] {
            self.parsed(key, messages, value::timestamp, |m, at| m.expires_at = Some(at))?;
        }
        for key in ["UserProperties", "ApplicationProperties"] {
            if let Some(column) =
                self.column::<Option<Map<String, Value>>>(key, messages.len(), "objects")?
            {
                for (message, properties) in messages.iter_mut().zip(column) {
                    message.application_properties = properties.unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// An array of the metadata; it must have as many elements as there are messages, or it could be paired
    /// with the wrong ones.
    fn column<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        messages: usize,
        of: &str,
    ) -> Result<Option<Vec<T>>, PayloadError> {
        let key = format!("{key}Array");
        let Some(raw) = self.envelope.metadata(&key) else { return Ok(None) };
        let what = format!("Metadata.{key}");
        let Some(column) =
            value::doubled::<Option<Vec<T>>>(raw, &what, &format!("an array of {of}"))?
        else {
            return Ok(None);
        };
        if column.len() != messages {
            return Err(PayloadError::new(format!(
                "{what} has {} elements for {messages} messages",
                column.len()
            )));
        }
        Ok(Some(column))
    }

    fn texts(
        &self,
        key: &str,
        messages: &mut [ServiceBusMessage],
        set: impl Fn(&mut ServiceBusMessage, String),
    ) -> Result<(), PayloadError> {
        if let Some(column) = self.column::<Option<String>>(key, messages.len(), "strings")? {
            for (message, text) in messages.iter_mut().zip(column) {
                if let Some(text) = text {
                    set(message, text);
                }
            }
        }
        Ok(())
    }

    fn parsed<T>(
        &self,
        key: &str,
        messages: &mut [ServiceBusMessage],
        parse: impl Fn(&str, &str) -> Result<T, PayloadError>,
        set: impl Fn(&mut ServiceBusMessage, T),
    ) -> Result<(), PayloadError> {
        if let Some(column) = self.column::<Value>(key, messages.len(), "numbers or dates")? {
            for (index, (message, value)) in messages.iter_mut().zip(column).enumerate() {
                let what = format!("Metadata.{key}Array[{index}]");
                match value {
                    Value::Null => {}
                    Value::String(text) => set(message, parse(&text, &what)?),
                    other => set(message, parse(&other.to_string(), &what)?),
                }
            }
        }
        Ok(())
    }
}
