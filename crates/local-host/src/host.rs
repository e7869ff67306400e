//! The host: loaded from an app root, then run until it is stopped or its handler fails too often.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::dispatch::{Dispatcher, InFlight};
use crate::error::HostError;
use crate::events::{Events, HostEvent};
use crate::function::{Function, FunctionInfo, Trigger};
use crate::function_json::load_functions;
use crate::host_json::HostJson;
use crate::http::Server;
use crate::keys::Keys;
use crate::launch::{Launch, find_program};
use crate::options::HostOptions;
use crate::process::{Supervisor, SupervisorEnd};
use crate::queue::{QueueLimits, QueueListener};
use crate::queues::Databases;
use crate::timer::{TimerFiles, TimerListener};

/// After the handler was killed, what is left of its invocations fails within this time.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// The real host's default is 16 calls for each core.
const CALLS_PER_CORE: usize = 16;

/// A loaded app, ready to run.
#[derive(Debug)]
pub struct Host {
    options: HostOptions,
    host_json: HostJson,
    functions: Vec<Arc<Function>>,
    program: PathBuf,
}

/// Why a host that ran does not run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostExit {
    /// It was told to stop.
    Stopped {
        /// Invocations that did not finish within the grace period; their messages were given
        /// back.
        unfinished: usize,
    },
    /// The handler failed three times, never more than half an hour apart, or never became ready.
    HandlerKeepsFailing {
        /// The last error, with the last lines of the handler's stderr.
        error: String,
        /// The exit code of the last handler, if it ended with one that is an error.
        exit_code: Option<i32>,
    },
    /// An invocation waited for the handler four times as long as that may take to get ready.
    NeverReady,
}

/// What the parts of a running host share.
pub(crate) struct Shared {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) functions: Vec<Arc<Function>>,
    /// Cancelled when nothing new is to be begun.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the handler is killed and does not come back.
    pub(crate) kill: CancellationToken,
    /// Listeners and all that they began; empty when the host may end.
    pub(crate) work: TaskTracker,
    pub(crate) state_dir: PathBuf,
    pub(crate) started: Instant,
    pub(crate) id: Uuid,
    pub(crate) handler_port: u16,
    draining: watch::Sender<bool>,
}

impl Shared {
    /// Waits while the host is draining; false when it stops.
    pub(crate) async fn listening(&self) -> bool {
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            resumed = draining.wait_for(|draining| !draining) => resumed.is_ok(),
        }
    }

    pub(crate) fn may_receive(&self) -> bool {
        !self.stop.is_cancelled() && !self.is_draining()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub(crate) fn drain(&self, on: bool) {
        self.draining.send_replace(on);
    }

    /// Sleeps, but not longer than the host runs.
    pub(crate) async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}

impl Host {
    /// Loads host.json and every function, and checks what can be checked without starting.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration, naming file and key; a handler that is missing
    /// or not executable; a state folder that cannot be made.
    pub fn load(mut options: HostOptions) -> Result<Self, HostError> {
        options.app_root = absolute(&options.app_root)?;
        options.state_dir = absolute(&options.state_dir)?;
        options.queue_root = absolute(&options.queue_root)?;
        let host_json = HostJson::load(&options.app_root, &options.settings)?;
        let functions = load_functions(
            &options.app_root,
            &options.queue_root,
            &options.settings,
            host_json.functions.as_deref(),
        )?;
        let over = options.handler_override.as_deref();
        let program = find_program(&host_json.handler, &options.settings, over)?;
        std::fs::create_dir_all(&options.state_dir)
            .map_err(|source| HostError::State { path: options.state_dir.clone(), source })?;
        let functions = functions.into_iter().map(Arc::new).collect();
        Ok(Self { options, host_json, functions, program })
    }

    /// The functions and what makes them run.
    pub fn describe(&self) -> Vec<FunctionInfo> {
        let prefix = &self.host_json.route_prefix;
        self.functions.iter().map(|function| function.info(prefix)).collect()
    }

    /// The handler's executable.
    pub fn handler(&self) -> &Path {
        &self.program
    }

