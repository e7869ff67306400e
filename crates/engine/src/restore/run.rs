//! The restore itself, database by database.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flexkeep_vault::Vault;
use flexkeep_vault::manifest::Manifest;

use super::choose::Item;
use super::error::{RestoreError, damaged};
use super::finish::{self, Finish};
use super::graph::Graph;
use super::guard::Guard;
use super::journal;
use super::lanes::{self, DatabaseWork, Outcome};
use super::leftovers;
use super::options::RestoreOptions;
use super::parts::{Role, desc, name_of};
use super::report::{
    DatabaseAction, DatabaseReport, PhaseReport, RestoreReport, RestoreStatus, RolesReport,
    Skipped, TableReport,
};
use super::roles::{Joining, RolesPlan};
use super::statement::Dialect;
use super::target::{Db, Target, TargetFacts, number};
use super::unlogged::{self, Look};
use super::{Prepared, existing, roles};
use crate::error::chain;
use crate::export::DamagedObject;
use crate::progress::Progress;
use crate::tools::parse_major;

/// Memory for building indexes: at least and at most, of all lanes together.
const LEAST_MEMORY: u64 = 128 << 20;
const MOST_MEMORY: u64 = 4 << 30;

/// Crashes of the target during one restore of a database after which it still goes on by itself.
const CRASHES: usize = 3;

/// How long the target may recover from one.
const RECOVERY: Duration = Duration::from_secs(60);

/// How long the target may be silent when memberships are ended.
const LEAVING: Duration = Duration::from_secs(20);

/// What is left to do after every restore of rows.
const GATHER_STATISTICS: &str = "gather statistics for the planner: vacuumdb --analyze-in-stages, or \
     ANALYZE in each database";
/// Since this version nobody may make objects in the schema `public` of a new database, and pg_dump
/// writes the rights on it as what differs from that, for servers of any version.
const PUBLIC_IS_CLOSED: u32 = 15;

/// What all databases have in common.
pub(super) struct RestoreRun<'a> {
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
    /// Whether anything on the target has been changed for it.
    changed: bool,
    /// Statements that end the memberships which are for the restore only, those of earlier runs too.
    undo: HashSet<Vec<u8>>,
    /// The connection that holds the lock, from the beginning to the end of the last database, so
    /// that no other restore comes in between. Many databases would need as many connections.
    control: Option<Db>,
}

/// Restores all databases, and tells what is there.
pub(super) fn all(
    run: &RestoreRun<'_>,
    prepared: Prepared<'_>,
    started: Instant,
) -> Result<RestoreReport, RestoreError> {
    let Prepared { items, facts, roles, .. } = &prepared;
    let mut made = None;
    let mut worked: Vec<Worked<'_, '_>> = Vec::new();
    for item in items.iter().filter(|item| item.action != DatabaseAction::Finished) {
        if let Some(before) = worked.last_mut().and_then(|one| one.control.take()) {
            before.connection.close();
        }
        let mut one = work(run, facts, item, roles, &mut made);
        if worked.is_empty()
            && !one.changed
            && let Some(error) = one.outcome.fatal.take()
        {
            return Err(super::or_cancelled(error, run.progress));
        }
        let goes_on = one.outcome.fatal.is_none() && !run.progress.is_cancelled();
        worked.push(one);
        if !goes_on {
            break;
        }
    }
    let begun = worked.len();
    if worked.is_empty() {
        made = Some(make_roles(run, facts, roles)?);
    }
    let mut roles_report = made.map(|made| made.report).unwrap_or_default();
    let complete = worked.iter().all(|one| status(one) != RestoreStatus::Incomplete)
        && !run.progress.is_cancelled();
    let mut held = None;
    if complete {
        let so_far = so_far(run, &worked, &roles_report, &prepared.roles.notes, started);
        held = (run.before_end)(&so_far).err();
    }
    if let (Some(error), Some(first)) = (held.take(), worked.first_mut()) {
        first.outcome.fatal = Some(error);
    } else if complete {
        for one in &mut worked {
            run.progress.phase(&format!("{}: finishing", one.item.name));
            finish(run, facts, one);
        }
    }
    run.guard.watch(None);
    // Whatever came of it: who continues joins them again.
    let undo: BTreeSet<Vec<u8>> = worked.iter().flat_map(|one| one.undo.clone()).collect();
    leave_owners(run, &undo, &mut roles_report);
    let unbegun = items.iter().filter(|item| item.action != DatabaseAction::Finished).skip(begun);
    let not_begun = unbegun.map(|item| item.name.clone()).collect();
    end(run, worked, roles_report, &prepared.roles.notes, not_begun, started)
}

