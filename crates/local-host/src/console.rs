//! The handler's console: each line goes to the log, and the last errors are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A longer line is logged in pieces of this size.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// How many lines of stderr explain why the handler died.
const TAIL_LINES: usize = 3;

/// The target of the handler's lines in the log.
const TARGET: &str = "handler";

/// The last lines of stderr.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The lines, joined for an error message.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect::<Vec<_>>().join(" | ")
    }
}

/// Which of the handler's streams is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    /// `is_errors`: every line is an error unless it says that it is a warning.
    Err {
        is_errors: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Information,
    System,
}

/// Logs every line until the stream ends.
pub(crate) async fn log_lines(mut from: impl AsyncRead + Unpin, stream: Stream, tail: Tail) {
    let mut line = Vec::new();
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        for piece in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= MAX_LINE_BYTES {
                log_line(&line, stream, &tail);
                line.clear();
            }
        }
    }
    log_line(&line, stream, &tail);
}

fn log_line(line: &[u8], stream: Stream, tail: &Tail) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return;
    }
    if stream != Stream::Out {
        tail.push(line);
    }
    match level(line, stream) {
        Level::Error => tracing::error!(target: TARGET, "{line}"),
        Level::Warning => tracing::warn!(target: TARGET, "{line}"),
        Level::Information => tracing::info!(target: TARGET, "{line}"),
        Level::System => tracing::debug!(target: TARGET, "{line}"),
    }
}

fn level(line: &str, stream: Stream) -> Level {
    if line.starts_with("LanguageWorkerConsoleLog") || line.starts_with("azfuncjsonlog:") {
        return Level::System;
    }
    let lower = line.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    match stream {
        Stream::Out => Level::Information,
        Stream::Err { .. } if has(&["warn"]) => Level::Warning,
        Stream::Err { is_errors: true } => Level::Error,
        Stream::Err { is_errors: false } => {
            match has(&["error", "fail", "severe", "unhandled exception"]) {
                true => Level::Error,
                false => Level::Information,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_stream_and_the_words_of_the_line() {
        let strict = Stream::Err { is_errors: true };
        let loose = Stream::Err { is_errors: false };
        assert_eq!(level("an error", Stream::Out), Level::Information);
        assert_eq!(level("listening", strict), Level::Error);
        assert_eq!(level("Warning: slow", strict), Level::Warning);
        assert_eq!(level("listening", loose), Level::Information);
        assert_eq!(level("it Failed", loose), Level::Error);
        assert_eq!(level("LanguageWorkerConsoleLog: error", strict), Level::System);
    }

    #[tokio::test]
    async fn the_last_three_lines_are_kept_and_endless_lines_are_cut() {
        let tail = Tail::default();
        let text = format!("one\ntwo\n\nthree\r\n{}x", "a".repeat(MAX_LINE_BYTES));
        log_lines(text.as_bytes(), Stream::Err { is_errors: true }, tail.clone()).await;
        let text = tail.text();
        assert!(text.starts_with("two | three | aaa") || text.starts_with("three | aaa"), "{text}");
        assert!(text.len() < MAX_LINE_BYTES * 2 + 20);
        log_lines(&b"a\nb\nc"[..], Stream::Out, tail.clone()).await;
        assert_eq!(tail.text(), text, "stdout explains no death");
    }
}
