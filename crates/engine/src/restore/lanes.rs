//! The connections that write: each takes the next piece of work until nothing is left.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy as pg;
use flexkeep_vault::{Vault, VaultError, chunk_name};

use super::error::RestoreError;
use super::graph::{Graph, Next, Task};
use super::journal::{self, Done};
use super::lane::{Lane, Trouble, ends_all, of_server};
use super::load::{self, LoadError};
use super::parts::{Parts, data_name, desc, name_of};
use super::report::ObjectFailure;
use super::statement::{Dialect, Statements, is_small};
use super::target::{Target, lossy};
use crate::error::chain;
use crate::export::Damage;
use crate::progress::Progress;

/// Most characters of a failed statement that a report shows.
const SHOWN: usize = 2000;

/// Definitions, and bytes of them, that go in one message when they are made one after the other.
const BATCH: usize = 50;
const BATCH_BYTES: usize = 256 << 10;

/// What all lanes of one database work with.
pub(super) struct DatabaseWork<'a> {
    pub(super) target: &'a Target,
    pub(super) database: &'a str,
    pub(super) vault: &'a Vault,
    pub(super) parts: &'a Parts<'a>,
    pub(super) dialect: &'a Dialect<'a>,
    pub(super) progress: &'a Progress,
    /// More settings of each session, such as memory for building indexes.
    pub(super) settings: &'a str,
}

/// What came of it so far.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) done: Done,
    pub(super) failures: Vec<ObjectFailure>,
    pub(super) damage: Damage,
    /// Entries whose definition failed, by dump id.
    pub(super) failed: HashSet<i32>,
    /// Bytes loaded by this run.
    pub(super) bytes: u64,
    /// What ended the work for all.
    pub(super) fatal: Option<RestoreError>,
    /// Whether the target has lost commits: what is done must be read from its journal again.
    pub(super) lost: bool,
}

impl Outcome {
    fn fail(&mut self, entry: &Entry, object: String, error: &pg::Error, sql: Option<&[u8]>) {
        let failure = ObjectFailure {
            object,
            error: words_about(entry, error),
            sqlstate: error.sqlstate().map(str::to_owned),
            statement: sql.and_then(|sql| shown(entry, sql)),
        };
        self.failures.push(failure);
    }

    /// Whether nothing more can be done with this outcome as it is.
    pub(super) fn has_ended(&self) -> bool {
        self.fatal.is_some() || self.lost
    }

    /// Takes over what the target has after a crash. What failed is tried again.
    pub(super) fn begin_again(&mut self, there: Done) {
        (self.done, self.lost) = (there, false);
        self.failures.clear();
        self.failed.clear();
        self.damage = Damage::default();
    }
}

/// The server's message with its detail and place, or the connection's.
pub(super) fn server_words(error: &pg::Error) -> String {
    let Some(server) = error.server() else { return chain(error) };
    let mut text = server.message().to_owned();
    for more in [server.detail(), server.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    if let Some(context) = server.context().and_then(|context| context.lines().next()) {
        text.push_str(&format!(" ({context})"));
    }
    text
}

/// Kinds of entries whose statements may have a password.
const WITH_SECRETS: [&[u8]; 4] =
    [b"USER MAPPING", b"SERVER", b"FOREIGN DATA WRAPPER", b"SUBSCRIPTION"];
const SYNTAX_ERROR: &str = "42601";

/// The server's words about an entry. About a connection string that it can't read it cites it.
pub(super) fn words_about(entry: &Entry, error: &pg::Error) -> String {
    if WITH_SECRETS.contains(&desc(entry)) && error.sqlstate() == Some(SYNTAX_ERROR) {
        return "the server cannot read it, and its words may cite a password".to_owned();
    }
    server_words(error)
}

/// A statement as far as a report may show it.
pub(super) fn shown(entry: &Entry, statement: &[u8]) -> Option<String> {
    if WITH_SECRETS.contains(&desc(entry)) {
        return None;
    }
    let text = lossy(statement).trim().to_owned();
    Some(match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}

struct Shared<'g> {
    graph: &'g mut Graph,
    outcome: &'g mut Outcome,
    stop: bool,
}

struct LaneQueue<'g> {
    shared: Mutex<Shared<'g>>,
    changed: Condvar,
}

