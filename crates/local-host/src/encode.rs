//! The body of an invocation, encoded the way the real host does it, oddities included.
//!
//! Values in `Data` and `Metadata` are base64 for bytes, a date without fraction for dates, a JSON
//! object for objects, and **JSON text inside a JSON string** for everything else. A reader that
//! works with this host has to undo the same as on the platform.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt::strtime};
use uuid::Uuid;

use crate::json::{Json, object};

/// A value as .NET holds it before it is encoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    /// A `DateTime`.
    Date(Timestamp),
    /// A `DateTimeOffset`.
    DateOffset(Timestamp),
    /// A string, number, flag, list or null.
    Plain(Json),
    /// An object, or an array of a request that is encoded as it is.
    Object(Json),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Plain(Json::String(text.into()))
    }

    pub(crate) fn number(number: impl Into<serde_json::Number>) -> Self {
        Self::Plain(Json::Number(number.into()))
    }

    fn encode(&self) -> Json {
        match self {
            Self::Bytes(bytes) => Json::String(BASE64.encode(bytes)),
            Self::Date(at) => Json::String(format_date(*at, "%Y-%m-%dT%H:%M:%S")),
            Self::DateOffset(at) => Json::String(format_date(*at, "%Y-%m-%dT%H:%M:%S+00:00")),
            Self::Plain(json) => Json::String(json.to_text()),
            Self::Object(json) => json.clone(),
        }
    }
}

/// Binding data: names without case, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Sets a value. One that exists keeps its place and the case of its name.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        match self.entries.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, known)) => *known = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }

    /// Sets a value if there is one: the host leaves nulls out.
    pub(crate) fn set_some(&mut self, name: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// What the host does to a text that is a JSON object: each of its members that is no array
    /// becomes binding data, over whatever had the name.
    pub(crate) fn pollute(&mut self, text: &str) {
        let trimmed = text.trim();
        if !(trimmed.starts_with('{') && trimmed.ends_with('}')) {
            return;
        }
        let Ok(Json::Object(members)) = Json::parse(text.as_bytes()) else { return };
        for (name, value) in members {
            match value {
                Json::Array(_) => {}
                Json::Object(_) => self.set(&name, Value::Object(value)),
                scalar => self.set(&name, Value::text(scalar.to_display_text())),
            }
        }
    }
}

/// The body of the request to the handler. `data` is the trigger's name and value; `sys` is added
/// and names that end in "trigger" are dropped, as the host does.
pub(crate) fn envelope(
    function: &str,
    data: (&str, &Value),
    metadata: &Metadata,
    now: Timestamp,
) -> String {
    let is_trigger = |name: &str| name.to_lowercase().ends_with("trigger");
    let mut encoded: Vec<(String, Json)> = metadata
        .entries
        .iter()
        .filter(|(name, _)| !is_trigger(name) && !name.eq_ignore_ascii_case("sys"))
        .map(|(name, value)| (name.clone(), value.encode()))
        .collect();
    let sys = object([
        ("MethodName", function.into()),
        ("UtcNow", full_date(now, "Z").into()),
        ("RandGuid", Uuid::new_v4().to_string().into()),
    ]);
    encoded.push(("sys".to_owned(), sys));
    let (name, value) = data;
    object([("Data", object([(name, value.encode())])), ("Metadata", Json::Object(encoded))])
        .to_text()
}

/// The status of a timer that its info shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScheduleStatus {
    /// `None` if it never ran.
    pub(crate) last: Option<Timestamp>,
    pub(crate) next: Timestamp,
    pub(crate) last_updated: Option<Timestamp>,
}

/// The value of a timer trigger.
pub(crate) fn timer_info(
    adjusts_for_dst: bool,
    status: Option<&ScheduleStatus>,
    is_past_due: bool,
) -> Value {
    let date = |at: Option<Timestamp>| -> Json {
        match at {
            Some(at) => full_date(at, "+00:00").into(),
            None => "0001-01-01T00:00:00+00:00".into(),
        }
    };
    let status = status.map_or(Json::Null, |status| {
        object([
            ("Last", date(status.last)),
            ("Next", date(Some(status.next))),
            ("LastUpdated", date(status.last_updated)),
        ])
    });
    Value::Object(object([
        ("Schedule", object([("AdjustForDST", adjusts_for_dst.into())])),
        ("ScheduleStatus", status),
        ("IsPastDue", is_past_due.into()),
    ]))
}

/// A date as it stands inside an object: with its fraction of up to seven digits.
pub(crate) fn full_date(at: Timestamp, zone: &str) -> String {
    let ticks = at.subsec_nanosecond().unsigned_abs() / 100;
    let seconds = format_date(at, "%Y-%m-%dT%H:%M:%S");
    match ticks {
        0 => format!("{seconds}{zone}"),
        _ => {
            let fraction = format!("{ticks:07}");
            format!("{seconds}.{}{zone}", fraction.trim_end_matches('0'))
        }
    }
}

