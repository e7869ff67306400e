//! Unlogged tables and sequences: when the target crashes, its recovery empties them, and the journal,
//! which is logged, does not know.

use std::collections::HashSet;

use flexkeep_pg_archive::Entry;

use super::choose::Item;
use super::error::RestoreError;
use super::journal::Done;
use super::parts::{Role, desc};
use super::statement::qualified;
use super::target::Db;

/// The entries whose rows came and are gone, and the positions of all unlogged sequences if the server
/// has crashed.
pub(super) fn lost(db: &mut Db, item: &Item<'_>, done: &Done) -> Result<Vec<i32>, RestoreError> {
    const DOING: &str = "looking at unlogged tables";
    let rows = db.rows(
        DOING,
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'S')",
    )?;
    let cell = |row: &flexkeep_pg_copy::Row, at| row.get_bytes(at).unwrap_or_default().to_vec();
    let unlogged: HashSet<(Vec<u8>, Vec<u8>)> =
        rows.iter().map(|row| (cell(row, 0), cell(row, 1))).collect();
    let is_unlogged = |entry: &&Entry| {
        let (schema, name) =
            (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default());
        unlogged.contains(&(schema.to_vec(), name.to_vec()))
    };
    let places = item.selection.places(&[Role::Data]);
    let entries: Vec<&Entry> =
        places.iter().map(|place| &item.parts.entries()[*place]).filter(is_unlogged).collect();
    let mut lost = Vec::new();
    for entry in entries.iter().filter(|entry| desc(entry) == b"TABLE DATA") {
        if done.rows(entry.dump_id()) == 0 {
            continue;
        }
        let sql = [b"SELECT EXISTS (SELECT FROM ONLY ", &qualified(entry)[..], b")"].concat();
        let found = db.rows(DOING, sql)?;
        if found.first().and_then(|row| row.get(0)) != Some("t") {
            lost.push(entry.dump_id());
        }
    }
    for entry in entries.iter().filter(|entry| desc(entry) == b"SEQUENCE SET") {
        // As after its definition: nobody has called it since.
        let sql = [b"SELECT NOT is_called FROM ", &qualified(entry)[..]].concat();
        let found = db.rows(DOING, sql)?;
        let reset = found.first().and_then(|row| row.get(0)) == Some("t");
        let was_called =
            entry.defn().is_some_and(|defn| defn.windows(4).any(|four| four == b"true"));
        if reset && was_called && done.has(entry.dump_id(), 0) {
            lost.push(entry.dump_id());
        }
    }
    Ok(lost)
}
