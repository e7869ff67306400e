//! How far a run of several lanes is, from what lies in the vault: no server is asked.

use std::collections::BTreeSet;

use flexkeep_vault::{RunId, ServerName, Vault};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::join::Stage;
use super::sign::{LaneSign, Sighting, lane_signs};
use super::state::{self, Baton, DatabaseDone, Lost, RunObjects, ServerPlan};
use crate::error::BackupError;
use crate::progress::ProgressReading;
use crate::report::RunProgress;
use crate::source::Database;

/// How old the last sign of a lane may be before it counts as silent: several times as old as they
/// get, and the clocks of two machines apart.
const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// A lane, as its last sign shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneProgress {
    /// Which lane, from 0.
    pub lane: u32,
    /// How many were in this lane before the one that works in it now.
    pub generation: u32,
    /// The machine that it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it gave its last sign, on that machine's clock.
    pub at: Timestamp,
    /// Whether that is so long ago that it is dead, or cut off from the vault.
    pub silent: bool,
    /// The database that it reads.
    #[serde(default)]
    pub database: Option<String>,
    /// Which of that database's snapshots it holds, from 1.
    #[serde(default)]
    pub snapshot: Option<u32>,
    /// Its time is up, and it waits for its successor.
    #[serde(default)]
    pub leaving: bool,
    /// Why it does not work now, without secrets.
    #[serde(default)]
    pub resting: Option<String>,
    /// Bytes of data that it reads per second; 0 when it is silent.
    pub bytes_per_second: u64,
}

/// How far one database of a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseProgress {
    /// The database.
    pub database: String,
    /// How far, in a word.
    pub state: DatabaseState,
    /// Its size on the server's disk, indexes included, bytes.
    pub total_bytes: u64,
    /// How much of that counts as done.
    pub done_bytes: u64,
    /// Which of its snapshots is read, from 1; 0 before the first one.
    pub snapshot: u32,
    /// Items of work of that snapshot, 0 where no lane has said it.
    pub items: u64,
    /// Those that are read and written down.
    pub items_done: u64,
    /// Lanes that hold the snapshot now, as far as their signs tell.
    pub holders: u32,
    /// Connections that have held the snapshot so far, those that hold it now included.
    pub holders_so_far: u64,
    /// Since when the snapshot is held.
    #[serde(default)]
    pub held_since: Option<Timestamp>,
    /// Snapshots that were given up, oldest first.
    #[serde(default)]
    pub lost: Vec<LostSnapshot>,
}

/// How far a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseState {
    /// No snapshot of it is planned yet, or none again after one was given up.
    Waiting,
    /// Its data is read.
    Reading,
    /// All of it is in the vault.
    Done,
    /// It was dropped meanwhile.
    Dropped,
}

/// A snapshot that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostSnapshot {
    /// Which, from 1.
    pub snapshot: u32,
    /// When.
    pub at: Timestamp,
    /// Why, without secrets.
    pub reason: String,
}

/// How far a run of several lanes is, `None` if it has none that gave a sign.
pub(crate) fn relay_progress(
    vault: &Vault,
    server: &ServerName,
    run: &RunId,
) -> Result<Option<RunProgress>, BackupError> {
    let signs = lane_signs(vault, server, run)?;
    let objects = RunObjects { vault: vault.clone(), server: server.clone(), run: run.clone() };
    let Some(at) = signs.iter().map(|sign| sign.at).max() else { return Ok(None) };
    let Some(plan) = objects.get::<ServerPlan>(state::SERVER)? else { return Ok(None) };
    let now = Timestamp::now();
    let look = Look { objects, signs, now };
    let mut reading = ProgressReading::default();
    let mut databases = Vec::with_capacity(plan.databases.len());
    for (database, &size) in plan.databases.iter().zip(&plan.sizes) {
        let (progress, objects) = look.database(database, size)?;
        reading.total_bytes += size;
        reading.done_bytes += progress.done_bytes;
        reading.objects_done += objects.0;
        reading.objects_total += objects.1;
        databases.push(progress);
    }
    for sign in &look.signs {
        let amounts = sign.amounts();
        reading.read_bytes += amounts.read_bytes;
        reading.stored_bytes += amounts.stored_bytes;
    }
    let lanes: Vec<LaneProgress> = look.signs.iter().map(|sign| look.lane(sign)).collect();
    reading.phase = phase(&lanes);
    Ok(Some(RunProgress {
        at,
        bytes_per_second: lanes.iter().map(|lane| lane.bytes_per_second).sum(),
        seconds_left: seconds_left(&reading, &databases, now),
        reading,
        lanes,
        databases,
    }))
}

