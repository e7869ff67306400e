//! Signs of life: how far each lane is, for people and for whoever wonders whether a run is dead.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flexkeep_vault::store::PutMode;
use flexkeep_vault::{RunId, RunState, ServerName, Vault};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::LaneEnd;
use super::lane::Member;
use super::state::{self, RunObjects};
use crate::backup;
use crate::error::{BackupError, chain};
use crate::progress::ProgressReading;

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
    /// Which of the lanes that this process has worked as: the same message may be delivered to it
    /// twice.
    #[serde(default)]
    pub nth: u64,
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
    /// It does not work now, and why; a later message may start it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resting: Option<String>,
    /// Bytes of data it read per second since the sign before.
    pub bytes_per_second: u64,
    /// Its own counters.
    pub reading: ProgressReading,
    /// What those that were in this lane before have read and stored, as far as they said so.
    #[serde(default)]
    pub before: Amounts,
}

/// Bytes that went through a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Bytes of data read (COPY text).
    pub read_bytes: u64,
    /// Bytes written to the vault.
    pub stored_bytes: u64,
}

impl LaneSign {
    /// What went through the lane so far, through whatever hands.
    pub fn amounts(&self) -> Amounts {
        Amounts {
            read_bytes: self.before.read_bytes.saturating_add(self.reading.read_bytes),
            stored_bytes: self.before.stored_bytes.saturating_add(self.reading.stored_bytes),
        }
    }
}

/// What a lane remembers from sign to sign.
#[derive(Debug, Default)]
pub(super) struct Signed {
    /// When the last one was written, and the bytes that were read then.
    last: Option<(Instant, u64)>,
    before: Amounts,
    /// How fast the one before was, until this one knows its own speed.
    speed_before: u64,
}

/// What a lane says of its work between two items.
#[derive(Clone, Debug)]
pub(super) struct On {
    pub(super) sighting: Sighting,
    /// Its session's process on the server.
    pub(super) backend: i32,
    /// What its progress counted as done then.
    pub(super) done_bytes: u64,
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
    /// The data on the server's disk, bytes.
    #[serde(default)]
    pub bytes: u64,
    /// What of it the items are that the lane knows to be done.
    #[serde(default)]
    pub bytes_done: u64,
    /// What of that is its own share.
    #[serde(default)]
    pub own_bytes_done: u64,
    /// What this lane has read of items that are not done.
    #[serde(default)]
    pub bytes_in_hand: u64,
    /// Tables and groups of large objects.
    #[serde(default)]
    pub objects: u64,
    /// Those of which the lane knows every item to be done.
    #[serde(default)]
    pub objects_done: u64,
    /// Those of them that are wholly of its own share.
    #[serde(default)]
    pub own_objects_done: u64,
}

impl Member<'_> {
    /// Says what this lane works on, in the signs to come.
    pub(super) fn is_on(&self, on: Option<On>) {
        *self.on.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = on;
    }

    /// Writes a sign if it is time for one. Without it nothing is lost but the news.
    pub(super) fn sign(&self) {
        let mut signed = self.signed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if signed.last.is_some_and(|(at, _)| at.elapsed() < SIGN_EVERY) {
            return;
        }
        self.take_over(&mut signed);
        // Who has the place speaks for the lane.
        if !self.is_silent() {
            self.write_sign(&mut signed, None);
        }
    }

    /// Whether this one has neither the lane's place nor a right to it, while somebody else is at
    /// work as this lane.
    fn is_silent(&self) -> bool {
        !self.placed.load(Ordering::Relaxed) && self.rival().is_some()
    }

    /// Remembers the lane's sign if somebody else gave it, who is at work.
    pub(super) fn note_rival(&self, sign: &LaneSign) {
        if !self.is_own(sign) && sign.resting.is_none() {
            let mut rival = self.rival.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *rival = Some((sign.generation, sign.at));
        }
    }

    /// The generation of somebody else who is at work as this lane, from his last sign: this one's
    /// own would replace it.
    pub(super) fn rival(&self) -> Option<u32> {
        let rival = self.rival.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rival.filter(|(_, at)| Timestamp::now().duration_since(*at) < FRESH).map(|(who, _)| who)
    }

    /// The last sign of this one, for whoever comes after, if the end is not the run's own.
    pub(super) fn sign_off(&self, result: &Result<LaneEnd, BackupError>) {
        let resting = match result {
            Ok(LaneEnd::HandedOver) => None,
            Ok(LaneEnd::NoRoom(why)) => Some(why.clone()),
            Err(error) if error.may_pass() && !matches!(error, BackupError::RunOver) => {
                Some(chain(error))
            }
            _ => return,
        };
        if self.is_silent() {
            return;
        }
        // A run that is over was removed: nothing shall be written into it any more.
        if !matches!(self.objects.state(), Ok(Some(RunState::Running))) {
            return;
        }
        let mut signed = self.signed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.write_sign(&mut signed, resting);
    }

    /// Takes over the sums of the one before. While that one is at work too, both write the sign in
    /// turn, so this is done again at each of them.
    fn take_over(&self, signed: &mut Signed) {
        let name = state::lane_name(self.lane.lane);
        let Ok(Some(sign)) = self.objects.get::<LaneSign>(&name) else { return };
        self.note_rival(&sign);
        // A second delivery of this very lane counts for itself, once both are at work.
        let is_before = sign.generation < self.lane.generation
            || (sign.generation == self.lane.generation && signed.last.is_none());
        if is_before && !self.is_own(&sign) {
            signed.before = sign.amounts();
            signed.speed_before = if is_fresh(&sign) { sign.bytes_per_second } else { 0 };
        }
    }

    fn write_sign(&self, signed: &mut Signed, resting: Option<String>) {
        let reading = self.tools.progress.read();
        let bytes_per_second = signed.last.map_or(signed.speed_before, |(at, before)| {
            let millis = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            reading.read_bytes.saturating_sub(before).saturating_mul(1000) / millis
        });
        signed.last = Some((Instant::now(), reading.read_bytes));
        let on = self.on.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut sign = LaneSign {
            lane: self.lane.lane,
            generation: self.lane.generation,
            host: backup::hostname(),
            pid: std::process::id(),
            nth: self.nth,
            at: Timestamp::now(),
            backend: on.as_ref().map(|on| on.backend),
            on: on.map(|on| {
                let since = reading.done_bytes.saturating_sub(on.done_bytes);
                let bytes_in_hand = on.sighting.bytes_in_hand + since;
                Sighting { bytes_in_hand, ..on.sighting }
            }),
            leaving: self.is_over_budget(),
            resting,
            bytes_per_second,
            reading,
            before: signed.before,
        };
        if sign.resting.is_some() {
            (sign.on, sign.backend, sign.bytes_per_second) = (None, None, 0);
        }
        let name = state::lane_name(self.lane.lane);
        if let Err(error) = self.objects.put(&name, &sign, PutMode::Overwrite) {
            tracing::warn!("cannot write the sign of lane {}: {}", sign.lane, chain(&error));
        }
    }
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
