//! The errors of this crate, and what they tell.

use std::{fmt, io, net::SocketAddr, time::Duration};

/// Any error that a function returns.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A function can't be registered: its name or its function.json does not fit the handler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The host would not load a folder of that name.
    #[error(
        "function {name:?}: the host accepts no such name; expected a letter, then at most 127 letters, \
         digits, '_' or '-', and not \"host\""
    )]
    Name {
        /// The name given.
        name: String,
    },
    /// Names are compared without regard to case.
    #[error("function {name:?} is registered twice (the case of letters does not count)")]
    Twice {
        /// The name given.
        name: String,
    },
    /// The text is not JSON, or has not the shape of a function.json.
    #[error("{function}/function.json can't be read")]
    NotJson {
        /// The function's name.
        function: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A key has a value that does not fit.
    #[error("{function}/function.json: {key}: expected {expected}, found {found}")]
    Mismatch {
        /// The function's name.
        function: String,
        /// The key, such as `bindings[0].type`.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// The host sent something that the declared bindings do not allow.
#[derive(Debug)]
pub struct PayloadError {
    what: String,
    source: Option<BoxError>,
}

impl PayloadError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    pub(crate) fn because(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for PayloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// An output can't be sent, or would not arrive as it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// function.json declares no output binding of that name.
    #[error(
        "no output binding is named {name:?} (the case of letters counts); function.json has {known}"
    )]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The binding does not take what was given.
    #[error("output {name:?} ({kind}): {problem}")]
    Unfit {
        /// The binding's name.
        name: String,
        /// The binding's type.
        kind: String,
        /// Why, and what to do.
        problem: &'static str,
    },
    /// The host would change the text on its way.
    #[error("output {place}: {problem}")]
    Unsafe {
        /// The binding's name, and the place in it.
        place: String,
        /// What the host would do, and the way out.
        problem: &'static str,
    },
    /// A value has no JSON form.
    #[error("output {name:?} can't be written as JSON")]
    NotJson {
        /// The binding's name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The handler can't listen, or stopped listening for a reason that is not a signal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Not started by a Functions host.
    #[error(
        "{} is not set: the Functions host sets it when it starts a custom handler; to run by hand, set it to a free port",
        crate::PORT_VARIABLE
    )]
    PortMissing,
    /// The variable has something else than a port.
    #[error("{} is {value:?}: expected a port, 1 to 65535", crate::PORT_VARIABLE)]
    PortInvalid {
        /// The value found.
        value: String,
    },
    /// Another process listens there.
    #[error("{address} is taken by another process: end it, or set another port")]
    Taken {
        /// The address wanted.
        address: SocketAddr,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Bind {
        /// The address wanted.
        address: SocketAddr,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Signals can't be watched.
    #[error("can't watch for signals")]
    Signals(#[source] io::Error),
    /// The listener failed.
    #[error("can't serve")]
    Serve(#[source] io::Error),
    /// After the signal to stop, invocations were still running at the limit.
    #[error("{running} invocations were still running {} s after the signal to stop, and were dropped", limit.as_secs_f32())]
    ShutdownLimit {
        /// How many.
        running: usize,
        /// The limit.
        limit: Duration,
    },
}
