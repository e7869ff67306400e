//! App settings: `Values` of local.settings.json, overridden by the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::HostError;
use crate::json::Json;

/// The file beside host.json that holds the settings of a development machine.
pub const LOCAL_SETTINGS_FILE: &str = "local.settings.json";

/// App settings by name.
///
/// A name is the same in any case, and `:` in it is the same as `__`. Values are secrets as often
/// as not, so none of them is ever shown.
#[derive(Clone, Default)]
pub struct Settings {
    /// By canonical name: the name as it was given, and the value.
    values: BTreeMap<String, (String, String)>,
}

impl Settings {
    /// `Values` of the app's local.settings.json, if there is one, overridden by the environment
    /// of this process.
    pub fn load(app_root: &Path) -> Result<Self, HostError> {
        let mut settings = Self::from_file(&app_root.join(LOCAL_SETTINGS_FILE))?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        settings.override_with(environment);
        Ok(settings)
    }

    /// `Values` of a local.settings.json. A missing file gives no settings.
    pub fn from_file(path: &Path) -> Result<Self, HostError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(HostError::Read { path: path.to_owned(), source }),
        };
        let json = Json::parse_lenient(&text)
            .map_err(|error| HostError::Json { path: path.to_owned(), source: error.into() })?;
        if json.get_any_case("IsEncrypted") == Some(&Json::Bool(true)) {
            let problem = "encrypted settings cannot be read here; run `func settings decrypt` \
                           or write the values in clear and set it to false";
            return Err(HostError::config(path, "IsEncrypted", problem));
        }
        let mut settings = Self::default();
        match json.get_any_case("Values") {
            None | Some(Json::Null) => {}
            Some(Json::Object(members)) => {
                for (name, value) in members {
                    let value = match value {
                        Json::Array(_) | Json::Object(_) => {
                            let problem = "a setting is a string, write JSON as an escaped string";
                            return Err(HostError::config(path, format!("Values.{name}"), problem));
                        }
                        scalar => scalar.to_display_text(),
                    };
                    settings.insert(name, value);
                }
            }
            Some(_) => return Err(HostError::config(path, "Values", "must be an object")),
        }
        Ok(settings)
    }

    /// Adds settings; those that exist already take the new value.
    pub fn override_with<N, V>(&mut self, settings: impl IntoIterator<Item = (N, V)>)
    where
        N: AsRef<str>,
        V: Into<String>,
    {
        for (name, value) in settings {
            self.insert(name.as_ref(), value.into());
        }
    }

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(&canonical(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a setting says yes: `true` in any case, or `1`.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// Whether there are settings below this name, as there are for an identity's connection.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        let prefix = canonical(name) + ":";
        self.values.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// Settings below a prefix, as canonical name without it, name as given, value.
    pub(crate) fn below(&self, prefix: &str) -> impl Iterator<Item = (&str, &str, &str)> {
        let prefix = canonical(prefix) + ":";
        self.values.iter().filter_map(move |(key, (name, value))| {
            Some((key.strip_prefix(&prefix)?, name.as_str(), value.as_str()))
        })
    }

    /// Replaces every `%NAME%` by the setting's value, as the host does for schedules and the
    /// names of queues. Gives the name of the first setting that does not exist.
    pub(crate) fn resolve(&self, text: &str) -> Result<String, String> {
        let mut resolved = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            let Some(length) = rest[start + 1..].find('%') else { break };
            let name = &rest[start + 1..start + 1 + length];
            resolved.push_str(&rest[..start]);
            resolved.push_str(self.get(name).ok_or_else(|| name.to_owned())?);
            rest = &rest[start + length + 2..];
        }
        resolved.push_str(rest);
        Ok(resolved)
    }

    /// Names and values for a child's environment, where `:` in a name is written `__`.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        self.values
            .values()
            .map(|(name, value)| (name.replace(':', "__"), value.as_str()))
            // What cannot be an environment variable would make the start of the handler fail.
            .filter(|(name, value)| {
                !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
            })
    }

    /// Changes the value of a setting and keeps the name under which it was given.
    pub(crate) fn replace_value(&mut self, name: &str, value: String) {
        if let Some((_, known)) = self.values.get_mut(&canonical(name)) {
            *known = value;
        }
    }

    fn insert(&mut self, name: &str, value: String) {
        self.values.insert(canonical(name), (name.to_owned(), value));
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settings").field("count", &self.values.len()).finish()
    }
}

fn canonical(name: &str) -> String {
    name.replace("__", ":").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        settings.override_with(pairs.iter().copied());
        settings
    }

    #[test]
    fn colon_and_double_underscore_and_case_are_the_same_name() {
        let settings = settings(&[("My:Section__Key", "v")]);
        assert_eq!(settings.get("MY__section:key"), Some("v"));
        assert!(settings.has_section("my"));
        assert!(!settings.has_section("m"));
        assert_eq!(settings.environment().collect::<Vec<_>>(), [("My__Section__Key".into(), "v")]);
    }

    #[test]
    fn a_later_value_wins_and_names_in_percent_signs_are_resolved() {
        let mut settings = settings(&[("Q", "a")]);
        settings.override_with([("q", "b")]);
        assert_eq!(settings.resolve("%Q%"), Ok("b".into()));
        assert_eq!(settings.resolve("x-%q%-50%"), Ok("x-b-50%".into()));
        assert_eq!(settings.resolve("%NONE%"), Err("NONE".into()));
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", settings(&[("Key", "secret")])), "Settings { count: 1 }");
    }

    #[test]
    fn a_file_gives_its_values_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCAL_SETTINGS_FILE);
        assert!(Settings::from_file(&path).unwrap().get("A").is_none());
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Settings::from_file(&path)
        };
        let settings = read(r#"{"IsEncrypted":false,"Values":{"A":"x","N":5,"B":true}}"#).unwrap();
        assert_eq!(settings.get("A"), Some("x"));
        assert_eq!(settings.get("N"), Some("5"));
        assert!(settings.is_on("B"));
        let error = read(r#"{"Values":{"A":{"b":"secret"}}}"#).unwrap_err().to_string();
        assert!(error.contains("local.settings.json: Values.A:"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert!(read(r#"{"IsEncrypted":true}"#).unwrap_err().to_string().contains("IsEncrypted"));
        let error = read("{").unwrap_err().to_string();
        assert!(error.ends_with("local.settings.json is not valid JSON"), "{error}");
    }
}
