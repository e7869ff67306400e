//! What is remembered of a request for a restore or a drill, from its first delivery to long after its
//! end: which backup `latest` was, whether anything was changed, and how it ended.

use std::time::Duration;

use flexkeep_bus::CloudEvent;
use flexkeep_vault::store::Etag;
use flexkeep_vault::{ServerName, Vault};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ServiceError;
use crate::message::cut;
use crate::restore_message::RestoreMessage;

/// How often a change is tried that somebody else's keeps undoing.
const TRIES: u32 = 20;

/// Records of a server that are kept whatever their age.
const KEPT: usize = 200;

/// Records beyond that are removed at this age: no message lives as long.
const OLD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What is remembered of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RestoreRecord {
    pub(crate) request: String,
    /// `restore` or `drill`.
    pub(crate) what: String,
    /// When this was written last.
    pub(crate) at: Timestamp,
    /// The backup, from when it was chosen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<String>,
    /// The databases of a drill, from when they were chosen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) databases: Vec<String>,
    /// Whether something may have been changed on the target.
    #[serde(default)]
    pub(crate) begun: bool,
    /// What the completion is going to say, from when all is loaded on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ending: Option<Value>,
    #[serde(flatten)]
    pub(crate) fate: RestoreFate,
    /// How it ended, as it is told each time the request comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<CloudEvent>,
}

/// How far a request for a restore or a drill is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RestoreFate {
    /// At work, or dead without having said so.
    Running,
    /// It is tried again, or continued.
    PutOff {
        /// Why it is not done, without secrets.
        why: String,
        /// When.
        again: Timestamp,
    },
    /// All is restored.
    Completed,
    /// The drill passed.
    Passed,
    /// It is given up, or the drill did not pass.
    Failed {
        /// Why, without secrets.
        why: String,
    },
}

impl RestoreRecord {
    fn new(message: &RestoreMessage) -> Self {
        Self {
            request: message.request.clone(),
            what: message.what().to_owned(),
            at: Timestamp::now(),
            backup: None,
            databases: Vec::new(),
            begun: false,
            ending: None,
            fate: RestoreFate::Running,
            event: None,
        }
    }

    /// The record of the request with this [`RestoreMessage::key`], if it was ever taken up.
    pub(crate) fn read(
        vault: &Vault,
        server: &ServerName,
        key: &str,
    ) -> Result<Option<(Self, Etag)>, ServiceError> {
        let Some((body, etag)) = vault.restore_record(server, key)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&body).map_err(|error| {
            // Not begun anew: it may have been done already.
            ServiceError::Internal(format!(
                "what was remembered of the request {key} cannot be read ({error})"
            ))
        })?;
        Ok(Some((record, etag)))
    }

    /// Changes the record of a request, which is made if there is none, and gives what it then is. A
    /// request that has ended is left as it is.
    pub(crate) fn change(
        vault: &Vault,
        message: &RestoreMessage,
        change: impl Fn(&mut Self),
    ) -> Result<Self, ServiceError> {
        for attempt in 0..TRIES {
            let read = Self::read(vault, &message.server, &message.key())?;
            let is_new = read.is_none();
            let (mut record, etag) = match read {
                Some((record, _)) if record.event.is_some() => return Ok(record),
                Some((record, etag)) => (record, Some(etag)),
                None => (Self::new(message), None),
            };
            change(&mut record);
            record.at = Timestamp::now();
            if let RestoreFate::PutOff { why, .. } | RestoreFate::Failed { why } = &mut record.fate
            {
                *why = cut(why);
            }
            let body = serde_json::to_vec(&record).map_err(|error| {
                ServiceError::Internal(format!("a record has no JSON: {error}"))
            })?;
            if vault.put_restore_record(&message.server, &message.key(), &body, etag)? {
                if is_new {
                    prune(vault, message);
                }
                return Ok(record);
            }
            std::thread::sleep(Duration::from_millis(u64::from(attempt) * 10));
        }
        Err(ServiceError::Contended(message.server.to_string()))
    }
}

/// Removes old records; that this fails is no failure of the request.
fn prune(vault: &Vault, message: &RestoreMessage) {
    let is_old = |body: &[u8]| {
        serde_json::from_slice::<RestoreRecord>(body)
            .is_ok_and(|record| record.event.is_some() && record.at + OLD < Timestamp::now())
    };
    if let Err(error) = vault.prune_restore_records(&message.server, KEPT, &is_old) {
        tracing::warn!("old records of restores stay: {}", flexkeep_engine::chain(&error));
    }
}
