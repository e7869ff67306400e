//! An event: what happened, in the CloudEvents 1.0 JSON format (structured mode).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::BusError;

/// The largest event, as JSON: the limit of Event Grid.
pub const MAX_EVENT_BYTES: usize = 1_000_000;

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";

/// The names that the format itself uses at the top level.
const RESERVED: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
];

/// Something that happened, told to whoever listens.
///
/// Its JSON is an object with `specversion` first. Writing and reading both check the rules of
/// [`Self::validate`]. An event never holds a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudEvent {
    /// Unique among the events of the source; the same when an event is told again.
    pub id: String,
    /// Who tells it: a URI or a path.
    pub source: String,
    /// What kind of thing happened, for example `flexkeep.backup.completed`.
    pub type_: String,
    /// What it happened to.
    pub subject: Option<String>,
    /// When it happened.
    pub time: Timestamp,
    /// The schema of `data`: an absolute URI.
    pub dataschema: Option<String>,
    /// Further attributes for filters: names of 1 to 20 of `a-z 0-9`, values that are strings,
    /// booleans or 32-bit integers.
    pub extensions: BTreeMap<String, Value>,
    /// The content; left out of the JSON if null.
    pub data: Value,
}

impl CloudEvent {
    /// An event with the attributes that every one has.
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        type_: impl Into<String>,
        time: Timestamp,
        data: Value,
    ) -> Self {
        Self {
            id: id.into(),
            source: source.into(),
            type_: type_.into(),
            subject: None,
            time,
            dataschema: None,
            extensions: BTreeMap::new(),
            data,
        }
    }

    /// Sets what it happened to.
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the schema of the content.
    pub fn with_dataschema(mut self, dataschema: impl Into<String>) -> Self {
        self.dataschema = Some(dataschema.into());
        self
    }

    /// Sets one further attribute.
    pub fn with_extension(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// Checks the rules of CloudEvents 1.0, which every sink does before it publishes.
    ///
    /// # Errors
    /// `Invalid`, naming the event and the attribute.
    pub fn validate(&self) -> Result<(), BusError> {
        self.check().map_err(|wrong| {
            BusError::invalid(format!("the event {:?} breaks CloudEvents 1.0: {wrong}", self.id))
        })
    }

    /// The event as one line of JSON, without its end of line.
    ///
    /// # Errors
    /// `Invalid` if it breaks a rule or is larger than [`MAX_EVENT_BYTES`].
    pub fn to_json(&self) -> Result<Vec<u8>, BusError> {
        self.validate()?;
        let json = serde_json::to_vec(self).map_err(|error| {
            BusError::invalid(format!("the event {:?} has no JSON form", self.id))
                .with_source(error)
        })?;
        if json.len() > MAX_EVENT_BYTES {
            return Err(BusError::invalid(format!(
                "the event {:?} has {} bytes, the limit is {MAX_EVENT_BYTES}; leave the details to \
                 what it points at",
                self.id,
                json.len()
            )));
        }
        Ok(json)
    }

    fn check(&self) -> Result<(), String> {
        check_text("id", &self.id)?;
        check_text("source", &self.source)?;
        check_uri_characters("source", &self.source)?;
        check_text("type", &self.type_)?;
        if let Some(subject) = &self.subject {
            check_text("subject", subject)?;
        }
        if let Some(dataschema) = &self.dataschema {
            check_text("dataschema", dataschema)?;
            check_uri_characters("dataschema", dataschema)?;
            if !has_scheme(dataschema) {
                return Err("dataschema is not an absolute URI".to_owned());
            }
        }
        self.extensions.iter().try_for_each(|(name, value)| check_extension(name, value))
    }
}

fn check_text(attribute: &str, text: &str) -> Result<(), String> {
    let is_noncharacter = |c: char| {
        let code = u32::from(c);
        code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code)
    };
    if text.is_empty() {
        return Err(format!("{attribute} is empty"));
    }
    if text.chars().any(|c| c.is_control() || is_noncharacter(c)) {
        return Err(format!("{attribute} has a control character or a noncharacter"));
    }
    Ok(())
}

/// The characters of RFC 3986; `%` begins two hexadecimal digits.
fn check_uri_characters(attribute: &str, text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        return Err(format!("{attribute} has {c:?}, which a URI writes as % and two digits"));
    }
    let is_escape = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(format!("{attribute} has a % without two hexadecimal digits"));
    }
    Ok(())
}

fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

fn check_extension(name: &str, value: &Value) -> Result<(), String> {
    let is_name = (1..=20).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !is_name {
        return Err(format!("{name:?} is no name of an attribute: 1 to 20 of a-z 0-9"));
    }
    if RESERVED.contains(&name) {
        return Err(format!("{name} is an attribute of CloudEvents, not an extension"));
    }
    let is_integer = |n: &serde_json::Number| n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
    match value {
        Value::Bool(_) => Ok(()),
        Value::Number(number) if is_integer(number) => Ok(()),
        // Unlike the attributes of the core, an extension may be an empty string.
        Value::String(text) if text.is_empty() => Ok(()),
        Value::String(text) => check_text(name, text),
        _ => Err(format!("{name} is not a string, a boolean or a 32-bit integer")),
    }
}

impl Serialize for CloudEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.check().map_err(S::Error::custom)?;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", SPEC_VERSION)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("type", &self.type_)?;
        if let Some(subject) = &self.subject {
            map.serialize_entry("subject", subject)?;
        }
        map.serialize_entry("time", &self.time)?;
        if let Some(dataschema) = &self.dataschema {
            map.serialize_entry("dataschema", dataschema)?;
        }
        for (name, value) in &self.extensions {
            map.serialize_entry(name, value)?;
        }
        if !self.data.is_null() {
            map.serialize_entry("datacontenttype", CONTENT_TYPE)?;
            map.serialize_entry("data", &self.data)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for CloudEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let attributes = Map::deserialize(deserializer)?;
        from_attributes(attributes).map_err(D::Error::custom)
    }
}

fn from_attributes(mut attributes: Map<String, Value>) -> Result<CloudEvent, String> {
    match optional(&mut attributes, "specversion")?.as_deref() {
        Some(SPEC_VERSION) => {}
        Some(other) => return Err(format!("specversion is {other:?}, not \"{SPEC_VERSION}\"")),
        None => return Err("specversion is missing: this is no CloudEvent".to_owned()),
    }
    let content_type = optional(&mut attributes, "datacontenttype")?;
    if let Some(other) = content_type.filter(|content_type| !is_json(content_type)) {
        return Err(format!("datacontenttype is {other:?}, not {CONTENT_TYPE}"));
    }
    if attributes.contains_key("data_base64") {
        return Err("it has data_base64: only JSON data is read".to_owned());
    }
    let time = required(&mut attributes, "time")?;
    let time: Timestamp =
        time.parse().map_err(|_| format!("time is {time:?}, not a timestamp of RFC 3339"))?;
    let event = CloudEvent {
        id: required(&mut attributes, "id")?,
        source: required(&mut attributes, "source")?,
        type_: required(&mut attributes, "type")?,
        subject: optional(&mut attributes, "subject")?,
        time,
        dataschema: optional(&mut attributes, "dataschema")?,
        data: attributes.remove("data").unwrap_or_default(),
        // The format says that null means absent.
        extensions: attributes.into_iter().filter(|(_, value)| !value.is_null()).collect(),
    };
    event.check()?;
    Ok(event)
}

fn optional(attributes: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match attributes.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} is not a string")),
    }
}

fn required(attributes: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    optional(attributes, name)?.ok_or_else(|| format!("{name} is missing"))
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(CONTENT_TYPE)
}
