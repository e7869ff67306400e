//! An Entra token as the password of a PostgreSQL connection.

use std::sync::Arc;

use flexkeep_pg_copy::{Config, PasswordError, PasswordProvider};

use crate::error::IdentityError;
use crate::source::TokenSource;

/// What tokens for Azure Database for PostgreSQL are for, in the public cloud.
pub const ENTRA_SCOPE: &str = "https://ossrdbms-aad.database.windows.net/.default";

/// The variable that has another scope, as sovereign clouds need.
pub const SCOPE_VARIABLE: &str = "FLEXKEEP_ENTRA_SCOPE";

/// A connection that cannot be made with a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is a password too.
    #[error(
        "a password is given beside Entra authentication; take it out (also PGPASSWORD), or \
         authenticate by password"
    )]
    PasswordToo,
    /// Nobody is named.
    #[error(
        "Entra authentication needs the user: add user=… with the name of the role that \
         pgaadauth_create_principal made for this identity"
    )]
    NoUser,
    /// The token could reach a stranger.
    #[error(
        "an Entra token is not sent to a server that does not prove who it is; leave sslmode out \
         or use verify-full"
    )]
    NotVerified,
    /// The scope is no scope.
    #[error("FLEXKEEP_ENTRA_SCOPE must look like {ENTRA_SCOPE}")]
    Scope,
    /// There is no identity.
    #[error("no identity for Entra authentication")]
    Identity(#[source] IdentityError),
}

/// The same target with Entra tokens: each new connection (of this program, or of a `pg_dump`
/// that it starts) gets one that is good for some minutes at least. The identity and the scope are
/// those of this process's environment.
///
/// # Errors
/// Entra and what is given beside it do not go together, or there is no identity.
pub fn entra(target: &Config) -> Result<Config, AuthError> {
    fits_entra(target)?;
    let source = TokenSource::of_process().map_err(AuthError::Identity)?;
    let scope = std::env::var(SCOPE_VARIABLE).ok().filter(|scope| !scope.is_empty());
    entra_with(target, source, scope.as_deref().unwrap_or(ENTRA_SCOPE))
}

/// A target whose password is the source's token for `scope`.
///
/// # Errors
/// What is given beside it does not go together with a token.
pub fn entra_with(
    target: &Config,
    source: Arc<TokenSource>,
    scope: &str,
) -> Result<Config, AuthError> {
    fits_entra(target)?;
    let plain = scope.chars().all(|c| c.is_ascii_graphic());
    if !(plain && scope.starts_with("https://") && scope.ends_with("/.default")) {
        return Err(AuthError::Scope);
    }
    let tokens = Tokens { source, scope: scope.to_owned() };
    Ok(target.with_password_provider(Arc::new(tokens)))
}

fn fits_entra(target: &Config) -> Result<(), AuthError> {
    if target.has_password() {
        return Err(AuthError::PasswordToo);
    }
    if !target.names_user() {
        return Err(AuthError::NoUser);
    }
    if !target.verifies_server() {
        return Err(AuthError::NotVerified);
    }
    Ok(())
}

struct Tokens {
    source: Arc<TokenSource>,
    scope: String,
}

impl PasswordProvider for Tokens {
    fn password(&self) -> Result<String, PasswordError> {
        match self.source.token(&self.scope) {
            Ok(token) => Ok(token.secret().to_owned()),
            Err(error) => Err(PasswordError::new(error.to_string(), error.is_transient())),
        }
    }
}
