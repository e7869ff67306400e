//! function.json: what the host will send and what it takes back.

use std::fmt;

use serde_json::{Map, Value};

use crate::{error::RegisterError, host_quirks::same_name};

/// The kinds of triggers that this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TriggerKind {
    /// `timerTrigger`
    Timer,
    /// `serviceBusTrigger`, one message at a time
    ServiceBus,
    /// `serviceBusTrigger` with `"cardinality": "many"`
    ServiceBusBatch,
    /// `httpTrigger`
    Http,
}

impl TriggerKind {
    /// The trigger's `type` in function.json.
    pub fn binding_type(self) -> &'static str {
        match self {
            Self::Timer => "timerTrigger",
            Self::ServiceBus | Self::ServiceBusBatch => "serviceBusTrigger",
            Self::Http => "httpTrigger",
        }
    }
}

impl fmt::Display for TriggerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.binding_type())?;
        if *self == Self::ServiceBusBatch { f.write_str(" (batch)") } else { Ok(()) }
    }
}

/// The `dataType` of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    Undeclared,
    String,
    Binary,
}

/// One output binding.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// As written in function.json.
    pub(crate) kind: String,
    pub(crate) data_type: DataType,
}

impl Output {
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind)
    }
}

/// What the runtime needs of a function.json.
#[derive(Debug, Clone)]
pub(crate) struct Bindings {
    pub(crate) trigger: String,
    pub(crate) data_type: DataType,
    pub(crate) outputs: Vec<Output>,
}

impl Bindings {
    /// The names of the outputs, for messages.
    pub(crate) fn output_names(&self) -> String {
        if self.outputs.is_empty() {
            return "no outputs".into();
        }
        let names = self.outputs.iter().map(|output| format!("{:?}", output.name));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The output that carries the response of an HTTP function.
    pub(crate) fn http_output(&self) -> Option<&Output> {
        self.outputs.iter().find(|output| output.is("http"))
    }

    /// Reads and checks a function.json for a handler of the given kind.
    pub(crate) fn read(
        function: &str,
        kind: TriggerKind,
        json: &str,
    ) -> Result<Self, RegisterError> {
        let json = json.trim_start_matches('\u{feff}');
        let value: Value = serde_json::from_str(json)
            .map_err(|source| RegisterError::NotJson { function: function.into(), source })?;
        let reader = Reader { function, kind };
        let list = match value.get("bindings") {
            Some(Value::Array(list)) => list,
            other => return Err(reader.mismatch("bindings", "a list", show(other))),
        };
        let mut names: Vec<String> = Vec::new();
        let mut trigger = None;
        let mut outputs = Vec::new();
        for (index, binding) in list.iter().enumerate() {
            let at = format!("bindings[{index}]");
            let Value::Object(binding) = binding else {
                return Err(reader.mismatch(at, "an object", show(Some(binding))));
            };
            let name = reader.name(&at, binding, &names)?;
            let declared = reader.text(&at, binding, "type")?;
            if declared.to_ascii_lowercase().ends_with("trigger") {
                if let Some((_, first)) = &trigger {
                    let found = format!("a second one, {declared:?} beside {first:?}");
                    return Err(reader.mismatch(
                        format!("{at}.type"),
                        "exactly one trigger",
                        found,
                    ));
                }
                let data_type = reader.trigger(&at, binding, &declared)?;
                trigger = Some(((name.clone(), data_type), declared));
            } else {
                outputs.push(reader.output(&at, binding, name.clone(), declared)?);
            }
            names.push(name);
        }
        let Some(((trigger, data_type), _)) = trigger else {
            let expected = format!("a trigger of type {:?}", kind.binding_type());
            return Err(reader.mismatch("bindings", expected, "no trigger"));
        };
        reader.http_outputs(&outputs)?;
        Ok(Self { trigger, data_type, outputs })
    }
}

struct Reader<'a> {
    function: &'a str,
    kind: TriggerKind,
}

