//! Connections to the target, and what it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use flexkeep_pg_copy::{self as pg, ConnectOptions, Connection, Row};

use super::error::RestoreError;
use crate::session;

/// A statement may work for this long without a word: an index of a huge table. Whether the server
/// lives meanwhile is watched by another connection.
const LONGEST_STATEMENT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name by which sessions that restore are known on the server: whoever has the lock of a
/// database ends those that a killed restore left in it.
pub(super) const APPLICATION: &str = "flexkeep restore";

/// The name of all others, of those too that wait for the lock: nobody ends them.
const LOOKING: &str = "flexkeep restore, looking";

/// Where a restore goes, and how its connections behave.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: pg::Config,
    pub(super) stall: Duration,
    pub(super) stop: Arc<AtomicBool>,
}

/// A connection to one database of the target.
pub(super) struct Db {
    pub(super) connection: Connection,
    pub(super) name: String,
}

impl Target {
    /// Opens a session for questions and short statements.
    pub(super) fn open(&self, database: &str) -> Result<Db, RestoreError> {
        self.connect(database, self.stall)
    }

    /// Opens a session in which one statement may take days.
    pub(super) fn open_patient(&self, database: &str) -> Result<Db, RestoreError> {
        self.connect(database, LONGEST_STATEMENT)
    }

    fn connect(&self, database: &str, stall: Duration) -> Result<Db, RestoreError> {
        let config = self.config.with_database(database);
        let options = ConnectOptions {
            application_name: LOOKING.to_owned(),
            stall_timeout: stall,
            raw_text: true,
            stop: Some(Arc::clone(&self.stop)),
            ..ConnectOptions::default()
        };
        let connection = Connection::connect(&config, &options).map_err(|source| {
            RestoreError::Connect { target: config.describe(), source: Box::new(source) }
        })?;
        Ok(Db { connection, name: database.to_owned() })
    }

    /// A session in a database that is there in any case: that of the connection string, or one
    /// that every server has.
    pub(super) fn open_any(&self, but: &[String]) -> Result<Db, RestoreError> {
        let mut names = vec![self.config.database().to_owned()];
        names.extend(["postgres", "template1"].map(str::to_owned));
        names.retain(|name| !but.contains(name));
        let mut first = None;
        for name in names {
            match self.open(&name) {
                Err(error) if is_no_database(&error) => first = first.or(Some(error)),
                other => return other,
            }
        }
        Err(first.unwrap_or_else(|| {
            RestoreError::Internal("no database is left to connect to".to_owned())
        }))
    }
}

/// Whether the server says that there is no such database, or that one may not connect to it.
fn is_no_database(error: &RestoreError) -> bool {
    let RestoreError::Connect { source, .. } = error else { return false };
    matches!(source.sqlstate(), Some("3D000" | "42501"))
}

impl Db {
    /// Runs statements whose answers do not matter.
    pub(super) fn run(&mut self, doing: &str, sql: impl AsRef<[u8]>) -> Result<(), RestoreError> {
        self.connection.execute(sql).map_err(|source| failed(doing, &self.name, source))
    }

    /// Runs a query with a modest answer.
    pub(super) fn rows(
        &mut self,
        doing: &str,
        sql: impl AsRef<[u8]>,
    ) -> Result<Vec<Row>, RestoreError> {
        self.connection.query(sql).map_err(|source| failed(doing, &self.name, source))
    }

    /// The first cell of the first row, empty where it is null.
    pub(super) fn value(&mut self, doing: &str, sql: &str) -> Result<String, RestoreError> {
        let rows = self.rows(doing, sql)?;
        Ok(rows.first().map(|row| text(row, 0)).unwrap_or_default())
    }

    /// Whether the first cell is true.
    pub(super) fn is_true(&mut self, doing: &str, sql: &str) -> Result<bool, RestoreError> {
        Ok(self.value(doing, sql)? == "t")
    }

    /// The first columns of all rows, as bytes.
    pub(super) fn set(&mut self, doing: &str, sql: &str) -> Result<HashSet<Vec<u8>>, RestoreError> {
        let rows = self.rows(doing, sql)?;
        Ok(rows.iter().filter_map(|row| row.get_bytes(0)).map(<[u8]>::to_vec).collect())
    }

    /// Gives the session the name of those that restore.
    pub(super) fn name_at_work(&mut self) -> Result<(), RestoreError> {
        self.run("naming the session", format!("SET application_name = '{APPLICATION}'"))
    }

    /// Does something as the user who logged in: only that one sees, and may end, all of its own
    /// sessions, and not the role to which the connection string or the user's settings switch.
    /// After an error the session is of no more use.
    pub(super) fn as_session_user<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        self.run("leaving a role", "SET ROLE NONE")?;
        let result = work(self)?;
        self.run("taking a role again", "RESET ROLE")?;
        Ok(result)
    }

    /// Makes the session independent of the settings of server, database and role.
    /// Text is in `encoding`, that of the backup's database; `None` leaves it as the database has it.
    pub(super) fn prepare(
        &mut self,
        encoding: Option<&str>,
        lock_wait: Duration,
    ) -> Result<(), RestoreError> {
        let sql = session_sql(self.connection.server_version_num(), encoding, lock_wait);
        const DOING: &str = "preparing the session";
        self.run(DOING, sql)?;
        session::end_with_client(&mut self.connection)
            .map_err(|source| failed(DOING, &self.name, source))
    }
}

