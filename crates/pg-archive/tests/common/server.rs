//! A PostgreSQL server of its own for a test, on a Unix socket in a temporary folder.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A command that takes longer has failed: `pg_restore` can loop for ever on a bad archive.
const DEADLINE: Duration = Duration::from_secs(120);

/// The folder with the programs of a PostgreSQL major.
pub(crate) fn programs(major: u32) -> PathBuf {
    let name = format!("FLEXKEEP_PG{major}_BIN");
    let default = (major == 15).then(|| "/usr/lib/postgresql/15/bin".into());
    let folder = std::env::var_os(&name).map(PathBuf::from).or(default).unwrap_or_else(|| {
        panic!("set {name} to the folder with the programs of PostgreSQL {major}")
    });
    let postgres = folder.join("postgres");
    assert!(postgres.exists(), "{} does not exist: set {name} rightly", postgres.display());
    folder
}

/// Runs a command to its end and gives what it wrote, or fails with that.
pub(crate) fn run(command: &mut Command, input: Option<&Path>) -> String {
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let input = input.map_or_else(Stdio::null, |path| File::open(path).expect("input").into());
    // Both streams go to one file; a pipe could fill up while nobody reads it.
    let append = File::options().append(true).open(log.path()).expect("opened");
    let errors = append.try_clone().expect("cloned");
    let mut child =
        command.stdin(input).stdout(append).stderr(errors).spawn().expect("the program starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waits") {
            break status;
        }
        if start.elapsed() > DEADLINE {
            child.kill().expect("killed");
            child.wait().expect("reaped");
            panic!("{command:?} did not end in {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = std::fs::read_to_string(log.path()).expect("text");
    assert!(status.success(), "{command:?}: {status}\n{output}");
    output
}

pub(crate) struct Server {
    bin: PathBuf,
    /// Holds data and socket; must outlive the server.
    folder: TempDir,
}

impl Server {
    pub(crate) fn start(major: u32) -> Server {
        let folder = tempfile::Builder::new().prefix("flexkeep-pg").tempdir().expect("a folder");
        let server = Server { bin: programs(major), folder };
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(server.folder.path()), None);
        }
        let data = server.data();
        let args = [
            "-A",
            "trust",
            "-U",
            "postgres",
            "-N",
            "-E",
            "UTF8",
            "--locale=C",
            "--wal-segsize=1",
            "-D",
        ];
        run(server.as_owner("initdb").args(args).arg(&data), None);
        let socket = server.folder.path().display();
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={socket} -c max_wal_size=64MB -F"
        );
        let log = server.folder.path().join("log");
        let mut start = server.as_owner("pg_ctl");
        run(start.args(["-w", "-o", &options, "start", "-l"]).arg(log).arg("-D").arg(&data), None);
        server
    }

    /// A client program that connects to this server.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("PGHOST", self.folder.path()).env("PGUSER", "postgres");
        command.env("PGPORT", "5432").env("PGCLIENTENCODING", "UTF8");
        command
    }

    /// Runs SQL and gives the rows.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let script = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(script.path(), sql).expect("written");
        let args = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"];
        run(self.client("psql").args(args), Some(script.path()))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program that must not run as root.
    fn as_owner(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.as_owner("pg_ctl");
        stop.args(["-m", "immediate", "-w", "stop", "-D"]).arg(self.data());
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
