//! One consistent view of a database, and the locks that keep it true.
//!
//! MVCC hides what others commit, with two exceptions: TRUNCATE and rewrites of a table by ALTER
//! TABLE swap the table's file, and a snapshot older than the swap then sees an empty table,
//! without any error. pg_dump has that gap between its snapshot and its locks. Here the tables are
//! locked first and the snapshot is taken after, in one transaction (LOCK TABLE takes no snapshot).
//! What was created or swapped in between is then noticed by comparing, for every table, the file
//! that the snapshot's catalog names with the file that the table has now: under the lock they
//! must be the same.

use std::collections::{HashMap, HashSet};

use flexkeep_pg_copy::{self as pg, Connection};
use jiff::Timestamp;

use crate::error::BackupError;
use crate::session;
use crate::source::{self, Database};

/// Most bytes of one LOCK TABLE statement; pg_dump uses the same bound.
const LOCK_STATEMENT_BYTES: usize = 100_000;

/// How often the tables are listed anew because one was dropped before it was locked.
const LISTINGS: u32 = 20;

/// Relations whose data is the user's, and so not those in schemas that pg_dump never dumps from,
/// temporary ones of other sessions, and members of extensions. The configuration tables of
/// extensions are the user's, wherever they are.
const DUMPED: &str = "\
    c.relpersistence <> 't' \
    AND (n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
                         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                         AND d.objid = c.oid AND d.deptype = 'e') \
         OR EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)))";

/// Those of them that are tables.
const TABLE: &str = "c.relkind IN ('r', 'p')";

/// A table that a snapshot sees.
#[derive(Clone, Debug)]
pub(crate) struct TableFacts {
    /// Qualified and quoted.
    pub(crate) sql_name: Vec<u8>,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Its table access method is `heap`, the one whose pages can be read by range.
    pub(crate) is_heap: bool,
    /// Pages of the main fork when it was asked for; it may have grown since.
    pub(crate) pages: u64,
    /// Main fork and TOAST, bytes.
    pub(crate) disk_bytes: u64,
    /// The filter of an extension's configuration table, `WHERE ...`, or empty.
    pub(crate) condition: Vec<u8>,
}

/// The connection that holds the locks and the snapshot, inside its transaction.
pub(crate) struct Leader {
    pub(crate) connection: Connection,
    pub(crate) database: String,
    pub(crate) snapshot: String,
    pub(crate) time: Timestamp,
    pub(crate) tables: HashMap<u32, TableFacts>,
    room: LockRoom,
}

impl Leader {
    /// Connects, locks every table, takes the snapshot and proves that no table fell between.
    pub(crate) fn open(
        target: &pg::Config,
        database: &Database,
        options: &pg::ConnectOptions,
    ) -> Result<Self, BackupError> {
        let name = database.name.as_str();
        let mut connection = session::connect(target, name, options)?;
        session::prepare(&mut connection, name)?;
        source::refuse_other(&mut connection, database)?;
        Self::on(connection, name)
    }

    /// The same on a connection that was prepared and is not in a transaction.
    pub(crate) fn on(mut connection: Connection, database: &str) -> Result<Self, BackupError> {
        refuse_unreadable(&mut connection, database)?;
        let room = LockRoom::ask(&mut connection, database)?;
        let mut locked = lock_all(&mut connection, database, &room)?;
        let exported = session::rows(
            &mut connection,
            database,
            "exporting the snapshot",
            "SELECT pg_catalog.pg_export_snapshot(), \
             (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint",
        )?;
        let row = exported.first().ok_or_else(|| no_row("pg_export_snapshot"))?;
        let snapshot = session::text(row, 0, "pg_export_snapshot")?.to_owned();
        let millis: i64 = session::number(row, 1, "pg_export_snapshot")?;
        let time = Timestamp::from_millisecond(millis)
            .map_err(|e| BackupError::Internal(format!("the server's clock: {e}")))?;

        // Tables that were created between the listing and the snapshot.
        let late: Vec<(u32, Vec<u8>)> = list_lockable(&mut connection, database)?
            .into_iter()
            .filter(|(oid, _)| locked.insert(*oid))
            .collect();
        lock(&mut connection, database, late.into_iter().map(|(_, name)| name))?;
        let mut leader = Self {
            connection,
            database: database.to_owned(),
            snapshot,
            time,
            tables: HashMap::new(),
            room,
        };
        refuse_swapped(&mut leader.connection, database, None)?;
        leader.read_tables()?;
        Ok(leader)
    }

    /// What to say when the server has no room for the locks of pg_dump.
    pub(crate) fn lock_table_full(&self) -> BackupError {
        self.room.full(&self.database, self.tables.len() as u64)
    }

