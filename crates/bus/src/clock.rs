//! Where the time comes from, so that a test need not wait for it.

use std::fmt;

use jiff::Timestamp;

/// The wall clock of the queues. It may jump, also backwards: whoever reads it copes.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
