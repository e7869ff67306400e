//! A shared access signature that no message shows.

use std::fmt;

/// A shared access signature: the query that stands for rights on a container or an account.
/// Neither its `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sas(String);

/// Why a text is no shared access signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no shared access signature: it has no parameter `sig`; expected is a text such as \
     `sv=...&se=...&sp=...&sig=...`, with or without a leading `?`"
)]
pub struct BadSas;

impl Sas {
    /// Takes a signature as the portal and `az` print it, with or without a leading `?`.
    pub fn parse(text: &str) -> Result<Self, BadSas> {
        let text = text.trim();
        let query = text.strip_prefix('?').unwrap_or(text);
        let signed =
            query.split('&').any(|pair| pair.strip_prefix("sig=").is_some_and(|v| !v.is_empty()));
        let printable = query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if signed && printable { Ok(Self(query.to_owned())) } else { Err(BadSas) }
    }

    pub(crate) fn query(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sas(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_with_and_without_a_question_mark() {
        let plain = Sas::parse("sv=2022-11-02&sig=abc%3D").unwrap();
        assert_eq!(Sas::parse(" ?sv=2022-11-02&sig=abc%3D\n").unwrap(), plain);
        assert_eq!(plain.query(), "sv=2022-11-02&sig=abc%3D");
    }

    #[test]
    fn what_has_no_signature_is_refused_and_not_repeated() {
        for bad in ["", "?", "sv=1&sp=secret", "sig=", "sig=a b", "sig=a#b", "xsig=a"] {
            let error = Sas::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn debug_does_not_show_it() {
        let sas = Sas::parse("sv=1&sig=topsecret").unwrap();
        assert_eq!(format!("{sas:?}"), "Sas(not shown)");
    }
}
