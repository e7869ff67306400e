//! One message of the queue of restores: a backup is restored, or a drill held, and told.
//!
//! # Once
//! A request's record (see [`crate::restore_record`]) says how it ended; whoever finds that tells it
//! again and changes nothing. Before that, the journal in the target's databases says what is done,
//! and two entries of the record say what the journal can't: that the restore had begun, and that
//! everything was loaded, after which a database without a journal is complete.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_bus::CloudEvent;
use flexkeep_engine::{
    self as engine, Existing, Progress, RestoreError, RestoreOptions, RestoreReport, Severity,
    chain,
};
use flexkeep_pg_copy::Config;
use flexkeep_policy::{DrillDatabases, DrillNote, Policy};
use flexkeep_vault::{BackupId, Vault, VaultError};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::drills::{Drill, DrillError, DrillResult, write_note};
use crate::error::ServiceError;
use crate::events::Events;
use crate::message::cut;
use crate::restore_message::{RestoreMessage, RestoreOrder};
use crate::restore_record::{RestoreFate, RestoreRecord};
use crate::service::{Service, blocking};
use crate::target::restore_target;
use crate::work::Incoming;

/// Tries of a request.
const ATTEMPTS: u32 = 5;

/// Deliveries of one message after which it goes on as another try.
const MAX_DELIVERIES: u32 = 5;

/// How often in a row a request looks again, or is cut off by a time limit.
const MAX_WAITS: u32 = 290;

/// How long a restore that is told to stop may take for it, at most; a drill also drops its database
/// then. Where little time is given, a quarter of that.
const STOP_TIME: Duration = Duration::from_secs(20);

/// How often work is looked at, and how often a line tells how far it is; the first one sooner.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const FIRST_LINE: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How a message of the queue of restores was answered. In each case it need not come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreWorked {
    /// All is restored, by this message or before, and told.
    Completed {
        /// The request.
        request: String,
    },
    /// The drill passed, and that is told.
    Passed {
        /// The request.
        request: String,
    },
    /// A later message goes on.
    PutOff {
        /// Why.
        why: String,
        /// How long it waits.
        after: SignedDuration,
    },
    /// Given up, or a drill that did not pass, and told.
    Failed {
        /// Why.
        why: String,
    },
}

/// Why a request is not done yet.
enum Setback {
    /// Something that passes by itself, and what is there.
    Passing(String, Option<Value>),
    /// Something in the way that is no failure, such as a time limit.
    Busy(String),
    /// Something that a human must mend, and what is there.
    Lasting(String, Option<Value>),
}

/// A request with all that its work needs.
#[derive(Clone)]
struct Job {
    message: RestoreMessage,
    policy: Policy,
    vault: Vault,
    events: Events,
    delivery: u32,
    deadline: Option<Instant>,
}

/// What came of the work itself.
enum Done {
    /// What the completion says.
    Restored(Value),
    Drilled(Box<(Drill, DrillResult)>),
}

impl Service {
    /// Does what a message of the queue of restores asks for.
    ///
    /// # Errors
    /// Neither the outcome nor a later message could be sent: the message must be delivered again.
    pub async fn work_restore(&self, incoming: Incoming) -> Result<RestoreWorked, ServiceError> {
        let service = self.clone();
        let policy = blocking(move || service.policy()).await?;
        let message = match RestoreMessage::parse(&incoming.body, Timestamp::now()) {
            Ok(message) => message,
            Err(bad) => {
                let events =
                    policy.map_or_else(|_| Events::without_vault(), |policy| Self::events(&policy));
                let why = bad.to_string();
                tracing::error!("message {:?} is refused: {why}", incoming.message_id);
                self.tell(&events.restore_refused(&incoming.message_id, &why)).await?;
                return Ok(RestoreWorked::Failed { why });
            }
        };
        let policy = match policy {
            Ok(policy) => policy,
            // A human is at work on it, or has to be.
            Err(error) => {
                let setback = Setback::Busy(chain(&error));
                return self.set_restore_back(&message, None, setback).await;
            }
        };
        let opened = {
            let (service, policy) = (self.clone(), policy.clone());
            blocking(move || service.vault(&policy)).await?
        };
        let vault = match opened {
            Ok(vault) => vault,
            Err(error) => {
                let setback = of_vault(&error);
                return self.set_restore_back(&message, None, setback).await;
            }
        };
        let job = Job {
            events: Self::events(&policy),
            message,
            policy,
            vault,
            delivery: incoming.delivery_count.max(1),
            deadline: incoming.deadline,
        };
        match self.take_up(&job).await {
            Ok(Ok(event)) => self.tell_end(&job, event).await,
            Ok(Err(setback)) => self.set_restore_back(&job.message, Some(&job), setback).await,
            Err(error) => {
                let setback = Setback::Passing(chain(&error), None);
                self.set_restore_back(&job.message, Some(&job), setback).await
            }
        }
    }

