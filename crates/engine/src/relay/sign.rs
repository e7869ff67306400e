//! Signs of life: how far each lane is, for people and for whoever wonders whether a run is dead.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flexkeep_vault::store::PutMode;
use flexkeep_vault::{RunId, ServerName, Vault};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::lane::Member;
use super::state::{self, RunObjects, ServerPlan};
use crate::backup;
use crate::error::{BackupError, chain};
use crate::progress::ProgressReading;
use crate::report::RunProgress;

/// How old the sign of a lane that is surely alive may be.
pub(super) const FRESH: SignedDuration = SignedDuration::from_secs(15);

/// How often a lane writes a sign.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// A lane's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSign {
    /// Which lane, from 0.
    pub lane: u32,
    /// How many were in this lane before.
    pub generation: u32,
    /// The machine that it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When this was written.
    pub at: Timestamp,
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Sighting>,
    /// Its session's process on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<i32>,
    /// Its time is up, and it waits for its successor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// Bytes of data it read per second since the sign before.
    pub bytes_per_second: u64,
    /// Its own counters.
    pub reading: ProgressReading,
}

/// What a lane works on, and how far that is by all lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The database.
    pub database: String,
    /// Its oid.
    pub oid: u32,
    /// Which of its snapshots, from 1.
    pub attempt: u32,
    /// Items of work.
    pub items: usize,
    /// Those that the lane knows to be done.
    pub items_done: usize,
    /// Those of them that are its own share: those of all lanes are together what is done.
    #[serde(default)]
    pub own_items_done: usize,
}

impl Member<'_> {
    /// Says what this lane works on, in the signs to come.
    pub(super) fn is_on(&self, on: Option<(Sighting, i32)>) {
        *self.on.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = on;
    }

    /// Writes a sign if it is time for one. Without it nothing is lost but the news.
    pub(super) fn sign(&self) {
        let mut signed = self.signed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if signed.is_some_and(|(at, _)| at.elapsed() < SIGN_EVERY) {
            return;
        }
        let reading = self.tools.progress.read();
        let bytes_per_second = signed.map_or(0, |(at, before)| {
            let millis = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            reading.read_bytes.saturating_sub(before).saturating_mul(1000) / millis
        });
        *signed = Some((Instant::now(), reading.read_bytes));
        let on = self.on.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let sign = LaneSign {
            lane: self.lane.lane,
            generation: self.lane.generation,
            host: backup::hostname(),
            pid: std::process::id(),
            at: Timestamp::now(),
            backend: on.as_ref().map(|(_, backend)| *backend),
            on: on.map(|(on, _)| on),
            leaving: self.is_over_budget(),
            bytes_per_second,
            reading,
        };
        let name = state::lane_name(self.lane.lane);
        if let Err(error) = self.objects.put(&name, &sign, PutMode::Overwrite) {
            tracing::warn!("cannot write the sign of lane {}: {}", sign.lane, chain(&error));
        }
    }
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
    let mut reading = ProgressReading::default();
    for (database, &size) in plan.databases.iter().zip(&plan.sizes) {
        reading.total_bytes += size;
        let mut on: Vec<&Sighting> = signs.iter().filter_map(|sign| sign.on.as_ref()).collect();
        on.retain(|on| on.oid == database.oid);
        let newest = on.iter().map(|on| on.attempt).max();
        on.retain(|on| Some(on.attempt) == newest);
        if objects.has(&state::done_name(database.oid))? {
            reading.done_bytes += size;
        } else if let Some(any) = on.first() {
            let most = on.iter().map(|on| on.items_done).max().unwrap_or_default();
            let sum = on.iter().map(|on| on.own_items_done).sum::<usize>();
            let (done, items) = (most.max(sum).min(any.items), any.items.max(1));
            let part = u128::from(size) * done as u128 / items as u128;
            reading.done_bytes += u64::try_from(part).unwrap_or(size);
        }
    }
    for sign in &signs {
        reading.read_bytes += sign.reading.read_bytes;
        reading.stored_bytes += sign.reading.stored_bytes;
        reading.objects_done += sign.reading.objects_done;
    }
    reading.objects_total =
        signs.iter().map(|sign| sign.reading.objects_total).max().unwrap_or_default();
    let lanes = signs.iter().filter(|sign| sign.on.is_some()).count();
    let names: BTreeSet<&str> =
        signs.iter().filter_map(|sign| sign.on.as_ref()).map(|on| on.database.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    reading.phase = format!("{lanes} lanes on {}", names.join(", "));
    let bytes_per_second = signs.iter().map(|sign| sign.bytes_per_second).sum();
    Ok(Some(RunProgress { at, bytes_per_second, reading }))
}

/// Whether a sign is so new that its lane is surely at work.
pub(super) fn is_fresh(sign: &LaneSign) -> bool {
    Timestamp::now().duration_since(sign.at) < FRESH
}

/// The last signs of a run's lanes, in their order; none of a run without a relay.
pub fn lane_signs(
    vault: &Vault,
    server: &ServerName,
    run: &RunId,
) -> Result<Vec<LaneSign>, BackupError> {
    let objects = RunObjects { vault: vault.clone(), server: server.clone(), run: run.clone() };
    let mut signs = Vec::new();
    for name in objects.names("lane-")? {
        signs.extend(objects.get::<LaneSign>(&name)?);
    }
    signs.sort_by_key(|sign| sign.lane);
    Ok(signs)
}
