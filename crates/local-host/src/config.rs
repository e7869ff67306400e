//! host.json flattened into keys, with the settings that override it on top.
//!
//! The host binds host.json with .NET's configuration: keys have no case, unknown ones are
//! ignored, and a setting `AzureFunctionsJobHost__a__b` replaces the key `a.b`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::HostError;
use crate::json::Json;
use crate::settings::Settings;
use crate::timespan;

const OVERRIDE_PREFIX: &str = "AzureFunctionsJobHost";

/// One flattened configuration file.
pub(crate) struct Config {
    file: PathBuf,
    /// By key in lower case, parts joined by `:`.
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    /// How the key is shown in an error: as it stands in the file, or the setting's name.
    shown: String,
    value: String,
}

impl Config {
    /// Reads `file` and lays the overriding settings over it.
    pub(crate) fn load(file: &Path, settings: &Settings) -> Result<Self, HostError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| HostError::Read { path: file.to_owned(), source })?;
        let json = Json::parse_lenient(&text)
            .map_err(|error| HostError::Json { path: file.to_owned(), source: error.into() })?;
        if !matches!(json, Json::Object(_)) {
            return Err(HostError::config(file, "(root)", "must be an object"));
        }
        let mut config = Self { file: file.to_owned(), entries: BTreeMap::new() };
        config.flatten("", "", &json);
        for (key, name, value) in settings.below(OVERRIDE_PREFIX) {
            let shown = format!("setting {name}");
            config.entries.insert(key.to_owned(), Entry { shown, value: value.to_owned() });
        }
        Ok(config)
    }

    fn flatten(&mut self, key: &str, shown: &str, value: &Json) {
        let child = |name: &str| {
            let dot = if key.is_empty() { ("", "") } else { (":", ".") };
            (format!("{key}{}{}", dot.0, name.to_lowercase()), format!("{shown}{}{name}", dot.1))
        };
        match value {
            Json::Object(members) => {
                for (name, value) in members {
                    let (key, shown) = child(name);
                    self.flatten(&key, &shown, value);
                }
            }
            Json::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    let (key, shown) = child(&index.to_string());
                    self.flatten(&key, &shown, value);
                }
            }
            Json::Null => {}
            scalar => {
                let entry = Entry { shown: shown.to_owned(), value: scalar.to_display_text() };
                self.entries.insert(key.to_owned(), entry);
            }
        }
    }

    /// An error about a key, shown where its value came from.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> HostError {
        let shown =
            self.entries.get(&canonical(key)).map_or_else(|| key.to_owned(), |e| e.shown.clone());
        HostError::config(&self.file, shown, problem)
    }

    /// The value at a key such as `customHandler.description.arguments`. Empty is the same as absent.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(&canonical(key)).map(|e| e.value.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether anything stands at the key or below it.
    pub(crate) fn has(&self, key: &str) -> bool {
        let key = canonical(key);
        let below = format!("{key}:");
        self.entries.contains_key(&key)
            || self
                .entries
                .range(below.clone()..)
                .next()
                .is_some_and(|(k, _)| k.starts_with(&below))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, HostError> {
        match self.text(key) {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(self.error(key, format!("{text:?} is neither true nor false"))),
        }
    }

    pub(crate) fn whole_number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, HostError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (low, high) = (range.start(), range.end());
                let problem = format!("{text:?} is not a whole number from {low} to {high}");
                Err(self.error(key, problem))
            }
        }
    }

    pub(crate) fn duration(&self, key: &str, default: Duration) -> Result<Duration, HostError> {
        let Some(text) = self.text(key) else { return Ok(default) };
        timespan::parse(text).ok_or_else(|| {
            self.error(key, format!("{text:?} is not a time span such as \"00:05:00\""))
        })
    }

    /// A list: items in the file, or one setting that holds a JSON array as text.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<String>, HostError> {
        if let Some(text) = self.text(key) {
            return match Json::parse(text.as_bytes()) {
                Ok(Json::Array(items)) => Ok(items.iter().map(Json::to_display_text).collect()),
                _ => Err(self.error(key, "is not a list of strings")),
            };
        }
        let mut items: Vec<(usize, String)> = Vec::new();
        let below = canonical(key) + ":";
        let range = self.entries.range(below.clone()..);
        for (key, entry) in range.take_while(|(key, _)| key.starts_with(&below)) {
            let index = key[below.len()..].parse().map_err(|_| {
                HostError::config(&self.file, entry.shown.clone(), "is not an item of a list")
            })?;
            items.push((index, entry.value.clone()));
        }
        items.sort();
        Ok(items.into_iter().map(|(_, item)| item).collect())
    }
}

fn canonical(key: &str) -> String {
    key.replace('.', ":").to_lowercase()
}