    /// Runs the app until `shutdown` resolves or the handler fails too often. Then receives
    /// nothing new, waits for what runs up to the grace period, kills the handler, and gives back
    /// the messages that were not finished.
    ///
    /// # Errors
    /// A port that is taken, or a queue database that cannot be used; nothing has run then.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<HostExit, HostError> {
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        // If this future is dropped, nothing that it began goes on.
        let _guards = (stop.clone().drop_guard(), kill.clone().drop_guard());
        let (running, mut supervisor) = self.start(&stop, &kill).await?;
        let shared = running.shared.clone();
        tokio::pin!(shutdown);
        let supervisor_end = tokio::select! {
            () = &mut shutdown => None,
            end = &mut supervisor => Some(end),
            () = shared.dispatcher.never_ready.cancelled() => None,
        };
        let unfinished = running.finish(&stop, self.options.shutdown_grace).await;
        kill.cancel();
        if supervisor_end.is_none() {
            let _ = supervisor.await;
        }
        if tokio::time::timeout(SETTLE_LIMIT, shared.work.wait()).await.is_err() {
            tracing::error!("some messages could not be given back; their locks will expire");
        }
        Ok(match supervisor_end {
            Some(Ok(SupervisorEnd::TooManyErrors(error, exit_code))) => {
                HostExit::HandlerKeepsFailing { error, exit_code }
            }
            Some(Err(error)) => {
                HostExit::HandlerKeepsFailing { error: error.to_string(), exit_code: None }
            }
            _ if shared.dispatcher.never_ready.is_cancelled() => HostExit::NeverReady,
            _ => HostExit::Stopped { unfinished },
        })
    }

    async fn start(
        &self,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) -> Result<(Running, JoinHandle<SupervisorEnd>), HostError> {
        let Self { options, host_json, functions, program } = self;
        let addr = options.http_addr;
        let listen_error = |source| HostError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen_error)?;
        let bound = listener.local_addr().map_err(listen_error)?;
        let keys = Keys::load(bound, options.require_keys, &options.settings, &options.state_dir)?;
        let databases = Databases::open(functions, stop)?;
        let handler_port = free_port(host_json.handler.port)?;
        let events = Events::new(options.observer.clone());
        let launch = Launch::new(
            &host_json.handler,
            program.clone(),
            &options.app_root,
            self.environment(),
            handler_port,
        );
        let (supervisor, handler) = Supervisor::new(
            launch,
            host_json.handler.stderr_is_errors,
            host_json.handler.initialization_timeout,
            options.clean_exit,
            events.clone(),
            kill.clone(),
        );
        let shared = Arc::new(Shared {
            dispatcher: Dispatcher {
                handler,
                databases,
                events: events.clone(),
                function_timeout: host_json.function_timeout,
                initialization_timeout: host_json.handler.initialization_timeout,
                never_ready: CancellationToken::new(),
                in_flight: InFlight::default(),
            },
            functions: functions.clone(),
            stop: stop.clone(),
            kill: kill.clone(),
            work: TaskTracker::new(),
            state_dir: options.state_dir.clone(),
            started: Instant::now(),
            id: Uuid::new_v4(),
            handler_port,
            draining: watch::Sender::new(false),
        });
        let server = Server::new(
            shared.clone(),
            keys,
            host_json.route_prefix.clone(),
            host_json.handler.forwards_http,
            options.http_response_limit,
            host_json.max_concurrent_requests,
        );
        shared.work.spawn(server.run(listener));
        tracing::info!("listening on http://{bound}");
        events.emit(HostEvent::Listening { addr: bound });
        let is_needed = functions.iter().any(|function| !function.disabled);
        let supervisor = tokio::spawn(supervise(supervisor, is_needed, kill.clone()));
        let running = Running { shared, events, limits: self.queue_limits() };
        running.start_listeners();
        Ok((running, supervisor))
    }

    /// The settings as the handler sees them. A relative path of a queue database is made
    /// absolute, so that it means the same file wherever the handler runs.
    fn environment(&self) -> Vec<(String, String)> {
        let mut settings = self.options.settings.clone();
        for function in &self.functions {
            for (connection, _) in function.queues() {
                let value = format!("sqlite:{}", connection.path.display());
                settings.replace_value(&connection.setting, value);
            }
        }
        settings.environment().map(|(name, value)| (name, value.to_owned())).collect()
    }

    fn queue_limits(&self) -> QueueLimits {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let default = (CALLS_PER_CORE * cores).min(self.options.max_default_calls).max(1);
        let service_bus = &self.host_json.service_bus;
        QueueLimits {
            concurrent_calls: service_bus.max_concurrent_calls.unwrap_or(default),
            auto_lock_renewal: service_bus.max_auto_lock_renewal,
            max_batch: service_bus.max_batch,
            min_batch: service_bus.min_batch,
            max_batch_wait: service_bus.max_batch_wait,
        }
    }
}

