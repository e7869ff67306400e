//! The session settings under which data is read: those that pg_dump uses, so that the text of
//! every value is what pg_dump would have written.

use flexkeep_pg_copy::{self as pg, Connection};

use crate::error::BackupError;

/// The oldest version that is read, as the server counts it.
const OLDEST_SERVER: u32 = 130_000;

/// Opens a connection to `database` for reading data.
pub(crate) fn connect(
    target: &pg::Config,
    database: &str,
    options: &pg::ConnectOptions,
) -> Result<Connection, BackupError> {
    let target = target.with_database(database);
    Connection::connect(&target, options).map_err(|source| BackupError::Connect {
        target: target.describe(),
        source: Box::new(source),
    })
}

/// Makes the session's output independent of the server's and the role's settings. Text stays in
/// the database's own encoding, as in pg_dump: a conversion could fail on a character that the
/// other encoding lacks. So names are bytes here, and statements with names in them too.
pub(crate) fn prepare(connection: &mut Connection, database: &str) -> Result<(), BackupError> {
    let version = connection.server_version_num();
    if version < OLDEST_SERVER {
        // Older ones do not know all of these settings.
        let version = connection.parameter("server_version").unwrap_or("of no known version");
        return Err(BackupError::ServerTooOld { version: version.to_owned() });
    }
    let mut sql = String::from(
        "SELECT pg_catalog.set_config('search_path', '', false);\
         SELECT pg_catalog.set_config('client_encoding', pg_catalog.getdatabaseencoding(), false);\
         SET datestyle = iso; SET intervalstyle = postgres; SET extra_float_digits = 3;\
         SET synchronize_seqscans = off; SET row_security = off; SET jit = off;\
         SET statement_timeout = 0; SET lock_timeout = 0;\
         SET idle_in_transaction_session_timeout = 0;\
         SET max_parallel_workers_per_gather = 0; SET standard_conforming_strings = on;\
         SET bytea_output = hex; SET xmlbinary = base64;",
    );
    if version >= 140_000 {
        // A range of pages is read by a TID range scan; nothing else is ever the better plan.
        sql.push_str("SET idle_session_timeout = 0; SET enable_seqscan = off;");
    }
    if version >= 170_000 {
        sql.push_str("SET transaction_timeout = 0;");
    }
    // Minor versions since August 2024 have it; it keeps views and foreign tables from running
    // code of their owners.
    sql.push_str(
        "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) \
         FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'",
    );
    run(connection, database, "preparing the session", &sql)?;
    end_with_client(connection).map_err(|source| failed("preparing the session", database, source))
}

/// Has the server look whether its client is still there while a statement runs: one that waits for a
/// lock would else stay, and keep its own locks, long after whoever waited for it has gone. Not every
/// platform can.
pub(crate) fn end_with_client(connection: &mut Connection) -> Result<(), pg::Error> {
    const KNOWS_CLIENTS: u32 = 140_000;
    if connection.server_version_num() < KNOWS_CLIENTS {
        return Ok(());
    }
    match connection.execute("SET client_connection_check_interval = '2s'") {
        Err(error) if error.server().is_none() => Err(error),
        _ => Ok(()),
    }
}

/// Runs statements whose answers do not matter.
pub(crate) fn run(
    connection: &mut Connection,
    database: &str,
    doing: &str,
    sql: impl AsRef<[u8]>,
) -> Result<(), BackupError> {
    connection.execute(sql).map_err(|source| failed(doing, database, source))
}

/// Runs a query with a modest answer.
pub(crate) fn rows(
    connection: &mut Connection,
    database: &str,
    doing: &str,
    sql: &str,
) -> Result<Vec<pg::Row>, BackupError> {
    connection.query(sql).map_err(|source| failed(doing, database, source))
}

/// A server error with its place.
pub(crate) fn failed(doing: &str, database: &str, source: pg::Error) -> BackupError {
    let doing = doing.to_owned();
    let database = (!database.is_empty()).then(|| database.to_owned());
    let source = Box::new(source);
    if is_recovery_conflict(&source) {
        return BackupError::RecoveryConflict { doing, database, source };
    }
    BackupError::Server { doing, database, source }
}

/// Whether a replica ended a statement or a session, so as to go on with the changes of its primary.
/// A transaction that only reads, and is not serializable, has no other serialization failure; a
/// deadlock it may have with others too.
fn is_recovery_conflict(error: &pg::Error) -> bool {
    match error.sqlstate() {
        Some("40001") => true,
        Some("40P01") => error.to_string().contains("conflict with recovery"),
        _ => false,
    }
}

/// The text of column `index`, or an internal error that names the query.
pub(crate) fn text<'a>(
    row: &'a pg::Row,
    index: usize,
    query: &str,
) -> Result<&'a str, BackupError> {
    row.get(index).ok_or_else(|| {
        BackupError::Internal(format!("column {index} of the {query} query is null or not text"))
    })
}

/// The number in column `index`.
pub(crate) fn number<T: std::str::FromStr>(
    row: &pg::Row,
    index: usize,
    query: &str,
) -> Result<T, BackupError> {
    let value = text(row, index, query)?;
    value.parse().map_err(|_| {
        BackupError::Internal(format!("{value:?} in the {query} query is not a number"))
    })
}

/// The bytes of column `index`.
pub(crate) fn bytes(row: &pg::Row, index: usize, query: &str) -> Result<Vec<u8>, BackupError> {
    row.get_bytes(index).map(<[u8]>::to_vec).ok_or_else(|| {
        BackupError::Internal(format!("column {index} of the {query} query is null"))
    })
}

/// Bytes for people.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
