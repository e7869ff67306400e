//! Timer triggers: one run at a time, over all hosts that share a state folder.
//!
//! # Layout
//! `timers/<function>.lock` is locked by the host that runs the timer, and `timers/<function>.json`
//! says when it last ran and when it is due. The status follows the real host's storage: `Next` is
//! what `Last` led to, so that a changed schedule is noticed and is not taken for a missed run.
//!
//! # Crash consistency
//! The status is replaced in one step after each run. A run that the host did not survive is not
//! recorded, and is caught up, once, at the next start.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::encode::{Metadata, ScheduleStatus, timer_info};
use crate::error::HostError;
use crate::function::{Function, TimerTrigger};
use crate::host::Shared;
use crate::json::{Json, object};
use crate::schedule::Schedule;

/// How often a host tries to take over a timer that another one runs.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

/// The wall clock may jump, so it is looked at this often.
const CLOCK_INTERVAL: Duration = Duration::from_secs(5);

/// Where the state of one timer is kept.
#[derive(Debug, Clone)]
pub(crate) struct TimerFiles {
    lock: PathBuf,
    status: PathBuf,
}

impl TimerFiles {
    pub(crate) fn new(state_dir: &Path, function: &str) -> Self {
        let folder = state_dir.join("timers");
        Self {
            lock: folder.join(format!("{function}.lock")),
            status: folder.join(format!("{function}.json")),
        }
    }

    /// Takes the timer's lock, `None` if another host has it. It lasts as long as the file is open.
    fn try_lock(&self) -> Result<Option<File>, HostError> {
        let error = |source| HostError::State { path: self.lock.clone(), source };
        if let Some(folder) = self.lock.parent() {
            std::fs::create_dir_all(folder).map_err(error)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(error)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(error(source)),
        }
    }

    /// The status as last written. One that cannot be read is no status, and is said so.
    pub(crate) fn read(&self) -> Option<ScheduleStatus> {
        let text = match std::fs::read(&self.status) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("cannot read {}, starting anew: {error}", self.status.display());
                return None;
            }
        };
        let status = Json::parse(&text).ok().and_then(|json| {
            let date = |name| json.get(name)?.as_str()?.parse::<Timestamp>().ok();
            let next = date("Next")?;
            Some(ScheduleStatus { last: date("Last"), next, last_updated: date("LastUpdated") })
        });
        if status.is_none() {
            tracing::warn!("{} is not a timer's status, starting anew", self.status.display());
        }
        status
    }

    fn write(&self, status: &ScheduleStatus) -> Result<(), HostError> {
        let date = |at: Option<Timestamp>| at.map_or(Json::Null, |at| at.to_string().into());
        let json = object([
            ("Last", date(status.last)),
            ("Next", date(Some(status.next))),
            ("LastUpdated", date(status.last_updated)),
        ]);
        let error = |source| HostError::State { path: self.status.clone(), source };
        let new = self.status.with_extension("new");
        let mut file = File::create(&new).map_err(error)?;
        file.write_all(json.to_text().as_bytes()).map_err(error)?;
        file.sync_all().map_err(error)?;
        std::fs::rename(&new, &self.status).map_err(error)
    }
}

/// The status to go on with, and whether a run was missed. Writes nothing.
fn check_past_due(
    schedule: &Schedule,
    recorded: Option<ScheduleStatus>,
    now: Timestamp,
) -> (ScheduleStatus, bool) {
    let Some(mut status) = recorded else {
        let next = schedule.next_after(now);
        return (ScheduleStatus { last: None, next, last_updated: Some(now) }, false);
    };
    let mut base = status.last.or(status.last_updated).unwrap_or(now);
    let mut expected = schedule.next_after(base);
    if status.next != expected {
        // The schedule was changed: a run that the new one would have had before now is not due.
        if now > expected {
            expected = schedule.next_after(now);
            base = now;
        }
        status = ScheduleStatus { last: None, next: expected, last_updated: Some(base) };
    }
    (status, now > status.next)
}

/// Why a timer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Due,
    PastDue,
    Startup,
}

/// One timer function's listener.
pub(crate) struct TimerListener {
    pub(crate) shared: Arc<Shared>,
    pub(crate) function: Arc<Function>,
    pub(crate) files: TimerFiles,
}

impl TimerListener {
    /// Runs the function by its schedule until the host stops.
    pub(crate) async fn run(self, trigger: &TimerTrigger) {
        let Some(_lock) = self.lock().await else { return };
        let schedule = &trigger.schedule;
        let now = Timestamp::now();
        let is_monitored = trigger.use_monitor && schedule.is_monitored(now);
        let mut first = None;
        let mut status =
            ScheduleStatus { last: None, next: schedule.next_after(now), last_updated: None };
        if is_monitored {
            let recorded = self.files.read();
            let (checked, is_past_due) = check_past_due(schedule, recorded, now);
            if recorded != Some(checked) {
                self.record(&checked);
            }
            if recorded.is_some() {
                status = checked;
            }
            first = is_past_due.then_some(Cause::PastDue);
        }
        if first.is_none() && trigger.run_on_startup {
            first = Some(Cause::Startup);
        }
        loop {
            let cause = match first.take() {
                Some(cause) => cause,
                None if self.wait_until(status.next).await => Cause::Due,
                None => return,
            };
            if !self.shared.listening().await {
                return;
            }
            let started = Timestamp::now();
            let shown = is_monitored.then_some(&status);
            if !self.invoke(trigger, shown, cause).await && self.shared.stop.is_cancelled() {
                // Cut short by the host's end: the next host catches up.
                return;
            }
            let last = match cause {
                Cause::Due => started.max(status.next),
                Cause::PastDue | Cause::Startup => started,
            };
            let next = schedule.next_after(last);
            status = ScheduleStatus { last: Some(last), next, last_updated: Some(last) };
            if is_monitored {
                self.record(&status);
            }
        }
    }

