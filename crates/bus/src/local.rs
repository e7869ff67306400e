//! Queues in a file of this machine, with the semantics of Azure Service Bus queues.
//!
//! # Layout
//! One SQLite file. `queues` has a row per queue with its options, `messages` a row per message
//! in one of four states (ready, scheduled, locked, dead), `seen` the ids that duplicates are
//! told by. Times are microseconds since 1970 in UTC. The format has a version; see `schema`.
//!
//! # Consistency
//! A call is one transaction: it happens wholly or not at all. What is past its time (an expired
//! lock, a due schedule, an expired message) is moved at the next receive or inspection.
//!
//! # Order
//! Ready messages are delivered by `place`, a counter per queue. A message gets its place when it
//! becomes ready: when it is sent, when its scheduled moment comes (in the order of those moments,
//! then of the sequence numbers), and **again when it is abandoned or its lock expires: behind
//! those that wait**. Service Bus redelivers such a message at once in its old place; here a poison
//! message must not hold others up, with whatever few receivers there are. Its sequence number stays.
//!
//! # Concurrency
//! Any number of threads and processes. Writers take turns; who waits for more than ten seconds
//! gets `Busy`. A message is locked for one receiver in the transaction that delivers it.
//!
//! # Crash consistency
//! Write-ahead log, synced at every commit: what returned `Ok` is there after a SIGKILL and after
//! a loss of power. A receiver that dies leaves its lock to expire.
//!
//! # Clock
//! If the clock jumps ahead, locks expire early: the message comes twice, and the first holder's
//! settlement fails with `LockLost`. If it jumps back, no lock lasts longer than its duration from the
//! moment when that is noticed, order does not suffer, and ids are remembered longer.

mod deliver;
mod failure;
mod inspect;
mod options;
mod row;
mod schema;
mod send;
mod settle;

pub use deliver::{Delivery, LockToken};
pub use inspect::{Counts, MessageState, Peeked, QueueInfo};
pub use options::QueueOptions;
pub use send::Sent;
pub use settle::Settled;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::clock::{Clock, SystemClock};
use crate::error::{BusError, BusErrorKind};

/// The reason of a dead letter that was received too often.
pub const MAX_DELIVERY_COUNT_EXCEEDED: &str = "MaxDeliveryCountExceeded";

/// The reason of a dead letter that nobody took in time.
pub const TTL_EXPIRED: &str = "TTLExpiredException";

/// How long a call waits for another process that writes.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// Queues in a file. Cheap to clone; clones share one connection, so threads that want to wait
/// for the disk at the same time open the file once each.
#[derive(Clone)]
pub struct LocalQueues {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// The only connection. A panic inside a transaction rolls it back, so poison is harmless.
    connection: Mutex<Connection>,
}

/// A row of `queues`.
struct Queue {
    id: i64,
    name: String,
    options: QueueOptions,
}

impl LocalQueues {
    /// Opens the queue file at `path`, and creates it (readable by its owner only) if there is
    /// none. Its folder must exist, on a local disk.
    ///
    /// # Errors
    /// `CannotOpen`, `Foreign`, `NewerFormat`, `Damaged`, `ReadOnly`, `NoSpace`, `Busy` or `Io`,
    /// naming the file and the way out.
    pub fn open(path: &Path) -> Result<Self, BusError> {
        Self::open_with_clock(path, Arc::new(SystemClock))
    }

