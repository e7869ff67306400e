//! The answer to an invocation.

use serde::Serialize;
use serde_json::{Map, Value};

/// The name of the output that the host takes from `ReturnValue`.
const RETURN: &str = "$return";

/// What goes back to the host: outputs that were checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    outputs: Map<String, Value>,
    return_value: Option<Value>,
}

impl Answer {
    /// The value of an output, as the host will see it.
    pub fn output(&self, name: &str) -> Option<&Value> {
        if name == RETURN { self.return_value.as_ref() } else { self.outputs.get(name) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.output(name).is_some()
    }

    pub(crate) fn set(&mut self, name: String, value: Value) {
        if name == RETURN {
            self.return_value = Some(value);
        } else {
            self.outputs.insert(name, value);
        }
    }

    /// The body of the response: an object at least, because the host waits for ever on an empty one.
    pub(crate) fn into_body(self, logs: Vec<String>) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wire {
            #[serde(skip_serializing_if = "Map::is_empty")]
            outputs: Map<String, Value>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            logs: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            return_value: Option<Value>,
        }
        let wire = Wire { outputs: self.outputs, logs, return_value: self.return_value };
        serde_json::to_vec(&wire).expect("strings and JSON values always have a JSON form")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_anything_is_an_empty_object() {
        assert_eq!(Answer::default().into_body(Vec::new()), b"{}");
    }

    #[test]
    fn the_output_named_return_is_the_return_value() {
        let mut answer = Answer::default();
        answer.set("$return".into(), Value::from(5));
        answer.set("out".into(), Value::from("a b"));
        let body = String::from_utf8(answer.into_body(vec!["line".into()])).unwrap();
        assert_eq!(body, r#"{"Outputs":{"out":"a b"},"Logs":["line"],"ReturnValue":5}"#);
    }
}
