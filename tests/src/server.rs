//! A PostgreSQL server of a test's own.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getegid, geteuid};

use crate::ports::free_port;
use crate::processes::{gone, signal, working_in};
use crate::programs::{clean, pg_command, pg_tool};
use crate::run::{tail, wait};
use crate::{Output, ServerOptions, Version, run, run_with_input};
use crate::{standby, template};

/// How long a server may take to start (crash recovery included) or to stop.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(90);
/// What a server's log of changes may take: many servers live at once, on disks that are small.
/// Checkpoints are cheap here, as nothing waits for the disk.
const MAX_WAL: &str = "64MB";
/// How long a script given to psql may run.
const SQL_LIMIT: Duration = Duration::from_secs(300);

/// A server that listens on a Unix socket and on 127.0.0.1, with a superuser `postgres`
/// (or of another [name](ServerOptions::superuser)).
///
/// Dropping it stops it and deletes its files, also while the test panics. A test process that
/// is killed can't do so: a guard of its own session sees its pipe close and does it instead.
pub struct Server {
    pub(crate) options: ServerOptions,
    dir: PathBuf,
    port: u16,
    postmaster: Option<Child>,
    guard: Child,
}

impl Server {
    /// Starts a server of that version with default options.
    #[track_caller]
    pub fn start(version: Version) -> Self {
        ServerOptions::new(version).start()
    }

    /// Starts with options to choose.
    pub fn options(version: Version) -> ServerOptions {
        ServerOptions::new(version)
    }

