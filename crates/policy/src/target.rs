//! `[[target]]`: a server that backups may be restored into.

use std::collections::BTreeMap;

use flexkeep_pg_copy::Config;
use flexkeep_vault::ServerName;

use crate::auth::Auth;
use crate::connection::{self, Credentials};
use crate::env::Env;
use crate::problem::{Problem, Report};
use crate::section::{Field, Section};
use crate::server::{self, MAX_LANES};

const EXAMPLE: &str =
    r#"[[target]] with name = "drills" and connection = "host=… user=…" below it"#;

const KEYS: [&str; 6] = ["name", "connection", "auth", "password", "lanes", "overwrite"];

/// Connections that write at once where the policy does not say.
const DEFAULT_TARGET_LANES: u32 = 4;

/// A server that backups may be restored into. Whoever asks for a restore names it, and never says
/// how to reach it.
#[derive(Clone, Debug)]
pub struct TargetPolicy {
    name: ServerName,
    connection: Result<Config, Vec<Problem>>,
    auth: Auth,
    lanes: u32,
    overwrite: bool,
}

impl TargetPolicy {
    /// Its name, by the same rule as a server's.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// How to reach it, with its password if it has one.
    ///
    /// # Errors
    /// What the environment lacks for it, at least one problem.
    pub fn connection(&self) -> Result<&Config, &[Problem]> {
        self.connection.as_ref().map_err(Vec::as_slice)
    }

    /// How it gets to know who connects.
    pub fn auth(&self) -> Auth {
        self.auth
    }

    /// Connections that write at once.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Whether a request may write into databases that are there, and replace what is in them.
    pub fn overwrite(&self) -> bool {
        self.overwrite
    }
}

/// The targets of a file.
pub(crate) struct Targets {
    pub(crate) listed: Vec<TargetPolicy>,
    /// Whether one of them could not be read.
    pub(crate) incomplete: bool,
}

/// Reads all targets; what is wrong is reported.
pub(crate) fn read(root: &Section<'_>, env: &dyn Env, report: &mut Report<'_>) -> Targets {
    let mut targets = Targets { listed: Vec::new(), incomplete: false };
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for section in root.tables("target", EXAMPLE, report) {
        match one(&section, env, report) {
            Some(target) => {
                let line = section.line(report);
                if let Some(first) = lines.insert(target.name.to_string(), line) {
                    let spot = section.missing("name");
                    report.add(&spot, format!("the target on line {first} has this name too"));
                }
                targets.listed.push(target);
            }
            None => targets.incomplete = true,
        }
    }
    targets
}

fn one(section: &Section<'_>, env: &dyn Env, report: &mut Report<'_>) -> Option<TargetPolicy> {
    section.check_keys(&KEYS, &[], report);
    let name = server::name(section, report);
    let connection = connection::read(section, report);
    let credentials = match connection::read_credentials(section, report) {
        Field::Absent => Some(Credentials::default()),
        field => field.good(),
    };
    let lanes = section.number("lanes", 1..=MAX_LANES, report).or_usual(DEFAULT_TARGET_LANES);
    let overwrite = section.flag("overwrite", report).or_usual(false);
    let credentials = credentials?;
    Some(TargetPolicy {
        name: name?,
        connection: connection::resolve(&connection?, &credentials, env, report),
        auth: credentials.auth(),
        lanes: lanes?,
        overwrite: overwrite?,
    })
}
