//! Where events go.

mod file;
mod topic;

pub use file::FileSink;
pub use topic::TopicSink;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::BusError;
use crate::event::CloudEvent;

/// Publishes events.
///
/// # Contract
/// - An event is handed over durably (as far as the sink promises it) when `publish` returns
///   `Ok`.
/// - After an error it may have been handed over or not: publish it again with the same id.
/// - `publish` ends in bounded time. A sink across a network has then tried again by itself for as
///   long as it may. [`BusError::is_transient`] tells whether the same call may succeed later.
/// - Errors never show credentials.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Publishes `event`.
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError>;
}

/// Tells events to the log, at level info: their attributes and extensions, not their data.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSink;

#[async_trait]
impl EventSink for LogSink {
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError> {
        event.validate()?;
        let extensions = serde_json::to_string(&event.extensions).unwrap_or_default();
        tracing::info!(
            event_type = event.type_,
            event_id = event.id,
            source = event.source,
            subject = event.subject.as_deref().unwrap_or_default(),
            time = %event.time,
            extensions,
            "event"
        );
        Ok(())
    }
}

/// Publishes to several sinks, one after the other; to none is fine too.
///
/// All are tried, whatever the others do. If any failed, the error is that of the first one that
/// may do better when tried again, or else of the first, and says how many failed. Who then
/// publishes again does so to all: an event has an id by which receivers tell duplicates.
#[derive(Clone, Default)]
pub struct Sinks(pub Vec<Arc<dyn EventSink>>);

#[async_trait]
impl EventSink for Sinks {
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError> {
        let mut failures = Vec::new();
        for sink in &self.0 {
            if let Err(error) = sink.publish(event).await {
                failures.push(error);
            }
        }
        let failed = failures.len();
        let told = failures.iter().position(BusError::is_transient).unwrap_or(0);
        if failed == 0 {
            return Ok(());
        }
        for (index, other) in failures.iter().enumerate().filter(|(index, _)| *index != told) {
            tracing::warn!(event_id = event.id, sink = index, error = %other, "an event sink failed");
        }
        let error = failures.swap_remove(told);
        let what = format!(
            "{failed} of {} event sinks did not take the event {:?}",
            self.0.len(),
            event.id
        );
        Err(BusError::new(error.kind(), what).with_source(error))
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sinks({})", self.0.len())
    }
}
