//! Cuts a database's data into slices, and slices into items of work.
//!
//! A slice is what one COPY reads: a range of pages, a whole small table, or some large objects.
//! It begins and ends at a multiple of its entry's step, and the step is taken over from the last
//! backup, so that a page that did not change lies in the same slice as last week and its slice
//! makes the same chunk. An item is what a lane takes at once: neighbouring slices of one big
//! table, or several small tables.

use std::collections::{HashMap, VecDeque};

use flexkeep_pg_archive::{Entry, Toc, copy_statement};
use flexkeep_vault::contents::{Cut, EntryKind};

use crate::error::BackupError;
use crate::session;
use crate::snapshot::{Leader, TableFacts};

/// A table is cut into about this many slices: a change in one place then costs about half a
/// percent of the table.
const SLICES_PER_TABLE: u64 = 384;

/// The smallest slice that a table is cut into, bytes on disk: below, the cost of one object a
/// slice outweighs.
const SMALLEST_SLICE_BYTES: u64 = 512 << 10;

/// The largest slice, bytes on disk. COPY text is mostly about as long as the rows on disk.
const LARGEST_SLICE_BYTES: u64 = 8 << 20;

/// Large objects read by one COPY.
const OBJECTS_PER_SLICE: u32 = 1000;

/// Largest item, bytes on disk: small enough that no lane is left alone for long at the end.
const LARGEST_ITEM_BYTES: u64 = 64 << 20;

/// Most slices of an item, so that a database of empty tables is shared among lanes too.
const MOST_SLICES_PER_ITEM: u64 = 200;

/// One archive entry with data, and how it is read.
#[derive(Debug)]
pub(crate) struct PlannedEntry {
    pub(crate) dump_id: i32,
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    pub(crate) oid: u32,
    pub(crate) cut: Cut,
    pub(crate) source: EntrySource,
    pub(crate) slices: u64,
    /// Size on disk of one slice, for progress and balance.
    pub(crate) slice_bytes: u64,
}

/// Where an entry's data comes from.
#[derive(Debug)]
pub(crate) enum EntrySource {
    Table {
        /// Qualified and quoted.
        relation: Vec<u8>,
        /// The column list as in a SELECT, empty when there is no column to dump.
        columns: Vec<u8>,
        /// `WHERE ...` of an extension's configuration table, or empty.
        condition: Vec<u8>,
    },
    LargeObjects {
        oids: Vec<u32>,
    },
}

impl PlannedEntry {
    pub(crate) fn kind(&self) -> EntryKind {
        match self.source {
            EntrySource::Table { .. } => EntryKind::Table,
            EntrySource::LargeObjects { .. } => EntryKind::LargeObjects,
        }
    }

    /// The COPY of one slice, for tables.
    pub(crate) fn copy_sql(&self, slice: u64) -> Vec<u8> {
        let EntrySource::Table { relation, columns, condition } = &self.source else {
            return Vec::new();
        };
        let mut sql: Vec<u8> = Vec::with_capacity(200 + columns.len() + relation.len());
        if self.slices == 1 && condition.is_empty() {
            // The plain form reads through a small ring of buffers and skips the executor.
            sql.extend_from_slice(b"COPY ");
            sql.extend_from_slice(relation);
            if !columns.is_empty() {
                sql.extend_from_slice(b" (");
                sql.extend_from_slice(columns);
                sql.push(b')');
            }
            sql.extend_from_slice(b" TO STDOUT");
            return sql;
        }
        sql.extend_from_slice(b"COPY (SELECT ");
        sql.extend_from_slice(columns);
        sql.extend_from_slice(b" FROM ONLY ");
        sql.extend_from_slice(relation);
        sql.push(b' ');
        sql.extend_from_slice(condition);
        if let (Cut::Pages(step), true) = (self.cut, self.slices > 1) {
            let first = slice * u64::from(step);
            let mut range = format!(" WHERE ctid >= '({first},0)'::pg_catalog.tid");
            // The last slice is open: the table may have grown since it was measured.
            if slice + 1 < self.slices {
                let end = first + u64::from(step);
                range.push_str(&format!(" AND ctid < '({end},0)'::pg_catalog.tid"));
            }
            sql.extend_from_slice(range.as_bytes());
        }
        sql.extend_from_slice(b") TO STDOUT");
        sql
    }
}

