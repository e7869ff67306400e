//! A lane at work: it claims items of a snapshot that it holds, until all are done or its time is
//! up and its successor holds the snapshot.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::RunState;
use jiff::Timestamp;

use super::join::{self, Held, Locked};
use super::journaler::{self, Read, Written};
use super::locks::{ItemLocks, Key, Locks, SessionClaims};
use super::room;
use super::sign::{LaneSign, On, Sighting, Signed, is_fresh, lane_signs};
use super::state::{self, AttemptPlan, RunObjects, ServerPlan};
use super::todo::Todo;
use super::{Lane, LaneOptions, Successors};
use crate::chunker::{ChunkTools, Chunker};
use crate::error::{BackupError, chain};
use crate::journal::ItemJournal;
use crate::lane::{Reading, read_parts};
use crate::plan::{EntrySource, Item};
use crate::session;
use crate::snapshot;

/// How often a lane looks around: at the run, at its snapshot, for its successor.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a lane waits when there is nothing to claim at the moment.
const IDLE: Duration = Duration::from_millis(50);

/// How long a lane waits for its successor while another lane holds the snapshot too.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(60);

/// After how long without any item done, claims of lanes without a sign are taken from them.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// How long signs are listened for before that.
const LISTEN_FOR: Duration = Duration::from_secs(15);

/// How long a store, or the queue, may be away before a lane gives its snapshot up for it, and how
/// soon a message is sent again that could not be.
pub(super) const OUTAGE_LIMIT: Duration = Duration::from_secs(600);
const SEND_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How long before its deadline a lane goes, whoever holds the snapshot then.
pub(super) const LAST_SECONDS: Duration = Duration::from_secs(15);

/// A lane of a run, with all that it needs besides a snapshot.
pub(super) struct Member<'a> {
    pub(super) target: &'a pg::Config,
    pub(super) connect: pg::ConnectOptions,
    pub(super) options: &'a LaneOptions,
    pub(super) objects: RunObjects,
    pub(super) server: ServerPlan,
    pub(super) locks: Locks,
    pub(super) lane: &'a Lane,
    pub(super) lanes: u32,
    pub(super) tools: &'a ChunkTools,
    pub(super) successors: &'a dyn Successors,
    pub(super) began: Instant,
    /// How long it works before it asks for its successor.
    pub(super) budget: Duration,
    /// When the run was last found to be at work.
    pub(super) looked: Mutex<Option<Instant>>,
    /// What the last sign of life said.
    pub(super) signed: Mutex<Signed>,
    /// What it works on.
    pub(super) on: Mutex<Option<On>>,
    /// It has had this lane's place before, with a session that may not have ended yet.
    pub(super) had_session: AtomicBool,
    /// Which of the lanes that this process has worked as.
    pub(super) nth: u64,
    /// The generation of somebody else who worked as this lane, and when he said so last.
    pub(super) rival: Mutex<Option<(u32, Timestamp)>>,
    /// It has the place of its generation, and nobody else is at work as this lane but one before
    /// it, who goes.
    pub(super) placed: AtomicBool,
}

/// Why a lane stops working on a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Every item is done.
    AllDone,
    /// Its time is up.
    TimeUp,
    /// The server nears its limit of connections, for this reason.
    NoRoom(String),
}

