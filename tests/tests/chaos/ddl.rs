//! What changes tables while they are backed up, as migrations do: with a limit for waiting for
//! locks, and again if that was not enough. Each change keeps something true in every state that
//! is ever committed; the table `register` has what that is, changed in the same transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use flexkeep_pg_copy::Connection;
use flexkeep_tests::Server;

use crate::load::{Load, Shared, ask};

/// Rows of the tables that are emptied and rewritten, in every state.
pub(crate) const ROWS: u32 = 2000;

/// Most tables at once that come and go.
const MOST_MADE: i64 = 12;

/// How often each change was committed, and how often it was not.
pub(crate) type Tally = Arc<Mutex<BTreeMap<&'static str, (u32, u32)>>>;

/// What may be done to tables.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// TRUNCATE and new rows, in one transaction.
    Refill,
    /// A column goes and comes back under its name with another default.
    NewColumn,
    /// A type that rewrites the table.
    Retype,
    /// Two tables change names.
    Swap,
    /// A table is made, with as many rows as its name says.
    Create,
    /// One of those goes.
    Drop,
    /// An index anew.
    Index,
    /// REINDEX of a table that the writers use.
    Reindex,
    /// VACUUM FULL: another file with the same rows.
    VacuumFull,
}

const CHANGES: [Change; 12] = [
    Change::Refill,
    Change::Refill,
    Change::NewColumn,
    Change::NewColumn,
    Change::Retype,
    Change::Swap,
    Change::Swap,
    Change::Create,
    Change::Drop,
    Change::Index,
    Change::Reindex,
    Change::VacuumFull,
];

pub(crate) fn create_tables(server: &Server) {
    server.psql(
        "bank",
        &format!(
            "CREATE TABLE register (name text PRIMARY KEY, value bigint NOT NULL);
             INSERT INTO register VALUES ('refilled', 0), ('reshaped', 0), ('swapped', 1);
             CREATE TABLE made_register (name text PRIMARY KEY, rows bigint NOT NULL);
             CREATE TABLE refilled AS SELECT i AS id, 0::bigint AS fill, repeat(md5(i::text), 4)
                 AS text FROM generate_series(1, {ROWS}) i;
             CREATE TABLE reshaped AS SELECT i AS id, i AS value, 0 AS extra
                 FROM generate_series(1, {ROWS}) i;
             CREATE TABLE swap_a AS SELECT i AS id, 1 AS content FROM generate_series(1, {ROWS}) i;
             CREATE TABLE swap_b AS SELECT i AS id, 2 AS content FROM generate_series(1, {ROWS}) i;"
        ),
    );
}

/// Starts two threads that change tables.
pub(crate) fn start(load: &mut Load, rng: &mut Rng) -> Tally {
    let tally = Tally::default();
    for _ in 0..2 {
        let tally = Arc::clone(&tally);
        load.spawn(rng, move |shared, rng| change(shared, rng, &tally));
    }
    tally
}

fn change(shared: &Shared, rng: &mut Rng, tally: &Tally) {
    while let Some(mut connection) = shared.connect() {
        while !shared.is_over() {
            let change = CHANGES[rng.usize(..CHANGES.len())];
            let wait = Duration::from_millis(rng.u64(100..3000));
            let done = apply(&mut connection, change, wait, rng);
            let mut counts = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let (committed, refused) = counts.entry(name(change)).or_default();
            *if done.is_ok() { committed } else { refused } += 1;
            drop(counts);
            if done.is_err() && connection.execute("ROLLBACK").is_err() {
                break;
            }
            shared.rest(Duration::from_millis(rng.u64(50..800)));
        }
        if shared.is_over() {
            return;
        }
    }
}

fn name(change: Change) -> &'static str {
    match change {
        Change::Refill => "TRUNCATE",
        Change::NewColumn => "ADD COLUMN",
        Change::Retype => "ALTER TYPE",
        Change::Swap => "RENAME",
        Change::Create => "CREATE",
        Change::Drop => "DROP",
        Change::Index => "CREATE INDEX",
        Change::Reindex => "REINDEX",
        Change::VacuumFull => "VACUUM FULL",
    }
}

fn apply(
    connection: &mut Connection,
    change: Change,
    wait: Duration,
    rng: &mut Rng,
) -> Result<(), flexkeep_pg_copy::Error> {
    let wait = wait.as_millis();
    let number = rng.u32(1..1_000_000_000);
    let sql = match change {
        Change::Refill => format!(
            "TRUNCATE refilled; INSERT INTO refilled SELECT i, {number}, repeat(md5(i::text), 4) \
             FROM generate_series(1, {ROWS}) i; \
             UPDATE register SET value = {number} WHERE name = 'refilled'"
        ),
        Change::NewColumn => format!(
            "ALTER TABLE reshaped DROP COLUMN extra, ADD COLUMN extra int DEFAULT {number}; \
             UPDATE register SET value = {number} WHERE name = 'reshaped'"
        ),
        Change::Retype => {
            let types = ["int", "bigint", "numeric"];
            let to = types[rng.usize(..types.len())];
            format!("ALTER TABLE reshaped ALTER COLUMN value TYPE {to} USING value::{to}")
        }
        Change::Swap => "ALTER TABLE swap_a RENAME TO swap_c; \
             ALTER TABLE swap_b RENAME TO swap_a; ALTER TABLE swap_c RENAME TO swap_b; \
             UPDATE register SET value = 3 - value WHERE name = 'swapped'"
            .to_owned(),
        Change::Create => {
            if ask(connection, "SELECT count(*) FROM made_register")? >= MOST_MADE {
                return Ok(());
            }
            let rows = rng.u32(0..3000);
            let name = format!("made_{number}");
            format!(
                "CREATE TABLE {name} AS SELECT i AS id FROM generate_series(1, {rows}) i; \
                 INSERT INTO made_register VALUES ('{name}', {rows})"
            )
        }
        Change::Drop => {
            let rows = connection.query("SELECT name FROM made_register ORDER BY name LIMIT 5")?;
            let names: Vec<&str> = rows.iter().filter_map(|row| row.get(0)).collect();
            if names.is_empty() {
                return Ok(());
            }
            let name = names[rng.usize(..names.len())];
            format!("DROP TABLE {name}; DELETE FROM made_register WHERE name = '{name}'")
        }
        Change::Index => "DROP INDEX IF EXISTS refilled_fill; \
             CREATE INDEX refilled_fill ON refilled (fill)"
            .to_owned(),
        Change::Reindex => "REINDEX TABLE accounts".to_owned(),
        Change::VacuumFull => {
            // In no transaction.
            connection.execute(format!("SET lock_timeout = {wait}"))?;
            return connection.execute("VACUUM FULL refilled");
        }
    };
    connection.execute(format!("BEGIN; SET LOCAL lock_timeout = {wait}; {sql}; COMMIT"))
}
