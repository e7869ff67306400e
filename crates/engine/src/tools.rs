//! Finds and runs PostgreSQL's own client programs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flexkeep_pg_copy as pg;

use crate::error::ToolError;

/// Most of a program's standard error that is kept, bytes.
const STDERR_LIMIT: usize = 64 << 10;

/// A folder with `pg_dump` and `pg_dumpall` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTools {
    folder: PathBuf,
    /// Major version of its pg_dump.
    pub major: u32,
    /// What `pg_dump --version` says.
    pub version: String,
}

impl ClientTools {
    /// The newest pg_dump that is not older than the server: in `folder` if that is given,
    /// otherwise in `PATH` and where Linux packages put PostgreSQL.
    pub fn find(folder: Option<&Path>, server_major: u32) -> Result<Self, ToolError> {
        let folders = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => usual_folders(),
        };
        let mut found: Vec<Self> = folders.iter().filter_map(|f| Self::probe(f)).collect();
        found.sort_by_key(|tools| tools.major);
        let newest = found.pop();
        match newest {
            Some(tools) if tools.major >= server_major => Ok(tools),
            Some(tools) => Err(missing(
                server_major,
                format!("the newest one is {} in {}", tools.version, tools.folder.display()),
            )),
            None => Err(missing(server_major, not_found(folder))),
        }
    }

    /// The oldest programs that are not older than `major`, for what must not be newer than it has
    /// to be: a pg_restore writes SQL for servers of its own version and newer.
    pub(crate) fn find_oldest(folder: Option<&Path>, major: u32) -> Result<Self, ToolError> {
        let folders = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => usual_folders(),
        };
        let fits = |tools: &Self| tools.major >= major && tools.program("pg_restore").is_file();
        let found = folders.iter().filter_map(|folder| Self::probe(folder)).filter(fits);
        found.min_by_key(|tools| tools.major).ok_or_else(|| ToolError::Missing {
            tool: "pg_restore".to_owned(),
            server_major: major,
            found: not_found(folder),
        })
    }

    /// The program called `name` of this folder.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn probe(folder: &Path) -> Option<Self> {
        let program = folder.join("pg_dump");
        if !program.is_file() || !folder.join("pg_dumpall").is_file() || is_wrapper(&program) {
            return None;
        }
        let mut command = Command::new(&program);
        command.arg("--version");
        let output = run(command, "pg_dump", Duration::from_secs(20)).ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let major = parse_major(&version)?;
        Some(Self { folder: folder.to_owned(), major, version })
    }
}

fn missing(server_major: u32, found: String) -> ToolError {
    ToolError::Missing { tool: "pg_dump".to_owned(), server_major, found }
}

fn not_found(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => format!("{} holds no working pg_dump and pg_dumpall", folder.display()),
        None => "none is in PATH or in /usr/lib/postgresql".to_owned(),
    }
}

/// `pg_dump (PostgreSQL) 18.6 (Debian ...)` and `... 19beta2`.
pub(crate) fn parse_major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    for (root, tail) in [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/opt", "bin")] {
        let Ok(entries) = std::fs::read_dir(root) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if root == "/usr/lib/postgresql" || name.starts_with("pgsql-") {
                folders.push(entry.path().join(tail));
            }
        }
    }
    folders.dedup();
    folders
}

/// Debian's `/usr/bin/pg_dump` is a script that picks a version by rules of its own, and is slow
/// to start; the folders of the versions themselves are among the usual ones.
fn is_wrapper(program: &Path) -> bool {
    std::fs::canonicalize(program)
        .is_ok_and(|real| real.file_name().is_some_and(|name| name == "pg_wrapper"))
}

/// What a finished program wrote.
#[derive(Debug)]
pub(crate) struct ToolOutput {
    pub(crate) stdout: Vec<u8>,
}

/// A program that talks to the server, with its connection in the environment, where no other
/// user of the machine can read it.
pub(crate) fn command(
    tools: &ClientTools,
    name: &str,
    target: &pg::Config,
) -> Result<Command, ToolError> {
    let mut command = Command::new(tools.program(name));
    let no_password = |source| ToolError::Password { tool: name.to_owned(), source };
    target.apply_to(&mut command).map_err(no_password)?;
    command.env("LC_ALL", "C").env_remove("PGCLIENTENCODING").env_remove("PG_COLOR");
    Ok(command)
}

