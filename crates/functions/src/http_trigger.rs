//! The HTTP trigger and its response, inside the host's envelope (not forwarded).

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    answer::Answer,
    bindings::Bindings,
    error::{OutputError, PayloadError},
    host_quirks::looks_like_date,
    outputs::{self, Outputs},
};

mod request;

pub(crate) use request::decode;

/// A request that a client made to the host.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The whole URL, as the client used it.
    pub url: String,
    /// The headers; a name may occur several times.
    pub headers: HeaderMap,
    /// The parameters of the route.
    pub params: BTreeMap<String, String>,
    /// The parameters of the query, decoded, in their order; a name may occur several times.
    pub query: Vec<(String, String)>,
    /// The body. Empty if there is none, and also if the client sent it without a Content-Length: the host
    /// loses such bodies.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// A request with the query of the URL and nothing else, to call a function in a test.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        let url = url.into();
        let query = request::query_of(&url);
        Self {
            method,
            url,
            query,
            headers: HeaderMap::new(),
            params: BTreeMap::new(),
            body: Vec::new(),
        }
    }

    /// The first value of a header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get_all(name).iter().find_map(|value| value.to_str().ok())
    }

    /// A parameter of the route.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    /// The first value of a parameter of the query. The case of letters counts.
    pub fn query(&self, name: &str) -> Option<&str> {
        let first = self.query.iter().find(|(other, _)| other == name);
        first.map(|(_, value)| value.as_str())
    }

    /// All values of a parameter of the query.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&self) -> Result<&str, PayloadError> {
        std::str::from_utf8(&self.body)
            .map_err(|source| PayloadError::because("the body of the request is not UTF-8", source))
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// If it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_slice(&self.body).map_err(|source| {
            PayloadError::because("the body of the request is not the JSON expected", source)
        })
    }
}

/// The response to a client. Its body is text: the protocol has no place for other bytes.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct HttpResponse {
    status: StatusCode,
    /// Lower case names.
    headers: BTreeMap<String, String>,
    body: String,
    outputs: Outputs,
}

impl HttpResponse {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: BTreeMap::new(), body: String::new(), outputs: Outputs::new() }
    }

    /// A text, `text/plain` in UTF-8.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        let response = Self { body: body.into(), ..Self::empty(status) };
        response.content_type("text/plain; charset=utf-8")
    }

    /// The JSON text of a value, `application/json`.
    ///
    /// # Errors
    /// If the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Result<Self, OutputError> {
        let body = serde_json::to_string(body)
            .map_err(|source| OutputError::NotJson { name: "http response".into(), source })?;
        Ok(Self::text(status, body).content_type("application/json"))
    }

    /// Sets the type of the body.
    pub fn content_type(self, value: impl Into<String>) -> Self {
        self.header(header::CONTENT_TYPE.as_str(), value)
    }

    /// Sets a header, in place of an earlier one of this name. A name or a value that HTTP does not allow
    /// makes the invocation fail.
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.headers.insert(name.as_ref().to_ascii_lowercase(), value.into());
        self
    }

    /// Gives something to the other output bindings of the function.
    pub fn outputs(mut self, outputs: Outputs) -> Self {
        self.outputs = outputs;
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &str {
        &self.body
    }
}

pub(crate) fn encode(response: HttpResponse, bindings: &Bindings) -> Result<Answer, OutputError> {
    let output = bindings.http_output().expect("checked when the function was registered");
    let HttpResponse { status, mut headers, body, outputs } = response;
    let mut answer = outputs::encode(outputs, bindings)?;
    let unfit =
        |problem| OutputError::Unfit { name: output.name.clone(), kind: "http".into(), problem };
    if status.is_informational() {
        return Err(unfit("a status below 200 is no response"));
    }
    let no_body = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if no_body && !body.is_empty() {
        return Err(unfit("a response with status 204 or 304 has no body"));
    }
    if looks_like_date(&body) {
        return Err(OutputError::Unsafe {
            place: format!("{:?}.body", output.name),
            problem: "the text is a date and nothing else, which the host rewrites: send it as JSON",
        });
    }
    headers.entry("content-type".into()).or_insert_with(|| "text/plain; charset=utf-8".into());
    let mut object = Map::new();
    object.insert("statusCode".into(), Value::String(status.as_str().to_owned()));
    object.insert("headers".into(), Value::Object(check_headers(&output.name, headers)?));
    if !body.is_empty() {
        object.insert("body".into(), Value::String(body));
    }
    answer.set(output.name.clone(), Value::Object(object));
    Ok(answer)
}

fn check_headers(
    output: &str,
    headers: BTreeMap<String, String>,
) -> Result<Map<String, Value>, OutputError> {
    let mut checked = Map::new();
    for (name, value) in headers {
        let problem = if HeaderName::from_bytes(name.as_bytes()).is_err() {
            "this is no name for a header"
        } else if !value.is_ascii() || HeaderValue::from_str(&value).is_err() {
            "the value has characters that a header can't have: only visible ASCII, spaces and tabs"
        } else if ["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            "the host sets this header itself"
        } else if looks_like_date(&value) {
            "the value is a date in ISO form, which the host rewrites: use the form of HTTP dates"
        } else {
            checked.insert(name, Value::String(value));
            continue;
        };
        return Err(OutputError::Unsafe { place: format!("{output:?}.headers.{name:?}"), problem });
    }
    Ok(checked)
}

/// A request as the host writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object")]
struct Wire {
    url: String,
    method: String,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    query: Option<Value>,
    #[serde(default)]
    params: Option<Value>,
    #[serde(default)]
    body: Option<String>,
}
