//! What all pieces of work share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flexkeep_bus::{Bus, CloudEvent, EventSink, Message};
use flexkeep_policy::{Env, Policy};
use flexkeep_vault::{RemoteStores, Vault, VaultError};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::ServiceError;
use crate::events::Events;
use crate::message::BackupMessage;

/// How often an event is tried to be told within one invocation, and the pause after the first
/// failure, which then doubles.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Where the service finds what it needs.
#[derive(Clone)]
pub struct ServiceOptions {
    /// The policy file; read anew for each piece of work, so that an edit counts at once.
    pub policy: PathBuf,
    /// Where the policy's secrets are.
    pub env: Arc<dyn Env + Send + Sync>,
    /// The queue of backup messages.
    pub queue: String,
    /// The queue of the messages that start lanes.
    pub lanes: String,
    /// How long a lane works before it sends its successor.
    pub lane_budget: Duration,
    /// How often it is told how far a backup at work is; never when absent.
    pub progress_every: Option<Duration>,
    /// The queue of messages for restores and drills.
    pub restore_queue: String,
    /// Where messages go.
    pub bus: Arc<dyn Bus>,
    /// Where events go.
    pub sink: Arc<dyn EventSink>,
    /// Folder of `pg_dump` and `pg_dumpall`; searched for when absent.
    pub pg_bin: Option<PathBuf>,
    /// Opens vaults that are not folders.
    pub stores: Arc<dyn RemoteStores>,
    /// Program and version for manifests.
    pub tool: String,
}

/// Schedules and takes backups. Cloning shares it.
#[derive(Clone)]
pub struct Service {
    pub(crate) options: Arc<ServiceOptions>,
}

impl Service {
    /// A service.
    pub fn new(options: ServiceOptions) -> Self {
        Self { options: Arc::new(options) }
    }

    /// The policy as it is now.
    pub(crate) fn policy(&self) -> Result<Policy, ServiceError> {
        Ok(Policy::load(&self.options.policy, self.options.env.as_ref())?)
    }

    pub(crate) fn vault(&self, policy: &Policy) -> Result<Vault, VaultError> {
        Vault::open_or_create(policy.vault(), self.options.stores.as_ref())
    }

    pub(crate) fn events(policy: &Policy) -> Events {
        Events::new(policy.vault())
    }

    /// Sends a message for now, or for after a while.
    pub(crate) async fn send(
        &self,
        message: &BackupMessage,
        after: Option<SignedDuration>,
    ) -> Result<(), ServiceError> {
        self.send_as(&message.message_id(), message, after).await
    }

    /// The same under another id of the message.
    pub(crate) async fn send_as(
        &self,
        id: &str,
        message: &BackupMessage,
        after: Option<SignedDuration>,
    ) -> Result<(), ServiceError> {
        self.send_to(&self.options.queue, id, message, message.server.as_str(), after).await
    }

    /// Sends what has a JSON form to a queue.
    pub(crate) async fn send_to<T: Serialize + Sync>(
        &self,
        queue: &str,
        id: &str,
        message: &T,
        subject: &str,
        after: Option<SignedDuration>,
    ) -> Result<(), ServiceError> {
        let failed = |source| ServiceError::Send { what: format!("message {id}"), source };
        let mut queued = Message::json(id, message).map_err(failed)?.with_subject(subject);
        if let Some(after) = after {
            queued = queued.with_deliver_at(Timestamp::now() + after);
        }
        self.options.bus.send(queue, &queued).await.map_err(failed)
    }

    /// Tells an event, with a few tries.
    pub(crate) async fn tell(&self, event: &CloudEvent) -> Result<(), ServiceError> {
        let failed = |source| ServiceError::Send { what: format!("event {}", event.id), source };
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.options.sink.publish(event).await {
                Err(error) if error.is_transient() => {}
                result => return result.map_err(failed),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.options.sink.publish(event).await.map_err(failed)
    }
}

/// Runs what waits for disks, servers and locks off the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::Internal(format!("a thread ended early: {error}")))
}
