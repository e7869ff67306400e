//! pg_dump's own plan of a database: its table of contents, taken before any data is dumped.
//!
//! Writing a custom archive into a pipe, pg_dump writes head and table of contents first: all
//! definitions, rights, comments, sequence values, COPY statements and dependencies. When that is
//! read, it is stopped: the data is ours to read, in parallel.

use std::io::BufReader;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use flexkeep_pg_archive::{Limits, ReadError, Toc};
use flexkeep_pg_copy as pg;

use crate::error::{BackupError, ToolError};
use crate::progress::Progress;
use crate::session;
use crate::snapshot::Leader;
use crate::tools::{self, ClientTools, RunningTool};

/// How long pg_dump may read catalogs. Databases with a hundred thousand tables take minutes.
const OUTLINE_LIMIT: Duration = Duration::from_secs(3600);

/// How often the server is asked whether it is alive while pg_dump works.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// How long pg_dump may wait for one of its table locks. Someone whose exclusive lock request
/// stands behind our lock would make it wait for ever, and us with it.
const LOCK_WAIT_SECONDS: u32 = 10;

/// What pg_dump says of a database.
pub(crate) struct Outline {
    pub(crate) toc: Toc,
    /// Its warnings, one a line.
    pub(crate) warnings: Vec<String>,
}

/// Lets pg_dump look at the leader's snapshot and gives its table of contents.
pub(crate) fn take(
    tools: &ClientTools,
    target: &pg::Config,
    superuser: bool,
    leader: &mut Leader,
    encoding: &str,
    progress: &Progress,
) -> Result<Outline, BackupError> {
    let target = target.with_database(&leader.database);
    let mut command = tools::command(tools, "pg_dump", &target)?;
    command.args(["--format=custom", "--compress=0", "--no-password"]);
    command.arg(format!("--encoding={encoding}"));
    command.arg(format!("--snapshot={}", leader.snapshot));
    if !superuser {
        // It dumps none then, and only counts them, which a managed server may refuse.
        command.arg("--no-subscriptions");
    }
    command.arg(format!("--lock-wait-timeout={LOCK_WAIT_SECONDS}s"));
    let mut child = RunningTool::start(&mut command, "pg_dump")?;
    let toc = read(&mut child, leader, progress);
    // Only now: a pg_dump that has written all may end by itself, and must not be mistaken for
    // one that failed.
    child.kill();
    let (status, stderr) = child.wait(Duration::from_secs(30))?;
    match toc? {
        Ok(toc) => Ok(Outline { toc, warnings: warnings(&stderr) }),
        Err(error) if stderr.is_empty() => {
            Err(ToolError::Output { tool: "pg_dump".to_owned(), source: error }.into())
        }
        Err(_) => Err(failure(leader, status, stderr)),
    }
}

/// Reads in a thread of its own, so that a pg_dump that hangs can be left.
fn read(
    child: &mut RunningTool,
    leader: &mut Leader,
    progress: &Progress,
) -> Result<Result<Toc, ReadError>, BackupError> {
    let stdout = child.take_stdout();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver is gone only when nobody wants the answer any more.
        let _ = sender.send(Toc::read(&mut BufReader::new(stdout), &Limits::default()));
    });
    let deadline = Instant::now() + OUTLINE_LIMIT;
    let mut asked = Instant::now();
    loop {
        // A server that hangs would make pg_dump wait for ever; our own connection notices.
        if asked.elapsed() > PROBE_INTERVAL {
            let connection = &mut leader.connection;
            session::run(connection, &leader.database, "waiting for pg_dump", "SELECT 1")?;
            asked = Instant::now();
        }
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(toc) => return Ok(toc),
            Err(RecvTimeoutError::Timeout) if progress.is_cancelled() => {
                return Err(BackupError::Cancelled);
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => {
                return Err(ToolError::Stalled {
                    tool: "pg_dump".to_owned(),
                    seconds: OUTLINE_LIMIT.as_secs(),
                }
                .into());
            }
        }
    }
}

/// pg_dump fails for good on what it can't read, and in passing on what changed under it.
fn failure(leader: &Leader, status: std::process::ExitStatus, stderr: String) -> BackupError {
    const PASSING: [&str; 11] = [
        "could not obtain lock",
        "lock timeout",
        "statement timeout",
        "cache lookup failed",
        "does not exist",
        "was concurrently",
        "could not open relation",
        // A view, a rule or a sequence that was dropped after the snapshot.
        "returned no data",
        "appears to be empty",
        "returned 0 rows",
        // So says a pg_dump of 18. That the sequences may be read is known by now.
        "failed to get data for sequence",
    ];
    if stderr.contains("max_locks_per_transaction") {
        return leader.lock_table_full();
    }
    if is_about_connection(&stderr) {
        return ToolError::Connection { tool: "pg_dump".to_owned(), stderr }.into();
    }
    if PASSING.iter().any(|text| stderr.contains(text)) {
        let what = format!("the schema (pg_dump: {})", stderr.replace('\n', " "));
        BackupError::Changed { database: leader.database.clone(), what }
    } else {
        ToolError::Failed { tool: "pg_dump".to_owned(), status: status.to_string(), stderr }.into()
    }
}

/// Whether pg_dump could not connect, or lost its connection. It repeats what the server said, which
/// may be that something does not exist.
fn is_about_connection(stderr: &str) -> bool {
    ["connection to server", "terminating connection", "server closed the connection"]
        .iter()
        .any(|text| stderr.contains(text))
}

fn warnings(stderr: &str) -> Vec<String> {
    stderr
        .lines()
        .filter(|line| !line.contains("terminated by") && !line.trim().is_empty())
        .map(|line| line.trim_start_matches("pg_dump: ").to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_not_a_changed_schema() {
        let refused = "pg_dump: error: connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: \
                       FATAL:  role \"backup\" does not exist";
        assert!(is_about_connection(refused));
        let dropped = "pg_dump: error: query failed: ERROR:  relation \"public.t\" does not exist";
        assert!(!is_about_connection(dropped));
    }
}