    fn read_tables(&mut self) -> Result<(), BackupError> {
        const QUERY: &str = "table sizes";
        let sql = format!(
            "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), n.nspname, c.relname, \
             CASE WHEN a.amname = 'heap' THEN 1 ELSE 0 END, \
             pg_catalog.pg_relation_size(c.oid) \
               / pg_catalog.current_setting('block_size')::bigint, \
             pg_catalog.pg_relation_size(c.oid) + CASE WHEN c.reltoastrelid = 0 THEN 0 \
               ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END, \
             coalesce((SELECT e.extcondition[pg_catalog.array_position(e.extconfig, c.oid)] \
                       FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)), '') \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam \
             WHERE {DUMPED} AND c.relkind = 'r'"
        );
        let database = self.database.clone();
        let mut tables = HashMap::new();
        let mut broken = None;
        self.connection
            .for_each_row(&sql, &mut |row| {
                match table_facts(row, QUERY) {
                    Ok((oid, facts)) => {
                        tables.insert(oid, facts);
                    }
                    Err(error) => broken = Some(error),
                }
                Ok(())
            })
            .map_err(|source| session::failed("reading the tables' sizes", &database, source))?;
        self.tables = tables;
        broken.map_or(Ok(()), Err)
    }
}

/// The guard against TRUNCATE, rewrites, and drops between listing, lock and snapshot, for all
/// tables or for those with the oids of `only`. `pg_relation_filenode`, `to_regclass` and
/// `pg_identify_object` look at the newest catalog, the query itself at the snapshot's. To be asked
/// with the locks held. Columns count too: one that was dropped and made again under its name has
/// the new one's values in every row, and nothing was rewritten.
pub(crate) fn refuse_swapped(
    connection: &mut Connection,
    database: &str,
    only: Option<&[u32]>,
) -> Result<(), BackupError> {
    let only = only.map_or_else(String::new, |oids| {
        let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
        format!(" AND c.oid = ANY ('{{{}}}'::pg_catalog.oid[])", oids.join(","))
    });
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE {TABLE} AND {DUMPED}{only} AND (c.relfilenode <> 0 \
         AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid) \
         OR c.oid IS DISTINCT FROM pg_catalog.to_regclass(\
           pg_catalog.format('%I.%I', n.nspname, c.relname)) \
         OR (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             AND (pg_catalog.pg_identify_object(\
               'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum)).identity \
             IS DISTINCT FROM pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname)\
             ) > 0) ORDER BY 1"
    );
    changed(database, &session::rows(connection, database, "checking the locked tables", &sql)?)
}

/// The guard against schemas that are renamed: no lock keeps anybody from that, and a statement finds
/// a table by the newest name of its schema, so it may have read another table's rows. To be asked on
/// the snapshot, after tables with the oids of `tables` were read and before anything relies on it.
pub(crate) fn refuse_moved(
    connection: &mut Connection,
    database: &str,
    tables: &[u32],
) -> Result<(), BackupError> {
    if tables.is_empty() {
        return Ok(());
    }
    let oids: Vec<String> = tables.iter().map(u32::to_string).collect();
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = ANY ('{{{}}}'::pg_catalog.oid[]) \
         AND c.oid IS DISTINCT FROM pg_catalog.to_regclass(\
           pg_catalog.format('%I.%I', n.nspname, c.relname)) ORDER BY 1",
        oids.join(",")
    );
    changed(database, &session::rows(connection, database, "checking the tables' names", &sql)?)
}

/// The same for whatever looked at all schemas with tables or sequences, as pg_dump does.
pub(crate) fn refuse_renamed(
    connection: &mut Connection,
    database: &str,
) -> Result<(), BackupError> {
    const SQL: &str = "\
        SELECT pg_catalog.format('schema %I', n.nspname) FROM pg_catalog.pg_namespace n \
        WHERE n.oid IS DISTINCT FROM \
          pg_catalog.to_regnamespace(pg_catalog.quote_ident(n.nspname)) \
        AND n.nspname !~ '^pg_' AND EXISTS (SELECT FROM pg_catalog.pg_class c \
          WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'S')) ORDER BY 1";
    changed(database, &session::rows(connection, database, "checking the schemas' names", SQL)?)
}

/// An error if a query gave the names of objects that changed.
fn changed(database: &str, rows: &[pg::Row]) -> Result<(), BackupError> {
    if rows.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        rows.iter().filter_map(|row| row.get_bytes(0)).take(5).map(session::lossy).collect();
    Err(BackupError::Changed { database: database.to_owned(), what: names.join(", ") })
}

fn table_facts(row: &pg::Row, query: &str) -> Result<(u32, TableFacts), BackupError> {
    let facts = TableFacts {
        sql_name: session::bytes(row, 1, query)?,
        schema: session::lossy(&session::bytes(row, 2, query)?),
        name: session::lossy(&session::bytes(row, 3, query)?),
        is_heap: session::number::<u8>(row, 4, query)? == 1,
        // A table that is dropped meanwhile can't be: it is locked. Null would be a bug.
        pages: session::number(row, 5, query)?,
        disk_bytes: session::number(row, 6, query)?,
        condition: session::bytes(row, 7, query)?,
    };
    Ok((session::number(row, 0, query)?, facts))
}

/// Ordinary and partitioned tables with oid and quoted name, as the current snapshot (inside the
/// transaction) or the newest state (outside) has them.
pub(crate) fn list_lockable(
    connection: &mut Connection,
    database: &str,
) -> Result<Vec<(u32, Vec<u8>)>, BackupError> {
    let sql = format!(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE {TABLE} AND {DUMPED} ORDER BY c.oid"
    );
    session::rows(connection, database, "listing the tables", &sql)?
        .iter()
        .map(|row| Ok((session::number(row, 0, "tables")?, session::bytes(row, 1, "tables")?)))
        .collect()
}

/// All tables and sequences that can't be read, in one error, instead of the first one that LOCK or
/// pg_dump stumbles over. The servers of 18 give pg_dump no error for a sequence, but nulls.
pub(crate) fn refuse_unreadable(
    connection: &mut Connection,
    database: &str,
) -> Result<(), BackupError> {
    let sql = format!(
        "SELECT pg_catalog.format(CASE c.relkind WHEN 'S' THEN 'sequence %I.%I' ELSE '%I.%I' END, \
           n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE ({TABLE} OR c.relkind = 'S') AND {DUMPED} \
         AND (NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         OR NOT CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
           ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END \
         OR (c.relrowsecurity AND pg_catalog.row_security_active(c.oid))) \
         ORDER BY c.relkind = 'S', 1"
    );
    let rows = session::rows(connection, database, "checking the rights on tables", &sql)?;
    let tables: Vec<String> =
        rows.iter().filter_map(|row| row.get_bytes(0)).map(session::lossy).collect();
    if tables.is_empty() {
        Ok(())
    } else {
        Err(BackupError::Unreadable { database: database.to_owned(), tables })
    }
}

