//! How things are: what the policy wants, what the vault has, what is at work.

use flexkeep_engine::{RunProgress, run_progress};
use flexkeep_policy::{DrillNote, DrillPolicy, DrillState, Policy, Scratch, ServerPolicy};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::store::StoreErrorKind;
use flexkeep_vault::{RemoteStores, RunRecord, RunState, ServerName, Vault, VaultError};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::ServiceError;
use crate::message::BackupMessage;
use crate::record::{Record, RequestNote};
use crate::service::{Service, blocking};

/// How old the last sign of a run may be before it counts as silent: several times
/// [`flexkeep_engine::PROGRESS_EVERY`].
const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// How far an instant that was sent may be ahead of the clock.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

/// The state of all servers of a vault, or of a policy.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// When this was read.
    pub at: Timestamp,
    /// The vault's place.
    pub vault: String,
    /// One entry a server.
    pub servers: Vec<ServerStatus>,
}

/// The state of one server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub server: String,
    /// Whether the policy names it; `None` when no policy was asked.
    pub in_policy: Option<bool>,
    /// Whether the policy schedules it.
    pub enabled: Option<bool>,
    /// Its schedule in words.
    pub schedule: Option<String>,
    /// The next scheduled instant.
    pub next: Option<Timestamp>,
    /// Whether a daily schedule has fallen back to weekly.
    pub degraded: bool,
    /// Failures of scheduled backups in a row.
    pub failures: u32,
    /// What keeps it from being backed up, such as a secret that is not set.
    pub problems: Vec<String>,
    /// The newest backup.
    pub last_backup: Option<BackupSummary>,
    /// What became of the last requests, newest last.
    pub requests: Vec<RequestNote>,
    /// Runs that have sealed nothing (yet).
    pub runs: Vec<RunStatus>,
    /// Its restore drill, if it has one or had one.
    pub drill: Option<DrillStatus>,
}

/// The state of a server's restore drill.
#[derive(Clone, Debug, Serialize)]
pub struct DrillStatus {
    /// Its schedule in words; `None` where the policy has no drill (any more).
    pub schedule: Option<String>,
    /// The next scheduled instant.
    pub next: Option<Timestamp>,
    /// How the last one ended.
    pub last: Option<DrillNote>,
    /// Scratch databases that are there, or were being made when somebody died.
    pub scratch: Vec<Scratch>,
}

impl DrillStatus {
    fn of(state: &DrillState, drill: Option<&DrillPolicy>, now: Timestamp) -> Option<Self> {
        if drill.is_none() && *state == DrillState::default() {
            return None;
        }
        let enabled = drill.filter(|drill| drill.enabled());
        Some(Self {
            schedule: drill.map(|drill| drill.schedule().to_string()),
            next: enabled.map(|drill| drill.schedule().next_instant(now)),
            last: state.last.clone(),
            scratch: state.scratch.clone(),
        })
    }
}

/// A backup, in short.
#[derive(Clone, Debug, Serialize)]
pub struct BackupSummary {
    /// Its id.
    pub backup: String,
    /// Its server.
    pub server: String,
    /// What asked for it.
    pub request: Option<String>,
    /// When it was sealed.
    pub sealed: Timestamp,
    /// Whether nothing was left out for want of rights.
    pub complete: bool,
    /// Its data, bytes.
    pub raw_bytes: u64,
    /// What it added to the vault, bytes.
    pub new_stored_bytes: u64,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct RunStatus {
    /// Its record.
    #[serde(flatten)]
    pub record: RunRecord,
    /// Its last progress, once it has run for a few seconds.
    pub progress: Option<RunProgress>,
    /// Percent done.
    pub percent: Option<u8>,
    /// Whether it says that it is at work but has shown no sign of it for a minute.
    pub silent: bool,
}

/// The answer to a request for a backup.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The server.
    pub server: ServerName,
    /// The request's id.
    pub request: String,
    /// What became of it, if it was made before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<RequestNote>,
}

impl From<&Manifest> for BackupSummary {
    fn from(manifest: &Manifest) -> Self {
        Self {
            backup: manifest.backup.clone(),
            server: manifest.server.clone(),
            request: manifest.request.clone(),
            sealed: manifest.sealed,
            complete: manifest.losses.is_empty(),
            raw_bytes: manifest.totals.raw_bytes,
            new_stored_bytes: manifest.totals.new_stored_bytes,
        }
    }
}

