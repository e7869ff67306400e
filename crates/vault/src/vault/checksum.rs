//! The checksum of a manifest: its last field, over every byte before it.
//!
//! All else in a vault is named by its hash, in a manifest; nothing names a manifest. It stays one
//! JSON object: whoever does not know the field ignores it, and `head -n -2` is what was hashed.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::hash::ContentHash;

/// The line before the last, but for the hash.
const BEFORE: &[u8] = b"  \"blake3\": \"";

/// What follows the hash: the end of that line, and the last one.
const AFTER: &[u8] = b"\"\n}\n";

/// Characters of a hash.
const HASH_LENGTH: usize = 64;

/// The fields of manifests from before there was a checksum. This list never grows.
const FIELDS_WITHOUT: [&str; 14] = [
    "format",
    "vault",
    "backup",
    "server",
    "tool",
    "request",
    "started",
    "sealed",
    "source",
    "globals",
    "databases",
    "losses",
    "notes",
    "totals",
];

/// Adds the checksum to a pretty-printed JSON object; `None` if it is none, or has no fields.
pub(super) fn add(object: &[u8]) -> Option<Vec<u8>> {
    let fields = object.strip_suffix(b"\n}")?;
    let mut body = [fields, b",\n"].concat();
    let hash = ContentHash::of(&body).to_string();
    body.extend_from_slice(BEFORE);
    body.extend_from_slice(hash.as_bytes());
    body.extend_from_slice(AFTER);
    Some(body)
}

/// Whether there is a checksum, which then fits. The text of the error says what is wrong.
pub(super) fn check(body: &[u8]) -> Result<bool, String> {
    let split = || {
        let rest = body.strip_suffix(AFTER)?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_LENGTH)?)?;
        Some((rest.strip_suffix(BEFORE)?, hash))
    };
    match split() {
        None => Ok(false),
        Some((hashed, hash)) if ContentHash::of(hashed).to_string().as_bytes() == hash => Ok(true),
        Some(_) => Err("its content has another checksum than it was sealed with".to_owned()),
    }
}

/// Refuses a manifest without a checksum that has more than such a one could have: the name of the
/// field may be what is damaged.
pub(super) fn check_absence(body: &[u8]) -> Result<(), String> {
    let fields: BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match fields.into_keys().find(|field| !FIELDS_WITHOUT.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => Err(format!("it has a field {field:?}, but no checksum at its end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_last_field_of_the_same_object() {
        let object = serde_json::json!({"format": 1, "notes": ["a\nb"]});
        let body = add(&serde_json::to_vec_pretty(&object).unwrap()).unwrap();
        assert_eq!(check(&body), Ok(true));
        let mut read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let hash = read.as_object_mut().unwrap().remove("blake3").unwrap();
        assert_eq!(read, object);
        let lines: Vec<&[u8]> = body.split_inclusive(|byte| *byte == b'\n').collect();
        let hashed = lines[..lines.len() - 2].concat();
        assert_eq!(hash, ContentHash::of(&hashed).to_string());
        assert!(check_absence(&body).is_err(), "it has one");
        assert_eq!(add(b"{}"), None);
    }

    #[test]
    fn what_is_too_short_for_a_checksum_has_none() {
        for body in [&b""[..], b"\"\n}\n", b"{\"format\": 1}"] {
            assert_eq!(check(body), Ok(false));
        }
    }
}
