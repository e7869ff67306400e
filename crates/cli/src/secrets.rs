//! Keeps passwords of the command line out of what is printed.

use std::borrow::Cow;

/// What stands where a secret was.
const HIDDEN: &str = "(hidden)";

/// Knows the arguments that may hold a secret.
pub(crate) struct Mask {
    secrets: Vec<String>,
}

impl Mask {
    /// For the arguments of this process.
    pub(crate) fn of_process() -> Self {
        Self::new(std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()))
    }

    /// For these arguments.
    fn new(args: impl IntoIterator<Item = String>) -> Self {
        let mut secrets = Vec::new();
        for arg in args.into_iter().filter(|arg| looks_secret(arg)) {
            // Of `--from=VALUE` messages repeat either the whole or the value.
            match arg.split_once('=') {
                Some((name, value)) if name.starts_with('-') => secrets.push(value.to_owned()),
                _ => secrets.push(arg),
            }
        }
        secrets.retain(|secret| !secret.is_empty());
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    /// `text` without them, and without what looks like a password in a URL or `key=value`.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            for form in [secret.clone(), debug_form(secret)] {
                if text.contains(&form) {
                    text = Cow::Owned(text.replace(&form, HIDDEN));
                }
            }
        }
        hide_pairs(&hide_urls(&text))
    }
}

/// Whether an argument may hold a password: a URL with a user or a query, or a word like
/// `password=`.
fn looks_secret(arg: &str) -> bool {
    let url = arg.split_once("://").is_some_and(|(_, rest)| rest.contains(['@', '?']));
    let arg = arg.to_ascii_lowercase();
    url || arg.contains("password") || arg.contains("pass") && arg.contains('=')
}

/// As `{:?}` shows it, without the quotes.
fn debug_form(text: &str) -> String {
    let quoted = format!("{text:?}");
    quoted.trim_matches('"').to_owned()
}

/// `scheme://user:secret@host` becomes `scheme://user:(hidden)@host`.
fn hide_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        out.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || "'\"`".contains(c)).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        match url.rsplit_once('@') {
            Some((user, host)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                out.push_str(user);
                if !password.is_empty() {
                    out.push(':');
                    out.push_str(HIDDEN);
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(url),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `password=secret` becomes `password=(hidden)`.
fn hide_pairs(text: &str) -> String {
    const KEY: &str = "password=";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(KEY) {
        let (before, value) = rest.split_at(at + KEY.len());
        out.push_str(before);
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(value.len(), |end| end + 2),
            None => value
                .find(|c: char| c.is_whitespace() || "&'\"`".contains(c))
                .unwrap_or(value.len()),
        };
        if end > 0 {
            out.push_str(HIDDEN);
        }
        rest = &value[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(args: &[&str]) -> Mask {
        Mask::new(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn an_argument_that_may_hold_a_password_is_never_repeated() {
        let url = "postgresql://u:hunter2@h/db";
        let mask = mask(&["backup", url, "--form=host=h password='hunter2 x'", "--vault", "/v"]);
        for text in [
            format!("unexpected argument '{url}' found"),
            "tip: use '-- --form=host=h password='hunter2 x''".to_owned(),
            format!("there is no backup {url:?}"),
        ] {
            let hidden = mask.hide(&text);
            assert!(!hidden.contains("hunter2"), "{hidden}");
            assert!(hidden.contains(HIDDEN), "{hidden}");
        }
        assert_eq!(mask.hide("cannot read /v"), "cannot read /v");
    }

    #[test]
    fn a_password_that_comes_from_elsewhere_is_hidden_too() {
        let mask = mask(&[]);
        let text = "at postgresql://u:hunter2@h:1/db and password=hunter2 and password='hunter2'.";
        assert_eq!(
            mask.hide(text),
            "at postgresql://u:(hidden)@h:1/db and password=(hidden) and password=(hidden)."
        );
        let plain = "see https://example.org/x for --pg-bin; password= is empty";
        assert_eq!(mask.hide(plain), plain);
    }

    #[test]
    fn quotes_and_backslashes_do_not_let_a_secret_through() {
        let odd = "host=h password='hun\"ter\\2'";
        let hidden = mask(&[odd]).hide(&format!("what is {odd:?}"));
        assert_eq!(hidden, format!("what is \"{HIDDEN}\""));
    }
}