/// Runs a program to its end, at most `limit`.
pub(crate) fn run(command: Command, tool: &str, limit: Duration) -> Result<ToolOutput, ToolError> {
    run_unless(command, tool, limit, &|| false)
}

/// Like [`run`]; stops the program as soon as `stop` says so.
pub(crate) fn run_unless(
    mut command: Command,
    tool: &str,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<ToolOutput, ToolError> {
    let mut child = RunningTool::start(&mut command, tool)?;
    let mut stdout = child.take_stdout();
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = stdout.read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(result);
    });
    let deadline = Instant::now() + limit;
    let answer = loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Err(mpsc::RecvTimeoutError::Timeout) if !stop() && Instant::now() < deadline => {}
            answer => break answer,
        }
    };
    if answer.is_err() {
        child.kill();
        return Err(ToolError::Stalled { tool: tool.to_owned(), seconds: limit.as_secs() });
    }
    let _ = reader.join();
    let (status, stderr) = child.wait(limit)?;
    match answer {
        Ok(Ok(stdout)) if status.success() => Ok(ToolOutput { stdout }),
        _ => Err(ToolError::Failed { tool: tool.to_owned(), status: status.to_string(), stderr }),
    }
}

/// A started program whose standard error is being collected; killed when dropped.
pub(crate) struct RunningTool {
    child: Child,
    tool: String,
    stderr: mpsc::Receiver<String>,
}

impl RunningTool {
    pub(crate) fn start(command: &mut Command, tool: &str) -> Result<Self, ToolError> {
        Self::spawn(command.stdin(Stdio::null()), tool)
    }

    /// With a pipe as its standard input.
    pub(crate) fn start_with_input(
        command: &mut Command,
        tool: &str,
    ) -> Result<(Self, std::process::ChildStdin), ToolError> {
        let mut running = Self::spawn(command.stdin(Stdio::piped()), tool)?;
        let input = running.child.stdin.take().expect("standard input was asked for as a pipe");
        Ok((running, input))
    }

    fn spawn(command: &mut Command, tool: &str) -> Result<Self, ToolError> {
        let path = PathBuf::from(command.get_program());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ToolError::Start { path, source })?;
        let stderr = child.stderr.take().expect("standard error was asked for as a pipe");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = sender.send(read_bounded(stderr));
        });
        Ok(Self { child, tool: tool.to_owned(), stderr: receiver })
    }

    /// Standard output, a pipe.
    pub(crate) fn take_stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("standard output is a pipe, and taken once")
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
    }

    /// Waits for the end, at most `limit`, then gives the status and standard error.
    pub(crate) fn wait(
        mut self,
        limit: Duration,
    ) -> Result<(std::process::ExitStatus, String), ToolError> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self
                .child
                .try_wait()
                .map_err(|source| ToolError::Start { path: PathBuf::from(&self.tool), source })?;
            if let Some(status) = status {
                let stderr = self.stderr.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
                return Ok((status, stderr));
            }
            if Instant::now() >= deadline {
                self.kill();
                return Err(ToolError::Stalled {
                    tool: self.tool.clone(),
                    seconds: limit.as_secs(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for RunningTool {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, keeps the first part: pg_dump names the cause first.
fn read_bounded(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let room = STDERR_LIMIT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_released_and_beta_versions() {
        assert_eq!(parse_major("pg_dump (PostgreSQL) 18.6 (Debian 18.6-1)"), Some(18));
        assert_eq!(parse_major("pg_dump (PostgreSQL) 19beta2"), Some(19));
        assert_eq!(parse_major("something else"), None);
    }

    #[test]
    fn a_folder_without_pg_dump_is_named_in_the_error() {
        let error = ClientTools::find(Some(Path::new("/nonexistent")), 15).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent") && text.contains("where its programs are"), "{text}");
    }

    #[test]
    fn a_program_that_never_ends_is_stopped() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = run(command, "sleep", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ToolError::Stalled { .. }), "{error}");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the cause >&2; exit 3"]);
        let error = run(command, "sh", Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("the cause"), "{error}");
    }
}
