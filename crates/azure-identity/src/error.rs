//! What can go wrong with an identity and its tokens. No message ever has a secret.

use std::time::Duration;

/// The environment gives no usable identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A variable is missing beside another one.
    #[error("{present} is set and {missing} is not; set both, or neither")]
    Incomplete {
        /// The variable that is there.
        present: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
    /// `AZURE_TOKEN_CREDENTIALS` names something else.
    #[error(
        "AZURE_TOKEN_CREDENTIALS={0:?} is not known; it can be prod, dev, EnvironmentCredential, \
         WorkloadIdentityCredential, ManagedIdentityCredential, AzureCliCredential or \
         AzureDeveloperCliCredential, or be left out"
    )]
    UnknownChoice(String),
    /// `AZURE_TOKEN_CREDENTIALS` chose what the environment does not give.
    #[error("AZURE_TOKEN_CREDENTIALS chooses {chosen}, which needs {needs}")]
    NotThere {
        /// The identity.
        chosen: &'static str,
        /// The variables.
        needs: &'static str,
    },
    /// A certificate as the secret of an application.
    #[error(
        "AZURE_CLIENT_CERTIFICATE_PATH is not supported; use a managed identity, a federated \
         token (AZURE_FEDERATED_TOKEN_FILE) or AZURE_CLIENT_SECRET"
    )]
    Certificate,
    /// The library refuses what the environment gives.
    #[error("{kind} cannot be used: {why}")]
    Unusable {
        /// The identity.
        kind: &'static str,
        /// Its reason.
        why: String,
    },
    /// No thread could be started for the requests.
    #[error("no thread for requesting tokens could be started: {0}")]
    Thread(String),
}

/// No token could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The identity's service refused, or could not be understood.
    #[error("no token for {scope} from {identity} (attempts: {attempts}): {why}; {way_out}")]
    Refused {
        /// What the token was for.
        scope: String,
        /// Whose it would have been.
        identity: &'static str,
        /// How often it was asked for.
        attempts: u32,
        /// What the last attempt said, without secrets.
        why: String,
        /// What to do.
        way_out: &'static str,
        /// Whether the same may well succeed a little later.
        transient: bool,
    },
    /// There was no answer in time.
    #[error("no token for {scope} from {identity} within {} s; {way_out}", .limit.as_secs_f64())]
    TimedOut {
        /// What the token was for.
        scope: String,
        /// Whose it would have been.
        identity: &'static str,
        /// The time that was given.
        limit: Duration,
        /// What to do.
        way_out: &'static str,
    },
}

impl TokenError {
    /// Whether the same may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            TokenError::Refused { transient, .. } => *transient,
            TokenError::TimedOut { .. } => true,
        }
    }
}
