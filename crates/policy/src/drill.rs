//! `[[drill]]`: a restore that is tried by schedule, and what must be true of it.

use std::time::Duration;

use flexkeep_vault::ServerName;
use toml::de::DeValue;

use crate::near;
use crate::problem::{Report, shown};
use crate::schedule::Schedule;
use crate::schedule_keys;
use crate::section::{Field, Section};
use crate::server::{self, ServerPolicy};
use crate::target::Targets;

const EXAMPLE: &str = r#"[[drill]] with server = "shop" and target = "drills" below it"#;
const DATABASES_EXAMPLE: &str =
    r#"databases = "rotate", databases = "all" or databases = ["shop"]"#;
const ASSERTION_EXAMPLE: &str = r#"[[drill.assertion]] with name = "…" and sql = "…" below it"#;
const SQL_EXAMPLE: &str = r#"sql = "SELECT count(*) > 0 FROM app.orders""#;

const KEYS: [&str; 9] = [
    "server",
    "target",
    "schedule",
    "databases",
    "assertion",
    "amcheck",
    "keep",
    "roles",
    "enabled",
];

/// How long one assertion may take where the policy does not say, seconds.
pub const DEFAULT_ASSERTION_SECONDS: u32 = 300;

/// The longest that an assertion may be given, seconds.
pub const MAX_ASSERTION_SECONDS: u32 = 86_400;

/// A restore drill of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillPolicy {
    server: ServerName,
    target: ServerName,
    schedule: Schedule,
    databases: DrillDatabases,
    assertions: Vec<AssertionPolicy>,
    amcheck: Amcheck,
    keep: bool,
    roles: bool,
    enabled: bool,
}

/// Which databases a drill restores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DrillDatabases {
    /// One at each drill, in turn, of those that have rows.
    #[default]
    Rotate,
    /// All of the backup.
    All,
    /// These.
    Named(Vec<String>),
}

/// Whether the indexes of what was restored are checked with PostgreSQL's extension `amcheck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Amcheck {
    /// Where the extension can be made.
    #[default]
    Auto,
    /// The drill fails where it cannot be made.
    Require,
    /// No.
    Off,
}

/// A query that must say true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertionPolicy {
    name: String,
    database: Option<String>,
    sql: String,
    timeout: Duration,
}

impl DrillPolicy {
    /// The server whose backups are tried.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The name of the target.
    pub fn target(&self) -> &ServerName {
        &self.target
    }

    /// When drills are due.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// What is restored.
    pub fn databases(&self) -> &DrillDatabases {
        &self.databases
    }

    /// What must be true.
    pub fn assertions(&self) -> &[AssertionPolicy] {
        &self.assertions
    }

    /// Whether indexes are checked.
    pub fn amcheck(&self) -> Amcheck {
        self.amcheck
    }

    /// Whether the scratch databases stay until the next drill.
    pub fn keep(&self) -> bool {
        self.keep
    }

    /// Whether roles that the databases name are made on the target.
    pub fn roles(&self) -> bool {
        self.roles
    }

    /// Whether drills are made by schedule.
    pub fn enabled(&self) -> bool {
        self.enabled
    }
}