/// Neighbouring slices of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) entry: usize,
    pub(crate) first_slice: u64,
    pub(crate) slices: u64,
}

/// What a lane takes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: usize,
    pub(crate) parts: Vec<Part>,
}

/// The whole plan of a database.
pub(crate) struct Plan {
    pub(crate) entries: Vec<PlannedEntry>,
    pub(crate) items: VecDeque<Item>,
    pub(crate) bytes: u64,
}

/// How the last backup cut the entries of this database, by schema and name.
pub(crate) type LastCuts = HashMap<(Option<String>, String), Cut>;

/// Plans all data of `toc`.
pub(crate) fn plan(
    toc: &Toc,
    leader: &Leader,
    last: &LastCuts,
    lanes: usize,
) -> Result<Plan, BackupError> {
    let version = leader.connection.server_version_num();
    let objects = LargeObjectIds::of(toc)?;
    let mut entries = Vec::new();
    for entry in toc.entries().iter().filter(|entry| entry.had_dumper()) {
        match entry.desc() {
            Some(b"TABLE DATA") => entries.push(plan_table(entry, leader, last, version)?),
            Some(b"BLOBS") => entries.push(plan_objects(entry, &objects)),
            other => {
                return Err(BackupError::Internal(format!(
                    "pg_dump wrote a data entry of the unknown kind {:?}",
                    session::lossy(other.unwrap_or_default())
                )));
            }
        }
    }
    let bytes = entries.iter().map(|e| e.slices * e.slice_bytes).sum();
    let items = items(&entries, lanes, bytes);
    Ok(Plan { entries, items, bytes })
}

fn plan_table(
    entry: &Entry,
    leader: &Leader,
    last: &LastCuts,
    version: u32,
) -> Result<PlannedEntry, BackupError> {
    let name = session::lossy(entry.tag().unwrap_or_default());
    let oid = entry.oid();
    let table = leader.tables.get(&oid).ok_or_else(|| BackupError::Changed {
        database: leader.database.clone(),
        what: format!("table {name:?} (it was not there to be locked)"),
    })?;
    let statement = entry.copy_stmt().unwrap_or_default();
    let parsed = copy_statement::parse(statement).map_err(|error| {
        BackupError::Internal(format!("the COPY statement of table {name:?}: {error}"))
    })?;
    let columns = parsed.columns.join(&b", "[..]);
    let rangeable = version >= 140_000 && table.is_heap && table.condition.is_empty();
    let key = (Some(table.schema.clone()), table.name.clone());
    let (cut, slices, slice_bytes) = cut_table(table, rangeable, last.get(&key).copied());
    Ok(PlannedEntry {
        dump_id: entry.dump_id(),
        schema: Some(table.schema.clone()),
        name: table.name.clone(),
        oid,
        cut,
        source: EntrySource::Table {
            relation: table.sql_name.clone(),
            columns,
            condition: table.condition.clone(),
        },
        slices,
        slice_bytes,
    })
}