fn format_date(at: Timestamp, format: &str) -> String {
    strtime::format(format, &at.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn encoded(value: Value) -> String {
        value.encode().to_text()
    }

    /// The envelope without its sys, which differs each time.
    fn without_sys(text: &str) -> String {
        let end = text.find("\"sys\":").unwrap();
        format!("{}}}}}", text[..end].trim_end_matches(','))
    }

    #[test]
    fn each_kind_of_value_is_encoded_as_the_host_does() {
        assert_eq!(encoded(Value::Bytes(b"{\"a\":1}".into())), r#""eyJhIjoxfQ==""#);
        let date = at("2026-11-22T11:50:35.987Z");
        assert_eq!(encoded(Value::Date(date)), r#""2026-11-22T11:50:35""#);
        assert_eq!(encoded(Value::DateOffset(date)), r#""2026-11-22T11:50:35+00:00""#);
        assert_eq!(encoded(Value::text("abc")), r#""\"abc\"""#);
        assert_eq!(encoded(Value::number(1)), r#""1""#);
        assert_eq!(encoded(Value::Plain(true.into())), r#""true""#);
        assert_eq!(encoded(Value::Plain(Json::parse(b"[1, 2]").unwrap())), r#""[1,2]""#);
        assert_eq!(encoded(Value::Plain(Json::Null)), r#""null""#);
        assert_eq!(encoded(Value::Object(object([("k", "v".into())]))), r#"{"k":"v"}"#);
    }

    #[test]
    fn the_envelope_adds_sys_and_drops_names_that_end_in_trigger() {
        let mut metadata = Metadata::default();
        metadata.set("TimerTrigger", Value::text("now"));
        metadata.set("a", Value::number(1));
        let now = at("2026-11-22T11:50:35.1234567Z");
        let text = envelope("onMsg", ("msg", &Value::text("{\"a\":1}")), &metadata, now);
        let json = Json::parse(text.as_bytes()).unwrap();
        let sys = json.get("Metadata").unwrap().get("sys").unwrap();
        assert_eq!(sys.get("MethodName"), Some(&"onMsg".into()));
        assert_eq!(sys.get("UtcNow"), Some(&"2026-11-22T11:50:35.1234567Z".into()));
        assert!(Uuid::try_parse(sys.get("RandGuid").unwrap().as_str().unwrap()).is_ok());
        let expected = r#"{"Data":{"msg":"\"{\\\"a\\\":1}\""},"Metadata":{"a":"1"}}"#;
        assert_eq!(without_sys(&text), expected);
    }

    #[test]
    fn a_text_that_is_an_object_overrides_binding_data_in_any_case() {
        let mut metadata = Metadata::default();
        metadata.set("MessageId", Value::text("m-1"));
        metadata.pollute(
            r#" {"messageid":"x","n":1.50,"yes":true,"none":null,"list":[1],"o":{"b":1,"a":2}} "#,
        );
        let text = envelope("f", ("msg", &Value::text("")), &metadata, Timestamp::UNIX_EPOCH);
        let expected = concat!(
            r#"{"Data":{"msg":"\"\""},"Metadata":{"MessageId":"\"x\"","n":"\"1.5\"","#,
            r#""yes":"\"True\"","none":"\"\"","o":{"b":1,"a":2}}}"#
        );
        assert_eq!(without_sys(&text), expected);
    }

    #[test]
    fn a_text_that_is_no_object_changes_nothing() {
        for text in ["", "hello", "[1]", "{broken}", "{\"a\":1} tail"] {
            let mut metadata = Metadata::default();
            metadata.pollute(text);
            assert!(metadata.entries.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_timer_info_is_the_object_of_the_documentation() {
        let status = ScheduleStatus {
            last: Some(at("2026-11-22T11:45:00.0050123Z")),
            next: at("2026-11-22T11:50:00Z"),
            last_updated: Some(at("2026-11-22T11:45:00.0050123Z")),
        };
        let expected = concat!(
            r#"{"Schedule":{"AdjustForDST":true},"ScheduleStatus":{"#,
            r#""Last":"2026-11-22T11:45:00.0050123+00:00","Next":"2026-11-22T11:50:00+00:00","#,
            r#""LastUpdated":"2026-11-22T11:45:00.0050123+00:00"},"IsPastDue":false}"#
        );
        assert_eq!(encoded(timer_info(true, Some(&status), false)), expected);
        let expected =
            r#"{"Schedule":{"AdjustForDST":false},"ScheduleStatus":null,"IsPastDue":true}"#;
        assert_eq!(encoded(timer_info(false, None, true)), expected);
        let first = ScheduleStatus { last: None, last_updated: None, ..status };
        assert!(
            encoded(timer_info(true, Some(&first), false))
                .contains("\"0001-01-01T00:00:00+00:00\"")
        );
    }
}
