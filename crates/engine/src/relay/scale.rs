//! Four terabytes, and more, by simulation: the planner, the lanes' way of finding their work, and
//! the seal, on plans of a hundred thousand items. docs/relay.md has the figures.
//!
//! What is measured of memory is the peak of this process: nextest has one for each test.

mod counting;
mod lanes;
mod source;

use std::sync::Arc;

use flexkeep_vault::manifest::{DatabaseSummary, Source as ManifestSource};
use flexkeep_vault::store::{MemoryStore, SharedStore};
use flexkeep_vault::{RunId, Vault};
use jiff::Timestamp;

use super::journals::{self, Journaled};
use super::state::{self, AttemptPlan, RunObjects};
use crate::backup::{self, LastBackup, Parts};
use crate::options::BackupOptions;
use crate::progress::Progress;
use counting::{Calls, CountingStore, MadeStore};
use lanes::{Ran, Sim};
use source::{Source, chunks_of_slice, read_item};

const FOLDER: &str = "database-5/attempt-1";

/// Lanes of the runs here.
const LANES: u32 = 4;

/// The most memory that the planner, a lane or the seal may take, kB.
const CEILING_KB: u64 = 256 << 10;

/// The same for 100,000 tables, of which pg_dump's table of contents alone is the most: these have
/// 2.3 kB each of it, as read.
const CEILING_OF_TABLES_KB: u64 = 336 << 10;

/// What a process with one lane may have, kB.
const CEILING_OF_LANE_KB: u64 = (96 + 96) << 10;

/// Bytes that a lane of the figures reads in its 480 seconds, at 25 MB/s.
const BYTES_PER_GENERATION: u64 = 480 * 25_000_000;

fn one_table() -> Source {
    Source::of(1, 4_000_000_000_000, None)
}

fn many_tables() -> Source {
    Source::of(100_000, 40_000_000, None)
}

/// A run in a vault in memory.
pub(super) fn memory_run() -> RunObjects {
    run_in(Arc::new(MemoryStore::new()))
}

fn run_in(runs: SharedStore) -> RunObjects {
    let vault = Vault::create_in(Arc::new(MemoryStore::new()), runs).unwrap();
    RunObjects { vault, server: "shop".parse().unwrap(), run: RunId::new(Timestamp::now()) }
}

/// The most memory that this process ever had, kB.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[track_caller]
fn expect_peak(what: &str, ceiling_kb: u64) {
    let peak = peak_kb();
    assert!(peak <= ceiling_kb, "{what} took {peak} kB, more than {ceiling_kb}");
}

/// 200,000 items: two tables of 6.7 TB, whose ranges are those of a time when they were smaller.
fn huge() -> Source {
    Source::of(2, 100_000 * (64 << 20), Some(8192))
}

/// The bytes of the plan as it is stored, which each lane reads when it comes.
fn plan_bytes(objects: &RunObjects) -> u64 {
    let plans = objects.vault.list_run_objects(&objects.server, &objects.run, FOLDER).unwrap();
    plans.iter().map(|plan| plan.bytes).sum()
}

#[test]
fn planning_200_000_items_takes_little_memory() {
    let objects = memory_run();
    huge().plan(&objects, FOLDER, LANES);
    let plan = objects.plan(FOLDER).unwrap().unwrap();
    assert_eq!(plan.items.len(), 200_000);
    assert!(plan_bytes(&objects) < 1_000_000, "{}", plan_bytes(&objects));
    expect_peak("planning 200,000 items", CEILING_KB);
}

#[test]
fn planning_100_000_tables_takes_little_memory() {
    let objects = memory_run();
    many_tables().plan(&objects, FOLDER, LANES);
    let plan = objects.plan(FOLDER).unwrap().unwrap();
    assert_eq!(plan.entries.len(), 100_000);
    let chunks: u64 = plan.entries.iter().map(chunks_of_slice).sum();
    assert!(chunks <= 700_000, "{chunks}");
    assert!(plan_bytes(&objects) < 1_000_000, "{}", plan_bytes(&objects));
    expect_peak("planning 100,000 tables", CEILING_OF_TABLES_KB);
}

