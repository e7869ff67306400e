//! The app settings. Each has its line in local.settings.example.json; a test sees to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flexkeep_bus::{Bus, BusConnection, EventSink, FileSink, LogSink, Sinks, TopicSink};
use flexkeep_functions::{APP_ROOT_VARIABLE, BoxError};
use flexkeep_policy::{Env, ProcessEnv};
use flexkeep_service::{Service, ServiceOptions};
use flexkeep_vault_azure::AzureStores;

use crate::pgbin;

/// Path of the policy file.
pub(crate) const POLICY: &str = "FLEXKEEP_POLICY";
/// The connection of the bus, or the prefix of settings that name a namespace and an identity, as
/// the Functions host reads them; the name is also in backup/function.json.
pub(crate) const BUS: &str = "FLEXKEEP_BUS";
/// The queue of backup messages; the name is also in backup/function.json.
pub(crate) const QUEUE: &str = "FLEXKEEP_QUEUE";
/// The queue of the messages that start lanes; the name is also in lane/function.json.
pub(crate) const LANES_QUEUE: &str = "FLEXKEEP_LANES_QUEUE";
/// Seconds that a lane works before it sends its successor; optional.
pub(crate) const LANE_SECONDS: &str = "FLEXKEEP_LANE_SECONDS";
/// Seconds between two events that tell how far a backup is, 0 for none; optional.
pub(crate) const PROGRESS_SECONDS: &str = "FLEXKEEP_PROGRESS_SECONDS";
/// The queue of restores and drills; the name is also in restore/function.json.
pub(crate) const RESTORE_QUEUE: &str = "FLEXKEEP_RESTORE_QUEUE";
/// Where events go.
pub(crate) const EVENTS: &str = "FLEXKEEP_EVENTS";
/// Folder of pg_dump; optional. Without it, the package's own, if it has one.
pub(crate) const PG_BIN: &str = "FLEXKEEP_PG_BIN";

/// The identity for vaults and tokens, as all Azure libraries read it; also the name under which
/// that of the bus is asked for.
const CLIENT_ID: &str = "AZURE_CLIENT_ID";

/// The host's own override of functionTimeout in host.json.
const FUNCTION_TIMEOUT: &str = "AzureFunctionsJobHost__functionTimeout";

/// What the app needs to know. Relative paths are relative to the app's root.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) root: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) bus: BusConnection,
    pub(crate) queue: String,
    pub(crate) lanes: String,
    pub(crate) lane_budget: Duration,
    pub(crate) progress_every: Option<Duration>,
    pub(crate) restore_queue: String,
    pub(crate) events: Vec<Events>,
    pub(crate) pg_bin: Option<PathBuf>,
    pub(crate) function_timeout: Option<String>,
}

/// A place where events go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Events {
    File(PathBuf),
    Log,
    Topic(String),
}

/// A setting that is missing or wrong. The text never has its value: it may hold a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("app setting {name} {problem}")]
pub(crate) struct BadSetting {
    name: &'static str,
    problem: String,
}

impl Settings {
    pub(crate) fn read(env: &dyn Env) -> Result<Self, BadSetting> {
        let root = env.var(APP_ROOT_VARIABLE).map_or_else(|_| PathBuf::from("."), PathBuf::from);
        Ok(Self {
            policy: root.join(required(env, POLICY, "is not set; it names the policy file")?),
            bus: bus(env, &root)?,
            queue: required(env, QUEUE, "is not set; it names the queue of backups")?,
            lanes: required(env, LANES_QUEUE, "is not set; it names the queue of lanes")?,
            lane_budget: lane_budget(env)?,
            progress_every: progress_every(env)?,
            restore_queue: required(
                env,
                RESTORE_QUEUE,
                "is not set; it names the queue of restores, such as restores",
            )?,
            events: events(
                &root,
                &required(env, EVENTS, "is not set; it says where events go, such as log")?,
            )?,
            pg_bin: env
                .var(PG_BIN)
                .ok()
                .filter(|text| !text.is_empty())
                .map(PathBuf::from)
                .or_else(|| pgbin::of_package(&root, &std::env::temp_dir())),
            function_timeout: env.var(FUNCTION_TIMEOUT).ok().filter(|text| !text.is_empty()),
            root,
        })
    }

