//! Events about restores and drills. Their lists are as long as an event can have them; beside each
//! stands how many there are.

use flexkeep_bus::CloudEvent;
use flexkeep_engine::{
    DatabaseReport, DrillReport, ObjectFailure, RestoreReport, RestoreStatus, TableReport,
};
use serde_json::{Value, json};

use crate::drills::DrillResult;
use crate::events::{About, Events, MAX_LISTED, MAX_NAMES};
use crate::message::cut;
use crate::restore_message::RestoreMessage;

/// Characters of a name of a database, a table, an object.
const NAME_CHARS: usize = 200;

impl Events {
    fn of_restore(
        &self,
        about: About,
        message: &RestoreMessage,
        what: &str,
        mut data: Value,
    ) -> CloudEvent {
        data["server"] = json!(message.server.as_str());
        data["request"] = json!(message.request);
        data["reason"] = json!(message.reason);
        data["attempt"] = json!(message.attempt);
        data["vault"] = json!(self.vault);
        if let Some(instant) = message.instant {
            data["instant"] = json!(instant);
        }
        if let Some(order) = &message.restore {
            data["target"] = json!(order.target.as_str());
        }
        let id = format!("{}/{what}", message.key());
        self.event(about, id, message.server.as_str(), data)
    }

    /// A restore is about to begin.
    pub(crate) fn restore_started(&self, message: &RestoreMessage, backup: &str) -> CloudEvent {
        let data = json!({"backup": backup});
        self.of_restore(About::RestoreStarted, message, "started", data)
    }

    /// A restore goes on after a failure or the death of whoever worked on it.
    pub(crate) fn restore_continued(
        &self,
        message: &RestoreMessage,
        delivery: u32,
        backup: &str,
        why: &str,
    ) -> CloudEvent {
        let what = format!("continued/{}.{}.{delivery}", message.attempt, message.waits);
        let data = json!({"backup": backup, "why": cut(why)});
        self.of_restore(About::RestoreContinued, message, &what, data)
    }

    /// All is restored; `data` is from [`restored`].
    pub(crate) fn restore_completed(&self, message: &RestoreMessage, data: Value) -> CloudEvent {
        self.of_restore(About::RestoreCompleted, message, "completed", data)
    }

    /// A request is given up, with what is there, if something was changed.
    pub(crate) fn restore_failed(
        &self,
        message: &RestoreMessage,
        backup: Option<&str>,
        why: &str,
        report: Option<Value>,
    ) -> CloudEvent {
        let mut data = report.unwrap_or_else(|| json!({}));
        data["why"] = json!(cut(why));
        data["backup"] = json!(backup);
        let about = if message.drill.is_some() { About::DrillFailed } else { About::RestoreFailed };
        let event = self.of_restore(about, message, "failed", data.clone());
        if event.to_json().is_ok() {
            return event;
        }
        // The report fitted before the reason came to it; the counts stay.
        for list in ["databases", "not_begun", "roles_created", "to_do"] {
            data[list] = json!([]);
        }
        self.of_restore(about, message, "failed", data)
    }

    /// A drill came to its end.
    pub(crate) fn drilled(&self, message: &RestoreMessage, result: &DrillResult) -> CloudEvent {
        fitting(|listed| {
            let mut data = drilled(result, listed);
            match result.why() {
                None => self.of_restore(About::DrillPassed, message, "passed", data),
                Some(why) => {
                    data["why"] = json!(cut(&why));
                    self.of_restore(About::DrillFailed, message, "failed", data)
                }
            }
        })
    }

    /// A message that can never work.
    pub(crate) fn restore_refused(&self, message_id: &str, why: &str) -> CloudEvent {
        self.refused_as(About::RestoreFailed, "restore-refused", message_id, why)
    }

    /// What the event of a restore tells of its report, in lists that fit.
    pub(crate) fn restored(&self, message: &RestoreMessage, report: &RestoreReport) -> Value {
        fitting(|listed| self.restore_completed(message, restored(report, listed))).data
    }
}

/// The event with lists as long as it can have them.
fn fitting(make: impl Fn(usize) -> CloudEvent) -> CloudEvent {
    let mut listed = MAX_LISTED;
    loop {
        let event = make(listed);
        if listed == 0 || event.to_json().is_ok() {
            return event;
        }
        listed /= 2;
    }
}

fn short(text: &str) -> String {
    text.chars().take(NAME_CHARS).collect()
}

fn names(all: &[String], listed: usize) -> Vec<String> {
    all.iter().take(listed).map(|name| short(name)).collect()
}