/// The newest backup of a server that can be read, and what is wrong with newer ones.
pub fn last_backup(
    vault: &Vault,
    server: &ServerName,
) -> Result<(Option<BackupSummary>, Vec<String>), VaultError> {
    let mut problems = Vec::new();
    for id in vault.backups(server)?.iter().rev() {
        match vault.manifest(id) {
            Ok(manifest) => return Ok((Some(BackupSummary::from(&manifest)), problems)),
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => problems.push(format!("backup {id}: {}", flexkeep_engine::chain(&error))),
        }
    }
    Ok((None, problems))
}

impl Status {
    /// Reads the state of the servers of the policy, and of the others in `vault`, which need not be
    /// there yet.
    pub fn read(
        vault: Option<&Vault>,
        policy: Option<&Policy>,
        now: Timestamp,
    ) -> Result<Self, ServiceError> {
        let mut names: Vec<ServerName> = Vec::new();
        let wanted = policy.map(Policy::servers).unwrap_or_default();
        names.extend(wanted.iter().map(|server| server.name().clone()));
        let mut others = Vec::new();
        if let Some(vault) = vault {
            others.extend(vault.servers()?);
            others.extend(vault.servers_with_runs()?);
        }
        others.sort();
        others.dedup();
        others.retain(|name| !names.contains(name));
        names.append(&mut others);
        let servers = names
            .iter()
            .map(|name| {
                let server = wanted.iter().find(|server| server.name() == name);
                let drill = policy.and_then(|policy| policy.drill(name.as_str()));
                ServerStatus::read(vault, name, (policy.map(|_| server), drill), now)
            })
            .collect::<Result<_, _>>()?;
        let place = match (vault, policy) {
            (Some(vault), _) => vault.location(),
            (None, Some(policy)) => policy.vault().to_string(),
            (None, None) => String::new(),
        };
        Ok(Self { at: now, vault: place, servers })
    }
}

impl ServerStatus {
    fn read(
        vault: Option<&Vault>,
        name: &ServerName,
        (policy, drill): (Option<Option<&ServerPolicy>>, Option<&DrillPolicy>),
        now: Timestamp,
    ) -> Result<Self, ServiceError> {
        let mut record = Record::default();
        let (mut newest, mut problems, mut runs) = (None, Vec::new(), Vec::new());
        if vault.is_none() {
            problems.push(
                "the vault is not there yet; the first tick of the schedule makes it".to_owned(),
            );
        }
        if let Some(vault) = vault {
            record = Record::read(vault, name)?.0;
            (newest, problems) = last_backup(vault, name)?;
            if let Some(sent) = record.schedule.last_sent.filter(|sent| *sent > now + A_DAY) {
                problems.push(format!(
                    "the backup of {sent} was sent already, so nothing is sent before; if the clock \
                     was wrong then, remove schedule/{name}.json from the vault"
                ));
            }
            for run in vault.list_runs(name)? {
                runs.push(RunStatus::read(vault, run, now)?);
            }
        }
        let server = policy.flatten();
        if let Some(Err(missing)) = server.map(ServerPolicy::connection) {
            problems.extend(missing.iter().map(ToString::to_string));
        }
        Ok(Self {
            server: name.to_string(),
            in_policy: policy.map(|server| server.is_some()),
            enabled: server.map(ServerPolicy::enabled),
            schedule: server.map(|server| record.schedule.effective(server).to_string()),
            next: server
                .filter(|server| server.enabled())
                .map(|server| record.schedule.effective(server).next_instant(now)),
            degraded: record.schedule.degraded,
            failures: record.schedule.consecutive_failures,
            problems,
            last_backup: newest,
            requests: record.requests,
            runs,
            drill: DrillStatus::of(&record.drill, drill, now),
        })
    }
}

impl RunStatus {
    fn read(vault: &Vault, record: RunRecord, now: Timestamp) -> Result<Self, ServiceError> {
        let progress = run_progress(vault, &record.server, &record.run)?;
        let sign = progress.as_ref().map_or(record.started, |progress| progress.at);
        let silent = record.state == RunState::Running && now.duration_since(sign) > SILENT_AFTER;
        let percent = progress.as_ref().and_then(RunProgress::percent);
        Ok(Self { record, progress, percent, silent })
    }
}

