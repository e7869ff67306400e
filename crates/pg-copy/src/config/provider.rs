//! A password that is asked for anew with each connection.

use std::fmt;
use std::sync::Arc;

use super::{Config, Place, Secret, SslMode};

/// Gives the password of each new connection, such as an access token that lives for an hour.
///
/// It is asked before a connection is dialled, and before a program is started that connects by
/// itself, from any thread. It must end within a time of its own.
pub trait PasswordProvider: Send + Sync {
    /// A password that is good now.
    ///
    /// # Errors
    /// None could be had.
    fn password(&self) -> Result<String, PasswordError>;
}

/// No password could be had. The message never has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PasswordError {
    message: String,
    transient: bool,
}

impl PasswordError {
    /// Why, in words, and whether the same may well succeed a little later.
    pub fn new(message: impl Into<String>, transient: bool) -> Self {
        PasswordError { message: message.into(), transient }
    }

    /// Whether the same may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        self.transient
    }
}

#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn PasswordProvider>);

impl Config {
    /// The same target, with a password that is asked for at each connection. It wins over any
    /// other password, also that of a password file.
    #[must_use]
    pub fn with_password_provider(&self, provider: Arc<dyn PasswordProvider>) -> Config {
        Config { password: None, provider: Some(Provider(provider)), ..self.clone() }
    }

    /// Whether the password is asked for at each connection.
    pub fn has_password_provider(&self) -> bool {
        self.provider.is_some()
    }

    /// The same target with the password that its provider gives now; itself if it has none.
    ///
    /// # Errors
    /// The provider's.
    pub fn with_present_password(&self) -> Result<Config, PasswordError> {
        let Some(Provider(provider)) = &self.provider else { return Ok(self.clone()) };
        let password = Some(Secret(provider.password()?));
        Ok(Config { password, provider: None, ..self.clone() })
    }

    /// Whether the connection string, the service or `PGUSER` names the user. Otherwise it is
    /// the operating system's.
    pub fn names_user(&self) -> bool {
        self.user_named
    }

    /// Whether a secret can only reach the server that is meant: each host is on this machine,
    /// or has to show a certificate of a trusted authority.
    pub fn verifies_server(&self) -> bool {
        let verified = matches!(self.ssl_mode(), SslMode::VerifyCa | SslMode::VerifyFull);
        self.hosts
            .iter()
            .all(|host| matches!(host.place, Place::Unix(_)) || host.is_loopback() || verified)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(provider)")
    }
}
