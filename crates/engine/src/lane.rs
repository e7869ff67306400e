//! A lane: one connection, one snapshot, item after item.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use flexkeep_pg_copy::{self as pg, BinaryError, BinaryRows, Connection, CopyError};

use crate::chunker::{ChunkError, ChunkTools, Chunker, RowCutter};
use crate::error::BackupError;
use crate::formats;
use crate::journal::{ItemJournal, JournalPlace, SliceDone};
use crate::large_objects;
use crate::plan::{EntrySource, Item, Part, PlannedEntry};
use crate::relay;
use crate::session;
use crate::snapshot;
use crate::turn::Turn;

/// What is read, and where it goes.
pub(crate) struct Reading<'a> {
    pub(crate) database: &'a str,
    pub(crate) entries: &'a [PlannedEntry],
    pub(crate) tools: &'a ChunkTools,
}

/// The work of one attempt at one database, shared among its lanes.
pub(crate) struct Work<'a> {
    reading: Reading<'a>,
    place: JournalPlace,
    turn: &'a Turn,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Items that only the leader can do, because someone waits for an exclusive lock on their
    /// table: the leader has its lock already, everybody else would have to stand in line behind.
    for_leader: VecDeque<Item>,
    helpers: usize,
    done: Vec<SliceDone>,
    failure: Option<BackupError>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        database: &'a str,
        entries: &'a [PlannedEntry],
        items: VecDeque<Item>,
        tools: &'a ChunkTools,
        place: JournalPlace,
        turn: &'a Turn,
    ) -> Self {
        let queue = Queue { items, ..Queue::default() };
        let (queue, changed) = (Mutex::new(queue), Condvar::new());
        let reading = Reading { database, entries, tools };
        Self { reading, place, turn, queue, changed }
    }

    /// The slices that were done, or why not all were.
    pub(crate) fn into_result(self) -> Result<Vec<SliceDone>, BackupError> {
        let queue = self.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        match queue.failure {
            Some(error) => Err(error),
            None => Ok(queue.done),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item for a lane that is not the leader.
    fn next(&self) -> Option<Item> {
        let mut queue = self.lock();
        if queue.failure.is_some() { None } else { self.take(&mut queue) }
    }

    /// Takes an item; with the last one it is the next database's turn to be prepared.
    fn take(&self, queue: &mut Queue) -> Option<Item> {
        let item = queue.items.pop_front();
        if queue.items.is_empty() {
            self.turn.pass(self.reading.database);
        }
        item
    }

    /// The next item for the leader, who stays until no other lane can leave it one.
    fn next_for_leader(&self) -> Option<Item> {
        let mut queue = self.lock();
        loop {
            if queue.failure.is_some() {
                return None;
            }
            if let Some(item) = queue.for_leader.pop_front() {
                return Some(item);
            }
            if let Some(item) = self.take(&mut queue) {
                return Some(item);
            }
            if queue.helpers == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish_item(&self, done: Vec<SliceDone>) {
        self.lock().done.extend(done);
    }

    fn give_to_leader(&self, item: Item) {
        self.lock().for_leader.push_back(item);
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self, error: BackupError) {
        // The first failure is the cause; those of other lanes mostly follow from it.
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Counts a helper until what this gives is dropped.
    pub(crate) fn helper_starts(&self) -> Helping<'_, 'a> {
        self.lock().helpers += 1;
        Helping(self)
    }
}

/// A lane that is not the leader, who waits for its end, however it ends.
pub(crate) struct Helping<'w, 'a>(&'w Work<'a>);

impl Drop for Helping<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(BackupError::Internal("a lane panicked".to_owned()));
        }
        self.0.lock().helpers -= 1;
        self.0.changed.notify_all();
    }
}

/// How long a lane that is not the leader waits for a lock that it did not ask for by name: those
/// on indexes and TOAST tables come with reading. REINDEX takes exclusive ones without one on the
/// table. Who waits in it may wait for the leader, who waits for this lane at the end: a ring that
/// the server can't see.
const HELPER_LOCK_WAIT_SECONDS: u32 = 2;

/// How a lane holds its tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Locks {
    /// The leader has them all.
    Held,
    /// Another lane takes each when it comes to it.
    Taken,
}

/// Works on the leader's own connection until nothing is left.
pub(crate) fn lead(connection: &mut Connection, work: &Work<'_>) {
    let mut chunker = Chunker::new(work.reading.tools);
    while let Some(item) = work.next_for_leader() {
        match do_item(connection, work, &mut chunker, item, Locks::Held) {
            Ok(None) => {}
            Ok(Some(item)) => {
                let error = BackupError::Internal(format!("item {} came back", item.id));
                return work.fail(error);
            }
            Err(error) => return work.fail(error),
        }
    }
}

