//! Roles, memberships, role settings and tablespaces, by pg_dumpall.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{self as pg, Connection};

use crate::error::{BackupError, ToolError};
use crate::source;
use crate::tools::{self, ClientTools};

/// How long pg_dumpall may take for the roles of a server.
const GLOBALS_LIMIT: Duration = Duration::from_secs(600);

/// Waits between two tries: a server that crashed or was restarted is back after a few seconds.
const PAUSE: Duration = Duration::from_secs(3);

/// The SQL that makes the server's roles, as pg_dumpall writes it, tried up to `attempts` times
/// when the connection breaks. Ends early, with an error, when `stop` says so.
///
/// `encoding` is that of the database which `target` names: the role may have another one for its
/// sessions, which could not write every name.
pub(crate) fn dump(
    client: &ClientTools,
    target: &pg::Config,
    encoding: &str,
    with_passwords: bool,
    attempts: u32,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<u8>, BackupError> {
    let mut attempt = 1;
    loop {
        match try_dump(client, target, encoding, with_passwords, stop) {
            Err(error) if attempt < attempts && !stop() && is_lost_connection(&error) => {
                attempt += 1;
                let end = Instant::now() + PAUSE;
                while Instant::now() < end && !stop() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            result => return Ok(result?),
        }
    }
}

/// Globals that were written once more.
pub(crate) struct Later {
    pub(crate) sql: Vec<u8>,
    pub(crate) note: Option<String>,
}

/// Writes the globals once more if there are roles by now that were not there `before`: snapshots
/// that were taken since may have objects of theirs.
pub(crate) fn later(
    connection: &mut Connection,
    before: &BTreeSet<String>,
    dump: impl FnOnce(&str) -> Result<Vec<u8>, BackupError>,
) -> Result<Option<Later>, BackupError> {
    let now = source::roles(connection)?;
    if now.is_subset(before) {
        return Ok(None);
    }
    let gone = before.difference(&now).count();
    let note = (gone > 0).then(|| {
        format!(
            "{gone} roles were dropped or renamed during the backup, which has those of its end"
        )
    });
    Ok(Some(Later { sql: dump(&source::encoding(connection, "")?)?, note }))
}

/// By what pg_dumpall says, in English: its locale is set to C.
fn is_lost_connection(error: &ToolError) -> bool {
    const PASSING: [&str; 5] = [
        "server closed the connection",
        "terminating connection",
        "the database system is",
        "Connection refused",
        "No such file or directory",
    ];
    matches!(error, ToolError::Failed { stderr, .. }
        if PASSING.iter().any(|text| stderr.contains(text)))
}

fn try_dump(
    client: &ClientTools,
    target: &pg::Config,
    encoding: &str,
    with_passwords: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<u8>, ToolError> {
    let mut command = tools::command(client, "pg_dumpall", target)?;
    command.args(["--globals-only", "--no-password"]);
    command.env("PGCLIENTENCODING", encoding);
    // It takes a name with `=` in it for a connection string, so it gets one.
    command.arg(format!("--database={}", target.database_conninfo()));
    if !with_passwords {
        command.arg("--no-role-passwords");
    }
    Ok(tools::run_unless(command, "pg_dumpall", GLOBALS_LIMIT, stop)?.stdout)
}