    /// As [`Self::open`], with the time from `clock`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with_clock(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, BusError> {
        let connection = Mutex::new(schema::open(path)?);
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), clock, connection }) })
    }

    /// The queue file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Creates `queue`, or gives it other options, which hold for what is sent and received
    /// from now on.
    ///
    /// # Errors
    /// `Invalid` for a name or an option that Service Bus has no place for, or one of the file.
    pub fn declare(&self, queue: &str, options: &QueueOptions) -> Result<(), BusError> {
        check_queue_name(queue)?;
        options.validate(queue)?;
        self.write("declare a queue", |tx, _now| {
            tx.prepare_cached(
                "INSERT INTO queues (name, max_delivery_count, lock_us, duplicate_window_us, ttl_us)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET
                   max_delivery_count = ?2, lock_us = ?3, duplicate_window_us = ?4, ttl_us = ?5",
            )?
            .execute((
                queue,
                options.max_delivery_count,
                micros(options.lock_duration),
                micros(options.duplicate_window),
                micros(options.message_ttl),
            ))?;
            Ok(())
        })
    }

    /// Runs `work` in a write transaction, with the time at which it got the file.
    fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>, i64) -> Result<T, Failure>,
    ) -> Result<T, BusError> {
        self.transaction(doing, TransactionBehavior::Immediate, work)
    }

    /// Runs `work` on one consistent state of the file.
    fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>, i64) -> Result<T, Failure>,
    ) -> Result<T, BusError> {
        self.transaction(doing, TransactionBehavior::Deferred, work)
    }

    fn transaction<T>(
        &self,
        doing: &str,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>, i64) -> Result<T, Failure>,
    ) -> Result<T, BusError> {
        let mut connection = self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let done = (|| {
            let tx = connection.transaction_with_behavior(behavior)?;
            let now = self.inner.clock.now().as_microsecond();
            let value = work(&tx, now)?;
            tx.commit()?;
            Ok(value)
        })();
        done.map_err(|failure| match failure {
            Failure::Bus(error) => error,
            Failure::Sqlite(error) => failure::explain(&self.inner.path, doing, error),
        })
    }

    /// The row of `queue`.
    fn queue(&self, tx: &Transaction<'_>, queue: &str) -> Result<Queue, Failure> {
        let found = tx
            .prepare_cached(
                "SELECT id, name, max_delivery_count, lock_us, duplicate_window_us, ttl_us
                 FROM queues WHERE name = ?1",
            )?
            .query_row([queue], Queue::from_row)
            .optional()?;
        if let Some(found) = found {
            return Ok(found);
        }
        let names = tx
            .prepare_cached("SELECT name FROM queues ORDER BY name LIMIT 20")?
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(Failure::Bus(BusError::new(
            BusErrorKind::UnknownQueue,
            format!(
                "there is no queue {queue:?} in {} (there are: {names}); the local host declares \
                 the queues when it starts",
                self.inner.path.display()
            ),
        )))
    }
}

impl std::fmt::Debug for LocalQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalQueues").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Queue {
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let duration = |column: usize| -> rusqlite::Result<Duration> {
            Ok(Duration::from_micros(row.get::<_, i64>(column)?.max(0).unsigned_abs()))
        };
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            options: QueueOptions {
                max_delivery_count: row.get(2)?,
                lock_duration: duration(3)?,
                duplicate_window: duration(4)?,
                message_ttl: duration(5)?,
            },
        })
    }

    /// A fresh place behind all that wait.
    fn next_place(&self, tx: &Transaction<'_>) -> rusqlite::Result<i64> {
        tx.prepare_cached(
            "UPDATE queues SET last_place = last_place + 1 WHERE id = ?1 RETURNING last_place",
        )?
        .query_row([self.id], |row| row.get(0))
    }
}

