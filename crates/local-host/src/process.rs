//! The handler's process: started, watched, restarted, and killed the way the real host does.
//!
//! There is one process at a time. The host never asks it to end: it is killed, with SIGKILL. After
//! a time-out only that process is killed, not what it started, as on the platform; when the host
//! stops, its whole process group is, so that nothing stays behind on the machine.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::budget::{EarlyExits, ErrorBudget, RestartPause};
use crate::client::Client;
use crate::console::{Stream, Tail, log_lines};
use crate::events::{Events, HostEvent};
use crate::launch::{Launch, spawn_watchdog};

/// Between two looks whether the handler answers.
const READINESS_INTERVAL: Duration = Duration::from_millis(25);

/// How long a killed process may take to vanish.
const REAP_LIMIT: Duration = Duration::from_secs(1);

/// How long the last lines of a dead handler are waited for.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(200);

/// What becomes of a handler that ends itself with exit code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CleanExit {
    /// It is restarted and not counted as an error, as hosts of 2026 do.
    #[default]
    Restart,
    /// It is not restarted, and every later invocation fails, as hosts before 2026 do.
    Leave,
}

/// One handler process.
pub(crate) struct Generation {
    number: u64,
    pub(crate) pid: u32,
    pub(crate) client: Client,
    /// Cancelled when the process is gone.
    pub(crate) ended: CancellationToken,
}

#[derive(Clone)]
enum State {
    Starting,
    Ready(Arc<Generation>),
    /// It ended with exit code 0 and is not restarted.
    Left,
    Stopped,
}

/// The way to the handler for those who invoke it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handler {
    state: watch::Receiver<State>,
    kill: mpsc::Sender<u64>,
}

/// Why the handler cannot be invoked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotReady {
    #[error("the handler was not ready within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("the handler ended with exit code 0 and is not restarted")]
    Left,
    #[error("the host is stopping")]
    Stopped,
}

impl Handler {
    /// The process that answers now; waits for one up to `limit`.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<Arc<Generation>, NotReady> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Starting));
        match tokio::time::timeout(limit, settled).await {
            Err(_) => Err(NotReady::TimedOut { limit }),
            Ok(Err(_)) => Err(NotReady::Stopped),
            Ok(Ok(state)) => match &*state {
                State::Ready(generation) => Ok(generation.clone()),
                State::Left => Err(NotReady::Left),
                State::Starting | State::Stopped => Err(NotReady::Stopped),
            },
        }
    }

    /// The process id of the handler that answers now.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*self.state.borrow() {
            State::Ready(generation) => Some(generation.pid),
            _ => None,
        }
    }

    /// Has a process killed and another one started, unless that happened already; returns when it
    /// is gone.
    pub(crate) async fn kill(&self, generation: &Generation) {
        // A full channel holds a kill already; the process ends either way.
        let _ = self.kill.try_send(generation.number);
        let _ = tokio::time::timeout(REAP_LIMIT * 3, generation.ended.cancelled()).await;
    }
}

/// How supervision ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SupervisorEnd {
    Stopped,
    /// The handler failed too often; this is the last error, and its exit code if it had one.
    TooManyErrors(String, Option<i32>),
}

/// Keeps one handler process running.
pub(crate) struct Supervisor {
    pub(crate) launch: Launch,
    pub(crate) stderr_is_errors: bool,
    pub(crate) initialization_timeout: Duration,
    pub(crate) clean_exit: CleanExit,
    pub(crate) events: Events,
    /// Ends supervision and the process.
    pub(crate) stop: CancellationToken,
    state: watch::Sender<State>,
    kills: mpsc::Receiver<u64>,
    /// Whether the process of now, or the last one, was ready.
    was_ready: bool,
}

/// How one process ended.
enum End {
    Stopped,
    /// Killed at a function's time-out.
    Killed,
    Exited(ExitStatus),
    NotReady,
}

impl Supervisor {
    /// A supervisor and the way to its handler.
    pub(crate) fn new(
        launch: Launch,
        stderr_is_errors: bool,
        initialization_timeout: Duration,
        clean_exit: CleanExit,
        events: Events,
        stop: CancellationToken,
    ) -> (Self, Handler) {
        let (state, watched) = watch::channel(State::Starting);
        let (kill, kills) = mpsc::channel(64);
        let supervisor = Self {
            launch,
            stderr_is_errors,
            initialization_timeout,
            clean_exit,
            events,
            stop,
            state,
            kills,
            was_ready: false,
        };
        (supervisor, Handler { state: watched, kill })
    }

    /// Starts the handler, and again whenever it ends, until it is stopped or fails too often.
    pub(crate) async fn run(mut self) -> SupervisorEnd {
        let end = self.supervise().await;
        self.state.send_replace(State::Stopped);
        end
    }

