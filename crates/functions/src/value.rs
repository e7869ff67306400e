//! Reading the values of an envelope, by the rules of the host's encoder.

use std::borrow::Cow;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{error::PayloadError, text::quoted};

/// A JSON string, borrowed when it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value as a JSON string.
pub(crate) fn string<'a>(raw: &'a RawValue, what: &str) -> Result<Cow<'a, str>, PayloadError> {
    match serde_json::from_str::<Text<'a>>(raw.get()) {
        Ok(Text(text)) => Ok(text),
        Err(source) => {
            Err(PayloadError::because(format!("{what}: expected a JSON string"), source))
        }
    }
}

/// A JSON object; serde alone would take an array for a struct as well.
pub(crate) fn object<'a, T: Deserialize<'a>>(
    json: &'a [u8],
    what: &str,
) -> Result<T, PayloadError> {
    let start = json.iter().find(|byte| !byte.is_ascii_whitespace());
    let read = match serde_json::from_slice(json) {
        Ok(_) if start != Some(&b'{') => return Err(PayloadError::new(what)),
        read => read,
    };
    read.map_err(|source| PayloadError::because(what, source))
}

/// A value that the host wrote as JSON inside a JSON string.
pub(crate) fn doubled<T: DeserializeOwned>(
    raw: &RawValue,
    what: &str,
    expected: &str,
) -> Result<T, PayloadError> {
    let text = string(raw, what)?;
    serde_json::from_str(&text).map_err(|source| {
        PayloadError::because(
            format!("{what}: expected a JSON string that holds {expected}"),
            source,
        )
    })
}

/// A scalar of the metadata as text. Strings and numbers are doubled, dates are not.
pub(crate) fn scalar(raw: &RawValue, what: &str) -> Result<Option<String>, PayloadError> {
    let outer = raw.get();
    let text = match outer.as_bytes().first() {
        Some(b'"') => string(raw, what)?,
        Some(b'{' | b'[') => {
            return Err(PayloadError::new(format!("{what}: expected a text or a number")));
        }
        _ => Cow::Borrowed(outer),
    };
    if text == "null" {
        return Ok(None);
    }
    Ok(Some(match serde_json::from_str::<String>(&text) {
        Ok(inner) => inner,
        Err(_) => text.into_owned(),
    }))
}

/// A whole number of the metadata.
pub(crate) fn number<N: std::str::FromStr>(text: &str, what: &str) -> Result<N, PayloadError> {
    let wrong =
        || PayloadError::new(format!("{what}: expected a whole number, found {}", quoted(text)));
    text.trim().parse().map_err(|_| wrong())
}

/// A date as .NET writes it; without an offset it is UTC.
///
/// `DateTimeOffset.MaxValue`, which stands for "never expires", is past what [`Timestamp`] can hold and
/// becomes its maximum.
pub(crate) fn timestamp(text: &str, what: &str) -> Result<Timestamp, PayloadError> {
    if text.starts_with("9999-12-3") {
        return Ok(Timestamp::MAX);
    }
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    let date = text.parse::<DateTime>().and_then(|date| date.to_zoned(TimeZone::UTC));
    match date {
        Ok(date) => Ok(date.timestamp()),
        Err(source) => {
            let found = quoted(text);
            let what =
                format!("{what}: expected a date such as 2026-11-22T11:50:35Z, found {found}");
            Err(PayloadError::because(what, source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> String {
        timestamp(text, "it").unwrap().to_string()
    }

    #[test]
    fn dates_of_each_form_that_the_host_writes_are_read() {
        assert_eq!(at("2026-11-22T11:50:35"), "2026-11-22T11:50:35Z");
        assert_eq!(at("2026-11-22T11:50:35+00:00"), "2026-11-22T11:50:35Z");
        assert_eq!(at("2026-11-22T11:50:35.1234567+02:00"), "2026-11-22T09:50:35.1234567Z");
        assert_eq!(at("0001-01-01T00:00:00+00:00"), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn a_message_that_never_expires_has_the_last_timestamp() {
        assert_eq!(timestamp("9999-12-31T23:59:59+00:00", "it").unwrap(), Timestamp::MAX);
        assert_eq!(timestamp("9999-12-31T23:59:59.9999999", "it").unwrap(), Timestamp::MAX);
    }

    #[test]
    fn what_is_no_date_is_named() {
        let error = timestamp("tomorrow", "Metadata.ExpiresAt").unwrap_err();
        assert!(error.to_string().contains("Metadata.ExpiresAt"), "{error}");
        assert!(error.to_string().contains("tomorrow"), "{error}");
    }

    #[test]
    fn scalars_are_unwrapped_once_and_keep_their_text() {
        let read = |json: &str| {
            let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
            scalar(&raw, "it").unwrap()
        };
        assert_eq!(read(r#""\"m-1\"""#).as_deref(), Some("m-1"));
        assert_eq!(read(r#""\"5\"""#).as_deref(), Some("5"));
        assert_eq!(read(r#""\"\\\"quoted\\\"\"""#).as_deref(), Some("\"quoted\""));
        assert_eq!(read(r#""5""#).as_deref(), Some("5"));
        assert_eq!(read("5").as_deref(), Some("5"));
        assert_eq!(read(r#""2026-11-22T11:50:35""#).as_deref(), Some("2026-11-22T11:50:35"));
        assert_eq!(read(r#""null""#), None);
        assert_eq!(read("null"), None);
    }
}
