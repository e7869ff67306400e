//! An HTTP request as a trigger's value and binding data.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::encode::{Metadata, Value};
use crate::json::{Json, object};

/// A client's request, read.
pub(crate) struct ClientRequest {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// Empty if the client did not tell its length: the real host loses such a body.
    pub(crate) body: Bytes,
}

impl ClientRequest {
    /// Names and values of the query; the values of a repeated name are joined by commas.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let mut query: Vec<(String, String)> = Vec::new();
        for pair in self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            match query.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                Some((_, known)) => {
                    known.push(',');
                    known.push_str(&value);
                }
                None => query.push((name, value)),
            }
        }
        query
    }

    /// The value and the binding data, for a request whose route gave these parameters.
    pub(crate) fn encode(&self, parameters: &[(String, String)]) -> (Value, Metadata) {
        let query = self.query();
        let texts = |pairs: &[(String, String)]| {
            let text = |(name, value): &(String, String)| (name.clone(), value.as_str().into());
            Json::Object(pairs.iter().map(text).collect())
        };
        let headers = self.header_values();
        let lists = headers.iter().map(|(name, values)| {
            let values = values.iter().map(|value| value.as_str().into()).collect();
            (name.clone(), Json::Array(values))
        });
        let mut members = vec![
            ("Url".to_owned(), self.url().into()),
            ("Method".to_owned(), self.method.as_str().into()),
            ("Query".to_owned(), texts(&query)),
            ("Headers".to_owned(), Json::Object(lists.collect())),
            ("Params".to_owned(), texts(parameters)),
            ("Identities".to_owned(), Json::Array(vec![nobody()])),
        ];
        if !self.body.is_empty() {
            members.push(("Body".to_owned(), self.body_text().into()));
        }
        let mut metadata = Metadata::default();
        metadata.set("Query", Value::Object(texts(&query)));
        let joined: Vec<_> =
            headers.into_iter().map(|(name, values)| (name, values.join(", "))).collect();
        metadata.set("Headers", Value::Object(texts(&joined)));
        for (name, value) in parameters.iter().chain(&query) {
            metadata.set(name, Value::text(value));
        }
        (Value::Object(Json::Object(members)), metadata)
    }

    fn url(&self) -> String {
        let host =
            self.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        format!("http://{host}{path}")
    }

    /// Names as .NET writes those that it knows; the case that the client used is not kept.
    fn header_values(&self) -> Vec<(String, Vec<String>)> {
        let values = |name| {
            let values = self.headers.get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        self.headers.keys().map(|name| (title_case(name.as_str()), values(name))).collect()
    }

    fn body_text(&self) -> String {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_lowercase();
        match content_type.starts_with("application/octet-stream")
            || content_type.starts_with("multipart/")
        {
            true => BASE64.encode(&self.body),
            false => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}

/// The identity of a caller that none is known of.
fn nobody() -> Json {
    const CLAIMS: &str = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name";
    const ROLES: &str = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role";
    object([
        ("AuthenticationType", Json::Null),
        ("IsAuthenticated", false.into()),
        ("Actor", Json::Null),
        ("BootstrapContext", Json::Null),
        ("Claims", Json::Array(Vec::new())),
        ("Label", Json::Null),
        ("Name", Json::Null),
        ("NameClaimType", CLAIMS.into()),
        ("RoleClaimType", ROLES.into()),
    ])
}

fn title_case(name: &str) -> String {
    let capital = |part: &str| match part.split_at_checked(1) {
        Some((first, rest)) => format!("{}{rest}", first.to_uppercase()),
        None => String::new(),
    };
    name.split('-').map(capital).collect::<Vec<_>>().join("-")
}

fn decode(text: &str) -> String {
    let text: Cow<'_, str> = match text.contains('+') {
        true => text.replace('+', " ").into(),
        false => text.into(),
    };
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::encode::envelope;

    fn request(headers: &[(&'static str, &str)], body: &'static [u8]) -> ClientRequest {
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), value.parse().unwrap())
        });
        ClientRequest {
            method: Method::POST,
            uri: "/api/x/7?name=a".parse().unwrap(),
            headers: headers.collect(),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn a_request_is_encoded_as_the_sample_of_the_contract() {
        let headers = [("content-type", "application/json"), ("host", "localhost:7071")];
        let request = request(&headers, b"{\"a\":1}");
        let (value, metadata) = request.encode(&[("id".into(), "7".into())]);
        let text = envelope("x", ("req", &value), &metadata, Timestamp::UNIX_EPOCH);
        let text = &text[..text.find(",\"sys\":").unwrap()];
        let expected = concat!(
            r#"{"Data":{"req":{"Url":"http://localhost:7071/api/x/7?name=a","Method":"POST","#,
            r#""Query":{"name":"a"},"Headers":{"Content-Type":["application/json"],"#,
            r#""Host":["localhost:7071"]},"Params":{"id":"7"},"Identities":[{"#,
            r#""AuthenticationType":null,"IsAuthenticated":false,"Actor":null,"#,
            r#""BootstrapContext":null,"Claims":[],"Label":null,"Name":null,"#,
            r#""NameClaimType":"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name","#,
            r#""RoleClaimType":"http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}],"#,
            r#""Body":"{\"a\":1}"}},"Metadata":{"Query":{"name":"a"},"#,
            r#""Headers":{"Content-Type":"application/json","Host":"localhost:7071"},"#,
            r#""id":"\"7\"","name":"\"a\"""#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn bytes_are_base64_and_an_empty_body_is_absent() {
        let body = |content_type: &str, body: &'static [u8]| {
            let (value, _) = request(&[("content-type", content_type)], body).encode(&[]);
            let Value::Object(json) = value else { panic!("a request is an object") };
            json.get("Body").map(Json::to_display_text)
        };
        assert_eq!(body("application/octet-stream", b"\x00\xff"), Some("AP8=".into()));
        assert_eq!(body("multipart/form-data; boundary=x", b"test"), Some("dGVzdA==".into()));
        assert_eq!(body("text/plain", b"test"), Some("test".into()));
        assert_eq!(body("text/plain", b""), None);
    }

    #[test]
    fn repeated_names_of_a_query_are_joined_and_decoded() {
        let mut request = request(&[], b"");
        request.uri = "/x?a=1+2&b&A=%C3%A9".parse().unwrap();
        assert_eq!(request.query(), [("a".into(), "1 2,é".into()), ("b".into(), String::new())]);
    }
}
