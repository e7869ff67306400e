//! Queue triggers: receive, run, renew, settle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_bus::{BusErrorKind, Delivery, LockToken, Settled};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::events::{HostEvent, Settlement};
use crate::function::{Function, QueueTrigger};
use crate::host::Shared;
use crate::message;
use crate::queues::{Database, SettleError, chain};

/// An idle queue is looked at this often even if nothing tells that it changed.
const IDLE_LOOK: Duration = Duration::from_millis(500);

/// After an error of the database.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// The most that is received at once, so that other hosts on the same queue get their share.
const RECEIVE_AT_ONCE: usize = 32;

/// How concurrently one queue is worked on.
#[derive(Debug, Clone)]
pub(crate) struct QueueLimits {
    pub(crate) concurrent_calls: usize,
    pub(crate) auto_lock_renewal: Duration,
    pub(crate) max_batch: usize,
    pub(crate) min_batch: usize,
    pub(crate) max_batch_wait: Duration,
}

/// One queue function's listener.
pub(crate) struct QueueListener {
    pub(crate) shared: Arc<Shared>,
    pub(crate) function: Arc<Function>,
    pub(crate) limits: QueueLimits,
    pub(crate) receiver: String,
}

impl QueueListener {
    /// Receives until the host stops. Messages that were received are worked on to their end in
    /// tasks of the host.
    pub(crate) async fn run(self, trigger: &QueueTrigger) {
        let database = self.shared.dispatcher.databases.of(&trigger.connection).clone();
        // One batch at a time, or so many single messages.
        let slots = if trigger.batches { 1 } else { self.limits.concurrent_calls };
        let slots = Arc::new(Semaphore::new(slots));
        let mut changes = database.changes();
        while self.shared.listening().await {
            let permit = tokio::select! {
                () = self.shared.stop.cancelled() => return,
                permit = slots.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            if !self.shared.may_receive() {
                continue;
            }
            changes.borrow_and_update();
            let received = match trigger.batches {
                true => self.receive_batch(&database, trigger, permit).await,
                false => self.receive_some(&database, trigger, permit, &slots).await,
            };
            match received {
                Ok(true) => {}
                Ok(false) => self.wait_for_work(&database, trigger, &mut changes).await,
                Err(error) => {
                    tracing::error!("cannot receive from {}: {}", trigger.queue, chain(&error));
                    self.shared.pause(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Receives as many messages as there are free slots; whether there was any.
    async fn receive_some(
        &self,
        database: &Database,
        trigger: &QueueTrigger,
        permit: OwnedSemaphorePermit,
        slots: &Arc<Semaphore>,
    ) -> Result<bool, flexkeep_bus::BusError> {
        let mut permits = vec![permit];
        while permits.len() < RECEIVE_AT_ONCE
            && let Ok(permit) = slots.clone().try_acquire_owned()
        {
            permits.push(permit);
        }
        let deliveries = database.receive(&trigger.queue, &self.receiver, permits.len()).await?;
        let any = !deliveries.is_empty();
        for delivery in deliveries {
            let run = Run {
                shared: self.shared.clone(),
                function: self.function.clone(),
                database: database.clone(),
                renewal: self.limits.auto_lock_renewal,
                _permit: permits.pop(),
            };
            self.shared.work.spawn(run.one(delivery));
        }
        Ok(any)
    }

    /// Receives a batch, and waits for it to be as large as configured; whether there was any.
    async fn receive_batch(
        &self,
        database: &Database,
        trigger: &QueueTrigger,
        permit: OwnedSemaphorePermit,
    ) -> Result<bool, flexkeep_bus::BusError> {
        let QueueLimits { max_batch, min_batch, max_batch_wait, .. } = self.limits;
        let mut changes = database.changes();
        let mut batch = database.receive(&trigger.queue, &self.receiver, max_batch).await?;
        if batch.is_empty() {
            return Ok(false);
        }
        let until = Instant::now() + max_batch_wait.min(lock_time(&batch[0]) / 2);
        while batch.len() < min_batch && Instant::now() < until && self.shared.may_receive() {
            let _ = tokio::time::timeout(IDLE_LOOK, changes.changed()).await;
            let more = max_batch - batch.len();
            batch.extend(database.receive(&trigger.queue, &self.receiver, more).await?);
        }
        let run = Run {
            shared: self.shared.clone(),
            function: self.function.clone(),
            database: database.clone(),
            renewal: Duration::ZERO,
            _permit: Some(permit),
        };
        self.shared.work.spawn(run.batch(batch));
        Ok(true)
    }

    /// Sleeps until the database changes or something in it becomes due.
    async fn wait_for_work(
        &self,
        database: &Database,
        trigger: &QueueTrigger,
        changes: &mut tokio::sync::watch::Receiver<u64>,
    ) {
        let due = database.next_due(&trigger.queue).await.ok().flatten();
        let sleep = due.map_or(IDLE_LOOK, |due| {
            let left = due.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or_default().clamp(Duration::from_millis(1), IDLE_LOOK)
        });
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// How long a message just received stays locked.
fn lock_time(delivery: &Delivery) -> Duration {
    let left = delivery.locked_until.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default()
}

/// The work on what was received. Holds its slot until it is settled.
struct Run {
    shared: Arc<Shared>,
    function: Arc<Function>,
    database: Database,
    /// How long locks are renewed.
    renewal: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Run {
    fn trigger(&self) -> &QueueTrigger {
        match &self.function.trigger {
            crate::function::Trigger::Queue(trigger) => trigger,
            _ => unreachable!("only queue functions have a queue listener"),
        }
    }

    async fn one(self, delivery: Delivery) {
        let trigger = self.trigger();
        let (value, metadata) = message::one(&delivery, trigger.data_type);
        let data = (trigger.binding.as_str(), &value);
        let invocation =
            self.shared.dispatcher.invoke(&self.function, Uuid::new_v4(), data, &metadata);
        let result = tokio::select! {
            result = invocation => result,
            never = self.renew(&delivery) => match never {},
        };
        self.settle(&delivery, result.is_ok()).await;
    }

    async fn batch(self, batch: Vec<Delivery>) {
        let trigger = self.trigger();
        let ok = match message::many(&batch, trigger.data_type) {
            Ok((value, metadata)) => {
                let data = (trigger.binding.as_str(), &value);
                let dispatcher = &self.shared.dispatcher;
                dispatcher.invoke(&self.function, Uuid::new_v4(), data, &metadata).await.is_ok()
            }
            Err(problem) => {
                tracing::error!(function = %self.function.name, "failed: {problem}");
                false
            }
        };
        for delivery in &batch {
            self.settle(delivery, ok).await;
        }
    }

    /// Renews the lock whenever half of it is over, as long as that is allowed. Never ends: a
    /// function whose lock is lost goes on, as on the platform.
    async fn renew(&self, delivery: &Delivery) -> Infallible {
        let started = Instant::now();
        let mut left = lock_time(delivery);
        loop {
            tokio::time::sleep(left / 2).await;
            if started.elapsed() >= self.renewal {
                break;
            }
            match self.database.renew(delivery.lock).await {
                Ok(until) => {
                    let lasts = until.duration_since(Timestamp::now());
                    left = Duration::try_from(lasts).unwrap_or_default();
                }
                Err(error) if error.kind() == BusErrorKind::LockLost => {
                    tracing::warn!(
                        message = %delivery.message.id,
                        "the lock was lost while the function runs; the message is delivered again"
                    );
                    break;
                }
                Err(error) => {
                    tracing::warn!(message = %delivery.message.id, "cannot renew the lock: {}", chain(&error));
                    left = (left / 2).max(Duration::from_millis(50));
                }
            }
        }
        std::future::pending().await
    }

    async fn settle(&self, delivery: &Delivery, ok: bool) {
        let queue = &self.trigger().queue;
        let message_id = &delivery.message.id;
        let outcome = match ok {
            true => self.complete(delivery.lock).await,
            false => self.abandon(delivery.lock).await,
        };
        match outcome {
            Settlement::LockLost => tracing::warn!(
                %queue, %message_id,
                "the lock was lost, so the message is not settled; it is or was delivered again"
            ),
            Settlement::DeadLettered => tracing::error!(
                %queue, %message_id,
                "failed for the {}. time and is a dead letter now", delivery.delivery_count
            ),
            _ => {}
        }
        let (queue, message_id) = (queue.clone(), message_id.clone());
        self.shared.dispatcher.events.emit(HostEvent::Settled { queue, message_id, outcome });
    }

    async fn complete(&self, lock: LockToken) -> Settlement {
        match self.database.complete(lock).await {
            Ok(()) => Settlement::Completed,
            Err(SettleError::LockLost) => Settlement::LockLost,
            Err(error) => {
                tracing::error!("cannot complete a message: {error}");
                Settlement::Unknown
            }
        }
    }

    async fn abandon(&self, lock: LockToken) -> Settlement {
        match self.database.abandon(lock).await {
            Ok(Settled::DeadLettered) => Settlement::DeadLettered,
            Ok(_) => Settlement::Abandoned,
            Err(error) if error.kind() == BusErrorKind::LockLost => Settlement::LockLost,
            Err(error) => {
                tracing::error!("cannot abandon a message: {}", chain(&error));
                Settlement::Unknown
            }
        }
    }
}
