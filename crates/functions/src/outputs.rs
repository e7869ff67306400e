//! Outputs: what a function gives to its output bindings.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::Answer,
    bindings::{Bindings, DataType, Output},
    error::OutputError,
    host_quirks::{looks_like_base64, looks_like_date, looks_like_json},
};

/// Binding types whose outputs are sequences of items.
const ITEM_KINDS: [&str; 4] = ["serviceBus", "queue", "eventHub", "eventGrid"];

/// What a function gives to its output bindings; checked against function.json when it returns.
///
/// A name that function.json does not declare, or a text that the host would not pass on unchanged, makes the
/// invocation fail: the host itself would drop or change it in silence.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Outputs {
    items: Vec<(String, Item)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Message(String),
    Value(Value),
}

impl Outputs {
    /// No outputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one message with exactly this text to an output of type `serviceBus`, `queue`, `eventHub` or
    /// `eventGrid`. Messages are sent in the order given.
    ///
    /// The host sends them after the function has returned and before the trigger's message is completed:
    /// a crash between the two sends them again.
    pub fn message(mut self, output: impl Into<String>, text: impl Into<String>) -> Self {
        self.items.push((output.into(), Item::Message(text.into())));
        self
    }

    /// Adds one message with the JSON text of a value, as serde_json writes it.
    ///
    /// # Errors
    /// If the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(
        self,
        output: impl Into<String>,
        value: &T,
    ) -> Result<Self, OutputError> {
        let name = output.into();
        match serde_json::to_string(value) {
            Ok(text) => Ok(self.message(name, text)),
            Err(source) => Err(OutputError::NotJson { name, source }),
        }
    }

    /// Sets the value of an output of any type, as the host understands it.
    ///
    /// The host reads and writes the value again: dates and floats inside objects may change their form. A
    /// text that it would take for base64, a date or broken JSON fails the invocation.
    pub fn value(mut self, output: impl Into<String>, value: impl Into<Value>) -> Self {
        self.items.push((output.into(), Item::Value(value.into())));
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The messages for an output, for tests.
    pub fn messages<'a>(&'a self, output: &'a str) -> impl Iterator<Item = &'a str> {
        self.items.iter().filter_map(move |(name, item)| match item {
            Item::Message(text) if name == output => Some(text.as_str()),
            _ => None,
        })
    }
}

/// A function without outputs.
impl From<()> for Outputs {
    fn from((): ()) -> Self {
        Self::new()
    }
}

pub(crate) fn encode(outputs: Outputs, bindings: &Bindings) -> Result<Answer, OutputError> {
    let mut messages: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut answer = Answer::default();
    for (name, item) in outputs.items {
        let Some(output) = bindings.outputs.iter().find(|output| output.name == name) else {
            return Err(OutputError::Unknown { name, known: bindings.output_names() });
        };
        let unfit = |problem| OutputError::Unfit {
            name: output.name.clone(),
            kind: output.kind.clone(),
            problem,
        };
        if output.is("http") {
            return Err(unfit("return an HttpResponse to set it"));
        }
        if answer.has(&name) {
            return Err(unfit("it is set twice, or has a value and messages"));
        }
        match item {
            Item::Message(text) => {
                if !ITEM_KINDS.iter().any(|kind| output.is(kind)) {
                    return Err(unfit("it takes no messages: use Outputs::value"));
                }
                let list = messages.entry(name).or_default();
                check_date(&output.name, Some(list.len()), &text)?;
                list.push(Value::String(text));
            }
            Item::Value(_) if messages.contains_key(&name) => {
                return Err(unfit("it is set twice, or has a value and messages"));
            }
            Item::Value(value) => {
                check_value(output, &value)?;
                answer.set(name, value);
            }
        }
    }
    for (name, list) in messages {
        // An array, even for one: the host leaves the strings in an array as they are.
        answer.set(name, Value::Array(list));
    }
    Ok(answer)
}

fn check_value(output: &Output, value: &Value) -> Result<(), OutputError> {
    let unsafe_ =
        |problem| Err(OutputError::Unsafe { place: format!("{:?}", output.name), problem });
    match value {
        Value::Null => unsafe_("the host takes null for no value: leave the output out"),
        Value::String(text) => {
            if output.data_type != DataType::Binary && looks_like_base64(text) {
                return unsafe_(
                    "the host would decode this text as base64: send it as a message, or declare \
                     \"dataType\": \"binary\" for the output",
                );
            }
            if looks_like_json(text) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
            {
                return unsafe_(
                    "the host would read this text as JSON, and it is none: send it as a message",
                );
            }
            check_date(&output.name, None, text)
        }
        Value::Array(list) => list.iter().enumerate().try_for_each(|(index, value)| match value {
            Value::String(text) => check_date(&output.name, Some(index), text),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

fn check_date(name: &str, index: Option<usize>, text: &str) -> Result<(), OutputError> {
    if !looks_like_date(text) {
        return Ok(());
    }
    let place = match index {
        Some(index) => format!("\"{name}\"[{index}]"),
        None => format!("{name:?}"),
    };
    let problem = "the text is a date and nothing else, which the host rewrites in a form of its own: put it \
                   into a JSON object or another text";
    Err(OutputError::Unsafe { place, problem })
}
