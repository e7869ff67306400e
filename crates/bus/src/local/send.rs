//! Sending to a queue.

use rusqlite::{OptionalExtension, Transaction};

use super::{Failure, LocalQueues, Queue, micros};
use crate::error::BusError;
use crate::message::Message;

/// How many forgotten ids one message sent removes: the table shrinks faster than it grows.
const FORGET_PER_SEND: u32 = 16;

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in the queue.
    Accepted {
        /// Its number, unique in the file and larger than those before.
        sequence_number: i64,
    },
    /// The queue saw its id within the duplicate window: nothing was changed.
    Duplicate,
}

impl LocalQueues {
    /// Sends `message`: it is stored durably on return, or dropped as a duplicate.
    ///
    /// # Errors
    /// `Invalid` (see [`Message::validate`]), `UnknownQueue`, or one of the file.
    pub fn send(&self, queue: &str, message: &Message) -> Result<Sent, BusError> {
        message.validate()?;
        self.write("send a message", |tx, now| {
            let queue = self.queue(tx, queue)?;
            queue.put(tx, now, message)
        })
    }

    /// Sends all `messages`, or none if there is an error, and syncs once. Duplicates are told
    /// among them too.
    ///
    /// # Errors
    /// Those of [`Self::send`].
    pub fn send_all(&self, queue: &str, messages: &[Message]) -> Result<Vec<Sent>, BusError> {
        messages.iter().try_for_each(Message::validate)?;
        self.write("send messages", |tx, now| {
            let queue = self.queue(tx, queue)?;
            messages.iter().map(|message| queue.put(tx, now, message)).collect()
        })
    }
}

impl Queue {
    fn put(&self, tx: &Transaction<'_>, now: i64, message: &Message) -> Result<Sent, Failure> {
        if self.is_duplicate(tx, now, &message.id)? {
            return Ok(Sent::Duplicate);
        }
        let deliver_at = message.deliver_at.map(|at| at.as_microsecond());
        let is_scheduled = deliver_at.is_some_and(|at| at > now);
        let place = if is_scheduled { 0 } else { self.next_place(tx)? };
        let enqueued_at = deliver_at.unwrap_or(now).max(now);
        let properties = serde_json::to_string(&message.properties)
            .expect("a map from strings to scalars has a JSON form");
        let sequence_number = tx
            .prepare_cached(
                "INSERT INTO messages (queue, state, place, delivery_count, enqueued_at,
                   expires_at, deliver_at, message_id, content_type, subject, correlation_id,
                   session_id, properties, body)
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .insert((
                self.id,
                i64::from(is_scheduled),
                place,
                enqueued_at,
                enqueued_at.saturating_add(micros(self.options.message_ttl)),
                deliver_at,
                &message.id,
                &message.content_type,
                &message.subject,
                &message.correlation_id,
                &message.session_id,
                properties,
                &message.body,
            ))?;
        Ok(Sent::Accepted { sequence_number })
    }

    /// Whether `id` was sent within the window; if not, it is now.
    fn is_duplicate(&self, tx: &Transaction<'_>, now: i64, id: &str) -> rusqlite::Result<bool> {
        if self.options.duplicate_window.is_zero() {
            return Ok(false);
        }
        let forgotten_at = now.saturating_sub(micros(self.options.duplicate_window));
        tx.prepare_cached(
            "DELETE FROM seen WHERE queue = ?1 AND message_id IN (SELECT message_id FROM seen
               WHERE queue = ?1 AND seen_at <= ?2 ORDER BY seen_at LIMIT ?3)",
        )?
        .execute((self.id, forgotten_at, FORGET_PER_SEND))?;
        let is_new = tx
            .prepare_cached(
                "INSERT INTO seen (queue, message_id, seen_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET seen_at = ?3 WHERE seen_at <= ?4 RETURNING 1",
            )?
            .query_row((self.id, id, now, forgotten_at), |_| Ok(()))
            .optional()?
            .is_some();
        Ok(!is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::QueueOptions;

    #[test]
    fn ids_that_are_past_the_window_do_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        let queues = LocalQueues::open(&folder.path().join("queues.db")).unwrap();
        queues.declare("lanes", &QueueOptions::default()).unwrap();
        let batch: Vec<_> = (0..50).map(|n| Message::new(n.to_string(), "x")).collect();
        queues.send_all("lanes", &batch).unwrap();
        let remembered = |sql: &str| -> i64 {
            let connection = queues.inner.connection.lock().unwrap();
            connection.execute_batch(sql).unwrap();
            connection.query_row("SELECT count(*) FROM seen", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(remembered("UPDATE seen SET seen_at = 0"), 50);
        for n in 0..4 {
            queues.send("lanes", &Message::new(format!("later {n}"), "x")).unwrap();
        }
        assert_eq!(remembered(""), 4);
    }
}
