//! The environment variables that `flexkeep` reads by itself. libpq's own (`PGHOST`, `PGPASSWORD`,
//! ...) complete the connection string; docs/cli.md lists them.

use crate::exit::Failure;

/// The connection string, where `--from` is not given.
pub(crate) const FLEXKEEP_FROM: &str = "FLEXKEEP_FROM";

/// How the server gets to know who connects: `password`, or `entra`.
pub(crate) const FLEXKEEP_AUTH: &str = "FLEXKEEP_AUTH";

/// The vault, where `--vault` is not given.
pub(crate) const FLEXKEEP_VAULT: &str = "FLEXKEEP_VAULT";

/// The function app, where `--url` is not given.
pub(crate) const FLEXKEEP_URL: &str = "FLEXKEEP_URL";

/// The function app's key.
pub(crate) const FLEXKEEP_API_KEY: &str = "FLEXKEEP_API_KEY";

/// Folder of pg_dump, where `--pg-bin` is not given.
const FLEXKEEP_PG_BIN: &str = "FLEXKEEP_PG_BIN";

/// What is logged to standard error, as `LEVEL` or `TARGET=LEVEL,...`; wins over `-v` and `-q`.
pub(crate) const FLEXKEEP_LOG: &str = "FLEXKEEP_LOG";

/// Set to anything but nothing: no colours (<https://no-color.org>).
pub(crate) const NO_COLOR: &str = "NO_COLOR";

/// `dumb` means a terminal that can't rewrite a line.
pub(crate) const TERM: &str = "TERM";

/// A variable's value. Unset and empty are the same: in CI a secret that is missing is empty.
pub(crate) fn get(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // The value is not shown: it may be a secret.
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("the environment variable {name} is not UTF-8")))
        }
    }
}

/// The folder of `FLEXKEEP_PG_BIN`.
pub(crate) fn pg_bin() -> Option<std::path::PathBuf> {
    std::env::var_os(FLEXKEEP_PG_BIN).filter(|path| !path.is_empty()).map(Into::into)
}
