//! The app settings. Each has its line in local.settings.example.json; a test sees to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flexkeep_bus::{EventSink, FileSink, LogSink, Sinks, open_bus};
use flexkeep_functions::{APP_ROOT_VARIABLE, BoxError};
use flexkeep_policy::{Env, ProcessEnv};
use flexkeep_service::{Service, ServiceOptions};
use flexkeep_vault::FoldersOnly;

use crate::pgbin;

/// Path of the policy file.
pub(crate) const POLICY: &str = "FLEXKEEP_POLICY";
/// The connection of the bus; the name is also in backup/function.json.
pub(crate) const BUS: &str = "FLEXKEEP_BUS";
/// The queue of backup messages; the name is also in backup/function.json.
pub(crate) const QUEUE: &str = "FLEXKEEP_QUEUE";
/// Where events go.
pub(crate) const EVENTS: &str = "FLEXKEEP_EVENTS";
/// Folder of pg_dump; optional. Without it, the package's own, if it has one.
pub(crate) const PG_BIN: &str = "FLEXKEEP_PG_BIN";

/// The host's own override of functionTimeout in host.json.
const FUNCTION_TIMEOUT: &str = "AzureFunctionsJobHost__functionTimeout";

/// What the app needs to know. Relative paths are relative to the app's root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) root: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) bus: String,
    pub(crate) queue: String,
    pub(crate) events: Vec<Events>,
    pub(crate) pg_bin: Option<PathBuf>,
    pub(crate) function_timeout: Option<String>,
}

/// A place where events go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Events {
    File(PathBuf),
    Log,
}

/// A setting that is missing or wrong. The text never has its value: it may hold a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("app setting {name} {problem}")]
pub(crate) struct BadSetting {
    name: &'static str,
    problem: &'static str,
}

impl Settings {
    pub(crate) fn read(env: &dyn Env) -> Result<Self, BadSetting> {
        let root = env.var(APP_ROOT_VARIABLE).map_or_else(|_| PathBuf::from("."), PathBuf::from);
        Ok(Self {
            policy: root.join(required(env, POLICY, "is not set; it names the policy file")?),
            bus: required(env, BUS, "is not set; it is the connection of the queues")?,
            queue: required(env, QUEUE, "is not set; it names the queue of backups")?,
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
        let sinks: Vec<Arc<dyn EventSink>> = self
            .events
            .iter()
            .map(|events| match events {
                Events::File(path) => Arc::new(FileSink::new(path)) as Arc<dyn EventSink>,
                Events::Log => Arc::new(LogSink),
            })
            .collect();
        Ok(Service::new(ServiceOptions {
            policy: self.policy.clone(),
            env: Arc::new(ProcessEnv),
            queue: self.queue.clone(),
            bus: open_bus(&self.bus, &self.root)?,
            sink: Arc::new(Sinks(sinks)),
            pg_bin: self.pg_bin.clone(),
            stores: Arc::new(FoldersOnly),
            tool: concat!("flexkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
        }))
    }
}

fn required(
    env: &dyn Env,
    name: &'static str,
    missing: &'static str,
) -> Result<String, BadSetting> {
    match env.var(name) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(BadSetting { name, problem: "is empty" }),
        Err(std::env::VarError::NotPresent) => Err(BadSetting { name, problem: missing }),
        Err(std::env::VarError::NotUnicode(_)) => Err(BadSetting { name, problem: "is not UTF-8" }),
    }
}

/// `file:PATH` and `log`, with commas between.
fn events(root: &Path, text: &str) -> Result<Vec<Events>, BadSetting> {
    text.split(',')
        .map(|one| match one.trim() {
            "log" => Ok(Events::Log),
            one => match one.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Events::File(root.join(path))),
                _ => {
                    let problem = "is neither log nor file:PATH, nor several of them with commas";
                    Err(BadSetting { name: EVENTS, problem })
                }
            },
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
    fn a_setting_that_is_missing_or_wrong_is_named_without_its_value() {
        for name in [POLICY, BUS, QUEUE, EVENTS] {
            for value in [None, Some(""), Some("  ")] {
                let error = Settings::read(&env(name, value)).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
            }
        }
        for value in ["hunter2", "file:", "log,,log", "file:a,hunter2"] {
            let error = Settings::read(&env(EVENTS, Some(value))).unwrap_err().to_string();
            assert!(error.contains(EVENTS) && !error.contains("hunter2"), "{error}");
        }
    }
}