/// What the server refused. Not the statement: it may have an option that is a password.
fn failures(all: &[ObjectFailure], listed: usize) -> Vec<Value> {
    let one = |failure: &ObjectFailure| {
        json!({
            "object": short(&failure.object),
            "error": cut(&failure.error),
            "sqlstate": failure.sqlstate,
        })
    };
    all.iter().take(listed.min(MAX_NAMES)).map(one).collect()
}

fn restored(report: &RestoreReport, listed: usize) -> Value {
    let all = &report.databases;
    let databases: Vec<Value> =
        all.iter().take(listed).map(|one| restored_database(one, listed)).collect();
    let to_do: Vec<String> = report.to_do.iter().take(listed).map(|text| cut(text)).collect();
    json!({
        "backup": report.backup,
        "complete": report.status == RestoreStatus::Complete,
        "duration_seconds": report.duration_seconds,
        "rows": all.iter().map(|one| one.rows).sum::<u64>(),
        "large_objects": all.iter().map(|one| one.large_objects).sum::<u64>(),
        "objects": all.iter().map(|one| one.objects).sum::<u64>(),
        "failures_count": all.iter().map(|one| one.failures.len()).sum::<usize>(),
        "databases": databases,
        "databases_count": all.len(),
        "not_begun": names(&report.not_begun, listed),
        "not_begun_count": report.not_begun.len(),
        "roles_created": names(&report.roles.created, listed),
        "roles_created_count": report.roles.created.len(),
        "to_do": to_do,
        "to_do_count": report.to_do.len(),
    })
}

fn restored_database(database: &DatabaseReport, listed: usize) -> Value {
    let unlike: Vec<&TableReport> =
        database.tables.iter().filter(|one| one.rows != one.expected_rows).collect();
    let table = |table: &&TableReport| {
        let schema = table.schema.as_ref().map(|name| format!("{name}.")).unwrap_or_default();
        json!({
            "table": short(&format!("{schema}{}", table.name)),
            "rows": table.rows,
            "expected_rows": table.expected_rows,
        })
    };
    let skipped = database
        .skipped
        .iter()
        .take(listed.min(MAX_NAMES))
        .map(|one| json!({"object": short(&one.object), "reason": cut(&one.reason)}));
    json!({
        "database": short(&database.database),
        "restored_as": short(&database.restored_as),
        "status": database.status,
        "action": database.action,
        "tables": database.tables.len(),
        "rows": database.rows,
        "large_objects": database.large_objects,
        "objects": database.objects,
        "rows_differ": unlike.iter().take(listed.min(MAX_NAMES)).map(table).collect::<Vec<_>>(),
        "rows_differ_count": unlike.len(),
        "failures": failures(&database.failures, listed),
        "failures_count": database.failures.len(),
        "skipped": skipped.collect::<Vec<_>>(),
        "skipped_count": database.skipped.len(),
    })
}

fn drilled(result: &DrillResult, listed: usize) -> Value {
    let all = &result.databases;
    let databases: Vec<Value> =
        all.iter().take(listed).map(|one| drilled_database(one, listed)).collect();
    let assertions = || all.iter().flat_map(|one| &one.assertions);
    json!({
        "target": result.target,
        "backup": result.backup,
        "duration_seconds": result.duration_seconds,
        "tables": all.iter().map(|one| one.tables).sum::<u64>(),
        "rows": all.iter().map(|one| one.rows).sum::<u64>(),
        "large_objects": all.iter().map(|one| one.large_objects).sum::<u64>(),
        "indexes_checked": all.iter().map(|one| one.indexes_checked).sum::<u64>(),
        "assertions_count": assertions().count(),
        "assertions_held": assertions().filter(|one| one.holds).count(),
        "databases": databases,
        "databases_count": all.len(),
        "kept": names(&result.kept, listed),
        "left_behind": names(&result.left_behind, listed),
    })
}

fn drilled_database(report: &DrillReport, listed: usize) -> Value {
    let few = listed.min(MAX_NAMES);
    let problems: Vec<String> = report.problems.iter().take(few).map(|text| cut(text)).collect();
    let assertions = report.assertions.iter().take(listed).map(|one| {
        json!({"name": short(&one.name), "holds": one.holds, "why": one.why.as_deref().map(cut)})
    });
    json!({
        "database": short(&report.database),
        "problems": problems,
        "problems_count": report.problems.len(),
        "tables": report.tables,
        "rows": report.rows,
        "large_objects": report.large_objects,
        "indexes_checked": report.indexes_checked,
        "indexes_unchecked": report.indexes_unchecked.as_deref().map(cut),
        "assertions": assertions.collect::<Vec<_>>(),
        "refused": failures(&report.refused, listed),
        "refused_count": report.refused.len(),
        "skipped_count": report.skipped.len(),
        "roles_created": names(&report.roles_created, listed),
        "restore_seconds": report.restore_seconds,
        "check_seconds": report.check_seconds,
    })
}