/// Ends memberships that are for the restore only, also when the rest was told to stop.
fn leave_owners(run: &RestoreRun<'_>, undo: &BTreeSet<Vec<u8>>, report: &mut RolesReport) {
    if undo.is_empty() {
        return;
    }
    let stall = run.target.stall.min(LEAVING);
    let stop = Arc::new(AtomicBool::new(false));
    let target = Target { config: run.target.config.clone(), stall, stop };
    let left = target.open_any(&[]).and_then(|mut db| roles::leave_owners(&mut db, undo));
    if let Err(error) = left {
        report.refused.push(format!("memberships for the restore only stay: {}", chain(&error)));
    }
}

/// The report, or the error that carries it.
fn end(
    run: &RestoreRun<'_>,
    worked: Vec<Worked<'_, '_>>,
    roles: RolesReport,
    notes: &[String],
    not_begun: Vec<String>,
    started: Instant,
) -> Result<RestoreReport, RestoreError> {
    let mut report = so_far(run, &worked, &roles, notes, started);
    if !not_begun.is_empty() || run.progress.is_cancelled() {
        report.status = RestoreStatus::Incomplete;
    }
    report.not_begun = not_begun;
    let status = report.status;
    if status == RestoreStatus::Incomplete {
        report.to_do.retain(|to_do| to_do != GATHER_STATISTICS);
    }
    if run.progress.is_cancelled() && status == RestoreStatus::Incomplete {
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
    run: &RestoreRun<'_>,
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
        run.manifest.losses.iter().map(|loss| {
            format!("not in the backup: {} {}: {}", loss.count, loss.kind, loss.reason)
        }),
    );
    if status != RestoreStatus::Incomplete && run.options.data() {
        to_do.push(GATHER_STATISTICS.to_owned());
    }
    RestoreReport {
        status,
        backup: run.manifest.backup.clone(),
        target: run.target.config.describe(),
        duration_seconds: started.elapsed().as_secs_f64(),
        roles: roles.clone(),
        databases,
        not_begun: Vec::new(),
        to_do,
    }
}

fn work<'i, 'a>(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    item: &'i Item<'a>,
    roles: &RolesPlan,
    made: &mut Option<RolesMade>,
) -> Worked<'i, 'a> {
    let outcome = Outcome::default();
    let (held, phases) = (Vec::new(), Vec::new());
    let changed = item.has_journal;
    let undo = HashSet::new();
    let mut worked = Worked { item, outcome, held, phases, changed, undo, control: None };
    if let Err(error) = try_work(run, facts, roles, made, &mut worked) {
        worked.outcome.fatal.get_or_insert(error);
    }
    worked
}

fn try_work(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    roles: &RolesPlan,
    made: &mut Option<RolesMade>,
    worked: &mut Worked<'_, '_>,
) -> Result<(), RestoreError> {
    let item = worked.item;
    run.progress.phase(&format!("{}: beginning", item.name));
    if item.action.creates() {
        finish::create_database(run.target, facts, item, &mut worked.changed)?;
    }
    let mut control = open_control(run, item)?;
    run.guard.watch(Some(&item.name));
    if !item.has_journal {
        begin(run, facts, item, &mut control)?;
        worked.changed = true;
    }
    let made = match made {
        Some(made) => made,
        None => made.insert(make_roles(run, facts, roles)?),
    };
    journal::note_joining(&mut control, &made.joining.undo())?;
    // Only now that the journal says how to undo it.
    worked.undo = journal::joined(&mut control)?;
    made.joining.join(&mut control)?;
    if run.options.owners {
        finish::give_to_owner(&mut control, item)?;
    }
    worked.outcome.done = journal::read(&mut control)?;
    load(run, facts, &mut control, worked)?;
    worked.control = Some(control);
    Ok(())
}

/// What became of roles.
struct RolesMade {
    report: RolesReport,
    joining: Joining,
}

/// Makes the roles that are missing, once the first database is begun: until then the server may
/// still refuse what is asked, and nothing has changed.
fn make_roles(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    roles: &RolesPlan,
) -> Result<RolesMade, RestoreError> {
    let mut db = run.target.open_any(&[])?;
    db.prepare(None, run.target.stall)?;
    db.name_at_work()?;
    run.progress.phase("roles");
    let mut report = roles.make(&mut db, facts)?;
    report.refused.sort();
    let joining = roles.joining(&mut db, facts)?;
    Ok(RolesMade { report, joining })
}

