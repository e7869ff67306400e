//! Where to connect, as whom and how: the words of libpq's connection strings.

mod build;
mod conninfo;
mod environment;
mod keys;
mod libpq;
mod passfile;
mod provider;
mod service;
mod uri;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use environment::Environment;
pub use provider::{PasswordError, PasswordProvider};

pub(crate) use build::RequireAuth;

/// A connection string, or the environment that completes it, is wrong.
///
/// The message names the key, never a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into() }
    }
}

/// One target: everything needed to open connections to it.
///
/// Made by [`Config::parse`] from a connection string and libpq's environment. Neither
/// `Debug` nor [`Config::describe`] shows a password.
///
/// `sslmode` differs from libpq in one point: where it is not given, a host reached by TCP that
/// is not this machine is used with `verify-full`, as nothing less keeps a password from a
/// stranger; a loopback address or `localhost` is used with `prefer`; a Unix socket never
/// uses TLS. If one of several hosts is remote, `verify-full` holds for all of them.
#[derive(Clone)]
pub struct Config {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) user_named: bool,
    pub(crate) database: String,
    pub(crate) password: Option<Secret>,
    pub(crate) provider: Option<provider::Provider>,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) sslmode: Option<SslMode>,
    pub(crate) ssl: SslFiles,
    pub(crate) direct_tls: bool,
    pub(crate) channel_binding: ChannelBindingMode,
    pub(crate) require_auth: Option<RequireAuth>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) application_name: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) keepalive: Keepalive,
    pub(crate) session: TargetSession,
}

/// One server of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The folder that holds the socket.
    Unix(PathBuf),
    /// A name to resolve, unless the address is given; the name is what a certificate must bear.
    Tcp { name: String, address: Option<IpAddr> },
}

/// How much TLS is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses without.
    Allow,
    /// If the server can.
    Prefer,
    /// Always, without checking whose certificate it is (unless a root file is there).
    Require,
    /// Always, with a certificate that a trusted authority signed.
    VerifyCa,
    /// Always, with a certificate that a trusted authority signed for this very host.
    VerifyFull,
}

/// Whether the SCRAM exchange is tied to the TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelBindingMode {
    Disable,
    Prefer,
    Require,
}

/// What the server must be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// The files and limits of TLS.
#[derive(Debug, Clone)]
pub(crate) struct SslFiles {
    pub(crate) root: RootCert,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) send_name: bool,
    pub(crate) least: TlsVersion,
    pub(crate) most: TlsVersion,
}

/// Which authorities are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootCert {
    /// Those of this file. It was named, or it is the user's `~/.postgresql/root.crt`.
    File(PathBuf),
    /// `sslrootcert=system`.
    System,
    /// Nothing was named: the system's, where a certificate is verified at all.
    Unset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    V12,
    V13,
}

/// How TCP notices a peer that has gone.
#[derive(Debug, Clone)]
pub(crate) struct Keepalive {
    pub(crate) on: bool,
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: Option<u32>,
    pub(crate) user_timeout: Option<Duration>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Config {
    /// Reads a connection string (`key=value …` or `postgresql://…`) and completes it from
    /// the service file and libpq's environment variables of this process.
    ///
    /// # Errors
    /// The first thing that is wrong, naming the key and the way out.
    pub fn parse(conninfo: &str) -> Result<Config, ConfigError> {
        Config::parse_in(conninfo, &Environment::of_process())
    }

    /// As [`Config::parse`], with the environment passed in.
    ///
    /// # Errors
    /// The first thing that is wrong, naming the key and the way out.
    pub fn parse_in(conninfo: &str, environment: &Environment) -> Result<Config, ConfigError> {
        build::build(conninfo, environment)
    }

    /// The same target with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Config {
        Config { database: name.to_owned(), ..self.clone() }
    }

    /// The same target with another user.
    #[must_use]
    pub fn with_user(&self, name: &str) -> Config {
        Config { user: name.to_owned(), user_named: true, ..self.clone() }
    }

