//! The format of a queue file, and opening one.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{BUSY_LIMIT, failure};
use crate::error::{BusError, BusErrorKind};

/// `fkq1` in the header of the file: what tells a queue file from other SQLite files.
const APPLICATION_ID: i32 = 0x666b_7131;

/// The version of the format, in `user_version`.
const FORMAT: i32 = 1;

/// The body comes last: whatever reads the other columns does not wade through it.
const CREATE: &str = "
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    max_delivery_count INTEGER NOT NULL,
    lock_us INTEGER NOT NULL,
    duplicate_window_us INTEGER NOT NULL,
    ttl_us INTEGER NOT NULL,
    last_place INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE messages (
    sequence_number INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    state INTEGER NOT NULL,            -- 0 ready, 1 scheduled, 2 locked, 3 dead
    place INTEGER NOT NULL,            -- the order of those that are ready
    delivery_count INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    deliver_at INTEGER,
    lock TEXT,
    lock_us INTEGER,                   -- how long the lock was granted for
    locked_until INTEGER,
    receiver TEXT,
    dead_at INTEGER,
    dead_reason TEXT,
    dead_description TEXT,
    message_id TEXT NOT NULL,
    content_type TEXT,
    subject TEXT,
    correlation_id TEXT,
    session_id TEXT,
    properties TEXT NOT NULL,          -- a JSON object
    body BLOB NOT NULL
) STRICT;
CREATE INDEX messages_ready ON messages (queue, place) WHERE state = 0;
CREATE INDEX messages_expiring ON messages (queue, expires_at) WHERE state = 0;
CREATE INDEX messages_scheduled ON messages (queue, deliver_at, sequence_number) WHERE state = 1;
CREATE INDEX messages_locked ON messages (queue, locked_until) WHERE state = 2;
CREATE INDEX messages_dead ON messages (queue, sequence_number) WHERE state = 3;
CREATE UNIQUE INDEX messages_by_lock ON messages (lock) WHERE lock IS NOT NULL;
CREATE TABLE seen (
    queue INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (queue, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_by_time ON seen (queue, seen_at);
";

/// Held while a file is opened. POSIX locks belong to the process: closing the descriptor that
/// created the file would drop the locks that another thread's SQLite got on it in between.
static OPENING: Mutex<()> = Mutex::new(());

pub(super) fn open(path: &Path) -> Result<Connection, BusError> {
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    create_private(path)?;
    // SQLite does not wait in every case in which two processes set up a file at once.
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match open_existing(path) {
            Err(error) if error.kind() == BusErrorKind::Busy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Creates an empty file that only its owner may read; SQLite gives its log the same mode.
fn create_private(path: &Path) -> Result<(), BusError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(file) => file.sync_all().and_then(|()| sync_folder(path)).map_err(|error| {
            BusError::new(BusErrorKind::Io, format!("cannot sync {}", path.display()))
                .with_source(error)
        }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_dir() => Ok(()),
        Err(error) => Err(failure::cannot_create(path, error)),
    }
}

/// Makes the name of a new file as durable as its content.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn open_existing(path: &Path) -> Result<Connection, BusError> {
    let explain = |error| failure::explain(path, "open it", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_handler(Some(wait_for_turn)).map_err(explain)?;
    connection.set_prepared_statement_cache_capacity(64);
    // SQLite falls back to reading alone, and would only say so at the first write.
    if connection.is_readonly("main").map_err(explain)? {
        return Err(failure::read_only(path));
    }
    let is_new = check_format(path, &connection)?;
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(explain)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(BusError::new(
            BusErrorKind::CannotOpen,
            format!(
                "{} lies where several processes cannot share it (SQLite offers only the journal \
                 mode {mode}); put the queue file on a local disk",
                path.display()
            ),
        ));
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(explain)?;
    if is_new {
        create_tables(path, &mut connection)?;
    }
    Ok(connection)
}

/// Waits for another process that writes; whether to try again. SQLite's own waiting gets longer
/// with each attempt, up to a tenth of a second, and so starves beside a process that never
/// pauses for long: seen with four that drain a queue.
fn wait_for_turn(attempts_so_far: i32) -> bool {
    thread_local! {
        static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if attempts_so_far == 0 {
        SINCE.set(Some(Instant::now()));
    }
    if SINCE.get().is_none_or(|since| since.elapsed() > BUSY_LIMIT) {
        return false;
    }
    std::thread::sleep(Duration::from_micros(if attempts_so_far < 200 { 100 } else { 1000 }));
    true
}

/// Refuses a file that is not ours. Whether it has no tables yet.
fn check_format(path: &Path, connection: &Connection) -> Result<bool, BusError> {
    let (application, format, tables): (i32, i32, i64) = connection
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id),
                    (SELECT user_version FROM pragma_user_version),
                    (SELECT count(*) FROM sqlite_schema)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|error| failure::explain(path, "open it", error))?;
    match (application, format) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION_ID, FORMAT) => Ok(false),
        (APPLICATION_ID, _) => Err(BusError::new(
            BusErrorKind::NewerFormat,
            format!(
                "{} has format {format} of flexkeep's queue files, this build knows {FORMAT}; use \
                 the newer flexkeep that wrote it, or another file",
                path.display()
            ),
        )),
        _ => Err(BusError::new(
            BusErrorKind::Foreign,
            format!(
                "{} is an SQLite file, but no queue file of flexkeep; name another file",
                path.display()
            ),
        )),
    }
}

/// Creates the tables, unless another process was first.
fn create_tables(path: &Path, connection: &mut Connection) -> Result<(), BusError> {
    let explain = |error| failure::explain(path, "create its tables", error);
    let tx =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    if check_format(path, &tx)? {
        tx.execute_batch(CREATE).map_err(explain)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(explain)?;
        tx.pragma_update(None, "user_version", FORMAT).map_err(explain)?;
    }
    tx.commit().map_err(explain)
}