    /// Does the work, unless it was done before; gives the event that tells its end.
    async fn take_up(&self, job: &Job) -> Result<Result<CloudEvent, Setback>, ServiceError> {
        let record = {
            let job = job.clone();
            blocking(move || job.record()).await??
        };
        if let Some(event) = record.as_ref().and_then(|record| record.event.clone()) {
            return Ok(Ok(event));
        }
        if job.delivery > MAX_DELIVERIES {
            let why = format!(
                "its worker ended without an answer {} times, by a crash, a time limit or a lack \
                 of memory; the log of the function app says more",
                job.delivery - 1
            );
            return Ok(Err(Setback::Passing(why, None)));
        }
        if let Err(setback) = job.allowed() {
            return Ok(Err(setback));
        }
        let backup = {
            let job = job.clone();
            match blocking(move || job.backup(record.as_ref())).await? {
                Ok(backup) => backup,
                Err(setback) => return Ok(Err(setback)),
            }
        };
        if let (Some(backup), true) = (&backup, job.message.restore.is_some())
            && let Err(error) = self.tell_restore_begins(job, &backup.to_string()).await
        {
            return Ok(Err(Setback::Busy(chain(&error))));
        }
        let progress = Arc::new(Progress::default());
        let work = {
            let (job, progress) = (job.clone(), Arc::clone(&progress));
            tokio::task::spawn_blocking(move || job.work(backup, &progress))
        };
        match self.watch_restore(job, &progress, work).await? {
            Ok(done) => self.write_end(job, done).await.map(Ok),
            Err(setback) => Ok(Err(setback)),
        }
    }

    async fn tell_restore_begins(&self, job: &Job, backup: &str) -> Result<(), ServiceError> {
        let (message, events) = (&job.message, &job.events);
        let again = "the message was delivered again: its worker had ended without an answer";
        let event = if job.delivery > 1 {
            events.restore_continued(message, job.delivery, backup, again)
        } else if message.attempt > 1 || message.told {
            let why = message.last_error.as_deref().unwrap_or("it was put off");
            events.restore_continued(message, job.delivery, backup, why)
        } else {
            events.restore_started(message, backup)
        };
        self.tell(&event).await
    }

    /// Waits for the work; stops it at the deadline, or when nobody waits for it any more.
    async fn watch_restore(
        &self,
        job: &Job,
        progress: &Arc<Progress>,
        mut work: tokio::task::JoinHandle<Result<Done, Setback>>,
    ) -> Result<Result<Done, Setback>, ServiceError> {
        let _stop_when_dropped = StopWhenDropped(Arc::clone(progress));
        let mut line_at = Instant::now() + FIRST_LINE;
        let mut stopped = false;
        let stop_at = job.deadline.map(|by| {
            let left = by.saturating_duration_since(Instant::now());
            by.checked_sub(STOP_TIME.min(left / 4)).unwrap_or(by)
        });
        loop {
            let result = tokio::time::timeout(LOOK_EVERY, &mut work).await;
            if let Ok(joined) = result {
                let died = |error| ServiceError::Internal(format!("the restore died: {error}"));
                return Ok(match joined.map_err(died)? {
                    Err(Setback::Passing(_, report)) if stopped => {
                        let why = format!(
                            "the {} was stopped before the function's time limit \
                             (functionTimeout in host.json)",
                            job.message.what()
                        );
                        // A restore goes on where it was; a drill begins anew each time.
                        let begins_anew = job.message.drill.is_some();
                        Err(if begins_anew {
                            Setback::Passing(why, report)
                        } else {
                            Setback::Busy(why)
                        })
                    }
                    other => other,
                });
            }
            if !stopped && stop_at.is_some_and(|stop_at| Instant::now() >= stop_at) {
                stopped = true;
                progress.cancel();
            }
            if Instant::now() >= line_at {
                line_at = Instant::now() + LINE_EVERY;
                tracing::info!("{}", line(&job.message, progress));
            }
        }
    }

