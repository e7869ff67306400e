//! A message in the form that Service Bus takes over AMQP 1.0.

use fe2o3_amqp::Sendable;
use fe2o3_amqp::types::messaging::message::__private::Serializable;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Batch, Data, Message as AmqpMessage, MessageAnnotations, Properties,
};
use fe2o3_amqp::types::primitives::{SimpleValue, Timestamp, Value as AmqpValue};
use serde_json::Value;

use crate::error::BusError;
use crate::message::Message;

/// What goes out in one delivery: one message, or a batch of them.
pub(super) type Delivery = Sendable<Batch<Data>>;

/// The message format of a batch: each data section is an encoded message.
const BATCH_FORMAT: u32 = 0x8001_3700;

/// What the envelope of a batch and the header of each section take, at most.
const ENVELOPE_BYTES: usize = 1024;
const SECTION_BYTES: usize = 16;

/// The annotation with the moment before which a message is not delivered.
const SCHEDULED: &str = "x-opt-scheduled-enqueue-time";

/// One message as a delivery of its own.
pub(super) fn single(message: &Message) -> Result<Delivery, BusError> {
    Ok(Sendable::from(encode(message)?))
}

/// Puts messages into as few batches as hold them: in order, each at most `max_bytes` large, and
/// with one session each. What fits no batch goes alone. With each delivery comes how many
/// messages are in it.
pub(super) fn batches(
    messages: &[Message],
    max_bytes: usize,
) -> Result<Vec<(Delivery, usize)>, BusError> {
    let mut batches = Vec::new();
    let mut open: Option<OpenBatch<'_>> = None;
    for message in messages {
        let bytes = encoded(message)?;
        let fits = open.as_ref().is_some_and(|open| open.takes(message, bytes.len(), max_bytes));
        if !fits {
            batches.extend(open.take().map(OpenBatch::close).transpose()?);
        }
        let open = open.get_or_insert_with(|| OpenBatch::new(message));
        open.bytes += bytes.len() + SECTION_BYTES;
        open.sections.push(Data::from(bytes));
    }
    batches.extend(open.map(OpenBatch::close).transpose()?);
    Ok(batches)
}

struct OpenBatch<'a> {
    first: &'a Message,
    sections: Vec<Data>,
    bytes: usize,
}

impl<'a> OpenBatch<'a> {
    fn new(first: &'a Message) -> Self {
        Self { first, sections: Vec::new(), bytes: ENVELOPE_BYTES }
    }

    fn takes(&self, message: &Message, bytes: usize, max_bytes: usize) -> bool {
        self.first.session_id == message.session_id
            && self.bytes + bytes + SECTION_BYTES <= max_bytes
    }

    fn close(self) -> Result<(Delivery, usize), BusError> {
        let count = self.sections.len();
        if count == 1 {
            return Ok((single(self.first)?, 1));
        }
        // As Microsoft's clients do it, the envelope has the id and the session of the first.
        let mut properties = Properties::builder().message_id(self.first.id.clone());
        if let Some(session) = &self.first.session_id {
            properties = properties.group_id(session.clone());
        }
        let envelope =
            AmqpMessage::builder().properties(properties.build()).data_batch(self.sections).build();
        Ok((Sendable::builder().message(envelope).message_format(BATCH_FORMAT).build(), count))
    }
}

fn encoded(message: &Message) -> Result<Vec<u8>, BusError> {
    serde_amqp::to_vec(&Serializable(encode(message)?)).map_err(|error| {
        BusError::invalid(format!("message {:?} has no AMQP form", message.id)).with_source(error)
    })
}

