//! Looking into queues, and caring for the dead letters.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row};

use super::row::{self, MESSAGE_COLUMN_COUNT, MESSAGE_COLUMNS};
use super::{LocalQueues, Queue, QueueOptions, micros, timestamp};
use crate::error::{BusError, BusErrorKind};
use crate::message::Message;

/// A queue of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name, as it was first declared.
    pub name: String,
    /// What it promises.
    pub options: QueueOptions,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that wait for a receiver.
    pub active: u64,
    /// Those that a receiver has.
    pub locked: u64,
    /// Those whose moment is yet to come.
    pub scheduled: u64,
    /// The dead letters.
    pub dead: u64,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// It waits for a receiver.
    Active,
    /// Its moment is yet to come.
    Scheduled,
    /// A receiver has it.
    Locked {
        /// The end of the lock.
        until: Timestamp,
        /// The name that the receiver gave.
        receiver: String,
    },
    /// It is a dead letter.
    Dead {
        /// Since when.
        at: Timestamp,
        /// Why, for programs.
        reason: String,
        /// Why, for people.
        description: String,
    },
}

/// A message that was looked at, and is as it was before.
#[derive(Clone, Debug, PartialEq)]
pub struct Peeked {
    /// What was sent.
    pub message: Message,
    /// Its number, unique in the file.
    pub sequence_number: i64,
    /// How often it was received.
    pub delivery_count: u32,
    /// When it was sent, or its scheduled moment.
    pub enqueued_at: Timestamp,
    /// When it becomes a dead letter if nobody takes it.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub state: MessageState,
}

