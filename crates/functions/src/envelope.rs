//! The request of an invocation: `{"Data": {…}, "Metadata": {…}}`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{error::PayloadError, text::quoted, value};

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The two parts, their values not yet read: a body can be large, and most metadata is never asked for.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    data: Fields<'a>,
    metadata: Fields<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads the text of a request.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, PayloadError> {
        #[derive(Deserialize)]
        #[serde(expecting = "an object")]
        struct Wire<'a> {
            #[serde(borrow, rename = "Data")]
            data: Option<Fields<'a>>,
            #[serde(borrow, rename = "Metadata")]
            metadata: Option<Fields<'a>>,
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(PayloadError::new(
                "the request has no body: expected {\"Data\":…,\"Metadata\":…}",
            ));
        }
        let what = "the request is not JSON of the form {\"Data\":{…},\"Metadata\":{…}}";
        let wire: Wire<'a> = value::object(body, what)?;
        let Some(data) = wire.data else {
            return Err(PayloadError::new(
                "the request has no Data: expected {\"Data\":…,\"Metadata\":…}",
            ));
        };
        Ok(Self { data, metadata: wire.metadata.unwrap_or_default() })
    }

    /// The value of the trigger.
    pub(crate) fn trigger(&self, binding: &str) -> Result<&'a RawValue, PayloadError> {
        self.data.get(binding).copied().ok_or_else(|| {
            let names: Vec<_> = self.data.keys().take(10).map(|name| quoted(name)).collect();
            let found = if names.is_empty() { "nothing".into() } else { names.join(", ") };
            PayloadError::new(format!(
                "Data has no {binding:?}, the trigger that function.json declares; it has {found}: is the \
                 function.json beside the host another than the one in the handler?"
            ))
        })
    }

    /// A value of the metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&'a RawValue> {
        self.metadata.get(key).copied()
    }
}
