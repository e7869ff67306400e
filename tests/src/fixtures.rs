//! The sample server: every kind of object that PostgreSQL has, loaded from `fixtures/sql`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Server, run};

/// The databases of the sample server, but for `postgres` and one that can't be connected to.
pub const SAMPLE_DATABASES: [&str; 4] =
    ["everything", "Büro 100% \"quoted\"/slash 'n' space", "empty", "latin"];

/// The path of a file under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Fills a fresh server with the sample roles and [databases](SAMPLE_DATABASES).
///
/// # Panics
///
/// If a statement fails, or the server lacks the test extension that `scripts/setup.sh` installs.
#[track_caller]
pub fn load_everything(server: &Server) {
    let extension = "SELECT count(*) FROM pg_available_extensions WHERE name = 'flexkeep_test'";
    assert_eq!(
        server.psql("postgres", extension),
        "1",
        "PostgreSQL {} has no flexkeep_test extension: run scripts/setup.sh",
        server.version()
    );
    server.psql_file("postgres", &fixture("sql/everything.sql"));
}

/// The same for a server that is too old for parts of it, or built without them; gives the errors
/// of the statements that it did not take.
#[track_caller]
pub fn load_what_it_knows(server: &Server) -> Vec<String> {
    let mut command = server.psql_command("postgres");
    command.args(["-v", "older=1", "-v", "ON_ERROR_STOP=0", "-f"]);
    let out = run(command.arg(fixture("sql/everything.sql")), Duration::from_secs(300));
    out.expect_success()
        .errors()
        .lines()
        .filter_map(|line| line.split_once(" ERROR:  "))
        .map(|(_, error)| error.to_owned())
        .collect()
}
