//! Real archives, damaged in many ways: no panic, no memory beyond what the limits allow.
//!
//! The seed is fixed, so that a failure comes again; the fuzz targets search further.

#[path = "../fuzz/src/checks.rs"]
mod checks;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// How long each kind of input is damaged.
const TIME: Duration = Duration::from_millis(4000);
/// The fewest and the most mutations of each kind, however slow or fast the machine.
const COUNT: std::ops::Range<u32> = 500..200_000;
/// Far below what a length of 2^31 would take, above what honest copies of the input take.
const MAX_MEMORY: usize = 48 << 20;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(kind);
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is kept")
        .map(|file| file.expect("a file").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const ODD: [u8; 8] = [0, 1, 2, 127, 128, 255, b'"', b'\n'];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = ODD[random.below(ODD.len())],
            3 => bytes.insert(at, random.next() as u8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 if at + 5 <= bytes.len() => {
                let length = random.next() as u32 >> random.below(32);
                bytes[at] = random.below(2) as u8;
                bytes[at + 1..at + 5].copy_from_slice(&length.to_le_bytes());
            }
            6 => {
                let (from, length) = (random.below(other.len()), random.below(300));
                let end = (from + length).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let end = (at + random.below(100)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

fn damage(kind: &str, check: fn(&[u8])) {
    let corpus = corpus(kind);
    corpus.iter().for_each(|bytes| check(bytes));
    let mut random = Random(0x5eed);
    let start = Instant::now();
    let mut count = 0;
    while count < COUNT.start || (count < COUNT.end && start.elapsed() < TIME) {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        mutate(&mut bytes, &corpus[random.below(corpus.len())], &mut random);
        check(&bytes);
        count += 1;
    }
}

#[test]
fn damaged_input_gives_errors_and_takes_little_memory() {
    MEMORY.reset_peak_usage();
    for (kind, check) in [
        ("archive", checks::archive as fn(&[u8])),
        ("data_blocks", checks::data_blocks),
        ("copy_statement", checks::copy_statement),
    ] {
        damage(kind, check);
        let peak = MEMORY.peak_usage();
        assert!(peak < MAX_MEMORY, "{kind}: {peak} bytes");
    }
}
