//! Sources of any size, as planning sees them, and what reading them would come to.

use std::collections::HashMap;

use flexkeep_pg_archive::{Entry, EntryFields, Limits, Offset, Section, Toc};
use flexkeep_vault::ContentHash;
use flexkeep_vault::contents::{ChunkRef, Cut};
use jiff::Timestamp;

use super::super::state::{AttemptPlan, ItemDone, RunObjects};
use crate::dump;
use crate::formats::Formats;
use crate::journal::SliceDone;
use crate::plan::{self, ITEMS_PER_RELAY_LANE, Item, LastCuts, Measured, Part, PlannedEntry};
use crate::snapshot::TableFacts;
use crate::source::Database;

const COLUMNS: usize = 20;

/// A database of equal tables with a primary key and an index each.
pub(crate) struct Source {
    pub(crate) toc: Toc,
    pub(crate) tables: HashMap<u32, TableFacts>,
    pub(crate) last: LastCuts,
}

impl Source {
    /// `tables` of `bytes` each. `pages` is what the last backup cut them to, if it did.
    pub(crate) fn of(tables: u32, bytes: u64, pages: Option<u32>) -> Self {
        let mut source =
            Self { toc: toc(Vec::new()), tables: HashMap::new(), last: LastCuts::new() };
        let mut entries = Vec::new();
        for number in 1..=tables {
            let name = format!("measurements_{number:06}");
            let facts = TableFacts {
                sql_name: format!("public.{name}").into_bytes(),
                schema: "public".to_owned(),
                name: name.clone(),
                is_heap: true,
                pages: bytes / 8192,
                disk_bytes: bytes,
                condition: Vec::new(),
            };
            source.tables.insert(number + 16_384, facts);
            if let Some(pages) = pages {
                let key = (Some("public".to_owned()), name.clone());
                source.last.insert(key, Cut::Pages { pages, chunk_bytes: 8 << 20 });
            }
            entries.extend(table_entries(number, &name));
        }
        entries.sort_unstable_by_key(|entry| (entry.section() as u8, entry.dump_id()));
        source.toc = toc(entries);
        source
    }

    /// Plans it as a lane that takes the snapshot does, and has the plan written down.
    pub(crate) fn plan(self, objects: &RunObjects, folder: &str, lanes: u32) {
        let measured = Measured {
            database: "shop",
            version: 180_001,
            tables: &self.tables,
            formats: &Formats::new(),
        };
        let plan =
            plan::plan(&self.toc, measured, &self.last, lanes as usize, ITEMS_PER_RELAY_LANE, true)
                .unwrap();
        let toc = dump::put_toc(&objects.vault, self.toc, &[]).unwrap();
        let plan = AttemptPlan {
            database: Database { name: "shop".to_owned(), oid: 5 },
            attempt: 1,
            snapshot_time: Timestamp::UNIX_EPOCH,
            encoding: "UTF8".to_owned(),
            toc,
            entries: plan.entries,
            items: plan.items.into(),
            bytes: plan.bytes,
            extensions: Vec::new(),
            types: crate::types::TypeMarks::default(),
            losses: Vec::new(),
            notes: Vec::new(),
        };
        assert!(objects.put_plan(folder, &plan).unwrap());
    }
}

/// The head of a real archive, with these entries.
fn toc(entries: Vec<Entry>) -> Toc {
    const REAL: &[u8] = include_bytes!("../../../../pg-archive/tests/fixtures/pg18-file-zstd.dump");
    let (header, _) = Toc::read(&mut &*REAL, &Limits::default()).unwrap().into_parts();
    Toc::new(header, entries).unwrap()
}

fn table_entries(number: u32, name: &str) -> [Entry; 4] {
    let columns: Vec<String> = (0..COLUMNS).map(|n| format!("measured_{n:02}")).collect();
    let typed: Vec<String> = columns.iter().map(|c| format!("    {c} numeric(12,4)")).collect();
    let table = format!("CREATE TABLE public.{name} (\n{}\n);\n", typed.join(",\n"));
    let copy = format!("COPY public.{name} ({}) FROM stdin;\n", columns.join(", "));
    let key = format!(
        "ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT {name}_pkey PRIMARY KEY (measured_00);\n"
    );
    let index = format!("CREATE INDEX {name}_at ON public.{name} USING btree (measured_01);\n");
    let first = i32::try_from(number * 4).unwrap();
    let entry = |place: i32, desc: &str, section, sql: &str, data: bool| {
        Entry::new(EntryFields {
            dump_id: first + place,
            had_dumper: data,
            table_oid: 1259,
            oid: number + 16_384,
            tag: Some(name.as_bytes()),
            desc: Some(desc.as_bytes()),
            section,
            defn: Some(if data { b"" } else { sql.as_bytes() }),
            drop_stmt: Some(b""),
            copy_stmt: Some(if data { sql.as_bytes() } else { b"" }),
            namespace: Some(b"public"),
            tablespace: Some(b""),
            tableam: Some(b"heap"),
            relkind: i32::from(b'r'),
            owner: Some(b"shop_owner"),
            with_oids: false,
            dependencies: if place == 0 { &[] } else { std::slice::from_ref(&first) },
            offset: if data { Offset::NotSet } else { Offset::NoData },
        })
        .unwrap()
    };
    [
        entry(0, "TABLE", Section::PreData, &table, false),
        entry(1, "TABLE DATA", Section::Data, &copy, true),
        entry(2, "CONSTRAINT", Section::PostData, &key, false),
        entry(3, "INDEX", Section::PostData, &index, false),
    ]
}

/// What reading an item comes to, if COPY text is as long as the table is on disk.
pub(crate) fn read_item(entries: &[PlannedEntry], item: &Item) -> ItemDone {
    let slices = item.parts.iter().flat_map(|part| {
        (part.first_slice..part.first_slice + part.slices)
            .map(|slice| read_slice(entries, part, slice))
    });
    let slices: Vec<SliceDone> = slices.collect();
    let new_chunks = slices.iter().map(|slice| slice.chunks.len() as u64).sum();
    ItemDone { new_chunks, new_bytes: new_chunks * STORED_BYTES, slices }
}

/// Of a chunk, after its compression.
pub(crate) const STORED_BYTES: u64 = 2 << 20;

fn read_slice(entries: &[PlannedEntry], part: &Part, slice: u64) -> SliceDone {
    let entry = &entries[part.entry];
    let chunks = (0..chunks_of_slice(entry)).map(|number| {
        let name = format!("{}/{slice}/{number}", part.entry);
        ChunkRef {
            hash: ContentHash::of(name.as_bytes()),
            raw_bytes: entry.chunk_bytes(),
            stored_bytes: STORED_BYTES as u32,
            continued: false,
        }
    });
    SliceDone { entry: part.entry, slice, rows: 100_000, chunks: chunks.collect() }
}

pub(crate) fn chunks_of_slice(entry: &PlannedEntry) -> u64 {
    entry.slice_bytes.div_ceil(u64::from(entry.chunk_bytes()))
}