/// Loads all that is not there, and once more after each crash of the target, which takes the last
/// commits with it. When this ends well, `control` has lived since it was last read what is done.
fn load(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    control: &mut Db,
    worked: &mut Worked<'_, '_>,
) -> Result<(), RestoreError> {
    for _ in 0..=CRASHES {
        let lost = unlogged::lost(control, worked.item, &worked.outcome.done, Look::Count)?;
        let replica = !lost.is_nothing() && existing::replica_allowed(facts, control)?;
        if !lost.is_nothing() {
            unlogged::forget(control, &mut worked.outcome.done, &lost, replica)?;
        }
        let mut settings = settings(run, facts, control)?;
        if replica {
            // Triggers may be there by now.
            settings.push_str("SET session_replication_role = replica;");
        }
        let dialect = Dialect {
            owners: run.options.owners,
            superuser: facts.superuser,
            tablespaces: &facts.tablespaces,
        };
        let db_work = DatabaseWork {
            target: run.target,
            database: &worked.item.name,
            vault: run.vault,
            parts: &worked.item.parts,
            dialect: &dialect,
            progress: run.progress,
            settings: &settings,
        };
        phases(run, &db_work, worked);
        last_phases(run, &db_work, worked);
        if worked.outcome.fatal.is_some() || run.progress.is_cancelled() {
            return Ok(());
        }
        if lives(control) && !worked.outcome.lost {
            return Ok(());
        }
        tracing::warn!("the target has lost the session of the restore; looking what is there");
        if !lives(control) {
            *control = open_again(run, worked.item)?;
        }
        worked.outcome.begin_again(journal::read(control)?);
    }
    Err(RestoreError::Crashes { database: worked.item.name.clone() })
}

fn lives(db: &mut Db) -> bool {
    db.connection.is_usable() && db.run("asking for a sign of life", "SELECT").is_ok()
}

/// Does one phase, unless something has ended the work.
fn phase<'i, 'a>(
    run: &RestoreRun<'_>,
    name: &'static str,
    worked: &mut Worked<'i, 'a>,
    work: &mut dyn FnMut(&mut Worked<'i, 'a>),
) {
    if worked.outcome.has_ended() || run.progress.is_cancelled() {
        return;
    }
    run.progress.phase(&format!("{}: {name}", worked.item.name));
    let started = Instant::now();
    work(worked);
    let seconds = started.elapsed().as_secs_f64();
    match worked.phases.iter_mut().find(|one| one.phase == name) {
        Some(earlier) => earlier.seconds += seconds,
        None => worked.phases.push(PhaseReport { phase: name, seconds }),
    }
}

/// Definitions, rows, and what waits for them.
fn phases(run: &RestoreRun<'_>, db_work: &DatabaseWork<'_>, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    phase(run, "definitions", worked, &mut |worked| {
        lanes::give_again(db_work, &mut worked.outcome);
        let places = item.selection.places(&[Role::Definition]);
        lanes::one_by_one(db_work, &places, &mut worked.outcome);
    });
    phase(run, "data and indexes", worked, &mut |worked| {
        main_graph(run, db_work, worked);
    });
}

/// What comes when all rows are there.
fn last_phases(run: &RestoreRun<'_>, db_work: &DatabaseWork<'_>, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    if worked.outcome.lost || status(worked) == RestoreStatus::Incomplete {
        return;
    }
    phase(run, "partitions", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Attach]);
        lanes::one_by_one(db_work, &places, &mut worked.outcome);
    });
    phase(run, "row security", worked, &mut |worked| {
        let places = item.selection.places(&[Role::RowSecurity]);
        lanes::one_by_one(db_work, &places, &mut worked.outcome);
    });
    phase(run, "rights", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Acl]);
        lanes::one_by_one(db_work, &places, &mut worked.outcome);
    });
    phase(run, "materialised views", worked, &mut |worked| {
        let places = item.selection.places(&[Role::Refresh]);
        if places.is_empty() {
            return;
        }
        let mut graph = Graph::new(&item.parts, &places, &worked.outcome.done);
        lanes::run(db_work, run.options.lanes, &mut graph, &mut worked.outcome);
    });
}

fn main_graph(run: &RestoreRun<'_>, db_work: &DatabaseWork<'_>, worked: &mut Worked<'_, '_>) {
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
            run.progress.done(there.sum());
            if graph.is_done(index) {
                run.progress.object_done();
            }
        }
    }
    lanes::run(db_work, run.options.lanes, &mut graph, &mut worked.outcome);
    let held = graph.held().map(|node| Skipped {
        object: name_of(&entries[node.place]),
        reason: "it waits for rows that are not there".to_owned(),
    });
    worked.held = held.collect();
}

/// The connection that holds the lock of a database.
fn open_control(run: &RestoreRun<'_>, item: &Item<'_>) -> Result<Db, RestoreError> {
    let mut control = run.target.open_patient(&item.name)?;
    control.prepare(Some(&item.parts.summary.encoding), run.target.stall)?;
    leftovers::lock(&mut control)?;
    control.name_at_work()?;
    Ok(control)
}

