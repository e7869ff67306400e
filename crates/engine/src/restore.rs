//! Restores a backup into a server that can be reached, in whole or in part.
//!
//! # The road
//! First everything is looked at and nothing is changed: the options, the backup's tables of
//! contents, the target's version, roles, extensions, rights, and what is in the way
//! ([`plan_restore`] ends here). Then, database by database: definitions that rows need, in the
//! order of the table of contents; rows by several connections, several of them also for one table;
//! indexes, constraints and triggers of a table as soon as its rows are there, beside the
//! rows of others; rights; materialised views. When that is done for all databases each is finished:
//! its own properties, event triggers, the end of the journal.
//!
//! The statements are those of pg_dump's table of contents, with owners, tablespaces and access
//! methods as pg_restore adds them. They are not run by pg_restore itself, because each of them
//! must be committed together with the line of the [`journal`] that says so: only then can a
//! restore that was killed go on without doing anything twice.
//!
//! # Consistency
//! Every chunk is checked against its hash before a byte of it is sent. Nothing that waits for
//! rows is made before all of them are there, whatever fails.
//!
//! # Concurrency
//! One restore works on a database at a time: an advisory lock sees to that. Sessions that a
//! killed restore left behind are ended before the next begins.
//!
//! # Crash consistency
//! See [`journal`]. Commits are not flushed one by one; the last one of a database is, and with it
//! all that came before.

mod choose;
mod dangling;
mod drill;
mod error;
mod existing;
mod finish;
mod graph;
mod guard;
mod journal;
mod lane;
mod lanes;
mod leftovers;
mod load;
mod options;
mod parts;
mod preflight;
mod present;
mod prove;
mod report;
mod roles;
mod run;
pub(crate) mod select;
mod sql;
mod statement;
mod target;
mod unlogged;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use flexkeep_pg_copy as pg;
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{BackupId, Vault};

use crate::check::{CheckReport, Severity};
use crate::progress::Progress;
use choose::Item;
pub use drill::{
    Amcheck, Assertion, AssertionReport, DrillOptions, DrillReport, ScratchLock, drill,
    drop_scratch, is_there,
};
pub use error::RestoreError;
use guard::Guard;
pub(crate) use journal::SCHEMA as RESTORE_JOURNAL;
pub use options::{DatabaseChoice, Existing, RestoreOptions, RestoreParts};
use parts::Role;
pub use report::{
    DatabaseAction, DatabasePlan, DatabaseReport, ObjectFailure, PhaseReport, RestorePlan,
    RestoreReport, RestoreStatus, RolesReport, Skipped, TableReport,
};
use roles::{RolesPlan, Wanted};
use target::{Target, TargetFacts, lossy};

/// Says what a restore would do, and whether it could. Nothing is changed.
///
/// # Errors
/// What keeps it from looking: names that are unknown, a target that is not reached, damage in the
/// backup's own lists. What keeps the restore from beginning is in the plan's findings.
pub fn plan_restore(
    vault: &Vault,
    backup: &BackupId,
    into: &pg::Config,
    options: &RestoreOptions,
    progress: &Arc<Progress>,
) -> Result<RestorePlan, RestoreError> {
    let manifest = vault.manifest(backup)?;
    let target = target(into, options);
    let _guard = Guard::start(&target, progress);
    progress.phase("looking at the target");
    let prepared = prepare(vault, &manifest, &target, options)?;
    Ok(prepared.plan)
}

/// Restores a backup, or a part of it. Rows that the target's connections hold in memory stay
/// within about 96 MiB for each of [`RestoreOptions::lanes`].
///
/// # Errors
/// [`RestoreError::Incomplete`] and [`RestoreError::Cancelled`] have a report of what is there; the
/// same restore can then be continued ([`RestoreOptions::resume`]). After any other error nothing
/// was changed.
pub fn restore(
    vault: &Vault,
    backup: &BackupId,
    into: &pg::Config,
    options: &RestoreOptions,
    progress: &Arc<Progress>,
) -> Result<RestoreReport, RestoreError> {
    restore_then(vault, backup, into, options, progress, &|_| Ok(()))
}

/// As [`restore`], and calls `before_end` when everything is loaded and before the first database is
/// finished. A database without a journal was not begun before that call, and may be complete after
/// it: whoever writes the call down can tell the two from each other after a crash. If it fails,
/// the restore is incomplete and can be continued.
///
/// # Errors
/// Those of [`restore`].
pub fn restore_then(
    vault: &Vault,
    backup: &BackupId,
    into: &pg::Config,
    options: &RestoreOptions,
    progress: &Arc<Progress>,
    before_end: &dyn Fn(&RestoreReport) -> Result<(), RestoreError>,
) -> Result<RestoreReport, RestoreError> {
    let started = Instant::now();
    let manifest = vault.manifest(backup)?;
    let target = target(into, options);
    let guard = Guard::start(&target, progress);
    progress.phase("looking at the target");
    let prepared = prepare(vault, &manifest, &target, options)
        .map_err(|error| or_cancelled(error, progress))?;
    if prepared.plan.findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(RestoreError::Unfit(Box::new(prepared.plan)));
    }
    for database in &prepared.plan.databases {
        progress.planned(database.tables, database.bytes);
    }
    if options.verify {
        progress.phase("verifying the backup");
        prove::all(vault, &prepared.items, options.lanes, progress)?;
    }
    let run = run::RestoreRun {
        vault,
        manifest: &manifest,
        target: &target,
        options,
        progress,
        guard: &guard,
        before_end,
    };
    run::all(&run, prepared, started)
}

