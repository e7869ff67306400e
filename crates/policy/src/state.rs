//! What a schedule remembers of one server, and what is to be done at a tick.
//!
//! # Promises
//! - An instant is sent at most once, whatever the clock does: only instants after the last sent
//!   one are. Ticks may come at any distance, also twice.
//! - Of instants that were missed only the latest is sent.
//! - One event for an instant that is overdue, one for each change between daily and weekly.
//!
//! # Consistency
//! [`ScheduleState::tick`] and [`ScheduleState::outcome`] are pure. The caller stores the new state
//! where a second writer is found out (an etag), and sends before it stores: if it dies in
//! between, the next tick sends the same instant again, and a message id made of server and instant
//! keeps that without effect. A state that is lost costs one backup more.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::schedule::{Every, Schedule};
use crate::server::ServerPolicy;

/// Failures in a row after which a daily policy falls back to weekly backups.
pub const FAILURES_TO_FALL_BACK: u32 = 2;

/// How long after its instant (or after the server was first seen) a backup must be there.
pub const OVERDUE_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// A backup that is sent later than this after its instant is said to be caught up.
const CATCH_UP_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// A clock this far before the last sent instant is reported.
const CLOCK_BEHIND_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// Missed instants are counted up to this.
const MOST_MISSED: u32 = 1000;

/// What is remembered of one server from one tick to the next. The default is that of a server
/// never seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleState {
    /// The latest instant that was sent.
    pub last_sent: Option<Timestamp>,
    /// The latest instant whose backup succeeded.
    pub last_success: Option<Timestamp>,
    /// The latest instant whose backup failed for good.
    pub last_failure: Option<Timestamp>,
    /// Backups that failed in a row.
    pub consecutive_failures: u32,
    /// Whether a daily policy has fallen back to weekly backups.
    pub degraded: bool,
    /// The latest instant that was reported as overdue.
    pub overdue_reported_for: Option<Timestamp>,
    /// The last sent instant that the clock was reported to be behind of.
    pub clock_reported_for: Option<Timestamp>,
    /// The policy's schedule at the last tick, to notice that it was edited.
    pub schedule: Option<String>,
    /// The last instant that was left out after an edit.
    pub left_out: Option<LeftOut>,
    /// When ticks of this schedule began: new server, edited schedule, enabled again, fallen
    /// back, restored.
    pub since: Option<Timestamp>,
}

/// An instant that was past already when the schedule was edited, and that needs no backup of its
/// own, as one came shortly before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The instant.
    pub instant: Timestamp,
    /// The instant that was sent before it.
    pub covered_by: Timestamp,
}

/// What a tick found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The backup to send now.
    pub due: Option<Due>,
    /// A backup that is late, to be told once.
    pub overdue: Option<Overdue>,
    /// The clock is before what was sent, to be told once.
    pub clock_behind: Option<ClockBehind>,
    /// A change of rhythm, to be told.
    pub transition: Option<Transition>,
    /// When the next backup is due; `None` while the server is disabled.
    pub next: Option<Timestamp>,
    /// What to remember from now on.
    pub state: ScheduleState,
}

/// A backup that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Its scheduled instant, which makes its identity.
    pub instant: Timestamp,
    /// Whether it comes more than an hour after its instant.
    pub catch_up: bool,
    /// Instants before it that were never sent, because no tick came in their time.
    pub missed: u32,
}

/// No backup succeeded a day after the instant that it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overdue {
    /// The instant.
    pub instant: Timestamp,
    /// The latest instant that has a backup.
    pub last_success: Option<Timestamp>,
}

/// The clock is more than a day before an instant that was sent already. Nothing is sent until the
/// clock has passed it. If the clock was wrong when that was sent, remove the server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockBehind {
    /// The instant that was sent.
    pub last_sent: Timestamp,
}

/// How a backup ended, after all of its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is sealed.
    Success,
    /// It is not, and is not tried again.
    Failure,
}

/// A change between daily and weekly backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "transition")]
pub enum Transition {
    /// Daily backups failed this often in a row; they are weekly until one succeeds.
    FellBack {
        /// Failures in a row.
        failures: u32,
    },
    /// The schedule of the policy holds again.
    Restored {
        /// Why.
        reason: RestoreReason,
    },
}

/// Why the schedule of the policy holds again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreReason {
    /// A backup succeeded.
    BackupSucceeded,
    /// The schedule was edited.
    ScheduleEdited,
}

impl ScheduleState {
    /// The schedule that holds: the policy's, or the weekly one that it has fallen back to.
    pub fn effective(&self, policy: &ServerPolicy) -> Schedule {
        if self.degraded { policy.schedule().weekly() } else { policy.schedule().clone() }
    }

