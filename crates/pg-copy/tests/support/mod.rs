//! Real servers for tests: a fresh cluster each, stopped and removed at the end.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_pg_copy::{Config, ConnectOptions, Connection, Environment, Error};
use tempfile::TempDir;

const BIN_15: &str = "/usr/lib/postgresql/15/bin";

/// The folders of server programs to test with: 15 always, 17 and 18 where their variables are set.
pub fn server_bins() -> Vec<PathBuf> {
    let first = std::env::var_os("FLEXKEEP_PG15_BIN").unwrap_or_else(|| BIN_15.into());
    let others = ["FLEXKEEP_PG17_BIN", "FLEXKEEP_PG18_BIN"];
    let bins: Vec<PathBuf> = std::iter::once(first)
        .chain(others.iter().filter_map(std::env::var_os))
        .map(PathBuf::from)
        .collect();
    for bin in &bins {
        assert!(
            bin.join("initdb").is_file(),
            "there is no initdb in {}: install the PostgreSQL server, or name its bin folder in \
             FLEXKEEP_PG15_BIN, FLEXKEEP_PG17_BIN or FLEXKEEP_PG18_BIN",
            bin.display()
        );
    }
    bins
}

pub struct Cluster {
    pub bin: PathBuf,
    pub folder: TempDir,
    pub port: u16,
    child: Child,
    owner: Option<(u32, u32)>,
}

impl Cluster {
    pub fn start(bin: &Path) -> Self {
        Cluster::start_with(bin, "", "", |_| {})
    }

    /// Starts a cluster with lines for postgresql.conf, and for pg_hba.conf before those that
    /// trust the superuser; `prepare` may put files into the data folder.
    pub fn start_with(bin: &Path, conf: &str, hba: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("fkcopy-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owner = owner_for_servers();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
            chown(&data, Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.arg("-D").arg(&data);
        initdb
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--no-locale"])
            .args(["--wal-segsize=1"]);
        let output = as_owner(&mut initdb, owner, folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let socket = folder.path().display();
        append(
            &data.join("postgresql.conf"),
            &format!(
                "port={port}\nunix_socket_directories='{socket}'\nlisten_addresses='127.0.0.1'\n\
                 fsync=off\nshared_buffers=16MB\nmax_wal_size=64MB\n{conf}\n"
            ),
        );
        let trust = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n";
        fs::write(data.join("pg_hba.conf"), format!("{hba}\n{trust}")).unwrap();
        prepare(&data);
        if let Some((uid, gid)) = owner {
            for entry in fs::read_dir(&data).unwrap() {
                chown(entry.unwrap().path(), Some(uid), Some(gid)).unwrap();
            }
        }
        let mut server = Command::new(bin.join("postgres"));
        server.arg("-D").arg(&data).stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = as_owner(&mut server, owner, folder.path()).stderr(log).spawn().unwrap();
        let cluster = Cluster { bin: bin.to_owned(), folder, port, child, owner };
        cluster.await_start();
        cluster
    }

    fn await_start(&self) {
        let started = Instant::now();
        while let Err(error) = self.try_connect(&self.conninfo()) {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(30), "{error}\n{log}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The superuser over the Unix socket.
    pub fn conninfo(&self) -> String {
        let folder = self.folder.path().display();
        format!("host={folder} port={} user=postgres dbname=postgres", self.port)
    }

    /// Over TCP, with more keys.
    pub fn tcp(&self, more: &str) -> String {
        format!("host=127.0.0.1 port={} dbname=postgres {more}", self.port)
    }

    pub fn try_connect(&self, conninfo: &str) -> Result<Connection, Error> {
        Connection::connect(&config(conninfo), &ConnectOptions::default())
    }

    pub fn connect(&self) -> Connection {
        self.try_connect(&self.conninfo()).unwrap()
    }

    /// Sends a signal to one of the server's processes.
    pub fn signal(&self, signal: &str, pid: i32) {
        signal_process(signal, pid);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        signal_process("-CONT", pid);
        signal_process("-INT", pid);
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > Duration::from_secs(10) {
                signal_process("-QUIT", pid);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

pub fn signal_process(signal: &str, pid: i32) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// A configuration that no variable of this process changes.
pub fn config(conninfo: &str) -> Config {
    Config::parse_in(conninfo, &Environment::empty()).unwrap()
}

pub fn append(file: &Path, text: &str) {
    let old = fs::read_to_string(file).unwrap();
    fs::write(file, old + text).unwrap();
}

/// Root may not run a server: the user `postgres` does then.
fn owner_for_servers() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let line = line.expect("as root these tests need a user `postgres` to run servers as");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn as_owner<'a>(
    command: &'a mut Command,
    owner: Option<(u32, u32)>,
    folder: &Path,
) -> &'a mut Command {
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command.current_dir(folder).env("LC_ALL", "C")
}

/// The process's resident memory at its highest, in bytes.
pub fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
