//! A stand-in for Azure Service Bus of a test's own: `scripts/servicebus_peer.py`.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::processes::signal;
use crate::{run, wait_for};

/// How long it may take to start: Python on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// An AMQP 1.0 broker on 127.0.0.1, which does what a sender sees of Service Bus. It is made of
/// another implementation of AMQP than ours; the script says what it can.
///
/// It ends when it is dropped, and also when the test process is killed.
pub struct AmqpPeer {
    dir: TempDir,
    port: u16,
    has_tls: bool,
    args: Vec<OsString>,
    process: Option<Child>,
}

impl AmqpPeer {
    /// One without TLS, as the emulator is. `args` are options of the script.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Self::create(args, false)
    }

    /// One with TLS; [`Self::authority`] is to be trusted.
    #[track_caller]
    pub fn start_tls(args: &[&str]) -> Self {
        Self::create(args, true)
    }

    #[track_caller]
    fn create(args: &[&str], has_tls: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("fkq-").tempdir_in("/tmp");
        let dir = dir.expect("a folder in /tmp");
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        if has_tls {
            make_certificates(dir.path());
            args.extend(["--tls".into(), dir.path().join("leaf.pem").into()]);
            args.push(dir.path().join("leaf-key.pem").into());
        }
        let mut peer = Self { dir, port: 0, has_tls, args, process: None };
        // Another process may take the free port before the peer does.
        for attempt in 1..=5 {
            peer.port = free_port();
            match peer.launch() {
                Ok(()) => return peer,
                Err(said) if attempt < 5 && said.contains("in use") => {}
                Err(said) => panic!("the AMQP peer did not start:\n{said}"),
            }
        }
        unreachable!("the fifth attempt returns or panics")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string with a key.
    pub fn connection_string(&self) -> String {
        let emulator = if self.has_tls { "" } else { ";UseDevelopmentEmulator=true" };
        format!(
            "Endpoint=sb://localhost:{}/;SharedAccessKeyName=Root;SharedAccessKey=c2VjcmV0\
             {emulator}",
            self.port
        )
    }

    /// The file of the authority that signed its certificate.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// SIGKILL; what it had in memory is gone, the log stays.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child of ours can be killed");
            process.wait().expect("a child of ours can be waited for");
        }
    }

    /// Starts it again on the same port, after [`Self::kill`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.launch().unwrap_or_else(|said| panic!("the AMQP peer did not start again:\n{said}"));
    }

    /// SIGSTOP: it holds its connections, and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, which: Signal) {
        let process = self.process.as_ref().expect("the peer runs");
        signal(process.id().cast_signed(), which);
    }

    /// What it has logged so far, over all restarts.
    #[track_caller]
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        // A line that is being written, or whose writer was killed, has no end.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(parse).collect()
    }

    /// The lines of the log about one kind of event.
    #[track_caller]
    pub fn log_of(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// The messages that came for a queue or topic, rejected ones and duplicates too.
    #[track_caller]
    pub fn messages(&self, entity: &str) -> Vec<Value> {
        self.log_of("message").into_iter().filter(|line| line["entity"] == entity).collect()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log.jsonl")
    }

    fn launch(&mut self) -> Result<(), String> {
        let starts = self.log_of("listening").len();
        let errors = self.dir.path().join("stderr");
        let mut process = Command::new(launcher())
            .arg(self.port.to_string())
            .arg(self.log_file())
            .arg("--until-stdin-closes")
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).expect("a file in our own folder"))
            .spawn()
            .map_err(|error| format!("{}: {error}", launcher().display()))?;
        let ended = wait_for("the AMQP peer listens", START_LIMIT, || {
            if self.log_of("listening").len() > starts {
                return Some(None);
            }
            process.try_wait().expect("a child of ours can be waited for").map(Some)
        });
        match ended {
            None => {
                self.process = Some(process);
                Ok(())
            }
            Some(status) => {
                let said = fs::read_to_string(errors).unwrap_or_default();
                Err(format!("{status}\n{said}"))
            }
        }
    }
}

impl Drop for AmqpPeer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// `FLEXKEEP_AMQP_PEER`, otherwise the one of this checkout.
fn launcher() -> PathBuf {
    env::var_os("FLEXKEEP_AMQP_PEER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/amqp-peer.sh"),
        PathBuf::from,
    )
}

/// An authority, and a certificate for `localhost` that it signed.
#[track_caller]
fn make_certificates(dir: &Path) {
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        run(command.args(args).current_dir(dir), Duration::from_secs(60)).expect_success();
    };
    let key = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"];
    let authority = ["-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=flexkeep test CA"];
    openssl(&[&key[..], &authority].concat());
    let leaf = [
        "-keyout",
        "leaf-key.pem",
        "-out",
        "leaf.pem",
        "-subj",
        "/CN=localhost",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca-key.pem",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl(&[&key[..], &leaf].concat());
}
