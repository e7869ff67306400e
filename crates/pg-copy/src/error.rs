//! What can go wrong on a connection, and whether trying again may help.

mod server;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

pub use server::ServerError;

use crate::config::{ConfigError, PasswordError};

/// An error of the caller's own, carried through a callback.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a connection or a statement failed.
///
/// No variant ever holds a password. `Display` says what to do where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string or the environment is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No connection to the server could be opened.
    #[error("cannot connect to {target}: {advice}")]
    Connect {
        /// The host and port, or the socket.
        target: String,
        /// What that means and what to do.
        advice: String,
        /// What the operating system said.
        #[source]
        source: Option<io::Error>,
    },
    /// The TLS session could not be set up as asked.
    #[error("TLS with {target} failed: {advice}")]
    Tls {
        /// The host and port.
        target: String,
        /// What that means and what to do.
        advice: String,
        /// What the TLS library said.
        #[source]
        source: Option<rustls::Error>,
    },
    /// Who we are was not accepted, or the server could not prove who it is.
    #[error("authentication at {target} failed: {advice}")]
    Auth {
        /// The host and port, or the socket.
        target: String,
        /// What that means and what to do.
        advice: String,
        /// What the server said, if it was the server that refused.
        #[source]
        source: Option<Box<ServerError>>,
    },
    /// The password of a new connection could not be had.
    #[error("cannot get the password for {target}")]
    Password {
        /// The first host.
        target: String,
        /// Why.
        #[source]
        source: PasswordError,
    },
    /// The server refused the session for another reason than authentication.
    #[error("{target} refuses the connection")]
    Refused {
        /// The host and port, or the socket.
        target: String,
        /// What the server said.
        #[source]
        source: Box<ServerError>,
    },
    /// None of several hosts or addresses would do.
    #[error("no host could be used: {}", join(.attempts))]
    AllHosts {
        /// One error for each attempt, in order.
        attempts: Vec<Error>,
    },
    /// The server answered a statement with an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The connection ended.
    #[error("the connection was lost while {during}")]
    Closed {
        /// What was being done.
        during: &'static str,
        /// What the operating system said, if it said anything.
        #[source]
        source: Option<io::Error>,
    },
    /// The other side was silent for too long.
    #[error("the server was silent for {} while {during}", seconds(.waited))]
    TimedOut {
        /// What was being done.
        during: &'static str,
        /// How long nothing came.
        waited: Duration,
    },
    /// The server sent what the protocol does not allow, or the caller mixed up the order of calls.
    #[error("protocol: {message}")]
    Protocol {
        /// What was wrong.
        message: String,
    },
    /// A callback of the caller failed.
    #[error("stopped by the caller")]
    Callback(#[source] BoxError),
}

/// Why [`crate::Connection::copy_out`] ended early: the connection's fault or the sink's.
#[derive(Debug, thiserror::Error)]
pub enum CopyError<E> {
    /// The connection or the server failed.
    #[error(transparent)]
    Connection(#[from] Error),
    /// The sink refused the data. The connection can't be used any more.
    #[error("the sink refused the data")]
    Sink(#[source] E),
}

impl Error {
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Error::Protocol { message: message.into() }
    }

    /// The server's answer, if there is one behind this error.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(error) | Error::Refused { source: error, .. } => Some(error),
            Error::Auth { source, .. } => source.as_deref(),
            Error::AllHosts { attempts } => attempts.iter().rev().find_map(Error::server),
            _ => None,
        }
    }

    /// The five characters by which the server classifies its error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(ServerError::sqlstate)
    }

    /// Whether the same thing may well succeed a little later, on a new connection.
    ///
    /// True for lost connections, silence, an unreachable or starting server, too many
    /// connections, serialization failures and deadlocks; false for what a person must repair.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Closed { .. } | Error::TimedOut { .. } => true,
            Error::Password { source, .. } => source.is_transient(),
            Error::Connect { source, .. } => source.as_ref().is_none_or(io_is_transient),
            Error::Server(error) | Error::Refused { source: error, .. } => error.is_transient(),
            Error::AllHosts { attempts } => attempts.iter().any(Error::is_transient),
            Error::Config(_)
            | Error::Tls { .. }
            | Error::Auth { .. }
            | Error::Protocol { .. }
            | Error::Callback(_) => false,
        }
    }
}

fn io_is_transient(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

fn seconds(waited: &Duration) -> impl fmt::Display {
    struct Seconds(Duration);
    impl fmt::Display for Seconds {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0 < Duration::from_secs(10) {
                write!(f, "{:.1} s", self.0.as_secs_f64())
            } else {
                write!(f, "{} s", self.0.as_secs())
            }
        }
    }
    Seconds(*waited)
}

fn join(attempts: &[Error]) -> String {
    let texts: Vec<String> = attempts.iter().map(|attempt| chain(attempt)).collect();
    texts.join("; ")
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_transient_and_a_protocol_error_is_not() {
        assert!(Error::Closed { during: "x", source: None }.is_transient());
        let silent = Error::TimedOut { during: "x", waited: Duration::from_secs(600) };
        assert!(silent.is_transient());
        assert_eq!(silent.to_string(), "the server was silent for 600 s while x");
        assert!(!Error::protocol("odd").is_transient());
    }

    #[test]
    fn several_attempts_are_all_named() {
        let one = |target: &str| Error::Connect {
            target: target.into(),
            advice: "refused".into(),
            source: Some(io::ErrorKind::ConnectionRefused.into()),
        };
        let all = Error::AllHosts { attempts: vec![one("a"), one("b")] };
        let text = all.to_string();
        assert!(text.contains("cannot connect to a") && text.contains("cannot connect to b"));
        assert!(all.is_transient());
    }
}