/// Begins the transaction and locks every table in it; gives the oids of what is locked.
fn lock_all(
    connection: &mut Connection,
    database: &str,
    room: &LockRoom,
) -> Result<HashSet<u32>, BackupError> {
    let mut tries = 1;
    loop {
        let candidates = list_lockable(connection, database)?;
        session::run(
            connection,
            database,
            "starting the snapshot's transaction",
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )?;
        let locked: HashSet<u32> = candidates.iter().map(|(oid, _)| *oid).collect();
        match lock(connection, database, candidates.into_iter().map(|(_, name)| name)) {
            Ok(()) => return Ok(locked),
            // A table or its schema was dropped since the listing.
            Err(BackupError::Server { source, .. })
                if tries < LISTINGS && matches!(source.sqlstate(), Some("42P01" | "3F000")) =>
            {
                tries += 1;
                session::run(connection, database, "giving the locks back", "ROLLBACK")?;
            }
            Err(error) => return Err(room.explain(error, database, locked.len())),
        }
    }
}

/// How many locks the server has room for, shared by all its connections.
struct LockRoom {
    each: u64,
    owners: u64,
}

impl LockRoom {
    fn ask(connection: &mut Connection, database: &str) -> Result<Self, BackupError> {
        const QUERY: &str = "lock settings";
        const SQL: &str = "SELECT pg_catalog.current_setting('max_locks_per_transaction'), \
             pg_catalog.current_setting('max_connections')::bigint \
             + pg_catalog.current_setting('max_prepared_transactions')::bigint";
        let rows = session::rows(connection, database, "asking for the lock settings", SQL)?;
        let row = rows.first().ok_or_else(|| no_row(QUERY))?;
        Ok(Self { each: session::number(row, 0, QUERY)?, owners: session::number(row, 1, QUERY)? })
    }

    /// Says which setting is too small, if it is that which failed. pg_dump locks all tables
    /// too, and reading locks indexes and TOAST tables.
    fn explain(&self, error: BackupError, database: &str, tables: usize) -> BackupError {
        let tables = tables as u64;
        let is_full = matches!(&error, BackupError::Server { source, .. }
            if source.sqlstate() == Some("53200"));
        if !is_full || tables < self.each.saturating_mul(self.owners) / 2 {
            return error;
        }
        self.full(database, tables)
    }

    fn full(&self, database: &str, tables: u64) -> BackupError {
        let wanted = (tables * 3).div_ceil(self.owners.max(1)).max(self.each + 1);
        let (database, wanted) = (database.to_owned(), wanted.next_multiple_of(64));
        BackupError::LockTableFull { database, tables, set: self.each, wanted }
    }
}

fn lock(
    connection: &mut Connection,
    database: &str,
    names: impl Iterator<Item = Vec<u8>>,
) -> Result<(), BackupError> {
    let mut sql: Vec<u8> = Vec::new();
    let mut flush = |sql: &mut Vec<u8>| {
        if sql.is_empty() {
            return Ok(());
        }
        sql.extend_from_slice(b" IN ACCESS SHARE MODE");
        let result = session::run(connection, database, "locking the tables", &sql);
        sql.clear();
        result
    };
    for name in names {
        sql.extend_from_slice(if sql.is_empty() { b"LOCK TABLE ONLY " } else { b", ONLY " });
        sql.extend_from_slice(&name);
        if sql.len() > LOCK_STATEMENT_BYTES {
            flush(&mut sql)?;
        }
    }
    flush(&mut sql)
}

fn no_row(query: &str) -> BackupError {
    BackupError::Internal(format!("the {query} query gave no row"))
}
