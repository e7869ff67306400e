//! Cuts a database's data into slices, and slices into items of work.
//!
//! A slice is what one COPY reads: a whole table, a range of its pages, or some large objects.
//! Reading a whole table is cheapest for the server, and goes through a small ring of its buffers
//! instead of pushing everything else out. So only tables that would keep one lane busy for longer
//! than the others are read by ranges, and some of the smallest, which fill the gap at the end.
//!
//! Chunks end at rows that their content picks (and at the borders of ranges), so that a change
//! moves the cuts of its surroundings only. The lengths of ranges and chunks are taken over from
//! the last backup, so that what did not change makes the same chunks.
//!
//! An item is what a lane takes at once: one or more slices.

use std::collections::{HashMap, HashSet, VecDeque};

use flexkeep_pg_archive::{Entry, Toc, copy_statement};
use flexkeep_vault::contents::{Cut, EntryKind};
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::formats::Formats;
use crate::json;
use crate::session;
use crate::snapshot::TableFacts;

/// A table has about this many chunks: a change in one place then costs about half a percent of
/// the table.
const CHUNKS_PER_TABLE: u64 = 384;

/// The smallest mean length of chunks, bytes: below, the cost of one object a chunk outweighs.
const SMALLEST_CHUNK_BYTES: u64 = 512 << 10;

/// The largest mean length of chunks, bytes.
const LARGEST_CHUNK_BYTES: u64 = 8 << 20;

/// A database has about this many chunks at most, as long as [`LARGEST_CHUNK_BYTES`] allows: each is
/// an object to be put, and is known by name to whoever makes, seals or reads a backup. From 256 GiB
/// on, small tables have longer chunks for that.
const CHUNKS_PER_DATABASE: u64 = 1 << 19;

/// A larger table is never read as a whole where it can be read by ranges, bytes on disk: a COPY
/// that breaks off is read again from its start.
const LARGEST_WHOLE_BYTES: u64 = 1 << 30;

/// Of the bytes of a database at least this part is read by ranges, so that lanes that began with
/// whole tables end together.
const RANGED_PART: u64 = 8;

/// The smallest and largest range of pages, bytes on disk.
const RANGE_BYTES: std::ops::RangeInclusive<u64> = (4 << 20)..=(128 << 20);

/// A table up to this size is never worth a range, bytes on disk.
const SMALL_TABLE_BYTES: u64 = 8 << 20;

/// Large objects read by one COPY.
const OBJECTS_PER_SLICE: u32 = 1000;

/// Largest item, bytes on disk: small enough that no lane is left alone for long at the end.
const LARGEST_ITEM_BYTES: u64 = 64 << 20;

/// Items for each lane of a backup by one process: the last ones are short enough that lanes end
/// together.
pub(crate) const ITEMS_PER_LANE: u64 = 8;

/// Items for each lane that may be succeeded between any two of them.
pub(crate) const ITEMS_PER_RELAY_LANE: u64 = 64;

/// Most slices of an item, so that a database of empty tables is shared among lanes too.
const MOST_SLICES_PER_ITEM: u64 = 200;