    /// Writes down how the request ended; what somebody wrote before counts.
    async fn write_end(&self, job: &Job, done: Done) -> Result<CloudEvent, ServiceError> {
        let job = job.clone();
        blocking(move || {
            let (event, fate) = match &done {
                Done::Restored(data) => (
                    job.events.restore_completed(&job.message, data.clone()),
                    RestoreFate::Completed,
                ),
                Done::Drilled(drilled) => {
                    let result = &drilled.1;
                    let fate = match result.why() {
                        None => RestoreFate::Passed,
                        Some(why) => RestoreFate::Failed { why },
                    };
                    (job.events.drilled(&job.message, result), fate)
                }
            };
            // First what is told, then what is for people and the rotation: a drill that is held
            // again must not tell of another database that it passed.
            let event = job.end(event, fate)?;
            if let Done::Drilled(drilled) = &done
                && let Err(error) = drilled.0.note(&drilled.1)
            {
                tracing::error!("the drill's result is not in the status: {}", chain(&error));
            }
            Ok(event)
        })
        .await?
    }

    /// Tells how the request ended.
    async fn tell_end(&self, job: &Job, event: CloudEvent) -> Result<RestoreWorked, ServiceError> {
        if let Err(error) = self.tell(&event).await {
            // The record has it; a later message tells it.
            let setback = Setback::Busy(chain(&error));
            return self.put_restore_off(&job.message, None, setback).await;
        }
        let request = job.message.request.clone();
        tracing::info!("{} {request}: {}", job.message.what(), event.type_);
        Ok(match event.type_.as_str() {
            "flexkeep.restore.completed" => RestoreWorked::Completed { request },
            "flexkeep.drill.passed" => RestoreWorked::Passed { request },
            _ => RestoreWorked::Failed {
                why: event.data["why"].as_str().unwrap_or_default().to_owned(),
            },
        })
    }

    /// Puts a request off, or gives it up.
    async fn set_restore_back(
        &self,
        message: &RestoreMessage,
        job: Option<&Job>,
        setback: Setback,
    ) -> Result<RestoreWorked, ServiceError> {
        let (why, report) = match setback {
            Setback::Passing(..) if message.attempt < ATTEMPTS => {
                return self.put_restore_off(message, job, setback).await;
            }
            Setback::Busy(_) if message.waits < MAX_WAITS => {
                return self.put_restore_off(message, job, setback).await;
            }
            Setback::Passing(why, report) => {
                (format!("given up after {} tries; the last: {why}", message.attempt), report)
            }
            Setback::Busy(why) => (format!("given up after waiting for a day: {why}"), None),
            Setback::Lasting(why, report) => (why, report),
        };
        tracing::error!("{} {} is given up: {why}", message.what(), message.request);
        let Some(job) = job else {
            let event = Events::without_vault().restore_failed(message, None, &why, None);
            return match self.tell(&event).await {
                Ok(()) => Ok(RestoreWorked::Failed { why }),
                Err(error) => {
                    self.put_restore_off(message, None, Setback::Busy(chain(&error))).await
                }
            };
        };
        let written = {
            let (job, why) = (job.clone(), why.clone());
            blocking(move || job.give_up(&why, report)).await?
        };
        match written {
            Ok(event) => self.tell_end(job, event).await,
            Err(error) if message.waits < MAX_WAITS => {
                self.put_restore_off(message, None, Setback::Busy(chain(&error))).await
            }
            Err(error) => {
                tracing::error!("its end cannot be written down: {}", chain(&error));
                self.tell(&job.events.restore_failed(message, None, &why, None)).await?;
                Ok(RestoreWorked::Failed { why })
            }
        }
    }

