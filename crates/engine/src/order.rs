//! Dependencies that pg_dump leaves out and a parallel pg_restore needs.
//!
//! `pg_restore --jobs` starts an entry when all that it depends on is there. pg_dump says that an
//! index or a trigger of a table waits for the table's rows. A trigger of a partitioned table,
//! which has no rows of its own, waits for nothing: pg_restore may create it (and by that the
//! triggers of all partitions) while rows are still being loaded, and it fires for them. The
//! rows of extensions' configuration tables do not wait for those that their foreign keys point to
//! either, though pg_dump writes them in the right order. Both are added here; a serial restore is
//! the same with and without.

use std::collections::{HashMap, HashSet};

use flexkeep_pg_archive::{Entry, EntryFields, Section, Toc, TocError};
use flexkeep_pg_copy::Connection;

use crate::error::BackupError;
use crate::session;

/// A table of an extension, and another whose rows its rows point to, as oids.
pub(crate) type Reference = (u32, u32);

/// Asks for the foreign keys between configuration tables of extensions.
pub(crate) fn extension_references(
    connection: &mut Connection,
    database: &str,
) -> Result<Vec<Reference>, BackupError> {
    const QUERY: &str = "extension foreign keys";
    session::rows(
        connection,
        database,
        "listing the foreign keys of extensions",
        "SELECT c.conrelid, c.confrelid FROM pg_catalog.pg_constraint c \
         WHERE c.contype = 'f' AND c.conrelid <> c.confrelid AND EXISTS \
         (SELECT FROM pg_catalog.pg_extension e WHERE c.conrelid = ANY (e.extconfig)) ORDER BY 1, 2",
    )?
    .iter()
    .map(|row| Ok((session::number(row, 0, QUERY)?, session::number(row, 1, QUERY)?)))
    .collect()
}

/// Adds what is missing. Every new dependency points to an entry that stands before, or from
/// post-data to data, so there can be no ring.
pub(crate) fn complete(toc: Toc, references: &[Reference]) -> Result<Toc, TocError> {
    let waits = Waits::of(&toc, references);
    let (header, entries) = toc.into_parts();
    let entries = entries.into_iter().map(|entry| {
        let mut dependencies = entry.dependencies().to_vec();
        let mut seen: HashSet<i32> = dependencies.iter().copied().collect();
        dependencies.extend(waits.of_entry(&entry).into_iter().filter(|id| seen.insert(*id)));
        if dependencies.len() == entry.dependencies().len() {
            return Ok(entry);
        }
        Entry::new(EntryFields { dependencies: &dependencies, ..entry.fields() })
    });
    Toc::new(header, entries.collect::<Result<_, _>>()?)
}

struct Waits {
    /// From a partitioned table's entry to the data entries of all tables below it.
    below: HashMap<i32, Vec<i32>>,
    /// From a data entry to those that it must follow.
    after: HashMap<i32, Vec<i32>>,
}

impl Waits {
    fn of(toc: &Toc, references: &[Reference]) -> Self {
        let mut tables: HashMap<(&[u8], &[u8]), i32> = HashMap::new();
        let mut data_of_table: HashMap<i32, i32> = HashMap::new();
        let mut data_of_oid: HashMap<u32, (usize, i32)> = HashMap::new();
        for (position, entry) in toc.entries().iter().enumerate() {
            match entry.desc() {
                Some(b"TABLE") => {
                    tables.insert(name(entry), entry.dump_id());
                }
                Some(b"TABLE DATA") => {
                    data_of_oid.insert(entry.oid(), (position, entry.dump_id()));
                    if let Some(table) = entry.dependencies().first() {
                        data_of_table.insert(*table, entry.dump_id());
                    }
                }
                _ => {}
            }
        }
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for entry in toc.entries().iter().filter(|e| e.desc() == Some(b"TABLE ATTACH")) {
            // It bears the name of the partition, and depends on that and on the parent.
            let Some(&child) = tables.get(&name(entry)) else { continue };
            for parent in entry.dependencies().iter().filter(|id| **id != child) {
                children.entry(*parent).or_default().push(child);
            }
        }
        let below = children
            .keys()
            .map(|&parent| (parent, data_below(parent, &children, &data_of_table)))
            .collect();
        let mut after: HashMap<i32, Vec<i32>> = HashMap::new();
        for (from, to) in references {
            if let (Some(&(late, from)), Some(&(early, to))) =
                (data_of_oid.get(from), data_of_oid.get(to))
                && early < late
            {
                after.entry(from).or_default().push(to);
            }
        }
        Self { below, after }
    }