/// What pg_restore sets, and what speeds a load up.
pub(super) fn session_sql(version: u32, encoding: Option<&str>, lock_wait: Duration) -> String {
    let encoding = match encoding {
        Some(name) => pg::quote_literal(name),
        None => "pg_catalog.getdatabaseencoding()".to_owned(),
    };
    let mut sql = format!(
        "SELECT pg_catalog.set_config('search_path', '', false);\
         SELECT pg_catalog.set_config('client_encoding', {encoding}, false);\
         SET standard_conforming_strings = on; SET check_function_bodies = false;\
         SET xmloption = content; SET client_min_messages = warning; SET row_security = off;\
         SET datestyle = iso; SET intervalstyle = postgres; SET statement_timeout = 0;\
         SET lock_timeout = {}; SET idle_in_transaction_session_timeout = 0;\
         SET synchronous_commit = off; SET default_transaction_read_only = off;\
         SET default_transaction_isolation = 'read committed';\
         SET array_nulls = on; SET transform_null_equals = off;\
         SET application_name = '{LOOKING}';",
        lock_wait.as_millis().min(i32::MAX as u128)
    );
    if version >= 140_000 {
        sql.push_str("SET idle_session_timeout = 0;");
    }
    if version >= 170_000 {
        sql.push_str("SET transaction_timeout = 0;");
    }
    sql
}

/// A server error with its place.
pub(super) fn failed(doing: &str, database: &str, source: pg::Error) -> RestoreError {
    RestoreError::Server {
        doing: doing.to_owned(),
        database: (!database.is_empty()).then(|| database.to_owned()),
        source: Box::new(source),
    }
}

/// A cell as text; empty where it is null.
pub(super) fn text(row: &Row, index: usize) -> String {
    row.get_bytes(index).map(lossy).unwrap_or_default()
}

/// A cell as a number; zero where it is none.
pub(super) fn number<T: std::str::FromStr + Default>(row: &Row, index: usize) -> T {
    row.get(index).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Bytes for people.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name as an SQL identifier, in the encoding that it comes in.
pub(super) fn ident(name: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(name.len() + 2);
    quoted.push(b'"');
    for &byte in name {
        if byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

/// A text as an SQL literal, in the encoding that it comes in.
pub(super) fn literal(text: &[u8]) -> Vec<u8> {
    let mut quoted = b" E'".to_vec();
    for &byte in text {
        if byte == b'\'' || byte == b'\\' {
            quoted.push(byte);
        }
        quoted.push(byte);
    }
    quoted.push(b'\'');
    quoted
}

/// What the target is.
#[derive(Clone, Debug)]
pub(super) struct TargetFacts {
    pub(super) version: String,
    pub(super) version_num: u32,
    pub(super) superuser: bool,
    pub(super) create_database: bool,
    pub(super) create_role: bool,
    pub(super) flexible_server: bool,
    pub(super) standby: bool,
    pub(super) user: Vec<u8>,
    /// Roles that are there.
    pub(super) roles: HashSet<Vec<u8>>,
    pub(super) databases: HashSet<Vec<u8>>,
    pub(super) tablespaces: HashSet<Vec<u8>>,
}

impl TargetFacts {
    pub(super) fn ask(db: &mut Db) -> Result<Self, RestoreError> {
        const DOING: &str = "asking the server what it is";
        let rows = db.rows(
            DOING,
            "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(), \
             r.rolsuper, r.rolcreatedb OR r.rolsuper, r.rolcreaterole OR r.rolsuper, \
             (EXISTS (SELECT FROM pg_catalog.pg_roles a WHERE a.rolname = 'azure_pg_admin')), \
             r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
        )?;
        let row = rows
            .first()
            .ok_or_else(|| RestoreError::Internal("the server knows no current role".to_owned()))?;
        let flag = |index| row.get(index) == Some("t");
        Ok(Self {
            version: text(row, 0),
            version_num: db.connection.server_version_num(),
            standby: flag(1),
            superuser: flag(2),
            create_database: flag(3),
            create_role: flag(4),
            flexible_server: flag(5) && !flag(2),
            user: row.get_bytes(6).unwrap_or_default().to_vec(),
            roles: db.set(DOING, "SELECT rolname FROM pg_catalog.pg_roles")?,
            databases: db.set(DOING, "SELECT datname FROM pg_catalog.pg_database")?,
            tablespaces: db.set(DOING, "SELECT spcname FROM pg_catalog.pg_tablespace")?,
        })
    }

    pub(super) fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}
