//! The backups of a vault.

use flexkeep_vault::RunState;
use jiff::Timestamp;

use crate::commands::list::Listing;
use crate::render::table::{Align, Table};
use crate::render::text::cell;
use crate::render::units;

/// The table, newest last, and runs that sealed nothing.
pub(crate) fn table(listing: &Listing, now: Timestamp) -> String {
    let mut out = String::new();
    if listing.backups.is_empty() {
        out.push_str(&format!("The vault in {} has no backups.\n", listing.vault.place));
    } else {
        out.push_str(&backups(listing, now));
    }
    for run in &listing.runs {
        let what = match &run.state {
            RunState::Running => format!("at work or dead, on {} (process {})", run.host, run.pid),
            RunState::Sealed { backup } => format!("sealed {backup}"),
            RunState::Failed { reason } => format!("FAILED: {reason}"),
        };
        let started = units::time(run.started);
        out.push_str(&format!(
            "\nRun of {} from {started} ({}): {}\n",
            run.server,
            units::age(run.started, now),
            cell(&what)
        ));
    }
    out
}

fn backups(listing: &Listing, now: Timestamp) -> String {
    let mut table = Table::new(&[
        ("STATUS", Align::Left),
        ("BACKUP", Align::Left),
        ("SERVER", Align::Left),
        ("STARTED", Align::Left),
        ("AGE", Align::Right),
        ("DATABASES", Align::Right),
        ("DATA", Align::Right),
        ("NEW", Align::Right),
    ]);
    for one in &listing.backups {
        let status = one.status.replace('_', " ");
        table.row(vec![
            status,
            one.backup.clone(),
            one.server.clone(),
            units::time(one.started),
            units::age(one.started, now),
            units::count(one.databases.len() as u64),
            units::bytes(one.raw_bytes),
            units::bytes(one.new_stored_bytes),
        ]);
    }
    table.render("")
}
