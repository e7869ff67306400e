//! What a function may know about its invocation.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Lines kept for the answer of one invocation.
const LOG_LINES: usize = 1000;
/// Bytes kept for the answer of one invocation.
const LOG_BYTES: usize = 256 * 1024;

/// One invocation: its ids, its time and its log. Cloning is cheap, all clones are the same invocation.
#[derive(Clone, Debug)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    facts: Facts,
    stopping: Option<watch::Receiver<bool>>,
    logs: Mutex<Logs>,
}

/// What is known when the request arrives.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) function: String,
    pub(crate) id: String,
    pub(crate) host_version: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) app_root: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Logs {
    lines: Vec<String>,
    bytes: usize,
    dropped: usize,
}

impl Context {
    pub(crate) fn new(facts: Facts, stopping: Option<watch::Receiver<bool>>) -> Self {
        Self { inner: Arc::new(Inner { facts, stopping, logs: Mutex::default() }) }
    }

    /// A context outside of any host, to call a function in a test. It has no deadline.
    pub fn detached(function: &str) -> Self {
        let facts = Facts { function: function.into(), id: "detached".into(), ..Facts::default() };
        Self::new(facts, None)
    }

    /// The function's name: the name of its folder.
    pub fn function_name(&self) -> &str {
        &self.inner.facts.function
    }

    /// The host's id of this invocation, as in its logs.
    pub fn invocation_id(&self) -> &str {
        &self.inner.facts.id
    }

    /// The version of the host.
    pub fn host_version(&self) -> Option<&str> {
        self.inner.facts.host_version.as_deref()
    }

    /// The W3C trace context, if the host sent one.
    pub fn traceparent(&self) -> Option<&str> {
        self.inner.facts.traceparent.as_deref()
    }

    /// When the function should have returned: the configured time limit less the margin, counted from the
    /// arrival of the request. `None` if there is no limit.
    ///
    /// An invocation that is still running half a margin later is cancelled and fails, so that the host
    /// does not kill the process. What it runs on other threads or in tasks of its own goes on.
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.facts.deadline
    }

    /// The time until the deadline, zero if it has passed, `None` if there is none.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The folder of host.json, if the host named it.
    pub fn app_root(&self) -> Option<&Path> {
        self.inner.facts.app_root.as_deref()
    }

    /// Whether the process was told to stop (SIGTERM, SIGINT).
    ///
    /// The Functions host never tells: it kills. This is for everything else that runs a handler.
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.as_ref().is_some_and(|stopping| *stopping.borrow())
    }

    /// Returns when the process is told to stop; never, if that does not happen.
    pub async fn stopping(&self) {
        if let Some(mut stopping) = self.inner.stopping.clone()
            && stopping.wait_for(|stopping| *stopping).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Adds a line to the log of this invocation, which the host keeps together with its id.
    ///
    /// Each line of the text becomes a line. The host reads them from the answer, so they appear when the
    /// function has returned; if it fails they go to the process's own log instead. At most 1000 lines and
    /// 256 KiB are kept, then a last line tells how many are missing.
    pub fn log(&self, text: impl AsRef<str>) {
        let mut logs = self.inner.logs.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.as_ref().lines() {
            if logs.lines.len() >= LOG_LINES || logs.bytes + line.len() > LOG_BYTES {
                logs.dropped += 1;
            } else {
                logs.bytes += line.len();
                logs.lines.push(line.to_owned());
            }
        }
    }

    /// Takes the lines out.
    pub(crate) fn take_logs(&self) -> Vec<String> {
        let mut logs = self.inner.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let Logs { mut lines, dropped, .. } = std::mem::take(&mut *logs);
        if dropped > 0 {
            lines.push(format!("({dropped} more lines were logged and are not kept)"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_an_invocation_is_bounded_and_tells_what_is_missing() {
        let cx = Context::detached("f");
        cx.log("two\nlines");
        for n in 0..2000 {
            cx.log(format!("line {n}"));
        }
        let lines = cx.take_logs();
        assert_eq!(lines[..3], ["two", "lines", "line 0"]);
        assert_eq!(lines.len(), LOG_LINES + 1);
        assert_eq!(lines[LOG_LINES], "(1002 more lines were logged and are not kept)");
        cx.log("x".repeat(LOG_BYTES + 1));
        assert_eq!(cx.take_logs(), ["(1 more lines were logged and are not kept)"]);
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_no_time() {
        let past = Facts { deadline: Some(Instant::now()), ..Facts::default() };
        assert_eq!(Context::new(past, None).remaining(), Some(Duration::ZERO));
        assert_eq!(Context::detached("f").remaining(), None);
    }
}
