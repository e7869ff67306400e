//! The restore itself, database by database.

use std::sync::Arc;
use std::time::Instant;

use flexkeep_vault::Vault;
use flexkeep_vault::manifest::Manifest;

use super::choose::Item;
use super::error::{RestoreError, damaged};
use super::finish::{self, Finish};
use super::graph::Graph;
use super::guard::Guard;
use super::journal;
use super::lanes::{self, Outcome, Shop};
use super::leftovers;
use super::options::RestoreOptions;
use super::parts::{Role, desc, name_of};
use super::report::{
    DatabaseAction, DatabaseReport, PhaseReport, RestoreReport, RestoreStatus, RolesReport,
    Skipped, TableReport,
};
use super::statement::Dialect;
use super::target::{Db, Target, TargetFacts, literal, number};
use super::{Prepared, existing, roles, unlogged};
use crate::error::chain;
use crate::export::DamagedObject;
use crate::progress::Progress;
use crate::tools::parse_major;

/// Memory for building indexes: at least and at most, of all lanes together.
const LEAST_MEMORY: u64 = 128 << 20;
const MOST_MEMORY: u64 = 4 << 30;

/// Crashes of the target during one restore of a database after which it still goes on by itself.
const CRASHES: usize = 3;

/// What is left to do after every restore of rows.
const GATHER_STATISTICS: &str = "gather statistics for the planner: vacuumdb --analyze-in-stages, or \
     ANALYZE in each database";
/// Since this version nobody may make objects in the schema `public` of a new database, and pg_dump
/// writes the rights on it as what differs from that, for servers of any version.
const PUBLIC_IS_CLOSED: u32 = 15;

/// What all databases have in common.
pub(super) struct Scene<'a> {
    pub(super) vault: &'a Vault,
    pub(super) manifest: &'a Manifest,
    pub(super) target: &'a Target,
    pub(super) options: &'a RestoreOptions,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) guard: &'a Guard,
    /// Called when all is loaded and before the first database is finished: from then on a database
    /// without a journal may be one that is complete.
    pub(super) before_end: &'a dyn Fn(&RestoreReport) -> Result<(), RestoreError>,
}

/// One database that is loaded, or as far as it came.
struct Worked<'i, 'a> {
    item: &'i Item<'a>,
    outcome: Outcome,
    held: Vec<Skipped>,
    phases: Vec<PhaseReport>,
}

/// Restores all databases, and tells what is there.
pub(super) fn all(
    scene: &Scene<'_>,
    prepared: Prepared<'_>,
    started: Instant,
) -> Result<RestoreReport, RestoreError> {
    let Prepared { items, facts, roles, .. } = &prepared;
    let mut db = scene.target.open_any(&[])?;
    db.prepare(None, scene.target.stall)?;
    scene.progress.phase("roles");
    let mut roles_report = roles.make(&mut db, facts)?;
    roles_report.refused.sort();
    let joined = roles.join_owners(&mut db, facts)?;
    drop(db);
    let mut worked = Vec::new();
    for item in items.iter().filter(|item| item.action != DatabaseAction::Finished) {
        let one = work(scene, facts, item, &joined);
        let goes_on = one.outcome.fatal.is_none() && !scene.progress.is_cancelled();
        worked.push(one);
        if !goes_on {
            break;
        }
    }
    let begun = worked.len();
    let complete = worked.iter().all(|one| status(one) != RestoreStatus::Incomplete)
        && !scene.progress.is_cancelled();
    let mut all_joined = joined;
    let mut held = None;
    if complete {
        let so_far = so_far(scene, &worked, &roles_report, &prepared.roles.notes, started);
        held = (scene.before_end)(&so_far).err();
    }
    if let (Some(error), Some(first)) = (held.take(), worked.first_mut()) {
        first.outcome.fatal = Some(error);
    } else if complete {
        for one in &mut worked {
            scene.progress.phase(&format!("{}: finishing", one.item.name));
            let left = finish(scene, facts, one);
            all_joined.extend(left);
        }
        all_joined.sort();
        all_joined.dedup();
    }
    scene.guard.watch(None);
    if complete && worked.iter().all(|one| one.outcome.fatal.is_none()) {
        leave_owners(scene, &all_joined, &mut roles_report);
    }
    let unbegun = items.iter().filter(|item| item.action != DatabaseAction::Finished).skip(begun);
    let not_begun = unbegun.map(|item| item.name.clone()).collect();
    end(scene, worked, roles_report, &prepared.roles.notes, not_begun, started)
}

