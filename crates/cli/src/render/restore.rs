//! A restore, before and after.

use flexkeep_engine::{
    DatabaseAction, DatabaseReport, RestorePlan, RestoreReport, RestoreStatus, Severity,
};
use flexkeep_vault::manifest::Loss;

use crate::render::losses;
use crate::render::table::{Align, Table};
use crate::render::text::{cell, plural};
use crate::render::units;

/// Failures that are shown of one database; `--json` has them all.
const FAILURES: usize = 50;

/// Things left out that are shown of one database.
const SKIPPED: usize = 20;

/// Tables that are named where they lack rows.
const TABLES: usize = 20;

/// What would be done.
pub(crate) fn plan(plan: &RestorePlan) -> String {
    let mut out = format!("{} into {}\n", plan.backup, cell(&plan.target));
    let mut table = Table::new(&[
        ("DATABASE", Align::Left),
        ("RESTORED AS", Align::Left),
        ("WHAT HAPPENS", Align::Left),
        ("OBJECTS", Align::Right),
        ("TABLES", Align::Right),
        ("ROWS", Align::Right),
        ("DATA", Align::Right),
    ]);
    for one in &plan.databases {
        table.row(vec![
            one.database.clone(),
            one.restored_as.clone(),
            action(one.action).to_owned(),
            units::count(one.objects),
            units::count(one.tables),
            units::count(one.rows),
            units::bytes(one.bytes),
        ]);
    }
    out.push_str(&table.render("  "));
    if !plan.roles.is_empty() {
        out.push_str(&format!("Roles to make: {}\n", cell(&plan.roles.join(", "))));
    }
    for one in &plan.databases {
        for also in &one.also {
            out.push_str(&format!("  also: {}\n", cell(also)));
        }
        out.push_str(&skipped(&one.skipped));
    }
    out.push('\n');
    for finding in &plan.findings {
        let word = match finding.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
        };
        out.push_str(&format!("{word:<8} {}: {}\n", cell(&finding.subject), cell(&finding.what)));
        if let Some(way_out) = &finding.way_out {
            out.push_str(&format!("         {}\n", cell(way_out)));
        }
    }
    let fit = !plan.findings.iter().any(|finding| finding.severity == Severity::Error);
    out.push_str(if fit {
        "\nThe restore can begin. Nothing was changed.\n"
    } else {
        "\nThe restore cannot begin like this. Nothing was changed.\n"
    });
    out
}

fn action(action: DatabaseAction) -> &'static str {
    match action {
        DatabaseAction::Create => "made",
        DatabaseAction::Replace => "dropped and made anew",
        DatabaseAction::Use => "used as it is",
        DatabaseAction::UseAndDrop => "used; what is in the way is dropped",
        DatabaseAction::Continue => "continued",
        DatabaseAction::Finished => "finished already",
    }
}

/// The end of a restore.
pub(crate) fn summary(report: &RestoreReport, losses: &[Loss]) -> String {
    let mut out = format!("Restored {} into {}\n", report.backup, cell(&report.target));
    out.push_str(&databases(report));
    out.push_str(&format!(
        "in {}\n",
        units::duration(std::time::Duration::from_secs_f64(report.duration_seconds.max(0.0)))
    ));
    out.push_str(&troubles(report));
    for one in &report.databases {
        out.push_str(&made_too(&one.also));
        out.push_str(&skipped(&one.skipped));
    }
    let roles = &report.roles;
    if !roles.created.is_empty() {
        out.push_str(&format!("\nRoles made: {}\n", cell(&roles.created.join(", "))));
    }
    if !roles.kept.is_empty() {
        out.push_str(&format!(
            "Roles that were there, left as they are: {}\n",
            cell(&roles.kept.join(", "))
        ));
    }
    let lost = losses::block(losses);
    if !lost.is_empty() {
        out.push_str(&format!("\n{lost}"));
    }
    let by_hand = report.to_do.iter().filter(|line| !line.starts_with("not in the backup: "));
    let lines: String = by_hand.map(|line| format!("  {}\n", cell(line))).collect();
    if !lines.is_empty() {
        out.push_str(&format!("\nTo do by hand\n{lines}"));
    }
    out
}