impl Member<'_> {
    pub(super) fn connect(&self, database: &str) -> Result<Connection, BackupError> {
        let mut connection = session::connect(self.target, database, &self.connect)?;
        session::prepare(&mut connection, database)?;
        // A server that does not hear of this lane any more shall not keep its locks for hours.
        // Over a Unix socket these are ignored.
        let sql = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; \
                   SET tcp_keepalives_count = 3; SET tcp_user_timeout = '60s'";
        session::run(&mut connection, database, "preparing the session", sql)?;
        Ok(connection)
    }

    /// An error if the work is to stop: it was cancelled, or the run is over.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        self.tools.progress.check_cancelled(BackupError::Cancelled)?;
        // Every few seconds: to go on a little longer does no harm.
        let mut looked = self.looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY * 3) {
            return Ok(());
        }
        match self.objects.state()? {
            Some(RunState::Running) => {
                *looked = Some(Instant::now());
                Ok(())
            }
            _ => Err(BackupError::RunOver),
        }
    }

    /// The same, without trusting a look of some seconds ago.
    pub(super) fn check_now(&self) -> Result<(), BackupError> {
        *self.looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        self.check()
    }

    /// Clears away what this lane may have written after the run was cleared away, as it looks for
    /// that only now and then.
    pub(super) fn leave_nothing(&self) {
        let objects = &self.objects;
        let cleared = objects.state().and_then(|state| match state {
            None => Ok(objects.vault.remove_run(&objects.server, &objects.run)?),
            Some(_) => Ok(()),
        });
        if let Err(error) = cleared {
            // Nothing depends on it: the next run of this server clears it away.
            tracing::warn!("cannot clear run {} away: {}", objects.run, chain(&error));
        }
    }

    /// Whether this lane should be succeeded.
    pub(super) fn is_over_budget(&self) -> bool {
        self.began.elapsed() >= self.budget
    }

    /// Whether this lane has to go at once.
    pub(super) fn is_at_deadline(&self) -> bool {
        self.options.deadline.is_some_and(|deadline| Instant::now() + LAST_SECONDS >= deadline)
    }

    /// Works on a snapshot until there is nothing to do or the time is up.
    pub(super) fn work(&self, held: Held) -> Result<Ended, BackupError> {
        let (sender, receiver) = mpsc::channel();
        let written = Written::default();
        let folder = held.folder.clone();
        let uploads = &self.tools.uploads;
        std::thread::scope(|scope| {
            // It is dropped however this ends: the journaler waits for that.
            let sender = sender;
            let (objects, written) = (&self.objects, &written);
            let folder = &folder;
            let journaler =
                scope.spawn(move || journaler::work(objects, folder, uploads, &receiver, written));
            let mut shift = Shift::new(self, held, written)?;
            let result = shift.run(&sender);
            drop(sender);
            // A panic there shows as items that are never written down.
            let _ = journaler.join();
            let stop = result.and_then(|stop| written.failure().map_or(Ok(stop), Err))?;
            shift.end(stop)
        })
    }
}

/// A snapshot that a lane has let go.
pub(super) struct Ended {
    pub(super) stop: Stop,
    pub(super) connection: Connection,
    pub(super) plan: AttemptPlan,
    pub(super) folder: String,
}

/// The work of one lane on one snapshot.
struct Shift<'m, 'a> {
    member: &'m Member<'a>,
    held: Held,
    items: ItemLocks,
    written: &'m Written,
    todo: Todo,
    /// When the successor was sent for, and how many messages to it went unanswered before.
    asked: Option<Instant>,
    unanswered: u32,
    /// Since when its message can't be sent, and when that was last tried.
    unsent: Option<(Instant, Instant)>,
    looked: Instant,
    /// Sessions of lanes that gave a sign since nothing moves; when they were first and last listened
    /// for.
    heard: HashSet<i32>,
    listening: Option<(Instant, Instant)>,
    /// When the server's connections were last counted.
    counted: Instant,
}

impl<'m, 'a> Shift<'m, 'a> {
    fn new(member: &'m Member<'a>, held: Held, written: &'m Written) -> Result<Self, BackupError> {
        let plan = &held.plan;
        let items = member.locks.items(plan.database.oid, plan.attempt);
        let progress = &member.tools.progress;
        progress.phase(&plan.database.name);
        progress.planned(plan.entries.iter().filter(|e| e.slices > 0).count() as u64, plan.bytes);
        let place = (member.lane.lane, member.lanes);
        let todo = Todo::recall(&member.objects, &held.folder, place, plan.items.len())?;
        let now = Instant::now();
        let shift = Self {
            member,
            held,
            items,
            written,
            todo,
            asked: None,
            unanswered: 0,
            unsent: None,
            looked: now,
            heard: HashSet::new(),
            listening: None,
            counted: now,
        };
        shift.show();
        Ok(shift)
    }

    /// Has the lane's signs say what it works on, and with which session. Between two items: what
    /// is claimed is read then, and only not written down yet.
    fn show(&self) {
        let plan = &self.held.plan;
        let (items_done, own_items_done) = self.todo.done_counts();
        let mut sighting = Sighting {
            database: plan.database.name.clone(),
            oid: plan.database.oid,
            attempt: plan.attempt,
            items: plan.items.len(),
            items_done,
            own_items_done,
            bytes: plan.bytes,
            bytes_done: 0,
            own_bytes_done: 0,
            bytes_in_hand: 0,
            objects: plan.entries.iter().filter(|entry| entry.slices > 0).count() as u64,
            objects_done: 0,
            own_objects_done: 0,
        };
        // By entry: slices of items that are done, and of those that are the lane's own.
        let mut slices_done = vec![(0, 0); plan.entries.len()];
        for item in &plan.items {
            let (is_done, is_own) = (self.todo.is_done(item.id), self.todo.is_own(item.id));
            if !is_done && !self.todo.is_claimed(item.id) {
                continue;
            }
            for part in &item.parts {
                let bytes = part.slices * plan.entries[part.entry].slice_bytes;
                if !is_done {
                    sighting.bytes_in_hand += bytes;
                    continue;
                }
                let (all, own) = &mut slices_done[part.entry];
                sighting.bytes_done += bytes;
                *all += part.slices;
                if is_own {
                    sighting.own_bytes_done += bytes;
                    *own += part.slices;
                }
            }
        }
        for (entry, (all, own)) in plan.entries.iter().zip(slices_done) {
            sighting.objects_done += u64::from(all > 0 && all >= entry.slices);
            sighting.own_objects_done += u64::from(own > 0 && own >= entry.slices);
        }
        let done_bytes = self.member.tools.progress.read().done_bytes;
        let backend = self.held.connection.backend_pid();
        self.member.is_on(Some(On { sighting, backend, done_bytes }));
    }