    #[track_caller]
    pub(crate) fn create(options: ServerOptions) -> Self {
        // A socket's path must be shorter than 108 bytes, so not wherever TMPDIR points.
        let dir = tempfile::Builder::new().prefix("fkt-").tempdir_in("/tmp");
        let dir = dir.expect("a folder in /tmp").keep();
        let guard = guard(&dir);
        let mut server = Self { options, dir, port: 0, postmaster: None, guard };
        let sockets = server.dir.join("s");
        fs::create_dir(&sockets).expect("a folder in our own");
        fs::set_permissions(&server.dir, PermissionsExt::from_mode(0o755)).expect("our own folder");
        if geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            for path in [&server.dir, &sockets] {
                chown(path, Some(uid), Some(gid)).expect("root may give a folder away");
            }
        }
        server.create_data();
        // Another process may take the free port before we do.
        for attempt in 1..=5 {
            server.port = free_port();
            match server.launch() {
                Ok(()) => return server,
                Err(log) if attempt < 5 && log.contains("Address already in use") => {}
                Err(log) => panic!("PostgreSQL {} did not start:\n{log}", server.options.version),
            }
        }
        unreachable!("the fifth attempt returns or panics")
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.options.version
    }

    /// The port, of the socket's name and on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map_or_else(
            |e| format!("(no log: {e})"),
            |log| String::from_utf8_lossy(&log).into_owned(),
        )
    }

    /// A connection string over the Unix socket, as the superuser, with the password if one is
    /// needed.
    pub fn conninfo(&self, database: &str) -> String {
        let host = self.socket_dir();
        let superuser = &self.options.superuser;
        self.connection(&host.to_string_lossy(), superuser, self.options.password.as_deref())
            + &format!(" dbname={}", conninfo_value(database))
    }

    /// A connection string over TCP.
    pub fn conninfo_tcp(&self, database: &str) -> String {
        let superuser = &self.options.superuser;
        self.connection("127.0.0.1", superuser, self.options.password.as_deref())
            + &format!(" dbname={}", conninfo_value(database))
    }

    /// A connection string over the Unix socket as another role.
    pub fn conninfo_as(&self, role: &str, password: Option<&str>, database: &str) -> String {
        self.connection(&self.socket_dir().to_string_lossy(), role, password)
            + &format!(" dbname={}", conninfo_value(database))
    }

    fn connection(&self, host: &str, role: &str, password: Option<&str>) -> String {
        let mut text = format!(
            "host={} port={} user={}",
            conninfo_value(host),
            self.port,
            conninfo_value(role)
        );
        if let Some(password) = password {
            text += &format!(" password={}", conninfo_value(password));
        }
        text
    }

    /// Runs a script and returns what it printed: unaligned, tuples only, `|` between columns.
    ///
    /// # Panics
    ///
    /// If a statement fails.
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).expect_success().text()
    }

    /// Like [`Server::psql`], but gives failures back.
    #[track_caller]
    pub fn try_psql(&self, database: &str, sql: &str) -> Output {
        run_with_input(self.psql_command(database).args(["-f", "-"]), sql.as_bytes(), SQL_LIMIT)
    }

    /// Runs a script from a file, relative `\i` included.
    #[track_caller]
    pub fn psql_file(&self, database: &str, file: &Path) -> String {
        run(self.psql_command(database).arg("-f").arg(file), SQL_LIMIT).expect_success().text()
    }

    pub(crate) fn psql_command(&self, database: &str) -> Command {
        let mut command = pg_command("psql", self.options.version);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]).arg(self.conninfo(database));
        // Notices of a large fixture would bury the error.
        command.env("PGOPTIONS", "-c client_min_messages=warning");
        command
    }

    /// Makes an empty database from template0.
    pub fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(name)));
    }

    /// Kills the main process and then every backend with SIGKILL: a crash of the machine but for
    /// its disk. [`Server::start_again`] recovers it.
    pub fn kill_nine(&mut self) {
        let data = self.data_dir();
        if let Some(mut postmaster) = self.postmaster.take() {
            drop(postmaster.kill());
            drop(postmaster.wait());
        }
        for pid in working_in(&data) {
            signal(pid, Signal::KILL);
        }
        assert!(gone(&data, START_LIMIT), "backends survived SIGKILL");
    }

    /// Freezes it (SIGSTOP): connections stay open, and nothing answers.
    pub fn pause(&self) {
        // The main process first, so that no new backend escapes.
        if let Some(postmaster) = &self.postmaster {
            signal(postmaster.id().cast_signed(), Signal::STOP);
        }
        for pid in working_in(&self.data_dir()) {
            signal(pid, Signal::STOP);
        }
    }

    /// Ends a [`Server::pause`].
    pub fn resume(&self) {
        for pid in working_in(&self.data_dir()) {
            signal(pid, Signal::CONT);
        }
    }

    /// Stops it in the fast mode: clients are disconnected, nothing is lost.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Stops it in the immediate mode: sessions end where they are, and its next start recovers it.
    pub fn stop_at_once(&mut self) {
        self.end(Signal::QUIT);
    }

    fn end(&mut self, how: Signal) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        signal(postmaster.id().cast_signed(), how);
        let ended = wait(&mut postmaster, START_LIMIT);
        assert!(ended.is_some(), "the server did not stop:\n{}", tail(&self.log()));
    }

    /// Starts it after [`Server::stop`] or [`Server::kill_nine`], on the same port.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.postmaster.is_none(), "the server runs already");
        if let Err(log) = self.launch() {
            panic!("PostgreSQL {} did not start again:\n{log}", self.options.version);
        }
    }

    /// [`Server::stop`] and [`Server::start_again`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    fn create_data(&self) {
        match (&self.options.primary, &self.options.password) {
            (Some(primary), _) => standby::copy_primary(&self.options, primary, &self.data_dir()),
            (None, None) => template::fresh(&self.options, &self.data_dir(), &self.dir),
            (None, Some(password)) => self.initdb_with_password(password),
        }
        self.configure();
    }

    fn initdb_with_password(&self, password: &str) {
        let file = self.dir.join("password");
        fs::write(&file, format!("{password}\n")).expect("our own folder");
        let mut command = template::initdb_command(&self.options, &self.data_dir(), &self.dir);
        command.args(["-A", "scram-sha-256", "--pwfile"]).arg(&file);
        let out = run(&mut command, START_LIMIT);
        fs::remove_file(&file).expect("our own file");
        out.expect_success();
    }

    fn configure(&self) {
        let conf = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nsynchronous_commit = off\nshared_buffers = 64MB\n\
             min_wal_size = 2MB\nmax_wal_size = {MAX_WAL}\ncheckpoint_warning = 0\n\
             timezone = 'UTC'\nlog_timezone = 'UTC'\n{}\n",
            self.socket_dir().display(),
            self.options.conf.join("\n"),
        );
        self.append("postgresql.conf", &conf);
        let hba = self.data_dir().join("pg_hba.conf");
        let general = fs::read_to_string(&hba).expect("initdb wrote it");
        fs::write(&hba, self.options.hba.join("\n") + "\n" + &general).expect("our own file");
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.data_dir().join(file);
        let old = fs::read_to_string(&path).expect("initdb wrote it");
        fs::write(&path, old + text).expect("our own file");
    }

    /// The folder of the disk that [`ServerOptions::small_disk`] asks for.
    pub fn small_disk(&self) -> PathBuf {
        self.dir.join("small")
    }

    /// `postgres` in a mount namespace of its own, if it is to have a small disk.
    fn on_its_disks(&self, postgres: Command) -> Command {
        let Some(mib) = self.options.small_disk_mib else { return postgres };
        let at = self.small_disk();
        let (root, options, back) = if geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            (None, format!("uid={uid},gid={gid},"), String::new())
        } else {
            // Only root of a namespace of users mounts, and postgres does not start as root.
            let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
            let back = format!("unshare --user --map-user={uid} --map-group={gid}");
            (Some("--map-root-user"), String::new(), back)
        };
        let script = format!(
            "mkdir -p '{0}'; mount -t tmpfs -o {options}mode=700,size={mib}m tmpfs '{0}'; \
             exec {back} \"$@\"",
            at.display()
        );
        let mut wrapped = clean(Command::new("unshare"));
        wrapped.arg("--mount").args(root).args(["sh", "-ec", &script, "sh"]);
        wrapped.arg(postgres.get_program()).args(postgres.get_args());
        wrapped
    }

    /// One start; the log if it fails.
    fn launch(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.dir.join("log"));
        let log = log.expect("our own folder");
        let mut postmaster = self
            .on_its_disks(as_postgres(&pg_tool("postgres", self.options.version)))
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port.to_string()])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postgres can be started");
        let end = Instant::now() + START_LIMIT;
        let pid = postmaster.id().to_string();
        loop {
            if let Ok(Some(status)) = postmaster.try_wait() {
                return Err(format!("it ended with {status}\n{}", tail(&self.log())));
            }
            if Instant::now() > end {
                drop(postmaster.kill());
                drop(postmaster.wait());
                return Err(format!("not ready in {START_LIMIT:?}\n{}", tail(&self.log())));
            }
            if is_ready(&self.data_dir(), &pid) {
                self.postmaster = Some(postmaster);
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The guard stops the server and deletes the folder as soon as its input ends.
        drop(self.guard.stdin.take());
        let done = wait(&mut self.guard, Duration::from_secs(60));
        if let Some(mut postmaster) = self.postmaster.take() {
            if done.is_none() {
                drop(postmaster.kill());
            }
            drop(postmaster.wait());
        }
    }
}

