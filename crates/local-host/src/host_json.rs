//! host.json: what of it this host acts on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;
use crate::error::HostError;
use crate::settings::Settings;

/// The file that makes a folder an app root.
pub const HOST_FILE: &str = "host.json";

/// What host.json and the settings over it say.
#[derive(Debug, Clone)]
pub(crate) struct HostJson {
    /// `None` is without limit.
    pub(crate) function_timeout: Option<Duration>,
    /// The only functions to load, if host.json lists any.
    pub(crate) functions: Option<Vec<String>>,
    /// Without slashes at the ends; empty for none.
    pub(crate) route_prefix: String,
    /// HTTP requests worked on at once; more are refused.
    pub(crate) max_concurrent_requests: usize,
    pub(crate) service_bus: ServiceBus,
    pub(crate) handler: HandlerDescription,
}

/// `extensions.serviceBus`.
#[derive(Debug, Clone)]
pub(crate) struct ServiceBus {
    /// `None` is the default of 16 for each core.
    pub(crate) max_concurrent_calls: Option<usize>,
    pub(crate) max_auto_lock_renewal: Duration,
    pub(crate) max_batch: usize,
    pub(crate) min_batch: usize,
    pub(crate) max_batch_wait: Duration,
}

/// `customHandler`.
#[derive(Debug, Clone)]
pub(crate) struct HandlerDescription {
    pub(crate) executable: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) worker_path: Option<String>,
    pub(crate) worker_arguments: Vec<String>,
    pub(crate) working_directory: PathBuf,
    pub(crate) worker_directory: PathBuf,
    /// Every line on stderr is an error, unless it says that it is a warning.
    pub(crate) stderr_is_errors: bool,
    pub(crate) forwards_http: bool,
    pub(crate) initialization_timeout: Duration,
    pub(crate) port: Option<u16>,
}

impl HostJson {
    /// Reads `app_root/host.json`.
    pub(crate) fn load(app_root: &Path, settings: &Settings) -> Result<Self, HostError> {
        let config = Config::load(&app_root.join(HOST_FILE), settings)?;
        match config.text("version") {
            Some("2.0") => {}
            _ => return Err(config.error("version", "must be \"2.0\"")),
        }
        let functions = match config.list("functions")? {
            list if list.is_empty() => None,
            list => Some(list),
        };
        let prefix = match config.has("extensions.http.routePrefix") {
            true => config.text("extensions.http.routePrefix").unwrap_or_default(),
            false => "api",
        };
        Ok(Self {
            function_timeout: function_timeout(&config)?,
            functions,
            route_prefix: prefix.trim_matches('/').to_owned(),
            max_concurrent_requests: config
                .whole_number("extensions.http.maxConcurrentRequests", 1..=100_000)?
                .unwrap_or(100) as usize,
            service_bus: service_bus(&config)?,
            handler: handler(&config, app_root)?,
        })
    }
}

fn function_timeout(config: &Config) -> Result<Option<Duration>, HostError> {
    const KEY: &str = "functionTimeout";
    if config.text(KEY).is_some_and(|text| text.trim() == "-1") {
        return Ok(None);
    }
    let timeout = config.duration(KEY, Duration::from_secs(30 * 60))?;
    if timeout < Duration::from_secs(1) {
        return Err(config.error(KEY, "must be at least one second, or \"-1\" for no limit"));
    }
    Ok(Some(timeout))
}

fn service_bus(config: &Config) -> Result<ServiceBus, HostError> {
    let key = |name: &str| format!("extensions.serviceBus.{name}");
    let number = |name: &str| config.whole_number(&key(name), 1..=100_000);
    let max_batch = number("maxMessageBatchSize")?.unwrap_or(1000) as usize;
    let min_batch = number("minMessageBatchSize")?.unwrap_or(1) as usize;
    if min_batch > max_batch {
        let problem = format!("must not exceed maxMessageBatchSize, which is {max_batch}");
        return Err(config.error(&key("minMessageBatchSize"), problem));
    }
    let max_batch_wait = config.duration(&key("maxBatchWaitTime"), Duration::from_secs(30))?;
    if max_batch_wait > Duration::from_secs(150) {
        return Err(config.error(&key("maxBatchWaitTime"), "must not exceed \"00:02:30\""));
    }
    if !config.flag(&key("autoCompleteMessages"), true)? {
        let problem = "a custom handler cannot settle messages itself; remove it or set it to true";
        return Err(config.error(&key("autoCompleteMessages"), problem));
    }
    Ok(ServiceBus {
        max_concurrent_calls: number("maxConcurrentCalls")?.map(|calls| calls as usize),
        max_auto_lock_renewal: config
            .duration(&key("maxAutoLockRenewalDuration"), Duration::from_secs(300))?,
        max_batch,
        min_batch,
        max_batch_wait,
    })
}

