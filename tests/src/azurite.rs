//! An Azure Blob Storage of a test's own: Azurite, Microsoft's emulator.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::processes::signal;
use crate::programs::tools;
use crate::run;
use crate::run::{tail, wait};

/// How long it may take to start: Node on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const ACCOUNT: &str = "flexkeeptest";
/// Version of the signatures.
const SIGNED_VERSION: &str = "2022-11-02";

/// What a shared access signature allows, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// Azure's letters, in Azure's order, such as `rwdlac`.
    pub letters: &'static str,
    /// Whether it has expired years ago.
    pub expired: bool,
}

impl Rights {
    /// All that a store and making containers take.
    pub const ALL: Self = Self { letters: "rwdlact", expired: false };
    /// Reading and listing.
    pub const READ: Self = Self { letters: "rl", expired: false };
    /// All rights, of a signature that has expired.
    pub const EXPIRED: Self = Self { letters: "rwdlact", expired: true };

    fn expiry(self) -> &'static str {
        if self.expired { "2020-01-01T00:00:00Z" } else { "2099-01-01T00:00:00Z" }
    }
}

/// A Blob service on 127.0.0.1 with one account, whose name and key are its own.
///
/// Killed, and its files deleted, when it is dropped; also when the test process is killed, as a
/// guard in a session of its own then sees its pipe close.
pub struct Azurite {
    dir: TempDir,
    port: u16,
    key: [u8; 32],
    certificate: Option<String>,
    node: Option<Child>,
    guard: Child,
}

impl Azurite {
    /// With http, for shared access signatures.
    #[track_caller]
    pub fn start() -> Self {
        Self::create(false)
    }

    /// With https and tokens ([`Azurite::bearer_token`]); its certificate, which nobody trusts, is
    /// [`Azurite::certificate_pem`]. Signatures work too.
    #[track_caller]
    pub fn start_https() -> Self {
        Self::create(true)
    }

    #[track_caller]
    fn create(https: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("fkz-").tempdir_in("/tmp");
        let dir = dir.expect("a folder in /tmp");
        fs::create_dir(dir.path().join("data")).expect("a folder in our own");
        let mut key = [0; 32];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut key).expect("the system gives random bytes");
        let certificate = https.then(|| make_certificate(dir.path()));
        let guard = guard(dir.path());
        let mut azurite = Self { dir, port: 0, key, certificate, node: None, guard };
        // Another process may take the free port before Azurite does.
        for attempt in 1..=5 {
            azurite.port = free_port();
            match azurite.launch() {
                Ok(()) => return azurite,
                Err(log) if attempt < 5 && log.contains("EADDRINUSE") => {}
                Err(log) => panic!("Azurite did not start:\n{log}"),
            }
        }
        unreachable!("the fifth attempt returns or panics")
    }

    /// The account's name.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The service's URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// A container's URL with a signature that allows all.
    pub fn container_url(&self, container: &str) -> String {
        format!("{}/{container}?{}", self.endpoint(), self.account_sas(Rights::ALL))
    }

    /// The certificate to trust.
    ///
    /// # Panics
    ///
    /// If it was started without https.
    #[track_caller]
    pub fn certificate_pem(&self) -> &str {
        self.certificate.as_deref().expect("started with https")
    }

    /// A signature for the whole account, without `?`.
    pub fn account_sas(&self, rights: Rights) -> String {
        let (letters, expiry) = (rights.letters, rights.expiry());
        let text =
            format!("{ACCOUNT}\n{letters}\nb\nsco\n\n{expiry}\n\nhttps,http\n{SIGNED_VERSION}\n\n");
        format!(
            "sv={SIGNED_VERSION}&ss=b&srt=sco&sp={letters}&se={}&spr=https,http&sig={}",
            escape(expiry),
            self.sign(&text)
        )
    }

    /// A signature for one container, without `?`.
    pub fn container_sas(&self, container: &str, rights: Rights) -> String {
        let (letters, expiry) = (rights.letters, rights.expiry());
        let text = format!(
            "{letters}\n\n{expiry}\n/blob/{ACCOUNT}/{container}\n\n\nhttps,http\n{SIGNED_VERSION}\n\
             c\n\n\n\n\n\n\n"
        );
        format!(
            "sv={SIGNED_VERSION}&sr=c&sp={letters}&se={}&spr=https,http&sig={}",
            escape(expiry),
            self.sign(&text)
        )
    }

    fn sign(&self, text: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        escape(&STANDARD.encode(hmac::sign(&key, text.as_bytes())))
    }

    /// A token that it takes with https. It does not verify who signed it, only what it says.
    pub fn bearer_token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let tenant = "ab1f708d-50f6-404c-a006-d71b2ac7a606";
        let claims = json!({
            "aud": "https://storage.azure.com",
            "iss": format!("https://sts.windows.net/{tenant}/"),
            "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
            "oid": "23657296-5cd5-45b0-a809-d972a7f4dfe1", "tid": tenant,
        });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({ "alg": "RS256", "typ": "JWT" }));
        format!("{header}.{}.{}", part(claims), URL_SAFE_NO_PAD.encode("nobody signed this"))
    }

    /// Freezes it (SIGSTOP): connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends an [`Azurite::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, which: Signal) {
        if let Some(node) = &self.node {
            signal(node.id().cast_signed(), which);
        }
    }

    /// Kills it; what it had stored stays, but for what it had not written yet.
    pub fn kill_nine(&mut self) {
        if let Some(mut node) = self.node.take() {
            drop(node.kill());
            drop(node.wait());
        }
    }

    /// Starts it after [`Azurite::kill_nine`], on the same port.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.node.is_none(), "Azurite runs already");
        if let Err(log) = self.launch() {
            panic!("Azurite did not start again:\n{log}");
        }
    }

    /// The folder of all that it stores.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// One start; the log if it fails.
    fn launch(&mut self) -> Result<(), String> {
        let log = File::create(self.dir.path().join("log")).expect("our own folder");
        let mut command = Command::new(launcher());
        command
            .args(["--blobHost", "127.0.0.1", "--blobPort", &self.port.to_string()])
            .args(["--disableTelemetry", "--silent", "--location"])
            .arg(self.dir.path().join("data"))
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", STANDARD.encode(self.key)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        if self.certificate.is_some() {
            let file = |name| self.dir.path().join(name);
            command.args(["--oauth", "basic", "--cert"]).arg(file("cert.pem"));
            command.arg("--key").arg(file("key.pem"));
            // It asks itself when a blob is copied.
            command.env("NODE_EXTRA_CA_CERTS", file("cert.pem"));
        }
        let mut node = command.spawn().expect("Azurite can be started");
        fs::write(self.dir.path().join("pid"), node.id().to_string()).expect("our own folder");
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Ok(Some(status)) = node.try_wait() {
                return Err(format!("it ended with {status}\n{}", tail(&self.log())));
            }
            if Instant::now() > end {
                drop(node.kill());
                drop(node.wait());
                return Err(format!("not ready in {START_LIMIT:?}\n{}", tail(&self.log())));
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                // Somebody else may have been faster, and Azurite be about to say so.
                thread::sleep(Duration::from_millis(100));
                if let Ok(None) = node.try_wait() {
                    self.node = Some(node);
                    return Ok(());
                }
                continue;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.kill_nine();
        // The guard deletes the folder as soon as its input ends.
        drop(self.guard.stdin.take());
        let _ = wait(&mut self.guard, Duration::from_secs(30));
    }
}

