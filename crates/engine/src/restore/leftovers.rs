//! What a killed restore still has on the server: sessions that have not noticed that their client
//! is gone. Until they end, what they have not yet committed can't be seen, and comes later.

use std::time::{Duration, Instant};

use super::error::RestoreError;
use super::lane::end_session;
use super::target::{APPLICATION, Db, number};

/// Identifies restores among the advisory locks of a database: `fkrestor` in ASCII.
const LOCK: i64 = 0x666b_7265_7374_6f72;

/// How long the sessions of a killed restore may outlive it.
const WAIT: Duration = Duration::from_secs(30);

/// How soon it is looked again.
const TICK: Duration = Duration::from_millis(200);

/// Takes the lock of the database, and ends what a killed restore left behind.
pub(super) fn lock(control: &mut Db) -> Result<(), RestoreError> {
    const DOING: &str = "locking the database against other restores";
    let until = Instant::now() + WAIT;
    while !control.is_true(DOING, &format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK})"))? {
        if Instant::now() > until {
            return Err(RestoreError::Busy { database: control.name.clone() });
        }
        std::thread::sleep(TICK);
    }
    // Who only waits for the lock has another name.
    let rows = control.rows(
        DOING,
        format!(
            "SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = '{APPLICATION}' \
             AND usename = session_user AND datname = pg_catalog.current_database() \
             AND pid <> pg_catalog.pg_backend_pid()"
        ),
    )?;
    for row in &rows {
        end_session(control, number(row, 0))?;
    }
    Ok(())
}

/// Waits until nothing of a killed restore is at work in this database, and gives the lock back.
pub(super) fn settle(db: &mut Db) -> Result<(), RestoreError> {
    lock(db)?;
    db.run("unlocking the database", format!("SELECT pg_catalog.pg_advisory_unlock({LOCK})"))
}

/// Waits until no restore of this user is making a database: the server goes on with that to its
/// end when the client is killed, and lists the database only then. After the limit the database
/// that is being made is told about where it is in the way.
pub(super) fn wait_for_creations(db: &mut Db) -> Result<(), RestoreError> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity \
         WHERE application_name = '{APPLICATION}' AND usename = session_user \
         AND pid <> pg_catalog.pg_backend_pid() AND state = 'active' \
         AND pg_catalog.lower(query) LIKE 'create database %')"
    );
    let until = Instant::now() + WAIT;
    db.as_session_user(|db| {
        while db.is_true("waiting for a database that is being made", &sql)? {
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    })
}