    /// What is to be done at `now`, and the state after it.
    pub fn tick(&self, policy: &ServerPolicy, now: Timestamp) -> Tick {
        let mut state = self.clone();
        if !policy.enabled() {
            state.since = None;
            return Tick {
                due: None,
                overdue: None,
                clock_behind: None,
                transition: None,
                next: None,
                state,
            };
        }
        let transition = state.notice_edit(policy.schedule());
        let since = *state.since.get_or_insert(now);
        let schedule = state.effective(policy);
        let due = state.due(&schedule, since, now);
        if let Some(due) = due {
            state.last_sent = Some(due.instant);
        }
        let overdue = state.overdue(&schedule, since, now);
        if let Some(overdue) = overdue {
            state.overdue_reported_for = Some(overdue.instant);
        }
        let clock_behind = state.clock_behind(now);
        if let Some(behind) = clock_behind {
            state.clock_reported_for = Some(behind.last_sent);
        }
        let next = Some(schedule.next_instant(state.last_sent.unwrap_or(now).max(now)));
        Tick { due, overdue, clock_behind, transition, next, state }
    }

    /// Records how the backup of an instant ended. The same outcome may be recorded again.
    pub fn outcome(
        &mut self,
        policy: &ServerPolicy,
        instant: Timestamp,
        outcome: Outcome,
    ) -> Option<Transition> {
        let instant = Some(instant);
        // After a state was lost: what was made need not be sent.
        self.last_sent = self.last_sent.max(instant);
        match outcome {
            Outcome::Success => {
                self.last_success = self.last_success.max(instant);
                if instant < self.last_failure {
                    return None;
                }
                self.consecutive_failures = 0;
                if !self.degraded {
                    return None;
                }
                self.degraded = false;
                self.since = None;
                Some(Transition::Restored { reason: RestoreReason::BackupSucceeded })
            }
            Outcome::Failure => {
                if instant <= self.last_failure || instant <= self.last_success {
                    return None;
                }
                self.last_failure = instant;
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                let failures = self.consecutive_failures;
                let daily = matches!(policy.schedule().every(), Every::Day { .. });
                if self.degraded || !daily || failures < FAILURES_TO_FALL_BACK {
                    return None;
                }
                self.degraded = true;
                self.since = None;
                Some(Transition::FellBack { failures })
            }
        }
    }

    /// An edited schedule starts anew, also after it had fallen back.
    fn notice_edit(&mut self, schedule: &Schedule) -> Option<Transition> {
        let text = match schedule.every() {
            Every::Day { weekly_on } => format!("{schedule}, weekly {weekly_on:?}"),
            Every::Week { .. } => schedule.to_string(),
        };
        if self.schedule.as_ref() == Some(&text) {
            return None;
        }
        let first = self.schedule.replace(text).is_none();
        if first {
            return None;
        }
        self.since = None;
        if !self.degraded {
            return None;
        }
        self.degraded = false;
        self.consecutive_failures = 0;
        Some(Transition::Restored { reason: RestoreReason::ScheduleEdited })
    }

    fn due(&mut self, schedule: &Schedule, since: Timestamp, now: Timestamp) -> Option<Due> {
        let instant = schedule.latest_instant(now);
        if let Some(sent) = self.last_sent {
            if instant <= sent {
                return None;
            }
            // Nobody who moves the time by minutes wants another backup at once. Half a period
            // keeps the gap below one and a half.
            let near = instant < since && instant.duration_since(sent) < schedule.period() / 2;
            if near && self.last_failure != Some(sent) {
                self.left_out = Some(LeftOut { instant, covered_by: sent });
                return None;
            }
        }
        let catch_up = now.duration_since(instant) > CATCH_UP_AFTER;
        Some(Due { instant, catch_up, missed: self.missed(schedule, since, instant) })
    }

    fn missed(&self, schedule: &Schedule, since: Timestamp, instant: Timestamp) -> u32 {
        let seen = self.last_sent.unwrap_or(since).max(since);
        let mut missed = 0;
        let mut before = instant;
        while missed < MOST_MISSED {
            before = schedule.latest_instant(shifted(before, SignedDuration::from_nanos(-1)));
            if before <= seen {
                break;
            }
            missed += 1;
        }
        missed
    }

    fn overdue(&self, schedule: &Schedule, since: Timestamp, now: Timestamp) -> Option<Overdue> {
        let instant = schedule.latest_instant(shifted(now, -OVERDUE_AFTER));
        if now < shifted(instant.max(since), OVERDUE_AFTER) {
            return None;
        }
        let needed = match self.left_out {
            Some(left_out) if instant <= left_out.instant => instant.min(left_out.covered_by),
            _ => instant,
        };
        if self.last_success >= Some(needed) || self.overdue_reported_for >= Some(instant) {
            return None;
        }
        Some(Overdue { instant, last_success: self.last_success })
    }

    fn clock_behind(&self, now: Timestamp) -> Option<ClockBehind> {
        let last_sent = self.last_sent?;
        let behind = last_sent.duration_since(now) > CLOCK_BEHIND_AFTER;
        (behind && self.clock_reported_for != Some(last_sent)).then_some(ClockBehind { last_sent })
    }
}

/// `time` moved, but not beyond what a timestamp holds.
fn shifted(time: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(by).unwrap_or(end)
}
