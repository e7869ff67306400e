//! `--from`: which server, and how it gets to know who connects.

use flexkeep_pg_copy::{Config, Environment};
use flexkeep_policy::Auth;

use crate::env_vars::{self, FLEXKEEP_AUTH, FLEXKEEP_FROM};
use crate::exit::{Exit, Failure};
use crate::live::SCREEN;
use crate::output::Output;

/// The target of `--from`, or of the environment, as it is to be connected to: with the password
/// that comes with it, or with Entra tokens.
pub(crate) fn target(from: Option<&str>, output: &Output) -> Result<Config, Failure> {
    authenticated(&named(from, output)?)
}

/// The server that another option names, such as `--into`.
pub(crate) fn named_by(option: &str, text: &str, output: &Output) -> Result<Config, Failure> {
    warn_of_password(text, output);
    authenticated(&parse(text, option)?)
}

/// A target with the tokens that `FLEXKEEP_AUTH` asks for.
fn authenticated(target: &Config) -> Result<Config, Failure> {
    let auth = match env_vars::get(FLEXKEEP_AUTH)? {
        None => Auth::default(),
        Some(word) => word
            .parse()
            .map_err(|error| Failure::usage(format!("{FLEXKEEP_AUTH} is wrong: {error}")))?,
    };
    flexkeep_service::authenticated(target, auth).map_err(|error| {
        let given = format!("cannot connect with {FLEXKEEP_AUTH}={auth}");
        Failure::new(Exit::Usage, anyhow::Error::new(error).context(given))
    })
}

fn named(from: Option<&str>, output: &Output) -> Result<Config, Failure> {
    if let Some(text) = from {
        warn_of_password(text, output);
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

fn warn_of_password(text: &str, output: &Output) {
    if !output.quiet && holds_password(text) {
        SCREEN.print(
            "warning: the command line holds a password, which other users of this machine can see \
             while flexkeep runs; put it into PGPASSWORD or a password file (~/.pgpass)",
        );
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
