//! Why a piece of work failed as a whole. What concerns one request is not here: it becomes an
//! event.

use flexkeep_bus::BusError;
use flexkeep_policy::PolicyError;
use flexkeep_vault::VaultError;

/// Why an invocation failed; it may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The policy can't be read.
    #[error("the policy cannot be used")]
    Policy(#[from] PolicyError),
    /// The vault can't be reached.
    #[error("the vault cannot be used")]
    Vault(#[from] VaultError),
    /// A message or an event can't be sent.
    #[error("cannot send {what}")]
    Send {
        /// The message or event.
        what: String,
        /// Why.
        #[source]
        source: BusError,
    },
    /// A backup was asked for before the first one was made.
    #[error("there is no such backup: nothing was backed up yet")]
    NoBackups,
    /// A server that the policy does not name.
    #[error("the policy has no server {name:?}; it has {}", known.join(", "))]
    UnknownServer {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A target that the policy does not name.
    #[error("the policy has no target {name:?}; it has {}", some_or_none(known))]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A server without a restore drill.
    #[error("the policy has no [[drill]] for server {0:?}")]
    NoDrill(String),
    /// What can't be the name of a server.
    #[error(transparent)]
    BadServerName(#[from] flexkeep_vault::BadId),
    /// A request by hand whose key can't be used.
    #[error(transparent)]
    BadRequest(#[from] crate::message::BadMessage),
    /// A request for a restore by hand that can never work.
    #[error(transparent)]
    BadRestoreRequest(#[from] crate::restore_message::BadRestoreMessage),
    /// The record of a server's schedule changes under our hands again and again.
    #[error("the schedule of server {0:?} is being written by too many at once; try again")]
    Contended(String),
    /// Several servers failed; the first of them.
    #[error("{failed} of {all} servers failed, {server:?} first")]
    Some {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first.
        server: String,
        /// Why it failed.
        #[source]
        source: Box<ServiceError>,
    },
    /// A thread died.
    #[error("internal check failed: {0}")]
    Internal(String),
}

fn some_or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
