//! What a check found.

use flexkeep_engine::{CheckReport, Severity};

use crate::render::text::{cell, plural};

/// Findings, then the verdict. With `quiet` only those that matter.
pub(crate) fn page(report: &CheckReport, quiet: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        if quiet && finding.severity < Severity::Warning {
            continue;
        }
        let mark = match finding.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
        };
        let (subject, what) = (cell(&finding.subject), cell(&finding.what));
        out.push_str(&format!("{mark:<8} {subject}: {what}\n"));
        if let Some(way_out) = &finding.way_out {
            out.push_str(&format!("         -> {}\n", cell(way_out)));
        }
    }
    out.push_str(&verdict(report));
    out
}

fn verdict(report: &CheckReport) -> String {
    let count = |severity: Severity| {
        report.findings.iter().filter(|finding| finding.severity == severity).count() as u64
    };
    let warnings = plural(count(Severity::Warning), "warning");
    match report.worst() {
        Severity::Ok | Severity::Note => "Ready: a backup will succeed.\n".to_owned(),
        Severity::Warning => {
            format!("Ready, with {warnings}: a backup will succeed, but may lack what they name.\n")
        }
        Severity::Error => {
            let errors = plural(count(Severity::Error), "error");
            format!("Not ready: {errors} and {warnings}; a backup would fail.\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_engine::Finding;

    use super::*;

    fn report(severities: &[Severity]) -> CheckReport {
        let finding = |severity: &Severity| Finding {
            severity: *severity,
            subject: "server".to_owned(),
            what: format!("{severity:?}\n"),
            way_out: (*severity >= Severity::Warning).then(|| "repair it".to_owned()),
        };
        CheckReport { findings: severities.iter().map(finding).collect() }
    }

    #[test]
    fn the_last_line_is_the_verdict() {
        use Severity::{Error, Note, Ok, Warning};
        assert_eq!(
            page(&report(&[Ok, Note]), false),
            "ok       server: Ok\\n\nnote     server: Note\\n\nReady: a backup will succeed.\n"
        );
        assert!(page(&report(&[Ok, Warning]), false).contains("\nReady, with 1 warning:"));
        assert_eq!(
            page(&report(&[Ok, Note, Warning, Error]), true),
            "WARNING  server: Warning\\n\n         -> repair it\n\
             ERROR    server: Error\\n\n         -> repair it\n\
             Not ready: 1 error and 1 warning; a backup would fail.\n"
        );
    }
}