impl AssertionPolicy {
    /// Its name, for reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The database that it is about; `None` for each that is restored.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The query: one row with one boolean.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// How long it may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Reads all drills; what is wrong is reported.
pub(crate) fn read(
    root: &Section<'_>,
    servers: &[Option<ServerPolicy>],
    targets: &Targets,
    report: &mut Report<'_>,
) -> Vec<DrillPolicy> {
    let mut drills: Vec<DrillPolicy> = Vec::new();
    for section in root.tables("drill", EXAMPLE, report) {
        let Some(drill) = one(&section, servers, targets, report) else { continue };
        if drills.iter().any(|other| other.server == drill.server) {
            report.add(
                &section.missing("server"),
                format!(
                    "server {:?} has a drill already; a server has one, so put its assertions \
                     together",
                    drill.server.as_str()
                ),
            );
        }
        drills.push(drill);
    }
    drills
}

fn one(
    section: &Section<'_>,
    servers: &[Option<ServerPolicy>],
    targets: &Targets,
    report: &mut Report<'_>,
) -> Option<DrillPolicy> {
    section.check_keys(&KEYS, &[], report);
    // A server that could not be read is reported already, and may be the one that is meant.
    let all_read = servers.iter().all(Option::is_some);
    let names: Vec<&str> = servers.iter().flatten().map(|one| one.name().as_str()).collect();
    let server = named(section, "server", &names, all_read, report);
    let names: Vec<&str> = targets.listed.iter().map(|one| one.name().as_str()).collect();
    let target = named(section, "target", &names, !targets.incomplete, report);
    let schedule = schedule_keys::read(section, report);
    if matches!(schedule, Field::Absent) {
        report.add(
            &section.missing("schedule"),
            format!("missing; expected when to drill: write {}", schedule_keys::EXAMPLE),
        );
    }
    let databases = databases(section, report);
    let assertions = assertions(section, report);
    let amcheck = amcheck(section, report);
    let keep = section.flag("keep", report).or_usual(false);
    let roles = section.flag("roles", report).or_usual(false);
    let enabled = section.flag("enabled", report).or_usual(true);
    Some(DrillPolicy {
        server: server?,
        target: target?,
        schedule: schedule.good()?,
        databases: databases?,
        assertions: assertions?,
        amcheck: amcheck?,
        keep: keep?,
        roles: roles?,
        enabled: enabled?,
    })
}

/// The name of a server or target of this file.
fn named(
    section: &Section<'_>,
    key: &str,
    names: &[&str],
    all_read: bool,
    report: &mut Report<'_>,
) -> Option<ServerName> {
    let example = format!("{key} = \"{}\"", names.first().unwrap_or(&"drills"));
    let (text, spot) = section.required_text(key, &example, report)?;
    if names.contains(&text) || !all_read {
        return text.parse().ok();
    }
    let near = near::nearest(text, names.iter().copied());
    let way_out = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("write a [[{key}]] with this name"),
    };
    report.add(&spot, format!("the file has no {key} {:?}; {way_out}", shown(text)));
    None
}

fn databases(section: &Section<'_>, report: &mut Report<'_>) -> Option<DrillDatabases> {
    match section.value("databases") {
        None => Some(DrillDatabases::default()),
        Some((DeValue::String(word), spot)) => match word.as_ref() {
            "rotate" => Some(DrillDatabases::Rotate),
            "all" => Some(DrillDatabases::All),
            other => {
                let found = shown(other);
                report.add(
                    &spot,
                    format!("expected rotate, all or a list of names, found {found:?}; write {DATABASES_EXAMPLE}"),
                );
                None
            }
        },
        Some((_, spot)) => {
            let names =
                server::database_names(section, "databases", DATABASES_EXAMPLE, report).good()?;
            if names.is_empty() {
                report.add(&spot, format!("names no database; write {DATABASES_EXAMPLE}"));
                return None;
            }
            Some(DrillDatabases::Named(names))
        }
    }
}

fn amcheck(section: &Section<'_>, report: &mut Report<'_>) -> Option<Amcheck> {
    let field = section.text("amcheck", r#"amcheck = "auto""#, report);
    let word = field.and_then(|(text, spot)| match text {
        "auto" => Some(Amcheck::Auto),
        "require" => Some(Amcheck::Require),
        "off" => Some(Amcheck::Off),
        other => {
            report.add(
                &spot,
                format!(
                    "expected \"auto\", \"require\" or \"off\", found {:?}; write amcheck = \"auto\"",
                    shown(other)
                ),
            );
            None
        }
    });
    word.or_usual(Amcheck::default())
}

fn assertions(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<AssertionPolicy>> {
    let (mut all, mut good) = (Vec::<AssertionPolicy>::new(), true);
    for one in section.tables("assertion", ASSERTION_EXAMPLE, report) {
        one.check_keys(&["name", "database", "sql", "timeout_seconds"], &[], report);
        let name = one.required_text("name", r#"name = "orders are there""#, report);
        let sql = one.required_text("sql", SQL_EXAMPLE, report);
        let database = match one.text("database", r#"database = "shop""#, report) {
            Field::Absent => Some(None),
            field => field.good().map(|(text, _)| Some(text.to_owned())),
        };
        let timeout = one.number("timeout_seconds", 1..=MAX_ASSERTION_SECONDS, report);
        let timeout = timeout.or_usual(DEFAULT_ASSERTION_SECONDS);
        let (Some((name, spot)), Some((sql, _)), Some(database), Some(timeout)) =
            (name, sql, database, timeout)
        else {
            good = false;
            continue;
        };
        if all.iter().any(|other| other.name == name) {
            report.add(&spot, "another assertion of this drill has this name; write another one");
            good = false;
        }
        all.push(AssertionPolicy {
            name: name.to_owned(),
            database,
            sql: sql.to_owned(),
            timeout: Duration::from_secs(u64::from(timeout)),
        });
    }
    good.then_some(all)
}