    async fn invoke(
        &self,
        trigger: &TimerTrigger,
        status: Option<&ScheduleStatus>,
        cause: Cause,
    ) -> bool {
        if cause != Cause::Due {
            tracing::info!(function = %self.function.name, "runs outside its schedule: {cause:?}");
        }
        let dst = trigger.schedule.adjusts_for_dst();
        let value = timer_info(dst, status, cause == Cause::PastDue);
        let data = (trigger.binding.as_str(), &value);
        let dispatcher = &self.shared.dispatcher;
        dispatcher.invoke(&self.function, Uuid::new_v4(), data, &Metadata::default()).await.is_ok()
    }

    /// Waits to be the only host that runs this timer. `None` if the host stops before.
    async fn lock(&self) -> Option<File> {
        let mut is_told = false;
        while !self.shared.stop.is_cancelled() {
            match self.files.try_lock() {
                Ok(Some(file)) => return Some(file),
                Ok(None) if is_told => {}
                Ok(None) => {
                    is_told = true;
                    tracing::info!(function = %self.function.name, "another host runs this timer");
                }
                Err(error) => tracing::error!("{}", crate::queues::chain(&error)),
            }
            self.shared.pause(LOCK_INTERVAL).await;
        }
        None
    }

    /// Whether the instant came before the host's stop.
    async fn wait_until(&self, instant: Timestamp) -> bool {
        loop {
            if self.shared.stop.is_cancelled() {
                return false;
            }
            let left = instant.duration_since(Timestamp::now());
            match Duration::try_from(left) {
                Ok(left) if !left.is_zero() => self.shared.pause(left.min(CLOCK_INTERVAL)).await,
                _ => return true,
            }
        }
    }

    fn record(&self, status: &ScheduleStatus) {
        if let Err(error) = self.files.write(status) {
            tracing::error!(
                "{}; a run that is missed while no host runs will not be caught up",
                crate::queues::chain(&error)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ran(last: &str, next: &str) -> Option<ScheduleStatus> {
        let last = Some(at(last));
        Some(ScheduleStatus { last, next: at(next), last_updated: last })
    }

    const NOW: &str = "2026-11-22T11:47:00Z";

    fn check(recorded: Option<ScheduleStatus>) -> (ScheduleStatus, bool) {
        check_past_due(&Schedule::parse("0 */5 * * * *").unwrap(), recorded, at(NOW))
    }

    #[test]
    fn a_timer_that_was_never_seen_is_not_past_due() {
        let (status, is_past_due) = check(None);
        assert!(!is_past_due);
        assert_eq!(status.next, at("2026-11-22T11:50:00Z"));
        assert_eq!((status.last, status.last_updated), (None, Some(at(NOW))));
    }

    #[test]
    fn missed_runs_are_past_due_once_however_many_they_were() {
        let recorded = ran("2026-11-22T09:00:00.01Z", "2026-11-22T09:05:00Z");
        let (status, is_past_due) = check(recorded);
        assert!(is_past_due);
        assert_eq!(Some(status), recorded);
        let never_ran = ScheduleStatus {
            last: None,
            next: at("2026-11-22T09:05:00Z"),
            last_updated: Some(at("2026-11-22T09:01:00Z")),
        };
        assert!(check(Some(never_ran)).1);
    }

    #[test]
    fn a_timer_that_is_on_time_is_not_past_due() {
        assert!(!check(ran("2026-11-22T11:45:00.01Z", "2026-11-22T11:50:00Z")).1);
    }

    #[test]
    fn a_changed_schedule_is_no_missed_run() {
        let (status, is_past_due) = check(ran("2026-11-22T00:00:00Z", "2026-11-22T06:00:00Z"));
        assert!(!is_past_due);
        assert_eq!(status.next, at("2026-11-22T11:50:00Z"));
        assert_eq!((status.last, status.last_updated), (None, Some(at(NOW))));
    }

    #[test]
    fn a_status_is_kept_in_a_file_and_a_broken_one_is_no_status() {
        let folder = tempfile::tempdir().unwrap();
        let files = TimerFiles::new(folder.path(), "f");
        assert_eq!(files.read(), None);
        let _lock = files.try_lock().unwrap().expect("nobody else has it");
        assert!(files.try_lock().unwrap().is_none(), "the lock is held once only");
        let status = ran("2026-11-22T09:00:00.0123456Z", "2026-11-22T09:05:00Z").unwrap();
        files.write(&status).unwrap();
        assert_eq!(files.read(), Some(status));
        std::fs::write(&files.status, "{}").unwrap();
        assert_eq!(files.read(), None);
    }
}