    async fn put_restore_off(
        &self,
        message: &RestoreMessage,
        job: Option<&Job>,
        setback: Setback,
    ) -> Result<RestoreWorked, ServiceError> {
        let (why, (next, after)) = match setback {
            Setback::Busy(why) => {
                let next = message.next_look(&why);
                (why, next)
            }
            Setback::Passing(why, _) | Setback::Lasting(why, _) => {
                let next = message.next_try(&why);
                (why, next)
            }
        };
        let next = RestoreMessage { told: job.is_some() || message.told, ..next };
        tracing::warn!("{} {} is put off for {after:#}: {why}", message.what(), message.request);
        self.send_restore(&next.message_id(), &next, Some(after)).await?;
        if let Some(job) = job {
            let again = Timestamp::now() + after;
            let (job, fate) = (job.clone(), RestoreFate::PutOff { why: why.clone(), again });
            let noted = blocking(move || {
                RestoreRecord::change(&job.vault, &job.message, |record| record.fate = fate.clone())
            });
            if let Err(error) = noted.await? {
                // Only for people to look at.
                tracing::warn!("{}", chain(&error));
            }
        }
        Ok(RestoreWorked::PutOff { why, after })
    }
}

impl Job {
    /// What the policy forbids.
    fn allowed(&self) -> Result<(), Setback> {
        let lasting = |why: String| Err(Setback::Lasting(why, None));
        let Some(order) = &self.message.restore else {
            return match self.policy.drill(self.message.server.as_str()) {
                None => lasting(format!(
                    "the policy has no [[drill]] for server {:?}",
                    self.message.server.as_str()
                )),
                Some(drill) if !drill.enabled() && self.message.instant.is_some() => {
                    lasting("the drill is disabled in the policy (enabled = false)".to_owned())
                }
                Some(_) => Ok(()),
            };
        };
        let Some(target) = self.policy.target(order.target.as_str()) else {
            let known: Vec<&str> =
                self.policy.targets().iter().map(|target| target.name().as_str()).collect();
            return lasting(format!(
                "the policy has no target {:?}; it has {}",
                order.target.as_str(),
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ));
        };
        if order.overwrites() && !target.overwrite() {
            return lasting(format!(
                "target {} takes new databases only, and this request writes into one that is \
                 there (into_existing, clean, data_only); restore under another name, or allow it \
                 in the policy (overwrite = true)",
                target.name()
            ));
        }
        Ok(())
    }

    /// The backup that is meant, the same at each delivery; `None` where a drill has to say that
    /// there is none.
    fn backup(&self, record: Option<&RestoreRecord>) -> Result<Option<BackupId>, Setback> {
        let newest = || self.vault.backups(&self.message.server).map(|mut all| all.pop());
        let known = record.and_then(|record| record.backup.as_ref());
        let backup = match (known, self.message.backup()) {
            (Some(known), _) => Some(known.parse().map_err(|_| {
                let why = "what was remembered of it names no backup".to_owned();
                Setback::Lasting(why, None)
            })?),
            (None, Some(backup)) => Some(backup),
            (None, None) => newest().map_err(|error| of_vault(&error))?,
        };
        let Some(backup) = backup else {
            if self.message.drill.is_some() {
                return Ok(None);
            }
            let server = &self.message.server;
            let why = format!("there is no backup of server {:?} in the vault", server.as_str());
            return Err(Setback::Lasting(why, None));
        };
        self.change(|record| {
            record.backup.get_or_insert_with(|| backup.to_string());
            record.fate = RestoreFate::Running;
        })
        .map_err(|error| Setback::Passing(chain(&error), None))?;
        Ok(Some(backup))
    }

    fn record(&self) -> Result<Option<RestoreRecord>, ServiceError> {
        let key = self.message.key();
        let read = RestoreRecord::read(&self.vault, &self.message.server, &key)?;
        Ok(read.map(|(record, _)| record))
    }

    fn change(&self, change: impl Fn(&mut RestoreRecord)) -> Result<RestoreRecord, ServiceError> {
        RestoreRecord::change(&self.vault, &self.message, change)
    }

    /// Does what is asked for, on a thread of its own.
    fn work(&self, backup: Option<BackupId>, progress: &Arc<Progress>) -> Result<Done, Setback> {
        match (&self.message.restore, backup) {
            (Some(order), Some(backup)) => {
                self.restore(order, &backup, progress).map(Done::Restored)
            }
            (_, backup) => self.drill(backup, progress),
        }
    }

