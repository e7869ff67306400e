//! Commands with a time limit.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How a command ended, and all that it wrote.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages. Passwords in arguments would show: pass them in the environment.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl Output {
    /// The exit code, or none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as text, without the last newline.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.stdout);
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns itself, and panics with all that the command said unless it ended with 0.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(
            self.status.success(),
            "{} ended with {} after {:.1} s\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.took.as_secs_f64(),
            tail(&self.text()),
            tail(&self.errors()),
        );
        self
    }
}

/// Runs a command without input to its end.
///
/// # Panics
///
/// If it can't be started, or is not done within `limit`; it is killed then.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_with_input(command, &[], limit)
}

/// Like [`run`], with something to read from its standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let name = format!("{command:?}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("could not start {name}: {e}"));
    let stdout = collect(child.stdout.take().expect("piped above"));
    let stderr = collect(child.stderr.take().expect("piped above"));
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_owned();
    // A command may end without reading it all, and its output may have to be read meanwhile.
    thread::spawn(move || drop(stdin.write_all(&input)));

    let status = wait(&mut child, limit.saturating_sub(started.elapsed()));
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    // A grandchild that was left behind may hold the pipes open.
    let grace = Duration::from_secs(10);
    let (stdout, stderr) = (stdout.recv_timeout(grace), stderr.recv_timeout(grace));
    let Some(status) = status else {
        let said = String::from_utf8_lossy(stderr.as_deref().unwrap_or_default()).into_owned();
        panic!("{name} was not done in {limit:?} and was killed\n--- stderr\n{}", tail(&said));
    };
    let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
        panic!("{name} ended with {status}, but something it started still holds its output");
    };
    Output { command: name, status, stdout, stderr, took: started.elapsed() }
}

/// Waits for the end of a child; none if it did not come in time.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        drop(from.read_to_end(&mut all));
        drop(sender.send(all));
    });
    receiver
}

/// The last part of a long text: where the error is.
pub(crate) fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(8000);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_code_come_back() {
        let out = run(&mut shell("echo one; echo two >&2; exit 3"), Duration::from_secs(10));
        assert_eq!((out.code(), out.text(), out.errors()), (Some(3), "one".into(), "two\n".into()));
    }

    #[test]
    fn more_than_a_pipe_holds_passes_through() {
        let input = vec![b'x'; 1 << 20];
        let out = run_with_input(&mut shell("cat"), &input, Duration::from_secs(10));
        assert_eq!(out.expect_success().stdout, input);
    }

    #[test]
    #[should_panic(expected = "was not done in")]
    fn a_command_that_hangs_is_killed() {
        run(&mut shell("exec sleep 60"), Duration::from_millis(200));
    }

    #[test]
    #[should_panic(expected = "no such thing")]
    fn a_failure_shows_what_the_command_said() {
        run(&mut shell("echo no such thing >&2; exit 1"), Duration::from_secs(10)).expect_success();
    }
}
