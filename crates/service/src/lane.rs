//! One lane of a backup: it works on the run until the backup is sealed or its time is up, and
//! whatever ends it is followed by the message that goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_engine::{
    BackupError, Lane, LaneEnd, LaneOptions, Progress, Successors, chain, lane_signs, run_lane,
};
use flexkeep_pg_copy::BoxError;
use flexkeep_vault::manifest::Manifest;
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

use crate::error::ServiceError;
use crate::lane_message::LaneMessage;
use crate::record::Fate;
use crate::service::{Service, blocking};
use crate::target::target;
use crate::work::{Incoming, Job, Opened, Setback, Worked, of_backup};

/// Deliveries of a lane's message after which it counts as the one that kills its worker.
const MAX_DELIVERIES: u32 = 5;

/// Failures in a row after which a lane is given up, and the run with it if no other lane lives.
const MAX_FAILURES: u32 = 3;

/// How long who sealed a backup may take to write that down before he tells it.
const TELLING_LIMIT: Duration = Duration::from_secs(10);

/// How old the last sign of a lane that is alive may be.
const ALIVE: SignedDuration = SignedDuration::from_secs(30);

/// How a lane's message was answered, and whether its request was answered with it.
pub(crate) struct LaneWorked {
    pub(crate) answer: Worked,
    pub(crate) settled: bool,
}

impl LaneWorked {
    fn settled(answer: Worked) -> Self {
        Self { answer, settled: true }
    }
}

/// Sends the messages that start lanes.
struct Sender {
    service: Service,
    message: crate::message::BackupMessage,
    runtime: Handle,
}

impl Successors for Sender {
    fn start(&self, lane: &Lane, again: u32) -> Result<(), BoxError> {
        let message = LaneMessage::new(&self.message, lane).sent_again(again);
        // Lanes work on threads of their own; the bus is asynchronous.
        Ok(self.runtime.block_on(self.service.send_lane(&message, None))?)
    }
}

impl Service {
    /// Does what a lane's message asks for.
    ///
    /// # Errors
    /// Neither the outcome nor a later message could be sent: the message must be delivered again.
    pub async fn lane(&self, incoming: Incoming) -> Result<Worked, ServiceError> {
        let message = match LaneMessage::parse(&incoming.body, Timestamp::now()) {
            Ok(message) => message,
            Err(bad) => return self.refuse(&incoming, &bad).await,
        };
        let opened = self.open(message.backup.clone(), &incoming).await?;
        let job = match opened {
            Opened::Job(job) => job,
            // The request's own message finds the same, ends the run, and says so.
            Opened::NotWanted { why, .. } => return Ok(Worked::NotNeeded { why }),
            // It may be the only lane of its run.
            Opened::SetBack { setback, .. } if message.may_wait() => {
                let (next, after) = message.later();
                let why = setback.why().to_owned();
                tracing::warn!("lane {} waits: {why}", message.lane);
                self.send_lane(&next, Some(after)).await?;
                return Ok(Worked::PutOff { why, after });
            }
            // The request's own message waits longer, and starts the run again.
            Opened::SetBack { setback, .. } => {
                return Ok(Worked::NotNeeded { why: setback.why().to_owned() });
            }
        };
        if incoming.delivery_count > MAX_DELIVERIES {
            let why = format!(
                "a lane's worker ended without an answer {} times, by a crash, a time limit or a \
                 lack of memory; the log of the function app says more",
                incoming.delivery_count - 1
            );
            return Ok(self.lane_is_lost(&job, &message, why).await?.answer);
        }
        Ok(self.work_as(&job, message, incoming.delivery_count).await?.answer)
    }

