//! What a queue promises.

use std::time::Duration;

use crate::error::BusError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest lock and duplicate window that Service Bus offers: what holds locally must hold
/// there.
const MAX_LOCK_DURATION: Duration = Duration::from_secs(5 * 60);
const MAX_DUPLICATE_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const MAX_MESSAGE_TTL: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// What a queue promises to its senders and receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// How often a message is received before it becomes a dead letter; at least 1.
    pub max_delivery_count: u32,
    /// How long a received message is the receiver's, from its receipt or the last renewal; up
    /// to five minutes.
    pub lock_duration: Duration,
    /// How long the id of a message is remembered, from when it was sent; zero turns the
    /// detection of duplicates off. The default is the most that Service Bus offers, seven days:
    /// ids are made from a scheduled instant, and a tick that is caught up after a long weekend
    /// must still change nothing. An id takes some hundred bytes.
    pub duplicate_window: Duration,
    /// How long a message waits, from its sending or its scheduled moment, before it becomes a
    /// dead letter.
    pub message_ttl: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            max_delivery_count: 10,
            lock_duration: Duration::from_secs(60),
            duplicate_window: MAX_DUPLICATE_WINDOW,
            message_ttl: 14 * DAY,
        }
    }
}

impl QueueOptions {
    pub(super) fn validate(&self, queue: &str) -> Result<(), BusError> {
        let wrong = if self.max_delivery_count == 0 {
            "max_delivery_count must be at least 1"
        } else if self.lock_duration < Duration::from_millis(1) {
            "lock_duration must be at least a millisecond"
        } else if self.lock_duration > MAX_LOCK_DURATION {
            "lock_duration is at most 5 minutes, as in Service Bus: renew the lock instead"
        } else if self.duplicate_window > MAX_DUPLICATE_WINDOW {
            "duplicate_window is at most 7 days, as in Service Bus"
        } else if self.message_ttl < Duration::from_millis(1) {
            "message_ttl must be at least a millisecond"
        } else if self.message_ttl > MAX_MESSAGE_TTL {
            "message_ttl is at most ten years"
        } else {
            return Ok(());
        };
        Err(BusError::invalid(format!("queue {queue}: {wrong}")))
    }
}
