//! What may be a secret in a connection string that a person wrote, right or wrong.

/// Keys whose value is a secret, in the spellings of libpq, JDBC and .NET.
const SECRET_KEYS: [&str; 5] = ["password", "passwd", "pwd", "secret", "scram_client_key"];

/// Whether a key like `password` has a value written out. A reference `${NAME}` is none.
///
/// It works on text that is no connection string at all, as that is shown in messages.
pub(crate) fn gives_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|key| has_value(&lower, key))
}

/// Whether it refers to a service file, where keys and a password would come from.
pub(crate) fn names_service(text: &str) -> bool {
    ["service", "servicefile"].iter().any(|key| {
        occurrences(text, key).any(|(before, after)| {
            let begins =
                before.chars().next_back().is_none_or(|c| c.is_whitespace() || "?&".contains(c));
            begins && after.trim_start().starts_with('=')
        })
    })
}

/// Whether the reason why a text is no connection string could repeat a part of a secret.
pub(crate) fn may_repeat(text: &str) -> bool {
    let lower = text.trim_start().to_ascii_lowercase().replace("passfile", "");
    let is_uri = lower.starts_with("postgresql://") || lower.starts_with("postgres://");
    // Something like user:password@host that does not begin as it should.
    let like_uri = !is_uri && lower.contains([':', '@']);
    like_uri || ["pass", "pwd", "secret", "token"].iter().any(|word| lower.contains(word))
}

/// A reason without the words of the text that it repeats, unless they are nearly a known key.
pub(crate) fn without_words(reason: &str) -> String {
    if reason.contains("did you mean") {
        return reason.to_owned();
    }
    let parts = reason.split('"').enumerate();
    let kept = parts.map(|(at, part)| if at % 2 == 0 { part } else { "…" });
    kept.collect::<Vec<_>>().join("\"")
}

/// What to do if this is a connection string of another kind of client.
pub(crate) fn other_format(text: &str) -> Option<&'static str> {
    let lower = text.trim_start().to_ascii_lowercase();
    if lower.starts_with("jdbc:") {
        Some("is a URL of JDBC; expected one of libpq: leave jdbc: out")
    } else if lower.contains(';') && (lower.contains("server=") || lower.contains("host=")) {
        Some(
            "is a connection string of ADO.NET; expected one of libpq: write host=… user=… \
             dbname=… with blanks between them",
        )
    } else {
        None
    }
}

/// Whether `key` is given a value other than a reference.
fn has_value(lower: &str, key: &str) -> bool {
    occurrences(lower, key).any(|(_, after)| {
        let Some(value) = after.trim_start().strip_prefix('=') else { return false };
        let value = value.trim_start();
        let value = value.strip_prefix('\'').unwrap_or(value);
        !is_empty_or_reference(value, &['\'', '&', ';'])
    })
}

/// Whether a URI has a password before its `@`. A reference `${NAME}` is none.
pub(crate) fn has_userinfo_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    // The last one: a password that should be encoded may contain any character.
    let Some((userinfo, _)) = rest.rsplit_once('@') else { return false };
    let Some((_, password)) = userinfo.split_once(':') else { return false };
    !is_empty_or_reference(password, &[])
}

/// Whether a value is nothing or exactly one `${NAME}`, up to its end, a blank or one of `ends`.
fn is_empty_or_reference(value: &str, ends: &[char]) -> bool {
    let at_end =
        |rest: &str| rest.chars().next().is_none_or(|c| c.is_whitespace() || ends.contains(&c));
    let after = value.strip_prefix("${").and_then(|rest| rest.split_once('}'));
    at_end(value) || after.is_some_and(|(_, rest)| at_end(rest))
}

/// What stands before and after each place of `word`.
fn occurrences<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices(word).map(move |(at, _)| (&text[..at], &text[at + word.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds_password(text: &str) -> bool {
        gives_secret(text) || has_userinfo_password(text)
    }

    #[test]
    fn a_password_is_seen_in_every_spelling() {
        for text in [
            "host=h password=hunter2",
            "host=h password = 'hunter2'",
            "password=${A}hunter2",
            "password=hunter2${A}",
            "password='${A}hunter2'",
            "host=${H} port=54${P} password=hunter2",
            "postgresql://u:hunter2@h/d",
            "postgres://u:${A}hunter2@h/d",
            "postgresql://u:hun@ter2@h/d",
            "postgresql://h/d?user=u&password=hunter2",
            "jdbc:postgresql://h/d?user=u&PASSWORD=hunter2",
            "Server=h;User Id=u;Password=hunter2;",
            "host=h pwd=hunter2",
            "host=h sslpassword=hunter2",
        ] {
            assert!(holds_password(text), "{text}");
        }
    }

    #[test]
    fn references_and_files_are_no_passwords() {
        for text in [
            "",
            "host=h user=u passfile=/run/secrets/pgpass",
            "host=h password=${A} user=u",
            "host=h password = '${A}'",
            "host=h password=",
            "host=h password=''",
            "postgresql://u@h/d",
            "postgresql://u:@h/d",
            "postgresql://u:${A}@h:5432/d",
            "postgresql://h/d?password=${A}&user=u",
            "${A}",
            "application_name=password_rotation",
        ] {
            assert!(!holds_password(text), "{text}");
        }
    }

    #[test]
    fn services_are_seen() {
        for text in ["service=x", "host=h service = x", "postgresql:///?service=x", "servicefile=x"]
        {
            assert!(names_service(text), "{text}");
        }
        for text in ["", "application_name=myservice=x", "host=service user=u", "dbname=service"] {
            assert!(!names_service(text), "{text}");
        }
    }
}