    /// Works as a lane of a run.
    pub(crate) async fn work_as(
        &self,
        job: &Job,
        message: LaneMessage,
        delivery: u32,
    ) -> Result<LaneWorked, ServiceError> {
        let config = match target(&job.server) {
            Ok(config) => config,
            Err(error) => {
                let setback = Setback::Lasting(chain(&error));
                return self.set_job_back(job, setback).await.map(LaneWorked::settled);
            }
        };
        let progress = Arc::new(Progress::default());
        let options = LaneOptions {
            backup: self.backup_options(job),
            budget: self.options.lane_budget,
            delivered_again: delivery > 1,
            deadline: job.deadline,
        };
        let sender = Sender {
            service: self.clone(),
            message: message.backup.clone(),
            runtime: Handle::current(),
        };
        let (vault, lane) = (job.vault.clone(), message.lane());
        let work = {
            let (progress, lane) = (Arc::clone(&progress), lane.clone());
            tokio::task::spawn_blocking(move || {
                run_lane(&config, &vault, &options, &lane, &sender, &progress)
            })
        };
        let (result, stopped) = self.watch(job, Some(&lane), &progress, work).await?;
        let answer = match result {
            Ok(LaneEnd::Sealed(manifest)) => {
                return self.complete(job, &manifest).await.map(LaneWorked::settled);
            }
            Ok(LaneEnd::AlreadySealed(manifest)) => {
                return self.sealed_by_others(job, &manifest, delivery).await;
            }
            Ok(LaneEnd::HandedOver) => Worked::HandedOver { lane: lane.lane },
            Ok(LaneEnd::Later(why)) if message.may_wait() => {
                let (next, after) = message.later();
                self.send_lane(&next, Some(after)).await?;
                Worked::PutOff { why: why.to_owned(), after }
            }
            // For as long as the run goes on: somebody may leave the server meanwhile.
            Ok(LaneEnd::NoRoom(why)) => {
                let (next, after) = message.in_a_while();
                tracing::warn!("lane {} of {} waits: {why}", lane.lane, lane.run.as_str());
                self.send_lane(&next, Some(after)).await?;
                Worked::PutOff { why, after }
            }
            Ok(LaneEnd::NotNeeded(why) | LaneEnd::Later(why)) => {
                Worked::NotNeeded { why: why.to_owned() }
            }
            Err(error) if stopped && error.may_pass() => {
                // The deadline came in the middle of an item, which another one reads again.
                let next = LaneMessage::new(&message.backup, &lane.next());
                self.send_lane(&next, None).await?;
                Worked::HandedOver { lane: lane.lane }
            }
            Err(error) => return self.lane_failed(job, &message, &error).await,
        };
        Ok(LaneWorked { answer, settled: false })
    }

    /// Tells of a backup that another lane sealed, unless that one does.
    async fn sealed_by_others(
        &self,
        job: &Job,
        manifest: &Manifest,
        delivery: u32,
    ) -> Result<LaneWorked, ServiceError> {
        // Whoever sealed it may have died before it was told: perhaps it was the worker of this
        // very message.
        let patience = if delivery > 1 { Duration::ZERO } else { TELLING_LIMIT };
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.note_of(job).await?.is_some_and(|note| matches!(note.fate, Fate::Sealed { .. }))
            {
                let why = "another lane has sealed the backup".to_owned();
                return Ok(LaneWorked::settled(Worked::NotNeeded { why }));
            }
            tokio::time::sleep(TELLING_LIMIT / 20).await;
        }
        self.complete(job, manifest).await.map(LaneWorked::settled)
    }

    async fn lane_failed(
        &self,
        job: &Job,
        message: &LaneMessage,
        error: &BackupError,
    ) -> Result<LaneWorked, ServiceError> {
        if !error.may_pass() || matches!(error, BackupError::SnapshotsLost { .. }) {
            let setback = of_backup(error, false);
            return self.set_job_back(job, setback).await.map(LaneWorked::settled);
        }
        let why = chain(error);
        if message.failures + 1 >= MAX_FAILURES {
            return self.lane_is_lost(job, message, why).await;
        }
        let (next, after) = message.again();
        tracing::warn!("lane {} of {} is tried again: {why}", message.lane, message.run.as_str());
        self.send_lane(&next, Some(after)).await?;
        Ok(LaneWorked { answer: Worked::PutOff { why, after }, settled: false })
    }

    /// Gives a lane up, and the run with it if no other lane lives.
    async fn lane_is_lost(
        &self,
        job: &Job,
        message: &LaneMessage,
        why: String,
    ) -> Result<LaneWorked, ServiceError> {
        let (vault, lane, reason) = (job.vault.clone(), message.clone(), why.clone());
        let given_up = blocking(move || -> Result<bool, BackupError> {
            let server = &lane.backup.server;
            let now = Timestamp::now();
            let signs = lane_signs(&vault, server, &lane.run)?;
            let others = signs
                .iter()
                .any(|sign| sign.lane != lane.lane && now.duration_since(sign.at) < ALIVE);
            Ok(!others && vault.fail_run(server, &lane.run, &reason)?)
        })
        .await?;
        match given_up {
            Ok(true) | Err(_) => {
                let setback = Setback::Passing(why);
                self.set_job_back(job, setback).await.map(LaneWorked::settled)
            }
            // Others go on, or the run is over.
            Ok(false) => Ok(LaneWorked { answer: Worked::NotNeeded { why }, settled: false }),
        }
    }

    /// Sends the message that starts a lane.
    pub(crate) async fn send_lane(
        &self,
        message: &LaneMessage,
        after: Option<SignedDuration>,
    ) -> Result<(), ServiceError> {
        let subject = message.backup.server.as_str();
        self.send_to(&self.options.lanes, &message.message_id(), message, subject, after).await
    }
}
