//! What a drill found, and what a function app did.

use flexkeep_engine::DrillReport;
use flexkeep_service::{DrillResult, What};
use serde_json::Value;

use crate::render::table::{Align, Table};
use crate::render::text::{cell, plural};
use crate::render::units;

/// Problems that are shown of one database; `--json` has them all.
const PROBLEMS: usize = 20;

/// The result of a drill that was held here.
pub(crate) fn page(result: &DrillResult) -> String {
    let backup = result.backup.as_deref().unwrap_or("no backup");
    let mut out = format!("{backup} on target {}\n", cell(&result.target));
    let mut table = Table::new(&[
        ("DATABASE", Align::Left),
        ("TABLES", Align::Right),
        ("ROWS", Align::Right),
        ("LARGE OBJECTS", Align::Right),
        ("INDEXES", Align::Right),
        ("ASSERTIONS", Align::Right),
        ("SECONDS", Align::Right),
    ]);
    for one in &result.databases {
        let held = one.assertions.iter().filter(|assertion| assertion.holds).count();
        table.row(vec![
            one.database.clone(),
            units::count(one.tables),
            units::count(one.rows),
            units::count(one.large_objects),
            units::count(one.indexes_checked),
            format!("{held} of {}", one.assertions.len()),
            format!("{:.1}", one.restore_seconds + one.check_seconds),
        ]);
    }
    if !result.databases.is_empty() {
        out.push_str(&table.render("  "));
    }
    for one in &result.databases {
        out.push_str(&remarks(one));
    }
    for problem in &result.problems {
        out.push_str(&format!("  PROBLEM {}\n", cell(problem)));
    }
    for name in &result.kept {
        out.push_str(&format!("  kept until the next drill: {}\n", cell(name)));
    }
    for name in &result.left_behind {
        out.push_str(&format!("  could not be dropped: {}\n", cell(name)));
    }
    out.push_str(if result.passed() { "The drill passed.\n" } else { "The drill did NOT pass.\n" });
    out
}

fn remarks(report: &DrillReport) -> String {
    let mut out = String::new();
    let name = cell(&report.database);
    if let Some(why) = &report.indexes_unchecked {
        out.push_str(&format!("  {name}: indexes not checked: {}\n", cell(why)));
    }
    if !report.roles_created.is_empty() {
        let roles = cell(&report.roles_created.join(", ")).to_string();
        out.push_str(&format!("  {name}: roles that were made and stay: {roles}\n"));
    }
    for problem in report.problems.iter().take(PROBLEMS) {
        out.push_str(&format!("  {name}: PROBLEM {}\n", cell(problem)));
    }
    if report.problems.len() > PROBLEMS {
        out.push_str(&format!("  {name}: and {} more\n", report.problems.len() - PROBLEMS));
    }
    out
}

/// The end that a function app tells, from the data of its event.
pub(crate) fn of_app(what: What, report: &Value) -> String {
    let text = |key: &str| cell(report[key].as_str().unwrap_or_default()).to_string();
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let databases = number("databases_count");
    let counts =
        format!("{}, {} rows", plural(databases, "database"), units::count(number("rows")));
    match what {
        What::Restore => {
            let mut out = format!("{} is restored: {counts}\n", text("backup"));
            if report["complete"] == false {
                out.push_str(&format!(
                    "the server refused {} definitions; the event names them\n",
                    number("failures_count")
                ));
            }
            for to_do in report["to_do"].as_array().into_iter().flatten() {
                out.push_str(&format!("to do: {}\n", cell(to_do.as_str().unwrap_or_default())));
            }
            out
        }
        What::Drill => format!(
            "the drill passed: {}, {counts}, {} indexes checked, {} of {} assertions held\n",
            text("backup"),
            number("indexes_checked"),
            number("assertions_held"),
            number("assertions_count")
        ),
    }
}
