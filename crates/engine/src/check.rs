//! Looks whether a backup would work, without taking one: all findings at once, in the order in
//! which a backup would meet them.

mod database;
mod server;
mod storage;

use flexkeep_pg_copy as pg;
use flexkeep_vault::{Place, RemoteStores};
use serde::Serialize;

use crate::error::{ToolError, chain, some};
use crate::options::BackupOptions;
use crate::tools::ClientTools;

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// In the order in which a backup would meet them.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `server`, `pg_dump`, `database "shop"`, `vault`, ...
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub way_out: Option<String>,
}

/// How bad a [`Finding`] is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// The backup will lack something, or may fail.
    Warning,
    /// A backup would fail.
    Error,
}

impl CheckReport {
    /// The worst severity; [`Severity::Ok`] when nothing was looked at.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    pub(crate) fn add(&mut self, severity: Severity, subject: &str, what: impl Into<String>) {
        let (subject, what) = (subject.to_owned(), what.into());
        self.findings.push(Finding { severity, subject, what, way_out: None });
    }

    pub(crate) fn add_with_way_out(
        &mut self,
        severity: Severity,
        subject: &str,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        self.add(severity, subject, what);
        if let Some(finding) = self.findings.last_mut() {
            finding.way_out = Some(way_out.into());
        }
    }

    /// An error with its causes. Errors of this program name their own way out.
    fn add_error(&mut self, subject: &str, error: &dyn std::error::Error) {
        self.add(Severity::Error, subject, chain(error));
    }
}

/// Looks at the server that `target` reaches, at pg_dump and at the vault, and goes on after a
/// problem wherever it can. Changes nothing on the server; in the vault it writes one object of a
/// few bytes beside the backups and removes it. A vault that is not there yet is not made.
pub fn check(
    target: &pg::Config,
    place: &Place,
    stores: &dyn RemoteStores,
    options: &BackupOptions,
) -> CheckReport {
    let mut report = CheckReport::default();
    let seen = server::look(target, options, &mut report);
    storage::look(
        target,
        (place, stores),
        options,
        seen.as_ref().map(|seen| seen.bytes),
        &mut report,
    );
    report
}

/// Finds pg_dump for a server of this major version, or any when the server was not reached.
fn look_for_tools(options: &BackupOptions, server_major: Option<u32>, report: &mut CheckReport) {
    const SUBJECT: &str = "pg_dump";
    match ClientTools::find(options.pg_bin.as_deref(), server_major.unwrap_or(0)) {
        Ok(tools) => {
            let program = tools.program("pg_dump");
            report.add(
                Severity::Ok,
                SUBJECT,
                format!("{} is {}", program.display(), tools.version),
            );
        }
        Err(ToolError::Missing { found, .. }) => report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            match server_major {
                Some(major) => format!("none for a PostgreSQL {major} server was found; {found}"),
                None => format!("none was found; {found}"),
            },
            "install the client package of the server's version or newer, or say where its \
             programs are",
        ),
        Err(error) => report.add_error(SUBJECT, &error),
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::FoldersOnly;

    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(5_000_000_000_000), "5.0 TB");
    }

    #[test]
    fn the_worst_finding_counts() {
        let mut report = CheckReport::default();
        assert_eq!(report.worst(), Severity::Ok);
        report.add(Severity::Warning, "a", "b");
        report.add(Severity::Note, "a", "b");
        assert_eq!(report.worst(), Severity::Warning);
    }

    #[test]
    fn a_server_that_is_not_there_does_not_stop_the_look_at_the_vault() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("none");
        let conninfo = format!("host={} port=5999 user=x dbname=x", socket.display());
        let target = pg::Config::parse(&conninfo).expect("a connection string");
        let place = Place::Folder(folder.path().join("vault"));
        let report = check(&target, &place, &FoldersOnly, &BackupOptions::default());
        let of = |subject: &str| report.findings.iter().find(|one| one.subject == subject);
        assert_eq!(of("server").map(|one| one.severity), Some(Severity::Error));
        assert_eq!(of("vault").map(|one| one.severity), Some(Severity::Note), "{report:?}");
        assert!(of("pg_dump").is_some());
        assert!(!folder.path().join("vault").exists(), "a check makes no vault");
    }
}
