//! The environment that a policy refers to, and `${NAME}` in its texts.

use std::env::VarError;

/// Environment variables by name: those of the process ([`ProcessEnv`]), or a closure.
pub trait Env {
    /// A variable's value.
    ///
    /// # Errors
    /// It is not set, or not Unicode.
    fn var(&self, name: &str) -> Result<String, VarError>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Result<String, VarError> {
        std::env::var(name)
    }
}

impl<F: Fn(&str) -> Option<String>> Env for F {
    fn var(&self, name: &str) -> Result<String, VarError> {
        self(name).ok_or(VarError::NotPresent)
    }
}

/// A variable that cannot be used; the message never has its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadVariable {
    pub(crate) message: String,
}

/// The value of a variable that must be there.
pub(crate) fn required(env: &dyn Env, name: &str) -> Result<String, BadVariable> {
    let bad = |what: &str| {
        let message = format!("the environment variable {name} {what}");
        Err(BadVariable { message })
    };
    match env.var(name) {
        Ok(value) if value.is_empty() => {
            bad("is empty; give it a value where flexkeep runs, or correct its name here")
        }
        Ok(value) if value.contains('\0') => bad("has a NUL byte; set it anew"),
        Ok(value) if value.starts_with("@Microsoft.KeyVault(") => {
            bad("is a Key Vault reference that the platform did not resolve; look at the app's \
             settings in the portal for the reason, mostly a missing right to read the secret")
        }
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => {
            bad("is not set; set it where flexkeep runs, or correct its name here")
        }
        Err(VarError::NotUnicode(_)) => bad("is not UTF-8; set it anew"),
    }
}

/// Whether this can be the name of a variable.
pub(crate) fn is_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A text with `${NAME}` in it, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// Takes a text apart; `$$` stands for `$`.
    ///
    /// # Errors
    /// What is wrong with a `$`, without the text.
    pub(crate) fn parse(text: &str) -> Result<Template, &'static str> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                plain.push('$');
                rest = after;
                continue;
            }
            let Some(after) = after.strip_prefix('{') else {
                return Err("expected ${NAME} after a $; write $$ for a $ itself");
            };
            let Some((name, after)) = after.split_once('}') else {
                return Err("expected a } at the end of ${NAME}; write $$ for a $ itself");
            };
            if !is_name(name) {
                return Err("expected the name of an environment variable in ${NAME}: \
                            letters, digits and _, not beginning with a digit");
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// The variables' names, each once.
    pub(crate) fn variables(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for part in &self.parts {
            if let Part::Variable(name) = part
                && !names.contains(&name.as_str())
            {
                names.push(name.as_str());
            }
        }
        names
    }

    /// What the file itself says, with nothing for the variables.
    pub(crate) fn written(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Variable(_) => String::new(),
        };
        self.parts.iter().map(text).collect()
    }

    /// The text with the variables' values.
    pub(crate) fn fill(&self, env: &dyn Env) -> Result<String, BadVariable> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Variable(name) => filled.push_str(&required(env, name)?),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "B_2" => Some("${A}".to_owned()),
            "EMPTY" => Some(String::new()),
            "VAULTED" => Some("@Microsoft.KeyVault(SecretUri=https://hunter2)".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_once_and_dollars_are_escaped() {
        for (text, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "one"),
            ("x${A}y${A}$$z", "xoneyone$z"),
            ("$${A}", "${A}"),
            ("$$$${A}", "$${A}"),
            ("$$${A}", "$one"),
            // A value is taken as it is.
            ("${B_2}", "${A}"),
        ] {
            assert_eq!(Template::parse(text).unwrap().fill(&env).unwrap(), filled, "{text}");
        }
        assert_eq!(Template::parse("${A}-${B_2}${A}").unwrap().variables(), ["A", "B_2"]);
    }

    #[test]
    fn a_dollar_that_means_nothing_is_refused() {
        for text in ["$", "$A", "a$ b", "${", "${A", "${}", "${1}", "${A B}", "${A-x}", "${ä}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named_without_its_value() {
        for (name, what) in [
            ("EMPTY", "is empty"),
            ("MISSING", "is not set"),
            ("VAULTED", "is a Key Vault reference"),
        ] {
            let message = required(&env, name).unwrap_err().message;
            assert!(message.contains(name) && message.contains(what), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
