//! One server of a policy, and the keys that the defaults share with it.

use flexkeep_pg_copy::Config;
use flexkeep_vault::ServerName;
use toml::de::DeValue;

use crate::auth::Auth;
use crate::connection::{self, Connection, Credentials};
use crate::env::Env;
use crate::problem::{Problem, Report, shown};
use crate::schedule::Schedule;
use crate::schedule_keys;
use crate::section::{Field, Section, type_name};

/// Keys that stand in `[[server]]` only.
pub(crate) const OWN_KEYS: [&str; 2] = ["name", "connection"];

/// Keys that stand in `[[server]]` or in `[defaults]`.
pub(crate) const SHARED_KEYS: [&str; 10] = [
    "auth",
    "password",
    "schedule",
    "lanes",
    "max_mb_per_second",
    "keep_connections_free",
    "split_tables",
    "exclude_databases",
    "max_attempts",
    "enabled",
];

/// Lanes where the policy does not say.
pub const DEFAULT_LANES: u32 = 2;

/// Attempts where the policy does not say.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;

/// The most lanes of a server.
pub const MAX_LANES: u32 = 64;

/// The highest limit on reading, megabytes a second; more is no limit.
pub(crate) const MAX_MAX_MB_PER_SECOND: u32 = 100_000;

/// Connections that are left to others where the policy does not say.
pub const DEFAULT_KEEP_CONNECTIONS_FREE: u32 = 3;

/// The most connections that can be left to others.
pub(crate) const MAX_KEEP_CONNECTIONS_FREE: u32 = 10_000;

/// The most attempts of one backup.
pub const MAX_MAX_ATTEMPTS: u32 = 20;

/// What to back up of one server, and when.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    pub(crate) name: ServerName,
    pub(crate) connection: Result<Config, Vec<Problem>>,
    pub(crate) auth: Auth,
    pub(crate) schedule: Schedule,
    pub(crate) lanes: u32,
    pub(crate) max_mb_per_second: Option<u32>,
    pub(crate) keep_connections_free: u32,
    pub(crate) split_tables: bool,
    pub(crate) exclude_databases: Vec<String>,
    pub(crate) max_attempts: u32,
    pub(crate) enabled: bool,
}

impl ServerPolicy {
    /// The server's name in the vault.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// The target, with its password if it has one.
    ///
    /// # Errors
    /// What the environment lacks for this server, at least one problem.
    pub fn connection(&self) -> Result<&Config, &[Problem]> {
        self.connection.as_ref().map_err(Vec::as_slice)
    }

    /// How it gets to know who connects. With [`Auth::Entra`] the target has no password: whoever
    /// connects has to add the token.
    pub fn auth(&self) -> Auth {
        self.auth
    }

    /// When backups are due.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Connections that read data at once.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// The most that all lanes together read, megabytes (a million bytes) a second.
    pub fn max_mb_per_second(&self) -> Option<u32> {
        self.max_mb_per_second
    }

    /// Connections of the server that are left to others: lanes but the first stay away where fewer
    /// are free.
    pub fn keep_connections_free(&self) -> u32 {
        self.keep_connections_free
    }

    /// Whether large tables may be read by ranges, several at once.
    pub fn split_tables(&self) -> bool {
        self.split_tables
    }

    /// Databases to leave out, by exact name.
    pub fn exclude_databases(&self) -> &[String] {
        &self.exclude_databases
    }

    /// How often one backup is tried before it has failed.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Whether backups are made by schedule.
    pub fn enabled(&self) -> bool {
        self.enabled
    }
}

/// The shared keys of a table.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    credentials: Field<Credentials>,
    schedule: Field<Schedule>,
    lanes: Field<u32>,
    max_mb_per_second: Field<u32>,
    keep_connections_free: Field<u32>,
    split_tables: Field<bool>,
    exclude_databases: Field<Vec<String>>,
    max_attempts: Field<u32>,
    enabled: Field<bool>,
}

impl Shared {
    /// Of a policy without defaults.
    pub(crate) fn absent() -> Self {
        Shared {
            credentials: Field::Absent,
            schedule: Field::Absent,
            lanes: Field::Absent,
            max_mb_per_second: Field::Absent,
            keep_connections_free: Field::Absent,
            split_tables: Field::Absent,
            exclude_databases: Field::Absent,
            max_attempts: Field::Absent,
            enabled: Field::Absent,
        }
    }

    pub(crate) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Self {
        Shared {
            credentials: connection::read_credentials(section, report),
            schedule: schedule_keys::read(section, report),
            lanes: section.number("lanes", 1..=MAX_LANES, report),
            max_mb_per_second: section.number(
                "max_mb_per_second",
                1..=MAX_MAX_MB_PER_SECOND,
                report,
            ),
            keep_connections_free: section.number(
                "keep_connections_free",
                0..=MAX_KEEP_CONNECTIONS_FREE,
                report,
            ),
            split_tables: section.flag("split_tables", report),
            exclude_databases: excluded(section, report),
            max_attempts: section.number("max_attempts", 1..=MAX_MAX_ATTEMPTS, report),
            enabled: section.flag("enabled", report),
        }
    }
}