/// The program that starts it: `FLEXKEEP_AZURITE`, otherwise what `scripts/setup-azurite.sh` made.
fn launcher() -> PathBuf {
    let path = std::env::var_os("FLEXKEEP_AZURITE")
        .map_or_else(|| tools().join("azurite/blob"), PathBuf::from);
    assert!(
        path.exists(),
        "no Azurite at {}: run scripts/setup-azurite.sh, or set FLEXKEEP_AZURITE",
        path.display()
    );
    path
}

/// Kills what the pid file names, if it works in that folder, and deletes the folder.
fn guard(dir: &Path) -> Child {
    const SCRIPT: &str = r#"
        read -r _
        pid=$(cat "$1/pid" 2>/dev/null)
        [ -z "$pid" ] || [ "$(readlink "/proc/$pid/cwd")" != "$1" ] || kill -KILL "$pid"
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

/// A certificate for 127.0.0.1 that is its own issuer but no authority: rustls takes no other
/// self-signed one, and Azurite's requests to itself take none from an authority.
fn make_certificate(dir: &Path) -> String {
    let extensions = [
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "basicConstraints=critical,CA:FALSE",
        "extendedKeyUsage=serverAuth",
    ];
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    command.args(["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=azurite"]);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    run(command.current_dir(dir), Duration::from_secs(60)).expect_success();
    fs::read_to_string(dir.join("cert.pem")).expect("openssl wrote it")
}

/// For a value in a query.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(url: &str) -> u16 {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(url).call().expect("an answer").status().as_u16()
    }

    #[test]
    fn signatures_open_what_they_name() {
        let azurite = Azurite::start();
        let list = |sas: &str| {
            let url = format!("{}/box?restype=container&comp=list&{sas}", azurite.endpoint());
            status(&url)
        };
        // 404: let in, and there is no such container.
        assert_eq!(list(&azurite.account_sas(Rights::ALL)), 404);
        assert_eq!(list(&azurite.container_sas("box", Rights::READ)), 404);
        assert_eq!(list(&azurite.container_sas("other", Rights::READ)), 403);
        assert_eq!(list(&azurite.account_sas(Rights::EXPIRED)), 403);
        let dir = azurite.dir.path().to_owned();
        drop(azurite);
        assert!(!dir.exists());
    }
}
