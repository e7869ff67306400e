//! A vault of a test's own, and `flexkeep` commands that work on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::signal;
use crate::programs::clean;
use crate::run::wait;
use crate::{Output, Server, flexkeep, run};

/// How long any `flexkeep` command of a test may take.
const LIMIT: Duration = Duration::from_secs(150);

/// `flexkeep` with these arguments, untouched by the developer's own settings.
pub fn flexkeep_command(arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(flexkeep()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEXKEEP_") {
            command.env_remove(name);
        }
    }
    command.env("PGPASSFILE", "/nonexistent").args(arguments);
    command
}

/// Lets a test change an object of a vault, which is written once.
#[track_caller]
pub fn writable(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("the object is there");
}

/// Turns round one bit in the middle of an object of a vault.
#[track_caller]
pub fn flip(file: &Path) {
    writable(file);
    let mut bytes = fs::read(file).expect("the object can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).expect("the object can be written");
}

/// A folder with a vault in it, gone when dropped.
pub struct TestVault {
    folder: TempDir,
}

impl TestVault {
    /// A folder in which the first backup makes the vault.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fkv-").tempdir_in("/tmp");
        Self { folder: folder.expect("a folder in /tmp") }
    }

    /// The vault's own folder.
    pub fn place(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    /// A path beside the vault, for exports and other files of the test.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `flexkeep backup --json` of all databases of a server, as its superuser, under the name
    /// `src`; more options can be added.
    pub fn backup(&self, server: &Server) -> Command {
        self.backup_from(&server.conninfo("postgres"), server)
    }

    /// Like [`TestVault::backup`], with another connection string.
    pub fn backup_from(&self, connection: &str, server: &Server) -> Command {
        let mut command = flexkeep_command(&["backup", "--json", "--from", connection]);
        command.args(["--name", "src", "--pg-bin"]).arg(server.version().bin());
        command.arg("--vault").arg(self.place());
        command
    }

    /// `flexkeep export --json` into a folder.
    pub fn export(&self, backup: &str, to: &Path) -> Command {
        let mut command = flexkeep_command(&["export", "--json", backup, "--vault"]);
        command.arg(self.place()).arg("--to").arg(to);
        command
    }

    /// The document of `flexkeep list --json`, which must succeed.
    #[track_caller]
    pub fn list(&self) -> Value {
        let mut command = flexkeep_command(&["list", "--json", "--vault"]);
        json(&run(command.arg(self.place()), LIMIT).expect_success())
    }

    /// Ids of the sealed backups, oldest first.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        let list = self.list();
        let backups = list["backups"].as_array().expect("a list has backups");
        backups.iter().map(|b| b["backup"].as_str().expect("an id").to_owned()).collect()
    }

    /// All files of the vault under a folder of it, in the order of their paths.
    pub fn files(&self, under: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.place().join(under)];
        while let Some(folder) = folders.pop() {
            // A folder that is not there yet, or that goes meanwhile, has none.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }
}

impl Default for TestVault {
    fn default() -> Self {
        Self::new()
    }
}

/// What a command with `--json` wrote.
#[track_caller]
pub fn json(output: &Output) -> Value {
    let text = output.text();
    serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("{} wrote no JSON document: {e}\n{text}\n{}", output.command, output.errors())
    })
}

/// A command that runs while the test does something else; killed if the test drops it.
pub struct Running {
    child: Option<Child>,
    output: TempDir,
    command: String,
}

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let output = tempfile::tempdir().expect("a temporary folder");
        let file = |name| fs::File::create(output.path().join(name)).expect("our own folder");
        let name = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {name}: {e}"));
        Self { child: Some(child), output, command: name }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("only finish takes it");
        child.try_wait().expect("a child of ours").is_none()
    }

    /// What it has written to standard error so far.
    pub fn errors_so_far(&self) -> String {
        let bytes = fs::read(self.output.path().join("stderr")).expect("our own file");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Asks it to stop, as Ctrl-C would.
    pub fn interrupt(&self) {
        signal(self.pid().cast_signed(), Signal::INT);
    }

    /// Asks it to stop, as a service manager would.
    pub fn terminate(&self) {
        signal(self.pid().cast_signed(), Signal::TERM);
    }

    /// Kills it where it stands.
    pub fn kill_nine(&self) {
        signal(self.pid().cast_signed(), Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it is not done in time; it is killed then.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let started = std::time::Instant::now();
        let mut child = self.child.take().expect("only finish takes it");
        let status = wait(&mut child, limit);
        let read = |name| fs::read(self.output.path().join(name)).expect("our own file");
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        let Some(status) = status else {
            drop(child.kill());
            drop(child.wait());
            let said = String::from_utf8_lossy(&stderr).into_owned();
            panic!("{} was not done in {limit:?}\n--- stderr\n{said}", self.command);
        };
        let command = std::mem::take(&mut self.command);
        Output { command, status, stdout, stderr, took: started.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
