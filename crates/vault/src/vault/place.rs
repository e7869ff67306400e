//! Where a vault lies, as a user writes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::VaultError;

/// A parsed `--vault PLACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A folder: a path, or a `file://` URL.
    Folder(PathBuf),
    /// Storage that is reached by a URL; a [`super::RemoteStores`] opens it.
    Url(PlaceUrl),
}

/// The URL of a vault, `https://` or `http://`. Its query may be a credential: Display and Debug
/// show neither that nor a user part.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaceUrl(String);

impl PlaceUrl {
    /// The URL as the user wrote it, with its secrets.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlaceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(&self.0))
    }
}

impl fmt::Debug for PlaceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaceUrl({self})")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let bad = |reason: &str| {
            let place = without_secrets(text);
            Err(VaultError::BadPlace { place, reason: reason.to_owned() })
        };
        let misplaced = || {
            let place = "(hidden)".to_owned();
            let reason = "it looks like a connection string, which belongs elsewhere".to_owned();
            Err(VaultError::BadPlace { place, reason })
        };
        if text.is_empty() {
            return bad("it is empty; name a folder");
        }
        if text.contains('\0') {
            return bad("it has a NUL byte");
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            if looks_like_connection(text) {
                return misplaced();
            }
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        match scheme.as_str() {
            "https" | "http" => return Ok(Self::Url(PlaceUrl(text.to_owned()))),
            // A password in it may have any character, also those that end it elsewhere.
            "postgres" | "postgresql" => return misplaced(),
            "file" if looks_like_connection(rest) => return misplaced(),
            "file" => {}
            _ => {
                return bad(
                    "a vault is a folder (a path, or file:///path) or a container (https://...)",
                );
            }
        }
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        match (path.starts_with('/'), decode_percent(path)) {
            (true, Some(path)) => Ok(Self::Folder(PathBuf::from(path))),
            (true, None) => bad("it has a % that two hexadecimal digits of UTF-8 do not follow"),
            (false, _) => bad("a file URL has three slashes and an absolute path: file:///path"),
        }
    }
}

/// Whether a path is rather a connection string with a password in it: none such becomes a folder, or
/// stands in a message.
fn looks_like_connection(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.match_indices("password")
        .any(|(at, word)| text[at + word.len()..].trim_start().starts_with('='))
}

/// Splits `scheme://rest`.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    (scheme.bytes().next()?.is_ascii_alphabetic() && scheme.bytes().all(valid))
        .then(|| (scheme.to_ascii_lowercase(), rest))
}

/// For messages: a URL without user part and query, where keys and signatures stand.
fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = split_scheme(text) else { return text.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}/{path}")
}

fn decode_percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_folders() {
        for (text, path) in [
            ("/srv/vault", "/srv/vault"),
            ("vault", "vault"),
            ("./a b", "./a b"),
            ("file:///srv/vault", "/srv/vault"),
            ("FILE:///srv/a%20b", "/srv/a b"),
            ("file://localhost/srv", "/srv"),
            ("odd:name", "odd:name"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap(), Place::Folder(path.into()), "{text}");
        }
    }

    #[test]
    fn a_url_is_kept_whole_and_shown_without_its_secrets() {
        let text = "HTTPS://user:hunter2@a.example/c?sig=hunter2#hunter2";
        let place: Place = text.parse().unwrap();
        let Place::Url(url) = &place else { panic!("{place:?}") };
        assert_eq!(url.reveal(), text);
        for shown in [place.to_string(), format!("{place:?}"), format!("{url:#?}")] {
            assert!(shown.contains("a.example/c") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn other_places_are_refused_without_showing_their_secrets() {
        for text in ["az://user:hunter2@account/c", "s3://a.example/c?sig=hunter2", "s3://x"] {
            let message = text.parse::<Place>().unwrap_err().to_string();
            assert!(message.contains("a vault is a folder"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        for text in [
            "password=hunter2 host=x",
            "host=x PassWord = 'hunter2'",
            "./host=x sslpassword=hunter2",
            "postgresql://u:hunter2@h/d",
            "postgres://u:a/hunter2@h/d",
            "file:///password=hunter2",
        ] {
            let error = text.parse::<Place>().unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains("looks like a connection string"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        for folder in ["/srv/passwords", "password", "/srv/password/a=b"] {
            assert_eq!(folder.parse::<Place>().unwrap(), Place::Folder(folder.into()));
        }
        for text in ["", "file://host/x", "file:///a%zz", "file:///a%ff", "a\0b"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