    /// Opens what they name.
    pub(crate) fn service(&self) -> Result<Service, BoxError> {
        let bus = self.open_bus()?;
        let sinks: Vec<Arc<dyn EventSink>> = self
            .events
            .iter()
            .map(|events| match events {
                Events::File(path) => Arc::new(FileSink::new(path)) as Arc<dyn EventSink>,
                Events::Log => Arc::new(LogSink),
                Events::Topic(topic) => Arc::new(TopicSink::new(Arc::clone(&bus), topic)),
            })
            .collect();
        Ok(Service::new(ServiceOptions {
            policy: self.policy.clone(),
            env: Arc::new(ProcessEnv),
            queue: self.queue.clone(),
            lanes: self.lanes.clone(),
            lane_budget: self.lane_budget,
            progress_every: self.progress_every,
            restore_queue: self.restore_queue.clone(),
            bus,
            sink: Arc::new(Sinks(sinks)),
            pg_bin: self.pg_bin.clone(),
            stores: Arc::new(AzureStores::of_process()),
            tool: concat!("flexkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
        }))
    }

    /// The bus, with the identity that it names if it has no key.
    fn open_bus(&self) -> Result<Arc<dyn Bus>, BoxError> {
        let BusConnection::ServiceBus(namespace) = &self.bus else {
            return Ok(self.bus.open(None)?);
        };
        if !namespace.wants_credential() {
            return Ok(self.bus.open(None)?);
        }
        let own = namespace.client_id().map(str::to_owned);
        let env = |name: &str| match (name, &own) {
            (CLIENT_ID, Some(id)) => Some(id.clone()),
            _ => std::env::var(name).ok(),
        };
        Ok(self.bus.open(Some(flexkeep_azure_identity::credential(&env)?.credential))?)
    }
}

fn bus(env: &dyn Env, root: &Path) -> Result<BusConnection, BadSetting> {
    let lookup = |name: &str| env.var(name).ok();
    BusConnection::from_settings(BUS, lookup, root)
        .map_err(|error| BadSetting { name: BUS, problem: format!("is wrong: {error}") })
}

fn required(
    env: &dyn Env,
    name: &'static str,
    missing: &'static str,
) -> Result<String, BadSetting> {
    match env.var(name) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(BadSetting { name, problem: "is empty".to_owned() }),
        Err(std::env::VarError::NotPresent) => {
            Err(BadSetting { name, problem: missing.to_owned() })
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(BadSetting { name, problem: "is not UTF-8".to_owned() })
        }
    }
}

/// Between a second and a day; eight minutes when it is not set: instances are given ten to end
/// when the platform takes them away.
fn lane_budget(env: &dyn Env) -> Result<Duration, BadSetting> {
    const USUAL: Duration = Duration::from_secs(480);
    let Some(text) = env.var(LANE_SECONDS).ok().filter(|text| !text.trim().is_empty()) else {
        return Ok(USUAL);
    };
    match text.trim().parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => {
            let problem = "is not a whole number of seconds from 1 to 86400".to_owned();
            Err(BadSetting { name: LANE_SECONDS, problem })
        }
    }
}

/// A minute: who waits for a backup of hours reads a few hundred of them.
fn progress_every(env: &dyn Env) -> Result<Option<Duration>, BadSetting> {
    const USUAL: u64 = 60;
    let seconds = match env.var(PROGRESS_SECONDS).ok().filter(|text| !text.trim().is_empty()) {
        None => Some(USUAL),
        Some(text) => text.trim().parse::<u64>().ok().filter(|seconds| *seconds <= 86_400),
    };
    match seconds {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
        None => {
            let problem = "is not a whole number of seconds from 0 to 86400".to_owned();
            Err(BadSetting { name: PROGRESS_SECONDS, problem })
        }
    }
}

