//! `key=value key='va lue' …`

use super::ConfigError;
use super::keys;

const ORIGIN: &str = "the connection string";

/// Splits a `key=value` string; keys are not checked yet.
///
/// # Errors
/// A word without `=` or a quote that does not end. Only words that are keys are repeated in the
/// message: any other may be a password, or a part of one.
pub(super) fn split(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let name = &rest[..end];
        let after = rest[end..].trim_start();
        let Some(after) = after.strip_prefix('=') else {
            return Err(no_equals(name, pairs.last().map(|pair| pair.0.as_str())));
        };
        if name.is_empty() {
            return Err(ConfigError::new(format!("{ORIGIN} has a `=` without a key before it")));
        }
        let (value, remaining) = value(name, after.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = remaining.trim_start();
    }
    Ok(pairs)
}

fn no_equals(word: &str, before: Option<&str>) -> ConfigError {
    let way_out = "a value with blanks must stand in single quotes: key='a value'";
    ConfigError::new(match before {
        // What follows an unquoted password may be the rest of it.
        Some(key) if key.contains("pass") => {
            format!("after {key} in {ORIGIN} stands a word without `=`; {way_out}")
        }
        _ if !keys::is_known(word) => {
            format!(
                "{ORIGIN} has a word without `=`; a URI begins with postgresql://, and {way_out}"
            )
        }
        _ => format!("missing `=` after \"{word}\" in {ORIGIN}; {way_out}"),
    })
}

/// One value and what follows it.
fn value<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), ConfigError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        let name = if keys::is_known(name) { name } else { "a key" };
        return Err(ConfigError::new(format!(
            "the quoted value of {name} in {ORIGIN} has no closing quote; \
             inside quotes write \\' for ' and \\\\ for \\"
        )));
    }
    Ok((value, ""))
}

/// A value as it must be written.
pub(super) fn quote(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && c != '\'' && c != '\\';
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        split(text).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn blanks_around_the_equals_sign_and_quotes_are_understood() {
        assert_eq!(
            pairs("  host = db.example  dbname='my db' password='it\\'s \\\\' user=a\\ b "),
            [
                pair("host", "db.example"),
                pair("dbname", "my db"),
                pair("password", "it's \\"),
                pair("user", "a b"),
            ]
        );
        assert!(pairs("").is_empty());
        assert_eq!(pairs("host="), [pair("host", "")]);
        assert_eq!(pairs("host='' port=1"), [pair("host", ""), pair("port", "1")]);
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for value in ["", "plain", "a b", "it's", "back\\slash", "ü 'x' \\"] {
            assert_eq!(pairs(&format!("k={} z=1", quote(value)))[0].1, value);
        }
    }

    #[test]
    fn part_of_a_password_is_never_repeated() {
        let error = split("password=my secret host=x").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        let error = split("user:secret@host").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