/// The step, the number of slices, and the bytes of one.
fn cut_table(table: &TableFacts, rangeable: bool, last: Option<Cut>) -> (Cut, u64, u64) {
    if table.is_heap && table.pages == 0 {
        // It was measured after the snapshot: a row that the snapshot sees would have its page.
        return (last.unwrap_or(Cut::Content), 0, 0);
    }
    if !rangeable {
        return (Cut::Content, 1, table.disk_bytes);
    }
    // TOAST can't be read by range, but the pages that point to it can: its bytes count as theirs.
    let page_bytes = (table.disk_bytes / table.pages).max(1);
    let target =
        (table.disk_bytes / SLICES_PER_TABLE).clamp(SMALLEST_SLICE_BYTES, LARGEST_SLICE_BYTES);
    let ideal = (target / page_bytes).clamp(1, u64::from(u32::MAX));
    // A table grows slowly; its cuts stay until they are far from what would be cut today.
    let kept = last_step(last).map(u64::from).filter(|&s| s >= ideal / 4 && s <= ideal * 4);
    let step = kept.unwrap_or(ideal).max(1);
    let slices = table.pages.div_ceil(step);
    let step = u32::try_from(step).unwrap_or(u32::MAX);
    (Cut::Pages(step), slices, (table.disk_bytes / slices).max(1))
}

fn last_step(last: Option<Cut>) -> Option<u32> {
    match last {
        Some(Cut::Pages(step)) if step > 0 => Some(step),
        _ => None,
    }
}

fn plan_objects(entry: &Entry, objects: &LargeObjectIds) -> PlannedEntry {
    let oids = objects.of_entry(entry);
    PlannedEntry {
        dump_id: entry.dump_id(),
        schema: None,
        name: session::lossy(entry.tag().unwrap_or_default()),
        oid: 0,
        cut: Cut::Objects(OBJECTS_PER_SLICE),
        slices: (oids.len() as u64).div_ceil(u64::from(OBJECTS_PER_SLICE)),
        source: EntrySource::LargeObjects { oids },
        // Their sizes are not known without reading them.
        slice_bytes: 1 << 20,
    }
}

/// Which large objects belong to which data entry. pg_dump 17 and newer write groups, each with
/// its list of oids; older ones one entry an object and one data entry for all.
struct LargeObjectIds {
    groups: HashMap<i32, Vec<u32>>,
    singles: Vec<u32>,
}

impl LargeObjectIds {
    fn of(toc: &Toc) -> Result<Self, BackupError> {
        let mut ids = Self { groups: HashMap::new(), singles: Vec::new() };
        for entry in toc.entries() {
            match entry.desc() {
                Some(b"BLOB METADATA") => {
                    let text = session::lossy(entry.defn().unwrap_or_default());
                    let oids: Result<Vec<u32>, _> =
                        text.split_ascii_whitespace().map(str::parse).collect();
                    let oids = oids.map_err(|_| {
                        BackupError::Internal(format!(
                            "pg_dump's list of large objects in entry {} is not numbers",
                            entry.dump_id()
                        ))
                    })?;
                    ids.groups.insert(entry.dump_id(), oids);
                }
                Some(b"BLOB") => ids.singles.push(entry.oid()),
                _ => {}
            }
        }
        ids.singles.sort_unstable();
        Ok(ids)
    }

    fn of_entry(&self, entry: &Entry) -> Vec<u32> {
        let mut oids: Vec<u32> = entry
            .dependencies()
            .iter()
            .filter_map(|id| self.groups.get(id))
            .flatten()
            .copied()
            .collect();
        if oids.is_empty() {
            oids.clone_from(&self.singles);
        }
        oids.sort_unstable();
        oids
    }
}

/// Biggest entries first, so that the last thing that runs is small.
fn items(entries: &[PlannedEntry], lanes: usize, bytes: u64) -> VecDeque<Item> {
    let fair_share = bytes / (lanes.max(1) as u64 * 8);
    let limit = fair_share.clamp(1 << 20, LARGEST_ITEM_BYTES);
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(entries[i].slices * entries[i].slice_bytes));
    let mut items = VecDeque::new();
    let mut open = OpenItem::default();
    for index in order {
        let entry = &entries[index];
        let per_item = (limit / entry.slice_bytes.max(1)).clamp(1, MOST_SLICES_PER_ITEM);
        let mut first_slice = 0;
        while first_slice < entry.slices {
            let slices = per_item.min(entry.slices - first_slice);
            open.add(Part { entry: index, first_slice, slices }, slices * entry.slice_bytes);
            first_slice += slices;
            if open.bytes >= limit || open.slices >= MOST_SLICES_PER_ITEM {
                open.close(&mut items);
            }
        }
    }
    open.close(&mut items);
    items
}

