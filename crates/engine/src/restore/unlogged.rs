//! Unlogged tables and sequences: when the target crashes, its recovery empties them, and the journal,
//! which is logged, does not know.

use std::collections::HashSet;

use flexkeep_pg_archive::Entry;

use super::choose::Item;
use super::error::RestoreError;
use super::journal::{self, Done};
use super::parts::{Role, by_target, desc};
use super::statement::qualified;
use super::target::{Db, number};

const DOING: &str = "looking at unlogged tables";

/// How closely rows are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All are counted: others may have come since the crash.
    Count,
    /// Nothing has been loaded since, so either all are there or none.
    Any,
}

/// What a crash has taken.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Entries that the journal must forget.
    entries: Vec<i32>,
    /// What must be emptied with it: all unlogged tables, as they may point to each other.
    tables: Vec<Vec<u8>>,
}

impl Lost {
    pub(super) fn is_nothing(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Looks what is not there although the journal has it.
pub(super) fn lost(
    db: &mut Db,
    item: &Item<'_>,
    done: &Done,
    look: Look,
) -> Result<Lost, RestoreError> {
    let unlogged = unlogged(db)?;
    let is_unlogged = |entry: &&Entry| {
        let (schema, name) =
            (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default());
        unlogged.contains(&(schema.to_vec(), name.to_vec()))
    };
    let mut lost = Lost::default();
    if unlogged.is_empty() {
        return Ok(lost);
    }
    let places = item.selection.places(&[Role::Data]);
    let entries: Vec<&Entry> = places.iter().map(|place| &item.parts.entries()[*place]).collect();
    let mut differs = false;
    for group in by_target(entries.iter().copied()).into_values() {
        if !group.iter().any(is_unlogged) {
            continue;
        }
        let expected: u64 = group.iter().map(|entry| done.rows(entry.dump_id())).sum();
        differs |= expected > 0 && count(db, &group, look)? != expected.min(most(look));
        lost.entries.extend(group.iter().map(|entry| entry.dump_id()));
        lost.tables.extend(group.iter().map(|entry| qualified(entry)));
    }
    if !differs {
        lost = Lost::default();
    }
    let sequences = entries.iter().filter(|entry| desc(entry) == b"SEQUENCE SET");
    for entry in sequences.copied().filter(is_unlogged) {
        // As after its definition: nobody has called it since.
        let sql = [b"SELECT NOT is_called FROM ", &qualified(entry)[..]].concat();
        let found = db.rows(DOING, sql)?;
        let reset = found.first().and_then(|row| row.get(0)) == Some("t");
        let was_called =
            entry.defn().is_some_and(|defn| defn.windows(4).any(|four| four == b"true"));
        if reset && was_called && done.has(entry.dump_id(), 0) {
            lost.entries.push(entry.dump_id());
        }
    }
    Ok(lost)
}

/// Empties what is half there and takes it out of the journal, so that it is loaded again.
pub(super) fn forget(
    db: &mut Db,
    done: &mut Done,
    lost: &Lost,
    replica: bool,
) -> Result<(), RestoreError> {
    let mut sql = b"BEGIN;".to_vec();
    if replica {
        sql.extend_from_slice(b"SET LOCAL session_replication_role = replica;");
    }
    if !lost.tables.is_empty() {
        let only: Vec<Vec<u8>> =
            lost.tables.iter().map(|table| [b"ONLY ", &table[..]].concat()).collect();
        sql.extend_from_slice(&[b"TRUNCATE ", &only.join(&b", "[..])[..], b";"].concat());
    }
    sql.extend_from_slice(journal::forget_sql(&lost.entries).as_bytes());
    sql.extend_from_slice(b"COMMIT");
    let result = db.run("emptying what a crash has emptied in part", sql);
    if result.is_err() && db.connection.is_usable() {
        // The first error counts.
        let _ = db.run("undoing", "ROLLBACK");
    }
    result?;
    done.forget(&lost.entries);
    Ok(())
}

/// Schema and name.
type Name = (Vec<u8>, Vec<u8>);

/// All unlogged tables and sequences.
fn unlogged(db: &mut Db) -> Result<HashSet<Name>, RestoreError> {
    let rows = db.rows(
        DOING,
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'S')",
    )?;
    let cell = |row: &flexkeep_pg_copy::Row, at| row.get_bytes(at).unwrap_or_default().to_vec();
    Ok(rows.iter().map(|row| (cell(row, 0), cell(row, 1))).collect())
}

fn most(look: Look) -> u64 {
    if look == Look::Any { 1 } else { u64::MAX }
}

/// How many rows the tables have; with [`Look::Any`] at most 1.
fn count(db: &mut Db, tables: &[&Entry], look: Look) -> Result<u64, RestoreError> {
    let mut rows = 0;
    for table in tables {
        let name = qualified(table);
        let sql = match look {
            Look::Count => [b"SELECT pg_catalog.count(*) FROM ONLY ", &name[..]].concat(),
            Look::Any => [b"SELECT 1 FROM ONLY ", &name[..], b" LIMIT 1"].concat(),
        };
        rows += db.rows(DOING, sql)?.first().map_or(0, |row| number::<u64>(row, 0));
    }
    Ok(rows.min(most(look)))
}