/// One archive entry with data, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedEntry {
    pub(crate) dump_id: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntrySource {
    Table {
        /// Qualified and quoted.
        #[serde(with = "json::bytes")]
        relation: Vec<u8>,
        /// The column list as in a SELECT, empty when there is no column to dump.
        #[serde(with = "json::bytes")]
        columns: Vec<u8>,
        /// `WHERE ...` of an extension's configuration table, or empty.
        #[serde(with = "json::bytes")]
        condition: Vec<u8>,
        /// A letter for each column where it is read in binary format, or empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        formats: String,
    },
    LargeObjects {
        #[serde(with = "json::ascending")]
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

    /// Mean raw length of a table's chunks.
    pub(crate) fn chunk_bytes(&self) -> u32 {
        match self.cut {
            Cut::Content { chunk_bytes } | Cut::Pages { chunk_bytes, .. } => chunk_bytes,
            Cut::Objects(_) => 0,
        }
    }

    /// The COPY of one slice, for tables.
    pub(crate) fn copy_sql(&self, slice: u64) -> Vec<u8> {
        let EntrySource::Table { relation, columns, condition, formats } = &self.source else {
            return Vec::new();
        };
        let end: &[u8] =
            if formats.is_empty() { b" TO STDOUT" } else { b" TO STDOUT (FORMAT binary)" };
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
            sql.extend_from_slice(end);
            return sql;
        }
        sql.extend_from_slice(b"COPY (SELECT ");
        sql.extend_from_slice(columns);
        sql.extend_from_slice(b" FROM ONLY ");
        sql.extend_from_slice(relation);
        sql.push(b' ');
        sql.extend_from_slice(condition);
        if let (Cut::Pages { pages, .. }, true) = (self.cut, self.slices > 1) {
            let first = slice * u64::from(pages);
            let mut range = format!(" WHERE ctid >= '({first},0)'::pg_catalog.tid");
            // The last slice is open: the table may have grown since it was measured.
            if slice + 1 < self.slices {
                let end = first + u64::from(pages);
                range.push_str(&format!(" AND ctid < '({end},0)'::pg_catalog.tid"));
            }
            sql.extend_from_slice(range.as_bytes());
        }
        sql.push(b')');
        sql.extend_from_slice(end);
        sql
    }
}

/// Neighbouring slices of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) entry: usize,
    pub(crate) first_slice: u64,
    pub(crate) slices: u64,
}

/// What a lane takes at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What planning looks at of a snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Measured<'a> {
    pub(crate) database: &'a str,
    /// The server's version, such as 180001.
    pub(crate) version: u32,
    /// The tables that are locked, by oid.
    pub(crate) tables: &'a HashMap<u32, TableFacts>,
    pub(crate) formats: &'a Formats,
}

/// Plans all data of `toc`.
pub(crate) fn plan(
    toc: &Toc,
    measured: Measured<'_>,
    last: &LastCuts,
    lanes: usize,
    items_per_lane: u64,
    split_tables: bool,
) -> Result<Plan, BackupError> {
    let objects = LargeObjectIds::of(toc)?;
    let mut ranging = Ranging::of(toc, measured, lanes);
    if !split_tables {
        ranging.tables.clear();
    }
    let mut entries = Vec::new();
    for entry in toc.entries().iter().filter(|entry| entry.had_dumper()) {
        match entry.desc() {
            Some(b"TABLE DATA") => entries.push(plan_table(entry, measured, last, &ranging)?),
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
    let items = items(&entries, lanes as u64 * items_per_lane, bytes);
    Ok(Plan { entries, items, bytes })
}

fn plan_table(
    entry: &Entry,
    measured: Measured<'_>,
    last: &LastCuts,
    ranging: &Ranging,
) -> Result<PlannedEntry, BackupError> {
    let name = session::lossy(entry.tag().unwrap_or_default());
    let oid = entry.oid();
    let table = measured.tables.get(&oid).ok_or_else(|| BackupError::Changed {
        database: measured.database.to_owned(),
        what: format!("table {name:?} (it was not there to be locked)"),
    })?;
    let statement = entry.copy_stmt().unwrap_or_default();
    let parsed = copy_statement::parse(statement).map_err(|error| {
        BackupError::Internal(format!("the COPY statement of table {name:?}: {error}"))
    })?;
    let columns = parsed.columns.join(&b", "[..]);
    let formats = measured.formats.get(&oid).cloned();
    let formats = formats.filter(|formats| formats.len() == parsed.columns.len());
    let key = (Some(table.schema.clone()), table.name.clone());
    let range_bytes = ranging.tables.contains(&oid).then_some(ranging.range_bytes);
    let (cut, slices, slice_bytes) =
        cut_table(table, range_bytes, ranging.least_chunk_bytes, last.get(&key).copied());
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
            formats: formats.unwrap_or_default(),
        },
        slices,
        slice_bytes,
    })
}

/// Which tables are read by ranges, and what else follows from the size of them all.
struct Ranging {
    tables: HashSet<u32>,
    range_bytes: u64,
    /// The mean length of the chunks of small tables.
    least_chunk_bytes: u64,
}