    fn of_entry(&self, entry: &Entry) -> Vec<i32> {
        if entry.section() == Section::PostData {
            let parents = entry.dependencies().iter().filter_map(|id| self.below.get(id));
            return parents.flatten().copied().collect();
        }
        self.after.get(&entry.dump_id()).cloned().unwrap_or_default()
    }
}

fn name(entry: &Entry) -> (&[u8], &[u8]) {
    (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default())
}

fn data_below(
    parent: i32,
    children: &HashMap<i32, Vec<i32>>,
    data_of_table: &HashMap<i32, i32>,
) -> Vec<i32> {
    let mut data = Vec::new();
    let mut seen = HashSet::new();
    let mut open = vec![parent];
    while let Some(table) = open.pop() {
        if seen.insert(table) {
            data.extend(data_of_table.get(&table));
            open.extend(children.get(&table).into_iter().flatten());
        }
    }
    data.sort_unstable();
    data
}

#[cfg(test)]
mod tests {
    use flexkeep_pg_archive::{Limits, Offset};

    use super::*;

    /// The head of a real archive, with these entries.
    fn toc(entries: Vec<Entry>) -> Toc {
        const REAL: &[u8] = include_bytes!("../../pg-archive/tests/fixtures/pg18-file-zstd.dump");
        let (header, _) = Toc::read(&mut &*REAL, &Limits::default()).unwrap().into_parts();
        Toc::new(header, entries).unwrap()
    }

    fn entry(dump_id: i32, desc: &str, tag: &str, section: Section, dependencies: &[i32]) -> Entry {
        Entry::new(EntryFields {
            dump_id,
            had_dumper: false,
            table_oid: 0,
            oid: dump_id as u32,
            tag: Some(tag.as_bytes()),
            desc: Some(desc.as_bytes()),
            section,
            defn: None,
            drop_stmt: None,
            copy_stmt: None,
            namespace: Some(b"public"),
            tablespace: None,
            tableam: None,
            relkind: 0,
            owner: None,
            with_oids: false,
            dependencies,
            offset: Offset::NoData,
        })
        .unwrap()
    }

    #[test]
    fn a_trigger_of_a_partitioned_table_waits_for_the_rows_of_all_partitions() {
        let toc = toc(vec![
            entry(1, "TABLE", "log", Section::PreData, &[]),
            entry(2, "TABLE", "log_a", Section::PreData, &[]),
            entry(3, "TABLE", "log_b", Section::PreData, &[]),
            entry(4, "TABLE", "log_b_1", Section::PreData, &[]),
            entry(5, "TABLE ATTACH", "log_a", Section::PreData, &[1, 2]),
            entry(6, "TABLE ATTACH", "log_b", Section::PreData, &[3, 1]),
            entry(7, "TABLE ATTACH", "log_b_1", Section::PreData, &[3, 4]),
            entry(8, "TABLE DATA", "log_a", Section::Data, &[2]),
            entry(9, "TABLE DATA", "log_b_1", Section::Data, &[4]),
            entry(10, "TRIGGER", "log on_insert", Section::PostData, &[1]),
            entry(11, "INDEX", "log_a_idx", Section::PostData, &[2]),
        ]);
        let toc = complete(toc, &[]).unwrap();
        assert_eq!(toc.get(10).unwrap().dependencies(), [1, 8, 9]);
        assert_eq!(toc.get(11).unwrap().dependencies(), [2]);
        assert_eq!(toc.get(8).unwrap().dependencies(), [2]);
    }

    #[test]
    fn rows_of_an_extension_wait_for_those_they_point_to_but_never_in_a_ring() {
        let toc = toc(vec![
            entry(1, "TABLE DATA", "kinds", Section::Data, &[20]),
            entry(2, "TABLE DATA", "things", Section::Data, &[21]),
        ]);
        let toc = complete(toc, &[(2, 1), (1, 2)]).unwrap();
        assert_eq!(toc.get(2).unwrap().dependencies(), [21, 1]);
        assert_eq!(toc.get(1).unwrap().dependencies(), [20]);
    }
}
