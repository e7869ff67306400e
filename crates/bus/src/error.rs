//! What can go wrong when work or events are sent, and whether trying again may help.

use std::error::Error as StdError;

type BoxError = Box<dyn StdError + Send + Sync>;

/// What kind of failure a [`BusError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BusErrorKind {
    /// The message, event, name, option or connection breaks a rule; nothing was sent.
    Invalid,
    /// The connection is of a form that this build cannot open.
    Unsupported,
    /// No queue has this name.
    UnknownQueue,
    /// The lock expired, or the message was settled already: it is not the caller's any more.
    LockLost,
    /// No dead letter has this sequence number.
    NotFound,
    /// Another process holds the file, longer than we wait; or the broker is overloaded.
    Busy,
    /// The broker cannot be reached, or does not answer in time.
    Unreachable,
    /// The broker does not let this identity or key send.
    Denied,
    /// The broker does not take the message or the connection, and will not another time.
    Refused,
    /// There is no space left, on the disk or in the queue.
    NoSpace,
    /// The file may be read but not written.
    ReadOnly,
    /// The file cannot be opened or created.
    CannotOpen,
    /// The file is something else than it should be.
    Foreign,
    /// A newer flexkeep wrote the file.
    NewerFormat,
    /// The file is damaged.
    Damaged,
    /// The operating system failed to read or write.
    Io,
}

/// Why work or an event could not be sent, received or settled.
///
/// No error ever holds a connection string or a message's body.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BusError {
    kind: BusErrorKind,
    what: String,
    #[source]
    source: Option<BoxError>,
}

impl BusError {
    /// An error of `kind`; `what` names the thing and the way out.
    pub fn new(kind: BusErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None }
    }

    /// The same error, caused by `source`, which `what` does not repeat.
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> BusErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later although nobody changed anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, BusErrorKind::Busy | BusErrorKind::Io | BusErrorKind::Unreachable)
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(BusErrorKind::Invalid, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_transient() {
        let is_transient = |kind| BusError::new(kind, "x").is_transient();
        for kind in [BusErrorKind::Busy, BusErrorKind::Io, BusErrorKind::Unreachable] {
            assert!(is_transient(kind), "{kind:?}");
        }
        for kind in [
            BusErrorKind::Invalid,
            BusErrorKind::LockLost,
            BusErrorKind::Denied,
            BusErrorKind::Refused,
            BusErrorKind::NoSpace,
            BusErrorKind::ReadOnly,
            BusErrorKind::Damaged,
        ] {
            assert!(!is_transient(kind), "{kind:?}");
        }
    }

    #[test]
    fn the_text_does_not_repeat_the_source() {
        let source = std::io::Error::other("the disk is on fire");
        let error = BusError::new(BusErrorKind::Io, "cannot write").with_source(source);
        assert_eq!(error.to_string(), "cannot write");
        assert_eq!(error.source().unwrap().to_string(), "the disk is on fire");
    }
}