fn encode(message: &Message) -> Result<AmqpMessage<Batch<Data>>, BusError> {
    let mut properties = Properties::builder().message_id(message.id.clone());
    if let Some(content_type) = &message.content_type {
        if !content_type.is_ascii() {
            return Err(BusError::invalid(format!(
                "the content type of message {:?} has characters beyond ASCII, which Service Bus \
                 does not take",
                message.id
            )));
        }
        properties = properties.content_type(content_type.as_str());
    }
    if let Some(subject) = &message.subject {
        properties = properties.subject(subject.clone());
    }
    if let Some(correlation_id) = &message.correlation_id {
        properties = properties.correlation_id(correlation_id.clone());
    }
    if let Some(session) = &message.session_id {
        properties = properties.group_id(session.clone());
    }
    let mut builder = AmqpMessage::builder().properties(properties.build());
    if let Some(at) = message.deliver_at {
        let at = AmqpValue::Timestamp(Timestamp::from(at.as_millisecond()));
        builder = builder
            .message_annotations(MessageAnnotations::builder().insert(SCHEDULED, at).build());
    }
    if !message.properties.is_empty() {
        let mut properties = ApplicationProperties::builder();
        for (name, value) in &message.properties {
            properties = properties.insert(name.clone(), simple(value));
        }
        builder = builder.application_properties(properties.build());
    }
    Ok(builder.data_batch([Data::from(message.body.as_slice())]).build())
}

/// A whole number stays one; others are floating-point.
fn simple(value: &Value) -> SimpleValue {
    match value {
        Value::Bool(value) => SimpleValue::Bool(*value),
        Value::String(text) => SimpleValue::String(text.clone()),
        Value::Number(number) => number
            .as_i64()
            .map(SimpleValue::Long)
            .or_else(|| number.as_u64().map(SimpleValue::Ulong))
            .unwrap_or_else(|| SimpleValue::from(number.as_f64().unwrap_or(f64::NAN))),
        // The rules of a message leave none of them.
        Value::Null | Value::Array(_) | Value::Object(_) => SimpleValue::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(delivery: &Delivery) -> usize {
        delivery.message.body.len()
    }

    #[test]
    fn batches_keep_the_order_the_limit_and_the_session() {
        let message = |id: &str, bytes: usize| Message::new(id, vec![b'x'; bytes]);
        let messages = [
            message("a", 4000),
            message("b", 4000),
            message("c", 4000),
            message("d", 20_000),
            message("e", 10).with_session_id("one"),
            message("f", 10).with_session_id("one"),
            message("g", 10).with_session_id("two"),
        ];
        let batches = batches(&messages, 10_000).unwrap();
        let shape: Vec<_> = batches
            .iter()
            .map(|(delivery, count)| {
                let id = format!("{:?}", delivery.message.properties.as_ref().unwrap().message_id);
                assert_eq!(sections(delivery), *count);
                assert_eq!(delivery.message_format == BATCH_FORMAT, *count > 1);
                let size = serde_amqp::to_vec(&Serializable(delivery.message.clone())).unwrap();
                assert!(size.len() <= 10_000 || *count == 1, "{} bytes", size.len());
                (id.split('"').nth(1).unwrap().to_owned(), *count)
            })
            .collect();
        let expected = [("a", 2), ("c", 1), ("d", 1), ("e", 2), ("g", 1)];
        assert_eq!(shape, expected.map(|(id, count)| (id.to_owned(), count)));
        assert!(super::batches(&[], 10_000).unwrap().is_empty());
    }

    #[test]
    fn a_content_type_that_is_no_symbol_is_refused() {
        let error = single(&Message::new("m-1", "").with_content_type("text/plän")).unwrap_err();
        assert!(error.to_string().contains("\"m-1\""), "{error}");
    }

    #[test]
    fn numbers_keep_their_kind() {
        let number = |text: &str| simple(&serde_json::from_str(text).unwrap());
        assert_eq!(number("-3"), SimpleValue::Long(-3));
        assert_eq!(number("18446744073709551615"), SimpleValue::Ulong(u64::MAX));
        assert_eq!(number("1.5"), SimpleValue::from(1.5_f64));
    }
}