impl<'g> LaneQueue<'g> {
    fn lock(&self) -> MutexGuard<'_, Shared<'g>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work for all.
    fn stop(&self, error: Option<RestoreError>) {
        let mut shared = self.lock();
        shared.stop = true;
        if let Some(error) = error {
            shared.outcome.fatal.get_or_insert(error);
        }
        self.changed.notify_all();
    }

    fn next(&self, progress: &Progress) -> Option<Task> {
        let mut shared = self.lock();
        loop {
            if shared.stop || progress.is_cancelled() {
                return None;
            }
            match shared.graph.next() {
                Next::Task(task) => return Some(task),
                Next::End => return None,
                Next::Wait => {}
            }
            let wait = self.changed.wait_timeout(shared, Duration::from_millis(500));
            shared = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finish(&self, task: &Task, well: bool, progress: &Progress) {
        if self.lock().graph.finish(task, well) {
            progress.object_done();
        }
        self.changed.notify_all();
    }
}

/// Says that the work is over for all when a lane panics.
struct Ends<'r, 'g>(&'r LaneQueue<'g>);

impl Drop for Ends<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(None);
        }
    }
}

/// Does all that the graph has, on `lanes` connections.
pub(super) fn run(
    db_work: &DatabaseWork<'_>,
    lanes: usize,
    graph: &mut Graph,
    outcome: &mut Outcome,
) {
    let queue = LaneQueue {
        shared: Mutex::new(Shared { graph, outcome, stop: false }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..lanes.max(1) {
            scope.spawn(|| {
                let _ends = Ends(&queue);
                let mut lane = Lane::new(db_work);
                while let Some(task) = queue.next(db_work.progress) {
                    let well = do_task(&mut lane, &queue, &task);
                    queue.finish(&task, well, db_work.progress);
                }
            });
        }
    });
}

/// Does one piece of work; whether it succeeded.
fn do_task(lane: &mut Lane<'_>, queue: &LaneQueue<'_>, task: &Task) -> bool {
    let db_work = lane.db_work;
    let (Task::Statement(index) | Task::Part(index, _)) = *task;
    let (place, range, part) = {
        let shared = queue.lock();
        let node = &shared.graph.nodes[index];
        match task {
            Task::Part(_, part) => (node.place, node.parts.get(*part).cloned(), *part),
            Task::Statement(_) => (node.place, None, 0),
        }
    };
    let entry = &db_work.parts.entries()[place];
    let (id, part) = (entry.dump_id(), i32::try_from(part).unwrap_or(i32::MAX));
    let result = match (range, db_work.parts.data_of(entry)) {
        (Some(range), Some(data)) => {
            let job = load::Job { entry, data, range, part };
            let bytes = job.bytes();
            let believed = || queue.lock().outcome.done.clone();
            let result = lane.work((id, part), &believed, |db| {
                let load = if desc(entry) == b"BLOBS" { load::large_objects } else { load::rows };
                load(db_work, db, &job).map_err(of_load)
            });
            if result.is_ok() {
                queue.lock().outcome.bytes += bytes;
            }
            result
        }
        _ => {
            let believed = || queue.lock().outcome.done.clone();
            let (result, refused) = make(db_work, lane, entry, &believed);
            note_owner(entry, refused, queue.lock().outcome);
            result
        }
    };
    match result {
        Ok(rows) => {
            queue.lock().outcome.done.add(id, part, rows);
            true
        }
        Err(trouble) => {
            let (fatal, lost) = {
                let mut shared = queue.lock();
                (report(db_work, entry, trouble, shared.outcome), shared.outcome.lost)
            };
            if fatal.is_some() || lost || db_work.progress.is_cancelled() {
                queue.stop(fatal);
            }
            false
        }
    }
}

fn of_load(error: LoadError) -> Trouble {
    match error {
        LoadError::Server(error) => of_server(error),
        LoadError::Vault(error) => Trouble::Vault(error),
        LoadError::Wrong(problem) => Trouble::Wrong(problem),
        LoadError::Cancelled => Trouble::Cancelled,
    }
}

