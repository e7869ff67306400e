//! What a failure on the way to Service Bus means, and what may help.

use std::error::Error as StdError;
use std::io;

use fe2o3_amqp::connection::{ConnectionStopReason, OpenError};
use fe2o3_amqp::link::{
    DetachError, LinkStateError, ReceiverAttachError, RecvError, SendError, SenderAttachError,
    SessionStopReason,
};
use fe2o3_amqp::session::BeginError;
use fe2o3_amqp::types::definitions::{self, ErrorCondition};
use fe2o3_amqp::types::messaging::Outcome;
use fe2o3_amqp::types::primitives::Symbol;
use fe2o3_amqp_management::error::{
    AttachError as ManagementAttachError, Error as ManagementError,
};

use crate::error::{BusError, BusErrorKind};

type BoxError = Box<dyn StdError + Send + Sync>;

/// The longest text of the other side that an error repeats, in characters.
const MAX_SAID_CHARS: usize = 300;

/// What may help after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing that this program can do.
    GiveUp,
    /// Another connection.
    Reconnect,
    /// Another connection with another token, once.
    Renew,
    /// To wait, on the same connection.
    Pause,
}

/// Why one try failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: BusErrorKind,
    pub(super) remedy: Remedy,
    pub(super) what: String,
    source: Option<BoxError>,
}

impl Failure {
    pub(super) fn new(kind: BusErrorKind, remedy: Remedy, what: impl Into<String>) -> Self {
        Self { kind, remedy, what: what.into(), source: None }
    }

    pub(super) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The other side is not there, or ended what we had begun.
    pub(super) fn unreachable(what: impl Into<String>) -> Self {
        Self::new(BusErrorKind::Unreachable, Remedy::Reconnect, what)
    }

    /// The error for whoever wanted to send, `context` telling what.
    pub(super) fn into_error(self, context: &str) -> BusError {
        let error = BusError::new(self.kind, format!("{context}: {}", self.what));
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// What the broker said with `error`; `unknown` if we do not know what that means.
    fn said(error: &definitions::Error, unknown: (BusErrorKind, Remedy)) -> Self {
        let condition = condition(&error.condition);
        let (kind, remedy, advice) = meaning(&condition).unwrap_or((unknown.0, unknown.1, ""));
        let description = printable(error.description.as_deref().unwrap_or_default());
        let said = match description.as_str() {
            "" => format!("the broker says {condition}"),
            description => format!("the broker says {condition} ({description})"),
        };
        let what = if advice.is_empty() { said } else { format!("{advice}; {said}") };
        Self::new(kind, remedy, what)
    }

    fn link(error: &definitions::Error) -> Self {
        Self::said(error, (BusErrorKind::Unreachable, Remedy::Reconnect))
    }

    /// What an outcome other than `accepted` means.
    pub(super) fn outcome(outcome: Outcome) -> Result<(), Self> {
        match outcome {
            Outcome::Accepted(_) => Ok(()),
            Outcome::Rejected(rejected) => Err(rejected.error.map_or_else(
                || Self::new(BusErrorKind::Refused, Remedy::GiveUp, "the broker rejected it"),
                |error| Self::said(&error, (BusErrorKind::Refused, Remedy::GiveUp)),
            )),
            Outcome::Released(_) | Outcome::Modified(_) => Err(Self::new(
                BusErrorKind::Busy,
                Remedy::Pause,
                "the broker gave it back without having stored it",
            )),
        }
    }

    /// A refused token: the status of HTTP that the broker answers with.
    fn token_status(code: u16, description: &str) -> Self {
        let said = match printable(description).as_str() {
            "" => format!("the broker answers the token with status {code}"),
            description => {
                format!("the broker answers the token with status {code} ({description})")
            }
        };
        match code {
            401 | 403 => {
                Self::new(BusErrorKind::Denied, Remedy::Renew, format!("{DENIED}; {said}"))
            }
            404 => {
                Self::new(BusErrorKind::UnknownQueue, Remedy::GiveUp, format!("{MISSING}; {said}"))
            }
            429 | 503 => Self::new(BusErrorKind::Busy, Remedy::Pause, said),
            400..=499 => Self::new(BusErrorKind::Denied, Remedy::GiveUp, said),
            _ => Self::unreachable(said),
        }
    }
}

const MISSING: &str = "there is no queue or topic of this name; create it, or correct the name";
const DENIED: &str = "the identity or key may not send there; give the identity the role Azure \
                      Service Bus Data Sender on it (a new role takes some minutes), or use a key \
                      with the right Send";
const FULL: &str = "it is full; let what is in it be worked off, or raise its size";
const TOO_LARGE: &str = "the message is larger than the broker takes; put the content into the \
                         vault and send its name";

/// What the conditions of AMQP and of Service Bus mean to a sender.
fn meaning(condition: &str) -> Option<(BusErrorKind, Remedy, &'static str)> {
    Some(match condition {
        "amqp:not-found" => (BusErrorKind::UnknownQueue, Remedy::GiveUp, MISSING),
        "com.microsoft:entity-disabled" => {
            (BusErrorKind::Refused, Remedy::GiveUp, "it is disabled; enable it for sending")
        }
        "amqp:unauthorized-access" | "com.microsoft:auth-failed" => {
            (BusErrorKind::Denied, Remedy::Renew, DENIED)
        }
        "amqp:resource-limit-exceeded" => (BusErrorKind::NoSpace, Remedy::GiveUp, FULL),
        "amqp:link:message-size-exceeded" => (BusErrorKind::Invalid, Remedy::GiveUp, TOO_LARGE),
        "com.microsoft:server-busy" => (BusErrorKind::Busy, Remedy::Pause, "it is overloaded"),
        "amqp:not-allowed"
        | "amqp:not-implemented"
        | "com.microsoft:argument-error"
        | "com.microsoft:argument-out-of-range" => (BusErrorKind::Refused, Remedy::GiveUp, ""),
        "amqp:internal-error"
        | "com.microsoft:timeout"
        | "com.microsoft:operation-cancelled"
        | "amqp:link:detach-forced"
        | "amqp:connection:forced" => (BusErrorKind::Unreachable, Remedy::Reconnect, ""),
        _ => return None,
    })
}

fn condition(condition: &ErrorCondition) -> String {
    let symbol = match condition {
        ErrorCondition::AmqpError(error) => Symbol::from(error),
        ErrorCondition::ConnectionError(error) => Symbol::from(error),
        ErrorCondition::SessionError(error) => Symbol::from(error),
        ErrorCondition::LinkError(error) => Symbol::from(error),
        ErrorCondition::Custom(symbol) => symbol.clone(),
    };
    printable(symbol.as_str())
}

/// What the other side said, fit for a line of a log: cut, without control characters, and
/// without a token that it may have repeated.
fn printable(said: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let said: String = said.trim().chars().take(MAX_SAID_CHARS).map(clean).collect();
    let lower = said.to_ascii_lowercase();
    let token = ["sharedaccesssignature ", "sig=", "bearer ", "eyj"];
    match token.iter().filter_map(|token| lower.find(token)).min() {
        // Lower case in ASCII has the same length, so that the place is the same.
        Some(at) => format!("{}…", &said[..at]),
        None => said,
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_)) = tls {
            return Self::new(
                BusErrorKind::Refused,
                Remedy::GiveUp,
                "its certificate is not trusted here; check the host name, and the authorities of \
                 this machine (SSL_CERT_FILE names others)",
            )
            .with_source(error);
        }
        Self::unreachable("the connection failed").with_source(error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error.into(),
            OpenError::RemoteClosedWithError(error) => Self::link(&error),
            OpenError::ProtocolHeaderMismatch(_) => Self::new(
                BusErrorKind::Refused,
                Remedy::GiveUp,
                "what answers there is no AMQP 1.0 broker; check host and port",
            ),
            OpenError::SaslError { .. } => Self::new(
                BusErrorKind::Refused,
                Remedy::GiveUp,
                "the broker takes no anonymous SASL, which tokens need; it is no Service Bus",
            ),
            other => Self::unreachable(format!("no connection was opened ({other})")),
        }
    }
}