    /// The same target with this password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Config {
        let password = Some(Secret(password.to_owned()));
        Config { password, provider: None, ..self.clone() }
    }

    /// The same target whose sessions begin with this setting, whatever `options` has for it. The
    /// value has neither blanks nor backslashes.
    #[must_use]
    pub fn with_setting(&self, name: &str, value: &str) -> Config {
        let before = self.options.as_deref().map(|options| format!("{options} "));
        let options = format!("{}-c {name}={value}", before.unwrap_or_default());
        Config { options: Some(options), ..self.clone() }
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The database as a connection string, for programs that take one where they take a name.
    pub fn database_conninfo(&self) -> String {
        format!("dbname={}", conninfo::quote(&self.database))
    }

    /// The role's name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The first host: a name, an address, or the folder of a socket.
    pub fn host(&self) -> String {
        self.hosts.first().map(Host::name).unwrap_or_default()
    }

    /// The first host's port.
    pub fn port(&self) -> u16 {
        self.hosts.first().map_or(5432, |host| host.port)
    }

    /// `connect_timeout`, where it was given.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// `application_name`, where it was given.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// Whether a password was given outside of a password file.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// How TLS is used on TCP: as given, or decided by where the hosts are.
    pub fn ssl_mode(&self) -> SslMode {
        self.sslmode.unwrap_or_else(|| {
            let remote =
                |host: &Host| matches!(host.place, Place::Tcp { .. }) && !host.is_loopback();
            if self.ssl.root == RootCert::System || self.hosts.iter().any(remote) {
                SslMode::VerifyFull
            } else {
                SslMode::Prefer
            }
        })
    }

    /// The target on one line, for people: `user=.. host=.. port=.. dbname=..`.
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::name).collect();
        let ports: Vec<String> = self.hosts.iter().map(|host| host.port.to_string()).collect();
        let all_same = ports.iter().all(|port| *port == ports[0]);
        let ports = if all_same { ports[..1].join(",") } else { ports.join(",") };
        format!(
            "user={} host={} port={ports} dbname={}",
            conninfo::quote(&self.user),
            conninfo::quote(&hosts.join(",")),
            conninfo::quote(&self.database)
        )
    }

    /// The password file, if it exists but is not used because others may read it.
    pub(crate) fn ignored_passfile(&self) -> Option<&Path> {
        self.passfile.as_deref().filter(|file| passfile::is_ignored(file))
    }

    /// The password for a host: the given one, or that of the password file.
    pub(crate) fn password_for(&self, host: &Host) -> Option<Secret> {
        if let Some(password) = &self.password {
            return Some(password.clone());
        }
        passfile::find(self.passfile.as_deref()?, host, &self.database, &self.user)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({} sslmode={})", self.describe(), self.ssl_mode())
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

impl Host {
    pub(crate) fn name(&self) -> String {
        match &self.place {
            Place::Unix(folder) => folder.display().to_string(),
            Place::Tcp { name, .. } => name.clone(),
        }
    }

    /// For messages: `host:port`, or the socket's path.
    pub(crate) fn target(&self) -> String {
        match &self.place {
            Place::Unix(folder) => socket_path(folder, self.port).display().to_string(),
            Place::Tcp { name, address: Some(address) } if *name != address.to_string() => {
                format!("{name}:{} ({address})", self.port)
            }
            Place::Tcp { name, .. } => format!("{name}:{}", self.port),
        }
    }

    fn is_loopback(&self) -> bool {
        match &self.place {
            Place::Unix(_) => true,
            Place::Tcp { address: Some(address), .. } => is_loopback(*address),
            Place::Tcp { name, .. } => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(is_loopback)
            }
        }
    }
}

pub(crate) fn socket_path(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.to_ipv4_mapped().as_ref().is_some_and(Ipv4Addr::is_loopback)
        }
    }
}
