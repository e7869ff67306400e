//! The embedded queue databases of the app, and a cheap way to notice that one changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flexkeep_bus::{BusError, Delivery, LocalQueues, LockToken, Message, QueueOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::HostError;
use crate::function::{Connection, Function};

/// Between two looks at the files of a database. A look is two calls of stat.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How many messages are completed in one transaction at most.
const COMPLETIONS_AT_ONCE: usize = 256;

/// The databases that the functions' bindings name, opened.
#[derive(Clone, Default)]
pub(crate) struct Databases {
    by_path: Arc<HashMap<PathBuf, Database>>,
}

/// One database. Its calls wait for the disk, and run on the blocking threads.
#[derive(Clone)]
pub(crate) struct Database {
    queues: LocalQueues,
    changes: watch::Sender<u64>,
    completions: mpsc::Sender<Completion>,
}

struct Completion {
    lock: LockToken,
    /// Gets whether the lock was still held.
    done: oneshot::Sender<Result<bool, Arc<BusError>>>,
}

/// A settlement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    #[error("the lock was lost")]
    LockLost,
    #[error("{}", chain(&**.0))]
    Bus(Arc<BusError>),
    #[error("the host is stopping")]
    Stopping,
}

impl Databases {
    /// Opens every database, and declares the queues that do not exist yet. Starts the tasks
    /// that watch them, which end with `stop`.
    pub(crate) fn open(
        functions: &[Arc<Function>],
        stop: &CancellationToken,
    ) -> Result<Self, HostError> {
        let mut by_path: HashMap<PathBuf, Database> = HashMap::new();
        for function in functions {
            for (connection, queue) in function.queues() {
                let error = |source: BusError| HostError::Queue {
                    setting: connection.setting.clone(),
                    path: connection.path.clone(),
                    source: source.into(),
                };
                let database = match by_path.get(&connection.path) {
                    Some(database) => database,
                    None => {
                        let queues = LocalQueues::open(&connection.path).map_err(error)?;
                        by_path
                            .entry(connection.path.clone())
                            .or_insert(Database::start(queues, stop))
                    }
                };
                database.declare(queue).map_err(error)?;
            }
        }
        Ok(Self { by_path: Arc::new(by_path) })
    }

    /// The database of a binding; all of them were opened.
    pub(crate) fn of(&self, connection: &Connection) -> &Database {
        self.by_path.get(&connection.path).expect("every connection of a function was opened")
    }
}

impl Database {
    fn start(queues: LocalQueues, stop: &CancellationToken) -> Self {
        let (changes, _) = watch::channel(0);
        let (completions, waiting) = mpsc::channel(COMPLETIONS_AT_ONCE);
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(watch_files(queues.path().to_owned(), changes.clone())),
        );
        // Ends when the last sender is gone, so that messages are completed while the host stops.
        tokio::spawn(complete_in_groups(queues.clone(), waiting));
        Self { queues, changes, completions }
    }

    /// Somebody may have declared the queue with other options than the default: those stay.
    fn declare(&self, queue: &str) -> Result<(), BusError> {
        let known = self.queues.queues()?;
        match known.iter().any(|known| known.name.eq_ignore_ascii_case(queue)) {
            true => Ok(()),
            false => self.queues.declare(queue, &QueueOptions::default()),
        }
    }

    /// Wakes whenever the database may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) async fn receive(
        &self,
        queue: &str,
        receiver: &str,
        max: usize,
    ) -> Result<Vec<Delivery>, BusError> {
        let (queue, receiver) = (queue.to_owned(), receiver.to_owned());
        self.call(move |queues| queues.receive_many(&queue, &receiver, max)).await
    }

    pub(crate) async fn next_due(&self, queue: &str) -> Result<Option<jiff::Timestamp>, BusError> {
        let queue = queue.to_owned();
        self.call(move |queues| queues.next_due(&queue)).await
    }

    pub(crate) async fn renew(&self, lock: LockToken) -> Result<jiff::Timestamp, BusError> {
        self.call(move |queues| queues.renew(&lock)).await
    }

    pub(crate) async fn abandon(&self, lock: LockToken) -> Result<flexkeep_bus::Settled, BusError> {
        self.call(move |queues| queues.abandon(&lock)).await
    }

    /// Sends messages one after the other; those before an error stay sent, as on the platform.
    pub(crate) async fn send(&self, queue: &str, messages: Vec<Message>) -> Result<(), BusError> {
        let queue = queue.to_owned();
        self.call(move |queues| {
            messages.iter().try_for_each(|message| queues.send(&queue, message).map(|_| ()))
        })
        .await
    }

    /// Completes a message, together with others that are completed at the same time.
    pub(crate) async fn complete(&self, lock: LockToken) -> Result<(), SettleError> {
        let (done, result) = oneshot::channel();
        let completion = Completion { lock, done };
        self.completions.send(completion).await.map_err(|_| SettleError::Stopping)?;
        match result.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(SettleError::LockLost),
            Ok(Err(error)) => Err(SettleError::Bus(error)),
            Err(_) => Err(SettleError::Stopping),
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LocalQueues) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        blocking(&self.queues, work).await
    }
}

async fn blocking<T: Send + 'static>(
    queues: &LocalQueues,
    work: impl FnOnce(&LocalQueues) -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    let queues = queues.clone();
    match tokio::task::spawn_blocking(move || work(&queues)).await {
        Ok(result) => result,
        Err(error) => Err(BusError::new(
            flexkeep_bus::BusErrorKind::Io,
            format!("a call of the queue was cut short: {error}"),
        )),
    }
}

/// One transaction takes as long for many messages as for one: it waits for the disk.
async fn complete_in_groups(queues: LocalQueues, mut waiting: mpsc::Receiver<Completion>) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, COMPLETIONS_AT_ONCE).await > 0 {
        let locks: Vec<LockToken> = group.iter().map(|completion| completion.lock).collect();
        let result = blocking(&queues, move |queues| queues.complete_all(&locks)).await;
        let result = result.map_err(Arc::new);
        for completion in group.drain(..) {
            let one = result.as_ref().map(|lost| !lost.contains(&completion.lock));
            // Who does not wait any more does not need to know.
            let _ = completion.done.send(one.map_err(Arc::clone));
        }
    }
}

/// Tells that the database changed when its files did. Another process that sends writes to the
/// write-ahead log, so this notices a message within a few tens of milliseconds at nearly no cost.
async fn watch_files(database: PathBuf, changes: watch::Sender<u64>) {
    let mut log = database.clone().into_os_string();
    log.push("-wal");
    let files = [database, PathBuf::from(log)];
    let look = || files.each_ref().map(|file| stamp(file));
    let mut seen = look();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let found = look();
        // A file's time moves in steps of a clock tick, so a change in the tick that was seen
        // already would go unnoticed: what is that fresh counts as changed.
        let is_fresh = found
            .iter()
            .flatten()
            .any(|(modified, _)| modified.elapsed().is_ok_and(|age| age < 2 * LOOK_INTERVAL));
        if found != seen || is_fresh {
            seen = found;
            changes.send_modify(|change| *change += 1);
        }
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// An error and all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
