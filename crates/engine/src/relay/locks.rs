//! Advisory locks on the source, by which lanes agree without a coordinator. They are of a
//! session, so they end with it: a lane that dies leaves none behind. They are of a database too,
//! so lanes that read the same database share them.

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::{ContentHash, RunId, ServerName, Vault};

use super::todo::Claims;
use crate::error::BackupError;
use crate::session;

/// What is locked, besides items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Held shared by whoever holds the current snapshot; exclusively by whoever takes one, or
    /// finds out that nobody holds it any more.
    Snapshot,
    /// The one connection more than lanes: a successor until its predecessor has gone, or pg_dump.
    Extra,
    /// Writing down that the database is done.
    Finish,
    /// Being this generation of this lane.
    Lane(u32, u32),
}

/// Generations of a lane that are told apart; a later one that has the number of one that is at work
/// would only wait for it.
const GENERATIONS: u32 = 1 << 20;

/// Lanes that are told apart; a policy allows far fewer.
const LANES: u32 = 1 << 10;

impl Key {
    fn number(self) -> u32 {
        match self {
            Self::Snapshot => 0,
            Self::Extra => 1,
            Self::Finish => 2,
            Self::Lane(lane, generation) => {
                16 + lane % LANES * GENERATIONS + generation % GENERATIONS
            }
        }
    }
}

/// Another session that is at work as a lane.
pub(super) struct OtherInLane {
    pub(super) generation: u32,
    /// It has sent for its successor, and goes when that one is there: it holds [`Key::Extra`] too.
    pub(super) gives_way: bool,
}

/// The locks of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locks {
    run: i32,
}

impl Locks {
    pub(super) fn of(vault: &Vault, server: &ServerName, run: &RunId) -> Self {
        Self { run: class(&format!("flexkeep run\n{}\n{server}\n{}", vault.id(), run.as_str())) }
    }

    /// Takes a lock if it is free.
    pub(super) fn try_lock(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        self.ask(connection, database, "pg_try_advisory_lock", key)
    }

    /// Takes a lock if nobody has it in any database: advisory locks are of one database, what they
    /// stand for here is of the server. Two who ask at the same moment may both be refused; they
    /// ask again.
    pub(super) fn try_lock_everywhere(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        if !self.try_lock(connection, database, key)? {
            return Ok(false);
        }
        let sql = format!(
            "SELECT (EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE {} AND l.objid = {} \
             AND l.pid <> pg_catalog.pg_backend_pid()))::int",
            self.granted("l"),
            key.number()
        );
        if ask_for_one(connection, database, &sql)? {
            self.unlock(connection, database, key)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes a lock that others may hold too, if nobody holds it for himself.
    pub(super) fn try_share(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        self.ask(connection, database, "pg_try_advisory_lock_shared", key)
    }

    /// Whether another session holds a lock of this database, alone or with others.
    pub(super) fn is_held_by_others(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        let sql = format!(
            "SELECT (EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE {} AND l.objid = {} \
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d \
                               WHERE d.datname = pg_catalog.current_database()) \
             AND l.pid <> pg_catalog.pg_backend_pid()))::int",
            self.granted("l"),
            key.number()
        );
        ask_for_one(connection, database, &sql)
    }

    /// The other sessions that are at work as a lane, in whatever database.
    pub(super) fn others_in_lane(
        self,
        connection: &mut Connection,
        database: &str,
        lane: u32,
    ) -> Result<Vec<OtherInLane>, BackupError> {
        let first = Key::Lane(lane, 0).number();
        let sql = format!(
            "SELECT p.objid::bigint - {first}, (EXISTS (SELECT FROM pg_catalog.pg_locks e \
             WHERE e.pid = p.pid AND {} AND e.objid = {}))::int FROM pg_catalog.pg_locks p \
             WHERE {} AND p.objid BETWEEN {first} AND {} AND p.pid <> pg_catalog.pg_backend_pid()",
            self.granted("e"),
            Key::Extra.number(),
            self.granted("p"),
            first + GENERATIONS - 1
        );
        let rows = session::rows(connection, database, "looking for others in this lane", &sql)?;
        let other = |row: &pg::Row| {
            Ok(OtherInLane {
                generation: session::number(row, 0, "generation")?,
                gives_way: session::number::<u8>(row, 1, "lane that gives way")? == 1,
            })
        };
        rows.iter().map(other).collect()
    }

    /// The condition on a row of `pg_locks`: one of the run's locks, and held.
    fn granted(self, row: &str) -> String {
        format!(
            "{row}.locktype = 'advisory' AND {row}.granted AND {row}.objsubid = 2 \
             AND {row}.classid = ({}::bigint & 4294967295)::oid",
            self.run
        )
    }

    /// Gives a lock back that was not shared; `false` when it was not held.
    pub(super) fn unlock(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        self.ask(connection, database, "pg_advisory_unlock", key)
    }

    /// Gives a lock back that was shared.
    pub(super) fn unshare(
        self,
        connection: &mut Connection,
        database: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        self.ask(connection, database, "pg_advisory_unlock_shared", key)
    }

    fn ask(
        self,
        connection: &mut Connection,
        database: &str,
        function: &str,
        key: Key,
    ) -> Result<bool, BackupError> {
        let sql = format!("SELECT pg_catalog.{function}({}, {})::int", self.run, key.number());
        let rows = session::rows(connection, database, "taking an advisory lock", &sql)?;
        let row = rows.first().ok_or_else(|| BackupError::Internal("no lock row".to_owned()))?;
        Ok(session::number::<u8>(row, 0, "advisory lock")? == 1)
    }

    /// Whether any lane of the run has a session on the server, in whatever database.
    pub(super) fn any_lane(self, connection: &mut Connection) -> Result<bool, BackupError> {
        let sql = format!(
            "SELECT (EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' \
             AND l.granted AND l.classid = ({}::bigint & 4294967295)::oid))::int",
            self.run
        );
        let rows = session::rows(connection, "", "looking for lanes at work", &sql)?;
        let row = rows.first().ok_or_else(|| BackupError::Internal("no lane row".to_owned()))?;
        Ok(session::number::<u8>(row, 0, "lanes")? == 1)
    }

    /// Ends every session of the run's lanes, in whatever database.
    pub(super) fn end_all(self, connection: &mut Connection) -> Result<(), BackupError> {
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(p.pid) FROM (SELECT DISTINCT l.pid \
             FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
             AND l.objsubid = 2 AND l.classid = ({}::bigint & 4294967295)::oid \
             AND l.pid <> pg_catalog.pg_backend_pid()) p",
            self.run
        );
        session::run(connection, "", "ending sessions without a lane", sql)
    }

    /// The locks of one snapshot's items.
    pub(super) fn items(self, oid: u32, attempt: u32) -> ItemLocks {
        ItemLocks(class(&format!("flexkeep items\n{}\n{oid}\n{attempt}", self.run)))
    }
}

/// Claims of items.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemLocks(i32);

impl ItemLocks {
    /// Claims the first of `items` that nobody else has.
    pub(super) fn claim(
        self,
        connection: &mut Connection,
        database: &str,
        items: &[usize],
    ) -> Result<Option<usize>, BackupError> {
        let list: Vec<String> = items.iter().map(usize::to_string).collect();
        // The set is asked one by one, in order, and no further than the limit: a lock that is
        // taken and not given would be ours without our knowing. OFFSET 0 keeps the planner from
        // moving the condition.
        let sql = format!(
            "SELECT i FROM (SELECT i FROM pg_catalog.unnest('{{{}}}'::int[]) i OFFSET 0) s \
             WHERE pg_catalog.pg_try_advisory_lock({}, i) LIMIT 1",
            list.join(","),
            self.0
        );
        let rows = session::rows(connection, database, "claiming an item", &sql)?;
        rows.first().map(|row| session::number(row, 0, "claim")).transpose()
    }

