//! Receiving from a queue, and what time moves in it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::{Params, Transaction};
use uuid::Uuid;

use super::row::{self, MESSAGE_COLUMN_COUNT, MESSAGE_COLUMNS};
use super::{
    Failure, LocalQueues, MAX_DELIVERY_COUNT_EXCEEDED, Queue, TTL_EXPIRED, micros, settle,
    timestamp,
};

use crate::error::BusError;
use crate::message::Message;

/// How many messages one transaction moves because of their time; what is left moves in the next.
const MOVES_PER_TRANSACTION: u32 = 1000;

/// How often an inspection moves that many: on a busy queue there is always something to move.
const MAX_CATCH_UP_TRANSACTIONS: u32 = 1000;

/// The right to settle one delivery of a message, until its lock expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockToken(Uuid);

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LockToken {
    type Err = BusError;

    fn from_str(text: &str) -> Result<Self, BusError> {
        Uuid::parse_str(text).map(Self).map_err(|error| {
            BusError::invalid("this is no lock token; a lock token is a UUID").with_source(error)
        })
    }
}

/// A message that was received and is locked for its receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What was sent.
    pub message: Message,
    /// How often it was received, this time included: from 1.
    pub delivery_count: u32,
    /// Its number, unique in the file.
    pub sequence_number: i64,
    /// When it was sent, or its scheduled moment.
    pub enqueued_at: Timestamp,
    /// When it would become a dead letter if nobody had it locked.
    pub expires_at: Timestamp,
    /// Until when it is the receiver's.
    pub locked_until: Timestamp,
    /// What settles it.
    pub lock: LockToken,
}

impl LocalQueues {
    /// Takes the next message of `queue` and locks it for `receiver` (a name for people). Never
    /// waits for a message; a queue without one costs a read only.
    ///
    /// # Errors
    /// `UnknownQueue`, or one of the file.
    pub fn receive(&self, queue: &str, receiver: &str) -> Result<Option<Delivery>, BusError> {
        Ok(self.receive_many(queue, receiver, 1)?.pop())
    }

    /// Takes up to `max` messages in one transaction, and so with one sync.
    ///
    /// # Errors
    /// Those of [`Self::receive`].
    pub fn receive_many(
        &self,
        queue: &str,
        receiver: &str,
        max: usize,
    ) -> Result<Vec<Delivery>, BusError> {
        const DOING: &str = "receive a message";
        let is_idle = self.read(DOING, |tx, now| {
            let queue = self.queue(tx, queue)?;
            Ok(!queue.has_ready(tx)? && !queue.has_moves(tx, now)?)
        })?;
        if is_idle || max == 0 {
            return Ok(Vec::new());
        }
        self.write(DOING, |tx, now| {
            let queue = self.queue(tx, queue)?;
            queue.make_moves(tx, now)?;
            let mut deliveries = Vec::new();
            while deliveries.len() < max {
                match queue.lock_next(tx, now, receiver)? {
                    Some(delivery) => deliveries.push(delivery),
                    None => break,
                }
            }
            Ok(deliveries)
        })
    }

    /// When [`Self::receive`] may next have a message of those that the queue holds now: the
    /// present if one is ready, none if the queue is empty. New messages may come before.
    ///
    /// # Errors
    /// `UnknownQueue`, or one of the file.
    pub fn next_due(&self, queue: &str) -> Result<Option<Timestamp>, BusError> {
        self.read("look for the next message", |tx, now| {
            let queue = self.queue(tx, queue)?;
            if queue.has_ready(tx)? || queue.has_moves(tx, now)? {
                return Ok(Some(timestamp(now)));
            }
            let next: Option<i64> = tx
                .prepare_cached(
                    "SELECT min(due) FROM (
                       SELECT min(deliver_at) AS due FROM messages WHERE queue = ?1 AND state = 1
                       UNION ALL
                       SELECT min(locked_until) FROM messages WHERE queue = ?1 AND state = 2)",
                )?
                .query_row([queue.id], |row| row.get(0))?;
            Ok(next.map(timestamp))
        })
    }

    /// Moves what is past its time, so that an inspection sees the present.
    pub(super) fn catch_up(&self, queue: &str) -> Result<(), BusError> {
        const DOING: &str = "look into a queue";
        for _ in 0..MAX_CATCH_UP_TRANSACTIONS {
            let is_current = self.read(DOING, |tx, now| {
                let queue = self.queue(tx, queue)?;
                Ok(!queue.has_moves(tx, now)?)
            })?;
            if is_current {
                break;
            }
            self.write(DOING, |tx, now| {
                let queue = self.queue(tx, queue)?;
                Ok(queue.make_moves(tx, now)?)
            })?;
        }
        Ok(())
    }
}

impl Queue {
    fn has_ready(&self, tx: &Transaction<'_>) -> rusqlite::Result<bool> {
        tx.prepare_cached("SELECT 1 FROM messages WHERE queue = ?1 AND state = 0 LIMIT 1")?
            .exists([self.id])
    }

