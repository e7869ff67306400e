//! What is remembered of a server between invocations: its schedule, and events that are owed.
//!
//! An event that follows from a change of the record is written with it and taken out once it was
//! told, so that no death in between can lose it.

use std::time::Duration;

use flexkeep_bus::CloudEvent;
use flexkeep_policy::{DrillState, ScheduleState};
use flexkeep_vault::store::Etag;
use flexkeep_vault::{ServerName, Vault};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::ServiceError;
use crate::message::cut;
use crate::service::{Service, blocking};

/// How often a change is tried that somebody else's keeps undoing.
const TRIES: u32 = 20;

/// Requests of a server whose fate is remembered.
const MAX_NOTES: usize = 20;

/// Events that may be owed; more are forgotten, loudly.
const MAX_OWED: usize = 50;

/// What is remembered of one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) schedule: ScheduleState,
    /// What became of the last requests, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) requests: Vec<RequestNote>,
    /// What is remembered of restore drills.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) drill: DrillState,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owed: Vec<CloudEvent>,
}

fn is_default(state: &DrillState) -> bool {
    *state == DrillState::default()
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestNote {
    /// The request's id.
    pub request: String,
    /// When this was written.
    pub at: Timestamp,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What became of a request so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Fate {
    /// Its backup is sealed.
    Sealed {
        /// The backup.
        backup: String,
    },
    /// It is tried again.
    PutOff {
        /// Why it did not succeed, without secrets.
        why: String,
        /// When it is tried again, or looks again.
        again: Timestamp,
    },
    /// It is given up.
    Failed {
        /// Why, without secrets.
        why: String,
    },
}

impl Record {
    /// Owes an event, once.
    pub(crate) fn owe(&mut self, event: CloudEvent) {
        if self.owed.iter().any(|owed| owed.id == event.id) {
            return;
        }
        if self.owed.len() >= MAX_OWED {
            tracing::error!("event {} is forgotten: {MAX_OWED} others wait to be told", event.id);
            return;
        }
        self.owed.push(event);
    }

    /// What became of a request.
    pub(crate) fn note_of(&self, request: &str) -> Option<&RequestNote> {
        self.requests.iter().find(|note| note.request == request)
    }

    /// Notes what became of a request.
    pub(crate) fn note(&mut self, mut note: RequestNote) {
        if let Fate::PutOff { why, .. } | Fate::Failed { why } = &mut note.fate {
            *why = cut(why);
        }
        // A lane may put its request off while another one has sealed the backup, or given it up.
        if matches!(note.fate, Fate::PutOff { .. })
            && self.note_of(&note.request).is_some_and(|known| match known.fate {
                Fate::Sealed { .. } => true,
                Fate::Failed { .. } => note.attempt <= known.attempt,
                Fate::PutOff { .. } => false,
            })
        {
            return;
        }
        self.requests.retain(|known| known.request != note.request);
        if self.requests.len() >= MAX_NOTES {
            self.requests.remove(0);
        }
        self.requests.push(note);
    }

    /// The record of a server and its version.
    pub(crate) fn read(
        vault: &Vault,
        server: &ServerName,
    ) -> Result<(Self, Option<Etag>), ServiceError> {
        let Some((body, etag)) = vault.schedule(server)? else {
            return Ok((Self::default(), None));
        };
        let record = serde_json::from_slice(&body).unwrap_or_else(|error| {
            tracing::error!(
                "what was remembered of the schedule of {server} cannot be read ({error}); it is \
                 begun anew, which may cost an extra backup"
            );
            Self::default()
        });
        Ok((record, Some(etag)))
    }

    /// Writes the record over the version that was read; `false` when that is not the last.
    pub(crate) fn write(
        &self,
        vault: &Vault,
        server: &ServerName,
        before: Option<Etag>,
    ) -> Result<bool, ServiceError> {
        let body = serde_json::to_vec_pretty(self)
            .map_err(|error| ServiceError::Internal(format!("a record has no JSON: {error}")))?;
        Ok(vault.put_schedule(server, &body, before)?)
    }

    /// Changes the record, and writes it if it is another then.
    pub(crate) fn change(
        vault: &Vault,
        server: &ServerName,
        change: impl Fn(&mut Self),
    ) -> Result<(), ServiceError> {
        for attempt in 0..TRIES {
            let (before, etag) = Self::read(vault, server)?;
            let mut record = before.clone();
            change(&mut record);
            if record == before || record.write(vault, server, etag)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(u64::from(attempt) * 10));
        }
        Err(ServiceError::Contended(server.to_string()))
    }
}

impl Service {
    /// Tells what is owed to those who listen to a server's events.
    pub(crate) async fn tell_owed(
        &self,
        vault: &Vault,
        server: &ServerName,
    ) -> Result<(), ServiceError> {
        let (vault, server) = (vault.clone(), server.clone());
        let (vault, server, record) = blocking(move || {
            let record = Record::read(&vault, &server);
            (vault, server, record)
        })
        .await?;
        let owed = record?.0.owed;
        if owed.is_empty() {
            return Ok(());
        }
        for event in &owed {
            self.tell(event).await?;
        }
        blocking(move || {
            Record::change(&vault, &server, |record| {
                record.owed.retain(|event| owed.iter().all(|told| told.id != event.id));
            })
        })
        .await?
    }
}
