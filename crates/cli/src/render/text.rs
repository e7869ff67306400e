//! Text from elsewhere, made safe to show: a database's name may hold anything but a zero byte.

use std::borrow::Cow;

/// The text with control characters, other than line ends, as escapes: `\u{1b}`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unsafe(c) && c != '\n')
}

/// The same for what must stay on one line.
pub(crate) fn cell(text: &str) -> Cow<'_, str> {
    escape(text, is_unsafe)
}

/// Control characters, and those that turn the direction of the text around.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn escape(text: &str, is_unsafe: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// `1 table`, `2 tables`.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    let number = crate::render::units::count(count);
    if count == 1 { format!("{number} {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\nb\tc\x1b[2J"), "a\nb\\tc\\u{1b}[2J");
        assert_eq!(cell("a\nb"), "a\\nb");
        assert_eq!(cell("a\u{202e}b"), "a\\u{202e}b");
        assert!(matches!(printable("schön 日本"), Cow::Borrowed("schön 日本")));
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(plural(1, "table"), "1 table");
        assert_eq!(plural(0, "table"), "0 tables");
        assert_eq!(plural(12_345, "row"), "12,345 rows");
    }
}
