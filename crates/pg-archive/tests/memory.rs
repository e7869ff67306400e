//! How much memory a large table of contents takes.

mod common;

use common::{fixture, read_toc};
use flexkeep_pg_archive::{Entry, EntryFields, Limits, Toc};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// About what 20,000 tables make.
const ENTRIES: i32 = 100_000;

fn large_toc() -> Vec<u8> {
    let (header, real) = read_toc(&fixture("pg17-pipe-none")).into_parts();
    let entry = |id: i32| {
        let fields = real[id as usize % real.len()].fields();
        Entry::new(EntryFields { dump_id: id, ..fields }).expect("a sound entry")
    };
    Toc::new(header, (1..=ENTRIES).map(entry).collect()).expect("sound").encode()
}

#[test]
fn a_table_of_contents_takes_little_more_memory_than_its_file() {
    let encoded = large_toc();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let toc = Toc::read(&mut encoded.as_slice(), &Limits::default()).expect("sound");
    let (held, peak) = (MEMORY.current_usage() - before, MEMORY.peak_usage() - before);
    let entries = ENTRIES as usize;
    assert_eq!(toc.entries().len(), entries);
    let allowed = encoded.len() * 13 / 10 + entries * 120;
    assert!(held < allowed, "{held} bytes held, {} in the file", encoded.len());
    assert!(peak < 2 * allowed, "{peak} bytes at the peak, {} in the file", encoded.len());
}