fn leave_owners(scene: &Scene<'_>, joined: &[Vec<u8>], report: &mut RolesReport) {
    if joined.is_empty() {
        return;
    }
    let left = scene.target.open_any(&[]).and_then(|mut db| roles::leave_owners(&mut db, joined));
    if let Err(error) = left {
        report.refused.push(format!("memberships for the restore only stay: {}", chain(&error)));
    }
}

/// The report, or the error that carries it.
fn end(
    scene: &Scene<'_>,
    worked: Vec<Worked<'_, '_>>,
    roles: RolesReport,
    notes: &[String],
    not_begun: Vec<String>,
    started: Instant,
) -> Result<RestoreReport, RestoreError> {
    let mut report = so_far(scene, &worked, &roles, notes, started);
    if !not_begun.is_empty() || scene.progress.is_cancelled() {
        report.status = RestoreStatus::Incomplete;
    }
    report.not_begun = not_begun;
    let status = report.status;
    if status == RestoreStatus::Incomplete {
        report.to_do.retain(|to_do| to_do != GATHER_STATISTICS);
    }
    if scene.progress.is_cancelled() && status == RestoreStatus::Incomplete {
        return Err(RestoreError::Cancelled { report: Some(Box::new(report)) });
    }
    if status != RestoreStatus::Incomplete {
        return Ok(report);
    }
    let mut objects: Vec<DamagedObject> = Vec::new();
    let mut fatal = None;
    for one in worked {
        objects.extend(one.outcome.damage.objects);
        fatal = fatal.or(one.outcome.fatal);
    }
    if let Some(RestoreError::Busy { database }) = fatal {
        // The other one's report is what counts.
        return Err(RestoreError::Busy { database });
    }
    let may_pass = objects.is_empty() && fatal.as_ref().is_some_and(RestoreError::may_pass);
    let cause = match fatal {
        Some(error) => chain(&error),
        None if !objects.is_empty() => damaged(&objects, false),
        None => "rows are missing".to_owned(),
    };
    Err(RestoreError::Incomplete { cause, report: Box::new(report), damaged: objects, may_pass })
}

/// What is there by now.
fn so_far(
    scene: &Scene<'_>,
    worked: &[Worked<'_, '_>],
    roles: &RolesReport,
    notes: &[String],
    started: Instant,
) -> RestoreReport {
    let databases: Vec<DatabaseReport> = worked.iter().map(|one| report(one)).collect();
    let status = databases.iter().map(|one| one.status).max().unwrap_or(RestoreStatus::Complete);
    let mut to_do: Vec<String> = notes.to_vec();
    to_do.extend(roles.refused.iter().map(|refused| format!("a role: {refused}")));
    to_do.extend(
        scene.manifest.losses.iter().map(|loss| {
            format!("not in the backup: {} {}: {}", loss.count, loss.kind, loss.reason)
        }),
    );
    if status != RestoreStatus::Incomplete && scene.options.data() {
        to_do.push(GATHER_STATISTICS.to_owned());
    }
    RestoreReport {
        status,
        backup: scene.manifest.backup.clone(),
        target: scene.target.config.describe(),
        duration_seconds: started.elapsed().as_secs_f64(),
        roles: roles.clone(),
        databases,
        not_begun: Vec::new(),
        to_do,
    }
}

fn work<'i, 'a>(
    scene: &Scene<'_>,
    facts: &TargetFacts,
    item: &'i Item<'a>,
    joined: &[Vec<u8>],
) -> Worked<'i, 'a> {
    let outcome = Outcome::default();
    let mut worked = Worked { item, outcome, held: Vec::new(), phases: Vec::new() };
    if let Err(error) = try_work(scene, facts, item, joined, &mut worked) {
        worked.outcome.fatal.get_or_insert(error);
    }
    worked
}

