//! One database: whether all of it can be read.

use flexkeep_pg_copy as pg;

use super::server::{DatabaseSeen, losses};
use super::{CheckReport, Severity, chain, size, some};
use crate::error::BackupError;
use crate::large_objects::Unreadable;
use crate::restore::RESTORE_JOURNAL;
use crate::session;
use crate::snapshot;
use crate::source::{self, ServerFacts};

pub(super) fn look(
    target: &pg::Config,
    connect: &pg::ConnectOptions,
    name: &str,
    facts: &ServerFacts,
    report: &mut CheckReport,
) -> DatabaseSeen {
    let subject = format!("database {name:?}");
    let mut seen = DatabaseSeen::default();
    match try_look(target, connect, name, facts, &subject, &mut seen, report) {
        Ok(true) => {
            let tables = if seen.tables == 1 { "table" } else { "tables" };
            let what = format!("{} {tables}, {}; all can be read", seen.tables, size(seen.bytes));
            report.add(Severity::Ok, &subject, what);
        }
        Ok(false) => {}
        Err(error) => report.add_error(&subject, &error),
    }
    seen
}

/// Whether all tables and sequences can be read.
fn try_look(
    target: &pg::Config,
    connect: &pg::ConnectOptions,
    name: &str,
    facts: &ServerFacts,
    subject: &str,
    seen: &mut DatabaseSeen,
    report: &mut CheckReport,
) -> Result<bool, BackupError> {
    let mut connection = session::connect(target, name, connect)?;
    session::prepare(&mut connection, name)?;
    seen.tables = snapshot::list_lockable(&mut connection, name)?.len() as u64;
    let readable = match snapshot::refuse_unreadable(&mut connection, name) {
        Ok(()) => true,
        Err(BackupError::Unreadable { tables, .. }) => {
            let sequences = tables.iter().filter(|name| name.starts_with("sequence ")).count();
            let of_tables = format!("{} of {} tables", tables.len() - sequences, seen.tables);
            let plural = if sequences == 1 { "" } else { "s" };
            let what = match (tables.len() - sequences, sequences) {
                (_, 0) => of_tables,
                (0, _) => format!("{sequences} sequence{plural}"),
                _ => format!("{of_tables} and {sequences} sequence{plural}"),
            };
            report.add_with_way_out(
                Severity::Error,
                subject,
                format!("{what} cannot be read by {:?}: {}", target.user(), some(&tables)),
                "grant SELECT on them and USAGE on their schemas (or the role pg_read_all_data), \
                 and BYPASSRLS where row security is active; or leave the database out",
            );
            false
        }
        Err(error) => return Err(error),
    };
    note_restore(&mut connection, name, subject, report)?;
    let unreadable = Unreadable::ask(&mut connection, name)?;
    losses(&source::database_losses(&mut connection, name, facts, &unreadable.0)?, report);
    // Sizes need CONNECT, which there is; but a file may vanish under the function.
    let asked = session::rows(
        &mut connection,
        name,
        "asking for its size",
        "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())",
    );
    match asked {
        Ok(rows) => {
            if let Some(row) = rows.first() {
                seen.bytes = session::number(row, 0, "database size")?;
            }
        }
        Err(error) => report.add(Severity::Note, subject, chain(&error)),
    }
    connection.close();
    Ok(readable)
}

/// Notes that a restore into the database has not been completed.
fn note_restore(
    connection: &mut pg::Connection,
    name: &str,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    let sql = format!(
        "SELECT FROM pg_catalog.pg_namespace WHERE nspname = {}",
        pg::quote_literal(RESTORE_JOURNAL)
    );
    if !session::rows(connection, name, "looking for a restore", &sql)?.is_empty() {
        report.add(
            Severity::Note,
            subject,
            format!(
                "a restore into it is not complete (its journal is the schema {RESTORE_JOURNAL}); a \
                 backup has what is there by then"
            ),
        );
    }
    Ok(())
}