#[derive(Default)]
struct OpenItem {
    parts: Vec<Part>,
    bytes: u64,
    slices: u64,
}

impl OpenItem {
    fn add(&mut self, part: Part, bytes: u64) {
        self.slices += part.slices;
        self.bytes += bytes;
        self.parts.push(part);
    }

    fn close(&mut self, items: &mut VecDeque<Item>) {
        if !self.parts.is_empty() {
            items.push_back(Item { id: items.len(), parts: std::mem::take(&mut self.parts) });
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pages: u64, toast_bytes: u64) -> TableFacts {
        TableFacts {
            sql_name: b"public.t".to_vec(),
            schema: "public".to_owned(),
            name: "t".to_owned(),
            is_heap: true,
            pages,
            disk_bytes: pages * 8192 + toast_bytes,
            condition: Vec::new(),
        }
    }

    fn entry(slices: u64, slice_bytes: u64) -> PlannedEntry {
        PlannedEntry {
            dump_id: 1,
            schema: None,
            name: "t".to_owned(),
            oid: 1,
            cut: Cut::Pages(10),
            source: EntrySource::Table {
                relation: b"public.t".to_vec(),
                columns: b"a, b".to_vec(),
                condition: Vec::new(),
            },
            slices,
            slice_bytes,
        }
    }

    #[test]
    fn a_table_that_grew_a_little_keeps_its_cuts() {
        let (first, ..) = cut_table(&table(100_000, 0), true, None);
        let (second, ..) = cut_table(&table(130_000, 0), true, Some(first));
        assert_eq!(first, second);
    }

    #[test]
    fn a_table_that_grew_a_hundredfold_is_cut_anew() {
        let (first, ..) = cut_table(&table(1_000, 0), true, None);
        let (second, ..) = cut_table(&table(10_000_000, 0), true, Some(first));
        assert_ne!(first, second);
    }

    #[test]
    fn toast_makes_slices_of_fewer_pages() {
        let (plain, ..) = cut_table(&table(96, 0), true, None);
        let (toasted, slices, _) = cut_table(&table(96, 477 << 20), true, None);
        assert_eq!(plain, Cut::Pages(64));
        assert_eq!(toasted, Cut::Pages(1));
        assert_eq!(slices, 96);
    }

    #[test]
    fn ranges_meet_without_gap_or_overlap_and_the_last_is_open() {
        let entry = entry(3, 1);
        let sql = |slice| String::from_utf8(entry.copy_sql(slice)).unwrap();
        assert!(sql(0).contains("ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(10,0)'"));
        assert!(sql(1).contains("ctid >= '(10,0)'::pg_catalog.tid AND ctid < '(20,0)'"));
        assert!(sql(2).contains("ctid >= '(20,0)'::pg_catalog.tid") && !sql(2).contains('<'));
    }

    #[test]
    fn every_slice_is_in_exactly_one_item() {
        let entries = [entry(1000, 8 << 20), entry(1, 100), entry(0, 1), entry(7, 3 << 20)];
        let bytes = entries.iter().map(|e| e.slices * e.slice_bytes).sum();
        let mut seen: HashMap<(usize, u64), u32> = HashMap::new();
        for item in items(&entries, 2, bytes) {
            for part in item.parts {
                for slice in part.first_slice..part.first_slice + part.slices {
                    *seen.entry((part.entry, slice)).or_default() += 1;
                }
            }
        }
        assert_eq!(seen.len(), 1008);
        assert!(seen.values().all(|&count| count == 1));
    }
}
