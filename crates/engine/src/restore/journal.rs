//! What is done already, in the target database itself.
//!
//! Every statement of a restore, and every COPY, is committed together with the line of the
//! journal that says so. So whatever is killed and whenever, what the journal names is there
//! once, and what it does not name is not there. The journal is a schema of its own; it goes when
//! the restore of the database is complete.
//!
//! Commits are not flushed one by one, so a crash of the target undoes the last of them, with their
//! lines. Who keeps in memory what is done compares it with the journal in every new session.

use std::collections::{HashMap, HashSet};

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy::quote_literal;

use super::error::RestoreError;
use super::parts::desc;
use super::target::{Db, literal, number, text};

/// The schema.
pub(crate) const SCHEMA: &str = "flexkeep_restore";

/// The first words of its comment: an older version's are the same.
const ABOUT: &str = "A restore by flexkeep that is not complete.";

/// How many bytes of COPY text one transaction loads, about. Part of the journal's meaning: a
/// restore that goes on must cut the same way.
pub(super) const PART_BYTES: u64 = 64 << 20;

/// Parts in lines that are about no rows: an object was made without its owner; and it got it later.
pub(super) const WITHOUT_OWNER: i32 = -1;
pub(super) const OWNER: i32 = -2;

/// Identifies a restore of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) backup: String,
    pub(super) database: String,
    /// Options that must be the same.
    pub(super) options: String,
}

/// What a journal says.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    /// Entry and part, with the rows that came.
    lines: HashMap<(i32, i32), u64>,
}

impl Done {
    pub(super) fn has(&self, entry: i32, part: i32) -> bool {
        self.lines.contains_key(&(entry, part))
    }

    /// The rows of one line, if it is there.
    pub(super) fn line(&self, entry: i32, part: i32) -> Option<u64> {
        self.lines.get(&(entry, part)).copied()
    }

    /// Whether `other` has every line of this one.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.lines.keys().all(|line| other.lines.contains_key(line))
    }

    /// Rows of all parts of an entry.
    pub(super) fn rows(&self, entry: i32) -> u64 {
        self.lines.iter().filter(|((one, _), _)| *one == entry).map(|(_, rows)| rows).sum()
    }

    /// Forgets entries.
    pub(super) fn forget(&mut self, entries: &[i32]) {
        self.lines.retain(|(one, _), _| !entries.contains(one));
    }

    pub(super) fn add(&mut self, entry: i32, part: i32, rows: u64) {
        self.lines.insert((entry, part), rows);
    }
}

/// The statements that make a journal; to be committed with what belongs to its beginning.
pub(super) fn create_sql(identity: &Identity, fresh: bool) -> String {
    let Identity { backup, database, options } = identity;
    format!(
        "CREATE SCHEMA {SCHEMA};\
         CREATE TABLE {SCHEMA}.restore (backup text PRIMARY KEY, database text NOT NULL, \
         options text NOT NULL, part_bytes bigint NOT NULL, fresh boolean NOT NULL, \
         begun timestamptz NOT NULL);\
         CREATE TABLE {SCHEMA}.done (entry integer, part integer, rows bigint NOT NULL, \
         PRIMARY KEY (entry, part));\
         CREATE TABLE {SCHEMA}.granted (undo text PRIMARY KEY);\
         COMMENT ON SCHEMA {SCHEMA} IS '{ABOUT} Continue it, \
         or drop this schema to give it up.';\
         INSERT INTO {SCHEMA}.restore VALUES ({}, {}, {}, {PART_BYTES}, {fresh}, pg_catalog.now());",
        quote_literal(backup),
        quote_literal(database),
        quote_literal(options)
    )
}

/// The statements of those lines, of earlier runs too.
pub(super) fn joined(db: &mut Db) -> Result<HashSet<Vec<u8>>, RestoreError> {
    db.set("reading the journal of a restore", &format!("SELECT undo FROM {SCHEMA}.granted"))
}

