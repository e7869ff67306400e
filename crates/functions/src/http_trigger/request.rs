//! Reading an HTTP request out of the envelope.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value};

use super::{HttpRequest, Wire};
use crate::{bindings::Bindings, envelope::Envelope, error::PayloadError, text::quoted, value};

pub(crate) fn decode(
    envelope: &Envelope<'_>,
    bindings: &Bindings,
) -> Result<HttpRequest, PayloadError> {
    let name = &bindings.trigger;
    let raw = envelope.trigger(name)?;
    let what = format!("Data.{name}: expected the object of an HTTP request");
    let wire: Wire = value::object(raw.get().as_bytes(), &what)?;
    let method = Method::from_bytes(wire.method.as_bytes()).map_err(|source| {
        PayloadError::because(format!("Data.{name}.Method is no method"), source)
    })?;
    let headers = headers(wire.headers, name)?;
    let body = wire.body.unwrap_or_default();
    let body = if is_binary(&headers) {
        STANDARD.decode(&body).map_err(|source| {
            let what =
                format!("Data.{name}.Body: expected base64, because of the request's Content-Type");
            PayloadError::because(what, source)
        })?
    } else {
        body.into_bytes()
    };
    let joined = scalars(wire.query, &format!("Data.{name}.Query"))?;
    let params = scalars(wire.params, &format!("Data.{name}.Params"))?;
    let query = query(&wire.url, joined);
    Ok(HttpRequest { method, query, url: wire.url, headers, params, body })
}

/// Whether the host encodes a body of this type in base64.
fn is_binary(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    media_type == "application/octet-stream" || media_type.starts_with("multipart/")
}

fn headers(wire: Map<String, Value>, trigger: &str) -> Result<HeaderMap, PayloadError> {
    let mut headers = HeaderMap::new();
    for (name, values) in wire {
        let wrong = || {
            let name = quoted(&name);
            PayloadError::new(format!(
                "Data.{trigger}.Headers: {name} is no header; expected a name with texts"
            ))
        };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let values = match values {
            Value::Array(values) => values,
            Value::Null => Vec::new(),
            single => vec![single],
        };
        for value in values {
            let Value::String(text) = value else { return Err(wrong()) };
            let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
            headers.try_append(key.clone(), value).map_err(|_| wrong())?;
        }
    }
    Ok(headers)
}

/// An object of scalars; older hosts write it as JSON inside a string.
fn scalars(value: Option<Value>, what: &str) -> Result<BTreeMap<String, String>, PayloadError> {
    let wrong = || PayloadError::new(format!("{what}: expected an object of texts"));
    let object = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(object)) => object,
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
    };
    let mut scalars = BTreeMap::new();
    for (key, value) in object {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Array(_) | Value::Object(_) => return Err(wrong()),
            scalar => scalar.to_string(),
        };
        scalars.insert(key, text);
    }
    Ok(scalars)
}

/// The parameters of a URL.
pub(super) fn query_of(url: &str) -> Vec<(String, String)> {
    let url = url.split('#').next().unwrap_or_default();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The parameters with repeated ones apart. The host's own object has them joined by commas; it decides
/// when the two disagree.
fn query(url: &str, joined: BTreeMap<String, String>) -> Vec<(String, String)> {
    let apart = query_of(url);
    let mut again: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &apart {
        again
            .entry(name)
            .and_modify(|all| {
                all.push(',');
                all.push_str(value)
            })
            .or_insert_with(|| value.clone());
    }
    let agree = again.len() == joined.len()
        && again.iter().all(|(name, value)| joined.get(*name) == Some(value));
    if agree || joined.is_empty() { apart } else { joined.into_iter().collect() }
}
