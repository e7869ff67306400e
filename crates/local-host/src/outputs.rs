//! A handler's answer: what it means, and what goes to the outputs.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use crate::function::{DataType, Function, Output, Target};
use crate::json::Json;

/// .NET's decoder does not look at the bits that padding leaves over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What .NET writes for an array of bytes that nobody expected.
const BYTES_AS_TEXT: &str = "System.Byte[]";

const RETURN: &str = "$return";

/// An understood answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) logs: Vec<String>,
    /// Message texts by the place of their output in the function.
    pub(crate) messages: Vec<(usize, Vec<String>)>,
    pub(crate) http: HttpAnswer,
    /// Oddities of the host that change what the handler wrote.
    pub(crate) warnings: Vec<String>,
}

/// What an HTTP client gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Default for HttpAnswer {
    fn default() -> Self {
        Self { status: 200, headers: Vec::new(), body: Vec::new() }
    }
}

/// Why an answer with a status of 2xx is a failure all the same.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the answer has no body")]
    Empty,
    #[error("the answer is null")]
    Null,
    #[error("the answer's content type is {found} instead of application/json")]
    ContentType { found: String },
    #[error("the answer is not a JSON object: {problem}")]
    Shape { problem: String },
    #[error("output {binding}: {problem}")]
    Output { binding: String, problem: String },
}

impl AnswerError {
    /// Whether the real host would wait for the function's timeout and then kill the handler.
    pub(crate) fn hangs_on_the_platform(&self) -> bool {
        matches!(self, Self::Empty | Self::Null)
    }
}

/// Reads the body of an answer with a status of 2xx.
pub(crate) fn decode(
    function: &Function,
    status: u16,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Answer, AnswerError> {
    if status == 204 || body.is_empty() {
        return Err(AnswerError::Empty);
    }
    let media_type = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
    if !["application/json", "text/json"].iter().any(|json| json.eq_ignore_ascii_case(media_type)) {
        let found = if media_type.is_empty() { "missing" } else { media_type }.to_owned();
        return Err(AnswerError::ContentType { found });
    }
    let json = Json::parse(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body))
        .map_err(|error| AnswerError::Shape { problem: error.to_string() })?;
    let member = |name| json.get_any_case(name).filter(|value| **value != Json::Null);
    match &json {
        Json::Null => return Err(AnswerError::Null),
        Json::Object(_) => {}
        _ => return Err(AnswerError::Shape { problem: "it is another JSON value".into() }),
    }
    let outputs = match member("Outputs") {
        None => Vec::new(),
        Some(Json::Object(members)) => members.clone(),
        Some(_) => return Err(AnswerError::Shape { problem: "Outputs is not an object".into() }),
    };
    let mut answer = Answer { logs: logs(member("Logs"))?, ..Answer::default() };
    answer.fill(function, outputs, member("ReturnValue"))?;
    Ok(answer)
}

fn logs(logs: Option<&Json>) -> Result<Vec<String>, AnswerError> {
    let wrong = || AnswerError::Shape { problem: "Logs is not a list of strings".into() };
    match logs {
        None => Ok(Vec::new()),
        Some(Json::Array(lines)) => lines
            .iter()
            .map(|line| match line {
                Json::Array(_) | Json::Object(_) => Err(wrong()),
                line => Ok(line.to_display_text()),
            })
            .collect(),
        Some(_) => Err(wrong()),
    }
}

impl Answer {
    fn fill(
        &mut self,
        function: &Function,
        mut outputs: Vec<(String, Json)>,
        returned: Option<&Json>,
    ) -> Result<(), AnswerError> {
        if let Some(returned) = returned {
            if function.outputs.iter().any(|output| output.binding == RETURN) {
                set(&mut outputs, RETURN, returned.clone());
            } else if let Json::Object(members) = returned {
                for (name, value) in members {
                    set(&mut outputs, name, value.clone());
                }
            }
        }
        for (place, output) in function.outputs.iter().enumerate() {
            let value = outputs.iter().find(|(name, _)| *name == output.binding).map(|(_, v)| v);
            let Some(value) = value.filter(|value| **value != Json::Null) else { continue };
            let wrong =
                |problem: String| AnswerError::Output { binding: output.binding.clone(), problem };
            match output.target {
                Target::Http => self.http = http_answer(value).map_err(wrong)?,
                Target::Queue { .. } => {
                    let texts = self.texts(output, value).map_err(wrong)?;
                    self.messages.push((place, texts));
                }
            }
        }
        Ok(())
    }

    /// The messages that a value becomes.
    fn texts(&mut self, output: &Output, value: &Json) -> Result<Vec<String>, String> {
        let mut warn = |what: &str| {
            self.warnings.push(format!("output {}: {what}", output.binding));
        };
        let parsed;
        let value = match value {
            Json::String(text) => {
                if output.data_type != DataType::Binary && is_base64(text) {
                    warn(
                        "the text is valid base64, so the host takes it for bytes and sends the \
                         text \"System.Byte[]\"; set \"dataType\": \"binary\" on the output",
                    );
                    return Ok(vec![BYTES_AS_TEXT.to_owned()]);
                }
                if looks_like_date(text) {
                    warn("the text looks like a date, which the platform's host may rewrite");
                }
                if !looks_like_json(text) {
                    return Ok(vec![text.clone()]);
                }
                parsed = Json::parse(text.as_bytes())
                    .map_err(|error| format!("the text looks like JSON and is not: {error}"))?;
                &parsed
            }
            value => value,
        };
        Ok(match value {
            Json::Array(items) => items.iter().map(Json::to_display_text).collect(),
            single => vec![single.to_display_text()],
        })
    }
}

fn set(outputs: &mut Vec<(String, Json)>, name: &str, value: Json) {
    match outputs.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => outputs.push((name.to_owned(), value)),
    }
}

/// Whether .NET decodes a text as base64; it skips white space.
fn is_base64(text: &str) -> bool {
    let packed: Vec<u8> =
        text.bytes().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).collect();
    BASE64.decode(packed).is_ok()
}

fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    (text.starts_with('{') && text.ends_with('}')) || (text.starts_with('[') && text.ends_with(']'))
}

fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_digit);
    bytes.len() >= 19
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && (digit(0) && digit(5) && digit(8) && digit(11) && digit(14) && digit(17))
}

/// The client's response from the value of an http output.
fn http_answer(value: &Json) -> Result<HttpAnswer, String> {
    let parsed;
    let value = match value {
        Json::String(text) => {
            parsed = Json::parse(text.as_bytes()).map_err(|_| "is not an object".to_owned())?;
            &parsed
        }
        value => value,
    };
    if !matches!(value, Json::Object(_)) {
        return Err("is not an object with statusCode, body and headers".into());
    }
    let status = value.get_any_case("statusCode").map(Json::to_display_text);
    let status = status.and_then(|text| text.trim().parse().ok()).unwrap_or(200);
    if !(100..=999).contains(&status) {
        return Err(format!("the status code {status} cannot be sent"));
    }
    let mut headers = Vec::new();
    match value.get_any_case("headers") {
        None | Some(Json::Null) => {}
        Some(Json::Object(members)) => {
            for (name, value) in members {
                match value {
                    Json::Null => return Err(format!("the header {name} is null")),
                    value => headers.push((name.clone(), value.to_display_text())),
                }
            }
        }
        Some(_) => return Err("headers is not an object".into()),
    }
    let body = value.get_any_case("body").map(Json::to_display_text).unwrap_or_default();
    Ok(HttpAnswer { status, headers, body: body.into_bytes() })
}

#[cfg(test)]
mod tests;
