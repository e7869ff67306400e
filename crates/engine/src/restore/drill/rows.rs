//! Counts what is there, and compares it with the backup's lists.

use std::collections::HashSet;

use flexkeep_vault::Vault;
use flexkeep_vault::manifest::DatabaseSummary;

use super::super::error::RestoreError;
use super::super::parts::{Parts, desc, name_of};
use super::super::statement::qualified;
use super::super::target::{Db, number};
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
    for entry in parts.entries().iter().filter(|entry| desc(entry) == b"TABLE DATA") {
        progress.check_cancelled(RestoreError::Cancelled { report: None })?;
        let Some(data) = parts.data_of(entry) else { continue };
        let name = (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default());
        if of_extensions.contains(&(name.0.to_vec(), name.1.to_vec())) {
            continue;
        }
        let sql = [b"SELECT pg_catalog.count(*) FROM ONLY ", &qualified(entry)[..]].concat();
        let rows = match db.connection.query(sql) {
            Ok(rows) => rows.first().map_or(0, |row| number::<u64>(row, 0)),
            Err(error) if error.server().is_some() && !error.is_transient() => {
                report.problems.push(format!("{} cannot be counted: {error}", name_of(entry)));
                continue;
            }
            Err(error) => return Err(super::super::target::failed(DOING, &db.name, error)),
        };
        report.tables += 1;
        report.rows += rows;
        if rows != data.rows {
            let table = name_of(entry);
            report
                .problems
                .push(format!("{table}: {rows} are there, the backup has {}", data.rows));
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
