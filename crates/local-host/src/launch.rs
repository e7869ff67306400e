//! How a handler process is started: executable, arguments, environment.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::error::HostError;
use crate::host_json::HandlerDescription;
use crate::settings::Settings;

const PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";
const PORT_LEGACY: &str = "FUNCTIONS_HTTPWORKER_PORT";
const WORKER_ID: &str = "FUNCTIONS_CUSTOMHANDLER_WORKER_ID";
const WORKER_ID_LEGACY: &str = "FUNCTIONS_HTTPWORKER_ID";
const APP_ROOT: &str = "FUNCTIONS_APP_ROOT_PATH";

/// Everything that the starts of one host's handler have in common.
#[derive(Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    /// The settings, over the environment that the child inherits.
    environment: Vec<(String, String)>,
    app_root: PathBuf,
    pub(crate) port: u16,
}

impl Launch {
    pub(crate) fn new(
        handler: &HandlerDescription,
        program: PathBuf,
        app_root: &Path,
        environment: Vec<(String, String)>,
        port: u16,
    ) -> Self {
        let lookup = |name: &str| match name {
            PORT | PORT_LEGACY => Some(port.to_string()),
            APP_ROOT => Some(app_root.display().to_string()),
            _ => value_of(&environment, name),
        };
        let mut line: Vec<String> = handler.arguments.iter().map(|a| expand(a, lookup)).collect();
        if let Some(path) = &handler.worker_path {
            line.push(format!("\"{}\"", expand(path, lookup)));
        }
        line.extend(handler.worker_arguments.iter().map(|argument| expand(argument, lookup)));
        Self {
            program,
            // The host joins them without quotes, so a blank inside one makes it two.
            arguments: split_command_line(&line.join(" ")),
            directory: handler.working_directory.clone(),
            environment,
            app_root: app_root.to_owned(),
            port,
        }
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a process with pipes on all three streams.
    ///
    /// The pipe on stdin is an addition of this host: nothing is ever written to it, and it ends
    /// when the host does, so that a handler may notice. The process leads a group of its own, so
    /// that Ctrl-C in a terminal reaches the host only, which then stops in order.
    pub(crate) fn spawn(&self) -> std::io::Result<Child> {
        std::fs::create_dir_all(&self.directory)?;
        let worker_id = Uuid::new_v4().to_string();
        Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(&self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(PORT, self.port.to_string())
            .env(PORT_LEGACY, self.port.to_string())
            .env(WORKER_ID, &worker_id)
            .env(WORKER_ID_LEGACY, &worker_id)
            .env(APP_ROOT, &self.app_root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// Starts what kills the handler if this host dies without stopping it, by SIGKILL for example:
/// a shell that waits for the end of a pipe which only this process holds.
pub(crate) fn spawn_watchdog(pid: u32) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "read -r line; kill -KILL \"-$1\"", "sh"])
        .arg(pid.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Finds the handler's executable: relative to the worker directory, or on the search path.
pub(crate) fn find_program(
    handler: &HandlerDescription,
    settings: &Settings,
    over: Option<&Path>,
) -> Result<PathBuf, HostError> {
    if let Some(path) = over {
        let path = std::path::absolute(path)
            .map_err(|source| HostError::Read { path: path.to_owned(), source })?;
        return match path.is_file() {
            true => executable(path),
            false => Err(HostError::Handler { path, problem: "does not exist".into() }),
        };
    }
    let lookup =
        |name: &str| settings.get(name).map(str::to_owned).or_else(|| std::env::var(name).ok());
    let name = expand(&handler.executable, lookup);
    let path = handler.worker_directory.join(&name);
    if path.is_file() {
        return executable(std::path::absolute(&path).unwrap_or(path));
    }
    if !name.contains('/') {
        let search = settings.get("PATH").map(Into::into).or_else(|| std::env::var_os("PATH"));
        let found = std::env::split_paths(&search.unwrap_or_default())
            .map(|folder| folder.join(&name))
            .find(|path| path.is_file() && executable(path.clone()).is_ok());
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let problem = "does not exist, nor is it a command on the search path; build it, or correct \
                   customHandler.description.defaultExecutablePath in host.json";
    Err(HostError::Handler { path, problem: problem.into() })
}

fn executable(path: PathBuf) -> Result<PathBuf, HostError> {
    let metadata = std::fs::metadata(&path)
        .map_err(|source| HostError::Read { path: path.clone(), source })?;
    match metadata.permissions().mode() & 0o111 {
        0 => Err(HostError::Handler { path, problem: "is not executable; chmod +x it".into() }),
        _ => Ok(path),
    }
}

fn value_of(environment: &[(String, String)], name: &str) -> Option<String> {
    let own = environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    own.or_else(|| std::env::var(name).ok())
}

/// Replaces `%NAME%` by its value; what has none becomes empty.
fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let Some(length) = rest[start + 1..].find('%') else { break };
        expanded.push_str(&rest[..start]);
        expanded.push_str(&lookup(&rest[start + 1..start + 1 + length]).unwrap_or_default());
        rest = &rest[start + length + 2..];
    }
    expanded.push_str(rest);
    expanded
}

/// Splits a command line as .NET does: at blanks outside double quotes; `\"` is a quote.
fn split_command_line(line: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'"') => {
                characters.next();
                current.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                current.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => arguments.extend(current.take()),
            character => current.get_or_insert_default().push(character),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(executable: &str, root: &Path) -> HandlerDescription {
        HandlerDescription {
            executable: executable.into(),
            arguments: vec!["--port".into(), "%FUNCTIONS_CUSTOMHANDLER_PORT%".into(), "a b".into()],
            worker_path: Some("my script".into()),
            worker_arguments: vec!["%NOTHING_IS_CALLED_THIS%x".into()],
            working_directory: root.to_owned(),
            worker_directory: root.to_owned(),
            stderr_is_errors: true,
            forwards_http: false,
            initialization_timeout: std::time::Duration::from_secs(30),
            port: None,
        }
    }

    #[test]
    fn arguments_are_expanded_and_joined_without_quotes_like_the_host_does() {
        let root = Path::new("/app");
        let launch = Launch::new(&description("h", root), "h".into(), root, Vec::new(), 4711);
        assert_eq!(launch.arguments, ["--port", "4711", "a", "b", "my script", "x"]);
        assert_eq!(split_command_line(r#"a "b c" \"d\" """#), ["a", "b c", "\"d\"", ""]);
    }

    #[test]
    fn the_executable_is_a_file_below_the_worker_directory_or_a_command() {
        let root = tempfile::tempdir().unwrap();
        let find =
            |name: &str| find_program(&description(name, root.path()), &Settings::default(), None);
        assert!(find("sh").unwrap().ends_with("sh"));
        let path = root.path().join("sh");
        std::fs::write(&path, "").unwrap();
        assert!(
            find("sh").unwrap_err().to_string().ends_with("/sh: is not executable; chmod +x it")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("sh").unwrap(), path);
        let error = find("bin/none").unwrap_err().to_string();
        assert!(error.contains("bin/none: does not exist"), "{error}");
        let over = find_program(
            &description("sh", root.path()),
            &Settings::default(),
            Some(Path::new("/none")),
        );
        assert_eq!(over.unwrap_err().to_string(), "handler /none: does not exist");
    }
}
