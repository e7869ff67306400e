//! What stops the host before it runs, each naming the file, the key and the way out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The host cannot be loaded or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file or folder that the host needs cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration file is not JSON.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it stops being JSON.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value in a configuration file, or the setting that overrides it, is not usable.
    #[error("{}: {key}: {problem}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key in it, or the name of the setting.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The app root holds no function.
    #[error(
        "found no function in {}: a function is a direct subfolder that holds a function.json",
        app_root.display()
    )]
    NoFunctions {
        /// Where functions were looked for.
        app_root: PathBuf,
    },
    /// The handler's executable cannot be started.
    #[error("handler {}: {problem}", path.display())]
    Handler {
        /// The executable as it was resolved.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The host cannot listen for HTTP.
    #[error("cannot listen on {addr}; is another host running? choose another port")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no free port for the handler, or the configured one is taken.
    #[error("cannot reserve a port for the handler on 127.0.0.1{}",
        port.map(|port| format!(" (customHandler.port in host.json is {port})")).unwrap_or_default())]
    HandlerPort {
        /// The configured port, if there is one.
        port: Option<u16>,
        /// Why.
        source: std::io::Error,
    },
    /// The host cannot keep its state.
    #[error("cannot write state to {}", path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The embedded queue cannot be opened or used.
    #[error("cannot use the queue database {}, which setting {setting} names", path.display())]
    Queue {
        /// The setting that names the database.
        setting: String,
        /// The database.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HostError {
    pub(crate) fn config(
        file: impl AsRef<Path>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Config { file: file.as_ref().to_owned(), key: key.into(), problem: problem.into() }
    }
}
