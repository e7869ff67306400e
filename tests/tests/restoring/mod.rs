//! `flexkeep restore` as the tests of it call it.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{Output, Server, flexkeep_command, run};
use serde_json::Value;

/// How long one restore of a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// A restore of the last backup of a vault into a server, as its superuser, on two lanes.
pub(crate) fn restore(vault: &Path, into: &Server, options: &[&str]) -> Command {
    restore_as(vault, &into.conninfo("postgres"), options)
}

/// The same with another connection string.
pub(crate) fn restore_as(vault: &Path, into: &str, options: &[&str]) -> Command {
    let mut command =
        flexkeep_command(&["restore", "source/latest", "--json", "--lanes", "2", "--into", into]);
    command.arg("--vault").arg(vault).args(options);
    command
}

/// Runs a restore that must end with this code; the document that it wrote.
#[track_caller]
pub(crate) fn ends(code: i32, command: &mut Command) -> Value {
    let out = run(command, LIMIT);
    assert_eq!(out.code(), Some(code), "{}\n{}", out.errors(), shortened(&out));
    serde_json::from_slice(&out.stdout).expect("one JSON document")
}

/// The database's part of a report.
#[track_caller]
pub(crate) fn database<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["databases"].as_array().expect("a list");
    all.iter().find(|one| one["restored_as"] == name).unwrap_or_else(|| panic!("no {name:?}"))
}

/// The errors of a plan, as `subject: what; way out`.
pub(crate) fn problems(document: &Value) -> Vec<String> {
    let findings = document["findings"].as_array().cloned().unwrap_or_default();
    findings
        .iter()
        .filter(|finding| finding["severity"] == "error")
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}; {}", text("subject"), text("what"), text("way_out"))
        })
        .collect()
}

/// What failed, by object.
pub(crate) fn failures(report: &Value, name: &str) -> Vec<String> {
    let all = database(report, name)["failures"].as_array().expect("a list");
    all.iter().map(|one| format!("{}: {}", one["object"], one["error"])).collect()
}

/// What of a long document says why.
fn shortened(out: &Output) -> String {
    let document: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let report = if document["details"].is_null() { &document } else { &document["details"] };
    let mut text: String = out.text().chars().take(1000).collect();
    for database in report["databases"].as_array().into_iter().flatten() {
        text += &format!("\n{} {}", database["restored_as"], database["status"]);
        for list in ["failures", "tables", "skipped"] {
            for one in database[list].as_array().into_iter().flatten() {
                if one["complete"] != true {
                    text += &format!("\n  {list}: {one}");
                }
            }
        }
    }
    text
}
