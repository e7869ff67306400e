//! How a connection comes to hold a database's snapshot: it takes a new one, or takes over that of
//! somebody who holds it now.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::manifest::Holder;
use flexkeep_vault::store::PutMode;
use jiff::Timestamp;

use super::lane::Member;
use super::locks::Key;
use super::state::{self, AttemptPlan, Baton, Lost, RunObjects};
use crate::dump::{self, Planning};
use crate::error::{BackupError, chain};
use crate::plan::{ITEMS_PER_RELAY_LANE, LastCuts};
use crate::session;
use crate::snapshot::{self, Leader};
use crate::source::{self, Database};
use crate::tools::ClientTools;

/// How long a lane looks for somebody who gives it the snapshot, while somebody holds it.
const ADOPTION_LIMIT: Duration = Duration::from_secs(60);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tables that are locked by one statement.
const LOCKS_AT_ONCE: usize = 500;

/// SQLSTATEs: the lock is not to be had at once, and there is no room for another lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const OUT_OF_LOCKS: &str = "53200";

/// A connection that holds a snapshot.
pub(super) struct Held {
    pub(super) connection: Connection,
    pub(super) plan: AttemptPlan,
    pub(super) folder: String,
    pub(super) holder: Holder,
    /// Tables that it has no lock on.
    pub(super) unlocked: HashSet<u32>,
}

/// What came of trying to hold a snapshot.
pub(super) enum Joined {
    Held(Box<Held>),
    /// Every item is done; only writing that down is left.
    AllDone {
        connection: Box<Connection>,
        plan: Box<AttemptPlan>,
        folder: String,
    },
    /// It was finished, or dropped, meanwhile.
    Done,
    /// Somebody else is on it, and there is nothing for one more to do.
    Crowded,
}

/// Why a snapshot is given up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why<'a> {
    /// A replica cancelled it.
    Conflict(&'a str),
    Other(&'a str),
}

/// How far a database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) done: bool,
    /// The newest attempt, 0 when there is none, and whether it was given up.
    pub(super) attempt: u32,
    pub(super) lost: bool,
}

impl Stage {
    /// Asks for a few objects by their names: to list all that a database has would mean all its
    /// items.
    pub(super) fn of(objects: &RunObjects, oid: u32) -> Result<Self, BackupError> {
        let mut stage = Self { done: objects.has(&state::done_name(oid))?, ..Self::default() };
        // Ends because each attempt but the last was given up by somebody.
        while !stage.done {
            let next = state::attempt_folder(oid, stage.attempt + 1);
            if objects.has(&state::lost_name(&next))? {
                stage.lost = true;
            } else if objects.has(&state::plan_name(&next))? {
                stage.lost = false;
            } else {
                break;
            }
            stage.attempt += 1;
            if !stage.lost {
                break;
            }
        }
        Ok(stage)
    }
}