fn try_work(
    scene: &Scene<'_>,
    facts: &TargetFacts,
    item: &Item<'_>,
    joined: &[Vec<u8>],
    worked: &mut Worked<'_, '_>,
) -> Result<(), RestoreError> {
    scene.progress.phase(&format!("{}: beginning", item.name));
    if item.action.creates() {
        finish::create_database(scene.target, facts, item, scene.options.owners)?;
    }
    let mut control = open_control(scene, item)?;
    scene.guard.watch(Some(&item.name));
    if !item.has_journal {
        begin(scene, facts, item, joined, &mut control)?;
    }
    worked.outcome.done = journal::read(&mut control)?;
    with_shop(scene, facts, item, &mut control, |shop, control| {
        phases(scene, shop, worked);
        again_after_crash(scene, facts, shop, control, worked)?;
        last_phases(scene, shop, worked);
        Ok(())
    })?;
    // It held the lock until here.
    control.connection.close();
    Ok(())
}

/// Gives `work` what lanes need.
fn with_shop(
    scene: &Scene<'_>,
    facts: &TargetFacts,
    item: &Item<'_>,
    control: &mut Db,
    work: impl FnOnce(&Shop<'_>, &mut Db) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let settings = settings(scene, facts, control)?;
    let dialect = Dialect {
        owners: scene.options.owners,
        superuser: facts.superuser,
        tablespaces: &facts.tablespaces,
    };
    let shop = Shop {
        target: scene.target,
        database: &item.name,
        vault: scene.vault,
        parts: &item.parts,
        dialect: &dialect,
        progress: scene.progress,
        settings: &settings,
    };
    work(&shop, control)
}

/// Does one phase, unless something has ended the work.
fn phase<'i, 'a>(
    scene: &Scene<'_>,
    name: &'static str,
    worked: &mut Worked<'i, 'a>,
    work: &mut dyn FnMut(&mut Worked<'i, 'a>),
) {
    if worked.outcome.fatal.is_some() || scene.progress.is_cancelled() {
        return;
    }
    scene.progress.phase(&format!("{}: {name}", worked.item.name));
    let started = Instant::now();
    work(worked);
    worked.phases.push(PhaseReport { phase: name, seconds: started.elapsed().as_secs_f64() });
}

/// Definitions, rows, and what waits for them.
fn phases(scene: &Scene<'_>, shop: &Shop<'_>, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    phase(scene, "definitions", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Definition]);
        lanes::one_by_one(shop, &places, &mut worked.outcome);
    });
    phase(scene, "data and indexes", worked, &mut |worked| {
        main_graph(scene, shop, worked);
    });
}

/// Loads again what a crash of the target has emptied. Triggers may be there by now; where that is
/// allowed they do not fire.
fn again_after_crash(
    scene: &Scene<'_>,
    facts: &TargetFacts,
    shop: &Shop<'_>,
    control: &mut Db,
    worked: &mut Worked<'_, '_>,
) -> Result<(), RestoreError> {
    for _ in 0..CRASHES {
        if status(worked) == RestoreStatus::Incomplete || scene.progress.is_cancelled() {
            return Ok(());
        }
        if !control.connection.is_usable()
            || control.run("asking for a sign of life", "SELECT").is_err()
        {
            *control = open_control(scene, worked.item)?;
        }
        let lost = unlogged::lost(control, worked.item, &worked.outcome.done)?;
        if lost.is_empty() {
            return Ok(());
        }
        journal::forget(control, &mut worked.outcome.done, &lost)?;
        let mut settings = shop.settings.to_owned();
        if existing::replica_allowed(facts, control)? {
            settings.push_str("SET session_replication_role = replica;");
        }
        let shop = Shop { settings: &settings, ..*shop };
        main_graph(scene, &shop, worked);
    }
    Ok(())
}

