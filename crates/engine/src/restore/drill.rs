//! A restore drill: one database of a backup is restored under another name, looked at, and dropped.
//!
//! [`drill`] restores and looks; [`drop_scratch`] drops. They are apart because the caller has to
//! write down what is about to be made before it is made, or nobody could tell after a crash what
//! may be dropped.

mod indexes;
mod rows;
mod truths;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{self as pg, quote_ident, quote_literal};
use flexkeep_vault::{BackupId, Vault};
use serde::Serialize;

use super::error::RestoreError;
use super::guard::Guard;
use super::options::{DatabaseChoice, Existing, RestoreOptions, RestoreParts};
use super::report::{ObjectFailure, RestoreReport, RestoreStatus, Skipped};
use super::target::{Db, Target, text};
use super::{or_cancelled, restore};
use crate::progress::Progress;

/// What to try.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// The database of the backup.
    pub database: String,
    /// The name under which it is restored. Nothing may have it yet.
    pub scratch: String,
    /// Whether roles that the database names are made where they are missing. They stay.
    pub roles: bool,
    /// Whether indexes are checked.
    pub amcheck: Amcheck,
    /// What must be true.
    pub assertions: Vec<Assertion>,
    /// Connections that write at once.
    pub lanes: usize,
    /// Longest silence of the server before it counts as gone.
    pub stall_timeout: Duration,
}

/// Whether indexes are checked with the extension `amcheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amcheck {
    /// Where the extension can be made and used.
    Auto,
    /// And it is a problem where it can't.
    Require,
    /// No.
    Off,
}

/// A query of one row with one boolean that must be true.
#[derive(Clone, Debug)]
pub struct Assertion {
    /// Its name, for reports.
    pub name: String,
    /// The query.
    pub sql: String,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrillReport {
    /// The database of the backup.
    pub database: String,
    /// What does not hold; empty for a drill that passed.
    pub problems: Vec<String>,
    /// Tables whose rows were counted.
    pub tables: u64,
    /// Rows that were counted.
    pub rows: u64,
    /// Large objects that were counted.
    pub large_objects: u64,
    /// B-tree indexes that were checked against their tables.
    pub indexes_checked: u64,
    /// Why no index, or not every one, was checked.
    pub indexes_unchecked: Option<String>,
    /// The assertions, in their order.
    pub assertions: Vec<AssertionReport>,
    /// Definitions that the server refused.
    pub refused: Vec<ObjectFailure>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Roles that were made, and stay.
    pub roles_created: Vec<String>,
    /// How long the restore took.
    pub restore_seconds: f64,
    /// How long looking at it took.
    pub check_seconds: f64,
}

impl DrillReport {
    /// Of a database that could not be restored.
    pub fn not_restored(database: &str, why: String) -> Self {
        Self {
            database: database.to_owned(),
            problems: vec![why],
            tables: 0,
            rows: 0,
            large_objects: 0,
            indexes_checked: 0,
            indexes_unchecked: None,
            assertions: Vec::new(),
            refused: Vec::new(),
            skipped: Vec::new(),
            roles_created: Vec::new(),
            restore_seconds: 0.0,
            check_seconds: 0.0,
        }
    }

    /// Whether anything was compared with the backup.
    pub fn compared(&self) -> bool {
        self.rows > 0 || self.large_objects > 0
    }
}

/// How an assertion ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AssertionReport {
    /// Its name.
    pub name: String,
    /// Whether it was true.
    pub holds: bool,
    /// What it was instead.
    pub why: Option<String>,
}