fn handler(config: &Config, app_root: &Path) -> Result<HandlerDescription, HostError> {
    // The section had another name once; the host reads that too.
    let section = match config.has("customHandler") || !config.has("httpWorker") {
        true => "customHandler",
        false => "httpWorker",
    };
    let key = |name: &str| format!("{section}.{name}");
    let text = |name: &str| config.text(&key(name)).map(str::to_owned);
    if let Some(kind) = text("type").filter(|kind| !kind.eq_ignore_ascii_case("http")) {
        let problem = format!("{kind:?} is not supported here, only \"http\" is");
        return Err(config.error(&key("type"), problem));
    }
    if config.has(&key("http")) {
        let problem = "routes without function.json are not supported here; write a function.json";
        return Err(config.error(&key("http"), problem));
    }
    let Some(executable) = text("description.defaultExecutablePath") else {
        let problem = "is missing; it names the handler's executable";
        return Err(config.error(&key("description.defaultExecutablePath"), problem));
    };
    let directory = |name: &str| match text(name) {
        Some(path) => app_root.join(path),
        None => app_root.to_owned(),
    };
    let initialization_timeout =
        config.duration(&key("initializationTimeout"), Duration::from_secs(30))?;
    if initialization_timeout.is_zero() {
        return Err(config.error(&key("initializationTimeout"), "must be longer than nothing"));
    }
    Ok(HandlerDescription {
        executable,
        arguments: config.list(&key("description.arguments"))?,
        worker_path: text("description.defaultWorkerPath"),
        worker_arguments: config.list(&key("description.workerArguments"))?,
        working_directory: directory("description.workingDirectory"),
        worker_directory: directory("description.workerDirectory"),
        stderr_is_errors: config.flag(&key("description.useStdErrorStreamForErrorsOnly"), true)?,
        forwards_http: config.flag(&key("enableForwardingHttpRequest"), false)?
            || config.flag(&key("enableProxyingHttpRequest"), false)?,
        initialization_timeout,
        port: config.whole_number(&key("port"), 1..=65_535)?.map(|port| port as u16),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, settings: &[(&str, &str)]) -> Result<HostJson, HostError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(HOST_FILE), text).unwrap();
        let mut overrides = Settings::default();
        overrides.override_with(settings.iter().copied());
        HostJson::load(folder.path(), &overrides)
    }

    const MINIMAL: &str = r#"{"version":"2.0",
        "customHandler":{"description":{"defaultExecutablePath":"handler"}}}"#;

    #[test]
    fn defaults_are_those_of_the_real_host() {
        let host = load(MINIMAL, &[]).unwrap();
        assert_eq!(host.function_timeout, Some(Duration::from_secs(1800)));
        assert_eq!(host.route_prefix, "api");
        assert_eq!(host.service_bus.max_concurrent_calls, None);
        assert_eq!(host.service_bus.max_auto_lock_renewal, Duration::from_secs(300));
        assert_eq!(host.handler.initialization_timeout, Duration::from_secs(30));
        assert!(host.handler.stderr_is_errors);
        assert!(!host.handler.forwards_http);
        assert_eq!(host.functions, None);
    }

    #[test]
    fn keys_have_no_case_and_settings_override_them() {
        let text = r#"{"VERSION":"2.0","functionTimeout":"00:10:00", // ten minutes
            "extensions":{"http":{"routePrefix":""},"servicebus":{"MaxConcurrentCalls":4}},
            "CustomHandler":{"description":{"defaultexecutablepath":"a","arguments":["1","2"]}}}"#;
        let host = load(text, &[]).unwrap();
        assert_eq!(host.function_timeout, Some(Duration::from_secs(600)));
        assert_eq!(host.route_prefix, "");
        assert_eq!(host.service_bus.max_concurrent_calls, Some(4));
        assert_eq!(host.handler.arguments, ["1", "2"]);
        let settings = [
            ("AzureFunctionsJobHost__functionTimeout", "-1"),
            ("AzureFunctionsJobHost:customHandler__description:defaultExecutablePath", "b"),
            ("AzureFunctionsJobHost__customHandler__description__arguments", r#"["3"]"#),
            ("AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls", "9"),
        ];
        let host = load(text, &settings).unwrap();
        assert_eq!(host.function_timeout, None);
        assert_eq!(host.handler.executable, "b");
        assert_eq!(host.handler.arguments, ["3"]);
        assert_eq!(host.service_bus.max_concurrent_calls, Some(9));
    }

    #[test]
    fn bad_values_are_named_with_file_and_key() {
        let message = |text: &str, settings: &[(&str, &str)]| {
            let error = load(text, settings).unwrap_err().to_string();
            error.split_once("host.json").map(|(_, rest)| rest.to_owned()).expect(&error)
        };
        assert_eq!(message("{", &[]), " is not valid JSON");
        assert_eq!(message("[]", &[]), ": (root): must be an object");
        assert_eq!(message("{}", &[]), ": version: must be \"2.0\"");
        let missing = message(r#"{"version":"2.0"}"#, &[]);
        assert!(
            missing.starts_with(": customHandler.description.defaultExecutablePath: is missing")
        );
        let bad = |key: &str, value: &str| {
            message(MINIMAL, &[(&format!("AzureFunctionsJobHost__{key}"), value)])
        };
        assert_eq!(
            bad("extensions__serviceBus__maxConcurrentCalls", "many"),
            ": setting AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls: \
             \"many\" is not a whole number from 1 to 100000"
        );
        assert!(bad("functionTimeout", "soon").contains("not a time span"));
        assert!(bad("functionTimeout", "00:00:00").contains("at least one second"));
        assert!(bad("customHandler__enableForwardingHttpRequest", "x").contains("neither true"));
        assert!(bad("customHandler__port", "0").contains("not a whole number from 1 to 65535"));
        assert!(bad("customHandler__http__routes__0__route", "x").contains("not supported here"));
        assert!(bad("extensions__serviceBus__autoCompleteMessages", "false").contains("settle"));
        assert!(bad("extensions__serviceBus__maxBatchWaitTime", "00:03:00").contains("00:02:30"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = HostJson::load(folder.path(), &Settings::default()).unwrap_err();
        assert!(matches!(error, HostError::Read { path, .. } if path.ends_with(HOST_FILE)));
    }
}
