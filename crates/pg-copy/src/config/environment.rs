//! The environment that completes a connection string.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Environment variables, taken from the process or made up by a test.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    account: Option<Account>,
}

/// What the system's list of users says of a process's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    home: PathBuf,
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
        Environment { variables: std::env::vars_os().collect(), account: Account::of_process() }
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
        let home = self.get("HOME").map(Path::new);
        home.or(self.account.as_ref().map(|account| account.home.as_path()))
            .map(|home| home.join(relative))
    }

    /// The name of the process's owner, by the system's list of users.
    pub(crate) fn account_name(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.name.as_str())
    }
}

impl Account {
    fn of_process() -> Option<Self> {
        let uid = std::fs::metadata("/proc/self").ok()?.uid();
        Self::find(&std::fs::read_to_string("/etc/passwd").ok()?, uid)
    }

    /// Its line is `name:password:uid:gid:comment:home:shell`.
    fn find(users: &str, uid: u32) -> Option<Self> {
        let uid = uid.to_string();
        let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.len() >= 6 && line[2] == uid)?;
        Some(Self { name: line[0].to_owned(), home: PathBuf::from(line[5]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_the_process_fills_in_for_missing_variables() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken:x:7\nkeeper:x:7:7::/var/keeper:/bin/sh";
        let account = Account::find(users, 7);
        let environment = Environment { account, ..Environment::empty() };
        assert_eq!(environment.account_name(), Some("keeper"));
        assert_eq!(environment.in_home("f"), Some(PathBuf::from("/var/keeper/f")));
        let environment = environment.with("HOME", "/home/other");
        assert_eq!(environment.in_home("f"), Some(PathBuf::from("/home/other/f")));
        assert_eq!(Account::find(users, 8), None);
    }
}
