//! Where the programs are: PostgreSQL's of every version, and ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fmt};

use crate::run;

/// A major version of PostgreSQL that tests can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// A server without client programs; see [`Version::clients`]. No multiranges.
    V13,
    /// A server without client programs.
    V14,
    /// The oldest with client programs: no archive 1.15, large objects one by one.
    V15,
    /// A server without client programs, and without lz4.
    V16,
    /// Grouped large objects, membership options.
    V17,
    /// The newest: virtual columns, statistics in dumps.
    V18,
}

impl Version {
    /// Those with client programs, oldest first.
    pub const ALL: [Self; 3] = [Self::V15, Self::V17, Self::V18];

    /// The version whose client programs serve a server of this one: its own, or the newest.
    #[must_use]
    pub fn clients(self) -> Self {
        if Self::ALL.contains(&self) { self } else { Self::V18 }
    }

    /// The number, such as 18.
    pub fn major(self) -> u32 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The folder of its programs: `FLEXKEEP_PG18_BIN` and the like, otherwise where
    /// `scripts/setup.sh` puts them.
    ///
    /// # Panics
    ///
    /// If it isn't there.
    pub fn bin(self) -> PathBuf {
        let major = self.major();
        let name = format!("FLEXKEEP_PG{major}_BIN");
        let bin = env::var_os(&name).map_or_else(
            || {
                let packaged = format!("usr/lib/postgresql/{major}/bin");
                let folder = if self.clients() == self { packaged.as_str() } else { "bin" };
                tools().join(format!("pg{major}")).join(folder)
            },
            PathBuf::from,
        );
        assert!(
            bin.join("initdb").exists(),
            "no PostgreSQL {major} in {}: run scripts/setup.sh, or set {name}",
            bin.display()
        );
        bin
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major())
    }
}

/// The same rule as in `scripts/lib.sh`.
pub(crate) fn tools() -> PathBuf {
    env::var_os("FLEXKEEP_TOOLS").map_or_else(
        || format!("/var/tmp/flexkeep-tools-{}", rustix::process::getuid().as_raw()).into(),
        PathBuf::from,
    )
}

/// The path of `pg_restore`, `pg_dump`, `psql` and so on of that version.
pub fn pg_tool(name: &str, version: Version) -> PathBuf {
    version.bin().join(name)
}

/// A client program for a server of that version, untouched by the developer's own `PG…` settings.
pub fn pg_command(name: &str, version: Version) -> Command {
    clean(Command::new(pg_tool(name, version.clients())))
}

pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

/// The path of the `flexkeep` command, built from the checkout: `FLEXKEEP_BIN` if the caller has
/// built it, otherwise cargo is asked, once in a process.
pub fn flexkeep() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("FLEXKEEP_BIN", "flexkeep-cli")).clone()
}

/// The path of the function app's handler: `FLEXKEEP_HANDLER_BIN`, or built as [`flexkeep`] is.
pub fn handler() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("FLEXKEEP_HANDLER_BIN", "flexkeep-handlers")).clone()
}

fn built(variable: &str, package: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Cargo locks its folder, so that test processes asking at the same time wait for each other.
    let out = run(
        Command::new(cargo)
            .args(["build", "-q", "-p", package, "--message-format=json"])
            .current_dir(root),
        Duration::from_secs(600),
    )
    .expect_success();
    let said = out.text();
    let executable = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    executable.unwrap_or_else(|| panic!("cargo named no executable:\n{said}"))
}
