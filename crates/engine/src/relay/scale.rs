//! Four terabytes, and more, by simulation: the planner, the lanes' way of finding their work, and
//! the seal, on plans of a hundred thousand items. docs/relay.md has the figures.
//!
//! What is measured of memory is the peak of this process: nextest has one for each test.

mod counting;
mod lanes;
mod source;

use std::sync::Arc;

use flexkeep_vault::store::{MemoryStore, SharedStore};
use flexkeep_vault::{RunId, Vault};
use jiff::Timestamp;

use super::journals;
use super::state::{self, RunObjects};
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

#[test]
fn planning_200_000_items_takes_little_memory() {
    let objects = memory_run();
    huge().plan(&objects, FOLDER, LANES);
    let plan = objects.plan(FOLDER).unwrap().unwrap();
    assert_eq!(plan.items.len(), 200_000);
    expect_peak("planning 200,000 items", CEILING_KB);
}

#[test]
fn planning_100_000_tables_takes_little_memory() {
    let objects = memory_run();
    Source::of(100_000, 40_000_000, None).plan(&objects, FOLDER, LANES);
    let plan = objects.plan(FOLDER).unwrap().unwrap();
    assert_eq!(plan.entries.len(), 100_000);
    let chunks: u64 = plan.entries.iter().map(chunks_of_slice).sum();
    assert!(chunks <= 700_000, "{chunks}");
    expect_peak("planning 100,000 tables", CEILING_OF_TABLES_KB);
}

#[test]
fn sealing_200_000_items_takes_little_memory() {
    seal(huge(), 200_000);
    expect_peak("planning and sealing 200,000 items", CEILING_KB);
}

#[test]
fn sealing_100_000_tables_takes_little_memory() {
    seal(Source::of(100_000, 40_000_000, None), 50_000);
    expect_peak("planning and sealing 100,000 tables", CEILING_OF_TABLES_KB);
}

/// Seals a source whose journals are made when they are read: they would take the memory that is
/// measured.
fn seal(source: Source, items: usize) {
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
    (store.take(), ran)
}

fn items_of_64_mib(items: u64) -> Source {
    Source::of(1, items * (64 << 20), Some(8192))
}

#[test]
fn twice_the_items_cost_at_most_twice_the_calls() {
    let (mut before, _) = calls_of(items_of_64_mib(12_500), 190, None);
    for items in [25_000, 50_000, 100_000] {
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