/// Opens a connection of its own on the leader's snapshot and works until nothing is left.
pub(crate) fn help(
    target: &pg::Config,
    options: &pg::ConnectOptions,
    snapshot: &str,
    kept_free: u32,
    work: &Work<'_>,
) {
    let database = work.reading.database;
    let fewer = |free: i64| {
        work.reading.tools.progress.message(format!(
            "database {database:?}: the server has {free} connections left, and {kept_free} are kept \
             free for others; going on with a lane less"
        ));
    };
    let adopt = || adopt(target, options, snapshot, database);
    let help = |mut connection| {
        if kept_free > 0 {
            let free = relay::free_connections(&mut connection, database)?;
            if free < i64::from(kept_free) {
                connection.close();
                fewer(free.max(0));
                return Ok(());
            }
        }
        help_on(connection, work, &adopt)
    };
    match adopt().and_then(help) {
        Ok(()) => {}
        // The server has no place for one more: fewer lanes do it too.
        Err(error) if relay::is_full(&error) => fewer(0),
        Err(error) => work.fail(error),
    }
}

fn adopt(
    target: &pg::Config,
    options: &pg::ConnectOptions,
    snapshot: &str,
    database: &str,
) -> Result<Connection, BackupError> {
    let mut connection = session::connect(target, database, options)?;
    session::prepare(&mut connection, database)?;
    let sql = format!(
        "SET lock_timeout = '{HELPER_LOCK_WAIT_SECONDS}s'; \
         BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT {}",
        pg::quote_literal(snapshot)
    );
    session::run(&mut connection, database, "adopting the snapshot", sql)?;
    Ok(connection)
}

