//! From a server of a policy, or a connection string, to a target that can be connected to.

use flexkeep_azure_identity::{AuthError, entra};
use flexkeep_pg_copy::Config;
use flexkeep_policy::{Auth, Problem, ServerPolicy, TargetPolicy};

/// A server that cannot be connected to as it is written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// What the environment lacks.
    #[error("{}", joined(.0))]
    Policy(Vec<Problem>),
    /// Its way to authenticate cannot be used.
    #[error("server {server}: auth = {auth:?} cannot be used", auth = auth.word())]
    Auth {
        /// The server.
        server: String,
        /// The way.
        auth: Auth,
        /// Why.
        #[source]
        source: AuthError,
    },
}

fn joined(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// The target of a policy's server, with its password, or with an Entra token for each new
/// connection.
///
/// # Errors
/// What the environment lacks for it.
pub fn target(server: &ServerPolicy) -> Result<Config, TargetError> {
    let config = server.connection().map_err(|problems| TargetError::Policy(problems.to_vec()))?;
    let (server, auth) = (server.name().to_string(), server.auth());
    authenticated(config, auth).map_err(|source| TargetError::Auth { server, auth, source })
}

/// The same of a target for restores.
///
/// # Errors
/// What the environment lacks for it.
pub fn restore_target(target: &TargetPolicy) -> Result<Config, TargetError> {
    let config = target.connection().map_err(|problems| TargetError::Policy(problems.to_vec()))?;
    let (server, auth) = (target.name().to_string(), target.auth());
    authenticated(config, auth).map_err(|source| TargetError::Auth { server, auth, source })
}

/// A target as it is to be connected to.
///
/// # Errors
/// There is no identity, or what is given beside it does not go together with a token.
pub fn authenticated(target: &Config, auth: Auth) -> Result<Config, AuthError> {
    match auth {
        Auth::Password => Ok(target.clone()),
        Auth::Entra => entra(target),
    }
}
