//! Servers and messages for tests of the function app.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::PathBuf;
use std::time::Duration;

use flexkeep_tests::{Server, Version, wait_for};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A server that takes a moment to back up: 200,100 rows in three databases.
pub(crate) fn server() -> Server {
    let server = Server::start(Version::V17);
    fill(&server);
    server
}

fn fill(server: &Server) {
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT i AS id, md5(i::text) || md5((i * 7)::text) AS note \
         FROM generate_series(1, 200000) i",
    );
    server.create_database("zoo");
    server.psql("zoo", "CREATE TABLE animals AS SELECT i AS id FROM generate_series(1, 100) i");
}

/// A server with next to nothing on it.
pub(crate) fn small_server() -> Server {
    let server = Server::start(Version::V15);
    server.psql("postgres", "CREATE TABLE t AS SELECT 1 AS x");
    server
}

/// A server with a role `keeper` that logs in with this password.
pub(crate) fn server_with_password(password: &str) -> Server {
    let server = Server::options(Version::V17).hba("local all keeper scram-sha-256").start();
    server.psql("postgres", &format!("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{password}'"));
    server
}

/// The body of a message that asks for a backup.
pub(crate) fn request(server: &str, request: &str, requested: &str) -> String {
    format!(
        "{{\"version\":1,\"server\":\"{server}\",\"request\":\"{request}\",\
         \"requested\":\"{requested}\"}}"
    )
}

/// All files below these folders.
pub(crate) fn files(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = folders.to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the test").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// No session and no advisory lock of a backup is left on the server, at once or very soon.
#[track_caller]
pub(crate) fn expect_server_free(server: &Server) {
    let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
               AND pid <> pg_backend_pid()) + (SELECT count(*) FROM pg_locks \
               WHERE locktype = 'advisory')";
    wait_for("the server is free", Duration::from_secs(20), || {
        (server.psql("postgres", sql).trim() == "0").then_some(())
    });
}