    fn run(&mut self, reads: &Sender<Read>) -> Result<Stop, BackupError> {
        let member = self.member;
        let tools = member.tools;
        let mut chunker = Chunker::new(tools);
        loop {
            member.check()?;
            self.settle()?;
            if let Some(stop) = self.look_around()? {
                return Ok(stop);
            }
            self.free_what_is_stuck()?;
            if self.todo.is_all_done() {
                return Ok(Stop::AllDone);
            }
            let (todo, mut claims) = self.todo_and_claims();
            let Some(id) = todo.claim(&mut claims)? else {
                // Others may wait for these to be written down, as this lane does for theirs.
                self.written.hurry();
                std::thread::sleep(IDLE);
                continue;
            };
            if self.todo.helps() {
                // Perhaps all is done: who has sealed the backup clears away what says so.
                member.check_now()?;
            }
            let item = self.held.plan.items[id].clone();
            if !self.lock(&item)? {
                let (todo, mut claims) = self.todo_and_claims();
                todo.give_back(id, &mut claims)?;
                std::thread::sleep(IDLE);
                continue;
            }
            let journal = ItemJournal::open(None, id);
            let Held { connection, plan, .. } = &mut self.held;
            let reading = Reading { database: &plan.database.name, entries: &plan.entries, tools };
            let slices = read_parts(connection, &reading, &mut chunker, &item.parts, &journal);
            let slices = slices.or_else(|error| self.of_reading(error))?;
            self.todo.move_on();
            let mark = tools.uploads.mark();
            // The receiver ends only with a failure, which is looked for in the next round.
            let _ = reads.send(Read { item: id, mark, journal, slices });
        }
    }

