//! JSON values whose members keep their order, as the host's library keeps it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A JSON value. serde_json's own would sort the members of an object, which shows in what a
/// handler gets and in what is put on a queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses strict JSON, as it comes from a handler or in a message.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Parses a configuration file: comments and trailing commas are allowed, as in the host.
    pub(crate) fn parse_lenient(text: &str) -> Result<Self, jsonc_parser::errors::ParseError> {
        let options = jsonc_parser::ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        jsonc_parser::parse_to_serde_value(text, &options)
    }

    /// The member called exactly `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The member called `name` in any case.
    pub(crate) fn get_any_case(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => {
                members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// One line, escaped as the host's library escapes.
    pub(crate) fn to_text(&self) -> String {
        let text = serde_json::to_string(self).expect("a value in memory always has a text");
        escape_line_separators(text)
    }

    /// Indented by two spaces, which is how the host turns an object into a message.
    pub(crate) fn to_indented_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a value in memory has a text");
        escape_line_separators(text)
    }

    /// What .NET's `ToString` gives: a string as it is, `True` for true, nothing for null, and
    /// indented JSON for arrays and objects.
    pub(crate) fn to_display_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Number(number) => match (number.is_f64(), number.as_f64()) {
                (true, Some(float)) => float.to_string(),
                _ => number.to_string(),
            },
            Self::String(text) => text.clone(),
            Self::Array(_) | Self::Object(_) => self.to_indented_text(),
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// An object from its members, in the order given.
pub(crate) fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// The host's library escapes three characters that serde_json leaves; they can only stand inside
/// strings.
fn escape_line_separators(text: String) -> String {
    if !text.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
        return text;
    }
    text.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => items.serialize(serializer),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        Json::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object: Vec<(String, Json)> = Vec::new();
        let mut places = std::collections::HashMap::<String, usize>::new();
        while let Some((key, value)) = members.next_entry::<String, Json>()? {
            // A name that comes twice keeps its place and takes the later value.
            match places.get(&key) {
                Some(place) => object[*place].1 = value,
                None => {
                    places.insert(key.clone(), object.len());
                    object.push((key, value));
                }
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_the_last_of_a_name_wins() {
        let value = Json::parse(br#"{"b":1,"a":[true,null,-2,1.5,"x"],"b":2}"#).unwrap();
        assert_eq!(value.to_text(), r#"{"b":2,"a":[true,null,-2,1.5,"x"]}"#);
    }

    #[test]
    fn configuration_may_hold_comments_trailing_commas_and_a_byte_order_mark() {
        let value = Json::parse_lenient("\u{feff}{ // why\n \"a\": [1, 2,], /* b */ \"c\": {},}");
        assert_eq!(value.unwrap().to_text(), r#"{"a":[1,2],"c":{}}"#);
        assert!(Json::parse_lenient("{\"a\": }").is_err());
        assert!(Json::parse_lenient("{'a': 1}").is_err());
    }

    #[test]
    fn text_of_a_value_follows_dotnet() {
        let text = |json: &str| Json::parse(json.as_bytes()).unwrap().to_display_text();
        assert_eq!(text("true"), "True");
        assert_eq!(text("null"), "");
        assert_eq!(text("1.0"), "1");
        assert_eq!(text("12"), "12");
        assert_eq!(text("\"x\""), "x");
        assert_eq!(
            text(r#"{"a":[1],"b":{},"c":[]}"#),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {},\n  \"c\": []\n}"
        );
    }

    #[test]
    fn line_separators_are_escaped() {
        assert_eq!(Json::from("a\u{2028}b\u{85}é").to_text(), "\"a\\u2028b\\u0085é\"");
    }
}
