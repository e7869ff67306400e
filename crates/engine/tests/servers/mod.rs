//! Real PostgreSQL servers for tests, each in a folder of its own, reached through a socket.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flexkeep_pg_copy::Config;
use tempfile::TempDir;

/// The folder with the programs of a major version: `FLEXKEEP_PG<major>_BIN`, or where Debian's
/// packages have them.
pub(crate) fn bin(major: u32) -> PathBuf {
    let variable = format!("FLEXKEEP_PG{major}_BIN");
    let folder = std::env::var_os(&variable)
        .map_or_else(|| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")), PathBuf::from);
    assert!(
        folder.join("postgres").is_file() || folder.join("pg_restore").is_file(),
        "this test needs PostgreSQL {major}: {} has none; install it or set {variable}",
        folder.display()
    );
    folder
}

/// A running server that ends with the test.
pub(crate) struct Server {
    pub(crate) major: u32,
    folder: TempDir,
}

impl Server {
    /// Starts an empty server.
    pub(crate) fn start(major: u32) -> Self {
        Self::start_with(major, "postgres")
    }

    /// Starts an empty server whose first superuser has this name.
    pub(crate) fn start_with(major: u32, superuser: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("fk").tempdir().expect("a folder");
        let server = Self { major, folder };
        if is_root() {
            run(Command::new("chmod").arg("755").arg(server.folder.path()));
            let inner = server.socket_folder();
            std::fs::create_dir(&inner).expect("makes a folder");
            run(Command::new("chown").arg("postgres").arg(&inner));
        } else {
            std::fs::create_dir(server.socket_folder()).expect("makes a folder");
        }
        let data = server.socket_folder().join("data");
        run(server
            .as_postgres("initdb")
            .args([
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--wal-segsize=1",
                "-U",
                superuser,
            ])
            .arg("-D")
            .arg(&data));
        let options = format!(
            "-k {} -c listen_addresses= -c fsync=off -c max_connections=40 -c max_wal_size=64MB",
            server.socket_folder().display()
        );
        run(server
            .as_postgres("pg_ctl")
            .args(["start", "--wait", "--silent", "-D"])
            .arg(&data)
            .arg("-l")
            .arg(server.socket_folder().join("log"))
            .arg("-o")
            .arg(options));
        server
    }

    fn socket_folder(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// A server's own programs refuse to run as root.
    fn as_postgres(&self, program: &str) -> Command {
        let program = bin(self.major).join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    }

    pub(crate) fn conninfo(&self, user: &str, database: &str) -> String {
        format!("host={} user={user} dbname={database}", self.socket_folder().display())
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse(&self.conninfo("postgres", "postgres")).expect("a connection string")
    }

    /// A client program of any major version that talks to this server.
    pub(crate) fn client(&self, major: u32, program: &str) -> Command {
        let mut command = Command::new(bin(major).join(program));
        command
            .env("PGHOST", self.socket_folder())
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C")
            .env_remove("PGDATABASE")
            .stdin(Stdio::null());
        command
    }

    /// Runs SQL, which must succeed, and gives what it prints.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.sql_as("postgres", database, sql)
    }

    pub(crate) fn sql_as(&self, user: &str, database: &str, sql: &str) -> String {
        let mut command = self.client(self.major, "psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-U", user, "-d", database, "-c", sql]);
        String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.socket_folder().join("data");
        let mut stop = self.as_postgres("pg_ctl");
        let _ = stop.args(["stop", "--mode=immediate", "--silent", "-D"]).arg(data).status();
    }
}

/// Runs a program that must succeed without a word on standard error but notices.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().expect("starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    output
}

/// A folder's file names, in order.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id");
    output.stdout.trim_ascii() == b"0"
}