/// Whether one of the chosen databases has the journal of this very restore, which was interrupted.
///
/// # Errors
/// The target can't be asked, or the backup has no such database.
pub fn is_interrupted(
    vault: &Vault,
    backup: &BackupId,
    into: &pg::Config,
    options: &RestoreOptions,
) -> Result<bool, RestoreError> {
    let manifest = vault.manifest(backup)?;
    let target = target(into, options);
    let mut db = target.open_any(&[])?;
    db.prepare(None, target.stall)?;
    let facts = TargetFacts::ask(&mut db)?;
    choose::any_begun(&manifest, options, &target, &facts)
}

fn or_cancelled(error: RestoreError, progress: &Progress) -> RestoreError {
    if progress.is_cancelled() { RestoreError::Cancelled { report: None } } else { error }
}

fn target(into: &pg::Config, options: &RestoreOptions) -> Target {
    let stop = Arc::new(AtomicBool::new(false));
    Target { config: into.clone(), stall: options.stall_timeout, stop }
}

/// What was found before anything is changed.
struct Prepared<'a> {
    plan: RestorePlan,
    items: Vec<Item<'a>>,
    facts: TargetFacts,
    roles: RolesPlan,
}

fn prepare<'a>(
    vault: &Vault,
    manifest: &'a Manifest,
    target: &Target,
    options: &RestoreOptions,
) -> Result<Prepared<'a>, RestoreError> {
    if let Some(problem) = options.problem() {
        return Err(RestoreError::Options(problem.to_owned()));
    }
    // Names are looked at before the target is: that costs nothing.
    choose::databases(manifest, options)?;
    let mut report = CheckReport::default();
    let mut db = target.open_any(&[])?;
    db.prepare(None, target.stall)?;
    if options.resume {
        leftovers::wait_for_creations(&mut db)?;
    }
    let facts = TargetFacts::ask(&mut db)?;
    preflight::server(manifest, target, &facts, &mut db, options.lanes, &mut report)?;
    let mut items = choose::items(vault, manifest, options, target, &facts, &mut report)?;
    for item in &mut items {
        preflight::leave_out(item, &facts);
    }
    let wanted = wanted_roles(&items, options);
    let roles = RolesPlan::new(vault, manifest, &facts, &wanted, &mut report)?;
    roles.check_owners(&mut db, &facts, &mut report)?;
    for item in &mut items {
        preflight::database(item, options, target, &facts, &mut db, &mut report)?;
    }
    let databases: Vec<DatabasePlan> =
        items.iter().map(|item| database_plan(item, options)).collect();
    let bytes = databases.iter().map(|database| database.bytes).sum();
    preflight::room(target, &facts, &mut db, bytes, &mut report)?;
    let plan = RestorePlan {
        backup: manifest.backup.clone(),
        target: target.config.describe(),
        target_version: facts.version.clone(),
        databases,
        roles: roles.missing.iter().map(|name| lossy(name)).collect(),
        findings: report.findings,
    };
    Ok(Prepared { plan, items, facts, roles })
}

fn wanted_roles(items: &[Item<'_>], options: &RestoreOptions) -> Wanted {
    let (mut named, mut owners) = (BTreeSet::new(), BTreeSet::new());
    for item in items.iter().filter(|item| item.action != DatabaseAction::Finished) {
        for (entry, role) in item.parts.entries().iter().zip(&item.selection.roles) {
            if role.is_some() {
                named.extend(sql::roles_named(entry, options.owners, options.acls));
                owners.extend(sql::roles_named(entry, options.owners, false));
            }
        }
    }
    let all = options.databases.is_empty() && !options.is_selective();
    Wanted {
        all: all && options.definitions(),
        named,
        owners,
        make: options.roles && options.definitions(),
    }
}

fn database_plan(item: &Item<'_>, options: &RestoreOptions) -> DatabasePlan {
    let mut plan = DatabasePlan {
        database: item.parts.summary.name.clone(),
        restored_as: item.name.clone(),
        action: item.action,
        parts: options.parts,
        objects: 0,
        tables: 0,
        rows: 0,
        large_objects: 0,
        bytes: 0,
        also: item.selection.also.clone(),
        skipped: item.selection.skipped.clone(),
    };
    if item.action == DatabaseAction::Finished {
        return plan;
    }
    for (entry, role) in item.parts.entries().iter().zip(&item.selection.roles) {
        if !role.is_some_and(|role| role != Role::Session) {
            continue;
        }
        let Some(data) = item.parts.data_of(entry) else {
            plan.objects += 1;
            continue;
        };
        plan.bytes += data.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum::<u64>();
        if parts::desc(entry) == b"BLOBS" {
            plan.large_objects += data.rows;
        } else {
            plan.tables += 1;
            plan.rows += data.rows;
        }
    }
    plan
}
