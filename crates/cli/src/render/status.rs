//! How things are, one paragraph a server.

use flexkeep_service::Fate;
use jiff::Timestamp;

use crate::commands::status::{Backup, Drill, Run, Server, View};
use crate::render::lanes;
use crate::render::text::cell;
use crate::render::units;

/// All servers.
pub(crate) fn page(view: &View, now: Timestamp) -> String {
    if view.servers.is_empty() {
        return format!("Nothing was backed up into the vault in {} yet.\n", cell(&view.vault));
    }
    view.servers.iter().map(|one| server(one, now)).collect::<Vec<_>>().join("\n")
}

fn server(server: &Server, now: Timestamp) -> String {
    let mut out = format!("{}\n", server.server);
    let mut line = |name: &str, value: &str| {
        out.push_str(&format!("  {name:<9} {}\n", cell(value)));
    };
    match &server.last_backup {
        Some(last) => line("Last", &last_line(last, now)),
        None => line("Last", "never backed up"),
    }
    schedule_lines(server, &mut line);
    if let Some(drill) = &server.drill {
        line("Drill", &drill_line(drill, now));
    }
    for problem in &server.problems {
        line("Problem", problem);
    }
    for run in &server.runs {
        run_lines(run, server, now, &mut line);
    }
    request_line(server, now, &mut line);
    out
}

fn last_line(last: &Backup, now: Timestamp) -> String {
    format!(
        "{} ({}), {}, {} new{}",
        last.backup,
        units::age(last.sealed, now),
        units::bytes(last.raw_bytes),
        units::bytes(last.new_stored_bytes),
        if last.complete { "" } else { ", WITH LOSSES" }
    )
}

fn schedule_lines(server: &Server, line: &mut dyn FnMut(&str, &str)) {
    match server.in_policy {
        Some(false) => line("Schedule", "none: the policy does not name this server"),
        Some(true) if server.enabled == Some(false) => line("Schedule", "disabled in the policy"),
        _ => {}
    }
    if let (Some(schedule), Some(next)) = (&server.schedule, server.next) {
        line("Schedule", &format!("{schedule}; next {}", units::time(next)));
    }
    if server.degraded {
        line("Degraded", "daily backups failed twice in a row; weekly until one succeeds");
    }
    if server.failures > 0 {
        line("Failures", &format!("{} in a row", server.failures));
    }
}

fn run_lines(run: &Run, server: &Server, now: Timestamp, line: &mut dyn FnMut(&str, &str)) {
    let started = units::age(run.started, now);
    match run.failure() {
        // What became of its request says more.
        Some(_) if server.requests.iter().any(|note| run.is_of(note)) => {}
        Some(reason) => line("FAILED", &format!("{started}: {reason}")),
        None => {
            let try_ = match run.attempt {
                0 | 1 => String::new(),
                attempt => format!(", try {attempt}"),
            };
            line("Running", &format!("begun {started}{try_}: {}", run.line()));
            if let Some(progress) = &run.progress {
                lanes::lines(progress, now, line);
            }
        }
    }
}

/// What became of the last request, if that needs attention.
fn request_line(server: &Server, now: Timestamp, line: &mut dyn FnMut(&str, &str)) {
    match server.requests.last().map(|note| (note, &note.fate)) {
        Some((note, Fate::Failed { why })) => {
            line("FAILED", &format!("{}: {}: {why}", units::age(note.at, now), note.request));
        }
        Some((note, Fate::PutOff { why, again })) => {
            let (request, attempt, again) = (&note.request, note.attempt, units::time(*again));
            line("Put off", &format!("{request} (try {attempt}) until {again}: {why}"));
        }
        Some((_, Fate::Sealed { .. })) | None => {}
    }
}

fn drill_line(drill: &Drill, now: Timestamp) -> String {
    let mut parts = Vec::new();
    match &drill.last {
        None => parts.push("none was held yet".to_owned()),
        Some(last) => {
            let age = units::age(last.at, now);
            let of = last.backup.as_deref().unwrap_or("no backup");
            let databases = last.databases.join(", ");
            parts.push(match &last.why {
                None => format!("passed {age}: {of} {databases}"),
                Some(why) => format!("FAILED {age}: {of} {databases}: {why}"),
            });
        }
    }
    if let Some(next) = drill.next {
        parts.push(format!("next {}", units::time(next)));
    }
    for scratch in &drill.scratch {
        parts.push(format!("database {} on {}", scratch.name, scratch.target));
    }
    parts.join("; ")
}