/// `file:PATH`, `topic:NAME` and `log`, with commas between.
fn events(root: &Path, text: &str) -> Result<Vec<Events>, BadSetting> {
    let one = |one: &str| match one.split_once(':') {
        None if one == "log" => Some(Events::Log),
        Some(("file", path)) if !path.is_empty() => Some(Events::File(root.join(path))),
        Some(("topic", name)) if !name.is_empty() => Some(Events::Topic(name.to_owned())),
        _ => None,
    };
    text.split(',')
        .map(|text| {
            one(text.trim()).ok_or_else(|| BadSetting {
                name: EVENTS,
                problem:
                    "is neither log, file:PATH nor topic:NAME, nor several of them with commas"
                        .to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(change: &'static str, to: Option<&'static str>) -> impl Fn(&str) -> Option<String> {
        move |name| {
            if name == change {
                return to.map(str::to_owned);
            }
            let value = match name {
                APP_ROOT_VARIABLE => "/app",
                POLICY => "policy.toml",
                BUS => "sqlite:q.db",
                QUEUE => "backups",
                LANES_QUEUE => "lanes",
                RESTORE_QUEUE => "restores",
                EVENTS => "file:e.jsonl, log",
                _ => return None,
            };
            Some(value.to_owned())
        }
    }

    #[test]
    fn paths_are_relative_to_the_root_of_the_app() {
        let settings = Settings::read(&env(PG_BIN, Some("/pg/bin"))).unwrap();
        assert_eq!(settings.policy, Path::new("/app/policy.toml"));
        assert_eq!(settings.events, [Events::File("/app/e.jsonl".into()), Events::Log]);
        assert_eq!(settings.pg_bin.as_deref(), Some(Path::new("/pg/bin")));
        let settings = Settings::read(&env(POLICY, Some("/etc/flexkeep.toml"))).unwrap();
        assert_eq!(settings.policy, Path::new("/etc/flexkeep.toml"));
    }

    #[test]
    fn the_package_s_own_pg_dump_is_taken_unless_a_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("pgbin");
        for below in ["lib", "libexec"] {
            std::fs::create_dir_all(own.join(below)).unwrap();
        }
        let app: &'static str = root.path().to_str().unwrap().to_owned().leak();
        let read = || Settings::read(&env(APP_ROOT_VARIABLE, Some(app))).unwrap().pg_bin;
        assert_eq!(read(), None);
        std::fs::copy("/bin/sh", own.join("pg_dump")).unwrap();
        assert_eq!(read(), Some(own));
        let named = |name: &str| match name {
            PG_BIN => Some("/pg/bin".to_owned()),
            name => env(APP_ROOT_VARIABLE, Some(app))(name),
        };
        let settings = Settings::read(&named).unwrap();
        assert_eq!(settings.pg_bin.as_deref(), Some(Path::new("/pg/bin")));
    }

    #[test]
    fn events_go_to_several_places_also_to_a_topic() {
        let settings = Settings::read(&env(EVENTS, Some("topic:events,log"))).unwrap();
        assert_eq!(settings.events, [Events::Topic("events".to_owned()), Events::Log]);
    }

    #[test]
    fn a_namespace_may_stand_in_settings_of_its_own_as_the_host_reads_them() {
        let others = env("", None);
        let env = |name: &str| match name {
            BUS => None,
            "FLEXKEEP_BUS__fullyQualifiedNamespace" => Some("a.servicebus.windows.net".to_owned()),
            "FLEXKEEP_BUS__credential" => Some("managedidentity".to_owned()),
            "FLEXKEEP_BUS__clientId" => Some("00000000-0000-0000-0000-000000000001".to_owned()),
            name => others(name),
        };
        let BusConnection::ServiceBus(namespace) = Settings::read(&env).unwrap().bus else {
            panic!("no namespace")
        };
        assert!(namespace.wants_credential());
        assert_eq!(namespace.client_id(), Some("00000000-0000-0000-0000-000000000001"));
    }

    #[test]
    fn a_setting_that_is_missing_or_wrong_is_named_without_its_value() {
        for name in [POLICY, BUS, QUEUE, LANES_QUEUE, RESTORE_QUEUE, EVENTS] {
            for value in [None, Some(""), Some("  ")] {
                let error = Settings::read(&env(name, value)).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
            }
        }
        for value in ["hunter2", "file:", "topic:", "log,,log", "file:a,hunter2", "log:hunter2"] {
            let error = Settings::read(&env(EVENTS, Some(value))).unwrap_err().to_string();
            assert!(error.contains(EVENTS) && !error.contains("hunter2"), "{error}");
        }
    }
}