/// What comes when all rows are there.
fn last_phases(scene: &Scene<'_>, shop: &Shop<'_>, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    if status(worked) == RestoreStatus::Incomplete {
        return;
    }
    phase(scene, "rights", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Acl]);
        lanes::one_by_one(shop, &places, &mut worked.outcome);
    });
    phase(scene, "materialised views", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Refresh]);
        if places.is_empty() {
            return;
        }
        let mut graph = Graph::new(&item.parts, &places, &worked.outcome.done);
        lanes::run(shop, scene.options.lanes, &mut graph, &mut worked.outcome);
    });
}

fn main_graph(scene: &Scene<'_>, shop: &Shop<'_>, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    let entries = item.parts.entries();
    let places = item.selection.places(&[Role::Data, Role::After]);
    let mut graph = Graph::new(&item.parts, &places, &worked.outcome.done);
    for index in 0..graph.nodes.len() {
        let entry = &entries[graph.nodes[index].place];
        let failed = entry.dependencies().iter().any(|id| worked.outcome.failed.contains(id));
        if entry.had_dumper() && failed {
            graph.give_up(index);
        }
        if let Some(data) = item.parts.data_of(entry) {
            let there = graph.loaded(index).map(|chunk| u64::from(data.chunks[chunk].raw_bytes));
            scene.progress.done(there.sum());
            if graph.is_done(index) {
                scene.progress.object_done();
            }
        }
    }
    lanes::run(shop, scene.options.lanes, &mut graph, &mut worked.outcome);
    let held = graph.held().map(|node| Skipped {
        object: name_of(&entries[node.place]),
        reason: "it waits for rows that are not there".to_owned(),
    });
    worked.held = held.collect();
}

/// The connection that holds the lock of a database.
fn open_control(scene: &Scene<'_>, item: &Item<'_>) -> Result<Db, RestoreError> {
    let mut control = scene.target.open_patient(&item.name)?;
    control.prepare(Some(&item.parts.summary.encoding), scene.target.stall)?;
    leftovers::lock(&mut control)?;
    Ok(control)
}

/// Clears away what is in the way and makes the journal, in one transaction.
fn begin(
    scene: &Scene<'_>,
    facts: &TargetFacts,
    item: &Item<'_>,
    joined: &[Vec<u8>],
    control: &mut Db,
) -> Result<(), RestoreError> {
    let mut sql = b"BEGIN;".to_vec();
    if item.action == DatabaseAction::UseAndDrop {
        sql.extend_from_slice(&existing::clear_sql(item, scene.options));
    }
    let dumped_by = parse_major(&scene.manifest.source.pg_dump).unwrap_or_default();
    if item.fresh && facts.major() < PUBLIC_IS_CLOSED && dumped_by >= PUBLIC_IS_CLOSED {
        // What was revoked before is not in such a dump, and what was not is granted by it.
        sql.extend_from_slice(b"REVOKE CREATE ON SCHEMA public FROM PUBLIC;");
    }
    sql.extend_from_slice(journal::create_sql(&item.identity, item.fresh).as_bytes());
    for role in joined {
        sql.extend_from_slice(
            format!("INSERT INTO {}.granted VALUES (", journal::SCHEMA).as_bytes(),
        );
        sql.extend_from_slice(&literal(role));
        sql.extend_from_slice(b");");
    }
    sql.extend_from_slice(b"COMMIT");
    let result = control.run("beginning the restore", sql);
    if result.is_err() && control.connection.is_usable() {
        // The first error counts.
        let _ = control.run("undoing", "ROLLBACK");
    }
    result
}

/// Settings of the lanes besides those of every session.
fn settings(scene: &Scene<'_>, facts: &TargetFacts, db: &mut Db) -> Result<String, RestoreError> {
    let rows = db.rows(
        "asking for memory settings",
        "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')), \
         pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))",
    )?;
    let (buffers, now): (u64, u64) =
        rows.first().map_or((0, 0), |row| (number(row, 0), number(row, 1)));
    // Shared buffers are a quarter of the memory of most servers; half as much again is free.
    let memory = (buffers / 2).clamp(LEAST_MEMORY, MOST_MEMORY) / scene.options.lanes as u64;
    let mut sql = String::new();
    if memory > now {
        sql.push_str(&format!("SET maintenance_work_mem = '{}kB';", memory >> 10));
    }
    if !scene.options.definitions() && existing::replica_allowed(facts, db)? {
        sql.push_str("SET session_replication_role = replica;");
    }
    Ok(sql)
}

