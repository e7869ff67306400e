//! Ending a delivery, or making it last longer.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction};

use super::{Failure, LocalQueues, LockToken, Queue, timestamp};
use crate::error::{BusError, BusErrorKind};

/// What became of an abandoned message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It waits again, behind the others.
    Requeued,
    /// It was received as often as its queue allows, and is a dead letter now.
    DeadLettered,
}

/// The longest text that is kept with a dead letter, in characters, as in Service Bus.
const MAX_DEAD_TEXT_CHARS: usize = 4096;

impl LocalQueues {
    /// Makes the lock last its full duration from now; returns its new end.
    ///
    /// # Errors
    /// `LockLost`, or one of the file.
    pub fn renew(&self, lock: &LockToken) -> Result<Timestamp, BusError> {
        self.write("renew a lock", |tx, now| {
            let until: Option<i64> = tx
                .prepare_cached(
                    "UPDATE messages SET locked_until = ?2 + lock_us
                     WHERE lock = ?1 AND state = 2 AND locked_until > ?2 RETURNING locked_until",
                )?
                .query_row((lock.to_string(), now), |row| row.get(0))
                .optional()?;
            Ok(timestamp(until.ok_or_else(|| lost(lock))?))
        })
    }

    /// Removes the message: its work is done.
    ///
    /// # Errors
    /// `LockLost` (the message comes again, or came, or is settled), or one of the file.
    pub fn complete(&self, lock: &LockToken) -> Result<(), BusError> {
        match self.complete_all(std::slice::from_ref(lock))?.as_slice() {
            [] => Ok(()),
            _ => Err(lost(lock)),
        }
    }

    /// Removes the messages of all these locks in one transaction; returns the locks that were
    /// lost, whose messages stay.
    ///
    /// # Errors
    /// One of the file; then nothing was removed.
    pub fn complete_all(&self, locks: &[LockToken]) -> Result<Vec<LockToken>, BusError> {
        self.write("complete a message", |tx, now| {
            let mut lost = Vec::new();
            for lock in locks {
                let removed = tx
                    .prepare_cached(
                        "DELETE FROM messages
                         WHERE lock = ?1 AND state = 2 AND locked_until > ?2",
                    )?
                    .execute((lock.to_string(), now))?;
                if removed == 0 {
                    lost.push(*lock);
                }
            }
            Ok(lost)
        })
    }

    /// Gives the message back at once: it waits again, behind the others, or becomes a dead
    /// letter if it was received as often as its queue allows.
    ///
    /// # Errors
    /// `LockLost`, or one of the file.
    pub fn abandon(&self, lock: &LockToken) -> Result<Settled, BusError> {
        self.write("abandon a message", |tx, now| {
            let held = held(tx, now, lock)?;
            let is_dead = held.queue.give_back(tx, now, held.number, held.delivery_count)?;
            Ok(if is_dead { Settled::DeadLettered } else { Settled::Requeued })
        })
    }

    /// Puts the message among the dead letters, with a reason for programs and a description for
    /// people. Neither may hold a secret; what is over 4096 characters is cut off.
    ///
    /// # Errors
    /// `LockLost`, or one of the file.
    pub fn dead_letter(
        &self,
        lock: &LockToken,
        reason: &str,
        description: &str,
    ) -> Result<(), BusError> {
        self.write("dead-letter a message", |tx, now| {
            let held = held(tx, now, lock)?;
            Ok(bury(tx, now, held.number, cut(reason), cut(description))?)
        })
    }
}

/// A message that is locked.
struct Held {
    queue: Queue,
    number: i64,
    delivery_count: u32,
}

fn held(tx: &Transaction<'_>, now: i64, lock: &LockToken) -> Result<Held, Failure> {
    tx.prepare_cached(
        "SELECT q.id, q.name, q.max_delivery_count, q.lock_us, q.duplicate_window_us, q.ttl_us,
                m.sequence_number, m.delivery_count
         FROM messages m JOIN queues q ON q.id = m.queue
         WHERE m.lock = ?1 AND m.state = 2 AND m.locked_until > ?2",
    )?
    .query_row((lock.to_string(), now), |row| {
        Ok(Held { queue: Queue::from_row(row)?, number: row.get(6)?, delivery_count: row.get(7)? })
    })
    .optional()?
    .ok_or_else(|| Failure::Bus(lost(lock)))
}

fn lost(lock: &LockToken) -> BusError {
    BusError::new(
        BusErrorKind::LockLost,
        format!(
            "the lock {lock} expired, or its message was settled before; if it expired, the message \
             is delivered again: renew locks in time"
        ),
    )
}

/// Makes a message deliverable, in `place`.
pub(super) fn make_ready(tx: &Transaction<'_>, number: i64, place: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE messages SET state = 0, place = ?2, lock = NULL, lock_us = NULL,
           locked_until = NULL, receiver = NULL WHERE sequence_number = ?1",
    )?
    .execute((number, place))?;
    Ok(())
}

/// Makes a message a dead letter.
pub(super) fn bury(
    tx: &Transaction<'_>,
    now: i64,
    number: i64,
    reason: &str,
    description: &str,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE messages SET state = 3, dead_at = ?2, dead_reason = ?3, dead_description = ?4,
           lock = NULL, lock_us = NULL, locked_until = NULL, receiver = NULL
         WHERE sequence_number = ?1",
    )?
    .execute((number, now, reason, description))?;
    Ok(())
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_DEAD_TEXT_CHARS).map_or(text, |(end, _)| &text[..end])
}