    fn drill(&self, backup: Option<BackupId>, progress: &Arc<Progress>) -> Result<Done, Setback> {
        let policy = self.policy.drill(self.message.server.as_str());
        let (Some(policy), Some(order)) = (policy, &self.message.drill) else {
            return Err(Setback::Lasting("the policy has no such drill".to_owned(), None));
        };
        let drill = Drill {
            vault: self.vault.clone(),
            policy: self.policy.clone(),
            drill: policy.clone(),
            request: self.message.request.clone(),
            backup,
            databases: order.databases.clone(),
            last_try: self.message.attempt >= ATTEMPTS,
        };
        let chosen = |_: &str, databases: &[String]| {
            let known = |record: &mut RestoreRecord| {
                record.databases = databases.to_vec();
                record.begun = true;
            };
            self.change(known).map(drop)
        };
        match drill.run(progress, &chosen) {
            Ok(result) => Ok(Done::Drilled(Box::new((drill, result)))),
            Err(error @ DrillError::Busy { .. }) => Err(Setback::Busy(error.to_string())),
            Err(error) if error.may_pass() => Err(Setback::Passing(chain(&error), None)),
            Err(error) => Err(Setback::Lasting(chain(&error), None)),
        }
    }

    fn restore(
        &self,
        order: &RestoreOrder,
        backup: &BackupId,
        progress: &Arc<Progress>,
    ) -> Result<Value, Setback> {
        let lasting = |why: String| Setback::Lasting(why, None);
        let target = self.policy.target(order.target.as_str());
        let target = target.ok_or_else(|| lasting("the policy has no such target".to_owned()))?;
        let into = restore_target(target).map_err(|error| lasting(chain(&error)))?;
        let mut options = order.options(target.lanes() as usize);
        let record = self.change(|_| {}).map_err(|error| Setback::Passing(chain(&error), None))?;
        // Whether it had begun and was loaded, as far as this delivery knows.
        let known = Cell::new((record.begun, record.ending.is_some()));
        let result = self.restore_into(backup, &into, &mut options, &known, progress);
        match result {
            // What is in its way may be its own doing: of a delivery that works on it too, or did
            // until just now. Whoever looks again sees what came of that.
            Err(Setback::Lasting(why, _) | Setback::Passing(why, _))
                if self.moved_on(known.get()) =>
            {
                let why = format!("another delivery of this request was at work ({why})");
                Err(Setback::Busy(why))
            }
            other => other,
        }
    }

    /// Whether somebody has got further with this request than was known, or has ended it.
    fn moved_on(&self, (begun, ending): (bool, bool)) -> bool {
        self.record().ok().flatten().is_some_and(|now| {
            (now.begun && !begun) || (now.ending.is_some() && !ending) || now.event.is_some()
        })
    }

    fn restore_into(
        &self,
        backup: &BackupId,
        into: &Config,
        options: &mut RestoreOptions,
        known: &Cell<(bool, bool)>,
        progress: &Arc<Progress>,
    ) -> Result<Value, Setback> {
        let interrupted = engine::is_interrupted(&self.vault, backup, into, options)
            .map_err(|error| self.of_restore(&error))?;
        // Read after the journals were looked for: what another delivery has completed by then says
        // so, and is not to be cleaned away.
        let record = self.change(|_| {}).map_err(|error| Setback::Passing(chain(&error), None))?;
        if record.event.is_some() {
            return Err(Setback::Busy("another delivery has ended this request".to_owned()));
        }
        if let (false, Some(ending)) = (interrupted, &record.ending) {
            return Ok(ending.clone());
        }
        let begins = !record.begun;
        if begins {
            self.begin(backup, into, options, progress)?;
            known.set((true, known.get().1));
        } else {
            options.resume |= interrupted || options.existing == Existing::Refuse;
        }
        let before_end = |report: &RestoreReport| {
            let data = self.events.restored(&self.message, report);
            let written = self.change(|record| record.ending = Some(data.clone()));
            known.set((true, true));
            written.map(drop).map_err(|error| match error {
                ServiceError::Vault(error) => RestoreError::Vault(error),
                other => RestoreError::Internal(chain(&other)),
            })
        };
        let restored =
            engine::restore_then(&self.vault, backup, into, options, progress, &before_end);
        let report = restored.map_err(|error| match error {
            // It was fit when this began. Another delivery that began at the same moment may have
            // made the database since: whoever looks again finds that the request has begun.
            RestoreError::Unfit(_) if begins => Setback::Busy(chain(&error)),
            error => self.of_restore(&error),
        })?;
        let data = self.events.restored(&self.message, &report);
        // Databases that an earlier delivery finished are in its report only.
        match record.ending {
            Some(whole) if whole["databases_count"].as_u64() > data["databases_count"].as_u64() => {
                Ok(whole)
            }
            _ => Ok(data),
        }
    }