/// What is there when a restore ended early.
pub(crate) fn there(report: &RestoreReport) -> String {
    let mut out = "What is there now:\n".to_owned();
    out.push_str(&databases(report));
    for one in &report.databases {
        let missing: Vec<String> = one
            .tables
            .iter()
            .filter(|table| !table.complete)
            .map(|table| {
                let schema =
                    table.schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
                format!(
                    "{schema}{}: {} of {} rows",
                    table.name,
                    units::count(table.rows),
                    units::count(table.expected_rows)
                )
            })
            .collect();
        for line in missing.iter().take(TABLES) {
            out.push_str(&format!("  {}\n", cell(line)));
        }
        if missing.len() > TABLES {
            out.push_str(&format!("  and {} more tables\n", missing.len() - TABLES));
        }
    }
    if !report.not_begun.is_empty() {
        out.push_str(&format!("Not begun: {}\n", cell(&report.not_begun.join(", "))));
    }
    out.push_str(&troubles(report));
    out
}

fn databases(report: &RestoreReport) -> String {
    let mut table = Table::new(&[
        ("DATABASE", Align::Left),
        ("STATUS", Align::Left),
        ("OBJECTS", Align::Right),
        ("TABLES", Align::Right),
        ("ROWS", Align::Right),
        ("LARGE OBJECTS", Align::Right),
        ("LOADED", Align::Right),
    ]);
    for one in &report.databases {
        let complete = one.tables.iter().filter(|table| table.complete).count();
        table.row(vec![
            one.restored_as.clone(),
            status(one).to_owned(),
            units::count(one.objects),
            format!("{complete} of {}", one.tables.len()),
            units::count(one.rows),
            units::count(one.large_objects),
            units::bytes(one.loaded_bytes),
        ]);
    }
    table.render("  ")
}

fn status(database: &DatabaseReport) -> &'static str {
    match database.status {
        RestoreStatus::Complete => "complete",
        RestoreStatus::WithFailures => "with failures",
        RestoreStatus::Incomplete => "INCOMPLETE",
    }
}

/// What failed; empty if nothing did.
pub(crate) fn troubles(report: &RestoreReport) -> String {
    let mut out = String::new();
    for one in &report.databases {
        let unlike = one.tables.iter().filter(|t| t.complete && t.rows != t.expected_rows);
        let mut lines: Vec<String> = unlike
            .map(|table| {
                format!(
                    "{}: {} rows came, the backup has {}",
                    table.name, table.rows, table.expected_rows
                )
            })
            .collect();
        lines.extend(one.failures.iter().map(|failure| {
            let code =
                failure.sqlstate.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
            format!("{}: {}{code}", failure.object, failure.error)
        }));
        if lines.is_empty() {
            continue;
        }
        out.push_str(&format!(
            "\nFAILED in database {}: {}\n",
            cell(&one.restored_as),
            plural(lines.len() as u64, "object")
        ));
        for line in lines.iter().take(FAILURES) {
            out.push_str(&format!("  {}\n", cell(line)));
        }
        if lines.len() > FAILURES {
            out.push_str(&format!("  and {} more; --json has them all\n", lines.len() - FAILURES));
        }
    }
    if !report.roles.refused.is_empty() {
        out.push_str("\nREFUSED of roles\n");
        for line in &report.roles.refused {
            out.push_str(&format!("  {}\n", cell(line)));
        }
    }
    out
}

fn made_too(all: &[String]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out = "\nMade too, as it was needed\n".to_owned();
    for one in all.iter().take(SKIPPED) {
        out.push_str(&format!("  {}\n", cell(one)));
    }
    if all.len() > SKIPPED {
        out.push_str(&format!("  and {} more; --json has them all\n", all.len() - SKIPPED));
    }
    out
}

fn skipped(all: &[flexkeep_engine::Skipped]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out = "\nLeft out\n".to_owned();
    for one in all.iter().take(SKIPPED) {
        out.push_str(&format!("  {}: {}\n", cell(&one.object), cell(&one.reason)));
    }
    if all.len() > SKIPPED {
        out.push_str(&format!("  and {} more; --json has them all\n", all.len() - SKIPPED));
    }
    out
}
