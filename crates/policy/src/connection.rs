//! How to reach a server: the connection string, and the password from the environment.

use flexkeep_pg_copy::{Config, ConfigError, Environment};
use toml::de::DeValue;

use crate::auth::Auth;
use crate::env::{Env, Template, is_name, required};
use crate::leak;
use crate::problem::{Problem, Report, Spot, shown};
use crate::section::{Field, Section, type_name};

const EXAMPLE: &str = r#"connection = "host=… user=… dbname=postgres""#;
const PASSWORD_EXAMPLE: &str = r#"password = { env = "SHOP_PASSWORD" }"#;

/// Stand for what a connection string does not name.
const NO_USER: &str = "flexkeep-names-no-user";
const NO_HOST: &str = "flexkeep-names-no-host.invalid";

/// A connection string that is right as far as the file goes.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    template: Template,
    spot: Spot,
}

/// The variable that has a password.
#[derive(Clone, Debug)]
pub(crate) struct PasswordVariable {
    name: String,
    spot: Spot,
}

/// What a server is shown to prove who connects. A table's own replaces that of the defaults
/// whole: a server with a password is not also one with a token.
#[derive(Clone, Debug, Default)]
pub(crate) enum Credentials {
    /// What comes with the connection string, if anything.
    #[default]
    Given,
    /// A password.
    Password(PasswordVariable),
    /// A token; the key's place.
    Entra(Spot),
}

impl Credentials {
    pub(crate) fn auth(&self) -> Auth {
        match self {
            Credentials::Given | Credentials::Password(_) => Auth::Password,
            Credentials::Entra(_) => Auth::Entra,
        }
    }
}

/// Reads the keys `auth` and `password` of a table.
pub(crate) fn read_credentials(
    section: &Section<'_>,
    report: &mut Report<'_>,
) -> Field<Credentials> {
    let auth = section.text("auth", r#"auth = "entra""#, report).and_then(|(word, spot)| {
        let Ok(auth) = word.parse::<Auth>() else {
            report.add(
                &spot,
                format!(
                    "expected \"password\" or \"entra\", found {:?}; write auth = \"entra\" for \
                     Entra tokens, or leave it out",
                    shown(word)
                ),
            );
            return None;
        };
        Some((auth, spot))
    });
    match (auth, read_password(section, report)) {
        (Field::Bad, _) | (_, Field::Bad) => Field::Bad,
        (Field::Absent, Field::Absent) => Field::Absent,
        (Field::Good((Auth::Password, _)), Field::Absent) => Field::Good(Credentials::Given),
        (Field::Good((Auth::Entra, spot)), Field::Absent) => Field::Good(Credentials::Entra(spot)),
        (Field::Good((Auth::Entra, _)), Field::Good(password)) => {
            report.add(
                &password.spot,
                "a token is the password with auth = \"entra\"; take password or auth out",
            );
            Field::Bad
        }
        (_, Field::Good(password)) => Field::Good(Credentials::Password(password)),
    }
}

/// Reads the key `connection`, which must be there.
pub(crate) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<Connection> {
    let (text, spot) = match section.text("connection", EXAMPLE, report) {
        Field::Good(found) => found,
        Field::Bad => return None,
        Field::Absent => {
            report.add(
                &section.missing("connection"),
                format!("missing; expected a connection string of libpq: write {EXAMPLE}"),
            );
            return None;
        }
    };
    if holds_password(text) {
        report.add(
            &spot,
            format!(
                "a password must not stand in the file; take it out (and change it where others \
                 could read it), and write {PASSWORD_EXAMPLE}"
            ),
        );
        return None;
    }
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(message) => {
            report.add(&spot, message);
            return None;
        }
    };
    // What the environment adds is its server's affair when it is used.
    if template.variables().is_empty()
        && let Err(message) = parse(&template.written(), Environment::empty(), Shown::Reason)
    {
        report.add(&spot, message);
        return None;
    }
    Some(Connection { template, spot })
}

/// Whether a password is written out: by its looks, as far as the parser does not know better.
fn holds_password(text: &str) -> bool {
    if leak::gives_secret(text) {
        return true;
    }
    if leak::names_service(text) {
        return leak::has_userinfo_password(text);
    }
    let environment = Environment::empty().with("PGUSER", NO_USER);
    match Config::parse_in(text, &environment) {
        Ok(config) if !config.has_password() => false,
        Ok(_) if !text.contains('$') => true,
        _ => leak::has_userinfo_password(text),
    }
}

