//! Loading functions: direct subfolders of the app root that hold a function.json.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::HostError;
use crate::function::{
    AuthLevel, Connection, DataType, Function, HttpTrigger, Output, QueueTrigger, Target,
    TimerTrigger, Trigger,
};
use crate::json::Json;
use crate::routes::RouteTemplate;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// The file that makes a folder a function.
pub const FUNCTION_FILE: &str = "function.json";

const KNOWN_TYPES: &str =
    "this host knows timerTrigger, serviceBusTrigger, httpTrigger, serviceBus (out) and http (out)";
const DEFAULT_CONNECTION: &str = "AzureWebJobsServiceBus";

/// Loads every function below `app_root`, sorted by name, only those in `wanted` if it is given.
/// A relative path in a `sqlite:` connection is below `queue_root`.
pub(crate) fn load_functions(
    app_root: &Path,
    queue_root: &Path,
    settings: &Settings,
    wanted: Option<&[String]>,
) -> Result<Vec<Function>, HostError> {
    let read_error = |source| HostError::Read { path: app_root.to_owned(), source };
    let mut folders = BTreeMap::new();
    for entry in std::fs::read_dir(app_root).map_err(read_error)? {
        let file = entry.map_err(read_error)?.path().join(FUNCTION_FILE);
        if file.is_file() {
            let name = file.parent().and_then(Path::file_name).unwrap_or_default();
            folders.insert(name.to_string_lossy().into_owned(), file);
        }
    }
    if let Some(wanted) = wanted {
        folders.retain(|name, _| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)));
    }
    if folders.is_empty() {
        return Err(HostError::NoFunctions { app_root: app_root.to_owned() });
    }
    let mut functions: Vec<Function> = Vec::with_capacity(folders.len());
    for (name, file) in folders {
        if let Some(twin) = functions.iter().find(|known| known.name.eq_ignore_ascii_case(&name)) {
            let problem = format!("function {} has the same name but for its case", twin.name);
            return Err(HostError::config(&file, "(folder)", problem));
        }
        functions.push(Loader { file: &file, queue_root, settings }.load(name)?);
    }
    Ok(functions)
}

/// Loads one function.json.
struct Loader<'a> {
    file: &'a PathBuf,
    queue_root: &'a Path,
    settings: &'a Settings,
}

/// One entry of `bindings`, with its place for errors.
struct Binding<'a> {
    place: usize,
    json: &'a Json,
    name: &'a str,
    kind: &'a str,
}

