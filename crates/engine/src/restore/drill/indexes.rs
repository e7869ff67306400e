//! Checks B-tree indexes against their tables, with PostgreSQL's own extension `amcheck`.

use flexkeep_pg_copy::quote_ident;

use super::super::error::RestoreError;
use super::super::target::{Db, failed, number, text};
use super::{Amcheck, DrillReport};
use crate::error::chain;
use crate::progress::Progress;

const DOING: &str = "checking indexes";

/// Where the extension is made if the database does not have it.
const SCHEMA: &str = "flexkeep_drill";

/// Checks each index: its order, and that it has every row of its table.
pub(super) fn check(
    amcheck: Amcheck,
    db: &mut Db,
    progress: &Progress,
    report: &mut DrillReport,
) -> Result<(), RestoreError> {
    let schema = match extension(db)? {
        Ok(schema) => quote_ident(&schema),
        Err(why) => {
            if amcheck == Amcheck::Require {
                report.problems.push(format!("amcheck is required, and cannot be used: {why}"));
            }
            report.indexes_unchecked = Some(why);
            return Ok(());
        }
    };
    let indexes = db.rows(
        DOING,
        "SELECT i.indexrelid, i.indexrelid::pg_catalog.regclass::text \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_am a ON a.oid = c.relam \
         WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready \
         AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         AND n.nspname !~ '^pg_toast' ORDER BY 2",
    )?;
    for row in &indexes {
        progress.check_cancelled(RestoreError::Cancelled { report: None })?;
        let (oid, name) = (number::<u32>(row, 0), text(row, 1));
        let sql = format!("SELECT {schema}.bt_index_check({oid}::pg_catalog.regclass, true)");
        match db.connection.query(sql) {
            Ok(_) => report.indexes_checked += 1,
            Err(error) if error.sqlstate() == Some("42501") => {
                let why = format!("this role may not use amcheck: {}", chain(&error));
                if amcheck == Amcheck::Require {
                    report.problems.push(format!("amcheck is required, but {why}"));
                }
                report.indexes_unchecked = Some(why);
                return Ok(());
            }
            Err(error) if error.server().is_some() && !error.is_transient() => {
                report.problems.push(format!("index {name} is damaged: {}", chain(&error)));
            }
            Err(error) => return Err(failed(DOING, &db.name, error)),
        }
    }
    if indexes.is_empty() {
        report.indexes_unchecked = Some("there is no B-tree index".to_owned());
    }
    Ok(())
}

/// The schema that has the extension's functions, or why there is none.
fn extension(db: &mut Db) -> Result<Result<String, String>, RestoreError> {
    const WHERE: &str = "SELECT n.nspname FROM pg_catalog.pg_extension e \
                         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
                         WHERE e.extname = 'amcheck'";
    let there = db.value(DOING, WHERE)?;
    if !there.is_empty() {
        return Ok(Ok(there));
    }
    let available = "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions \
                     WHERE name = 'amcheck')";
    if !db.is_true(DOING, available)? {
        return Ok(Err("the server does not have the extension amcheck".to_owned()));
    }
    let make = format!("CREATE SCHEMA {SCHEMA}; CREATE EXTENSION amcheck WITH SCHEMA {SCHEMA}");
    match db.connection.execute(make) {
        Ok(()) => Ok(Ok(SCHEMA.to_owned())),
        Err(error) if error.server().is_some() && db.connection.is_usable() => {
            Ok(Err(format!("the extension amcheck cannot be made: {}", chain(&error))))
        }
        Err(error) => Err(failed(DOING, &db.name, error)),
    }
}
