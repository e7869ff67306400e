//! What happens in the host, for tests and for whoever shows it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

/// Something that happened in the host.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HostEvent {
    /// The host answers HTTP requests.
    Listening {
        /// Where, with the real port if any was asked for.
        addr: SocketAddr,
    },
    /// A handler process was started.
    HandlerStarted {
        /// Its process id.
        pid: u32,
        /// The port it has to listen on, the same after each restart.
        port: u16,
    },
    /// The handler answered for the first time.
    Ready {
        /// The handler's process id.
        pid: u32,
        /// Milliseconds since its start.
        ms: u64,
    },
    /// The handler process is gone.
    HandlerEnded {
        /// Its process id.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// Timers and queues are being worked on.
    ListenersStarted,
    /// A function ran.
    Invoked {
        /// Its name.
        function: String,
        /// The invocation's id.
        id: Uuid,
        /// Whether it succeeded, outputs included.
        ok: bool,
        /// How long it took, in milliseconds.
        ms: u64,
        /// Why it failed.
        error: Option<String>,
    },
    /// A message was settled, or could not be.
    Settled {
        /// The queue it came from.
        queue: String,
        /// Its id.
        message_id: String,
        /// What became of it.
        outcome: Settlement,
    },
    /// The host receives nothing new and waits for what runs.
    Stopping {
        /// Invocations that still run.
        in_flight: usize,
    },
}

/// What became of a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settlement {
    /// Its function succeeded.
    Completed,
    /// Its function failed; it is delivered again.
    Abandoned,
    /// Its function failed as often as the queue allows.
    DeadLettered,
    /// Its lock was lost: it is or was delivered again, whatever its function did.
    LockLost,
    /// The queue could not be reached; the lock will expire.
    Unknown,
}

/// Is called for each event.
pub type Observer = Arc<dyn Fn(&HostEvent) + Send + Sync>;

/// Hands events to the observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Events {
    observer: Option<Observer>,
}

impl Events {
    pub(crate) fn new(observer: Option<Observer>) -> Self {
        Self { observer }
    }

    pub(crate) fn emit(&self, event: HostEvent) {
        if let Some(observer) = &self.observer {
            observer(&event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Events").field("observed", &self.observer.is_some()).finish()
    }
}