/// Reads the key `password`.
fn read_password(section: &Section<'_>, report: &mut Report<'_>) -> Field<PasswordVariable> {
    let Some((value, spot)) = section.value("password") else { return Field::Absent };
    let DeValue::Table(table) = value else {
        let message = match value {
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) => {
                "a password must not stand in the file; put it into the environment of flexkeep \
                 (and change it where others could read it)"
                    .to_owned()
            }
            other => format!("expected the name of an environment variable, found {}", {
                type_name(other)
            }),
        };
        report.add(&spot, format!("{message}, and write {PASSWORD_EXAMPLE}"));
        return Field::Bad;
    };
    let section = section.below(table, spot);
    section.check_keys(&["env"], &[], report);
    match section.text("env", r#"env = "SHOP_PASSWORD""#, report) {
        Field::Good((name, spot)) if is_name(name) => {
            Field::Good(PasswordVariable { name: name.to_owned(), spot })
        }
        Field::Good((_, spot)) => {
            // Not repeated: it may be the password itself.
            report.add(
                &spot,
                format!(
                    "expected the name of an environment variable (letters, digits and _, not \
                     beginning with a digit); write {PASSWORD_EXAMPLE}"
                ),
            );
            Field::Bad
        }
        Field::Bad => Field::Bad,
        Field::Absent => {
            report.add(
                &section.missing("env"),
                format!("missing; expected the name of a variable: write {PASSWORD_EXAMPLE}"),
            );
            Field::Bad
        }
    }
}

/// The target with all that the environment gives.
///
/// # Errors
/// Each variable that cannot be used, or what is wrong once they are filled in.
pub(crate) fn resolve(
    connection: &Connection,
    credentials: &Credentials,
    env: &dyn Env,
    report: &Report<'_>,
) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    for name in connection.template.variables() {
        if let Err(bad) = required(env, name) {
            problems.push(report.problem(&connection.spot, bad.message));
        }
    }
    let password = match credentials {
        Credentials::Password(variable) => Some((variable, required(env, &variable.name))),
        Credentials::Given | Credentials::Entra(_) => None,
    };
    if let Some((variable, Err(bad))) = &password {
        problems.push(report.problem(&variable.spot, bad.message.clone()));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let wrong = |message: String| vec![report.problem(&connection.spot, message)];
    let text = connection.template.fill(env).map_err(|bad| wrong(bad.message))?;
    let variables = connection.template.variables();
    let shown = if variables.is_empty() { Shown::Reason } else { Shown::Names(variables) };
    let config = parse(&text, environment(env), shown).map_err(wrong)?;
    if let Credentials::Entra(spot) = credentials
        && let Some(message) = not_for_entra(&config)
    {
        return Err(vec![report.problem(spot, message.to_owned())]);
    }
    Ok(match password {
        Some((_, Ok(password))) => config.with_password(&password),
        _ => config,
    })
}

/// What does not go together with a token.
fn not_for_entra(config: &Config) -> Option<&'static str> {
    if config.has_password() {
        return Some(
            "a token is the password with auth = \"entra\", but the connection string, once its \
             variables are filled in, has one too; take one of them out",
        );
    }
    (!config.verifies_server()).then_some(
        "a token is not sent to a server that does not prove who it is; take sslmode out of the \
         connection string, or write sslmode=verify-full",
    )
}

/// What of libpq's environment holds for a policy: the home folder with its password file and
/// certificates. A `PGPASSWORD` or `PGHOST` would hold for all servers at once.
fn environment(env: &dyn Env) -> Environment {
    match env.var("HOME") {
        Ok(home) => Environment::empty().with("HOME", home),
        Err(_) => Environment::empty(),
    }
}

/// What a message may tell of a connection string.
enum Shown<'a> {
    /// The reason, as it has nothing that is not in the file.
    Reason,
    /// The variables that were filled in, as the reason may repeat a part of their values.
    Names(Vec<&'a str>),
}

fn parse(text: &str, environment: Environment, shown: Shown<'_>) -> Result<Config, String> {
    if leak::names_service(text) {
        return Err("a service file is not used here; write the keys of the service out".to_owned());
    }
    let explained = |error: ConfigError| {
        if let Some(other) = leak::other_format(text) {
            return other.to_owned();
        }
        let hidden = match &shown {
            Shown::Reason if !leak::may_repeat(text) => {
                return leak::without_words(&error.to_string());
            }
            Shown::Reason => String::new(),
            Shown::Names(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("${{{name}}}")).collect();
                format!(" once {} is filled in", names.join(" and "))
            }
        };
        format!(
            "is no connection string of libpq (key=value … or postgresql://…){hidden}; the reason \
             is not shown, as it could repeat a secret: `flexkeep check --from` with the same \
             text tells it"
        )
    };
    let probe = |environment: Environment| Config::parse_in(text, &environment);
    let named = probe(environment.clone().with("PGUSER", NO_USER)).map_err(explained)?;
    if named.user() == NO_USER {
        return Err("names no user; add user=… to it".to_owned());
    }
    let hosted = probe(environment.clone().with("PGHOST", NO_HOST));
    if hosted.is_ok_and(|hosted| hosted.host() == NO_HOST) && named.host().starts_with('/') {
        return Err("names no host; add host=… to it (a folder, if it is a socket)".to_owned());
    }
    Ok(named)
}