    /// Ends the sessions of others that hold claims, except those of `alive`; gives how many.
    pub(super) fn end_others(
        self,
        connection: &mut Connection,
        database: &str,
        alive: &[i32],
    ) -> Result<usize, BackupError> {
        let alive: Vec<String> = alive.iter().map(i32::to_string).collect();
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(p.pid)::int FROM (\
             SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' \
             AND l.granted AND l.objsubid = 2 AND l.classid = ({}::bigint & 4294967295)::oid \
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d \
                               WHERE d.datname = pg_catalog.current_database()) \
             AND l.pid <> pg_catalog.pg_backend_pid() \
             AND l.pid <> ALL ('{{{}}}'::int[])) p",
            self.0,
            alive.join(",")
        );
        Ok(session::rows(connection, database, "ending sessions without a lane", &sql)?.len())
    }

    /// Gives claims back.
    pub(super) fn release(
        self,
        connection: &mut Connection,
        database: &str,
        items: &[usize],
    ) -> Result<(), BackupError> {
        if items.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = items.iter().map(usize::to_string).collect();
        let sql = format!(
            "SELECT pg_catalog.pg_advisory_unlock({}, i) \
             FROM pg_catalog.unnest('{{{}}}'::int[]) i",
            self.0,
            list.join(",")
        );
        session::run(connection, database, "giving items back", sql)
    }
}

/// The claims of a session.
pub(super) struct SessionClaims<'c> {
    pub(super) items: ItemLocks,
    pub(super) connection: &'c mut Connection,
    pub(super) database: &'c str,
}

impl Claims for SessionClaims<'_> {
    fn claim(&mut self, items: &[usize]) -> Result<Option<usize>, BackupError> {
        self.items.claim(self.connection, self.database, items)
    }

    fn release(&mut self, items: &[usize]) -> Result<(), BackupError> {
        self.items.release(self.connection, self.database, items)
    }
}

/// What a query says that gives 0 or 1.
fn ask_for_one(
    connection: &mut Connection,
    database: &str,
    sql: &str,
) -> Result<bool, BackupError> {
    let rows = session::rows(connection, database, "looking for other lanes", sql)?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no lane row".to_owned()))?;
    Ok(session::number::<u8>(row, 0, "lanes")? == 1)
}

fn class(text: &str) -> i32 {
    let [a, b, c, d, ..] = *ContentHash::of(text.as_bytes()).as_bytes();
    i32::from_be_bytes([a, b, c, d])
}
