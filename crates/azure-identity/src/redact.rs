//! Keeps secrets out of what others say.

/// Longest run of characters of a token that is shown. A GUID has 36.
const LONGEST_WORD: usize = 48;

/// Longest text that is shown, characters.
const LONGEST_TEXT: usize = 400;

/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// Where the troubleshooting links of the Azure SDK begin.
const LINK: &str = "To troubleshoot";

/// What an error says, on one line, without the given secrets and without anything that is as long
/// as a token.
pub(crate) fn redacted(text: &str, secrets: &[String]) -> String {
    let mut text = text.split(LINK).next().unwrap_or_default().to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret.as_str(), HIDDEN);
    }
    let mut shown = String::new();
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || "-_.~+/=%".contains(c) {
            word.push(c);
            continue;
        }
        shown.push_str(if word.len() > LONGEST_WORD { HIDDEN } else { &word });
        word.clear();
        shown.push(if c.is_control() { ' ' } else { c });
    }
    let words: Vec<&str> = shown.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_known_secrets_are_hidden_and_the_reason_stays() {
        let token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1HTHFqOThWTkxvWGFGZnBKQ0JwZ0I0";
        let said = format!(
            "The request failed: {{\"access_token\":\"{token}\",\"x\":\"hunter2 \"}}\r\n and \
             AADSTS700016: application 6a2b1f1e-0000-4a6c-9b5e-0123456789ab not found\n\
             To troubleshoot, visit https://aka.ms/x"
        );
        let shown = redacted(&said, &["hunter2".to_owned()]);
        assert_eq!(
            shown,
            "The request failed: {\"access_token\":\"(hidden)\",\"x\":\"(hidden) \"} and \
             AADSTS700016: application 6a2b1f1e-0000-4a6c-9b5e-0123456789ab not found"
        );
    }

    #[test]
    fn a_long_text_is_cut() {
        assert!(redacted(&"word ".repeat(10_000), &[]).len() < 410);
    }
}