/// Notes how memberships which are for the restore only are ended.
pub(super) fn note_joining(db: &mut Db, undo: &[Vec<u8>]) -> Result<(), RestoreError> {
    if undo.is_empty() {
        return Ok(());
    }
    // On the disk before they begin.
    let mut sql = b"BEGIN; SET LOCAL synchronous_commit = on;".to_vec();
    for statement in undo {
        sql.extend_from_slice(format!("INSERT INTO {SCHEMA}.granted VALUES (").as_bytes());
        sql.extend_from_slice(&literal(statement));
        sql.extend_from_slice(b") ON CONFLICT DO NOTHING;");
    }
    sql.extend_from_slice(b"COMMIT");
    db.run("writing the journal of a restore", sql)
}

/// The statement that drops it.
pub(super) fn drop_sql() -> String {
    format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;")
}

/// The line for what is done in the same transaction.
pub(super) fn line_sql(entry: i32, part: i32, rows: u64) -> String {
    format!("INSERT INTO {SCHEMA}.done VALUES ({entry}, {part}, {rows});")
}

/// Whether the database has a journal.
pub(super) fn exists(db: &mut Db) -> Result<bool, RestoreError> {
    db.is_true(
        "looking for the journal of a restore",
        &format!("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{SCHEMA}')"),
    )
}

/// Which of these entries, of a backup, are the journal of a restore that was not complete in the
/// backup's source. It says nothing about the target, whose own journal has its name.
pub(super) fn is_in_backup(entries: &[Entry]) -> impl Fn(&Entry) -> bool + use<> {
    let about = format!("SCHEMA {SCHEMA}").into_bytes();
    let is_about = |entry: &Entry, about: &[u8]| entry.tag() == Some(about);
    let has_words = |entry: &Entry| {
        let words = entry.defn().unwrap_or_default();
        words.windows(ABOUT.len()).any(|some| some == ABOUT.as_bytes())
    };
    // Another schema of this name is somebody's.
    let is_ours = entries
        .iter()
        .any(|entry| desc(entry) == b"COMMENT" && is_about(entry, &about) && has_words(entry));
    move |entry| {
        let schema = SCHEMA.as_bytes();
        is_ours
            && (entry.namespace() == Some(schema)
                || is_about(entry, &about)
                || (desc(entry) == b"SCHEMA" && entry.tag() == Some(schema)))
    }
}

/// The head of a journal.
pub(super) struct Head {
    pub(super) identity: Identity,
    pub(super) part_bytes: u64,
    /// Whether the database was new.
    pub(super) fresh: bool,
}

/// Whose journal it is.
pub(super) fn head(db: &mut Db) -> Result<Option<Head>, RestoreError> {
    let rows = db.rows(
        "reading the journal of a restore",
        format!("SELECT backup, database, options, part_bytes, fresh FROM {SCHEMA}.restore"),
    )?;
    Ok(rows.first().map(|row| {
        let (backup, database, options) = (text(row, 0), text(row, 1), text(row, 2));
        let identity = Identity { backup, database, options };
        Head { identity, part_bytes: number(row, 3), fresh: row.get(4) == Some("t") }
    }))
}

/// What is done.
pub(super) fn read(db: &mut Db) -> Result<Done, RestoreError> {
    let rows = db.rows(
        "reading the journal of a restore",
        format!("SELECT entry, part, rows FROM {SCHEMA}.done"),
    )?;
    let lines = rows.iter().map(|row| ((number(row, 0), number(row, 1)), number(row, 2)));
    Ok(Done { lines: lines.collect() })
}

/// The statement that takes entries out, because what they say is no longer so.
pub(super) fn forget_sql(entries: &[i32]) -> String {
    let list: Vec<String> = entries.iter().map(i32::to_string).collect();
    format!("DELETE FROM {SCHEMA}.done WHERE entry IN ({});", list.join(","))
}
