//! Commands that a user can copy.

use std::borrow::Cow;

/// The word as a POSIX shell needs it.
pub(crate) fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in
            ["", "plain", "/srv/vault", "a b", "it's", "$(rm -rf /)", "`x`", "a\"b", "*", "~"]
        {
            let command = format!("printf %s {}", quote(word));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quote("/srv/vault"), "/srv/vault");
    }
}