impl Ranging {
    fn of(toc: &Toc, measured: Measured<'_>, lanes: usize) -> Self {
        let tables: Vec<(u32, &TableFacts)> = toc
            .entries()
            .iter()
            .filter(|entry| entry.desc() == Some(b"TABLE DATA"))
            .filter_map(|entry| Some((entry.oid(), measured.tables.get(&entry.oid())?)))
            .collect();
        Self::choose(tables, lanes as u64, measured.version)
    }

    fn choose(mut tables: Vec<(u32, &TableFacts)>, lanes: u64, version: u32) -> Self {
        let total: u64 = tables.iter().map(|(_, table)| table.disk_bytes).sum();
        let range_bytes =
            (total / (lanes.max(1) * 32)).clamp(*RANGE_BYTES.start(), *RANGE_BYTES.end());
        let least_chunk_bytes =
            (total / CHUNKS_PER_DATABASE).clamp(SMALLEST_CHUNK_BYTES, LARGEST_CHUNK_BYTES);
        // A TID range scan exists since 14, and for heap only.
        tables.retain(|(_, table)| {
            version >= 140_000
                && table.is_heap
                && table.condition.is_empty()
                && table.disk_bytes > SMALL_TABLE_BYTES
        });
        tables.sort_by_key(|(oid, table)| (table.disk_bytes, *oid));
        let mut chosen = HashSet::new();
        let mut chosen_bytes = 0;
        if lanes > 1 {
            let share = total / (lanes * 2);
            for (oid, table) in tables.iter().filter(|(_, table)| table.disk_bytes > share) {
                chosen.insert(*oid);
                chosen_bytes += table.disk_bytes;
            }
            for (oid, table) in &tables {
                if chosen_bytes >= total / RANGED_PART {
                    break;
                }
                if chosen.insert(*oid) {
                    chosen_bytes += table.disk_bytes;
                }
            }
        }
        for (oid, _) in tables.iter().filter(|(_, table)| table.disk_bytes > LARGEST_WHOLE_BYTES) {
            chosen.insert(*oid);
        }
        Self { tables: chosen, range_bytes, least_chunk_bytes }
    }
}

/// How to cut, the number of slices, and the bytes of one on disk.
fn cut_table(
    table: &TableFacts,
    range_bytes: Option<u64>,
    least_chunk_bytes: u64,
    last: Option<Cut>,
) -> (Cut, u64, u64) {
    let chunk_bytes = near(
        (table.disk_bytes / CHUNKS_PER_TABLE).clamp(least_chunk_bytes, LARGEST_CHUNK_BYTES),
        match last {
            Some(Cut::Content { chunk_bytes } | Cut::Pages { chunk_bytes, .. }) => {
                Some(chunk_bytes)
            }
            _ => None,
        },
    );
    if table.is_heap && table.pages == 0 {
        // It was measured after the snapshot: a row that the snapshot sees would have its page.
        return (Cut::Content { chunk_bytes }, 0, 0);
    }
    let Some(range_bytes) = range_bytes else {
        return (Cut::Content { chunk_bytes }, 1, table.disk_bytes.max(1));
    };
    // TOAST can't be read by range, but the pages that point to it can: its bytes count as theirs.
    let page_bytes = (table.disk_bytes / table.pages).max(1);
    let last_pages = match last {
        Some(Cut::Pages { pages, .. }) => Some(pages),
        _ => None,
    };
    let pages = near((range_bytes / page_bytes).max(1), last_pages);
    let slices = table.pages.div_ceil(u64::from(pages));
    (Cut::Pages { pages, chunk_bytes }, slices, (table.disk_bytes / slices).max(1))
}

