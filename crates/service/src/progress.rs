//! How far a backup at work is, told now and then.

use flexkeep_engine::{Lane, chain, run_progress};
use jiff::Timestamp;

use crate::service::{Service, blocking};
use crate::work::Job;

impl Service {
    /// The beginning of the period that a moment is in; `None` where progress is not told.
    pub(crate) fn period(&self, at: Timestamp) -> Option<Timestamp> {
        let every = i64::try_from(self.options.progress_every?.as_secs()).ok()?.max(1);
        Timestamp::from_second(at.as_second().div_euclid(every) * every).ok()
    }

    /// Tells how far the run of a lane is, if this is the first of the lanes at work: of several, one
    /// speaks for all. Without it nothing is lost but the news.
    pub(crate) async fn tell_progress(&self, job: &Job, lane: &Lane, period: Timestamp) {
        let (vault, server, run) =
            (job.vault.clone(), job.message.server.clone(), lane.run.clone());
        let progress = match blocking(move || run_progress(&vault, &server, &run)).await {
            Ok(Ok(Some(progress))) => progress,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return tracing::warn!("{}", chain(&error)),
            Err(error) => return tracing::warn!("{}", chain(&error)),
        };
        let at_work = |one: &&flexkeep_engine::LaneProgress| {
            !one.silent && one.resting.is_none() && one.database.is_some()
        };
        if progress.lanes.iter().find(at_work).is_none_or(|first| first.lane != lane.lane) {
            return;
        }
        let event = job.events.progress(&job.message, period, &progress);
        if let Err(error) = self.tell(&event).await {
            tracing::warn!("{}", chain(&error));
        }
    }
}
