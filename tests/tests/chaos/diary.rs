//! What was done when, for whoever has to find out why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// The most of ended processes' logs that is kept, bytes.
const MOST_LOGS: usize = 8 << 20;

/// Notes with their times, and counts by kind.
pub(crate) struct Diary {
    began: Instant,
    lines: String,
    /// By kind; see [`Diary::count`].
    pub(crate) counts: BTreeMap<String, u32>,
    /// What hosts that have ended had logged.
    logs: String,
}

impl Diary {
    pub(crate) fn new() -> Self {
        let (lines, logs) = (String::new(), String::new());
        Self { began: Instant::now(), lines, counts: BTreeMap::new(), logs }
    }

    pub(crate) fn note(&mut self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        // Writing into a String cannot fail.
        let _ = writeln!(self.lines, "{seconds:8.2} s  {text}");
    }

    pub(crate) fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn counted(&self, kind: &str) -> u32 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    /// Keeps the log of a host that has ended.
    pub(crate) fn keep_log(&mut self, whose: &str, log: &str) {
        if self.logs.len() < MOST_LOGS {
            let seconds = self.began.elapsed().as_secs_f64();
            let _ = write!(self.logs, "\n=== {whose}, until {seconds:.2} s\n{log}");
        }
    }

    /// One line of all counts whose kind begins so.
    pub(crate) fn counts_of(&self, kind: &str) -> String {
        let chosen = self.counts.iter().filter_map(|(name, count)| {
            Some(format!("{} {count}", name.strip_prefix(kind)?.trim_start()))
        });
        chosen.collect::<Vec<_>>().join(", ")
    }

    /// Writes all of it, and more, into a file beside the build; gives its path.
    pub(crate) fn write(&self, name: &str, more: &str) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}.log"));
        let text = format!("{}\n{}\n{more}\n{}", self.lines, self.counts_of(""), self.logs);
        if let Err(error) = std::fs::write(&path, text) {
            say(&format!("cannot write {}: {error}", path.display()));
        }
        path
    }
}

/// For whoever reads the output of a test.
#[expect(clippy::print_stderr, reason = "a soak says what it does")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
