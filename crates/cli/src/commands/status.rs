//! `flexkeep status`

use std::path::Path;
use std::time::Duration;

use flexkeep_policy::{DrillNote, Policy, ProcessEnv, Scratch};
use flexkeep_service::{RequestNote, ServiceError, Status};
use flexkeep_vault::store::StoreErrorKind;
use flexkeep_vault::{Vault, VaultError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::app_client::AppClient;
use crate::args::StatusArgs;
use crate::env_vars::{self, FLEXKEEP_URL, FLEXKEEP_VAULT};
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::render::{self, units};
use crate::vault;

/// What a function app answers, and what is shown: [`Status`], as far as it is shown. Fields that
/// are not known are left alone, so that it may be newer than this command.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct View {
    pub(crate) vault: String,
    pub(crate) servers: Vec<Server>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Server {
    pub(crate) server: String,
    pub(crate) in_policy: Option<bool>,
    pub(crate) enabled: Option<bool>,
    pub(crate) schedule: Option<String>,
    pub(crate) next: Option<Timestamp>,
    pub(crate) degraded: bool,
    pub(crate) failures: u32,
    pub(crate) problems: Vec<String>,
    pub(crate) last_backup: Option<Backup>,
    #[serde(default)]
    pub(crate) requests: Vec<RequestNote>,
    pub(crate) runs: Vec<Run>,
    /// Of an app that knows of drills.
    #[serde(default)]
    pub(crate) drill: Option<Drill>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Drill {
    pub(crate) schedule: Option<String>,
    pub(crate) next: Option<Timestamp>,
    pub(crate) last: Option<DrillNote>,
    #[serde(default)]
    pub(crate) scratch: Vec<Scratch>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Backup {
    pub(crate) backup: String,
    pub(crate) request: Option<String>,
    pub(crate) sealed: Timestamp,
    pub(crate) complete: bool,
    pub(crate) raw_bytes: u64,
    pub(crate) new_stored_bytes: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Run {
    pub(crate) run: String,
    pub(crate) request: Option<String>,
    /// Which try of its request it is.
    #[serde(default = "one")]
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) state: flexkeep_vault::RunState,
    pub(crate) progress: Option<flexkeep_engine::RunProgress>,
    pub(crate) percent: Option<u8>,
    pub(crate) silent: bool,
}

fn one() -> u32 {
    1
}

impl Run {
    /// Whether it worked on that request.
    pub(crate) fn is_of(&self, note: &RequestNote) -> bool {
        self.request.as_deref() == Some(note.request.as_str())
    }

    /// Why it failed, if it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        match &self.state {
            flexkeep_vault::RunState::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// How far it is, in a line.
    pub(crate) fn line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(percent) = self.percent {
            parts.push(format!("{percent} %"));
        }
        if let Some(progress) = &self.progress {
            parts.push(format!("{}/s", units::bytes(progress.bytes_per_second)));
            if let Some(left) = progress.seconds_left {
                parts.push(format!("{} left", units::duration(Duration::from_secs(left))));
            }
            parts.push(format!("{} read", units::bytes(progress.reading.read_bytes)));
            parts.push(progress.reading.phase.clone());
        }
        if parts.is_empty() {
            parts.push("at work".to_owned());
        }
        // Lanes may be anywhere; each says where it is.
        if self.progress.as_ref().is_none_or(|progress| progress.lanes.is_empty()) {
            parts.push(format!("on {} (process {})", self.host, self.pid));
        }
        if self.silent {
            parts.push("no sign of life for a minute: dead, or cut off from the vault".to_owned());
        }
        parts.join(", ")
    }
}

pub(crate) fn run(args: &StatusArgs, output: &Output) -> Result<Exit, Failure> {
    let mut view = match (&args.url, &args.policy) {
        (Some(url), _) => ask(&AppClient::new(Some(url))?)?,
        (None, Some(policy)) => of_policy(policy)?,
        (None, None)
            if args.vault.vault.is_none()
                && env_vars::get(FLEXKEEP_VAULT)?.is_none()
                && env_vars::get(FLEXKEEP_URL)?.is_some() =>
        {
            ask(&AppClient::new(None)?)?
        }
        (None, None) => {
            let vault = vault::choose(&args.vault)?.open()?;
            view(Status::read(Some(&vault), None, Timestamp::now()))?
        }
    };
    if let Some(name) = &args.name {
        view.servers.retain(|server| server.server == name.as_str());
        if view.servers.is_empty() {
            return Err(Failure::usage(format!("nothing is known of a server {name}")));
        }
    }
    if output.json {
        output::json(&view)?;
    } else {
        output::text(&render::status::page(&view, Timestamp::now()))?;
    }
    Ok(Exit::Success)
}

/// The status that a function app tells.
pub(crate) fn ask(app: &AppClient) -> Result<View, Failure> {
    app.get("/api/status")
}

fn of_policy(path: &Path) -> Result<View, Failure> {
    let policy = Policy::load(path, &ProcessEnv)
        .map_err(|error| Failure::new(Exit::Usage, anyhow::Error::new(error)))?;
    let vault = match Vault::open(policy.vault(), crate::vault::remote().as_ref()) {
        Ok(vault) => Some(vault),
        // The first backup makes it.
        Err(VaultError::NotAVault { .. }) => None,
        Err(VaultError::Store(error)) if error.kind == StoreErrorKind::NoSuchPlace => None,
        Err(error) => return Err(error.into()),
    };
    view(Status::read(vault.as_ref(), Some(&policy), Timestamp::now()))
}

/// By way of JSON: the same fields that a function app would send.
fn view(status: Result<Status, ServiceError>) -> Result<View, Failure> {
    let status = status.map_err(|error| match error {
        ServiceError::Vault(error) => error.into(),
        error => Failure::new(Exit::Failed, anyhow::Error::new(error)),
    })?;
    serde_json::to_value(status)
        .and_then(serde_json::from_value)
        .map_err(|error| Failure::new(Exit::Failed, anyhow::Error::new(error)))
}