impl LocalQueues {
    /// The queues of the file, by name.
    ///
    /// # Errors
    /// One of the file.
    pub fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.read("list the queues", |tx, _| {
            Ok(tx
                .prepare_cached(
                    "SELECT id, name, max_delivery_count, lock_us, duplicate_window_us, ttl_us
                     FROM queues ORDER BY name",
                )?
                .query_map([], Queue::from_row)?
                .map(|queue| queue.map(|q| QueueInfo { name: q.name, options: q.options }))
                .collect::<Result<_, _>>()?)
        })
    }

    /// How many messages `queue` holds.
    ///
    /// # Errors
    /// `UnknownQueue`, or one of the file.
    pub fn counts(&self, queue: &str) -> Result<Counts, BusError> {
        self.catch_up(queue)?;
        self.read("count messages", |tx, _| {
            let queue = self.queue(tx, queue)?;
            Ok(tx
                .prepare_cached(
                    "SELECT
                       (SELECT count(*) FROM messages WHERE queue = ?1 AND state = 0),
                       (SELECT count(*) FROM messages WHERE queue = ?1 AND state = 2),
                       (SELECT count(*) FROM messages WHERE queue = ?1 AND state = 1),
                       (SELECT count(*) FROM messages WHERE queue = ?1 AND state = 3)",
                )?
                .query_row([queue.id], |row| {
                    let count = |column: usize| row.get(column).map(i64::unsigned_abs);
                    Ok(Counts {
                        active: count(0)?,
                        locked: count(1)?,
                        scheduled: count(2)?,
                        dead: count(3)?,
                    })
                })?)
        })
    }

    /// The first `limit` messages of `queue` that are no dead letters, by sequence number.
    ///
    /// # Errors
    /// `UnknownQueue`, or one of the file.
    pub fn peek(&self, queue: &str, limit: usize) -> Result<Vec<Peeked>, BusError> {
        self.peek_where(queue, "state <> 3", limit)
    }

    /// The first `limit` dead letters of `queue`, by sequence number.
    ///
    /// # Errors
    /// `UnknownQueue`, or one of the file.
    pub fn peek_dead(&self, queue: &str, limit: usize) -> Result<Vec<Peeked>, BusError> {
        self.peek_where(queue, "state = 3", limit)
    }

    fn peek_where(&self, queue: &str, which: &str, limit: usize) -> Result<Vec<Peeked>, BusError> {
        self.catch_up(queue)?;
        self.read("look at messages", |tx, _| {
            let queue = self.queue(tx, queue)?;
            let sql = format!(
                "SELECT {MESSAGE_COLUMNS}, sequence_number, delivery_count, enqueued_at,
                   expires_at, state, locked_until, receiver, dead_at, dead_reason,
                   dead_description
                 FROM messages WHERE queue = ?1 AND {which} ORDER BY sequence_number LIMIT ?2"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            Ok(tx
                .prepare_cached(&sql)?
                .query_map((queue.id, limit), peeked)?
                .collect::<Result<_, _>>()?)
        })
    }

    /// Makes a dead letter wait again as if it had just been sent: behind the others, its
    /// delivery count from the start, its time to live anew. It keeps its sequence number, and
    /// no duplicate detection stands in its way.
    ///
    /// # Errors
    /// `NotFound`, `UnknownQueue`, or one of the file.
    pub fn resubmit_dead(&self, queue: &str, sequence_number: i64) -> Result<(), BusError> {
        self.catch_up(queue)?;
        self.write("resubmit a dead letter", |tx, now| {
            let queue = self.queue(tx, queue)?;
            let place = queue.next_place(tx)?;
            tx.prepare_cached(
                "UPDATE messages SET state = 0, place = ?3, delivery_count = 0, enqueued_at = ?4,
                   expires_at = ?5, deliver_at = NULL, dead_at = NULL, dead_reason = NULL,
                   dead_description = NULL
                 WHERE queue = ?1 AND sequence_number = ?2 AND state = 3 RETURNING 1",
            )?
            .query_row(
                (
                    queue.id,
                    sequence_number,
                    place,
                    now,
                    now.saturating_add(micros(queue.options.message_ttl)),
                ),
                |_| Ok(()),
            )
            .optional()?
            .ok_or_else(|| no_dead_letter(&queue, sequence_number).into())
        })
    }

    /// Removes one dead letter of `queue`, or all; returns how many.
    ///
    /// # Errors
    /// `NotFound` if there is no such one, `UnknownQueue`, or one of the file.
    pub fn purge_dead(&self, queue: &str, sequence_number: Option<i64>) -> Result<u64, BusError> {
        self.catch_up(queue)?;
        self.write("purge dead letters", |tx, _| {
            let queue = self.queue(tx, queue)?;
            let removed = tx
                .prepare_cached(
                    "DELETE FROM messages WHERE queue = ?1 AND state = 3
                       AND sequence_number = coalesce(?2, sequence_number)",
                )?
                .execute((queue.id, sequence_number))?;
            match sequence_number {
                Some(number) if removed == 0 => Err(no_dead_letter(&queue, number).into()),
                _ => Ok(removed as u64),
            }
        })
    }
}

fn no_dead_letter(queue: &Queue, sequence_number: i64) -> BusError {
    BusError::new(
        BusErrorKind::NotFound,
        format!("queue {} has no dead letter with sequence number {sequence_number}", queue.name),
    )
}

fn peeked(row: &Row<'_>) -> rusqlite::Result<Peeked> {
    const OWN: usize = MESSAGE_COLUMN_COUNT;
    let time = |column: usize| row.get(column).map(timestamp);
    let state = match row.get::<_, i64>(OWN + 4)? {
        0 => MessageState::Active,
        1 => MessageState::Scheduled,
        2 => MessageState::Locked { until: time(OWN + 5)?, receiver: row.get(OWN + 6)? },
        3 => MessageState::Dead {
            at: time(OWN + 7)?,
            reason: row.get(OWN + 8)?,
            description: row.get(OWN + 9)?,
        },
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(OWN + 4, other)),
    };
    Ok(Peeked {
        message: row::message(row)?,
        sequence_number: row.get(OWN)?,
        delivery_count: row.get(OWN + 1)?,
        enqueued_at: time(OWN + 2)?,
        expires_at: time(OWN + 3)?,
        state,
    })
}