/// The process that cleans up. A session of its own, so that what kills the test (Ctrl-C, the
/// test runner's time limit, SIGKILL) does not kill it too.
fn guard(dir: &Path) -> Child {
    const SCRIPT: &str = r#"
        read -r _
        works() { [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        if [ -n "$pid" ] && works "$1"; then
            for p in /proc/[0-9]*; do
                [ "$(readlink "$p/cwd")" != "$1/data" ] || kill -CONT "${p#/proc/}"
            done
            kill -QUIT "$pid"
            for i in $(seq 400); do works "$1" || break; sleep 0.025; done
            ! works "$1" || kill -KILL "$pid"
        fi
        rm -rf "$1" || { sleep 1; rm -rf "$1"; }
    "#;
    Command::new("setsid")
        .args(["sh", "-c", SCRIPT, "guard"])
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and sh are in every Linux")
}

/// Whether the main process with that id has written that it takes connections.
fn is_ready(data: &Path, pid: &str) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    lines.next() == Some(pid) && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

/// A program of a server: it refuses to run as root.
pub(crate) fn as_postgres(program: &Path) -> Command {
    if !geteuid().is_root() {
        return clean(Command::new(program));
    }
    let mut command = clean(Command::new("setpriv"));
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command.env("HOME", "/");
    command
}

/// Who runs servers when we are root.
pub(crate) fn postgres_ids() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.expect("no user postgres, who runs servers when we are root: run scripts/setup.sh")
}

/// A value of a connection string, quoted.
fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
