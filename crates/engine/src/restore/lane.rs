//! One connection that writes, and goes on after it broke.

use std::time::{Duration, Instant};

use flexkeep_pg_copy as pg;
use flexkeep_vault::VaultError;

use super::error::RestoreError;
use super::journal::{self, Done};
use super::lanes::DatabaseWork;
use super::target::Db;
use crate::error::chain;

/// How often something is tried when the connection breaks or others are in its way.
const TRIES: u32 = 6;

/// How long a session that lost its client may go on before its work is looked at.
const OLD_SESSION: Duration = Duration::from_secs(60);

/// Why a piece of work was not done.
pub(super) enum Trouble {
    /// The same may succeed on another try.
    Passing(pg::Error),
    Server(pg::Error),
    Vault(VaultError),
    /// The backup contradicts itself.
    Wrong(String),
    /// The target has forgotten what it had committed: it crashed.
    Lost,
    Restore(RestoreError),
    Cancelled,
}

/// A connection, opened when it is needed.
pub(super) struct Lane<'a> {
    pub(super) db_work: &'a DatabaseWork<'a>,
    db: Option<Db>,
    /// The session of the connection that broke.
    pid: Option<i32>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(db_work: &'a DatabaseWork<'a>) -> Self {
        Self { db_work, db: None, pid: None }
    }

    /// Does a piece of work whose transaction writes the line `entry`, `part` of the journal, and
    /// tries again after what may pass. Gives the rows that came. `believed` is what the journal
    /// must have by now.
    pub(super) fn work(
        &mut self,
        (entry, part): (i32, i32),
        believed: &dyn Fn() -> Done,
        mut work: impl FnMut(&mut Db) -> Result<u64, Trouble>,
    ) -> Result<u64, Trouble> {
        let mut tried = 0;
        loop {
            tried += 1;
            let result = match self.connect((entry, part), believed) {
                Ok(Some(rows)) => Ok(rows),
                Ok(None) => self.db.as_mut().map_or(Err(Trouble::Cancelled), &mut work),
                Err(trouble) => Err(trouble),
            };
            if result.is_err() {
                self.after_error();
            }
            if self.db_work.target.stop.load(std::sync::atomic::Ordering::Acquire)
                && !self.db_work.progress.is_cancelled()
            {
                return result;
            }
            if self.db_work.progress.is_cancelled() {
                return result.map_err(|_| Trouble::Cancelled);
            }
            match result {
                Err(Trouble::Passing(error)) if tried < TRIES => {
                    tracing::warn!("trying again: {}", chain(&error));
                    self.rest(tried);
                }
                other => return other,
            }
        }
    }

    fn rest(&self, tried: u32) {
        let until = Instant::now() + Duration::from_millis(250) * 2_u32.pow(tried);
        while Instant::now() < until && !self.db_work.progress.is_cancelled() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// After an error a session is used on only if it stands as it did before.
    fn after_error(&mut self) {
        let Some(mut db) = self.db.take() else { return };
        let back = !self.db_work.progress.is_cancelled()
            && db.connection.is_usable()
            && db.run("undoing", "ROLLBACK; RESET ROLE").is_ok();
        if back {
            self.db = Some(db);
            return;
        }
        self.pid = Some(db.connection.backend_pid());
        if self.db_work.progress.is_cancelled() {
            // The server would finish the statement, and only then notice that nobody waits for it.
            let _ = db.connection.cancel_handle().cancel();
        }
    }

    /// Makes sure that there is a connection. If one broke, whatever it was doing has ended, and
    /// the rows that its work brought are given if it had been committed.
    ///
    /// No commit of a restore waits for the disk, and a crash ends every session. So a session that
    /// lives has lost nothing since it began, and a new one looks before it works.
    fn connect(
        &mut self,
        (entry, part): (i32, i32),
        believed: &dyn Fn() -> Done,
    ) -> Result<Option<u64>, Trouble> {
        if self.db.is_some() {
            return Ok(None);
        }
        let mut db = self.db_work.target.open_patient(self.db_work.database).map_err(of_restore)?;
        let encoding = self.db_work.parts.summary.encoding.as_str();
        db.prepare(Some(encoding), self.db_work.target.stall).map_err(of_restore)?;
        db.run("preparing the session", self.db_work.settings).map_err(of_restore)?;
        db.name_at_work().map_err(of_restore)?;
        if let Some(pid) = self.pid {
            end_session(&mut db, pid).map_err(of_restore)?;
            self.pid = None;
        }
        // In this order: others go on meanwhile.
        let believed = believed();
        let there = journal::read(&mut db).map_err(of_restore)?;
        if !believed.is_within(&there) {
            return Err(Trouble::Lost);
        }
        self.db = Some(db);
        Ok(there.line(entry, part))
    }
}

pub(super) fn of_server(error: pg::Error) -> Trouble {
    if error.is_transient() { Trouble::Passing(error) } else { Trouble::Server(error) }
}

fn of_restore(error: RestoreError) -> Trouble {
    match error {
        RestoreError::Connect { source, .. } | RestoreError::Server { source, .. }
            if source.is_transient() =>
        {
            Trouble::Passing(*source)
        }
        other => Trouble::Restore(other),
    }
}

/// Whether nothing else will succeed either: no room on the target, or no right to write at all.
pub(super) fn ends_all(error: &pg::Error) -> bool {
    matches!(error.sqlstate(), None | Some("53100" | "25006" | "57014" | "57P04"))
}

/// Ends a session of our own, and waits until it is gone.
pub(super) fn end_session(db: &mut Db, pid: i32) -> Result<(), RestoreError> {
    db.as_session_user(|db| end(db, pid))
}

fn end(db: &mut Db, pid: i32) -> Result<(), RestoreError> {
    const DOING: &str = "ending an old session";
    let until = Instant::now() + OLD_SESSION;
    loop {
        let gone = db.is_true(
            DOING,
            &format!(
                "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) = 0 \
                 FROM pg_catalog.pg_stat_activity WHERE pid = {pid} \
                 AND usename = session_user AND datname = pg_catalog.current_database()"
            ),
        )?;
        if gone {
            return Ok(());
        }
        if Instant::now() > until {
            let name = db.name.clone();
            return Err(RestoreError::Busy { database: name });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
