//! A backup by lanes in any processes, on one snapshot for each database, any of which may die.
//!
//! [`begin`] opens the run and decides what is read; [`run_lane`] is one lane of it, for as long
//! as its time lasts. Lanes know of each other only through the vault ([`state`](self)) and through
//! advisory locks on the source, and hand the snapshot on: whoever imports an exported snapshot can
//! export it again. docs/relay.md explains the protocol and why it is safe.
//!
//! # What it promises
//! - All of a database comes from one snapshot, whoever reads it. A table that was emptied,
//!   rewritten or dropped while nobody had it locked is never sealed.
//! - As long as one lane of a database lives, its snapshot does; a dead lane's work is taken by
//!   others at once. If all are dead, the next lane takes a new snapshot and says so.
//! - The backup is sealed once, by whoever finds everything done, also if a lane comes late, twice,
//!   or after the end.
//! - No more connections to the server than lanes, and one.

mod batons;
mod begin;
mod join;
mod journaler;
mod journals;
mod lane;
mod last;
mod locks;
mod patient;
mod progress;
mod room;
#[cfg(test)]
mod scale;
mod seal;
mod sign;
mod state;
mod todo;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{RunId, RunState, ServerName, Vault};

pub(crate) use begin::refuse_live_relay;
pub use begin::{Begun, begin};
pub(crate) use progress::relay_progress;
pub use progress::{DatabaseProgress, DatabaseState, LaneProgress, LostSnapshot};
pub(crate) use room::{free_connections, is_full};
pub use sign::{Amounts, LaneSign, Sighting, lane_signs};

use crate::backup;
use crate::chunker::ChunkTools;
use crate::error::{BackupError, chain};
use crate::options::BackupOptions;
use crate::pace::Pace;
use crate::plan::LastCuts;
use crate::progress::Progress;
use crate::session;
use crate::source::{self, Database};
use crate::uploads::Uploads;
use join::Joined;
use lane::{Member, Stop};
use locks::{Key, Locks};
use state::{RunObjects, ServerPlan};

/// Lanes that this process has worked as.
static LANES_HERE: AtomicU64 = AtomicU64::new(0);

/// How often in a row a lane tries again by itself after a failure that may pass.
const TRIES: u32 = 4;

/// How often a replica may cancel what one lane reads; each time costs the snapshot, or a second
/// more of waiting before it is taken over again.
const CONFLICTS: u32 = 12;

/// How long the server may take to end a session that this lane has let go.
const OWN_SESSION_LIMIT: Duration = Duration::from_secs(10);

/// How often a database may get another name while somebody looks for it.
const RENAMES: u32 = 4;

/// How often a lane without work looks whether there is some.
const IDLE: Duration = Duration::from_millis(500);

/// How long it waits at first, as planning a small database takes no longer; then twice as long
/// each time, up to `IDLE`.
const FIRST_IDLE: Duration = Duration::from_millis(30);

/// A lane of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The run.
    pub run: RunId,
    /// Which lane, from 0.
    pub lane: u32,
    /// How many were in this lane before.
    pub generation: u32,
}

impl Lane {
    /// The lane that goes on after this one.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { generation: self.generation + 1, ..self.clone() }
    }
}

/// How a lane works.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// What the backup is; with a request.
    pub backup: BackupOptions,
    /// How long a lane works before it sends its successor.
    pub budget: Duration,
    /// Whoever worked on this before may have died: the server is asked who is at work.
    pub delivered_again: bool,
    /// When it has to be gone, whether or not its successor holds the snapshot.
    pub deadline: Option<Instant>,
}

/// Starts lanes, in whatever process.
pub trait Successors: Sync {
    /// Starts a lane, or has a message on its way that does. `again`: how many messages for it
    /// were lost, so that this one is not taken for one of them.
    fn start(&self, lane: &Lane, again: u32) -> Result<(), pg::BoxError>;
}

