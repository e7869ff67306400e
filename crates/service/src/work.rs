//! One message of the queue: a backup is taken, put off, or given up, and told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_engine::{
    BackupError, BackupOptions, Begun, Lane, LaneOptions, Progress, Request, chain,
};
use flexkeep_policy::{Outcome, Policy, ServerPolicy};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{RunId, RunRecord, RunState, Vault, VaultError};
use jiff::{SignedDuration, Timestamp};

use crate::error::ServiceError;
use crate::events::Events;
use crate::lane_message::LaneMessage;
use crate::message::{BackupMessage, BadMessage};
use crate::record::{Fate, Record, RequestNote};
use crate::service::{Service, blocking};
use crate::target::target;

/// Tries of a request where the policy can't say how many.
const DEFAULT_ATTEMPTS: u32 = 5;

/// Deliveries of one message after which it goes on as another try, later: perhaps it is the
/// message that kills its worker. Below the queue's own limit (10), at which a message would be
/// put aside without a word.
const MAX_DELIVERIES: u32 = 5;

/// How often in a row a request looks again while something is in its way, such as another backup
/// of its server: about a day, as the pauses grow to five minutes.
const MAX_WAITS: u32 = 290;

/// How long a backup that is told to stop may take for it.
const STOP_TIME: Duration = Duration::from_secs(10);

/// How often a backup at work is looked at, and how often a line tells how far it is; the first
/// one sooner.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const FIRST_LINE: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A message as the queue delivered it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its body.
    pub body: Vec<u8>,
    /// Its id on the queue.
    pub message_id: String,
    /// How often it was delivered, this time included.
    pub delivery_count: u32,
    /// When whoever calls must have an answer: the backup is stopped before, and goes on with a
    /// later message.
    pub deadline: Option<Instant>,
}

/// How a message was answered. In each case it need not come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worked {
    /// The backup is sealed, by this message or before, and told.
    Completed {
        /// The backup.
        backup: String,
    },
    /// A lane's time is up; its successor goes on.
    HandedOver {
        /// Which lane.
        lane: u32,
    },
    /// There is nothing to do any more: others did it, or are at it.
    NotNeeded {
        /// Why.
        why: String,
    },
    /// A later message goes on.
    PutOff {
        /// Why.
        why: String,
        /// How long it waits.
        after: SignedDuration,
    },
    /// Given up, and told.
    Failed {
        /// Why.
        why: String,
    },
}

/// Why there is no backup yet.
pub(crate) enum Setback {
    /// Something that passes by itself.
    Passing(String),
    /// Something in the way that is no failure.
    Busy(String),
    /// Its own lanes are at work.
    AtWork(String),
    /// Another backup of the server, found after the beginning of this one was told.
    Occupied(String),
    /// Something that a human must mend.
    Lasting(String),
}

impl Setback {
    /// In words.
    pub(crate) fn why(&self) -> &str {
        let (Self::Passing(why)
        | Self::Busy(why)
        | Self::AtWork(why)
        | Self::Occupied(why)
        | Self::Lasting(why)) = self;
        why
    }
}

/// A request with all that its work needs.
pub(crate) struct Job {
    pub(crate) message: BackupMessage,
    pub(crate) server: ServerPolicy,
    pub(crate) vault: Vault,
    pub(crate) events: Events,
    delivery: u32,
    pub(crate) deadline: Option<Instant>,
    attempts: u32,
}

/// What came of looking up what a request needs.
pub(crate) enum Opened {
    Job(Box<Job>),
    /// The policy does not want it any more.
    NotWanted {
        policy: Box<Policy>,
        events: Events,
        why: String,
    },
    SetBack {
        events: Events,
        setback: Setback,
        attempts: u32,
    },
}