    /// Looks whether the target is fit, and only then writes down that it may be changed from now on:
    /// what is found there later is this request's own.
    fn begin(
        &self,
        backup: &BackupId,
        into: &Config,
        options: &RestoreOptions,
        progress: &Arc<Progress>,
    ) -> Result<(), Setback> {
        let plan = engine::plan_restore(&self.vault, backup, into, options, progress)
            .map_err(|error| self.of_restore(&error))?;
        if plan.findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(self.of_restore(&RestoreError::Unfit(Box::new(plan))));
        }
        self.change(|record| record.begun = true)
            .map(drop)
            .map_err(|error| Setback::Passing(chain(&error), None))
    }

    fn of_restore(&self, error: &RestoreError) -> Setback {
        let why = chain(error);
        let report = error.report().map(|report| self.events.restored(&self.message, report));
        match error {
            RestoreError::Busy { .. } => Setback::Busy(why),
            // The session of a worker that was killed may still be dropping or making a database.
            error if is_no_database(error) && self.has_begun() => Setback::Busy(why),
            error if error.may_pass() => Setback::Passing(why, report),
            _ => Setback::Lasting(why, report),
        }
    }

    fn has_begun(&self) -> bool {
        self.record().ok().flatten().is_some_and(|record| record.begun)
    }

    /// Writes down how the request ended, and gives what is told of it: of two ends the first.
    fn end(&self, event: CloudEvent, fate: RestoreFate) -> Result<CloudEvent, ServiceError> {
        let record = self.change(|record| {
            record.event = Some(event.clone());
            record.fate = fate.clone();
            record.ending = None;
        })?;
        Ok(record.event.unwrap_or(event))
    }

    fn give_up(&self, why: &str, report: Option<Value>) -> Result<CloudEvent, ServiceError> {
        let record = self.record()?;
        let databases = record.as_ref().map(|one| one.databases.clone()).unwrap_or_default();
        let known = record.and_then(|record| record.backup);
        let backup = known.or_else(|| self.message.backup().map(|id| id.to_string()));
        if let Some(order) = &self.message.drill {
            let rotates = order.databases.is_empty()
                && self
                    .policy
                    .drill(self.message.server.as_str())
                    .is_some_and(|drill| *drill.databases() == DrillDatabases::Rotate);
            let note = DrillNote {
                request: self.message.request.clone(),
                at: Timestamp::now(),
                passed: false,
                backup: backup.clone(),
                databases,
                why: Some(cut(why)),
            };
            write_note(&self.vault, &self.message.server, note, rotates)?;
        }
        let event = self.events.restore_failed(&self.message, backup.as_deref(), why, report);
        self.end(event, RestoreFate::Failed { why: why.to_owned() })
    }
}

/// Stops the work when whoever waits for it goes away: the host is gone, or has no more time.
struct StopWhenDropped(Arc<Progress>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Whether the server says that there is no such database.
fn is_no_database(error: &RestoreError) -> bool {
    let (RestoreError::Connect { source, .. } | RestoreError::Server { source, .. }) = error else {
        return false;
    };
    source.sqlstate() == Some("3D000")
}

fn of_vault(error: &VaultError) -> Setback {
    let why = format!("the vault cannot be used: {}", chain(error));
    if error.may_pass() { Setback::Passing(why, None) } else { Setback::Lasting(why, None) }
}

/// One line about work that goes on.
fn line(message: &RestoreMessage, progress: &Progress) -> String {
    let reading = progress.read();
    let percent = match reading.total_bytes {
        0 => String::new(),
        total => format!("{} %, ", (reading.done_bytes.min(total)) * 100 / total),
    };
    format!(
        "{} {}: {percent}{} of {} objects, {}",
        message.what(),
        message.request,
        reading.objects_done,
        reading.objects_total,
        reading.phase
    )
}
