//! A message as a row.

use std::collections::BTreeMap;

use rusqlite::Row;
use rusqlite::types::Type;
use serde_json::Value;

use super::timestamp;
use crate::message::Message;

/// The columns that [`message`] reads, in its order.
pub(super) const MESSAGE_COLUMNS: &str = "message_id, content_type, subject, correlation_id, \
     session_id, properties, deliver_at, body";

/// How many [`MESSAGE_COLUMNS`] there are: where the caller's own columns begin.
pub(super) const MESSAGE_COLUMN_COUNT: usize = 8;

/// The message in a row that begins with [`MESSAGE_COLUMNS`].
pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let properties: String = row.get(5)?;
    let properties: BTreeMap<String, Value> =
        serde_json::from_str(&properties).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(5, Type::Text, Box::new(error))
        })?;
    Ok(Message {
        id: row.get(0)?,
        content_type: row.get(1)?,
        subject: row.get(2)?,
        correlation_id: row.get(3)?,
        session_id: row.get(4)?,
        properties,
        deliver_at: row.get::<_, Option<i64>>(6)?.map(timestamp),
        body: row.get(7)?,
    })
}
