//! Roles, memberships, role settings and tablespaces, by pg_dumpall.

use std::time::Duration;

use flexkeep_pg_copy as pg;

use crate::error::BackupError;
use crate::tools::{self, ClientTools};

/// How long pg_dumpall may take for the roles of a server.
const GLOBALS_LIMIT: Duration = Duration::from_secs(600);

/// The SQL that makes the server's roles, as pg_dumpall writes it. Ends early, with an error, when
/// `stop` says so.
pub(crate) fn dump(
    client: &ClientTools,
    target: &pg::Config,
    with_passwords: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<u8>, BackupError> {
    let mut command = tools::command(client, "pg_dumpall", target);
    command.args(["--globals-only", "--no-password"]);
    command.arg(format!("--database={}", target.database()));
    if !with_passwords {
        command.arg("--no-role-passwords");
    }
    Ok(tools::run_unless(command, "pg_dumpall", GLOBALS_LIMIT, stop)?.stdout)
}