    async fn supervise(&mut self) -> SupervisorEnd {
        let mut errors = ErrorBudget::default();
        let (mut early, mut pause) = (EarlyExits::default(), RestartPause::default());
        for number in 0.. {
            let started = Instant::now();
            let mut code = None;
            let error = match self.run_once(number).await {
                Ok((End::Stopped, _)) => return SupervisorEnd::Stopped,
                Ok((End::Killed, _)) => None,
                Ok((End::Exited(status), _)) if status.code() == Some(0) => {
                    if self.clean_exit == CleanExit::Leave {
                        tracing::error!("the handler ended with exit code 0 and is not restarted");
                        self.state.send_replace(State::Left);
                        self.stop.cancelled().await;
                        return SupervisorEnd::Stopped;
                    }
                    None
                }
                Ok((End::Exited(status), _)) if status.code() == Some(200) => None,
                Ok((End::Exited(status), tail)) => {
                    code = status.code();
                    Some(explain(status, &tail))
                }
                Ok((End::NotReady, tail)) => {
                    let limit = self.initialization_timeout;
                    Some(with_tail(format!("the handler did not answer within {limit:?}"), &tail))
                }
                Err(error) => {
                    let program = self.launch.program().display();
                    Some(format!("the handler {program} could not be started: {error}"))
                }
            };
            let wait = match error {
                Some(error) => {
                    tracing::error!("{error}");
                    if errors.is_spent_by(Instant::now()) {
                        return SupervisorEnd::TooManyErrors(error, code);
                    }
                    Duration::ZERO
                }
                None if early.are_too_many(self.was_ready) => {
                    let error = "the handler ends itself without an error, and never was ready";
                    tracing::error!("{error}");
                    return SupervisorEnd::TooManyErrors(error.to_owned(), code);
                }
                None => pause.after(started.elapsed()),
            };
            if !wait.is_zero() {
                tracing::warn!("the handler is restarted in {wait:?}");
            }
            tokio::select! {
                () = self.stop.cancelled() => return SupervisorEnd::Stopped,
                () = tokio::time::sleep(wait) => {}
            }
        }
        SupervisorEnd::Stopped
    }

    /// One process from its start to its end, with the last lines of its stderr.
    async fn run_once(&mut self, number: u64) -> std::io::Result<(End, Tail)> {
        let started = Instant::now();
        self.was_ready = false;
        let mut child = self.launch.spawn()?;
        let pid = child.id().ok_or_else(|| std::io::Error::other("it ended at once"))?;
        let port = self.launch.port;
        self.events.emit(HostEvent::HandlerStarted { pid, port });
        tracing::info!(pid, port, "started the handler {}", self.launch.program().display());
        let watchdog = spawn_watchdog(pid)
            .inspect_err(|error| {
                tracing::warn!("the handler will outlive this host if that is killed: {error}");
            })
            .ok();
        // Waiting for a child closes its stdin, which is to end with this host only.
        let stdin = child.stdin.take();
        let tail = Tail::default();
        let mut lines = self.read_console(&mut child, &tail);
        let generation = Arc::new(Generation {
            number,
            pid,
            client: Client::new(port),
            ended: CancellationToken::new(),
        });
        let end = self.watch(&mut child, &generation, started).await;
        if !matches!(end, End::Stopped) {
            self.state.send_replace(State::Starting);
        }
        drop((watchdog, stdin));
        generation.ended.cancel();
        let _ = tokio::time::timeout(LAST_LINES_LIMIT, async {
            while lines.join_next().await.is_some() {}
        })
        .await;
        // What the handler started may hold its console open; its lines are read to the end.
        lines.detach_all();
        let reason = match &end {
            End::Stopped => "the host stops".to_owned(),
            End::Killed => "a function ran into its time limit".to_owned(),
            End::NotReady => "it did not answer in time".to_owned(),
            End::Exited(status) => status.to_string(),
        };
        tracing::info!(pid, "the handler ended: {reason}");
        self.events.emit(HostEvent::HandlerEnded { pid, reason });
        Ok((end, tail))
    }

    fn read_console(&self, child: &mut Child, tail: &Tail) -> JoinSet<()> {
        let mut lines = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            lines.spawn(log_lines(stdout, Stream::Out, tail.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            let stream = Stream::Err { is_errors: self.stderr_is_errors };
            lines.spawn(log_lines(stderr, stream, tail.clone()));
        }
        lines
    }

    async fn watch(&mut self, child: &mut Child, this: &Arc<Generation>, started: Instant) -> End {
        let ready = wait_until_up(this.client.clone(), self.initialization_timeout);
        tokio::pin!(ready);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    kill_group(this.pid);
                    reap(child).await;
                    return End::Stopped;
                }
                status = child.wait() => {
                    return status.map_or(End::NotReady, End::Exited);
                }
                Some(number) = self.kills.recv() => {
                    if number == this.number {
                        reap(child).await;
                        return End::Killed;
                    }
                }
                answered = &mut ready, if !self.was_ready => {
                    if !answered {
                        reap(child).await;
                        return End::NotReady;
                    }
                    self.was_ready = true;
                    let ms = started.elapsed().as_millis() as u64;
                    tracing::info!(pid = this.pid, ms, "the handler is ready");
                    self.state.send_replace(State::Ready(this.clone()));
                    self.events.emit(HostEvent::Ready { pid: this.pid, ms });
                }
            }
        }
    }
}

/// Whether the handler answers anything at all within `limit`.
async fn wait_until_up(client: Client, limit: Duration) -> bool {
    let answers = async {
        while !client.is_up().await {
            tokio::time::sleep(READINESS_INTERVAL).await;
        }
    };
    tokio::time::timeout(limit, answers).await.is_ok()
}

/// Kills the process, not what it started.
async fn reap(child: &mut Child) {
    if child.start_kill().is_ok() && tokio::time::timeout(REAP_LIMIT, child.wait()).await.is_err() {
        tracing::warn!("the handler was killed and is still there");
    }
}

/// Kills the process, which is not reaped yet, and all that it started.
fn kill_group(pid: u32) {
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        tracing::debug!("the handler's process group is gone: {error}");
    }
}

fn explain(status: ExitStatus, tail: &Tail) -> String {
    let what = match (status.code(), status.signal()) {
        (Some(code), _) => format!("the handler ended with exit code {code}"),
        (None, Some(signal)) => format!("the handler was killed by signal {signal}"),
        (None, None) => format!("the handler ended: {status}"),
    };
    with_tail(what, tail)
}

fn with_tail(what: String, tail: &Tail) -> String {
    match tail.text() {
        text if text.is_empty() => what,
        text => format!("{what}; its last errors: {text}"),
    }
}