fn finish(scene: &Scene<'_>, facts: &TargetFacts, worked: &mut Worked<'_, '_>) -> Vec<Vec<u8>> {
    let item = worked.item;
    let opened = open_control(scene, item).and_then(|mut control| {
        // It may have crashed while other databases were restored.
        with_shop(scene, facts, item, &mut control, |shop, control| {
            again_after_crash(scene, facts, shop, control, worked)
        })?;
        Ok(control)
    });
    let mut control = match opened {
        Ok(control) => control,
        Err(error) => {
            worked.outcome.fatal = Some(error);
            return Vec::new();
        }
    };
    if status(worked) == RestoreStatus::Incomplete {
        return Vec::new();
    }
    let mut finish = Finish {
        item: worked.item,
        facts,
        options: scene.options,
        control: &mut control,
        failures: Vec::new(),
        joined: Vec::new(),
    };
    let result = finish.run();
    let (failures, joined) = (finish.failures, finish.joined);
    worked.outcome.failures.extend(failures);
    if let Err(error) = result {
        worked.outcome.fatal = Some(error);
    }
    joined
}

/// How far a database is.
fn status(worked: &Worked<'_, '_>) -> RestoreStatus {
    let outcome = &worked.outcome;
    let rows_missing = tables(worked).iter().any(|table| !table.complete);
    if outcome.fatal.is_some() || rows_missing || !worked.held.is_empty() {
        RestoreStatus::Incomplete
    } else if !outcome.failures.is_empty() {
        RestoreStatus::WithFailures
    } else {
        RestoreStatus::Complete
    }
}

fn tables(worked: &Worked<'_, '_>) -> Vec<TableReport> {
    let (item, done) = (worked.item, &worked.outcome.done);
    let mut tables = Vec::new();
    for place in item.selection.places(&[Role::Data]) {
        let entry = &item.parts.entries()[place];
        let Some(data) = item.parts.data_of(entry) else { continue };
        let parts = super::graph::cut(&data.chunks).len();
        let id = entry.dump_id();
        tables.push(TableReport {
            schema: data.schema.clone(),
            name: data.name.clone(),
            rows: done.rows(id),
            expected_rows: data.rows,
            complete: (0..parts).all(|part| done.has(id, i32::try_from(part).unwrap_or(i32::MAX))),
        });
    }
    tables
}

fn report(worked: &Worked<'_, '_>) -> DatabaseReport {
    let item = worked.item;
    let tables = tables(worked);
    let (mut rows, mut large_objects) = (0, 0);
    let data_entries = item.selection.places(&[Role::Data]);
    let entries = data_entries
        .iter()
        .map(|place| &item.parts.entries()[*place])
        .filter(|entry| item.parts.data_of(entry).is_some());
    for (entry, table) in entries.zip(&tables) {
        if desc(entry) == b"BLOBS" { large_objects += table.rows } else { rows += table.rows }
    }
    let made = |place: &&usize| {
        let entry = &item.parts.entries()[**place];
        !entry.had_dumper() && worked.outcome.done.has(entry.dump_id(), 0)
    };
    let all = item.selection.places(&[
        Role::Definition,
        Role::Data,
        Role::After,
        Role::Acl,
        Role::Refresh,
    ]);
    let mut skipped = item.selection.skipped.clone();
    skipped.extend(worked.held.iter().cloned());
    let mut status = status(worked);
    let unlike = tables.iter().any(|table| table.rows != table.expected_rows);
    if unlike && status == RestoreStatus::Complete {
        status = RestoreStatus::WithFailures;
    }
    DatabaseReport {
        database: item.parts.summary.name.clone(),
        restored_as: item.name.clone(),
        status,
        action: item.action,
        objects: all.iter().filter(made).count() as u64,
        tables,
        rows,
        large_objects,
        loaded_bytes: worked.outcome.bytes,
        failures: worked.outcome.failures.clone(),
        skipped,
        phases: worked.phases.clone(),
    }
}