#[test]
fn sealing_200_000_items_takes_little_memory() {
    seal(huge(), 200_000);
    expect_peak("planning and sealing 200,000 items", CEILING_KB);
}

#[test]
fn sealing_100_000_tables_takes_little_memory() {
    seal(many_tables(), 50_000);
    expect_peak("planning and sealing 100,000 tables", CEILING_OF_TABLES_KB);
}

/// Seals a source whose journals are made when they are read: they would take the memory that is
/// measured.
fn seal(source: Source, items: usize) -> (RunObjects, AttemptPlan, Journaled) {
    let runs: SharedStore = Arc::new(MemoryStore::new());
    let planned = run_in(Arc::clone(&runs));
    source.plan(&planned, FOLDER, LANES);
    let plan = Arc::new(planned.plan(FOLDER).unwrap().unwrap());
    assert_eq!(plan.items.len(), items);
    let made = Arc::clone(&plan);
    let make = move |name: &str| {
        let item = &made.items[state::item_of(name)?];
        Some(serde_json::to_vec(&read_item(&made.entries, item)).unwrap())
    };
    let store = CountingStore::new(Arc::new(MadeStore { inner: runs, make: Box::new(make) }));
    let vault = Vault::with_stores(Arc::clone(planned.vault.data()), store.clone()).unwrap();
    let objects = RunObjects { vault, ..planned };
    let sealed = journals::write_contents(&objects, FOLDER, &plan).unwrap();
    assert_eq!(store.take().gets, items as u64);
    let chunks: u64 = plan.entries.iter().map(|e| e.slices * chunks_of_slice(e)).sum();
    assert_eq!((sealed.totals.chunks, sealed.totals.new_chunks), (chunks, chunks));
    (objects, AttemptPlan::clone(&plan), sealed)
}

/// A lane of the next backup, which knows of every chunk of the last one.
#[test]
fn half_a_million_chunks_of_the_last_backup_fit_into_a_lane() {
    let (objects, plan, sealed) = seal(one_table(), 29_803);
    assert!(sealed.totals.chunks > 470_000, "{}", sealed.totals.chunks);
    let summary = DatabaseSummary {
        name: plan.database.name,
        oid: plan.database.oid,
        encoding: plan.encoding,
        snapshot_time: plan.snapshot_time,
        attempts: 1,
        toc: plan.toc,
        contents: sealed.contents,
        extensions: Vec::new(),
        totals: sealed.totals,
        holders: Vec::new(),
    };
    let parts = Parts { databases: vec![summary], ..Parts::default() };
    let options = BackupOptions::default();
    let (vault, server) = (&objects.vault, &objects.server);
    let source = ManifestSource::default();
    backup::seal_parts(vault, server, &options, &source, Timestamp::now(), parts).unwrap();
    let progress = Progress::default();
    // None of its chunks is in this vault; what a lane holds is the same until it knows.
    let (last, missing) = LastBackup::read(vault, server, &progress).unwrap();
    assert!(last.is_whole && last.cuts.contains_key("shop"));
    assert_eq!(missing.len() as u64, sealed.totals.chunks);
    expect_peak("a lane that knows of half a million chunks", CEILING_OF_LANE_KB);
}

/// What a run asks of the run storage, from the plan to its removal.
fn calls_of(source: Source, items_per_generation: usize, dead: Option<u32>) -> (Calls, Ran) {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let objects = run_in(store.clone());
    source.plan(&objects, FOLDER, LANES);
    let plan = objects.plan(FOLDER).unwrap().unwrap();
    store.take();
    let (folder, lanes) = (FOLDER, LANES);
    let sim = Sim { objects: &objects, folder, plan: &plan, lanes, items_per_generation, dead };
    let ran = sim.run();
    (store.take(), Ran { plan: Some(plan), ..ran })
}

fn items_of_64_mib(items: u64) -> Source {
    Source::of(1, items * (64 << 20), Some(8192))
}