/// A host that was started.
struct Running {
    shared: Arc<Shared>,
    events: Events,
    limits: QueueLimits,
}

impl Running {
    /// Starts timers and queues as soon as the handler is ready for the first time, so that a
    /// handler that never is does not use up the deliveries of messages.
    fn start_listeners(&self) {
        let (shared, events) = (self.shared.clone(), self.events.clone());
        let limits = self.limits.clone();
        self.shared.work.spawn(async move {
            let forever = Duration::from_secs(365 * 24 * 3600);
            let ready = tokio::select! {
                () = shared.stop.cancelled() => return,
                ready = shared.dispatcher.handler.ready(forever) => ready,
            };
            if ready.is_err() && shared.stop.is_cancelled() {
                return;
            }
            for function in shared.functions.iter().filter(|function| !function.disabled) {
                start_listener(&shared, function.clone(), &limits);
            }
            tracing::info!("timers and queues are being worked on");
            events.emit(HostEvent::ListenersStarted);
        });
    }

    /// Begins nothing new and waits for what runs; says how many invocations are left.
    async fn finish(&self, stop: &CancellationToken, grace: Duration) -> usize {
        let in_flight = self.shared.dispatcher.in_flight.count();
        tracing::info!(in_flight, "stopping");
        self.events.emit(HostEvent::Stopping { in_flight });
        stop.cancel();
        self.shared.work.close();
        if tokio::time::timeout(grace, self.shared.work.wait()).await.is_ok() {
            return 0;
        }
        let left = self.shared.dispatcher.in_flight.count();
        tracing::warn!("{left} invocations did not end within {grace:?} and are cut short");
        left
    }
}

/// Without an enabled function there is nothing to start a handler for.
async fn supervise(
    supervisor: Supervisor,
    is_needed: bool,
    kill: CancellationToken,
) -> SupervisorEnd {
    if !is_needed {
        tracing::warn!("every function is disabled, so the handler is not started");
        kill.cancelled().await;
        return SupervisorEnd::Stopped;
    }
    supervisor.run().await
}

fn start_listener(shared: &Arc<Shared>, function: Arc<Function>, limits: &QueueLimits) {
    match &function.trigger {
        Trigger::Http(_) => {}
        Trigger::Timer(_) => {
            let files = TimerFiles::new(&shared.state_dir, &function.name);
            let listener =
                TimerListener { shared: shared.clone(), function: function.clone(), files };
            shared.work.spawn(async move {
                if let Trigger::Timer(trigger) = &function.trigger {
                    listener.run(trigger).await;
                }
            });
        }
        Trigger::Queue(_) => {
            let listener = QueueListener {
                shared: shared.clone(),
                function: function.clone(),
                limits: limits.clone(),
                receiver: format!("host {} {}", std::process::id(), function.name),
            };
            shared.work.spawn(async move {
                if let Trigger::Queue(trigger) = &function.trigger {
                    listener.run(trigger).await;
                }
            });
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, HostError> {
    std::path::absolute(path).map_err(|source| HostError::Read { path: path.to_owned(), source })
}

/// The configured port if it is free, or one that the system says is.
fn free_port(port: Option<u16>) -> Result<u16, HostError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0)));
    let bound = std::net::TcpListener::bind(addr).and_then(|listener| listener.local_addr());
    Ok(bound.map_err(|source| HostError::HandlerPort { port, source })?.port())
}
