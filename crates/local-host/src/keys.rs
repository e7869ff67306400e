//! Who may call functions whose authLevel is not anonymous, and the admin API.
//!
//! Keys come from the settings [`FUNCTION_KEY_SETTING`] and [`MASTER_KEY_SETTING`]; what is not
//! set is drawn at the first start and kept in `keys.json` in the state folder, readable by its
//! owner only. They are asked for if the host listens on more than the loopback interface, or if it
//! is told to: a developer's own machine needs none, as with the real tools.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hyper::header::HeaderMap;
use uuid::Uuid;

use crate::error::HostError;
use crate::function::AuthLevel;
use crate::json::{Json, object};
use crate::settings::Settings;

/// The setting that holds the key for functions of level `function`.
pub const FUNCTION_KEY_SETTING: &str = "LOCAL_HOST_FUNCTION_KEY";

/// The setting that holds the key for everything.
pub const MASTER_KEY_SETTING: &str = "LOCAL_HOST_MASTER_KEY";

/// The file in the state folder that keeps drawn keys.
pub const KEYS_FILE: &str = "keys.json";

const KEY_HEADER: &str = "x-functions-key";

/// The keys, if they are asked for.
pub(crate) struct Keys {
    required: Option<Pair>,
}

struct Pair {
    function: String,
    master: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keys").field("required", &self.required.is_some()).finish()
    }
}

impl Keys {
    /// The keys for a host that listens on `addr`.
    pub(crate) fn load(
        addr: SocketAddr,
        require: bool,
        settings: &Settings,
        state_dir: &Path,
    ) -> Result<Self, HostError> {
        if !require && addr.ip().is_loopback() {
            return Ok(Self { required: None });
        }
        let of_setting = |name| settings.get(name).filter(|key| !key.is_empty()).map(str::to_owned);
        let pair = match (of_setting(FUNCTION_KEY_SETTING), of_setting(MASTER_KEY_SETTING)) {
            (Some(function), Some(master)) => Pair { function, master },
            (function, master) => {
                let kept = kept_keys(&state_dir.join(KEYS_FILE))?;
                Pair {
                    function: function.unwrap_or(kept.function),
                    master: master.unwrap_or(kept.master),
                }
            }
        };
        Ok(Self { required: Some(pair) })
    }

    pub(crate) fn are_required(&self) -> bool {
        self.required.is_some()
    }

    /// Whether a request with these headers and this query may call what needs `level`.
    pub(crate) fn allow(&self, level: AuthLevel, headers: &HeaderMap, code: Option<&str>) -> bool {
        let Some(keys) = &self.required else { return true };
        if level == AuthLevel::Anonymous {
            return true;
        }
        let header = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok());
        let Some(given) = header.or(code) else { return false };
        let is_function = same(given, &keys.function) && level == AuthLevel::Function;
        same(given, &keys.master) || is_function
    }
}

/// Compares without telling by its time where two keys differ.
fn same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// Reads the drawn keys, or draws them.
fn kept_keys(path: &Path) -> Result<Pair, HostError> {
    match std::fs::read(path) {
        Ok(text) => {
            let json = Json::parse(&text)
                .map_err(|error| HostError::Json { path: path.to_owned(), source: error.into() })?;
            let key = |name: &str| {
                let key = json.get(name).and_then(Json::as_str).filter(|key| !key.is_empty());
                key.map(str::to_owned).ok_or_else(|| {
                    HostError::config(path, name, "is missing; delete the file for new keys")
                })
            };
            Ok(Pair { function: key("functionKey")?, master: key("masterKey")? })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => draw_keys(path),
        Err(source) => Err(HostError::Read { path: path.to_owned(), source }),
    }
}

fn draw_keys(path: &Path) -> Result<Pair, HostError> {
    let error = |source| HostError::State { path: path.to_owned(), source };
    let draw = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let pair = Pair { function: draw(), master: draw() };
    let json = object([
        ("functionKey", pair.function.as_str().into()),
        ("masterKey", pair.master.as_str().into()),
    ]);
    // Under another name first: a crash in between must not leave half a file.
    let draft = path.with_extension(format!("{}.draft", Uuid::new_v4().simple()));
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(error)?;
    let written = file
        .write_all(json.to_indented_text().as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&draft, path));
    // What cannot be removed is in nobody's way.
    let _ = std::fs::remove_file(&draft);
    written.map_err(error)?;
    tracing::info!("drew keys for callers of this host: {}", path.display());
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn headers(key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(KEY_HEADER, key.parse().unwrap());
        headers
    }

    const LOOPBACK: &str = "127.0.0.1:0";

    fn load(addr: &str, require: bool, settings: &Settings, folder: &Path) -> Keys {
        Keys::load(addr.parse().unwrap(), require, settings, folder).unwrap()
    }

    #[test]
    fn the_loopback_interface_needs_no_key_unless_asked() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let open = load(LOOPBACK, false, &settings, folder.path());
        assert!(open.allow(AuthLevel::Admin, &HeaderMap::new(), None));
        assert!(!folder.path().join(KEYS_FILE).exists());
        let closed = load("0.0.0.0:0", false, &settings, folder.path());
        assert!(!closed.allow(AuthLevel::Function, &HeaderMap::new(), None));
        assert!(closed.allow(AuthLevel::Anonymous, &HeaderMap::new(), None));
    }

    #[test]
    fn keys_are_drawn_once_and_only_the_owner_may_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let keys = load(LOOPBACK, true, &settings, folder.path());
        let path = folder.path().join(KEYS_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let json = Json::parse(&std::fs::read(&path).unwrap()).unwrap();
        let key = |name: &str| json.get(name).unwrap().as_str().unwrap().to_owned();
        let (function, master) = (key("functionKey"), key("masterKey"));
        assert_eq!(function.len(), 64);
        assert!(keys.allow(AuthLevel::Function, &headers(&function), None));
        assert!(!keys.allow(AuthLevel::Admin, &headers(&function), None));
        assert!(keys.allow(AuthLevel::Admin, &headers(&master), None));
        assert!(keys.allow(AuthLevel::Function, &HeaderMap::new(), Some(&master)));
        assert!(!keys.allow(AuthLevel::Function, &headers(&function[1..]), None));
        let again = load(LOOPBACK, true, &settings, folder.path());
        assert!(again.allow(AuthLevel::Admin, &headers(&master), None));
        assert_eq!(format!("{keys:?}"), "Keys { required: true }");
    }

    #[test]
    fn settings_win_over_drawn_keys_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.override_with([(FUNCTION_KEY_SETTING, "f"), (MASTER_KEY_SETTING, "m")]);
        let keys = load(LOOPBACK, true, &settings, folder.path());
        assert!(keys.allow(AuthLevel::Function, &headers("f"), None));
        assert!(keys.allow(AuthLevel::Admin, &headers("m"), None));
        assert!(!folder.path().join(KEYS_FILE).exists());
        std::fs::write(folder.path().join(KEYS_FILE), "{}").unwrap();
        let addr = LOOPBACK.parse().unwrap();
        let error = Keys::load(addr, true, &Settings::default(), folder.path()).unwrap_err();
        assert!(error.to_string().contains("keys.json: functionKey: is missing"), "{error}");
    }
}
