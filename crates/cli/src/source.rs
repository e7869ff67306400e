//! `--from`: which server.

use flexkeep_pg_copy::{Config, Environment};

use crate::env_vars::{self, FLEXKEEP_FROM};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::Output;

/// The target of `--from`, or of the environment.
pub(crate) fn target(from: Option<&str>, output: &Output) -> Result<Config, Failure> {
    if let Some(text) = from {
        if !output.quiet && holds_password(text) {
            SCREEN.print(
                "warning: the command line holds a password, which other users of this machine \
                 can see while flexkeep runs; put it into PGPASSWORD or a password file \
                 (~/.pgpass)",
            );
        }
        return parse(text, "--from");
    }
    match env_vars::get(FLEXKEEP_FROM)? {
        Some(text) => parse(&text, FLEXKEEP_FROM),
        None => Err(Failure::usage("it is not said which server to read").hint(format!(
            "give --from 'host=... user=...', or set {FLEXKEEP_FROM}; --from '' takes all from \
             PGHOST, PGUSER, ..."
        ))),
    }
}

fn parse(text: &str, given_in: &str) -> Result<Config, Failure> {
    Config::parse(text).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot use {given_in}"));
        Failure::new(Exit::Usage, error)
    })
}

/// Whether the string itself, without any environment, has a password.
fn holds_password(text: &str) -> bool {
    let environment = Environment::empty().with("PGUSER", "nobody");
    Config::parse_in(text, &environment).is_ok_and(|config| config.has_password())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_password_in_the_string_itself_is_warned_of() {
        for text in ["postgresql://u:secret@h/d", "host=h password=secret", "password='a b'"] {
            assert!(holds_password(text), "{text}");
        }
        for text in ["", "host=h user=u", "postgresql://u@h/d", "passfile=/x", "password=", "= x"] {
            assert!(!holds_password(text), "{text}");
        }
    }
}