    /// Whether [`Self::make_moves`] has anything to do.
    fn has_moves(&self, tx: &Transaction<'_>, now: i64) -> rusqlite::Result<bool> {
        tx.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND state = 0
                              AND expires_at <= ?2)
                 OR EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND state = 1
                              AND deliver_at <= ?2)
                 OR EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND state = 2
                              AND (locked_until <= ?2 OR locked_until > ?2 + lock_us))",
        )?
        .query_row((self.id, now), |row| row.get(0))
    }

    /// Moves what is past its time: expired locks, due schedules, expired messages.
    fn make_moves(&self, tx: &Transaction<'_>, now: i64) -> rusqlite::Result<()> {
        // A lock that lasts longer than it was granted for: the clock went back.
        tx.prepare_cached(
            "UPDATE messages SET locked_until = ?2 + lock_us
             WHERE queue = ?1 AND state = 2 AND locked_until > ?2 + lock_us",
        )?
        .execute((self.id, now))?;
        let expired = self.numbers(
            tx,
            "SELECT sequence_number, delivery_count FROM messages
             WHERE queue = ?1 AND state = 2 AND locked_until <= ?2
             ORDER BY locked_until, sequence_number LIMIT ?3",
            (self.id, now, MOVES_PER_TRANSACTION),
        )?;
        for (number, delivery_count) in expired {
            self.give_back(tx, now, number, delivery_count)?;
        }
        let due = self.numbers(
            tx,
            "SELECT sequence_number, delivery_count FROM messages
             WHERE queue = ?1 AND state = 1 AND deliver_at <= ?2
             ORDER BY deliver_at, sequence_number LIMIT ?3",
            (self.id, now, MOVES_PER_TRANSACTION),
        )?;
        for (number, _) in due {
            settle::make_ready(tx, number, self.next_place(tx)?)?;
        }
        let stale = self.numbers(
            tx,
            "SELECT sequence_number, delivery_count FROM messages
             WHERE queue = ?1 AND state = 0 AND expires_at <= ?2
             ORDER BY expires_at, sequence_number LIMIT ?3",
            (self.id, now, MOVES_PER_TRANSACTION),
        )?;
        for (number, _) in stale {
            settle::bury(tx, now, number, TTL_EXPIRED, "nobody took the message in time")?;
        }
        Ok(())
    }

    /// Ends a delivery that did not succeed: the message waits again, or it had its chances.
    /// Whether it is a dead letter now.
    pub(super) fn give_back(
        &self,
        tx: &Transaction<'_>,
        now: i64,
        number: i64,
        delivery_count: u32,
    ) -> rusqlite::Result<bool> {
        let is_spent = delivery_count >= self.options.max_delivery_count;
        if is_spent {
            let description = format!("received {delivery_count} times, and never completed");
            settle::bury(tx, now, number, MAX_DELIVERY_COUNT_EXCEEDED, &description)?;
        } else {
            settle::make_ready(tx, number, self.next_place(tx)?)?;
        }
        Ok(is_spent)
    }

    fn numbers(
        &self,
        tx: &Transaction<'_>,
        sql: &str,
        params: impl Params,
    ) -> rusqlite::Result<Vec<(i64, u32)>> {
        tx.prepare_cached(sql)?.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// Locks the first message that is ready.
    fn lock_next(
        &self,
        tx: &Transaction<'_>,
        now: i64,
        receiver: &str,
    ) -> Result<Option<Delivery>, Failure> {
        // Left to itself, SQLite finds those that are not expired, and sorts them all by place.
        let sql = format!(
            "SELECT {MESSAGE_COLUMNS}, sequence_number, delivery_count, enqueued_at, expires_at
             FROM messages INDEXED BY messages_ready
             WHERE queue = ?1 AND state = 0 AND expires_at > ?2
             ORDER BY place LIMIT 1"
        );
        let lock = LockToken(Uuid::new_v4());
        let lock_us = micros(self.options.lock_duration);
        let locked_until = now.saturating_add(lock_us);
        let found = tx
            .prepare_cached(&sql)?
            .query_map((self.id, now), |row| {
                const OWN: usize = MESSAGE_COLUMN_COUNT;
                Ok(Delivery {
                    message: row::message(row)?,
                    sequence_number: row.get(OWN)?,
                    delivery_count: row.get::<_, u32>(OWN + 1)?.saturating_add(1),
                    enqueued_at: timestamp(row.get(OWN + 2)?),
                    expires_at: timestamp(row.get(OWN + 3)?),
                    locked_until: timestamp(locked_until),
                    lock,
                })
            })?
            .next()
            .transpose()?;
        let Some(delivery) = found else { return Ok(None) };
        tx.prepare_cached(
            "UPDATE messages SET state = 2, lock = ?2, lock_us = ?3, locked_until = ?4,
               receiver = ?5, delivery_count = ?6 WHERE sequence_number = ?1",
        )?
        .execute((
            delivery.sequence_number,
            lock.to_string(),
            lock_us,
            locked_until,
            receiver,
            delivery.delivery_count,
        ))?;
        Ok(Some(delivery))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_token_is_read_from_its_text() {
        let token = LockToken(Uuid::new_v4());
        assert_eq!(token.to_string().parse::<LockToken>().unwrap(), token);
        assert!("token".parse::<LockToken>().is_err());
    }
}
