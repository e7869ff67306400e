//! A bus and a sink that fail when they are told to, in front of real ones.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use flexkeep_bus::{
    Bus, BusError, BusErrorKind, CloudEvent, EventSink, FileSink, LocalBus, Message,
};

/// When to fail.
#[derive(Debug, Default)]
pub struct Faults {
    /// Always.
    down: AtomicBool,
    /// This many times more.
    next: AtomicU32,
    /// Whether a failure comes after the thing was done.
    done_first: AtomicBool,
    /// Only for those that begin with this.
    only: Mutex<Option<String>>,
    /// Whether the same call may succeed later.
    lasting: AtomicBool,
}

impl Faults {
    /// Fails until [`Self::up`].
    pub fn down(&self) {
        self.down.store(true, Ordering::SeqCst);
    }

    pub fn up(&self) {
        self.down.store(false, Ordering::SeqCst);
        self.next.store(0, Ordering::SeqCst);
    }

    /// Fails this many times.
    pub fn fail_next(&self, times: u32) {
        self.next.store(times, Ordering::SeqCst);
    }

    /// From now on a failure comes after the thing was done.
    pub fn fail_after_doing(&self) {
        self.done_first.store(true, Ordering::SeqCst);
    }

    /// From now on only that is hit whose id begins with this.
    pub fn only(&self, prefix: &str) {
        *self.only.lock().unwrap_or_else(PoisonError::into_inner) = Some(prefix.to_owned());
    }

    /// From now on failures are of the kind that is not tried again at once.
    pub fn lasting(&self) {
        self.lasting.store(true, Ordering::SeqCst);
    }

    fn hits(&self, id: &str) -> bool {
        let only = self.only.lock().unwrap_or_else(PoisonError::into_inner);
        if only.as_ref().is_some_and(|prefix| !id.starts_with(prefix)) {
            return false;
        }
        let less = |left: u32| left.checked_sub(1);
        self.down.load(Ordering::SeqCst)
            || self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    fn done_first(&self) -> bool {
        self.done_first.load(Ordering::SeqCst)
    }

    fn error(&self) -> BusError {
        let lasting = self.lasting.load(Ordering::SeqCst);
        let kind = if lasting { BusErrorKind::NoSpace } else { BusErrorKind::Busy };
        BusError::new(kind, "the test lets this fail")
    }
}

/// A bus in front of the local one.
pub struct ShakyBus {
    bus: LocalBus,
    pub faults: Faults,
    /// The ids of all messages that it was asked to send.
    asked: Mutex<Vec<String>>,
}

impl ShakyBus {
    pub fn new(bus: LocalBus) -> Self {
        Self { bus, faults: Faults::default(), asked: Mutex::default() }
    }

    /// What it was asked to send, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Bus for ShakyBus {
    async fn send(&self, queue: &str, message: &Message) -> Result<(), BusError> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(message.id.clone());
        if !self.faults.hits(&message.id) {
            return self.bus.send(queue, message).await;
        }
        if self.faults.done_first() {
            self.bus.send(queue, message).await?;
        }
        Err(self.faults.error())
    }
}

/// A sink in front of a file.
pub struct ShakySink {
    sink: FileSink,
    pub faults: Faults,
}

impl ShakySink {
    pub fn new(sink: FileSink) -> Self {
        Self { sink, faults: Faults::default() }
    }
}

#[async_trait]
impl EventSink for ShakySink {
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError> {
        if !self.faults.hits(&event.id) {
            return self.sink.publish(event).await;
        }
        if self.faults.done_first() {
            self.sink.publish(event).await?;
        }
        Err(self.faults.error())
    }
}
