//! The bus: where work is sent, and what a connection opens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::connection::{BusConnection, FORMS};
use crate::error::{BusError, BusErrorKind};
use crate::local::LocalQueues;
use crate::message::Message;

/// Sends work.
///
/// # Contract
/// - A message is stored durably when `send` returns `Ok`.
/// - After an error it may have been stored or not: send it again with the same id. The queue
///   drops duplicates by id without an error.
/// - `send` ends in bounded time. A bus across a network has then tried again by itself for as
///   long as it may; one to a file leaves that to the caller. Either way
///   [`BusError::is_transient`] tells whether the same call may succeed later.
/// - Errors never show credentials.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends `message` to `queue`, which must exist.
    async fn send(&self, queue: &str, message: &Message) -> Result<(), BusError>;

    /// Sends all of `messages` to `queue`, in order. After an error some may have been stored:
    /// send all of them again with the same ids.
    async fn send_batch(&self, queue: &str, messages: &[Message]) -> Result<(), BusError> {
        for message in messages {
            self.send(queue, message).await?;
        }
        Ok(())
    }
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

    async fn send_batch(&self, queue: &str, messages: &[Message]) -> Result<(), BusError> {
        let (queues, queue, messages) = (self.0.clone(), queue.to_owned(), messages.to_vec());
        blocking(move || queues.send_all(&queue, &messages).map(|_| ())).await
    }
}

/// Opens the bus that `connection` names; a relative path is relative to `base`.
///
/// # Errors
/// Those of [`BusConnection::parse`] and [`BusConnection::open`], which see for a namespace that
/// is reached with an identity.
pub fn open_bus(connection: &str, base: &Path) -> Result<Arc<dyn Bus>, BusError> {
    BusConnection::parse(connection, base)?.open(None)
}

/// The queue file that `connection` names, for whoever receives from it.
///
/// # Errors
/// Those of [`BusConnection::parse`]; `Unsupported` for a Service Bus connection.
pub fn local_queues_path(connection: &str, base: &Path) -> Result<PathBuf, BusError> {
    match BusConnection::parse(connection, base)? {
        BusConnection::Local(path) => Ok(path),
        BusConnection::ServiceBus(_) => Err(BusError::new(
            BusErrorKind::Unsupported,
            format!("a Service Bus connection has no queue file, use sqlite:PATH; {FORMS}"),
        )),
    }
}

/// Runs `work`, which waits for disks and locks, off the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(BusError::new(BusErrorKind::Io, "the thread that sends ended early").with_source(error))
    })
}
