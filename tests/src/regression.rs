//! PostgreSQL's own regression suite as a database to back up: hundreds of objects that its
//! developers thought of.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, thread};

use crate::programs::tools;
use crate::{Output, Server, Version, pg_command, run};

/// How long one script of the suite may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How many scripts of a group run at the same time.
const AT_ONCE: usize = 4;

/// Makes the database `regression` and fills it by the suite's SQL scripts, in the order of its
/// schedule. What the scripts print is not looked at, and their errors are part of them; what needs
/// the suite's C library fails, and so does what builds on that. The caller looks at what there is.
///
/// # Panics
///
/// If `scripts/setup.sh` did not provide the suite, or a script can't be run at all.
#[track_caller]
pub fn load_regression(server: &Server) {
    let suite = suite();
    let schedule = fs::read_to_string(suite.join("parallel_schedule")).unwrap_or_else(|e| {
        panic!(
            "no regression suite in {}: {e}: run scripts/setup.sh, or set FLEXKEEP_REGRESS",
            suite.display()
        )
    });
    server.psql("postgres", CREATE);
    server.psql("postgres", SETTINGS);
    for group in schedule.lines().filter_map(|line| line.strip_prefix("test:")) {
        let scripts: Vec<&str> = group.split_whitespace().collect();
        for some in scripts.chunks(AT_ONCE) {
            thread::scope(|scope| {
                for script in some {
                    scope.spawn(|| run_script(server, &suite, script));
                }
            });
        }
    }
}

/// As pg_regress does it.
const CREATE: &str = "CREATE DATABASE regression TEMPLATE template0 LOCALE 'C'";
const SETTINGS: &str = "
    ALTER DATABASE regression SET lc_messages TO 'C';
    ALTER DATABASE regression SET lc_monetary TO 'C';
    ALTER DATABASE regression SET lc_numeric TO 'C';
    ALTER DATABASE regression SET lc_time TO 'C';
    ALTER DATABASE regression SET bytea_output TO 'hex';
    ALTER DATABASE regression SET timezone_abbreviations TO 'Default';";

fn suite() -> PathBuf {
    env::var_os("FLEXKEEP_REGRESS").map_or_else(|| tools().join("regress"), PathBuf::from)
}

/// The version whose suite `scripts/setup.sh` provided.
///
/// # Panics
///
/// If it provided none, or one of a version without client programs.
#[must_use]
pub fn regression_version() -> Version {
    let file = suite().join("major");
    let text = fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{}: {e}: run scripts/setup.sh", file.display()));
    let version = Version::ALL.into_iter().find(|v| v.major().to_string() == text.trim());
    version.unwrap_or_else(|| panic!("{}: no version that tests have: {text:?}", file.display()))
}

fn run_script(server: &Server, suite: &std::path::Path, script: &str) {
    let mut command = pg_command("psql", server.version());
    command.args(["-X", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]);
    command.arg("-d").arg(server.conninfo("regression"));
    command.arg("-f").arg(suite.join("sql").join(format!("{script}.sql")));
    command.env("PG_ABS_SRCDIR", suite).env("PG_ABS_BUILDDIR", server.socket_dir());
    command.env("PG_LIBDIR", "/nonexistent").env("PG_DLSUFFIX", ".so");
    command.env("PGTZ", "PST8PDT").env("PGDATESTYLE", "Postgres, MDY");
    command.env("PGOPTIONS", "-c intervalstyle=postgres_verbose");
    let out: Output = run(&mut command, LIMIT);
    // 3 is for scripts that stop at an error of their own.
    assert!(matches!(out.code(), Some(0 | 3)), "{script}: {}\n{}", out.status, out.errors());
}