impl From<BeginError> for Failure {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::RemoteEndedWithError(error)
            | BeginError::ConnectionStopped(ConnectionStopReason::RemoteClosedWithError(error)) => {
                Self::link(&error)
            }
            other => Self::unreachable(format!("no session was begun ({other})")),
        }
    }
}

impl From<SessionStopReason> for Failure {
    fn from(reason: SessionStopReason) -> Self {
        match reason {
            SessionStopReason::RemoteEndedWithError(error)
            | SessionStopReason::ConnectionStopped(ConnectionStopReason::RemoteClosedWithError(
                error,
            )) => Self::link(&error),
            _ => Self::unreachable("the connection ended"),
        }
    }
}

impl From<SenderAttachError> for Failure {
    fn from(error: SenderAttachError) -> Self {
        match error {
            SenderAttachError::RemoteClosedWithError(error) => Self::link(&error),
            SenderAttachError::SessionStopped(reason) => reason.into(),
            other => Self::unreachable(format!("no link was opened ({other})")),
        }
    }
}

impl From<ReceiverAttachError> for Failure {
    fn from(error: ReceiverAttachError) -> Self {
        match error {
            ReceiverAttachError::RemoteClosedWithError(error) => Self::link(&error),
            ReceiverAttachError::SessionStopped(reason) => reason.into(),
            other => Self::unreachable(format!("no link was opened ({other})")),
        }
    }
}

