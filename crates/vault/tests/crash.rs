//! A backup cut off at every write, before and after the write takes effect.

mod pretend;

use std::sync::Arc;

use flexkeep_vault::Vault;
use flexkeep_vault::store::{
    Calls, Fault, Faults, FaultyStore, FolderStore, MemoryStore, SharedStore,
};
use pretend::{backup, verify_all};

const TIME: &str = "2026-11-22T22:53:00Z";

fn faulty(data: &SharedStore, runs: &SharedStore, faults: &Arc<Faults>) -> [SharedStore; 2] {
    [data, runs].map(|store| FaultyStore::wrap(Arc::clone(store), Arc::clone(faults)))
}

fn open(data: &SharedStore, runs: &SharedStore) -> Vault {
    Vault::open_or_create_in(Arc::clone(data), Arc::clone(runs)).unwrap()
}

/// Cuts a first backup at write `index`; returns whether the fault was reached.
fn cut_at(calls: Calls, index: u64, fault: Fault, make: &dyn Fn() -> SharedStore) -> bool {
    let (data, runs) = (make(), make());
    let faults = Faults::at(calls, index, fault);
    let [faulty_data, faulty_runs] = faulty(&data, &runs, &faults);
    let result = Vault::open_or_create_in(faulty_data, faulty_runs)
        .and_then(|vault| backup(&vault, "srv", TIME));
    let reached = faults.count(calls) > index;

    // What the next process finds: whole backups or none, and everything that a manifest names.
    let vault = open(&data, &runs);
    let sealed = verify_all(&vault);
    if result.is_ok() {
        assert_eq!(sealed, 1, "{fault:?} at {index}: what was reported as done is there");
    }
    if faults.crashed() {
        assert!(result.is_err(), "{fault:?} at {index}: a dead process reports nothing");
    }

    // The next run succeeds, and what was uploaded is not uploaded again.
    let uploaded = pretend::names(&data).iter().filter(|name| name.starts_with("chunks/")).count();
    let manifest = backup(&vault, "srv", "2026-11-23T22:53:00Z").unwrap();
    assert_eq!(manifest.totals.new_chunks + uploaded as u64, manifest.totals.chunks);
    assert_eq!(verify_all(&vault), sealed + 1);
    reached
}

const ALL: [Fault; 5] =
    [Fault::CrashBefore, Fault::CrashAfter, Fault::FailBefore, Fault::FailAfter, Fault::NoSpace];

fn cut_everywhere(calls: Calls, faults: &[Fault], make: &dyn Fn() -> SharedStore) {
    for fault in faults.iter().copied() {
        let mut index = 0;
        while cut_at(calls, index, fault, make) {
            index += 1;
        }
        // format.json, the run, 4 + 3 chunks, the journal, 3 meta objects, the manifest, and
        // three writes that end the run.
        assert!(index >= 17, "only {index} calls were cut");
    }
}

#[test]
fn a_backup_cut_at_any_write_leaves_whole_backups_only() {
    cut_everywhere(Calls::Writes, &ALL, &|| Arc::new(MemoryStore::new()));
}

#[test]
fn a_backup_cut_at_any_call_leaves_whole_backups_only() {
    cut_everywhere(Calls::All, &ALL, &|| Arc::new(MemoryStore::new()));
}

#[test]
fn a_backup_in_a_folder_cut_at_any_write_leaves_whole_backups_only() {
    let root = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    // Each of its calls waits for the disk, so only the crashes.
    cut_everywhere(Calls::Writes, &ALL[..2], &|| {
        number.set(number.get() + 1);
        Arc::new(FolderStore::create(root.path().join(number.get().to_string())).unwrap())
    });
}

#[test]
fn a_lost_answer_while_sealing_is_no_failure() {
    let (data, runs): (SharedStore, SharedStore) =
        (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let counting = Faults::none();
    let [counted_data, counted_runs] = faulty(&data, &runs, &counting);
    let vault = Vault::create_in(counted_data, counted_runs).unwrap();
    backup(&vault, "srv", TIME).unwrap();
    let writes = counting.count(Calls::Writes);
    // The manifest, the run's record, and the two objects of the run that are removed.
    let manifest_write = writes - 4;

    let (data, runs): (SharedStore, SharedStore) =
        (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let faults = Faults::at(Calls::Writes, manifest_write, Fault::FailAfter);
    let [faulty_data, faulty_runs] = faulty(&data, &runs, &faults);
    let vault = Vault::create_in(faulty_data, faulty_runs).unwrap();
    backup(&vault, "srv", TIME).expect("the manifest is there, as it was wanted");
    assert_eq!(verify_all(&vault), 1);
}

#[test]
fn backups_through_an_unreliable_store_are_whole_or_not_there() {
    let (data, runs): (SharedStore, SharedStore) =
        (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    open(&data, &runs);
    let (mut done, mut failed) = (0, 0);
    for seed in 0..300 {
        let [faulty_data, faulty_runs] = faulty(&data, &runs, &Faults::seeded(seed, 30));
        let time = format!("2026-11-22T{:02}:{:02}:00Z", seed / 60, seed % 60);
        let result = Vault::with_stores(faulty_data, faulty_runs)
            .and_then(|vault| backup(&vault, "srv", &time));
        match result {
            Ok(_) => done += 1,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                failed += 1;
            }
        }
    }
    assert!(done > 20 && failed > 20, "{done} done, {failed} failed");
    assert!(verify_all(&open(&data, &runs)) >= done);
}