/// Why a transaction was given up.
enum Failure {
    Sqlite(rusqlite::Error),
    Bus(BusError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

/// The names that Service Bus takes for queues: it ignores the case of letters, and so do we.
fn check_queue_name(name: &str) -> Result<(), BusError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if name.len() <= 260
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(inside)
    {
        return Ok(());
    }
    Err(BusError::invalid(format!(
        "{name:?} is no name for a queue: up to 260 letters, digits and . - _ /, a letter or digit \
         first and last"
    )))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A stored time. What lies outside the calendar can only be a far end of it.
fn timestamp(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap_or(if us < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn queues() -> (tempfile::TempDir, LocalQueues) {
        let folder = tempfile::tempdir().unwrap();
        let queues = LocalQueues::open(&folder.path().join("queues.db")).unwrap();
        queues.declare("lanes", &QueueOptions::default()).unwrap();
        (folder, queues)
    }

    fn pragma(queues: &LocalQueues, name: &str, value: i64) {
        let connection = queues.inner.connection.lock().unwrap();
        connection.pragma_update_and_check(None, name, value, |_| Ok(())).optional().unwrap();
    }

    fn names_file_and_way_out(queues: &LocalQueues, error: &BusError, way_out: &str) {
        let shown = error.to_string();
        assert!(shown.contains(&queues.path().display().to_string()), "{shown}");
        assert!(shown.contains(way_out), "{shown}");
        let source = std::error::Error::source(error).unwrap().to_string();
        assert!(!shown.contains(&source), "{shown} repeats {source}");
    }

    #[test]
    fn every_commit_is_synced() {
        let (_folder, queues) = queues();
        let connection = queues.inner.connection.lock().unwrap();
        let read = |name: &str| -> String {
            let value = connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
            format!("{:?}", value.unwrap())
        };
        assert_eq!(read("synchronous"), "Integer(2)");
        assert_eq!(read("journal_mode"), r#"Text("wal")"#);
    }

    #[test]
    fn a_full_disk_changes_nothing_and_what_is_there_can_still_be_done() {
        let (_folder, queues) = queues();
        queues.send("lanes", &Message::new("small", "x")).unwrap();
        let pages = {
            let connection = queues.inner.connection.lock().unwrap();
            connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
        };
        pragma(&queues, "max_page_count", pages);
        let batch = [Message::new("a", "x"), Message::new("large", vec![0; 100_000])];
        let error = queues.send_all("lanes", &batch).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::NoSpace);
        names_file_and_way_out(&queues, &error, "free some");
        let delivery = queues.receive("lanes", "test").unwrap().unwrap();
        assert_eq!(delivery.message.id, "small");
        queues.complete(&delivery.lock).unwrap();
        assert!(queues.receive("lanes", "test").unwrap().is_none(), "nothing of the batch came");
        pragma(&queues, "max_page_count", i64::from(u32::MAX - 1));
        let sent = queues.send_all("lanes", &batch).unwrap();
        assert!(sent.iter().all(|sent| *sent != Sent::Duplicate), "no id was remembered");
    }

    #[test]
    fn a_file_that_may_only_be_read_says_so() {
        let (_folder, queues) = queues();
        pragma(&queues, "query_only", 1);
        let error = queues.send("lanes", &Message::new("a", "x")).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::ReadOnly);
        names_file_and_way_out(&queues, &error, "owner and mode");
        assert!(!error.is_transient());
    }

    #[test]
    fn a_file_that_another_keeps_locked_is_busy_after_a_while_and_readable_meanwhile() {
        let (_folder, queues) = queues();
        queues.send("lanes", &Message::new("a", "x")).unwrap();
        let other = Connection::open(queues.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        {
            let connection = queues.inner.connection.lock().unwrap();
            connection.busy_timeout(Duration::from_millis(50)).unwrap();
        }
        let error = queues.receive("lanes", "test").unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Busy);
        assert!(error.is_transient());
        names_file_and_way_out(&queues, &error, "lsof");
        assert_eq!(queues.counts("lanes").unwrap().active, 1);
        other.execute_batch("ROLLBACK").unwrap();
        assert!(queues.receive("lanes", "test").unwrap().is_some());
    }

    #[test]
    fn the_wait_for_another_writer_has_an_end_and_ends_soon_after_the_other() {
        let (_folder, queues) = queues();
        let other = Connection::open(queues.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let start = std::time::Instant::now();
        let error = queues.send("lanes", &Message::new("a", "x")).unwrap_err();
        assert_eq!(error.kind(), BusErrorKind::Busy);
        let waited = start.elapsed();
        assert!(waited >= BUSY_LIMIT && waited < 3 * BUSY_LIMIT, "{waited:?}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queues.send("lanes", &Message::new("a", "x")));
            std::thread::sleep(Duration::from_millis(100));
            other.execute_batch("ROLLBACK").unwrap();
            assert!(matches!(waiting.join().unwrap(), Ok(Sent::Accepted { .. })));
        });
    }

    #[test]
    fn a_row_of_another_making_is_damage_and_no_panic() {
        for change in ["properties = '[1]'", "locked_until = NULL", "delivery_count = -1"] {
            let (_folder, queues) = queues();
            queues.send("lanes", &Message::new("a", "x")).unwrap();
            queues.receive("lanes", "test").unwrap().unwrap();
            let raw = Connection::open(queues.path()).unwrap();
            raw.execute(&format!("UPDATE messages SET {change}"), []).unwrap();
            let error = queues.peek("lanes", 1).unwrap_err();
            assert_eq!(error.kind(), BusErrorKind::Damaged, "{change}: {error:?}");
            names_file_and_way_out(&queues, &error, "move it away");
        }
    }

    #[test]
    fn times_outside_the_calendar_are_its_ends() {
        assert_eq!(timestamp(i64::MAX), Timestamp::MAX);
        assert_eq!(timestamp(i64::MIN), Timestamp::MIN);
        assert_eq!(timestamp(0), Timestamp::UNIX_EPOCH);
    }
}
