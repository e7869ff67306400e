//! What the host does to strings in an answer, so that it can be avoided.

/// Whether .NET would decode the text as base64: the host then hands bytes to the output.
///
/// White space is ignored by .NET; an empty text decodes to no bytes.
pub(crate) fn looks_like_base64(text: &str) -> bool {
    let mut length = 0_usize;
    let mut padding = 0_usize;
    for c in text.bytes() {
        match c {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {}
            _ => return false,
        }
        length += 1;
    }
    length.is_multiple_of(4) && padding <= 2
}

/// Whether Json.NET would read the string as a date, and write it back in its own format.
///
/// Errs on the side of yes.
pub(crate) fn looks_like_date(text: &str) -> bool {
    if text.starts_with("/Date(") && text.ends_with(")/") {
        return true;
    }
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    (shape.len()..=40).contains(&bytes.len())
        && shape.iter().zip(bytes).all(|(expected, found)| match expected {
            b'0' => found.is_ascii_digit(),
            expected => expected == found,
        })
}

/// Whether the host would read a string output as JSON.
pub(crate) fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    (text.starts_with('{') && text.ends_with('}')) || (text.starts_with('[') && text.ends_with(']'))
}

/// Whether the host would look for properties in the text of a trigger: it takes what begins with a brace
/// and ends with one, and its parser is much more lenient than JSON.
pub(crate) fn may_be_object(text: &str) -> bool {
    text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').starts_with(['{', '/'])
}

/// Whether two names are the same to .NET's comparison without case, or to any stricter one.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
        || (!(a.is_ascii() && b.is_ascii())
            && (a.to_lowercase() == b.to_lowercase() || a.to_uppercase() == b.to_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_four_letters_hex_ids_and_nothing_look_like_base64() {
        for text in [
            "",
            "test",
            "0123456789abcdef0123456789abcdef",
            "YQ==",
            "YWI=",
            "te st\n",
            "ab+/",
            "    ",
        ] {
            assert!(looks_like_base64(text), "{text:?}");
        }
    }

    #[test]
    fn texts_with_other_characters_or_lengths_do_not_look_like_base64() {
        for text in ["tests", "{\"a\":1}", "a-bc", "====", "a===", "YQ==YQ==", "ab_c", "é123"] {
            assert!(!looks_like_base64(text), "{text:?}");
        }
    }

    #[test]
    fn iso_dates_and_the_old_microsoft_form_look_like_dates() {
        for text in [
            "2026-11-22T11:50:35",
            "2026-11-22T11:50:35Z",
            "2026-11-22T11:50:35.1234567+01:00",
            "/Date(1234)/",
        ] {
            assert!(looks_like_date(text), "{text:?}");
        }
        for text in [
            "2026-11-22",
            "2026-11-22 11:50:35",
            "\"2026-11-22T11:50:35Z\"",
            "run 2026-11-22T11:50:35Z",
        ] {
            assert!(!looks_like_date(text), "{text:?}");
        }
    }

    #[test]
    fn names_are_the_same_in_any_case() {
        assert!(same_name("MessageId", "MESSAGEID"));
        assert!(same_name("SessionId", "\u{17f}essionid"));
        assert!(same_name("LockToken", "Loc\u{212a}token"));
        assert!(!same_name("MessageId", "Message_Id"));
    }
}