/// Restores a database under its scratch name and looks at it. Whatever happens, the scratch
/// database may be there afterwards: [`drop_scratch`] it.
///
/// # Errors
/// The drill could not be carried out: the target is not reached or not fit, the backup is damaged,
/// or it was cancelled. What was carried out and found wrong is in [`DrillReport::problems`].
pub fn drill(
    vault: &Vault,
    backup: &BackupId,
    into: &pg::Config,
    options: &DrillOptions,
    progress: &Arc<Progress>,
) -> Result<DrillReport, RestoreError> {
    let restored = restore(vault, backup, into, &restore_options(options), progress)?;
    let started = Instant::now();
    let mut report = begin(options, &restored);
    let target = target_of(into, options.stall_timeout);
    let target = without_event_triggers(&target, &open(into, options.stall_timeout)?);
    let guard = Guard::start(&target, progress);
    let looked = look(vault, backup, &target, &guard, options, progress, &mut report);
    looked.map_err(|error| or_cancelled(error, progress))?;
    report.check_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn look(
    vault: &Vault,
    backup: &BackupId,
    target: &Target,
    guard: &Guard,
    options: &DrillOptions,
    progress: &Progress,
    report: &mut DrillReport,
) -> Result<(), RestoreError> {
    let manifest = vault.manifest(backup)?;
    let found = manifest.databases.iter().find(|one| one.name == options.database);
    let summary = found.ok_or_else(|| {
        RestoreError::Internal(format!("the backup has lost its database {:?}", options.database))
    })?;
    let mut db = target.open_patient(&options.scratch)?;
    db.prepare(Some(&summary.encoding), target.stall)?;
    guard.watch(Some(&options.scratch));
    progress.phase(&format!("{}: counting rows", options.database));
    rows::count(vault, summary, &mut db, progress, report)?;
    progress.phase(&format!("{}: assertions", options.database));
    truths::ask(options, &mut db, progress, report)?;
    if options.amcheck != Amcheck::Off {
        progress.phase(&format!("{}: checking indexes", options.database));
        indexes::check(options.amcheck, &mut db, progress, report)?;
    } else {
        report.indexes_unchecked = Some("amcheck is off".to_owned());
    }
    guard.watch(None);
    db.connection.close();
    Ok(())
}

/// Everything belongs to who restores: nothing of the scratch database needs anybody's rights.
fn restore_options(options: &DrillOptions) -> RestoreOptions {
    RestoreOptions {
        databases: vec![DatabaseChoice {
            name: options.database.clone(),
            restored_as: Some(options.scratch.clone()),
        }],
        parts: RestoreParts::Everything,
        existing: Existing::Refuse,
        roles: options.roles,
        owners: false,
        acls: false,
        lanes: options.lanes,
        stall_timeout: options.stall_timeout,
        ..RestoreOptions::default()
    }
}

/// A report with what the restore itself says.
fn begin(options: &DrillOptions, restored: &RestoreReport) -> DrillReport {
    let (mut refused, mut skipped, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for database in &restored.databases {
        refused.extend(database.failures.iter().cloned());
        skipped.extend(database.skipped.iter().cloned());
        for table in database.tables.iter().filter(|table| table.rows != table.expected_rows) {
            let schema = table.schema.as_ref().map(|name| format!("{name}.")).unwrap_or_default();
            problems.push(format!(
                "{schema}{}: {} rows were loaded, the backup has {}",
                table.name, table.rows, table.expected_rows
            ));
        }
    }
    if let Some(first) = refused.first() {
        problems.push(format!(
            "the server refused {} of its definitions; the first: {}: {}",
            refused.len(),
            first.object,
            first.error
        ));
    } else if restored.status != RestoreStatus::Complete && problems.is_empty() {
        problems.push("the restore is not complete".to_owned());
    }
    DrillReport {
        problems,
        refused,
        skipped,
        roles_created: restored.roles.created.clone(),
        restore_seconds: restored.duration_seconds,
        ..DrillReport::not_restored(&options.database, String::new())
    }
}

fn target_of(into: &pg::Config, stall: Duration) -> Target {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    Target { config: into.clone(), stall, stop }
}

/// Since this version event triggers can be turned off for a session, and there are some that fire
/// when it begins.
const TURNS_TRIGGERS_OFF: u32 = 170_000;

/// The target for sessions in a scratch database: nothing that they do is the business of event
/// triggers which were restored with it, and a login trigger must not change what is looked at. Only
/// a superuser may say that, and only a superuser can have restored them.
fn without_event_triggers(target: &Target, db: &Db) -> Target {
    let is_superuser = db.connection.parameter("is_superuser") == Some("on");
    let mut target = target.clone();
    if is_superuser && db.connection.server_version_num() >= TURNS_TRIGGERS_OFF {
        target.config = target.config.with_setting("event_triggers", "off");
    }
    target
}

fn open(into: &pg::Config, stall: Duration) -> Result<Db, RestoreError> {
    let target = target_of(into, stall);
    let mut db = target.open_any(&[])?;
    db.prepare(None, target.stall)?;
    Ok(db)
}

/// Whether the target has a database of this name.
///
/// # Errors
/// The target can't be asked.
pub fn is_there(into: &pg::Config, name: &str, stall: Duration) -> Result<bool, RestoreError> {
    exists(&mut open(into, stall)?, name)
}

fn exists(db: &mut Db, name: &str) -> Result<bool, RestoreError> {
    let name = quote_literal(name);
    db.is_true(
        "looking for a scratch database",
        &format!("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {name})"),
    )
}

/// Drops a scratch database with all that uses it; nothing happens if it is not there.
///
/// # Errors
/// The server refuses it, or can't be reached.
pub fn drop_scratch(into: &pg::Config, name: &str, stall: Duration) -> Result<(), RestoreError> {
    let target = target_of(into, stall);
    let mut db = target.open_any(&[name.to_owned()])?;
    db.prepare(None, target.stall)?;
    if !exists(&mut db, name)? {
        return Ok(());
    }
    // A database with a subscription can't be dropped. A restored one has no slot anywhere.
    if let Ok(mut inside) = without_event_triggers(&target, &db).open(name) {
        // Its own settings may forbid to write.
        inside.prepare(None, target.stall)?;
        let rows = inside.rows(
            "looking for subscriptions",
            "SELECT subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d \
             ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database()",
        )?;
        for row in &rows {
            let one = quote_ident(&text(row, 0));
            inside.run("dropping a subscription", format!("ALTER SUBSCRIPTION {one} DISABLE"))?;
            inside.run(
                "dropping a subscription",
                format!("ALTER SUBSCRIPTION {one} SET (slot_name = NONE)"),
            )?;
            inside.run("dropping a subscription", format!("DROP SUBSCRIPTION {one}"))?;
        }
        inside.connection.close();
    }
    db.run(
        "dropping a scratch database",
        format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name)),
    )
}

/// Keeps two drills of one kind from working on a target at once. It ends with its connection.
pub struct ScratchLock {
    _db: Db,
}

impl ScratchLock {
    /// Takes the lock of this name; `None` if somebody has it.
    ///
    /// # Errors
    /// The target can't be reached.
    pub fn take(
        into: &pg::Config,
        name: &str,
        stall: Duration,
    ) -> Result<Option<Self>, RestoreError> {
        let mut db = open(into, stall)?;
        let sql = format!(
            "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended({}, 0))",
            quote_literal(&format!("flexkeep drill {name}"))
        );
        let taken = db.is_true("locking the target against other drills", &sql)?;
        Ok(taken.then_some(Self { _db: db }))
    }
}

impl std::fmt::Debug for ScratchLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScratchLock").finish_non_exhaustive()
    }
}