#[test]
fn twice_the_items_cost_at_most_twice_the_calls() {
    let (mut before, _) = calls_of(items_of_64_mib(12_500), 190, None);
    for items in [25_000, 50_000] {
        let (calls, ran) = calls_of(items_of_64_mib(items), 190, None);
        for ((name, now), (_, then)) in calls.named().into_iter().zip(before.named()) {
            assert!(now <= then * 21 / 10 + 100, "{name}: {now} for {items}, {then} for half");
        }
        assert!(ran.hand_overs >= items / 190 - 20, "{}", ran.hand_overs);
        assert_eq!(ran.journaled.totals.chunks, items * 8);
        assert_eq!(ran.holders as u64, (ran.hand_overs + u64::from(LANES)).min(1000));
        before = calls;
    }
}

/// The others find the items of a lane that never came without listing all items for each.
#[test]
fn a_lane_that_is_dead_costs_no_more_calls_than_it_has_items() {
    let items = 12_500;
    let (all, _) = calls_of(items_of_64_mib(items), 190, None);
    let (less, ran) = calls_of(items_of_64_mib(items), 190, Some(2));
    assert_eq!(ran.journaled.totals.chunks, items * 8);
    assert!(less.lists <= all.lists + items / u64::from(LANES), "{less:?} {all:?}");
    assert!(less.listed <= all.listed + items * 100, "{less:?} {all:?}");
}

/// What is asked by the clock, in an hour of one lane: signs of life, whether the snapshot was given
/// up, whether the run goes on.
const HOURLY: Calls = Calls { puts: 720, heads: 3_600, gets: 1_200, ..NO_CALLS };

/// What a lane asks when it comes, besides what the simulated ones do: for the run, its servers, the
/// plan, the last backup (three objects), all lanes' signs of life (twice), its own backup.
const COMING: Calls =
    Calls { gets: 6 + 2 * LANES as u64, lists: 3, listed: 2 * LANES as u64, heads: 2, ..NO_CALLS };

const NO_CALLS: Calls = Calls {
    puts: 0,
    gets: 0,
    heads: 0,
    lists: 0,
    listed: 0,
    deletes: 0,
    bytes_put: 0,
    bytes_got: 0,
};

/// The figures of one kind of four terabytes, as the documentation has them.
fn figures(source: Source, item_bytes: u64) -> Vec<u64> {
    let (bytes, tables) = (4_000_000_000_000_u64, source.tables.len() as u64);
    let per_generation = usize::try_from(BYTES_PER_GENERATION / item_bytes).unwrap();
    let (calls, ran) = calls_of(source, per_generation, None);
    let plan = ran.plan.as_ref().expect("it was planned");
    let hours = bytes / 25_000_000 / 3600;
    let comings = ran.hand_overs + u64::from(LANES);
    let chunks = ran.journaled.totals.chunks;
    let of = |of: fn(&Calls) -> u64| of(&calls) + hours * of(&HOURLY) + comings * of(&COMING);
    vec![
        tables,
        plan.entries.iter().map(|entry| entry.slices).sum(),
        plan.items.len() as u64,
        calls.bytes_put / 1_000_000,
        chunks,
        // The lanes but the first, which the request itself is, and each successor.
        ran.hand_overs + u64::from(LANES) - 1,
        of(|calls| calls.puts),
        of(|calls| calls.lists),
        of(|calls| calls.gets),
        of(|calls| calls.heads),
        of(|calls| calls.deletes),
        chunks,
        chunks,
    ]
}

#[test]
fn four_terabytes_cost_what_the_documentation_says() {
    let text = include_str!("../../../../docs/relay.md");
    let (_, section) = text.split_once("## Four terabytes").expect("the section is there");
    let lines = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows: Vec<Vec<u64>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.split('|').skip(2).take(2);
            cells.map(|cell| cell.trim().replace(',', "").parse().expect("a number")).collect()
        })
        .collect();
    let one = figures(one_table(), 128 << 20);
    let many = figures(many_tables(), 80_000_000);
    let seen: Vec<Vec<u64>> = one.into_iter().zip(many).map(|(a, b)| vec![a, b]).collect();
    assert_eq!(rows, seen, "docs/relay.md has other figures");
}
