//! Blob index tags by Azure's rules.

use std::fmt::Write as _;

use crate::place::BadPlace;

/// Tags for the blobs of manifests, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags(Vec<(String, String)>);

/// How many tags Azure keeps for a blob.
const MAX_TAGS: usize = 10;

impl Tags {
    /// Reads `key:value,key:value`.
    pub(crate) fn parse(text: &str) -> Result<Self, BadPlace> {
        let bad = |problem: String| BadPlace::Tags { problem };
        let mut tags: Vec<(String, String)> = Vec::new();
        for pair in text.split(',') {
            let (key, value) = pair
                .split_once(':')
                .ok_or_else(|| bad(format!("`{pair}` has no `:` between its key and its value")))?;
            if key.is_empty() || key.len() > 128 {
                return Err(bad(format!("the key `{key}` must have 1 to 128 characters")));
            }
            if value.len() > 256 {
                return Err(bad(format!("the value of `{key}` has more than 256 characters")));
            }
            let allowed = |c: char| c.is_ascii_alphanumeric() || " +-./:=_".contains(c);
            if let Some(c) = key.chars().chain(value.chars()).find(|c| !allowed(*c)) {
                return Err(bad(format!(
                    "`{pair}` has the character {c:?}; Azure takes letters, digits, blanks and \
                     + - . / : = _"
                )));
            }
            if tags.iter().any(|(other, _)| other == key) {
                return Err(bad(format!("the key `{key}` is there twice")));
            }
            tags.push((key.to_owned(), value.to_owned()));
        }
        if tags.len() > MAX_TAGS {
            return Err(bad(format!("{} tags are more than Azure's {MAX_TAGS}", tags.len())));
        }
        Ok(Self(tags))
    }

    /// As the header `x-ms-tags` has them; none when there are no tags.
    pub(crate) fn header(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut header = String::new();
        for (key, value) in &self.0 {
            let start = if header.is_empty() { "" } else { "&" };
            // Writing to a String does not fail.
            let _ = write!(header, "{start}{}={}", encode(key), encode(value));
        }
        Some(header)
    }
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_a_header() {
        let tags = Tags::parse("team:data base,cost:a=b/c:d").unwrap();
        assert_eq!(tags.header().unwrap(), "team=data+base&cost=a%3Db%2Fc%3Ad");
        assert_eq!(Tags::default().header(), None);
    }

    #[test]
    fn what_azure_would_refuse_is_refused_with_the_reason() {
        let many: Vec<String> = (0..11).map(|i| format!("k{i}:v")).collect();
        for (text, reason) in [
            ("team", "no `:`"),
            (":v", "1 to 128"),
            ("k:ä", "character 'ä'"),
            ("k:a,k:b", "twice"),
            (&many.join(","), "more than Azure's 10"),
            (&format!("k:{}", "x".repeat(257)), "256"),
        ] {
            let error = Tags::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