/// How a lane ended.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneEnd {
    /// It sealed the backup.
    Sealed(Box<Manifest>),
    /// Somebody else did.
    AlreadySealed(Box<Manifest>),
    /// Its time is up; its successor goes on.
    HandedOver,
    /// Nobody needs it (any more).
    NotNeeded(&'static str),
    /// Something is in its way that will pass, such as its predecessor: it is to come again.
    Later(&'static str),
    /// The server nears its limit of connections, and others go on without this lane: it is to look
    /// again in a while. Says why.
    NoRoom(String),
}

/// Does a lane's share of a run, until the backup is sealed or the lane's time is up.
///
/// # Errors
/// What ended the lane. If [`BackupError::may_pass`] says so, it is to be started again; others go
/// on meanwhile. If not, the run has been given up.
pub fn run_lane(
    target: &pg::Config,
    vault: &Vault,
    options: &LaneOptions,
    lane: &Lane,
    successors: &dyn Successors,
    progress: &Arc<Progress>,
) -> Result<LaneEnd, BackupError> {
    let (Some(name), Some(request)) = (&options.backup.name, &options.backup.request) else {
        return Err(BackupError::Internal("a lane needs a server's name and a request".to_owned()));
    };
    if let Some(sealed) = vault.backup_for_request(name, &request.id, request.since)? {
        return Ok(LaneEnd::AlreadySealed(Box::new(sealed)));
    }
    let objects = RunObjects { vault: vault.clone(), server: name.clone(), run: lane.run.clone() };
    if objects.state()? != Some(RunState::Running) {
        return Ok(LaneEnd::NotNeeded("the run is over"));
    }
    let Some(server) = objects.get::<ServerPlan>(state::SERVER)? else {
        return Ok(LaneEnd::Later("the run is being prepared"));
    };
    let patient = patient::vault(vault, lane::OUTAGE_LIMIT, &given_up(options, progress))?;
    let objects = RunObjects { vault: patient.clone(), ..objects };
    let patient = Arc::new(patient);
    let last = last::of_run(&objects, progress)?;
    let known = Arc::new(last.known);
    let uploads = Uploads::start(
        Arc::clone(&patient),
        Arc::clone(&known),
        Arc::clone(progress),
        options.backup.level,
        2,
        backup::UPLOAD_BYTES_PER_LANE,
    )?;
    let tools = ChunkTools {
        vault: patient,
        known,
        uploads,
        progress: Arc::clone(progress),
        // Each lane has its share: they do not know how fast the others are.
        pace: options
            .backup
            .max_bytes_per_second
            .map(|bytes| Pace::new(bytes / u64::from(server.lanes.max(1)))),
    };
    let member = Member {
        target,
        connect: backup::connect_options(&options.backup, progress),
        options,
        locks: Locks::of(vault, name, &lane.run),
        objects,
        lanes: server.lanes,
        server,
        lane,
        tools: &tools,
        successors,
        began: Instant::now(),
        budget: effective_budget(options),
        looked: Mutex::default(),
        signed: Mutex::default(),
        on: Mutex::default(),
        had_session: AtomicBool::new(false),
        nth: LANES_HERE.fetch_add(1, Ordering::Relaxed),
        rival: Mutex::default(),
        placed: AtomicBool::new(false),
    };
    let result = member.go_through_with_signs(&last.cuts);
    member.leave_nothing();
    match fail_with(vault, name, &lane.run, result) {
        Err(BackupError::RunOver) => {
            match vault.backup_for_request(name, &request.id, request.since)? {
                Some(sealed) => Ok(LaneEnd::AlreadySealed(Box::new(sealed))),
                None => Ok(LaneEnd::NotNeeded("the run is over")),
            }
        }
        result => result,
    }
}

/// Gives the run up with a lane that met what does not pass.
fn fail_with(
    vault: &Vault,
    server: &ServerName,
    run: &RunId,
    result: Result<LaneEnd, BackupError>,
) -> Result<LaneEnd, BackupError> {
    match result {
        Err(error) if !error.may_pass() || matches!(error, BackupError::SnapshotsLost { .. }) => {
            if vault.fail_run(server, run, &chain(&error))? {
                return Err(error);
            }
            // It was over before: what became of it is not for this lane to say.
            Err(BackupError::RunOver)
        }
        result => result,
    }
}

/// When a lane does not wait any more for a vault that is away.
fn given_up(options: &LaneOptions, progress: &Arc<Progress>) -> patient::GivenUp {
    let (deadline, progress) = (options.deadline, Arc::clone(progress));
    Arc::new(move || {
        progress.is_cancelled()
            || deadline.is_some_and(|by| Instant::now() + lane::LAST_SECONDS >= by)
    })
}

/// A lane asks for its successor while there is time to wait for it.
fn effective_budget(options: &LaneOptions) -> Duration {
    let Some(deadline) = options.deadline else { return options.budget };
    options.budget.min(deadline.saturating_duration_since(Instant::now()) * 3 / 4)
}

/// Who is at work as this lane.
enum Place {
    /// Nobody else.
    Own,
    /// The one before, who has sent for this one and goes when it is there, or is dead.
    Heir,
    /// A later one: this one is not wanted any more.
    Succeeded,
    /// Somebody who has sent for nobody: this one was delivered twice, or is too early.
    Taken,
}

/// What came of a look at one database.
enum Looked {
    Done,
    /// Others are on it.
    Crowded,
    End(LaneEnd),
}

impl Member<'_> {
    /// The work, with signs of life from a thread beside it, whatever the work waits for.
    fn go_through_with_signs(
        &self,
        cuts: &std::collections::HashMap<String, LastCuts>,
    ) -> Result<LaneEnd, BackupError> {
        // A late delivery must not pass for the one that is at work. Looked for before the first
        // sign of this one, which takes the place of whatever is there.
        if self.look_for_rival()?.is_some_and(|sign| sign.generation > self.lane.generation) {
            return Ok(LaneEnd::NotNeeded("its successor is at work"));
        }
        std::thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                self.sign();
                while ended.recv_timeout(IDLE) == Err(RecvTimeoutError::Timeout) {
                    self.sign();
                }
            });
            let result = self.go_through(cuts);
            drop(end);
            self.sign_off(&result);
            result
        })
    }

    /// Works on one database after the other until all are done.
    fn go_through(
        &self,
        cuts: &std::collections::HashMap<String, LastCuts>,
    ) -> Result<LaneEnd, BackupError> {
        let empty = LastCuts::new();
        let mut pending: Vec<&Database> = self.server.databases.iter().collect();
        let (mut failures, mut conflicts) = (0, 0);
        let mut idle = FIRST_IDLE;
        loop {
            self.check()?;
            let mut crowded = 0;
            let mut index = 0;
            while index < pending.len() {
                let database = pending[index];
                let last = cuts.get(&database.name).unwrap_or(&empty);
                match self.look_at(database, last) {
                    Ok(Looked::Done) => {
                        pending.remove(index);
                        failures = 0;
                    }
                    Ok(Looked::Crowded) => {
                        crowded += 1;
                        index += 1;
                    }
                    Ok(Looked::End(end)) => return Ok(end),
                    // The next look takes another snapshot, or finds somebody who has.
                    Err(BackupError::SnapshotGivenUp { .. } | BackupError::Changed { .. }) => {
                        index += 1;
                    }
                    Err(error) if error.is_recovery_conflict() && conflicts < CONFLICTS => {
                        conflicts += 1;
                        self.note_conflict(database, &error)?;
                        tracing::warn!("lane {}: {}; trying again", self.lane.lane, chain(&error));
                        self.rest(Duration::from_secs(u64::from(conflicts)))?;
                        index += 1;
                    }
                    Err(error)
                        if error.is_worth_another_look()
                            && !self.tools.uploads.has_failed()
                            && failures + 1 < TRIES =>
                    {
                        failures += 1;
                        tracing::warn!("lane {}: {}; trying again", self.lane.lane, chain(&error));
                        self.rest(Duration::from_millis(250 << failures))?;
                    }
                    Err(error) => return Err(error),
                }
            }
            if pending.is_empty() {
                return self.seal();
            }
            if crowded == pending.len() {
                if self.is_over_budget() || self.is_at_deadline() {
                    return Ok(LaneEnd::NotNeeded("others are on what is left"));
                }
                self.rest(idle)?;
                idle = IDLE.min(idle * 2);
            } else {
                idle = FIRST_IDLE;
            }
        }
    }

    fn rest(&self, time: Duration) -> Result<(), BackupError> {
        std::thread::sleep(time);
        self.check()
    }

    /// Does what there is to do for one database, whatever it is called by now.
    fn look_at(&self, database: &Database, last: &LastCuts) -> Result<Looked, BackupError> {
        let mut database = database.clone();
        for _ in 0..RENAMES {
            match self.look_by_name(&database, last) {
                Err(error) if error.is_database_gone() => match self.name_now(&database, error)? {
                    Some(name) => database.name = name,
                    None => return Ok(Looked::Done),
                },
                looked => return looked,
            }
        }
        self.finish_without(&database, Some("it was renamed again and again during the backup"))?;
        Ok(Looked::Done)
    }

    /// What a database is called now that was not found by its name; `None` when it will not be in the
    /// backup, which was written down then.
    fn name_now(
        &self,
        database: &Database,
        gone: BackupError,
    ) -> Result<Option<String>, BackupError> {
        let mut connection = match self.connect_to_any() {
            Err(error) if error.is_database_gone() => return Err(gone),
            connected => connected?,
        };
        let lost = match source::name_now(&mut connection, database.oid)?.map(String::from_utf8) {
            Some(Ok(name)) => return Ok(Some(name)),
            Some(Err(_)) => Some("it got a name that is not UTF-8 during the backup"),
            None => source::made_again(&mut connection, &database.name)?,
        };
        connection.close();
        self.finish_without(database, lost)?;
        Ok(None)
    }

    /// A connection to a database that is there: the one of the connection string may be gone.
    fn connect_to_any(&self) -> Result<Connection, BackupError> {
        let others = self.server.databases.iter().map(|one| one.name.as_str());
        let mut names = ["postgres"].into_iter().chain(others);
        let mut name = self.target.database();
        loop {
            match session::connect(self.target, name, &self.connect) {
                Ok(mut connection) => {
                    session::prepare(&mut connection, name)?;
                    return Ok(connection);
                }
                Err(error) if error.is_database_gone() => {
                    name = names.next().ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same under the name that it had when somebody asked last.
    fn look_by_name(&self, database: &Database, last: &LastCuts) -> Result<Looked, BackupError> {
        let name = database.name.as_str();
        if self.objects.has(&state::done_name(database.oid))? {
            return Ok(Looked::Done);
        }
        self.look_for_rival()?;
        if self.rival().is_some_and(|generation| generation > self.lane.generation) {
            return Ok(Looked::End(LaneEnd::NotNeeded("its successor is at work")));
        }
        let mut connection = match self.connect(name) {
            Ok(connection) => connection,
            Err(error) if is_full(&error) && self.may_be_spared()? => {
                return Ok(Looked::End(LaneEnd::NoRoom(chain(&error))));
            }
            Err(error) => return Err(error),
        };
        source::refuse_other(&mut connection, database)?;
        let is_extra = match self.take_place(&mut connection, name)? {
            Place::Own => false,
            Place::Heir => true,
            Place::Succeeded => {
                return Ok(Looked::End(LaneEnd::NotNeeded("its successor is at work")));
            }
            Place::Taken => {
                return Ok(Looked::End(LaneEnd::Later("this lane is at work elsewhere")));
            }
        };
        self.placed.store(true, Ordering::Relaxed);
        if let Some(why) = self.has_no_room(&mut connection, name, is_extra)? {
            connection.close();
            return Ok(Looked::End(LaneEnd::NoRoom(why)));
        }
        let (connection, plan, folder) = match self.join(connection, database, last, is_extra) {
            Ok(Joined::Held(held)) => {
                let ended = self.work(*held);
                // What it knows is to be seen until its successor, who knows it too, says so.
                if !matches!(&ended, Ok(ended) if ended.stop == Stop::TimeUp) {
                    self.is_on(None);
                }
                let ended = ended?;
                match ended.stop {
                    Stop::AllDone => {}
                    Stop::TimeUp => return Ok(Looked::End(LaneEnd::HandedOver)),
                    Stop::NoRoom(why) => return Ok(Looked::End(LaneEnd::NoRoom(why))),
                }
                (ended.connection, ended.plan, ended.folder)
            }
            Ok(Joined::AllDone { connection, plan, folder }) => (*connection, *plan, folder),
            Ok(Joined::Done) => return Ok(Looked::Done),
            Ok(Joined::Crowded) => return Ok(Looked::Crowded),
            Err(error) => return Err(error),
        };
        let mut connection = connection;
        self.finish(&mut connection, plan, &folder)?;
        // Its end may take the server a moment; its locks are wanted at once.
        connection
            .execute("SELECT pg_catalog.pg_advisory_unlock_all()")
            .map_err(|source| session::failed("giving the locks back", name, source))?;
        connection.close();
        Ok(Looked::Done)
    }

    /// Takes the place of this generation of the lane, which it keeps until it goes: no lock passes
    /// from one session to the next, so nobody can come in between. A session of this very process,
    /// which has just been let go, may still have it for a moment.
    fn take_place(
        &self,
        connection: &mut Connection,
        database: &str,
    ) -> Result<Place, BackupError> {
        let key = Key::Lane(self.lane.lane, self.lane.generation);
        let until = Instant::now() + OWN_SESSION_LIMIT;
        while !self.locks.try_lock_everywhere(connection, database, key)? {
            if !self.had_session.load(Ordering::Relaxed) || Instant::now() >= until {
                return Ok(Place::Taken);
            }
            self.rest(IDLE / 5)?;
        }
        self.had_session.store(true, Ordering::Relaxed);
        let others = self.locks.others_in_lane(connection, database, self.lane.lane)?;
        if others.iter().any(|other| other.generation > self.lane.generation) {
            return Ok(Place::Succeeded);
        }
        if others.is_empty() {
            return Ok(Place::Own);
        }
        // Those before it that have sent for nobody may be dead, and their sessions not ended yet.
        let goes = others.iter().any(|other| other.gives_way) || self.rival().is_none();
        Ok(if goes { Place::Heir } else { Place::Taken })
    }

    /// Reads the last sign of this lane, of whatever generation, and remembers whose it is.
    fn look_for_rival(&self) -> Result<Option<LaneSign>, BackupError> {
        let sign = self.objects.get::<LaneSign>(&state::lane_name(self.lane.lane))?;
        if let Some(sign) = &sign {
            self.note_rival(sign);
        }
        Ok(sign)
    }

    fn is_own(&self, sign: &LaneSign) -> bool {
        sign.generation == self.lane.generation
            && sign.pid == std::process::id()
            && sign.nth == self.nth
            && sign.host == backup::hostname()
    }
}