/// All that makes an entry.
fn statements(db_work: &DatabaseWork<'_>, entry: &Entry) -> Statements {
    let group = entry.dependencies().first().and_then(|id| db_work.parts.toc.get(*id));
    db_work.dialect.statements(entry, group)
}

/// The same with its line of the journal.
fn whole(made: &Statements, entry: &Entry) -> Vec<u8> {
    let line = journal::line_sql(entry.dump_id(), 0, 0);
    [&made.object[..], &made.owner, line.as_bytes()].concat()
}

/// Why an object did not get its owner, and the statement that was to give it to it.
type Refused = Option<(pg::Error, Vec<u8>)>;

/// Makes an entry. When it can be made, but not be given to its owner, it stays with who made it;
/// the second value says why.
fn make(
    db_work: &DatabaseWork<'_>,
    lane: &mut Lane<'_>,
    entry: &Entry,
    believed: &dyn Fn() -> Done,
) -> (Result<u64, Trouble>, Refused) {
    let made = statements(db_work, entry);
    let id = entry.dump_id();
    let mut run = |sql: &[u8]| {
        lane.work((id, 0), believed, |db| db.connection.execute(sql).map(|()| 0).map_err(of_server))
    };
    match run(&whole(&made, entry)) {
        Err(Trouble::Server(error)) if !made.owner.is_empty() && !ends_all(&error) => {}
        other => return (other, None),
    }
    let alone = Statements { object: made.object, owner: Vec::new() };
    let without_owner = journal::line_sql(id, journal::WITHOUT_OWNER, 0);
    let result = run(&[&whole(&alone, entry)[..], without_owner.as_bytes()].concat());
    if result.is_err() {
        return (result, None);
    }
    // Perhaps the other one was in its way before, and is not now.
    match give(lane, entry, &made.owner, believed) {
        Ok(refused) => (result, refused),
        Err(trouble) => (Err(trouble), None),
    }
}

/// Gives what was made without its owner to it; what is given says why it was refused.
fn give(
    lane: &mut Lane<'_>,
    entry: &Entry,
    owner: &[u8],
    believed: &dyn Fn() -> Done,
) -> Result<Refused, Trouble> {
    let line = (entry.dump_id(), journal::OWNER);
    let sql = [owner, journal::line_sql(line.0, line.1, 0).as_bytes()].concat();
    let given =
        lane.work(line, believed, |db| db.connection.execute(&sql).map(|()| 0).map_err(of_server));
    match given {
        Ok(_) => Ok(None),
        Err(Trouble::Server(error)) if !ends_all(&error) => Ok(Some((error, owner.to_vec()))),
        Err(trouble) => Err(trouble),
    }
}

/// Gives what an earlier run could not give to its owner; it is refused and told again, or not.
pub(super) fn give_again(db_work: &DatabaseWork<'_>, outcome: &mut Outcome) {
    let mut lane = Lane::new(db_work);
    for entry in db_work.parts.entries() {
        let id = entry.dump_id();
        let lacks_owner =
            outcome.done.has(id, journal::WITHOUT_OWNER) && !outcome.done.has(id, journal::OWNER);
        if !lacks_owner || outcome.has_ended() || db_work.progress.is_cancelled() {
            continue;
        }
        let made = statements(db_work, entry);
        match give(&mut lane, entry, &made.owner, &|| outcome.done.clone()) {
            Ok(refused) => note_owner(entry, refused, outcome),
            Err(trouble) => outcome.fatal = report(db_work, entry, trouble, outcome),
        }
    }
}

fn note_owner(entry: &Entry, refused: Refused, outcome: &mut Outcome) {
    if let Some((error, sql)) = refused {
        outcome.fail(entry, format!("owner of {}", name_of(entry)), &error, Some(&sql));
    }
}