/// One `[[server]]`, as far as it could be read.
pub(crate) struct Read {
    pub(crate) name: Option<ServerName>,
    connection: Option<Connection>,
    shared: Shared,
}

impl Read {
    /// Reads a server; all that is wrong is reported.
    pub(crate) fn of(section: &Section<'_>, defaults: &Shared, report: &mut Report<'_>) -> Self {
        let known: Vec<&str> = OWN_KEYS.into_iter().chain(SHARED_KEYS).collect();
        section.check_keys(&known, &[], report);
        let name = name(section, report);
        let connection = connection::read(section, report);
        let shared = Shared::read(section, report);
        if let (Field::Absent, Field::Absent) = (&shared.schedule, &defaults.schedule) {
            report.add(
                &section.missing("schedule"),
                format!(
                    "missing, and [defaults] has none; expected when to back up: write {}",
                    schedule_keys::EXAMPLE
                ),
            );
        }
        Read { name, connection, shared }
    }

    /// The server's policy, with what the environment gives; `None` if it could not be read.
    pub(crate) fn finish(
        self,
        defaults: &Shared,
        env: &dyn Env,
        report: &Report<'_>,
    ) -> Option<ServerPolicy> {
        let Read { name, connection, shared } = self;
        let credentials = shared.credentials.or(&defaults.credentials);
        let credentials = credentials.or_usual(Credentials::default())?;
        let Field::Good(schedule) = shared.schedule.or(&defaults.schedule) else { return None };
        let name = name?;
        let target = connection::resolve(&connection?, &credentials, env, report);
        let excluded = shared.exclude_databases.or(&defaults.exclude_databases);
        Some(ServerPolicy {
            connection: target.map_err(|problems| {
                problems.into_iter().map(|problem| problem.of_server(name.as_str())).collect()
            }),
            auth: credentials.auth(),
            name,
            schedule,
            lanes: shared.lanes.or(&defaults.lanes).or_usual(DEFAULT_LANES)?,
            max_mb_per_second: match shared.max_mb_per_second.or(&defaults.max_mb_per_second) {
                Field::Absent => None,
                limit => Some(limit.good()?),
            },
            keep_connections_free: shared
                .keep_connections_free
                .or(&defaults.keep_connections_free)
                .or_usual(DEFAULT_KEEP_CONNECTIONS_FREE)?,
            split_tables: shared.split_tables.or(&defaults.split_tables).or_usual(true)?,
            exclude_databases: excluded.or_usual(Vec::new())?,
            max_attempts: shared
                .max_attempts
                .or(&defaults.max_attempts)
                .or_usual(DEFAULT_MAX_ATTEMPTS)?,
            enabled: shared.enabled.or(&defaults.enabled).or_usual(true)?,
        })
    }
}

/// The name of a server, or of another thing that is named by the same rule.
pub(crate) fn name(section: &Section<'_>, report: &mut Report<'_>) -> Option<ServerName> {
    match section.text("name", r#"name = "shop""#, report) {
        Field::Bad => None,
        Field::Absent => {
            report.add(
                &section.missing("name"),
                r#"missing; expected the server's name in the vault: write name = "shop""#,
            );
            None
        }
        Field::Good((text, spot)) => match text.parse() {
            Ok(name) => Some(name),
            Err(_) => {
                let near = ServerName::sanitize(text);
                report.add(
                    &spot,
                    format!(
                        "expected 1 to 63 of a-z 0-9 . - beginning with a letter or digit, found \
                         {:?}; write name = \"{near}\"",
                        shown(text)
                    ),
                );
                None
            }
        },
    }
}

fn excluded(section: &Section<'_>, report: &mut Report<'_>) -> Field<Vec<String>> {
    const EXAMPLE: &str = r#"exclude_databases = ["scratch"]"#;
    database_names(section, "exclude_databases", EXAMPLE, report)
}

/// A list of names of databases.
pub(crate) fn database_names(
    section: &Section<'_>,
    key: &str,
    example: &str,
    report: &mut Report<'_>,
) -> Field<Vec<String>> {
    let Some((value, spot)) = section.value(key) else { return Field::Absent };
    let DeValue::Array(list) = value else {
        let found = type_name(value);
        report.add(
            &spot,
            format!("expected a list of database names, found {found}; write {example}"),
        );
        return Field::Bad;
    };
    let mut names = Vec::new();
    let mut good = true;
    for item in list.iter() {
        let spot = crate::problem::Spot { span: item.span(), ..spot.clone() };
        match item.get_ref() {
            DeValue::String(name) if name.is_empty() || name.contains('\0') => {
                good = false;
                report.add(
                    &spot,
                    format!(
                        "no database can have this name; expected exact names: write {example}"
                    ),
                );
            }
            DeValue::String(name) => names.push(name.to_string()),
            other => {
                good = false;
                let found = type_name(other);
                report.add(
                    &spot,
                    format!("expected a database name in quotes, found {found}; write {example}"),
                );
            }
        }
    }
    if good { Field::Good(names) } else { Field::Bad }
}