    /// Ends sessions that hold claims of lanes which have shown no sign for long: a process that was
    /// stopped, or a machine that is cut off, without the server having noticed. To be called while
    /// this lane has nothing to do.
    fn free_what_is_stuck(&mut self) -> Result<(), BackupError> {
        if self.todo.still_for() < STUCK_AFTER {
            self.heard.clear();
            self.listening = None;
            return Ok(());
        }
        if self.listening.is_some_and(|(_, last)| last.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let member = self.member;
        let objects = &member.objects;
        let signs = lane_signs(&objects.vault, &objects.server, &objects.run)?;
        let fresh = signs.iter().filter(|sign| is_fresh(sign));
        self.heard.extend(fresh.filter_map(|sign| sign.backend));
        // In a hand-over two write the sign of one lane in turn; in this time both are heard. It
        // begins anew when the vault could not be asked for a while: others could not sign either.
        let at = Instant::now();
        let first = match self.listening {
            Some((first, last)) if last.elapsed() < LISTEN_FOR => first,
            _ => at,
        };
        self.listening = Some((first, at));
        if first.elapsed() < LISTEN_FOR {
            return Ok(());
        }
        self.listening = None;
        self.todo.move_on();
        let alive: Vec<i32> = self.heard.drain().collect();
        let database = self.held.plan.database.name.clone();
        let ended = self.items.end_others(&mut self.held.connection, &database, &alive)?;
        if ended > 0 {
            member.tools.progress.message(format!(
                "database {database:?}: {ended} sessions of lanes without a sign of life were ended"
            ));
        }
        Ok(())
    }

    /// Gives claims back whose items are written down.
    fn settle(&mut self) -> Result<(), BackupError> {
        if let Some(error) = self.written.failure() {
            if matches!(error, BackupError::UploadFailed) {
                self.member.tools.uploads.drain()?;
            }
            return Err(error);
        }
        let written = self.written.take();
        let (todo, mut claims) = self.todo_and_claims();
        todo.settle(&written, &mut claims)
    }

    fn todo_and_claims(&mut self) -> (&mut Todo, SessionClaims<'_>) {
        let Held { connection, plan, .. } = &mut self.held;
        let claims = SessionClaims { items: self.items, connection, database: &plan.database.name };
        (&mut self.todo, claims)
    }

    /// Locks the tables of an item that this lane could not lock at first, and makes sure that
    /// they still are what the snapshot sees. `false` when a lock is still not to be had.
    fn lock(&mut self, item: &Item) -> Result<bool, BackupError> {
        if self.held.unlocked.is_empty() {
            return Ok(true);
        }
        let Held { connection, plan, unlocked, .. } = &mut self.held;
        let database = plan.database.name.as_str();
        let mut tables: Vec<(u32, Vec<u8>)> = Vec::new();
        for part in &item.parts {
            let entry = &plan.entries[part.entry];
            if let EntrySource::Table { relation, .. } = &entry.source
                && unlocked.contains(&entry.oid)
                && tables.iter().all(|(oid, _)| *oid != entry.oid)
            {
                tables.push((entry.oid, relation.clone()));
            }
        }
        if tables.is_empty() {
            return Ok(true);
        }
        // A table that is gone can't be locked: that it is gone is found by the check.
        let locked = matches!(join::try_lock(connection, database, &tables)?, Locked::Yes);
        let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
        self.refuse_swapped(&oids, "was emptied, rewritten or dropped before it was read")?;
        if locked {
            self.held.unlocked.retain(|oid| !oids.contains(oid));
        }
        Ok(locked)
    }

    /// What an item could not be read for; with a table that is not what the snapshot sees the
    /// snapshot is given up, before anybody relies on what was read.
    fn of_reading<T>(&self, error: BackupError) -> Result<T, BackupError> {
        match &error {
            BackupError::UploadFailed => self.member.tools.uploads.drain()?,
            BackupError::Changed { database, .. } => {
                let (attempt, why) = (self.held.plan.attempt, error.to_string());
                self.member.lose(&self.held.folder, database, attempt, join::Why::Other(&why))?;
            }
            _ => {}
        }
        Err(error)
    }

    /// Gives the snapshot up if one of these tables is not any more what it sees.
    fn refuse_swapped(&mut self, oids: &[u32], how: &str) -> Result<(), BackupError> {
        let Held { connection, plan, folder, .. } = &mut self.held;
        let database = plan.database.name.as_str();
        let checked = snapshot::refuse_swapped(connection, database, Some(oids));
        if let Err(BackupError::Changed { what, .. }) = &checked {
            let reason = format!("{what} {how}");
            self.member.lose(folder, database, plan.attempt, join::Why::Other(&reason))?;
        }
        checked
    }

    /// Once a second: is the snapshot still wanted, is the successor there? Why this lane should
    /// go, if it should.
    fn look_around(&mut self) -> Result<Option<Stop>, BackupError> {
        let member = self.member;
        if member.is_at_deadline() {
            self.unsent = None;
            if self.ask_for_successor()?.is_none() {
                let failed = "its message could not be sent before the time was up";
                return Err(BackupError::Successor(failed.into()));
            }
            return Ok(Some(Stop::TimeUp));
        }
        let over = member.is_over_budget();
        // While it waits for its successor it looks more often: two of them cost twice.
        let every = if over { LOOK_EVERY / 10 } else { LOOK_EVERY };
        if self.looked.elapsed() < every {
            return Ok(None);
        }
        self.looked = Instant::now();
        let plan = &self.held.plan;
        let (database, attempt) = (plan.database.name.clone(), plan.attempt);
        if member.objects.has(&state::lost_name(&self.held.folder))? {
            let what = "the snapshot was given up by another lane".to_owned();
            return Err(BackupError::SnapshotGivenUp { database, attempt, what });
        }
        self.show();
        if !over {
            return self.make_room(&database);
        }
        let connection = &mut self.held.connection;
        if self.asked.is_none()
            && !member.locks.try_lock_everywhere(connection, &database, Key::Extra)?
        {
            // Another lane is being succeeded.
            return Ok(None);
        }
        let Some(asked) = self.ask_for_successor()? else {
            member.locks.unlock(&mut self.held.connection, &database, Key::Extra)?;
            return Ok(None);
        };
        if self.has_successor()? {
            return Ok(Some(Stop::TimeUp));
        }
        if asked.elapsed() < SUCCESSOR_LIMIT {
            return Ok(None);
        }
        // Where all places for lanes are taken by lanes that wait for one, somebody has to go: one
        // at a time, as only one can have sent for its successor.
        if self.has_other(|_| true)? {
            return Ok(Some(Stop::TimeUp));
        }
        // Its message may be lost; and others want to be succeeded too.
        self.asked = None;
        self.unanswered += 1;
        member.locks.unlock(&mut self.held.connection, &database, Key::Extra)?;
        Ok(None)
    }

    /// Goes if others want the server's last connections, while another lane holds the snapshot.
    fn make_room(&mut self, database: &str) -> Result<Option<Stop>, BackupError> {
        if self.counted.elapsed() < room::LOOK_EVERY {
            return Ok(None);
        }
        self.counted = Instant::now();
        let why = self.member.should_make_room(&mut self.held.connection, database)?;
        match why {
            Some(why) if self.has_other(|sign| !sign.leaving)? => Ok(Some(Stop::NoRoom(why))),
            _ => Ok(None),
        }
    }

    /// Sends the successor's message, once; gives when that was, and `None` while it can't be sent.
    fn ask_for_successor(&mut self) -> Result<Option<Instant>, BackupError> {
        if self.asked.is_some() {
            return Ok(self.asked);
        }
        if self.unsent.is_some_and(|(_, last)| last.elapsed() < SEND_AGAIN_AFTER) {
            return Ok(None);
        }
        let member = self.member;
        if let Err(error) = self.todo.leave_known() {
            // It then has to find out for itself.
            tracing::warn!("lane {}: {}", member.lane.lane, chain(&error));
        }
        match member.successors.start(&member.lane.next(), self.unanswered) {
            Ok(()) => {
                self.unsent = None;
                self.asked = Some(Instant::now());
            }
            Err(error) => {
                let now = Instant::now();
                let (first, _) = self.unsent.unwrap_or((now, now));
                if first.elapsed() >= OUTAGE_LIMIT {
                    return Err(BackupError::Successor(error));
                }
                tracing::warn!(
                    "lane {}: its successor can't be sent for: {error}",
                    member.lane.lane
                );
                self.unsent = Some((first, now));
            }
        }
        Ok(self.asked)
    }

    /// Whether the next one of this lane holds the snapshot, and all the tables that are still to
    /// be read. Those that it could not lock come first from now on: only this lane has them.
    fn has_successor(&mut self) -> Result<bool, BackupError> {
        let lane = self.member.lane;
        let batons = self.member.objects.batons(&self.held.folder)?;
        let Some(next) = batons.iter().find(|baton| {
            baton.holder.lane == lane.lane && baton.holder.generation > lane.generation
        }) else {
            return Ok(false);
        };
        if next.unlocked.is_empty() {
            return Ok(true);
        }
        let plan = &self.held.plan;
        let wanted: HashSet<u32> =
            next.unlocked.iter().filter(|oid| !self.held.unlocked.contains(oid)).copied().collect();
        let is_wanted = |id: usize| {
            let mut oids = plan.items[id].parts.iter().map(|part| plan.entries[part.entry].oid);
            oids.any(|oid| wanted.contains(&oid))
        };
        Ok(!self.todo.wants(is_wanted))
    }

    /// Whether another lane, one that will do, holds the snapshot too.
    fn has_other(&mut self, will_do: impl Fn(&LaneSign) -> bool) -> Result<bool, BackupError> {
        let member = self.member;
        let Held { connection, plan, .. } = &mut self.held;
        let objects = &member.objects;
        let signs = lane_signs(&objects.vault, &objects.server, &objects.run)?;
        let is_there = signs.iter().any(|sign| {
            let on = sign.on.as_ref();
            sign.lane != member.lane.lane
                && will_do(sign)
                && on.is_some_and(|on| on.oid == plan.database.oid && on.attempt == plan.attempt)
                && is_fresh(sign)
        });
        // A sign may outlive whoever gave it by seconds; the lock does not.
        let name = plan.database.name.as_str();
        Ok(is_there && member.locks.is_held_by_others(connection, name, Key::Snapshot)?)
    }

    /// Lets go of the snapshot, and of all locks but that of this lane's place.
    fn end(mut self, stop: Stop) -> Result<Ended, BackupError> {
        self.settle()?;
        let database = self.held.plan.database.name.clone();
        self.member.objects.leave_baton(&self.held.folder, &self.held.holder)?;
        let connection = &mut self.held.connection;
        session::run(connection, &database, "ending the snapshot", "COMMIT")?;
        self.member.locks.unshare(connection, &database, Key::Snapshot)?;
        if self.asked.is_some() {
            self.member.locks.unlock(connection, &database, Key::Extra)?;
        }
        let Held { connection, plan, folder, .. } = self.held;
        Ok(Ended { stop, connection, plan, folder })
    }
}