impl Service {
    /// Does what a message asks for.
    ///
    /// # Errors
    /// Neither the outcome nor a later message could be sent: the message must be delivered again.
    pub async fn work(&self, incoming: Incoming) -> Result<Worked, ServiceError> {
        let message = match BackupMessage::parse(&incoming.body, Timestamp::now()) {
            Ok(message) => message,
            Err(bad) => return self.refuse(&incoming, &bad).await,
        };
        let job = match self.open(message.clone(), &incoming).await? {
            Opened::Job(job) => job,
            Opened::NotWanted { policy, events, why } => {
                return self.not_wanted(&policy, &message, &events, why).await;
            }
            Opened::SetBack { events, setback, attempts } => {
                return self.set_back(&message, None, &events, setback, attempts).await;
            }
        };
        self.run(&job).await
    }

    /// Answers a message that can never work.
    pub(crate) async fn refuse(
        &self,
        incoming: &Incoming,
        bad: &BadMessage,
    ) -> Result<Worked, ServiceError> {
        let service = self.clone();
        let policy = blocking(move || service.policy()).await?;
        let events =
            policy.map_or_else(|_| Events::without_vault(), |policy| Self::events(&policy));
        let why = bad.to_string();
        tracing::error!("message {:?} is refused: {why}", incoming.message_id);
        self.tell(&events.refused(&incoming.message_id, &why)).await?;
        Ok(Worked::Failed { why })
    }

