//! Counts what is there, and compares it with the backup's lists.

use std::collections::HashSet;

use flexkeep_pg_archive::Entry;
use flexkeep_vault::Vault;
use flexkeep_vault::manifest::DatabaseSummary;

use super::super::error::RestoreError;
use super::super::journal;
use super::super::parts::{Parts, by_target, name_of};
use super::super::statement::qualified;
use super::super::target::{Db, failed, number};
use super::DrillReport;
use crate::progress::Progress;

const DOING: &str = "counting rows";

/// Schema and name, in the encoding of the session.
type TableName = (Vec<u8>, Vec<u8>);

/// Counts the rows of each table that the backup has, and the large objects.
pub(super) fn count(
    vault: &Vault,
    summary: &DatabaseSummary,
    db: &mut Db,
    progress: &Progress,
    report: &mut DrillReport,
) -> Result<(), RestoreError> {
    let parts = Parts::read(vault, summary)?;
    let of_extensions = tables_of_extensions(db)?;
    let is_journal = journal::is_in_backup(parts.entries());
    let entries = parts.entries().iter().filter(|entry| !is_journal(entry));
    for group in by_target(entries).into_values() {
        progress.check_cancelled(RestoreError::Cancelled { report: None })?;
        let is_of_extension = |entry: &&Entry| {
            let (schema, name) = (entry.namespace(), entry.tag());
            let name = (schema.unwrap_or_default().to_vec(), name.unwrap_or_default().to_vec());
            of_extensions.contains(&name)
        };
        if group.iter().any(is_of_extension) {
            continue;
        }
        let expected: u64 =
            group.iter().filter_map(|entry| parts.data_of(entry)).map(|data| data.rows).sum();
        let Some(there) = rows_of(&group, db, report)? else { continue };
        report.tables += group.len() as u64;
        report.rows += there;
        if there != expected {
            let names: Vec<String> = group.iter().map(|entry| name_of(entry)).collect();
            let tables = names.join(", ");
            report.problems.push(format!("{tables}: {there} are there, the backup has {expected}"));
        }
    }
    let objects = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata";
    let there = db.value(DOING, objects)?.parse().unwrap_or(0);
    report.large_objects = there;
    if there != summary.totals.large_objects {
        report.problems.push(format!(
            "{there} large objects are there, the backup has {}",
            summary.totals.large_objects
        ));
    }
    Ok(())
}

/// How many rows these tables have together; `None` if one can't be counted, which is a problem.
fn rows_of(
    tables: &[&Entry],
    db: &mut Db,
    report: &mut DrillReport,
) -> Result<Option<u64>, RestoreError> {
    let mut sum = 0;
    for entry in tables {
        let sql = [b"SELECT pg_catalog.count(*) FROM ONLY ", &qualified(entry)[..]].concat();
        match db.connection.query(sql) {
            Ok(rows) => sum += rows.first().map_or(0, |row| number::<u64>(row, 0)),
            Err(error) if error.server().is_some() && !error.is_transient() => {
                report.problems.push(format!("{} cannot be counted: {error}", name_of(entry)));
                return Ok(None);
            }
            Err(error) => return Err(failed(DOING, &db.name, error)),
        }
    }
    Ok(Some(sum))
}

/// Tables that belong to extensions: they also have the rows that come with the extension.
fn tables_of_extensions(db: &mut Db) -> Result<HashSet<TableName>, RestoreError> {
    let rows = db.rows(
        DOING,
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_depend d \
         JOIN pg_catalog.pg_class c ON c.oid = d.objid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'",
    )?;
    let cell = |row: &flexkeep_pg_copy::Row, at| row.get_bytes(at).unwrap_or_default().to_vec();
    Ok(rows.iter().map(|row| (cell(row, 0), cell(row, 1))).collect())
}