/// Makes entries one after the other, in the order of the table of contents. Many small ones share
/// a message and a transaction; if that fails, each has its own.
pub(super) fn one_by_one(db_work: &DatabaseWork<'_>, places: &[usize], outcome: &mut Outcome) {
    let mut lane = Lane::new(db_work);
    let entries = db_work.parts.entries();
    let is_open = |place: &usize| !outcome.done.has(entries[*place].dump_id(), 0);
    let open: Vec<usize> = places.iter().copied().filter(is_open).collect();
    let mut rest = open.as_slice();
    while !rest.is_empty() && !outcome.has_ended() && !db_work.progress.is_cancelled() {
        let (mut count, mut sql) = (0, Vec::new());
        while count < rest.len().min(BATCH) && sql.len() < BATCH_BYTES {
            let entry = &entries[rest[count]];
            if count > 0 && !(is_small(entry) && is_small(&entries[rest[count - 1]])) {
                break;
            }
            sql.extend_from_slice(&whole(&statements(db_work, entry), entry));
            count += 1;
        }
        let (now, later) = rest.split_at(count);
        rest = later;
        let first = entries[now[0]].dump_id();
        let result = lane.work((first, 0), &|| outcome.done.clone(), |db| {
            db.connection.execute(&sql).map(|()| 0).map_err(of_server)
        });
        match result {
            Ok(_) => now.iter().for_each(|place| outcome.done.add(entries[*place].dump_id(), 0, 0)),
            // By themselves those that can be made are, and one that can't is told.
            Err(Trouble::Server(_)) => {
                for place in now {
                    one(db_work, &mut lane, &entries[*place], outcome);
                }
            }
            Err(trouble) => outcome.fatal = report(db_work, &entries[now[0]], trouble, outcome),
        }
    }
}

fn one(db_work: &DatabaseWork<'_>, lane: &mut Lane<'_>, entry: &Entry, outcome: &mut Outcome) {
    if outcome.has_ended() || db_work.progress.is_cancelled() {
        return;
    }
    let (result, refused) = make(db_work, lane, entry, &|| outcome.done.clone());
    note_owner(entry, refused, outcome);
    match result {
        Ok(_) => outcome.done.add(entry.dump_id(), 0, 0),
        Err(trouble) => outcome.fatal = report(db_work, entry, trouble, outcome),
    }
}

/// Notes what happened to an entry. What is given ends the work for all.
fn report(
    db_work: &DatabaseWork<'_>,
    entry: &Entry,
    trouble: Trouble,
    outcome: &mut Outcome,
) -> Option<RestoreError> {
    let object = name_of(entry);
    let statement = entry.defn().filter(|_| !entry.had_dumper());
    match trouble {
        Trouble::Cancelled => None,
        Trouble::Lost => {
            outcome.lost = true;
            None
        }
        Trouble::Server(error) if !ends_all(&error) => {
            outcome.failed.insert(entry.dump_id());
            outcome.fail(entry, object, &error, statement);
            None
        }
        Trouble::Server(error) | Trouble::Passing(error) => {
            outcome.fail(entry, object.clone(), &error, statement);
            let (doing, source) = (format!("restoring {object}"), Box::new(error));
            Some(RestoreError::Server {
                doing,
                database: Some(db_work.database.to_owned()),
                source,
            })
        }
        Trouble::Vault(error) if error.is_damage() => {
            note_damage(db_work, entry, &error, outcome);
            None
        }
        Trouble::Vault(error) => Some(RestoreError::Vault(error)),
        Trouble::Wrong(problem) => {
            let database = db_work.parts.summary.name.clone();
            Some(RestoreError::Inconsistent { database, problem })
        }
        Trouble::Restore(error) => Some(error),
    }
}

fn note_damage(
    db_work: &DatabaseWork<'_>,
    entry: &Entry,
    error: &VaultError,
    outcome: &mut Outcome,
) {
    outcome.failed.insert(entry.dump_id());
    let (object, text) = (name_of(entry), chain(error));
    let Some(data) = db_work.parts.data_of(entry) else { return };
    let hash = match error {
        VaultError::DamagedChunk(chunk) => Some(chunk.hash),
        _ => {
            let mut hashes = data.chunks.iter().map(|chunk| chunk.hash);
            hashes.find(|hash| text.contains(&hash.to_string()))
        }
    };
    if let Some(hash) = hash {
        let of = Some(db_work.parts.summary.name.as_str());
        outcome.damage.add(hash, chunk_name(&hash), error, of, data_name(data));
    }
    let failure = ObjectFailure { object, error: text, sqlstate: None, statement: None };
    outcome.failures.push(failure);
}