/// The last backup's value as long as it is not far from what would be chosen today.
fn near(ideal: u64, last: Option<u32>) -> u32 {
    match last {
        Some(last) if u64::from(last) >= ideal / 4 && u64::from(last) / 4 <= ideal && last > 0 => {
            last
        }
        _ => u32::try_from(ideal).unwrap_or(u32::MAX),
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

/// Whole tables first, the largest before all, then those in ranges, then the small ones: the last
/// thing that runs is small.
fn items(entries: &[PlannedEntry], wanted: u64, bytes: u64) -> VecDeque<Item> {
    let fair_share = bytes / wanted.max(1);
    let limit = fair_share.clamp(1 << 20, LARGEST_ITEM_BYTES);
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| {
        let total = entries[i].slices * entries[i].slice_bytes;
        let class = match entries[i].slices {
            _ if total <= SMALL_TABLE_BYTES => 2,
            1 => 0,
            _ => 1,
        };
        (class, std::cmp::Reverse(total))
    });
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
            cut: Cut::Pages { pages: 10, chunk_bytes: 1 << 20 },
            source: EntrySource::Table {
                relation: b"public.t".to_vec(),
                columns: b"a, b".to_vec(),
                condition: Vec::new(),
                formats: String::new(),
            },
            slices,
            slice_bytes,
        }
    }

    const RANGE: Option<u64> = Some(64 << 20);
    const LEAST: u64 = SMALLEST_CHUNK_BYTES;

    #[test]
    fn a_table_that_grew_a_little_keeps_its_cuts() {
        let (first, ..) = cut_table(&table(100_000, 0), RANGE, LEAST, None);
        let (second, ..) = cut_table(&table(130_000, 0), Some(100 << 20), LEAST, Some(first));
        assert_eq!(first, second);
    }

    #[test]
    fn a_table_that_grew_a_hundredfold_is_cut_anew() {
        let (first, ..) = cut_table(&table(1_000, 0), Some(4 << 20), LEAST, None);
        let (second, ..) = cut_table(&table(10_000_000, 0), Some(128 << 20), LEAST, Some(first));
        assert_ne!(first, second);
    }

    #[test]
    fn a_table_that_is_read_by_ranges_from_now_on_keeps_the_length_of_its_chunks() {
        let (whole, ..) = cut_table(&table(100_000, 0), None, LEAST, None);
        let (ranged, ..) = cut_table(&table(140_000, 0), RANGE, LEAST, Some(whole));
        let Cut::Content { chunk_bytes } = whole else { panic!("{whole:?}") };
        assert!(matches!(ranged, Cut::Pages { chunk_bytes: b, .. } if b == chunk_bytes));
    }

    #[test]
    fn toast_makes_ranges_of_fewer_pages() {
        let (cut, slices, _) = cut_table(&table(96, 477 << 20), Some(4 << 20), LEAST, None);
        assert!(matches!(cut, Cut::Pages { pages: 1, .. }), "{cut:?}");
        assert_eq!(slices, 96);
    }

    #[test]
    fn one_big_table_is_read_by_ranges_and_equal_ones_mostly_whole() {
        let big = table(500_000, 0);
        let chosen = Ranging::choose(vec![(1, &big)], 2, 180_000);
        assert!(chosen.tables.contains(&1));
        assert!(Ranging::choose(vec![(1, &big)], 2, 130_000).tables.is_empty());
        let equal = table(50_000, 0);
        let tables = (1..=4).map(|oid| (oid, &equal)).collect();
        assert_eq!(Ranging::choose(tables, 2, 180_000).tables.len(), 1);
    }

    #[test]
    fn many_small_tables_have_longer_chunks_than_one_of_them_alone() {
        let small = table(5_000, 0);
        let cut = |tables: u32| {
            let ranging =
                Ranging::choose((1..=tables).map(|oid| (oid, &small)).collect(), 4, 180_000);
            match cut_table(&small, None, ranging.least_chunk_bytes, None).0 {
                Cut::Content { chunk_bytes } => u64::from(chunk_bytes),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(cut(1), SMALLEST_CHUNK_BYTES);
        assert_eq!(cut(1_000), SMALLEST_CHUNK_BYTES);
        let chunks = 100_000 * small.disk_bytes / cut(100_000);
        assert!((CHUNKS_PER_DATABASE / 2..=CHUNKS_PER_DATABASE + 100_000).contains(&chunks));
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
        for item in items(&entries, 16, bytes) {
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
