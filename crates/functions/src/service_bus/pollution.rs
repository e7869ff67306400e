//! Which metadata a message body may have overwritten.
//!
//! The host takes a text that begins with `{` and ends with `}`, reads it with a lenient parser (single
//! quotes, names without quotes, comments, …), and lets every top-level property that is not an array
//! replace the metadata of that name.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::host_quirks::{may_be_object, same_name};

/// What can be believed of the metadata.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everything: the host did not look into the body.
    All,
    /// Everything but these names.
    Except(Vec<String>),
    /// Nothing: the host may have read what a strict parser can't.
    Nothing,
}

impl Trust {
    /// What can be believed beside this body.
    pub(super) fn after(body: &str) -> Self {
        if !may_be_object(body) {
            return Self::All;
        }
        let mut reader = serde_json::Deserializer::from_str(body);
        match reader.deserialize_map(Names).and_then(|names| reader.end().map(|()| names)) {
            Ok(names) => Self::Except(names),
            Err(_) => Self::Nothing,
        }
    }

    pub(super) fn covers(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Except(names) => !names.iter().any(|name| same_name(name, key)),
            Self::Nothing => false,
        }
    }
}

/// Collects the names of the properties that are not arrays; a name that occurs twice counts if any does.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if !value.get().starts_with('[') {
                names.push(name);
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_object_can_not_overwrite_anything() {
        for body in ["", "hello", "[{\"MessageId\":1}]", "\"{}\"", "5", "null"] {
            assert_eq!(Trust::after(body), Trust::All, "{body}");
        }
    }

    #[test]
    fn each_property_that_is_not_an_array_takes_its_name_away_in_any_case() {
        let trust =
            Trust::after(r#" {"messageID":"x","SessionId":null,"To":{},"Subject":[1],"a":1} "#);
        for (key, covered) in [
            ("MessageId", false),
            ("SessionId", false),
            ("To", false),
            ("Subject", true),
            ("ReplyTo", true),
        ] {
            assert_eq!(trust.covers(key), covered, "{key}");
        }
    }

    #[test]
    fn a_name_that_occurs_twice_counts_if_either_is_no_array() {
        assert!(!Trust::after(r#"{"MessageId":[],"MessageId":"x"}"#).covers("MessageId"));
        assert!(!Trust::after(r#"{"MessageId":"x","MessageId":[]}"#).covers("MessageId"));
    }

    #[test]
    fn a_name_written_with_escapes_is_the_same_name() {
        assert!(!Trust::after(r#"{"\u004dessageId":"x"}"#).covers("MessageId"));
    }

    #[test]
    fn what_only_a_lenient_parser_reads_takes_everything_away() {
        for body in [
            "{'MessageId':'x'}",
            "{MessageId:'x'}",
            "{\"MessageId\":'x',}",
            "/* c */ {\"MessageId\":1}",
            "{\"MessageId\":1} // c }",
            "\u{feff}{MessageId:1}",
            "{",
        ] {
            assert_eq!(Trust::after(body), Trust::Nothing, "{body}");
        }
    }

    #[test]
    fn deep_nesting_does_not_hide_a_name() {
        let deep =
            format!("{{\"a\":{}1{},\"MessageId\":1}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(!Trust::after(&deep).covers("MessageId"));
    }
}
