//! One database: snapshot, outline, plan, lanes, contents list.

use std::time::Duration;

use flexkeep_pg_archive::{Compression, Toc, Version};
use flexkeep_pg_copy as pg;
use flexkeep_vault::contents::{self, EntryKind};
use flexkeep_vault::manifest::{DatabaseSummary, Extension, Loss, ObjectRef, Totals};
use flexkeep_vault::store::PutMode;
use flexkeep_vault::{ContentsWriter, Vault};
use serde::Serialize;

use crate::attver;
use crate::backup::Run;
use crate::chunker::KnownChunks;
use crate::error::BackupError;
use crate::formats;
use crate::journal::{JournalPlace, SliceDone};
use crate::lane::{self, Work};
use crate::large_objects::Unreadable;
use crate::order;
use crate::outline;
use crate::plan::{self, EntrySource, LastCuts, Measured, Plan, PlannedEntry};
use crate::progress::Progress;
use crate::session;
use crate::snapshot::{self, Leader};
use crate::source::{self, Database, ServerFacts};
use crate::tools::ClientTools;
use crate::types::TypeMarks;

/// A database whose snapshot is taken and whose work is planned.
pub(crate) struct Prepared {
    pub(crate) database: Database,
    pub(crate) attempt: u32,
    pub(crate) leader: Leader,
    pub(crate) encoding: String,
    pub(crate) toc: ObjectRef,
    pub(crate) plan: Plan,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) types: TypeMarks,
    pub(crate) losses: Vec<Loss>,
    pub(crate) notes: Vec<String>,
}

/// What planning needs to know.
pub(crate) struct Planning<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) target: &'a pg::Config,
    pub(crate) client: &'a ClientTools,
    pub(crate) facts: &'a ServerFacts,
    pub(crate) progress: &'a Progress,
    pub(crate) lanes: usize,
    pub(crate) items_per_lane: u64,
    pub(crate) split_tables: bool,
}

/// A database that is in the vault, but for the manifest.
pub(crate) struct Dumped {
    pub(crate) summary: DatabaseSummary,
    pub(crate) losses: Vec<Loss>,
    pub(crate) notes: Vec<String>,
}

/// Takes the snapshot and makes the plan.
pub(crate) fn prepare(
    run: &Run<'_>,
    database: &Database,
    attempt: u32,
    last: &LastCuts,
) -> Result<Prepared, BackupError> {
    let leader = Leader::open(run.target, database, &run.connect)?;
    let planning = Planning {
        vault: &run.tools.vault,
        target: run.target,
        client: run.client,
        facts: run.facts,
        progress: &run.tools.progress,
        lanes: run.options.lanes,
        items_per_lane: plan::ITEMS_PER_LANE,
        split_tables: run.options.split_tables,
    };
    prepare_on(leader, &planning, database, attempt, last)
}

/// Makes the plan on a snapshot that is taken.
pub(crate) fn prepare_on(
    mut leader: Leader,
    planning: &Planning<'_>,
    database: &Database,
    attempt: u32,
    last: &LastCuts,
) -> Result<Prepared, BackupError> {
    let name = &database.name;
    let &Planning { vault, target, client, facts, progress, lanes, items_per_lane, split_tables } =
        planning;
    let encoding = source::encoding(&mut leader.connection, name)?;
    let outline = outline::take(client, target, facts.superuser, &mut leader, &encoding, progress)?;
    snapshot::refuse_renamed(&mut leader.connection, name)?;
    let formats = formats::ask(&mut leader.connection, name, &leader.tables)?;
    let measured = Measured {
        database: name,
        version: leader.connection.server_version_num(),
        tables: &leader.tables,
        formats: &formats,
    };
    let mut plan = plan::plan(&outline.toc, measured, last, lanes, items_per_lane, split_tables)?;
    let unreadable = if plan.entries.iter().any(|e| e.kind() == EntryKind::LargeObjects) {
        Unreadable::ask(&mut leader.connection, name)?
    } else {
        Unreadable::default()
    };
    leave_out(&mut plan, &unreadable);
    let losses = source::database_losses(&mut leader.connection, name, facts, &unreadable.0)?;
    let extensions = source::extensions(&mut leader.connection, name)?;
    let types = TypeMarks::ask(&mut leader.connection, name)?;
    let references = order::extension_references(&mut leader.connection, name)?;
    let notes =
        outline.warnings.into_iter().map(|line| format!("database {name:?}: {line}")).collect();
    Ok(Prepared {
        database: database.clone(),
        attempt,
        leader,
        encoding,
        toc: put_toc(vault, outline.toc, &references)?,
        plan,
        extensions,
        types,
        losses,
        notes,
    })
}