    /// Looks up what a request needs.
    pub(crate) async fn open(
        &self,
        message: BackupMessage,
        incoming: &Incoming,
    ) -> Result<Opened, ServiceError> {
        let service = self.clone();
        let policy = match blocking(move || service.policy()).await? {
            Ok(policy) => policy,
            // A human is at work on it, or has to be.
            Err(error) => {
                let (setback, events) = (Setback::Busy(chain(&error)), Events::without_vault());
                return Ok(Opened::SetBack { events, setback, attempts: DEFAULT_ATTEMPTS });
            }
        };
        let events = Self::events(&policy);
        let server = match Self::known_server(&policy, message.server.as_str()) {
            Ok(server) => server.clone(),
            Err(error) => {
                let why = chain(&error);
                return Ok(Opened::NotWanted { policy: Box::new(policy), events, why });
            }
        };
        let attempts = server.max_attempts();
        let opened = {
            let (service, policy) = (self.clone(), policy.clone());
            blocking(move || service.vault(&policy)).await?
        };
        let vault = match opened {
            Ok(vault) => vault,
            Err(error) => {
                return Ok(Opened::SetBack { events, setback: of_vault(&error), attempts });
            }
        };
        if !server.enabled() && message.instant.is_some() {
            // What has begun goes on.
            let (place, asked) = (vault.clone(), message.clone());
            match blocking(move || run_of(&place, &asked)).await? {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let why = "the server is disabled in the policy (enabled = false)".to_owned();
                    return Ok(Opened::NotWanted { policy: Box::new(policy), events, why });
                }
                Err(error) => {
                    return Ok(Opened::SetBack { events, setback: of_vault(&error), attempts });
                }
            }
        }
        Ok(Opened::Job(Box::new(Job {
            message,
            server,
            vault,
            events,
            delivery: incoming.delivery_count.max(1),
            deadline: incoming.deadline,
            attempts,
        })))
    }

    pub(crate) async fn set_job_back(
        &self,
        job: &Job,
        setback: Setback,
    ) -> Result<Worked, ServiceError> {
        self.set_back(&job.message, Some(job), &job.events, setback, job.attempts).await
    }

    /// Gives up a request that the policy does not want any more, and its run if it has one, unless
    /// its backup is there and only the news of it is missing.
    async fn not_wanted(
        &self,
        policy: &Policy,
        message: &BackupMessage,
        events: &Events,
        why: String,
    ) -> Result<Worked, ServiceError> {
        let (place, asked) = (policy.vault().clone(), message.clone());
        let stores = Arc::clone(&self.options.stores);
        let reason = why.clone();
        let find = move || {
            let vault = Vault::open(&place, stores.as_ref()).ok()?;
            if let Ok(Some(run)) = run_of(&vault, &asked)
                && let Err(error) = vault.fail_run(&asked.server, &run, &reason)
            {
                tracing::error!("run {} cannot be ended: {}", run.as_str(), chain(&error));
            }
            vault.backup_for_request(&asked.server, &asked.request, asked.since()).ok()?
        };
        let Some(manifest) = blocking(find).await? else {
            return self.set_back(message, None, events, Setback::Lasting(why), 1).await;
        };
        match self.tell(&events.completed(message, &manifest)).await {
            Ok(()) => Ok(Worked::Completed { backup: manifest.backup }),
            Err(error) => self.put_off(message, None, Setback::Busy(chain(&error))).await,
        }
    }

    /// Answers a request whose backup is there, that was given up, or that kills its workers; `None`
    /// where there is work to do.
    async fn answer_without_work(&self, job: &Job) -> Result<Option<Worked>, ServiceError> {
        let message = &job.message;
        let since = message.since();
        let found = {
            let (vault, message) = (job.vault.clone(), message.clone());
            let find = move || -> Result<_, VaultError> {
                let sealed = vault.backup_for_request(&message.server, &message.request, since)?;
                Ok((sealed, Record::read(&vault, &message.server)))
            };
            blocking(find).await?
        };
        let record = match found {
            Ok((Some(manifest), record)) => {
                // A look after lanes that have told it themselves.
                let told = message.looks > 0
                    && job.delivery == 1
                    && record?
                        .0
                        .note_of(&message.request)
                        .is_some_and(|note| matches!(note.fate, Fate::Sealed { .. }));
                if told {
                    let why = "another lane has sealed the backup".to_owned();
                    return Ok(Some(Worked::NotNeeded { why }));
                }
                return self.complete(job, &manifest).await.map(Some);
            }
            Ok((None, Ok((record, _)))) => record,
            Ok((None, Err(error))) => {
                return self.set_job_back(job, Setback::Busy(chain(&error))).await.map(Some);
            }
            Err(error) => return self.set_job_back(job, of_vault(&error)).await.map(Some),
        };
        match record.note_of(&message.request) {
            Some(note) if note.attempt > message.attempt && message.requested <= note.at => {
                let why = format!("try {} of this request goes on", note.attempt);
                return Ok(Some(Worked::NotNeeded { why }));
            }
            Some(RequestNote { at, fate: Fate::Failed { why }, .. })
                if message.requested <= *at =>
            {
                // Perhaps whoever gave it up did not come to tell.
                self.tell(&job.events.failed(message, why)).await?;
                return Ok(Some(Worked::Failed { why: why.clone() }));
            }
            _ => {}
        }
        if job.delivery > MAX_DELIVERIES {
            let why = format!(
                "its worker ended without an answer {} times, by a crash, a time limit or a lack \
                 of memory; the log of the function app says more",
                job.delivery - 1
            );
            return self.set_job_back(job, Setback::Passing(why)).await.map(Some);
        }
        Ok(None)
    }

    /// Begins the run of a request, unless it was made before, and goes on as its first lane.
    async fn run(&self, job: &Job) -> Result<Worked, ServiceError> {
        if let Some(worked) = self.answer_without_work(job).await? {
            return Ok(worked);
        }
        let config = match target(&job.server) {
            Ok(config) => config,
            Err(error) => {
                return self.set_job_back(job, Setback::Lasting(chain(&error))).await;
            }
        };
        if let Err(error) = self.tell_beginning(job).await {
            return self.set_job_back(job, Setback::Busy(chain(&error))).await;
        }
        let options = LaneOptions {
            backup: self.backup_options(job),
            budget: self.options.lane_budget,
            delivered_again: job.delivery > 1,
            deadline: job.deadline,
        };
        let progress = Arc::new(Progress::default());
        let beginning = {
            let (vault, progress) = (job.vault.clone(), Arc::clone(&progress));
            tokio::task::spawn_blocking(move || {
                flexkeep_engine::begin(&config, &vault, &options, &progress)
            })
        };
        let (begun, stopped) = self.watch(job, None, &progress, beginning).await?;
        match begun {
            Ok(Begun::Sealed(manifest)) => self.complete(job, &manifest).await,
            Ok(Begun::AtWork { run }) => {
                let why = format!("the lanes of run {} are at work", run.as_str());
                self.set_job_back(job, Setback::AtWork(why)).await
            }
            Ok(Begun::GivenUp { reason, .. }) => {
                self.set_job_back(job, Setback::Passing(reason)).await
            }
            Ok(Begun::Start(lanes)) => self.start(job, &lanes).await,
            Err(error) => self.set_job_back(job, of_backup(&error, stopped)).await,
        }
    }

    /// Sends the messages of all lanes but the first, and works as that one.
    async fn start(&self, job: &Job, lanes: &[Lane]) -> Result<Worked, ServiceError> {
        let Some((own, others)) = lanes.split_first() else {
            return Err(ServiceError::Internal("a run without lanes".to_owned()));
        };
        for lane in others {
            self.send_lane(&LaneMessage::new(&job.message, lane), None).await?;
        }
        let own = LaneMessage::new(&job.message, own);
        let worked = self.work_as(job, own, job.delivery).await?;
        if !worked.settled {
            // The request looks after its run until that has ended.
            let setback = Setback::AtWork("its lanes are at work".to_owned());
            self.put_off(&job.message, Some(job), setback).await?;
        }
        Ok(worked.answer)
    }

    /// What became of the request so far.
    pub(crate) async fn note_of(&self, job: &Job) -> Result<Option<RequestNote>, ServiceError> {
        let (vault, message) = (job.vault.clone(), job.message.clone());
        let record = blocking(move || Record::read(&vault, &message.server)).await??.0;
        Ok(record.note_of(&job.message.request).cloned())
    }

    pub(crate) fn backup_options(&self, job: &Job) -> BackupOptions {
        let message = &job.message;
        BackupOptions {
            name: Some(message.server.clone()),
            lanes: job.server.lanes() as usize,
            max_bytes_per_second: job
                .server
                .max_mb_per_second()
                .map(|megabytes| u64::from(megabytes) * 1_000_000),
            keep_connections_free: job.server.keep_connections_free(),
            split_tables: job.server.split_tables(),
            exclude_databases: job.server.exclude_databases().to_vec(),
            attempts: job.server.max_attempts(),
            pg_bin: self.options.pg_bin.clone(),
            tool: self.options.tool.clone(),
            request: Some(Request {
                id: message.request.clone(),
                at: message.requested,
                since: message.since(),
                attempt: message.attempt,
            }),
            ..BackupOptions::default()
        }
    }

    async fn tell_beginning(&self, job: &Job) -> Result<(), ServiceError> {
        let (message, events) = (&job.message, &job.events);
        if message.told && job.delivery == 1 {
            return Ok(());
        }
        let event = if job.delivery > 1 {
            let why = "the message was delivered again: its worker had ended without an answer";
            events.restarted(message, job.delivery, why)
        } else if message.attempt > 1 {
            let why = message.last_error.as_deref().unwrap_or("the last try failed");
            events.restarted(message, job.delivery, why)
        } else {
            events.started(message)
        };
        self.tell(&event).await
    }

    /// Waits for the backup; stops it at the deadline (then the flag is set), or when nobody waits
    /// for it any more. Tells how far the run is, where it watches a lane.
    pub(crate) async fn watch<T>(
        &self,
        job: &Job,
        lane: Option<&Lane>,
        progress: &Arc<Progress>,
        mut backup: tokio::task::JoinHandle<Result<T, BackupError>>,
    ) -> Result<(Result<T, BackupError>, bool), ServiceError> {
        let _stop_when_dropped = StopWhenDropped(Arc::clone(progress));
        let mut line_at = Instant::now() + FIRST_LINE;
        let mut period = self.period(Timestamp::now());
        loop {
            let result = tokio::time::timeout(LOOK_EVERY, &mut backup).await;
            if job.deadline.is_some_and(|deadline| Instant::now() + STOP_TIME >= deadline) {
                progress.cancel();
            }
            for restart in progress.take_restarts() {
                let event = job.events.snapshot_lost(&job.message, job.delivery, &restart);
                if let Err(error) = self.tell(&event).await {
                    // The manifest has the number of snapshots as well.
                    tracing::error!("{}", chain(&error));
                }
            }
            if let Ok(joined) = result {
                let died = |error| ServiceError::Internal(format!("the backup died: {error}"));
                return Ok((joined.map_err(died)?, progress.is_cancelled()));
            }
            let now = self.period(Timestamp::now());
            if let (Some(lane), Some(begun)) = (lane, now)
                && now != period
            {
                period = now;
                self.tell_progress(job, lane, begun).await;
            }
            if Instant::now() >= line_at {
                line_at = Instant::now() + LINE_EVERY;
                tracing::info!("{}", line(&job.message, progress));
            }
        }
    }

    pub(crate) async fn complete(
        &self,
        job: &Job,
        manifest: &Manifest,
    ) -> Result<Worked, ServiceError> {
        let backup = manifest.backup.clone();
        if manifest.losses.is_empty() {
            tracing::info!("backup {backup} is sealed");
        } else {
            let kinds: Vec<&str> = manifest.losses.iter().map(|loss| loss.kind.as_str()).collect();
            tracing::warn!("backup {backup} is sealed, without: {}", kinds.join(", "));
        }
        let told = async {
            // Told first: who finds it noted takes it for told. Twice does no harm.
            self.tell(&job.events.completed(&job.message, manifest)).await?;
            let fate = Fate::Sealed { backup: backup.clone() };
            self.remember(job, Some(Outcome::Success), fate).await?;
            self.tell_owed(&job.vault, &job.message.server).await
        };
        match told.await {
            Ok(()) => Ok(Worked::Completed { backup }),
            // The backup is there; a later message finds it and tells.
            Err(error) => self.put_off(&job.message, Some(job), Setback::Busy(chain(&error))).await,
        }
    }

    /// Puts a request off, or gives it up.
    async fn set_back(
        &self,
        message: &BackupMessage,
        job: Option<&Job>,
        events: &Events,
        setback: Setback,
        attempts: u32,
    ) -> Result<Worked, ServiceError> {
        let why = match setback {
            Setback::Passing(_) if message.attempt < attempts => {
                return self.put_off(message, job, setback).await;
            }
            Setback::AtWork(_) => return self.put_off(message, job, setback).await,
            Setback::Passing(why) if attempts > 1 => {
                format!("given up after {} tries; the last: {why}", message.attempt)
            }
            Setback::Busy(ref why) | Setback::Occupied(ref why) => {
                if message.waits < MAX_WAITS {
                    return self.put_off(message, job, setback).await;
                }
                format!("given up after waiting for a day: {why}")
            }
            Setback::Passing(why) | Setback::Lasting(why) => why,
        };
        tracing::error!("backup {} is given up: {why}", message.request);
        let told = async {
            if let Some(job) = job {
                let fate = Fate::Failed { why: why.clone() };
                self.remember(job, Some(Outcome::Failure), fate).await?;
            }
            self.tell(&events.failed(message, &why)).await?;
            match job {
                Some(job) => self.tell_owed(&job.vault, &message.server).await,
                None => Ok(()),
            }
        };
        match told.await {
            Ok(()) => Ok(Worked::Failed { why }),
            Err(error) => self.put_off(message, job, Setback::Busy(chain(&error))).await,
        }
    }

    async fn put_off(
        &self,
        message: &BackupMessage,
        job: Option<&Job>,
        setback: Setback,
    ) -> Result<Worked, ServiceError> {
        let (why, (next, after)) = match setback {
            Setback::Busy(why) => (why, message.next_look(message.told)),
            Setback::Occupied(why) => (why, message.next_look(true)),
            // However long it takes, as long as there are lanes.
            Setback::AtWork(why) => (why, message.next_look_at_work()),
            Setback::Passing(why) | Setback::Lasting(why) => {
                let next = message.next_try(&why);
                (why, next)
            }
        };
        tracing::warn!("backup {} is put off for {after:#}: {why}", message.request);
        self.send(&next, Some(after)).await?;
        if let Some(job) = job {
            let fate = Fate::PutOff { why: why.clone(), again: Timestamp::now() + after };
            if let Err(error) = self.remember(job, None, fate).await {
                // Only for people to look at.
                tracing::warn!("{}", chain(&error));
            }
        }
        Ok(Worked::PutOff { why, after })
    }

    /// Writes down what became of a request, and what follows from its outcome for the schedule.
    async fn remember(
        &self,
        job: &Job,
        outcome: Option<Outcome>,
        fate: Fate,
    ) -> Result<(), ServiceError> {
        let (vault, server, events) = (job.vault.clone(), job.server.clone(), job.events.clone());
        let message = job.message.clone();
        let note = RequestNote {
            request: message.request.clone(),
            at: Timestamp::now(),
            attempt: message.attempt,
            fate,
        };
        // A failure of what a person asked for says nothing about the schedule.
        let outcome =
            outcome.filter(|outcome| message.instant.is_some() || *outcome == Outcome::Success);
        let instant = message.instant.unwrap_or(message.requested);
        blocking(move || {
            Record::change(&vault, server.name(), |record| {
                record.note(note.clone());
                let change =
                    outcome.and_then(|outcome| record.schedule.outcome(&server, instant, outcome));
                if let Some(change) = change {
                    record.owe(events.changed(server.name().as_str(), instant, change));
                }
            })
        })
        .await?
    }
}