/// The same when the server may still be recovering from a crash.
fn open_again(run: &RestoreRun<'_>, item: &Item<'_>) -> Result<Db, RestoreError> {
    let until = Instant::now() + RECOVERY;
    loop {
        match open_control(run, item) {
            Err(error)
                if error.may_pass()
                    && Instant::now() < until
                    && !run.target.stop.load(Ordering::Acquire) =>
            {
                std::thread::sleep(Duration::from_millis(500));
            }
            other => return other,
        }
    }
}

/// Clears away what is in the way and makes the journal, in one transaction.
fn begin(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    item: &Item<'_>,
    control: &mut Db,
) -> Result<(), RestoreError> {
    // On the disk before anything depends on it: what was made before it is then there too.
    let mut sql = b"BEGIN; SET LOCAL synchronous_commit = on;".to_vec();
    if item.action == DatabaseAction::UseAndDrop {
        if !run.options.definitions() && existing::replica_allowed(facts, control)? {
            // As for the rows that come: triggers do not fire when tables are emptied.
            sql.extend_from_slice(b"SET LOCAL session_replication_role = replica;");
        }
        sql.extend_from_slice(&existing::clear_sql(item, run.options));
    }
    let dumped_by = parse_major(&run.manifest.source.pg_dump).unwrap_or_default();
    if item.fresh && facts.major() < PUBLIC_IS_CLOSED && dumped_by >= PUBLIC_IS_CLOSED {
        // What was revoked before is not in such a dump, and what was not is granted by it.
        sql.extend_from_slice(b"REVOKE CREATE ON SCHEMA public FROM PUBLIC;");
    }
    sql.extend_from_slice(journal::create_sql(&item.identity, item.fresh).as_bytes());
    sql.extend_from_slice(b"COMMIT");
    let result = control.run("beginning the restore", sql);
    if result.is_err() && control.connection.is_usable() {
        // The first error counts.
        let _ = control.run("undoing", "ROLLBACK");
    }
    result
}

/// Settings of the lanes besides those of every session.
fn settings(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    db: &mut Db,
) -> Result<String, RestoreError> {
    let rows = db.rows(
        "asking for memory settings",
        "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')), \
         pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))",
    )?;
    let (buffers, now): (u64, u64) =
        rows.first().map_or((0, 0), |row| (number(row, 0), number(row, 1)));
    // Shared buffers are a quarter of the memory of most servers; half as much again is free.
    let memory = (buffers / 2).clamp(LEAST_MEMORY, MOST_MEMORY) / run.options.lanes as u64;
    let mut sql = String::new();
    if memory > now {
        sql.push_str(&format!("SET maintenance_work_mem = '{}kB';", memory >> 10));
    }
    if !run.options.definitions() && existing::replica_allowed(facts, db)? {
        sql.push_str("SET session_replication_role = replica;");
    }
    Ok(sql)
}

fn finish(run: &RestoreRun<'_>, facts: &TargetFacts, worked: &mut Worked<'_, '_>) {
    let item = worked.item;
    let kept = worked.control.take().and_then(|mut one| lives(&mut one).then_some(one));
    let opened = kept.map_or_else(|| open_control(run, item), Ok).and_then(|mut control| {
        look_again(run, facts, &mut control, worked)?;
        Ok(control)
    });
    let mut control = match opened {
        Ok(control) => control,
        Err(error) => {
            worked.outcome.fatal = Some(error);
            return;
        }
    };
    if status(worked) == RestoreStatus::Incomplete {
        return;
    }
    let mut finish = Finish {
        item: worked.item,
        facts,
        options: run.options,
        control: &mut control,
        failures: Vec::new(),
    };
    let result = finish.run();
    let failures = finish.failures;
    worked.outcome.failures.extend(failures);
    if let Err(error) = result {
        worked.outcome.fatal = Some(error);
    }
}

/// It may have crashed since its database was loaded, while others were. Its last transaction waits
/// for the disk, in this same session: so what is there now is there for good.
fn look_again(
    run: &RestoreRun<'_>,
    facts: &TargetFacts,
    control: &mut Db,
    worked: &mut Worked<'_, '_>,
) -> Result<(), RestoreError> {
    let there = journal::read(control)?;
    let whole = worked.outcome.done.is_within(&there)
        && unlogged::lost(control, worked.item, &there, Look::Any)?.is_nothing();
    if whole {
        return Ok(());
    }
    worked.outcome.begin_again(there);
    load(run, facts, control, worked)
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
        Role::Attach,
        Role::RowSecurity,
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
        also: item.selection.also.clone(),
        skipped,
        phases: worked.phases.clone(),
    }
}
