//! The real handler without a host: the test plays the host, byte for byte as the host speaks.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::programs::clean;
use crate::{handler, wait_for};

const START_LIMIT: Duration = Duration::from_secs(60);

/// How long an invocation may take.
const INVOCATION_LIMIT: Duration = Duration::from_secs(240);

/// A handler process; killed when it is dropped.
pub struct BareHandler {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl BareHandler {
    /// Starts the handler with these app settings, and a policy of this text.
    #[track_caller]
    pub fn start(policy: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("fkh-").tempdir_in("/tmp");
        let folder = folder.expect("a folder in /tmp");
        std::fs::write(folder.path().join("policy.toml"), policy).expect("our own folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        drop(listener);
        let log = std::fs::File::create(folder.path().join("log")).expect("our own folder");
        let mut command = clean(Command::new(handler()));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLEXKEEP_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(folder.path())
            .env("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string())
            .env("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", "4e1a3a46-3c0f-4c42-9a1d-2f2f6f0c7a10")
            .env("FLEXKEEP_POLICY", "policy.toml")
            .env("FLEXKEEP_QUEUE", "backups")
            .env("FLEXKEEP_LANES_QUEUE", "lanes")
            .env("FLEXKEEP_RESTORE_QUEUE", "restores")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        let process = command.spawn().expect("the handler starts");
        let bare = Self { process, port, folder };
        wait_for("the handler listens", START_LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        bare
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// An invocation by the timer.
    #[track_caller]
    pub fn tick(&self) -> (u16, Value) {
        let timer = json!({
            "Schedule": {"AdjustForDST": true}, "ScheduleStatus": null, "IsPastDue": false
        });
        self.invoke("schedule", &json!({"Data": {"timer": timer}, "Metadata": sys("schedule")}))
    }

    /// An invocation by a message of a queue, delivered for the first time.
    #[track_caller]
    pub fn deliver(&self, function: &str, id: &str, body: &str) -> (u16, Value) {
        let mut metadata = sys(function);
        metadata["DeliveryCount"] = json!("1");
        metadata["MessageId"] = json!(format!("\"{id}\""));
        metadata["ContentType"] = json!("\"application/json\"");
        metadata["SequenceNumber"] = json!("1");
        metadata["LockToken"] = json!("\"0b1c2f0e-7a52-4a53-9a0a-000000000001\"");
        metadata["EnqueuedTimeUtc"] = json!("2026-11-22T11:50:35");
        let data = json!({"message": STANDARD.encode(body)});
        self.invoke(function, &json!({"Data": data, "Metadata": metadata}))
    }

    #[track_caller]
    fn invoke(&self, function: &str, envelope: &Value) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}/{function}", self.port);
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(INVOCATION_LIMIT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let answer = agent
            .post(&url)
            .header("content-type", "application/json")
            .header("x-azure-functions-invocationid", "5c9d3a52-6c4a-4d0e-8d38-0a2c4f5f7a10")
            .send(&envelope.to_string());
        let mut answer = answer.unwrap_or_else(|e| panic!("{url}: {e}\n{}", self.log()));
        let body = answer.body_mut().read_to_string().expect("an answer is text");
        (answer.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

impl Drop for BareHandler {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn sys(function: &str) -> Value {
    json!({"sys": {
        "MethodName": function,
        "UtcNow": "2026-11-22T11:50:35.1234567Z",
        "RandGuid": "5c9d3a52-6c4a-4d0e-8d38-0a2c4f5f7a10"
    }})
}