/// Stops the backup when whoever waits for it goes away: the host is gone, or has no more time.
struct StopWhenDropped(Arc<Progress>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The run of a request that is at work.
fn run_of(vault: &Vault, message: &BackupMessage) -> Result<Option<RunId>, VaultError> {
    let is_its = |run: &RunRecord| {
        run.state == RunState::Running && run.request.as_deref() == Some(message.request.as_str())
    };
    Ok(vault.list_runs(&message.server)?.into_iter().find(is_its).map(|run| run.run))
}

fn of_vault(error: &VaultError) -> Setback {
    let why = format!("the vault cannot be used: {}", chain(error));
    if error.may_pass() { Setback::Passing(why) } else { Setback::Lasting(why) }
}

/// `stopped`: the deadline came, of which whatever was waited for then failed.
pub(crate) fn of_backup(error: &BackupError, stopped: bool) -> Setback {
    match error {
        BackupError::AnotherBackup { .. } => Setback::Occupied(error.to_string()),
        // As many as the policy allows: another try would take as many again.
        BackupError::SnapshotsLost { .. } => Setback::Lasting(chain(error)),
        error if stopped && error.may_pass() => Setback::Passing(
            "it was stopped before the function's time limit (functionTimeout in host.json); \
             what it stored is used by the next try"
                .to_owned(),
        ),
        error if error.may_pass() => Setback::Passing(chain(error)),
        error => Setback::Lasting(chain(error)),
    }
}

/// One line about a backup at work.
fn line(message: &BackupMessage, progress: &Progress) -> String {
    let reading = progress.read();
    let percent = match reading.total_bytes {
        0 => String::new(),
        total => format!("{} %, ", (reading.done_bytes.min(total)) * 100 / total),
    };
    format!(
        "backup {}: {percent}{} MB read, {} MB stored, {} of {} objects, {}",
        message.request,
        reading.read_bytes / 1_000_000,
        reading.stored_bytes / 1_000_000,
        reading.objects_done,
        reading.objects_total,
        reading.phase
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_lost_all_its_snapshots_is_not_tried_as_often_again() {
        let database = "shop".to_owned();
        let error = BackupError::SnapshotsLost { database, attempts: 3, reason: "gone".to_owned() };
        assert!(matches!(of_backup(&error, false), Setback::Lasting(why) if why.contains("gone")));
        assert!(matches!(of_backup(&BackupError::UploadFailed, false), Setback::Passing(_)));
    }
}
