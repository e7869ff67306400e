//! What a host is told by whoever runs it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::events::Observer;
use crate::process::CleanExit;
use crate::settings::Settings;

/// What a host is told by whoever runs it. Make one with [`HostOptions::new`] and change fields.
#[derive(Clone)]
#[non_exhaustive]
pub struct HostOptions {
    /// The folder that holds host.json and the functions' folders.
    pub app_root: PathBuf,
    /// The app settings, which the handler gets as environment variables too.
    pub settings: Settings,
    /// Where to listen for HTTP; port 0 takes a free one.
    pub http_addr: SocketAddr,
    /// Where the status and the locks of timers, and drawn keys, are kept. Hosts that share it run
    /// each timer once.
    pub state_dir: PathBuf,
    /// What a relative path in a `sqlite:` connection is relative to.
    pub queue_root: PathBuf,
    /// An executable in place of the one that host.json names.
    pub handler_override: Option<PathBuf>,
    /// How long a stop waits for invocations before the handler is killed.
    pub shutdown_grace: Duration,
    /// What becomes of a handler that ends itself with exit code 0.
    pub clean_exit: CleanExit,
    /// Ask for keys also on the loopback interface.
    pub require_keys: bool,
    /// How long an HTTP client is kept waiting for its response.
    pub http_response_limit: Duration,
    /// The ceiling for the number of messages of one queue that are worked on at once, where
    /// host.json sets no number of its own.
    pub max_default_calls: usize,
    /// Is called for each event, on a thread of the runtime: it must not block.
    pub observer: Option<Observer>,
}

impl HostOptions {
    /// Options for the app in a folder: its settings as given, the port of the real tools, state
    /// in the folder `.host-state` of the app, and the limits of the platform.
    pub fn new(app_root: impl Into<PathBuf>, settings: Settings) -> Self {
        let app_root = app_root.into();
        Self {
            settings,
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 7071)),
            state_dir: app_root.join(".host-state"),
            queue_root: app_root.clone(),
            app_root,
            handler_override: None,
            shutdown_grace: Duration::from_secs(10),
            clean_exit: CleanExit::default(),
            require_keys: false,
            http_response_limit: Duration::from_secs(230),
            max_default_calls: 64,
            observer: None,
        }
    }
}

impl fmt::Debug for HostOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HostOptions")
            .field("app_root", &self.app_root)
            .field("settings", &self.settings)
            .field("http_addr", &self.http_addr)
            .field("state_dir", &self.state_dir)
            .field("queue_root", &self.queue_root)
            .field("handler_override", &self.handler_override)
            .field("shutdown_grace", &self.shutdown_grace)
            .field("clean_exit", &self.clean_exit)
            .field("require_keys", &self.require_keys)
            .field("http_response_limit", &self.http_response_limit)
            .field("max_default_calls", &self.max_default_calls)
            .field("observed", &self.observer.is_some())
            .finish()
    }
}