impl Loader<'_> {
    fn load(&self, name: String) -> Result<Function, HostError> {
        check_name(&name).map_err(|problem| self.error("(folder)", problem))?;
        let text = std::fs::read_to_string(self.file)
            .map_err(|source| HostError::Read { path: self.file.clone(), source })?;
        let json = Json::parse_lenient(&text)
            .map_err(|error| HostError::Json { path: self.file.clone(), source: error.into() })?;
        self.check_script(&json)?;
        let bindings = self.bindings(&json)?;
        let (triggers, others): (Vec<_>, Vec<_>) =
            bindings.iter().partition(|binding| binding.kind.to_lowercase().ends_with("trigger"));
        let [trigger] = triggers[..] else {
            let problem = format!("must hold exactly one trigger, not {}", triggers.len());
            return Err(self.error("bindings", problem));
        };
        if json.get_any_case("retry").is_some_and(|retry| *retry != Json::Null) {
            let problem = "this host does not retry; remove it, or let the next run do the work";
            return Err(self.error("retry", problem));
        }
        let trigger = self.trigger(&name, trigger)?;
        let outputs = others.into_iter().map(|binding| self.output(binding));
        let outputs = outputs.collect::<Result<_, _>>()?;
        Ok(Function { disabled: self.is_disabled(&name, &json)?, trigger, outputs, name })
    }

    fn error(&self, key: impl Into<String>, problem: impl Into<String>) -> HostError {
        HostError::config(self.file, key, problem)
    }

    fn check_script(&self, json: &Json) -> Result<(), HostError> {
        match json.get_any_case("scriptFile").and_then(Json::as_str) {
            Some(script) if !script.is_empty() => {
                let path = self.file.parent().unwrap_or(Path::new("")).join(script);
                match path.exists() {
                    true => Ok(()),
                    false => Err(self.error("scriptFile", format!("{script} does not exist"))),
                }
            }
            _ => Ok(()),
        }
    }

    fn is_disabled(&self, name: &str, json: &Json) -> Result<bool, HostError> {
        let in_file = match json.get_any_case("disabled") {
            None | Some(Json::Null) => false,
            Some(Json::Bool(disabled)) => *disabled,
            Some(Json::String(setting)) => self.settings.is_on(setting.trim_matches('%')),
            Some(_) => {
                return Err(self.error("disabled", "must be true, false or a setting's name"));
            }
        };
        // Linux has no dots in the names of variables, so the platform takes underscores too.
        let setting = ['.', '_', ':'].iter().any(|separator| {
            self.settings.is_on(&format!("AzureWebJobs{separator}{name}{separator}Disabled"))
        });
        Ok(in_file || setting)
    }

    fn bindings<'j>(&self, json: &'j Json) -> Result<Vec<Binding<'j>>, HostError> {
        let Some(Json::Array(items)) = json.get_any_case("bindings") else {
            return Err(self.error("bindings", "must be a list of bindings"));
        };
        let mut bindings: Vec<Binding<'j>> = Vec::with_capacity(items.len());
        for (place, json) in items.iter().enumerate() {
            let text = |key: &str| {
                let text = json.get_any_case(key).and_then(Json::as_str).filter(|t| !t.is_empty());
                text.ok_or_else(|| self.error(format!("bindings[{place}].{key}"), "is missing"))
            };
            let binding = Binding { place, json, name: text("name")?, kind: text("type")? };
            if !is_binding_name(binding.name) {
                let problem =
                    format!("{:?} is neither letters, digits and _ nor $return", binding.name);
                return Err(self.error(binding.key("name"), problem));
            }
            if bindings.iter().any(|known| known.name.eq_ignore_ascii_case(binding.name)) {
                let problem = format!("{:?} is the name of another binding too", binding.name);
                return Err(self.error(binding.key("name"), problem));
            }
            bindings.push(binding);
        }
        Ok(bindings)
    }

    fn trigger(&self, function: &str, binding: &Binding<'_>) -> Result<Trigger, HostError> {
        let direction = binding.text("direction").unwrap_or("in");
        if !direction.eq_ignore_ascii_case("in") {
            return Err(self.error(binding.key("direction"), "must be \"in\" for a trigger"));
        }
        match binding.kind.to_lowercase().as_str() {
            "timertrigger" => self.timer(binding).map(Trigger::Timer),
            "servicebustrigger" => self.queue_trigger(binding).map(Trigger::Queue),
            "httptrigger" => self.http_trigger(function, binding).map(Trigger::Http),
            _ => Err(self.unknown_type(binding)),
        }
    }

    fn unknown_type(&self, binding: &Binding<'_>) -> HostError {
        let problem = format!("{:?} is not supported: {KNOWN_TYPES}", binding.kind);
        self.error(binding.key("type"), problem)
    }

    fn timer(&self, binding: &Binding<'_>) -> Result<TimerTrigger, HostError> {
        let text = self.resolved(binding, "schedule")?.ok_or_else(|| {
            self.error(binding.key("schedule"), "is missing; write six NCRONTAB fields")
        })?;
        let schedule = Schedule::parse(&text).map_err(|problem| {
            self.error(binding.key("schedule"), format!("{text:?}: {problem}"))
        })?;
        Ok(TimerTrigger {
            binding: binding.name.to_owned(),
            schedule,
            text,
            use_monitor: self.flag(binding, "useMonitor", true)?,
            run_on_startup: self.flag(binding, "runOnStartup", false)?,
        })
    }

    fn queue_trigger(&self, binding: &Binding<'_>) -> Result<QueueTrigger, HostError> {
        if self.flag(binding, "isSessionsEnabled", false)? {
            let problem = "this host drives queues without sessions only";
            return Err(self.error(binding.key("isSessionsEnabled"), problem));
        }
        if !self.flag(binding, "autoCompleteMessages", true)? {
            let problem = "a custom handler cannot settle messages itself; remove it";
            return Err(self.error(binding.key("autoCompleteMessages"), problem));
        }
        let batches = match binding.text("cardinality").unwrap_or("one").to_lowercase().as_str() {
            "one" => false,
            "many" => true,
            _ => return Err(self.error(binding.key("cardinality"), "must be \"one\" or \"many\"")),
        };
        let (connection, queue) = self.queue(binding)?;
        Ok(QueueTrigger {
            binding: binding.name.to_owned(),
            data_type: self.data_type(binding)?,
            connection,
            queue,
            batches,
        })
    }

    fn queue(&self, binding: &Binding<'_>) -> Result<(Arc<Connection>, String), HostError> {
        for key in ["topicName", "subscriptionName"] {
            if binding.text(key).is_some() {
                let problem = "this host drives queues only; use queueName";
                return Err(self.error(binding.key(key), problem));
            }
        }
        let queue = self
            .resolved(binding, "queueName")?
            .ok_or_else(|| self.error(binding.key("queueName"), "is missing"))?;
        Ok((Arc::new(self.connection(binding)?), queue))
    }

    fn connection(&self, binding: &Binding<'_>) -> Result<Connection, HostError> {
        let name = self.resolved(binding, "connection")?;
        let name = name.as_deref().unwrap_or(DEFAULT_CONNECTION);
        let key = binding.key("connection");
        let candidates =
            [name.to_owned(), format!("AzureWebJobs{name}"), format!("ConnectionStrings:{name}")];
        let found = candidates.iter().find_map(|name| Some((name, self.settings.get(name)?)));
        let Some((setting, value)) = found else {
            let problem = match self.settings.has_section(name) {
                true => format!(
                    "the settings {name}__… describe a Service Bus namespace; this host drives \
                     only the embedded queue: set {name} to sqlite:PATH"
                ),
                false => format!("setting {name} does not exist; set it to sqlite:PATH"),
            };
            return Err(self.error(key, problem));
        };
        // The value may be a connection string with a key in it: it is never shown.
        match flexkeep_bus::local_queues_path(value, self.queue_root) {
            Ok(path) => Ok(Connection { setting: setting.clone(), path }),
            Err(_) => {
                let problem = format!(
                    "setting {setting} is not of the form sqlite:PATH; this host drives only the \
                     embedded queue"
                );
                Err(self.error(key, problem))
            }
        }
    }

    fn http_trigger(&self, name: &str, binding: &Binding<'_>) -> Result<HttpTrigger, HostError> {
        let auth = match binding.text("authLevel").unwrap_or("function").to_lowercase().as_str() {
            "anonymous" => AuthLevel::Anonymous,
            "function" => AuthLevel::Function,
            "admin" => AuthLevel::Admin,
            other => {
                let problem = format!("{other:?} is not one of anonymous, function and admin");
                return Err(self.error(binding.key("authLevel"), problem));
            }
        };
        let methods = match binding.json.get_any_case("methods") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Array(items)) if items.iter().all(|item| item.as_str().is_some()) => {
                items.iter().filter_map(Json::as_str).map(str::to_uppercase).collect()
            }
            Some(_) => return Err(self.error(binding.key("methods"), "must be a list of strings")),
        };
        let route = binding.text("route").filter(|route| !route.is_empty()).unwrap_or(name);
        let route = RouteTemplate::parse(route)
            .map_err(|problem| self.error(binding.key("route"), format!("{route:?}: {problem}")))?;
        Ok(HttpTrigger { binding: binding.name.to_owned(), auth, methods, route })
    }

    fn output(&self, binding: &Binding<'_>) -> Result<Output, HostError> {
        let target = match binding.kind.to_lowercase().as_str() {
            "http" => Target::Http,
            "servicebus" => {
                let (connection, queue) = self.queue(binding)?;
                Target::Queue { connection, queue }
            }
            _ => return Err(self.unknown_type(binding)),
        };
        if !binding.text("direction").is_some_and(|text| text.eq_ignore_ascii_case("out")) {
            return Err(self.error(binding.key("direction"), "must be \"out\" for this type"));
        }
        Ok(Output { binding: binding.name.to_owned(), data_type: self.data_type(binding)?, target })
    }

    fn data_type(&self, binding: &Binding<'_>) -> Result<DataType, HostError> {
        match binding.text("dataType").unwrap_or("undefined").to_lowercase().as_str() {
            "undefined" => Ok(DataType::Undefined),
            "string" => Ok(DataType::String),
            "binary" => Ok(DataType::Binary),
            other => {
                let problem = format!("{other:?} is neither string nor binary");
                Err(self.error(binding.key("dataType"), problem))
            }
        }
    }

    fn flag(&self, binding: &Binding<'_>, key: &str, default: bool) -> Result<bool, HostError> {
        match binding.json.get_any_case(key) {
            None | Some(Json::Null) => Ok(default),
            Some(Json::Bool(value)) => Ok(*value),
            Some(_) => Err(self.error(binding.key(key), "must be true or false")),
        }
    }

    fn resolved(&self, binding: &Binding<'_>, key: &str) -> Result<Option<String>, HostError> {
        let Some(text) = binding.text(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        match self.settings.resolve(text) {
            Ok(resolved) if !resolved.trim().is_empty() => Ok(Some(resolved)),
            Ok(_) => Err(self.error(binding.key(key), format!("{text} is empty"))),
            Err(setting) => {
                let problem = format!("setting {setting} does not exist (in {text:?})");
                Err(self.error(binding.key(key), problem))
            }
        }
    }
}

impl<'j> Binding<'j> {
    fn key(&self, key: &str) -> String {
        format!("bindings[{}].{key}", self.place)
    }

    fn text(&self, key: &str) -> Option<&'j str> {
        self.json.get_any_case(key).and_then(Json::as_str)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let goes_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !starts_well || !goes_well || name.len() > 128 {
        return Err(format!(
            "{name:?} is not a function name: a letter, then up to 127 letters, digits, _ or -"
        ));
    }
    match name.eq_ignore_ascii_case("host") {
        true => Err("\"host\" cannot be the name of a function".into()),
        false => Ok(()),
    }
}

fn is_binding_name(name: &str) -> bool {
    let plain = name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain || name == "$return"
}

#[cfg(test)]
mod tests;