fn help_on(
    mut connection: Connection,
    work: &Work<'_>,
    adopt: &dyn Fn() -> Result<Connection, BackupError>,
) -> Result<(), BackupError> {
    let mut chunker = Chunker::new(work.reading.tools);
    while let Some(item) = work.next() {
        match do_item(&mut connection, work, &mut chunker, item.clone(), Locks::Taken) {
            Ok(None) => {}
            Ok(Some(rest)) => work.give_to_leader(rest),
            Err(error) if is_lock_timeout(&error) => {
                // An index or TOAST table was not to be had. Its transaction is broken, and with
                // its end it lets go of what the other one may be waiting for.
                work.give_to_leader(item);
                connection = adopt()?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_lock_timeout(error: &BackupError) -> bool {
    matches!(error, BackupError::Server { source, .. } if source.sqlstate() == Some("55P03"))
}

/// One COPY to be done.
#[derive(Clone, Copy)]
struct Step {
    part: Part,
    slice: u64,
}

/// Does all of an item, or gives back the parts whose tables it could not lock.
fn do_item(
    connection: &mut Connection,
    work: &Work<'_>,
    chunker: &mut Chunker<'_>,
    mut item: Item,
    locks: Locks,
) -> Result<Option<Item>, BackupError> {
    let mut parts = std::mem::take(&mut item.parts);
    if locks == Locks::Taken {
        let (locked, refused) = lock_parts(connection, &work.reading, parts)?;
        parts = locked;
        item.parts = refused;
    }
    let journal = ItemJournal::open(Some(work.place.clone()), journal_id(&item, locks));
    let done = read_parts(connection, &work.reading, chunker, &parts, &journal)?;
    ItemJournal::complete(journal, done.clone(), &work.reading.tools.vault)?;
    work.finish_item(done);
    Ok((!item.parts.is_empty()).then_some(item))
}

/// Reads parts whose tables are locked, and sends their chunks off. An error that says that a table
/// changed means that the snapshot is of no use any more.
pub(crate) fn read_parts(
    connection: &mut Connection,
    reading: &Reading<'_>,
    chunker: &mut Chunker<'_>,
    parts: &[Part],
    journal: &Arc<ItemJournal>,
) -> Result<Vec<SliceDone>, BackupError> {
    let steps: Vec<Step> = parts
        .iter()
        .flat_map(|&part| {
            (part.first_slice..part.first_slice + part.slices)
                .map(move |slice| Step { part, slice })
        })
        .collect();
    let mut done = Vec::with_capacity(steps.len());
    let mut sent = 0;
    for (index, step) in steps.iter().enumerate() {
        let entry = &reading.entries[step.part.entry];
        // While one answer is read, the server has the next command already, if that is not too long.
        while sent < steps.len().min(index + 2) && is_table(reading, &steps[sent]) {
            if !send(connection, reading, &steps[sent])? {
                break;
            }
            sent += 1;
        }
        let result = match &entry.source {
            EntrySource::Table { formats, .. } => {
                let mut rows = chunker.rows(entry.chunk_bytes(), entry.slice_bytes, journal);
                read_rows(connection, formats, &mut rows)
                    .and_then(|()| rows.finish().map_err(CopyError::Sink))
            }
            EntrySource::LargeObjects { oids } => {
                sent = sent.max(index + 1);
                let oids = objects_of_slice(entry, oids, step.slice);
                reading.tools.progress.done(entry.slice_bytes);
                large_objects::read_slice(connection, chunker, oids, journal)
            }
        };
        let (rows, chunks) = result.map_err(|error| slice_failed(reading, entry, error))?;
        done.push(SliceDone { entry: step.part.entry, slice: step.slice, rows, chunks });
        if step.slice + 1 == entry.slices {
            reading.tools.progress.object_done();
        }
    }
    let mut tables: Vec<u32> = parts
        .iter()
        .filter(|part| relation(reading, part).is_some())
        .map(|part| reading.entries[part.entry].oid)
        .collect();
    tables.dedup();
    snapshot::refuse_moved(connection, reading.database, &tables)?;
    Ok(done)
}

/// Reads the answer to a COPY, which is in binary format if there are letters for its columns.
fn read_rows(
    connection: &mut Connection,
    formats: &str,
    rows: &mut RowCutter<'_, '_>,
) -> Result<(), CopyError<ChunkError>> {
    if formats.is_empty() {
        return connection.read_copy_out(rows).map(drop);
    }
    let columns = formats::of_letters(formats)
        .ok_or(CopyError::Sink(ChunkError::Binary("the plan has columns of unknown formats")))?;
    let mut binary = BinaryRows::new(&columns, rows);
    let read = connection.read_copy_out(&mut binary);
    read.and_then(|_| binary.finish().map_err(CopyError::Sink)).map_err(|error| match error {
        CopyError::Connection(error) => CopyError::Connection(error),
        CopyError::Sink(BinaryError::Sink(error)) => CopyError::Sink(error),
        CopyError::Sink(BinaryError::RowTooLong) => CopyError::Sink(ChunkError::RowTooLong),
        CopyError::Sink(BinaryError::Format(what)) => CopyError::Sink(ChunkError::Binary(what)),
    })
}

/// An item of which a part went back to the leader is journaled twice, under two names.
fn journal_id(item: &Item, locks: Locks) -> usize {
    item.id * 2 + usize::from(locks == Locks::Taken)
}

/// Large objects take several statements a slice, with nothing else under way.
fn is_table(reading: &Reading<'_>, step: &Step) -> bool {
    matches!(reading.entries[step.part.entry].source, EntrySource::Table { .. })
}

/// Whether it is sent: one statement always is, more only if they fit.
fn send(
    connection: &mut Connection,
    reading: &Reading<'_>,
    step: &Step,
) -> Result<bool, BackupError> {
    let entry = &reading.entries[step.part.entry];
    let sql = entry.copy_sql(step.slice);
    if !connection.can_send_ahead(sql.len()) {
        return Ok(false);
    }
    connection
        .send_query(sql)
        .map(|()| true)
        .map_err(|source| session::failed(&doing(entry), reading.database, source))
}

fn objects_of_slice<'e>(entry: &PlannedEntry, oids: &'e [u32], slice: u64) -> &'e [u32] {
    let flexkeep_vault::contents::Cut::Objects(step) = entry.cut else { return &[] };
    let first = usize::try_from(slice).unwrap_or(usize::MAX).saturating_mul(step as usize);
    let end = first.saturating_add(step as usize).min(oids.len());
    &oids[first.min(end)..end]
}

/// Locks the tables of `parts` without waiting. The leader holds each of these locks, so a lock is
/// refused only when someone stands in line for an exclusive one.
fn lock_parts(
    connection: &mut Connection,
    reading: &Reading<'_>,
    parts: Vec<Part>,
) -> Result<(Vec<Part>, Vec<Part>), BackupError> {
    let mut tables: Vec<&[u8]> = parts.iter().filter_map(|part| relation(reading, part)).collect();
    tables.dedup();
    if tables.is_empty() || try_lock(connection, reading, &tables)? {
        return Ok((parts, Vec::new()));
    }
    let mut locked = Vec::new();
    let mut refused = Vec::new();
    for part in parts {
        let free = match relation(reading, &part) {
            Some(table) => try_lock(connection, reading, &[table])?,
            None => true,
        };
        if free { locked.push(part) } else { refused.push(part) }
    }
    Ok((locked, refused))
}

fn relation<'w>(reading: &'w Reading<'_>, part: &Part) -> Option<&'w [u8]> {
    match &reading.entries[part.entry].source {
        EntrySource::Table { relation, .. } => Some(relation),
        EntrySource::LargeObjects { .. } => None,
    }
}

fn try_lock(
    connection: &mut Connection,
    reading: &Reading<'_>,
    tables: &[&[u8]],
) -> Result<bool, BackupError> {
    let mut sql = b"SAVEPOINT flexkeep; LOCK TABLE ONLY ".to_vec();
    sql.extend_from_slice(&tables.join(&b", ONLY "[..]));
    sql.extend_from_slice(b" IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT flexkeep");
    match connection.execute(&sql) {
        Ok(()) => Ok(true),
        Err(error) if error.sqlstate() == Some("55P03") => {
            let undo = "ROLLBACK TO SAVEPOINT flexkeep; RELEASE SAVEPOINT flexkeep";
            session::run(connection, reading.database, "giving a lock back", undo)?;
            Ok(false)
        }
        Err(source) => Err(session::failed("locking a table", reading.database, source)),
    }
}

fn doing(entry: &PlannedEntry) -> String {
    match &entry.source {
        EntrySource::Table { relation, .. } => {
            format!("reading table {}", session::lossy(relation))
        }
        EntrySource::LargeObjects { .. } => format!("reading large objects {}", entry.name),
    }
}

fn slice_failed(
    reading: &Reading<'_>,
    entry: &PlannedEntry,
    error: CopyError<ChunkError>,
) -> BackupError {
    match error {
        // The server could not put the text of a row together.
        CopyError::Connection(source) if source.sqlstate() == Some("54000") => {
            row_too_long(reading, entry)
        }
        CopyError::Connection(source) => session::failed(&doing(entry), reading.database, source),
        CopyError::Sink(ChunkError::RowTooLong) => row_too_long(reading, entry),
        CopyError::Sink(error) => chunk_failed(&doing(entry), error),
    }
}

fn row_too_long(reading: &Reading<'_>, entry: &PlannedEntry) -> BackupError {
    let table = match &entry.source {
        EntrySource::Table { relation, .. } => session::lossy(relation),
        EntrySource::LargeObjects { .. } => entry.name.clone(),
    };
    BackupError::RowTooLong { database: reading.database.to_owned(), table }
}

fn chunk_failed(doing: &str, error: ChunkError) -> BackupError {
    match error {
        ChunkError::Cancelled => BackupError::Cancelled,
        // Whoever waits for the uploads learns why.
        ChunkError::Upload(_) => BackupError::UploadFailed,
        ChunkError::BadLargeObject | ChunkError::Binary(_) | ChunkError::RowTooLong => {
            BackupError::Internal(format!("{doing}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::store::MemoryStore;
    use flexkeep_vault::{RunId, Vault};
    use jiff::Timestamp;

    use super::*;
    use crate::chunker::KnownChunks;
    use crate::uploads::Uploads;

    #[test]
    fn a_helper_that_panics_fails_the_work_and_the_leader_does_not_wait_for_it() {
        let (data, runs) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let vault = Arc::new(Vault::create_in(data, runs).unwrap());
        let known = Arc::new(KnownChunks::default());
        let uploads =
            Uploads::start(Arc::clone(&vault), Arc::clone(&known), Arc::default(), 1, 1, 1 << 20);
        let tools = ChunkTools {
            vault,
            known,
            uploads: uploads.unwrap(),
            progress: Arc::default(),
            pace: None,
        };
        let place = JournalPlace {
            server: "shop".parse().unwrap(),
            run: RunId::new(Timestamp::now()),
            folder: "database-1".to_owned(),
        };
        let turn = Turn::default();
        let work = Work::new("shop", &[], VecDeque::new(), &tools, place, &turn);
        let helping = work.helper_starts();
        std::thread::scope(|scope| {
            let helper = scope.spawn(move || {
                let _helping = helping;
                panic!("as a defect might");
            });
            assert_eq!(work.next_for_leader(), None);
            assert!(helper.join().is_err());
        });
        let error = work.into_result().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