impl Member<'_> {
    /// Brings a connection to hold the snapshot of `database`.
    pub(super) fn join(
        &self,
        mut connection: Connection,
        database: &Database,
        last: &LastCuts,
        successor: bool,
    ) -> Result<Joined, BackupError> {
        let deadline = Instant::now() + ADOPTION_LIMIT;
        let name = database.name.as_str();
        loop {
            self.check()?;
            let stage = Stage::of(&self.objects, database.oid)?;
            if stage.done {
                return Ok(Joined::Done);
            }
            if stage.attempt == 0 || stage.lost {
                if !self.locks.try_lock(&mut connection, name, Key::Snapshot)? {
                    return Ok(Joined::Crowded);
                }
                // Somebody may have been faster between the look and the lock.
                if Stage::of(&self.objects, database.oid)? != stage {
                    self.locks.unlock(&mut connection, name, Key::Snapshot)?;
                    continue;
                }
                // Of a run that was cleared away nothing is done either.
                self.check_now()?;
                return self.take(connection, database, stage.attempt + 1, last);
            }
            let folder = state::attempt_folder(database.oid, stage.attempt);
            let Some(plan) = self.objects.plan(&folder)? else {
                return Err(BackupError::Internal(format!("{folder} has no plan")));
            };
            let batons = self.objects.batons(&folder)?;
            // As many as there is work for, unless none of them lives.
            let plan = if !successor && batons.len() >= plan.items.len() {
                plan
            } else {
                match self.adopt(connection, plan, &folder, &batons)? {
                    Adopted::Held(held) => return Ok(Joined::Held(held)),
                    Adopted::Not(free, plan) => {
                        connection = *free;
                        *plan
                    }
                }
            };
            let crowded = !successor && batons.len() >= plan.items.len();
            if self.locks.try_lock(&mut connection, name, Key::Snapshot)? {
                if self.give_up(&mut connection, &folder, &plan)? {
                    let (connection, plan) = (Box::new(connection), Box::new(plan));
                    return Ok(Joined::AllDone { connection, plan, folder });
                }
                continue;
            }
            if crowded || Instant::now() >= deadline {
                return Ok(Joined::Crowded);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Gives a snapshot up that nobody holds any more, unless all its items are done, and says
    /// whether they are; the lock on it is held.
    fn give_up(
        &self,
        connection: &mut Connection,
        folder: &str,
        plan: &AttemptPlan,
    ) -> Result<bool, BackupError> {
        let name = &plan.database.name;
        let mut done = 0;
        self.objects.each_name(&state::item_prefix(folder), |_| done += 1)?;
        if done < plan.items.len() {
            self.check_now()?;
            let conflict = self.objects.get::<Lost>(&state::conflict_name(folder))?;
            let why = match &conflict {
                Some(conflict) => Why::Conflict(&conflict.reason),
                None => Why::Other("every connection that held the snapshot has ended"),
            };
            self.lose(folder, plan.database.name.as_str(), plan.attempt, why)?;
        }
        self.locks.unlock(connection, name, Key::Snapshot)?;
        Ok(done >= plan.items.len())
    }

    /// Writes down that a replica cancelled what this lane read: should nobody hold the snapshot any
    /// more, that was why.
    pub(super) fn note_conflict(
        &self,
        database: &Database,
        error: &BackupError,
    ) -> Result<(), BackupError> {
        let stage = Stage::of(&self.objects, database.oid)?;
        if stage.attempt > 0 && !stage.lost {
            let lost = Lost { reason: chain(error), at: Timestamp::now(), conflict: true };
            let folder = state::attempt_folder(database.oid, stage.attempt);
            self.objects.put(&state::conflict_name(&folder), &lost, PutMode::Create)?;
        }
        Ok(())
    }

    /// Writes down that a snapshot is given up.
    pub(super) fn lose(
        &self,
        folder: &str,
        database: &str,
        attempt: u32,
        why: Why<'_>,
    ) -> Result<(), BackupError> {
        let (reason, conflict) = match why {
            Why::Conflict(reason) => (reason, true),
            Why::Other(reason) => (reason, false),
        };
        let lost = Lost { reason: reason.to_owned(), at: Timestamp::now(), conflict };
        if self.objects.put(&state::lost_name(folder), &lost, PutMode::Create)? {
            self.tools.progress.restart(crate::progress::Restart {
                database: database.to_owned(),
                attempt: attempt + 1,
                reason: reason.to_owned(),
            });
        }
        Ok(())
    }

    /// Takes a new snapshot and plans the work on it. The lock on the snapshot is held.
    fn take(
        &self,
        mut connection: Connection,
        database: &Database,
        attempt: u32,
        last: &LastCuts,
    ) -> Result<Joined, BackupError> {
        let name = database.name.as_str();
        let folder = state::attempt_folder(database.oid, attempt);
        let most = self.options.backup.attempts.max(1);
        let lost = match attempt {
            0 | 1 => None,
            _ => {
                let before = state::attempt_folder(database.oid, attempt - 1);
                self.objects.get::<Lost>(&state::lost_name(&before))?
            }
        };
        if attempt > most {
            let reason = lost.map_or_else(|| "the reason is gone".to_owned(), |lost| lost.reason);
            return Err(BackupError::SnapshotsLost {
                database: database.name.clone(),
                attempts: most,
                reason,
            });
        }
        self.pause_before(attempt, lost.is_some_and(|lost| lost.conflict))?;
        // pg_dump is one connection more, as a successor would be.
        let until = Instant::now() + ADOPTION_LIMIT;
        while !self.locks.try_lock_everywhere(&mut connection, name, Key::Extra)?
            && Instant::now() < until
        {
            self.check()?;
            std::thread::sleep(LOOK_EVERY);
        }
        self.tools.progress.phase(name);
        match self.plan_on(connection, database, attempt, &folder, last) {
            Ok(held) => Ok(Joined::Held(held)),
            Err(error) if error.is_worth_a_new_attempt() && !error.is_database_gone() => {
                let reason = chain(&error);
                let is_conflict = error.is_recovery_conflict();
                let why = if is_conflict { Why::Conflict(&reason) } else { Why::Other(&reason) };
                self.lose(&folder, name, attempt, why)?;
                // The connection is gone; with a new one comes the next attempt.
                Ok(Joined::Crowded)
            }
            Err(error) => Err(error),
        }
    }

    fn plan_on(
        &self,
        connection: Connection,
        database: &Database,
        attempt: u32,
        folder: &str,
        last: &LastCuts,
    ) -> Result<Box<Held>, BackupError> {
        let name = database.name.as_str();
        let leader = Leader::on(connection, name)?;
        let major = self.server.facts.source.version_num / 10_000;
        let client = ClientTools::find(self.options.backup.pg_bin.as_deref(), major)?;
        let planning = Planning {
            vault: &self.objects.vault,
            target: self.target,
            client: &client,
            facts: &self.server.facts,
            progress: &self.tools.progress,
            lanes: self.lanes as usize,
            items_per_lane: ITEMS_PER_RELAY_LANE,
            split_tables: self.options.backup.split_tables,
        };
        let prepared = dump::prepare_on(leader, &planning, database, attempt, last)?;
        let leader = prepared.leader;
        let mut notes = prepared.notes;
        let before = self.server.databases.iter().find(|one| one.oid == database.oid);
        if let Some(before) = before.filter(|before| before.name != database.name) {
            notes.push(source::renamed_note(&before.name, &database.name));
        }
        let plan = AttemptPlan {
            database: database.clone(),
            attempt,
            snapshot_time: leader.time,
            encoding: prepared.encoding,
            toc: prepared.toc,
            entries: prepared.plan.entries,
            items: prepared.plan.items.into(),
            bytes: prepared.plan.bytes,
            extensions: prepared.extensions,
            types: prepared.types,
            losses: prepared.losses,
            notes,
        };
        let holder = self.holder(&leader.snapshot, None);
        let mut connection = leader.connection;
        if !self.objects.put_plan(folder, &plan)? {
            return Err(BackupError::Internal(format!("{folder} was planned by somebody else")));
        }
        self.objects.put_baton(
            folder,
            &Baton { holder: holder.clone(), unlocked: Vec::new(), left: false },
        )?;
        // Never without one of the two: nobody shall think that the snapshot is lost.
        self.locks.try_share(&mut connection, name, Key::Snapshot)?;
        self.locks.unlock(&mut connection, name, Key::Snapshot)?;
        self.locks.unlock(&mut connection, name, Key::Extra)?;
        let (folder, unlocked) = (folder.to_owned(), HashSet::new());
        Ok(Box::new(Held { connection, plan, folder, holder, unlocked }))
    }

    /// Takes the snapshot over from one of those who hold it.
    fn adopt(
        &self,
        mut connection: Connection,
        plan: AttemptPlan,
        folder: &str,
        batons: &[Baton],
    ) -> Result<Adopted, BackupError> {
        let name = plan.database.name.clone();
        for baton in batons {
            let from = &baton.holder.baton;
            let sql = format!(
                "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SET TRANSACTION SNAPSHOT {}",
                pg::quote_literal(from)
            );
            match connection.execute(sql) {
                Ok(()) => {}
                // Its holder has gone.
                Err(error) if connection.is_usable() && error.sqlstate().is_some() => {
                    session::run(&mut connection, &name, "giving up a snapshot", "ROLLBACK")?;
                    continue;
                }
                Err(source) => return Err(session::failed("adopting the snapshot", &name, source)),
            }
            let shared = self.locks.try_share(&mut connection, &name, Key::Snapshot)?;
            // Somebody who held the lock in between may have found that nobody holds the snapshot.
            if !shared || self.objects.has(&state::lost_name(folder))? {
                session::run(&mut connection, &name, "giving up a snapshot", "ROLLBACK")?;
                if shared {
                    self.locks.unshare(&mut connection, &name, Key::Snapshot)?;
                }
                return Ok(Adopted::Not(Box::new(connection), Box::new(plan)));
            }
            let from = from.clone();
            return self.hold(connection, plan, folder, &from).map(Adopted::Held);
        }
        Ok(Adopted::Not(Box::new(connection), Box::new(plan)))
    }

    /// Locks the tables of a snapshot that was taken over, and gives it on.
    fn hold(
        &self,
        mut connection: Connection,
        plan: AttemptPlan,
        folder: &str,
        from: &str,
    ) -> Result<Box<Held>, BackupError> {
        let name = plan.database.name.clone();
        let unlocked = lock_tables(&mut connection, &name)?;
        // Between the end of the one before and our locks, tables may have been emptied.
        if let Err(error) = snapshot::refuse_swapped(&mut connection, &name, None) {
            if matches!(error, BackupError::Changed { .. }) {
                self.refuse_unread(&mut connection, &plan, folder)?;
            } else {
                return Err(error);
            }
        }
        let rows = session::rows(
            &mut connection,
            &name,
            "exporting the snapshot",
            "SELECT pg_catalog.pg_export_snapshot()",
        )?;
        let row = rows.first().ok_or_else(|| BackupError::Internal("no snapshot".to_owned()))?;
        let baton = session::text(row, 0, "pg_export_snapshot")?;
        let holder = self.holder(baton, Some(from));
        let mut listed: Vec<u32> = unlocked.iter().copied().collect();
        listed.sort_unstable();
        self.objects
            .put_baton(folder, &Baton { holder: holder.clone(), unlocked: listed, left: false })?;
        let folder = folder.to_owned();
        Ok(Box::new(Held { connection, plan, folder, holder, unlocked }))
    }

    /// A table that was emptied, rewritten or dropped matters only as long as it is not read.
    fn refuse_unread(
        &self,
        connection: &mut Connection,
        plan: &AttemptPlan,
        folder: &str,
    ) -> Result<(), BackupError> {
        let done: HashSet<usize> = self
            .objects
            .names(&state::item_prefix(folder))?
            .iter()
            .filter_map(|name| state::item_of(name))
            .collect();
        let mut unread: Vec<u32> = plan
            .items
            .iter()
            .filter(|item| !done.contains(&item.id))
            .flat_map(|item| item.parts.iter().map(|part| plan.entries[part.entry].oid))
            .filter(|&oid| oid != 0)
            .collect();
        unread.sort_unstable();
        unread.dedup();
        if unread.is_empty() {
            return Ok(());
        }
        let name = &plan.database.name;
        let result = snapshot::refuse_swapped(connection, name, Some(&unread));
        if let Err(BackupError::Changed { what, .. }) = &result {
            let reason = format!(
                "{what} was emptied, rewritten or dropped while nobody held the snapshot's locks"
            );
            self.lose(folder, name, plan.attempt, Why::Other(&reason))?;
        }
        result
    }

    fn holder(&self, baton: &str, from: Option<&str>) -> Holder {
        Holder {
            lane: self.lane.lane,
            generation: self.lane.generation,
            baton: baton.to_owned(),
            from: from.map(str::to_owned),
            since: Timestamp::now(),
        }
    }

    /// Waits before the next attempt.
    fn pause_before(&self, attempt: u32, conflict: bool) -> Result<(), BackupError> {
        if attempt > 1 {
            let end = Instant::now() + dump::pause_after(attempt - 1, conflict);
            while Instant::now() < end {
                self.check()?;
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

enum Adopted {
    Held(Box<Held>),
    /// Nobody gave it; the connection is in no transaction.
    Not(Box<Connection>, Box<AttemptPlan>),
}

/// Locks every table that the snapshot sees, without waiting, and gives those that could not be
/// locked. Someone who stands in line for an exclusive lock waits for whoever holds the snapshot
/// now, and we would wait behind him, while that one waits for us.
fn lock_tables(connection: &mut Connection, database: &str) -> Result<HashSet<u32>, BackupError> {
    let tables = snapshot::list_lockable(connection, database)?;
    let mut unlocked = HashSet::new();
    for (index, some) in tables.chunks(LOCKS_AT_ONCE).enumerate() {
        match try_lock(connection, database, some)? {
            Locked::Yes => {}
            Locked::Taken => {
                for one in some.chunks(1) {
                    if !matches!(try_lock(connection, database, one)?, Locked::Yes) {
                        unlocked.extend(one.iter().map(|(oid, _)| *oid));
                    }
                }
            }
            // The server has no room: each table is then locked when it is read.
            Locked::Full => {
                let rest = tables.iter().skip(index * LOCKS_AT_ONCE);
                unlocked.extend(rest.map(|(oid, _)| *oid));
                break;
            }
        }
    }
    Ok(unlocked)
}

pub(super) enum Locked {
    Yes,
    Taken,
    Full,
}

/// Locks some tables, all or none, without waiting.
pub(super) fn try_lock(
    connection: &mut Connection,
    database: &str,
    tables: &[(u32, Vec<u8>)],
) -> Result<Locked, BackupError> {
    let names: Vec<&[u8]> = tables.iter().map(|(_, name)| name.as_slice()).collect();
    let mut sql = b"SAVEPOINT flexkeep; LOCK TABLE ONLY ".to_vec();
    sql.extend_from_slice(&names.join(&b", ONLY "[..]));
    sql.extend_from_slice(b" IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT flexkeep");
    let refused = match connection.execute(&sql) {
        Ok(()) => return Ok(Locked::Yes),
        Err(error) => match error.sqlstate() {
            Some(LOCK_NOT_AVAILABLE) => Locked::Taken,
            // Dropped or renamed meanwhile: the check of the files says so, if it matters.
            Some("42P01" | "3F000") => Locked::Taken,
            Some(OUT_OF_LOCKS) => Locked::Full,
            _ => return Err(session::failed("locking the tables", database, error)),
        },
    };
    let undo = "ROLLBACK TO SAVEPOINT flexkeep; RELEASE SAVEPOINT flexkeep";
    session::run(connection, database, "giving a lock back", undo)?;
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::scale::memory_run;

    #[test]
    fn the_newest_attempt_says_how_far_a_database_is() {
        let objects = memory_run();
        let stage = |name: &str| {
            objects.put(&format!("database-5/{name}"), &0, PutMode::Create).unwrap();
            Stage::of(&objects, 5).unwrap()
        };
        assert_eq!(Stage::of(&objects, 5).unwrap(), Stage::default());
        let first = Stage { attempt: 1, ..Stage::default() };
        assert_eq!(stage("attempt-1/plan.json.zst"), first);
        assert_eq!(stage("attempt-1/item-000000.json"), first);
        assert_eq!(stage("attempt-1/lost.json"), Stage { lost: true, ..first });
        // Its planning failed.
        assert_eq!(stage("attempt-2/lost.json"), Stage { attempt: 2, lost: true, done: false });
        assert_eq!(stage("attempt-3/plan.json.zst"), Stage { attempt: 3, ..Stage::default() });
        assert!(stage("done.json").done);
    }
}