impl From<LinkStateError> for Failure {
    fn from(error: LinkStateError) -> Self {
        match error {
            LinkStateError::RemoteDetachedWithError(error)
            | LinkStateError::RemoteClosedWithError(error) => Self::link(&error),
            LinkStateError::SessionStopped(reason) => reason.into(),
            other => Self::unreachable(format!("the link ended ({other})")),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::LinkStateError(error) => error.into(),
            SendError::Detached(
                DetachError::RemoteDetachedWithError(error)
                | DetachError::RemoteClosedWithError(error),
            ) => Self::link(&error),
            SendError::Detached(DetachError::SessionStopped(reason)) => reason.into(),
            SendError::MessageSizeExceeded(size) => Self::new(
                BusErrorKind::Invalid,
                Remedy::GiveUp,
                format!(
                    "{TOO_LARGE}; it has {} bytes with its properties, the limit is {}",
                    size.size, size.max_size
                ),
            ),
            SendError::MessageEncodeError => {
                Self::new(BusErrorKind::Invalid, Remedy::GiveUp, "the message has no AMQP form")
            }
            other => Self::unreachable(format!("it was not sent ({other})")),
        }
    }
}

impl From<ManagementAttachError> for Failure {
    fn from(error: ManagementAttachError) -> Self {
        match error {
            ManagementAttachError::Sender(error) => error.into(),
            ManagementAttachError::Receiver(error) => error.into(),
        }
    }
}

impl From<ManagementError> for Failure {
    fn from(error: ManagementError) -> Self {
        match error {
            ManagementError::Status(status) => Self::token_status(
                status.code.0.get(),
                status.description.as_deref().unwrap_or_default(),
            ),
            ManagementError::Send(error) => error.into(),
            ManagementError::Recv(RecvError::LinkStateError(error)) => error.into(),
            ManagementError::NotAccepted(outcome) => match Self::outcome(outcome) {
                Err(failure) => failure,
                Ok(()) => Self::unreachable("the token got no answer"),
            },
            // Their texts may repeat what was received.
            _ => Self::unreachable("the answer to the token could not be understood"),
        }
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp::types::definitions::{AmqpError, LinkError};
    use fe2o3_amqp::types::messaging::{Accepted, Rejected, Released};

    use super::*;

    fn rejected(condition: impl Into<ErrorCondition>, description: &str) -> Failure {
        let error = definitions::Error::new(condition, description.to_owned(), None);
        Failure::outcome(Outcome::Rejected(Rejected { error: Some(error) })).unwrap_err()
    }

    #[test]
    fn only_accepted_is_sent() {
        assert!(Failure::outcome(Outcome::Accepted(Accepted {})).is_ok());
        let released = Failure::outcome(Outcome::Released(Released {})).unwrap_err();
        assert_eq!((released.kind, released.remedy), (BusErrorKind::Busy, Remedy::Pause));
        let bare = Failure::outcome(Outcome::Rejected(Rejected { error: None })).unwrap_err();
        assert_eq!((bare.kind, bare.remedy), (BusErrorKind::Refused, Remedy::GiveUp));
    }

    #[test]
    fn a_condition_tells_the_kind_and_the_remedy() {
        let custom = |name: &str| ErrorCondition::Custom(Symbol::from(name));
        for (condition, kind, remedy) in [
            (AmqpError::NotFound.into(), BusErrorKind::UnknownQueue, Remedy::GiveUp),
            (AmqpError::UnauthorizedAccess.into(), BusErrorKind::Denied, Remedy::Renew),
            (AmqpError::ResourceLimitExceeded.into(), BusErrorKind::NoSpace, Remedy::GiveUp),
            (LinkError::MessageSizeExceeded.into(), BusErrorKind::Invalid, Remedy::GiveUp),
            (AmqpError::InternalError.into(), BusErrorKind::Unreachable, Remedy::Reconnect),
            (custom("com.microsoft:server-busy"), BusErrorKind::Busy, Remedy::Pause),
            (custom("com.microsoft:timeout"), BusErrorKind::Unreachable, Remedy::Reconnect),
            (custom("com.example:new"), BusErrorKind::Refused, Remedy::GiveUp),
        ] {
            let failure = rejected(condition, "because");
            assert_eq!((failure.kind, failure.remedy), (kind, remedy), "{failure:?}");
            assert!(failure.what.contains("(because)"), "{failure:?}");
        }
        let unknown = definitions::Error::new(custom("com.example:new"), None, None);
        assert_eq!(Failure::link(&unknown).remedy, Remedy::Reconnect);
    }

    #[test]
    fn a_refused_token_names_the_role() {
        let failure = Failure::token_status(401, "InvalidSignature");
        assert_eq!((failure.kind, failure.remedy), (BusErrorKind::Denied, Remedy::Renew));
        assert!(failure.what.contains("Azure Service Bus Data Sender"), "{}", failure.what);
        assert_eq!(Failure::token_status(404, "").kind, BusErrorKind::UnknownQueue);
        assert_eq!(Failure::token_status(500, "").remedy, Remedy::Reconnect);
    }

    #[test]
    fn what_the_broker_says_is_cut_and_loses_tokens_and_line_ends() {
        let said = rejected(AmqpError::NotAllowed, "a\nb SharedAccessSignature sr=x&sig=c2VjcmV0");
        assert!(said.what.contains("(a b …)") && !said.what.contains("c2VjcmV0"), "{}", said.what);
        assert!(!printable("token eyJhbGciOi was refused").contains("eyJ"));
        assert_eq!(printable(&"ä".repeat(1000)).chars().count(), MAX_SAID_CHARS);
    }
}
