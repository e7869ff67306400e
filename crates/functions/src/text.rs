//! Text for logs: one line, however many the text had.

use std::{error::Error, fmt::Write as _};

/// Longer lines are cut; the telemetry behind the host keeps 32 KiB of a message.
pub(crate) const LINE_LIMIT: usize = 30 * 1024;

/// Appends `text` with control characters escaped, so that it stays one line.
pub(crate) fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push('\t'),
            // Line and paragraph separators end a line for some readers of logs.
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(line, "\\u{{{:x}}}", c as u32);
            }
            c => line.push(c),
        }
    }
}

/// The beginning of a text from outside, in quotes, for a message.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// Cuts a line at [`LINE_LIMIT`] and says so.
pub(crate) fn cut(line: &mut String) {
    if line.len() > LINE_LIMIT {
        let mut end = LINE_LIMIT;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let rest = line.len() - end;
        line.truncate(end);
        let _ = write!(line, "… ({rest} more bytes)");
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    push_escaped(&mut line, &error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        push_escaped(&mut line, &error.to_string());
        cause = error.source();
    }
    cut(&mut line);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_line_with_every_cause() {
        let error = anyhow::anyhow!("the disk\nis full").context("no segment").context("no backup");
        let error: crate::BoxError = error.into();
        assert_eq!(chain(&*error), "no backup: no segment: the disk\\nis full");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character_and_says_so() {
        let mut line = "é".repeat(LINE_LIMIT);
        cut(&mut line);
        assert!(line.len() < LINE_LIMIT + 40);
        assert!(line.ends_with("more bytes)"), "{}", &line[line.len() - 40..]);
    }

    #[test]
    fn a_quoted_text_is_short() {
        assert_eq!(quoted("a\"b\n"), r#""a\"b\n""#);
        assert_eq!(quoted(&"ü".repeat(1000)), format!("\"{}\"…", "ü".repeat(100)));
    }

    #[test]
    fn control_characters_and_separators_do_not_pass() {
        let mut line = String::new();
        push_escaped(&mut line, "a\u{1b}[31mb\u{2028}c\0d");
        assert_eq!(line, "a\\u{1b}[31mb\\u{2028}c\\u{0}d");
    }
}
