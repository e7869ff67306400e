//! What is wrong with a policy, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Problems that are told in full; the others are counted.
const MOST_PROBLEMS: usize = 50;

/// One thing that is wrong, with its place in the file and the way out.
///
/// Displayed as `file:line:column: key: message`. No value of an environment variable and no
/// password is ever part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {}{key}: {message}", Of(.server.as_deref()))]
pub struct Problem {
    file: Arc<str>,
    line: usize,
    column: usize,
    server: Option<String>,
    key: String,
    message: String,
}

struct Of<'a>(Option<&'a str>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |server| write!(f, "server {server:?}: "))
    }
}

impl Problem {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The server that it is about, by the name in the file.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The same, about a server; shared keys stand elsewhere.
    pub(crate) fn of_server(self, name: &str) -> Self {
        Problem { server: Some(name.to_owned()), ..self }
    }

    /// The key, such as `schedule.at`, or the text that stands for one.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is wrong, what was expected, and the way out.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The problems of one file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: Arc<str>,
    listed: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// The problems that are listed: all, unless there are very many.
    pub fn listed(&self) -> &[Problem] {
        &self.listed
    }

    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.listed.len() + self.more
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "the policy has an error:")?,
            count => write!(f, "the policy has {count} errors:")?,
        }
        for problem in &self.listed {
            write!(f, "\n  {problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n  {}: and {} more", self.file, self.more)?;
        }
        Ok(())
    }
}

/// A policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy file {file}; {way_out}")]
    Unreadable {
        /// The file.
        file: String,
        /// What to do.
        way_out: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there is no policy file.
    #[error("{file} cannot be a policy file: {reason}")]
    NoFile {
        /// The file.
        file: String,
        /// Why, and what to do.
        reason: String,
    },
    /// What the file says is wrong.
    #[error("{0}")]
    Wrong(Problems),
}

impl PolicyError {
    /// The problems of the file's text; none when there is no text.
    pub fn problems(&self) -> &[Problem] {
        match self {
            PolicyError::Wrong(problems) => problems.listed(),
            _ => &[],
        }
    }
}

/// Collects the problems of a file while it is read.
pub(crate) struct Report<'a> {
    text: &'a str,
    file: Arc<str>,
    /// Where lines begin, bytes.
    lines: Vec<usize>,
    found: Vec<(usize, Problem)>,
    more: usize,
}

/// Where something stands: the server (if it is about one), the key, the bytes of the file.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) server: Option<String>,
    pub(crate) key: String,
    pub(crate) span: Range<usize>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(text: &'a str, file: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Report { text, file: file.into(), lines, found: Vec::new(), more: 0 }
    }

    /// The text of the line that a byte is in, without its end.
    pub(crate) fn line_of(&self, at: usize) -> &'a str {
        let start = self.lines[self.line_index(at)];
        self.text[start..].lines().next().unwrap_or_default()
    }

    /// A problem that is not collected (yet).
    pub(crate) fn problem(&self, spot: &Spot, message: impl Into<String>) -> Problem {
        let index = self.line_index(spot.span.start);
        let start = self.lines[index];
        let before = self.text.get(start..spot.span.start).unwrap_or_default();
        // A byte order mark is no character of the line.
        let column = before.chars().filter(|c| *c != '\u{feff}').count() + 1;
        Problem {
            file: Arc::clone(&self.file),
            line: index + 1,
            column,
            server: spot.server.as_deref().map(shown),
            key: shown(&spot.key),
            message: message.into(),
        }
    }

    /// Whether further problems are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MOST_PROBLEMS
    }

    pub(crate) fn add(&mut self, spot: &Spot, message: impl Into<String>) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.found.push((spot.span.start, self.problem(spot, message)));
        }
    }

    /// Nothing, or all that was found in the order of the file.
    pub(crate) fn finish(&mut self) -> Result<(), PolicyError> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut found = std::mem::take(&mut self.found);
        found.sort_by_key(|(at, _)| *at);
        let listed = found.into_iter().map(|(_, problem)| problem).collect();
        let more = std::mem::take(&mut self.more);
        Err(PolicyError::Wrong(Problems { file: Arc::clone(&self.file), listed, more }))
    }

    fn line_index(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }
}

impl Problems {
    /// These, which are not many.
    pub(crate) fn of(file: &Arc<str>, listed: Vec<Problem>) -> Self {
        Problems { file: Arc::clone(file), listed, more: 0 }
    }
}

/// A text of the file as messages repeat it: cut, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST_CHARS: usize = 60;
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(LONGEST_CHARS).map(clean).collect();
    if text.chars().nth(LONGEST_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(at: usize) -> Spot {
        Spot { server: None, key: "k".to_owned(), span: at..at + 1 }
    }

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let report = Report::new("a\nüö = x\r\n\nend", "p.toml");
        let place = |at| {
            let problem = report.problem(&spot(at), "m");
            (problem.line(), problem.column())
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(2), (2, 1));
        assert_eq!(place("a\nüö ".len()), (2, 4));
        assert_eq!(place("a\nüö = x\r\n\n".len()), (4, 1));
        // The end of the file, where something is missing.
        assert_eq!(place("a\nüö = x\r\n\nend".len()), (4, 4));
        assert_eq!(report.line_of(3), "üö = x");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_very_many_are_counted() {
        let text = "x".repeat(100);
        let mut report = Report::new(&text, "p.toml");
        for at in (0..70).rev() {
            report.add(&spot(at), "wrong");
        }
        let Err(PolicyError::Wrong(problems)) = report.finish() else { panic!("no problems") };
        assert_eq!((problems.count(), problems.listed().len()), (70, 50));
        let text = problems.to_string();
        assert!(text.starts_with("the policy has 70 errors:\n  p.toml:1:21: k: wrong\n"), "{text}");
        assert!(text.ends_with("\n  p.toml: and 20 more"), "{text}");
    }

    #[test]
    fn long_texts_and_control_characters_are_not_repeated() {
        assert_eq!(shown("a\n\u{1b}[31m"), "a\u{fffd}\u{fffd}[31m");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 61);
    }
}
