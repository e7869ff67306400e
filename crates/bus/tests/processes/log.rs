//! The logs of the workers.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::worker;

/// A line of a log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) what: String,
    pub(crate) id: usize,
    pub(crate) delivery_count: u32,
    pub(crate) number: i64,
}

/// Appends a line by one write.
pub(crate) fn append(folder: &Path, log: &str, line: &str) {
    let path = folder.join(log);
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a log");
    file.write_all(format!("{line}\n").as_bytes()).expect("a line");
}

/// The entries of a log: `what message-ID [delivery_count sequence_number]`.
pub(crate) fn read_log(folder: &Path, log: &str) -> Vec<Entry> {
    let text = std::fs::read_to_string(folder.join(log)).unwrap_or_default();
    text.lines()
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let word = |at: usize| words.get(at).copied().unwrap_or("0");
            Entry {
                what: word(0).to_owned(),
                id: worker::number_of(word(1)),
                delivery_count: word(2).parse().expect("a count"),
                number: word(3).parse().expect("a number"),
            }
        })
        .collect()
}
