//! The environment that completes a connection string.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Environment variables, taken from the process or made up by a test.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: one of the values is PGPASSWORD.
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// An environment without variables.
    pub fn empty() -> Self {
        Environment::default()
    }

    /// The variables of this process as they are now.
    pub fn of_process() -> Self {
        Environment { variables: std::env::vars_os().collect() }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// A variable's value, unless it is unset or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// A file in the home folder.
    pub(crate) fn in_home(&self, relative: impl AsRef<Path>) -> Option<PathBuf> {
        self.get("HOME").map(|home| Path::new(home).join(relative))
    }
}