/// Large objects that can't be read stay in the table of contents, empty, and in the list of
/// losses.
fn leave_out(plan: &mut Plan, unreadable: &Unreadable) {
    if unreadable.0.is_empty() {
        return;
    }
    for entry in &mut plan.entries {
        if let EntrySource::LargeObjects { oids } = &mut entry.source {
            // The slices stay where they were, so that their cuts do.
            for oid in oids.iter_mut().filter(|oid| unreadable.0.contains(oid)) {
                *oid = 0;
            }
        }
    }
}

/// The plan as it is kept with the run.
#[derive(Serialize)]
struct PlanRecord<'a> {
    database: &'a str,
    attempt: u32,
    snapshot: &'a str,
    entries: Vec<PlanEntryRecord<'a>>,
}

#[derive(Serialize)]
struct PlanEntryRecord<'a> {
    dump_id: i32,
    name: &'a str,
    cut: contents::Cut,
    slices: u64,
}

/// Reads all data of a prepared database into the vault.
pub(crate) fn dump(run: &Run<'_>, mut prepared: Prepared) -> Result<Dumped, BackupError> {
    let tools = run.tools;
    let name = prepared.database.name.clone();
    let before = tools.progress.read();
    tools.progress.phase(&name);
    let with_data = prepared.plan.entries.iter().filter(|e| e.slices > 0).count() as u64;
    tools.progress.planned(with_data, prepared.plan.bytes);
    let place = JournalPlace {
        server: run.server.clone(),
        run: run.id.clone(),
        folder: format!("database-{}/attempt-{}", prepared.database.oid, prepared.attempt),
    };
    write_plan(run, &prepared, &place)?;
    let done = read_data(run, &mut prepared, place)
        .and_then(|done| {
            tools.uploads.drain()?;
            Ok(done)
        })
        .inspect_err(|_| tools.progress.go_back(&before))?;
    // What earlier attempts uploaded counts too: it is in the vault because of this backup.
    let uploaded = tools.uploads.take_uploaded();
    // Ends the transaction and with it the locks, before the rest is written.
    let Prepared {
        database,
        attempt,
        mut leader,
        encoding,
        toc,
        plan,
        extensions,
        types,
        losses,
        notes,
    } = prepared;
    session::run(&mut leader.connection, &name, "ending the snapshot", "COMMIT")?;
    let altered = types.refuse_altered(&mut leader.connection, &name);
    altered.inspect_err(|_| tools.progress.go_back(&before))?;
    let (snapshot_time, _) = (leader.time, leader.connection.close());
    let vault = &run.tools.vault;
    let (contents, mut totals) = write_done(vault, &plan.entries, done, &run.tools.known)?;
    totals.new_chunks = uploaded.new_chunks;
    totals.new_stored_bytes = uploaded.new_bytes;
    let summary = DatabaseSummary {
        name: database.name,
        oid: database.oid,
        encoding,
        snapshot_time,
        attempts: attempt,
        toc,
        contents,
        extensions,
        totals,
        holders: Vec::new(),
    };
    Ok(Dumped { summary, losses, notes })
}

fn write_plan(run: &Run<'_>, prepared: &Prepared, place: &JournalPlace) -> Result<(), BackupError> {
    let record = PlanRecord {
        database: &prepared.database.name,
        attempt: prepared.attempt,
        snapshot: &prepared.leader.snapshot,
        entries: prepared
            .plan
            .entries
            .iter()
            .map(|e| PlanEntryRecord {
                dump_id: e.dump_id,
                name: &e.name,
                cut: e.cut,
                slices: e.slices,
            })
            .collect(),
    };
    let text = serde_json::to_vec(&record).expect("text and numbers are always JSON");
    let object = format!("{}/plan.json", place.folder);
    run.tools.vault.put_run_object(&place.server, &place.run, &object, &text, PutMode::Create)?;
    Ok(())
}

/// Runs the lanes until all is read, or one has failed.
fn read_data(
    run: &Run<'_>,
    prepared: &mut Prepared,
    place: JournalPlace,
) -> Result<Vec<SliceDone>, BackupError> {
    let items = std::mem::take(&mut prepared.plan.items);
    let lanes = run.options.lanes.min(items.len());
    let name = prepared.database.name.as_str();
    let work = Work::new(name, &prepared.plan.entries, items, run.tools, place, &run.turn);
    let leader = &mut prepared.leader;
    std::thread::scope(|scope| {
        let mut helpers = Vec::new();
        for _ in 1..lanes {
            let helping = work.helper_starts();
            let (work, snapshot) = (&work, leader.snapshot.as_str());
            helpers.push(scope.spawn(move || {
                let _helping = helping;
                let kept_free = run.options.keep_connections_free;
                lane::help(run.target, &run.connect, snapshot, kept_free, work);
            }));
        }
        lane::lead(&mut leader.connection, &work);
        for helper in helpers {
            // A panic is among the failures of the work already.
            let _ = helper.join();
        }
    });
    let result = work.into_result();
    if matches!(result, Err(BackupError::UploadFailed)) {
        run.tools.uploads.drain()?;
    }
    result
}

