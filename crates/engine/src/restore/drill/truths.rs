//! The user's own queries, in a transaction that can't write.

use super::super::error::RestoreError;
use super::super::target::{Db, failed, text};
use super::{Assertion, AssertionReport, DrillOptions, DrillReport};
use crate::progress::Progress;

const DOING: &str = "asking the assertions";

/// Asks all assertions.
pub(super) fn ask(
    options: &DrillOptions,
    db: &mut Db,
    progress: &Progress,
    report: &mut DrillReport,
) -> Result<(), RestoreError> {
    for assertion in &options.assertions {
        progress.check_cancelled(RestoreError::Cancelled { report: None })?;
        // The search path is that of the database, as for everybody who connects to it.
        db.run(
            DOING,
            format!(
                "BEGIN TRANSACTION READ ONLY; SET LOCAL search_path TO DEFAULT; \
                 SET LOCAL statement_timeout = {}",
                assertion.timeout.as_millis().clamp(1, i32::MAX as u128)
            ),
        )?;
        let why = one(assertion, db)?;
        db.run(DOING, "ROLLBACK")?;
        if let Some(why) = &why {
            report.problems.push(format!("assertion {:?} {why}", assertion.name));
        }
        let (name, holds) = (assertion.name.clone(), why.is_none());
        report.assertions.push(AssertionReport { name, holds, why });
    }
    Ok(())
}

/// What an assertion is instead of true. As a subquery, so that it is one query and nothing else.
fn one(assertion: &Assertion, db: &mut Db) -> Result<Option<String>, RestoreError> {
    let query = assertion.sql.trim().trim_end_matches(';').trim_end();
    let sql = format!(
        "SELECT pg_catalog.pg_typeof(assertion.holds), assertion.* FROM ({query}\n) \
         AS assertion (holds) LIMIT 2"
    );
    let rows = match db.connection.query(sql) {
        Ok(rows) => rows,
        Err(error) if error.server().is_some() && db.connection.is_usable() => {
            return Ok(Some(format!("cannot be asked: {}", crate::error::chain(&error))));
        }
        Err(error) => return Err(failed(DOING, &db.name, error)),
    };
    let [row] = rows.as_slice() else {
        let found = if rows.is_empty() { "no row" } else { "several rows" };
        return Ok(Some(format!("gave {found}; it must give one row with one boolean")));
    };
    if row.len() != 2 || text(row, 0) != "boolean" {
        return Ok(Some(format!(
            "gave {} columns, the first of type {}; it must give one boolean",
            row.len() - 1,
            text(row, 0)
        )));
    }
    Ok(match row.get(1) {
        Some("t") => None,
        Some(_) => Some("is false".to_owned()),
        None => Some("is null".to_owned()),
    })
}
