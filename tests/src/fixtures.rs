//! The sample server: every kind of object that PostgreSQL has, loaded from `fixtures/sql`.

use std::path::{Path, PathBuf};

use crate::Server;

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