impl Reader<'_> {
    fn mismatch(
        &self,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> RegisterError {
        RegisterError::Mismatch {
            function: self.function.into(),
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A string that must be there and not be empty; `%SETTING%` is as good as any.
    fn text(
        &self,
        at: &str,
        binding: &Map<String, Value>,
        key: &str,
    ) -> Result<String, RegisterError> {
        match binding.get(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
            other => Err(self.mismatch(format!("{at}.{key}"), "a text", show(other))),
        }
    }

    fn name(
        &self,
        at: &str,
        binding: &Map<String, Value>,
        before: &[String],
    ) -> Result<String, RegisterError> {
        let name = self.text(at, binding, "name")?;
        let plain = name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|c| c.is_ascii_alphanumeric());
        if !plain && name != "$return" {
            let expected = "a letter, then at most 127 letters and digits, or \"$return\"";
            return Err(self.mismatch(format!("{at}.name"), expected, format!("{name:?}")));
        }
        if before.iter().any(|other| same_name(other, &name)) {
            let expected = "a name that no other binding has (the case of letters does not count)";
            return Err(self.mismatch(format!("{at}.name"), expected, format!("{name:?}")));
        }
        Ok(name)
    }

    fn trigger(
        &self,
        at: &str,
        binding: &Map<String, Value>,
        declared: &str,
    ) -> Result<DataType, RegisterError> {
        let expected = self.kind.binding_type();
        if !declared.eq_ignore_ascii_case(expected) {
            let found = format!("{declared:?}");
            return Err(self.mismatch(format!("{at}.type"), format!("{expected:?}"), found));
        }
        self.direction(at, binding, "in")?;
        if binding.get("name").and_then(Value::as_str) == Some("$return") {
            let expected = "a name for the trigger; only an output can have this one";
            return Err(self.mismatch(format!("{at}.name"), expected, "\"$return\""));
        }
        match self.kind {
            TriggerKind::Timer => {
                self.text(at, binding, "schedule")?;
            }
            TriggerKind::ServiceBus | TriggerKind::ServiceBusBatch => {
                if binding.contains_key("queueName") {
                    self.text(at, binding, "queueName")?;
                } else if binding.contains_key("topicName") {
                    self.text(at, binding, "topicName")?;
                    self.text(at, binding, "subscriptionName")?;
                } else {
                    let expected = "queueName, or topicName and subscriptionName";
                    return Err(self.mismatch(at, expected, "neither"));
                }
                self.cardinality(at, binding)?;
            }
            TriggerKind::Http => {}
        }
        let data_type = self.data_type(at, binding)?;
        let is_service_bus =
            matches!(self.kind, TriggerKind::ServiceBus | TriggerKind::ServiceBusBatch);
        if data_type == DataType::Binary && !is_service_bus {
            let expected = "no dataType: this trigger always has the same form";
            return Err(self.mismatch(format!("{at}.dataType"), expected, "\"binary\""));
        }
        Ok(data_type)
    }

    fn cardinality(&self, at: &str, binding: &Map<String, Value>) -> Result<(), RegisterError> {
        let many = match binding.get("cardinality") {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("one") => false,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("many") => true,
            other => {
                let key = format!("{at}.cardinality");
                return Err(self.mismatch(key, "\"one\" or \"many\"", show(other)));
            }
        };
        let expected = match (self.kind, many) {
            (TriggerKind::ServiceBusBatch, false) => "\"many\", for a handler of batches",
            (TriggerKind::ServiceBus, true) => "\"one\", for a handler of single messages",
            _ => return Ok(()),
        };
        let found = show(binding.get("cardinality"));
        Err(self.mismatch(format!("{at}.cardinality"), expected, found))
    }

    fn output(
        &self,
        at: &str,
        binding: &Map<String, Value>,
        name: String,
        kind: String,
    ) -> Result<Output, RegisterError> {
        self.direction(at, binding, "out")?;
        let data_type = self.data_type(at, binding)?;
        Ok(Output { name, kind, data_type })
    }

    fn http_outputs(&self, outputs: &[Output]) -> Result<(), RegisterError> {
        let found = outputs.iter().filter(|output| output.is("http")).count();
        let expected = match (self.kind, found) {
            (TriggerKind::Http, 1) => return Ok(()),
            (TriggerKind::Http, _) => "exactly one output of type \"http\"",
            (_, 0) => return Ok(()),
            (_, _) => "no output of type \"http\": there is no request to respond to",
        };
        Err(self.mismatch("bindings", expected, found.to_string()))
    }

    /// The host takes a missing direction as "in", so that an output without one would never be written.
    fn direction(
        &self,
        at: &str,
        binding: &Map<String, Value>,
        expected: &str,
    ) -> Result<(), RegisterError> {
        match binding.get("direction") {
            Some(Value::String(text)) if text.eq_ignore_ascii_case(expected) => Ok(()),
            other => {
                let words = match expected {
                    "in" => "\"in\"",
                    _ => "\"out\" (input bindings beside the trigger are not supported)",
                };
                Err(self.mismatch(format!("{at}.direction"), words, show(other)))
            }
        }
    }

    fn data_type(&self, at: &str, binding: &Map<String, Value>) -> Result<DataType, RegisterError> {
        match binding.get("dataType") {
            None | Some(Value::Null) => Ok(DataType::Undeclared),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("string") => {
                Ok(DataType::String)
            }
            Some(Value::String(text)) if text.eq_ignore_ascii_case("binary") => {
                Ok(DataType::Binary)
            }
            other => {
                let key = format!("{at}.dataType");
                Err(self.mismatch(key, "\"string\", \"binary\" or no such key", show(other)))
            }
        }
    }
}

/// A short form of what was found.
fn show(value: Option<&Value>) -> String {
    match value {
        None => "no such key".into(),
        Some(Value::Array(_)) => "a list".into(),
        Some(Value::Object(_)) => "an object".into(),
        Some(value) => {
            let text = value.to_string();
            if text.chars().count() <= 60 {
                text
            } else {
                format!("{}…", text.chars().take(60).collect::<String>())
            }
        }
    }
}

/// Checks a folder name by the host's rule.
pub(crate) fn check_function_name(name: &str) -> Result<(), RegisterError> {
    let plain = name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        && !name.eq_ignore_ascii_case("host");
    if plain { Ok(()) } else { Err(RegisterError::Name { name: name.into() }) }
}
