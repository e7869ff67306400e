//! The bus: where work is sent, and what a connection opens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{BusError, BusErrorKind};
use crate::local::LocalQueues;
use crate::message::Message;

const FORMS: &str = "a bus connection is sqlite:PATH (queues in a file of this machine) or a \
                     Service Bus connection (Endpoint=sb://NAMESPACE.servicebus.windows.net/;…)";

/// Sends work.
///
/// # Contract
/// - A message is stored durably when `send` returns `Ok`.
/// - After an error it may have been stored or not: send it again with the same id. The queue
///   drops duplicates by id without an error.
/// - `send` ends in bounded time, and retries nothing that [`BusError::is_transient`] reports.
/// - Errors never show credentials.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends `message` to `queue`, which must exist.
    async fn send(&self, queue: &str, message: &Message) -> Result<(), BusError>;
}

/// A [`Bus`] to the queues of a file.
#[derive(Clone, Debug)]
pub struct LocalBus(pub LocalQueues);

#[async_trait]
impl Bus for LocalBus {
    async fn send(&self, queue: &str, message: &Message) -> Result<(), BusError> {
        let (queues, queue, message) = (self.0.clone(), queue.to_owned(), message.clone());
        blocking(move || queues.send(&queue, &message).map(|_| ())).await
    }
}

/// Opens the bus that `connection` names; a relative path is relative to `base`.
///
/// # Errors
/// `Unsupported` for a form that this build cannot open (the text names the forms, never what
/// was given), or those of [`LocalQueues::open`].
pub fn open_bus(connection: &str, base: &Path) -> Result<Arc<dyn Bus>, BusError> {
    let path = local_queues_path(connection, base)?;
    Ok(Arc::new(LocalBus(LocalQueues::open(&path)?)))
}

/// The queue file that `connection` names, for whoever receives from it.
///
/// # Errors
/// `Unsupported` as with [`open_bus`]; `Invalid` if the path is missing.
pub fn local_queues_path(connection: &str, base: &Path) -> Result<PathBuf, BusError> {
    let connection = connection.trim();
    if let Some(path) = connection.strip_prefix("sqlite:") {
        return if path.is_empty() {
            Err(BusError::invalid(format!("sqlite: lacks its path; {FORMS}")))
        } else {
            Ok(base.join(path))
        };
    }
    let lower = connection.to_ascii_lowercase();
    Err(BusError::new(
        BusErrorKind::Unsupported,
        if connection.is_empty() {
            format!("the bus connection is empty; {FORMS}")
        } else if lower.contains("endpoint=sb:") || lower.contains(".servicebus.") {
            format!("this build opens no Service Bus connection, use sqlite:PATH; {FORMS}")
        } else {
            format!("the bus connection has no known form; {FORMS}")
        },
    ))
}

/// Runs `work`, which waits for disks and locks, off the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(BusError::new(BusErrorKind::Io, "the thread that sends ended early").with_source(error))
    })
}