/// The vault, `None` before the first backup: looking must not make it.
pub(crate) fn open(
    policy: &Policy,
    stores: &dyn RemoteStores,
) -> Result<Option<Vault>, VaultError> {
    match Vault::open(policy.vault(), stores) {
        Ok(vault) => Ok(Some(vault)),
        Err(VaultError::NotAVault { .. }) => Ok(None),
        Err(VaultError::Store(error)) if error.kind == StoreErrorKind::NoSuchPlace => Ok(None),
        Err(error) => Err(error),
    }
}

impl Service {
    /// The state of every server.
    pub async fn status(&self) -> Result<Status, ServiceError> {
        let service = self.clone();
        blocking(move || {
            let policy = service.policy()?;
            let vault = open(&policy, service.options.stores.as_ref())?;
            Status::read(vault.as_ref(), Some(&policy), Timestamp::now())
        })
        .await?
    }

    /// All backups that can be read, of one server or of all, oldest first.
    pub async fn backups(&self, server: Option<&str>) -> Result<Vec<BackupSummary>, ServiceError> {
        let server: Option<ServerName> = server.map(str::parse).transpose()?;
        let service = self.clone();
        blocking(move || {
            let policy = service.policy()?;
            let Some(vault) = open(&policy, service.options.stores.as_ref())? else {
                return Ok(Vec::new());
            };
            let servers = match server {
                Some(server) => vec![server],
                None => vault.servers()?,
            };
            let mut backups = Vec::new();
            for server in &servers {
                for id in vault.backups(server)? {
                    match vault.manifest(&id) {
                        Ok(manifest) => backups.push(BackupSummary::from(&manifest)),
                        Err(error @ VaultError::Store(_)) => return Err(error.into()),
                        Err(error) => {
                            tracing::error!("backup {id}: {}", flexkeep_engine::chain(&error));
                        }
                    }
                }
            }
            Ok(backups)
        })
        .await?
    }

    /// The manifest of a backup: its id, the beginning of it, or `SERVER/latest`.
    pub async fn manifest(&self, backup: &str) -> Result<Manifest, ServiceError> {
        let (service, backup) = (self.clone(), backup.to_owned());
        blocking(move || {
            let policy = service.policy()?;
            let vault =
                open(&policy, service.options.stores.as_ref())?.ok_or(ServiceError::NoBackups)?;
            Ok(vault.manifest(&vault.resolve(&backup)?)?)
        })
        .await?
    }

    /// Asks for a backup now. Requests with the same key are one: what became of it is the answer
    /// where that is known, and nothing is sent then.
    pub async fn back_up_now(&self, server: &str, key: &str) -> Result<Asked, ServiceError> {
        let (service, server, key) = (self.clone(), server.to_owned(), key.to_owned());
        let (message, note) = blocking(move || {
            let policy = service.policy()?;
            let server = Self::known_server(&policy, &server)?.name();
            let message = BackupMessage::manual(server, &key, Timestamp::now())?;
            let note = match open(&policy, service.options.stores.as_ref())? {
                Some(vault) => Record::read(&vault, server)?.0.note_of(&message.request).cloned(),
                None => None,
            };
            Ok::<_, ServiceError>((message, note))
        })
        .await??;
        if note.is_none() {
            // Another id each minute: the queue would drop a second message for days, also when
            // nothing came of the first. Two that meet make one backup all the same.
            let id = format!("{}~{:x}", message.message_id(), Timestamp::now().as_second() / 60);
            self.send_as(&id, &message, None).await?;
        }
        Ok(Asked { server: message.server, request: message.request, known: note })
    }

    /// A server of the policy, switched off or not.
    pub(crate) fn known_server<'a>(
        policy: &'a Policy,
        name: &str,
    ) -> Result<&'a ServerPolicy, ServiceError> {
        let Some(server) = policy.server(name) else {
            let known = policy.servers().iter().map(|server| server.name().to_string()).collect();
            let name = name.chars().take(100).collect();
            return Err(ServiceError::UnknownServer { name, known });
        };
        Ok(server)
    }
}