/// Puts the slices into the order of the table of contents, and refuses to go on unless every one
/// is there exactly once.
fn write_done(
    vault: &Vault,
    entries: &[PlannedEntry],
    mut done: Vec<SliceDone>,
    known: &KnownChunks,
) -> Result<(ObjectRef, Totals), BackupError> {
    done.sort_unstable_by_key(|slice| (slice.entry, slice.slice));
    let mut done = done.into_iter().peekable();
    let written = write_contents(vault, entries, |entry, number| {
        let slice = done
            .next_if(|slice| slice.entry == entry && slice.slice == number)
            .ok_or_else(|| missing_slice(&entries[entry], number))?;
        let mut chunks = slice.chunks;
        for chunk in &mut chunks {
            chunk.stored_bytes = known.stored_bytes(&chunk.hash).ok_or_else(|| {
                BackupError::Internal(format!("chunk {} is not in the vault", chunk.hash))
            })?;
        }
        Ok(SliceDone { chunks, ..slice })
    })?;
    if let Some(extra) = done.next() {
        return Err(missing_slice(&entries[extra.entry], extra.slice));
    }
    Ok(written)
}

/// Writes the contents list of a database. `slice` gives what was read of a slice of an entry, and
/// is asked for each one once, in the order of the table of contents.
pub(crate) fn write_contents(
    vault: &Vault,
    entries: &[PlannedEntry],
    mut slice: impl FnMut(usize, u64) -> Result<SliceDone, BackupError>,
) -> Result<(ObjectRef, Totals), BackupError> {
    let mut writer = ContentsWriter::new()?;
    let mut totals = Totals::default();
    for (index, planned) in entries.iter().enumerate() {
        let mut entry = contents::Entry {
            dump_id: planned.dump_id,
            kind: planned.kind(),
            schema: planned.schema.clone(),
            name: planned.name.clone(),
            oid: planned.oid,
            rows: 0,
            cut: planned.cut,
            chunks: Vec::new(),
        };
        for number in 0..planned.slices {
            let done = slice(index, number)?;
            entry.rows += done.rows;
            entry.chunks.extend(done.chunks);
        }
        totals += entry_totals(&entry);
        writer.push(&entry)?;
    }
    Ok((writer.finish(vault)?, totals))
}

pub(crate) fn missing_slice(entry: &PlannedEntry, slice: u64) -> BackupError {
    BackupError::Internal(format!(
        "slice {slice} of {} of {:?} was read not once",
        entry.slices, entry.name
    ))
}

fn entry_totals(entry: &contents::Entry) -> Totals {
    let sum = |of: fn(&contents::ChunkRef) -> u32| {
        entry.chunks.iter().map(|chunk| u64::from(of(chunk))).sum::<u64>()
    };
    let is_table = entry.kind == EntryKind::Table;
    Totals {
        tables: u64::from(is_table),
        rows: if is_table { entry.rows } else { 0 },
        large_objects: if is_table { 0 } else { entry.rows },
        raw_bytes: sum(|chunk| chunk.raw_bytes),
        stored_bytes: sum(|chunk| chunk.stored_bytes),
        chunks: entry.chunks.len() as u64,
        new_chunks: 0,
        new_stored_bytes: 0,
    }
}

/// Stores the table of contents, as the beginning of an archive of zstd frames.
pub(crate) fn put_toc(
    vault: &Vault,
    toc: Toc,
    references: &[order::Reference],
) -> Result<ObjectRef, BackupError> {
    let failed = |error: &dyn std::fmt::Display| {
        BackupError::Internal(format!("pg_dump's table of contents: {error}"))
    };
    let version = toc.header().version.max(Version::V1_15);
    let toc = toc.to_version(version).map_err(|error| failed(&error))?;
    let toc = toc.with_compression(Compression::Zstd).map_err(|error| failed(&error))?;
    let toc = attver::leave_out(toc).map_err(|error| failed(&error))?;
    let toc = order::complete(toc, references).map_err(|error| failed(&error))?;
    // Of many tables it is larger than all else that planning needs.
    Ok(vault.put_meta_with(|mut out| toc.write_to(&mut out))?)
}

/// How long to wait after so many attempts: 1, 2, 4, ... seconds, at most 30. A replica that
/// cancelled the last one gets more time: 10, 20, 40 seconds, then a minute.
pub(crate) fn pause_after(attempts: u32, recovery_conflict: bool) -> Duration {
    let (first, most) = if recovery_conflict { (10, 60) } else { (1, 30) };
    let doubled = attempts.saturating_sub(1).min(5);
    Duration::from_secs((first << doubled).min(most))
}

/// Waits before the next attempt.
pub(crate) fn pause(run: &Run<'_>, attempt: u32, recovery_conflict: bool) {
    let pause = pause_after(attempt, recovery_conflict);
    let steps = pause.as_millis() / 100;
    for _ in 0..steps {
        if run.tools.progress.is_cancelled() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