/// `2 lanes on shop, crm`, without the lanes that are silent.
fn phase(lanes: &[LaneProgress]) -> String {
    let at_work = lanes.iter().filter(|lane| !lane.silent && lane.database.is_some());
    let names: BTreeSet<&str> =
        at_work.clone().filter_map(|lane| lane.database.as_deref()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    match at_work.count() {
        0 => "no lane at work".to_owned(),
        1 => format!("1 lane on {}", names.join(", ")),
        count => format!("{count} lanes on {}", names.join(", ")),
    }
}

/// The time left if it goes on as it went since the snapshots that are read now were taken.
fn seconds_left(
    reading: &ProgressReading,
    databases: &[DatabaseProgress],
    now: Timestamp,
) -> Option<u64> {
    let at_work = databases.iter().filter(|one| one.state == DatabaseState::Reading);
    let per_second: f64 = at_work
        .filter_map(|one| {
            let seconds = now.duration_since(one.held_since?).as_secs_f64();
            (seconds >= 1.0).then(|| one.done_bytes as f64 / seconds)
        })
        .sum();
    let left = reading.total_bytes.saturating_sub(reading.done_bytes);
    (per_second >= 1.0).then(|| (left as f64 / per_second).ceil() as u64)
}

/// What was found in a run at one moment.
struct Look {
    objects: RunObjects,
    signs: Vec<LaneSign>,
    now: Timestamp,
}

impl Look {
    fn is_silent(&self, sign: &LaneSign) -> bool {
        self.now.duration_since(sign.at) > SILENT_AFTER
    }

    fn lane(&self, sign: &LaneSign) -> LaneProgress {
        let silent = self.is_silent(sign);
        LaneProgress {
            lane: sign.lane,
            generation: sign.generation,
            host: sign.host.clone(),
            pid: sign.pid,
            at: sign.at,
            silent,
            database: sign.on.as_ref().map(|on| on.database.clone()),
            snapshot: sign.on.as_ref().map(|on| on.attempt),
            leaving: sign.leaving,
            resting: sign.resting.clone(),
            bytes_per_second: if silent { 0 } else { sign.bytes_per_second },
        }
    }

    /// How far a database is, and how many of its objects are done, of how many.
    fn database(
        &self,
        database: &Database,
        size: u64,
    ) -> Result<(DatabaseProgress, (u64, u64)), BackupError> {
        let mut progress = DatabaseProgress {
            database: database.name.clone(),
            state: DatabaseState::Waiting,
            total_bytes: size,
            done_bytes: 0,
            snapshot: 0,
            items: 0,
            items_done: 0,
            holders: 0,
            holders_so_far: 0,
            held_since: None,
            lost: Vec::new(),
        };
        let stage = Stage::of(&self.objects, database.oid)?;
        progress.snapshot = stage.attempt;
        let lost = if stage.lost { stage.attempt } else { stage.attempt.saturating_sub(1) };
        for attempt in 1..=lost {
            progress.lost.extend(self.lost(database.oid, attempt)?);
        }
        if stage.done {
            progress.done_bytes = size;
            let objects = self.done(database, &mut progress)?;
            return Ok((progress, (objects, objects)));
        }
        if stage.attempt == 0 || stage.lost {
            return Ok((progress, (0, 0)));
        }
        progress.state = DatabaseState::Reading;
        self.hands(database.oid, stage.attempt, &mut progress)?;
        let objects = self.seen(database.oid, stage.attempt, &mut progress);
        Ok((progress, objects))
    }

    fn lost(&self, oid: u32, attempt: u32) -> Result<Option<LostSnapshot>, BackupError> {
        let name = state::lost_name(&state::attempt_folder(oid, attempt));
        let lost = self.objects.get::<Lost>(&name)?;
        Ok(lost.map(|Lost { reason, at, .. }| LostSnapshot { snapshot: attempt, at, reason }))
    }

    /// What the record of a database that is done says; gives the number of its objects.
    fn done(
        &self,
        database: &Database,
        progress: &mut DatabaseProgress,
    ) -> Result<u64, BackupError> {
        progress.state = DatabaseState::Done;
        let done: Option<DatabaseDone> = self.objects.get(&state::done_name(database.oid))?;
        // Gone with its run, which has just ended.
        let Some(done) = done else { return Ok(0) };
        let Some(summary) = done.summary else {
            progress.state = DatabaseState::Dropped;
            return Ok(0);
        };
        progress.snapshot = summary.attempts;
        progress.holders_so_far = summary.holders.len() as u64;
        progress.held_since = summary.holders.first().map(|holder| holder.since);
        Ok(summary.totals.tables + u64::from(summary.totals.large_objects > 0))
    }

    /// Through whose hands a snapshot went, since when, and how many lanes hold it.
    fn hands(
        &self,
        oid: u32,
        attempt: u32,
        progress: &mut DatabaseProgress,
    ) -> Result<(), BackupError> {
        let folder = state::attempt_folder(oid, attempt);
        let held = self.objects.names(&state::baton_prefix(&folder))?;
        let left = self.objects.names(&state::left_prefix(&folder))?;
        // The first of all has the lowest generation, which is the beginning of its name.
        let first = [left.first(), held.first()].into_iter().flatten();
        let first: Vec<Baton> = first
            .filter_map(|name| self.objects.get(name).transpose())
            .collect::<Result<_, _>>()?;
        progress.held_since = first.iter().map(|baton| baton.holder.since).min();
        // Who was killed while it left has both.
        let hands: BTreeSet<&str> =
            held.iter().chain(&left).filter_map(|name| state::holder_of(name)).collect();
        progress.holders_so_far = hands.len() as u64;
        let holding: BTreeSet<u32> =
            held.iter().filter_map(|name| state::lane_of(state::holder_of(name)?)).collect();
        let at_work = self.signs.iter().filter(|sign| {
            !self.is_silent(sign) && sign.resting.is_none() && holding.contains(&sign.lane)
        });
        progress.holders = u32::try_from(at_work.count()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Adds what the lanes say of a snapshot; gives its objects that are done, and all. A lane knows
    /// its own share, and sooner or later the others' too: whichever is more is nearer.
    fn seen(&self, oid: u32, attempt: u32, progress: &mut DatabaseProgress) -> (u64, u64) {
        let of_it = |on: &&Sighting| on.oid == oid && on.attempt == attempt;
        let seen: Vec<&Sighting> =
            self.signs.iter().filter_map(|sign| sign.on.as_ref()).filter(of_it).collect();
        let Some(any) = seen.first() else { return (0, 0) };
        let nearer = |all: fn(&Sighting) -> u64, own: fn(&Sighting) -> u64| {
            let most = seen.iter().map(|on| all(on)).max().unwrap_or_default();
            most.max(seen.iter().map(|on| own(on)).sum())
        };
        progress.items = any.items as u64;
        progress.items_done =
            nearer(|on| on.items_done as u64, |on| on.own_items_done as u64).min(progress.items);
        let at_work = self.signs.iter().filter(|sign| !self.is_silent(sign));
        let in_hand: u64 = at_work
            .filter_map(|sign| sign.on.as_ref())
            .filter(of_it)
            .map(|on| on.bytes_in_hand)
            .sum();
        let done = nearer(|on| on.bytes_done, |on| on.own_bytes_done) + in_hand;
        let (done, bytes) = (done.min(any.bytes), any.bytes.max(1));
        let part = u128::from(progress.total_bytes) * u128::from(done) / u128::from(bytes);
        progress.done_bytes = u64::try_from(part).unwrap_or(progress.total_bytes);
        let objects = nearer(|on| on.objects_done, |on| on.own_objects_done).min(any.objects);
        (objects, any.objects)
    }
}
