//! From keys and values to a [`Config`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{self, KEYS};
use super::{
    ChannelBindingMode, Config, ConfigError, Environment, Host, Keepalive, Place, RootCert, Secret,
    SslFiles, SslMode, TargetSession, TlsVersion, conninfo, service, socket_path, uri,
};

/// Where servers put their socket, first the one that Debian and the official images use.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

pub(super) fn is_usual_socket_folder(folder: &Path) -> bool {
    SOCKET_FOLDERS.iter().any(|usual| Path::new(usual) == folder)
}

/// The values by key, with where each was read.
struct Values(BTreeMap<String, (String, String)>);

impl Values {
    /// A value that is neither missing nor empty.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn origin(&self, key: &str) -> &str {
        self.0.get(key).map_or("", |(_, origin)| origin.as_str())
    }

    fn wrong(&self, key: &str, allowed: &str) -> ConfigError {
        let value = shown(self.get(key).unwrap_or_default());
        let origin = self.origin(key);
        ConfigError::new(format!("{key}={value} in {origin} is wrong; {allowed}"))
    }

    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| *name == value);
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        match found {
            Some((_, choice)) => Ok(Some(*choice)),
            None => Err(self.wrong(key, &format!("it must be one of {}", names.join(", ")))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.trim().parse::<i32>();
        number.map(|n| Some(n.into())).map_err(|_| self.wrong(key, "it must be a whole number"))
    }

    /// A number of seconds; zero and less mean the default, as in libpq.
    fn seconds(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        let number = self.number(key)?.and_then(|n| u64::try_from(n).ok());
        Ok(number.filter(|n| *n > 0).map(Duration::from_secs))
    }

    fn list(&self, key: &str) -> Option<Vec<&str>> {
        self.get(key).map(|value| value.split(',').map(str::trim).collect())
    }
}

/// A wrong value as a message repeats it. What has a `=` may be several pairs, one of them a password.
fn shown(value: &str) -> &str {
    if value.contains('=') { "(hidden)" } else { value }
}

pub(super) fn build(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
    let values = gather(text, environment)?;
    let hosts = hosts(&values)?;
    let user = user(&values, environment)?;
    let database = values.get("dbname").unwrap_or(&user).to_owned();
    let sslmode = values.choice("sslmode", &SSL_MODES)?;
    let root = root_cert(&values, environment);
    if root == RootCert::System && !matches!(sslmode, None | Some(SslMode::VerifyFull)) {
        return Err(values.wrong("sslmode", "sslrootcert=system needs sslmode=verify-full"));
    }
    let direct_tls =
        values.choice("sslnegotiation", &[("postgres", false), ("direct", true)])? == Some(true);
    if direct_tls && matches!(sslmode, Some(SslMode::Disable | SslMode::Allow | SslMode::Prefer)) {
        return Err(values.wrong("sslmode", "sslnegotiation=direct needs sslmode=require or more"));
    }
    let passfile = values.get("passfile").map(PathBuf::from);
    Ok(Config {
        hosts,
        user,
        user_named: values.get("user").is_some(),
        database,
        password: values.get("password").map(|password| Secret(password.to_owned())),
        provider: None,
        passfile: passfile.or_else(|| environment.in_home(".pgpass")),
        sslmode,
        ssl: ssl_files(&values, environment, root)?,
        direct_tls,
        channel_binding: values
            .choice("channel_binding", &CHANNEL_BINDING)?
            .unwrap_or(ChannelBindingMode::Prefer),
        require_auth: RequireAuth::read(&values)?,
        connect_timeout: values.seconds("connect_timeout")?,
        application_name: values
            .get("application_name")
            .or(values.get("fallback_application_name"))
            .map(str::to_owned),
        options: values.get("options").map(str::to_owned),
        keepalive: keepalive(&values)?,
        session: values.choice("target_session_attrs", &SESSIONS)?.unwrap_or(TargetSession::Any),
    })
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const CHANNEL_BINDING: [(&str, ChannelBindingMode); 3] = [
    ("disable", ChannelBindingMode::Disable),
    ("prefer", ChannelBindingMode::Prefer),
    ("require", ChannelBindingMode::Require),
];

const SESSIONS: [(&str, TargetSession); 6] = [
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("primary", TargetSession::Primary),
    ("standby", TargetSession::Standby),
    ("prefer-standby", TargetSession::PreferStandby),
];

/// The string first, then the service, then the environment.
fn gather(text: &str, environment: &Environment) -> Result<Values, ConfigError> {
    let (pairs, origin) = match uri::strip_scheme(text) {
        Some(rest) => (uri::split(rest)?, "the connection URI"),
        None => (conninfo::split(text)?, "the connection string"),
    };
    let mut values = Values(BTreeMap::new());
    keys::check_pairs(&pairs, origin)?;
    for (key, value) in pairs {
        // As in libpq the last one wins.
        values.0.insert(key, (value, origin.to_owned()));
    }
    let from_environment = |key: &str, variable: &str| -> Result<Option<String>, ConfigError> {
        let Some(value) = environment.get(variable) else { return Ok(None) };
        let value = value.to_str();
        let value = value.ok_or_else(|| ConfigError::new(format!("{variable} is not UTF-8")))?;
        keys::check(key, value, &format!("the environment ({variable})"))?;
        Ok(Some(value.to_owned()))
    };
    let service = match values.get("service") {
        Some(service) => Some(service.to_owned()),
        None => from_environment("service", "PGSERVICE")?,
    };
    if let Some(name) = service {
        let file = match values.get("servicefile") {
            Some(file) => Some(file.to_owned()),
            None => from_environment("servicefile", "PGSERVICEFILE")?,
        };
        let origin = format!("service {name}");
        for (key, value) in service::read(&name, file.as_deref().map(Path::new), environment)? {
            keys::check(&key, &value, &origin)?;
            values.0.entry(key).or_insert_with(|| (value, origin.clone()));
        }
    }
    for key in KEYS {
        if let Some(variable) = key.1
            && !values.0.contains_key(key.0)
            && let Some(value) = from_environment(key.0, variable)?
        {
            values.0.insert(key.0.to_owned(), (value, format!("the environment ({variable})")));
        }
    }
    Ok(values)
}

fn user(values: &Values, environment: &Environment) -> Result<String, ConfigError> {
    if let Some(user) = values.get("user") {
        return Ok(user.to_owned());
    }
    let name = ["USER", "LOGNAME"].iter().find_map(|name| environment.get(name)?.to_str());
    name.or(environment.account_name()).map(str::to_owned).ok_or_else(|| {
        ConfigError::new("no user is named; add user=… or set PGUSER (USER is not set either)")
    })
}

fn hosts(values: &Values) -> Result<Vec<Host>, ConfigError> {
    let names = values.list("host");
    let addresses = values.list("hostaddr");
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if let (Some(names), Some(addresses)) = (&names, &addresses)
        && names.len() != addresses.len()
    {
        return Err(ConfigError::new(format!(
            "host names {} servers and hostaddr {}; the lists must be of equal length",
            names.len(),
            addresses.len()
        )));
    }
    let ports = ports(values, count)?;
    let mut hosts = Vec::new();
    for (at, port) in ports.into_iter().enumerate() {
        let name = names.as_ref().and_then(|names| names.get(at)).copied().unwrap_or_default();
        let address = addresses.as_ref().and_then(|list| list.get(at)).copied().unwrap_or_default();
        hosts.push(Host { place: place(name, address, port)?, port });
    }
    Ok(hosts)
}

fn ports(values: &Values, count: usize) -> Result<Vec<u16>, ConfigError> {
    let list = values.list("port").unwrap_or_else(|| vec![""]);
    if list.len() != 1 && list.len() != count {
        return Err(ConfigError::new(format!(
            "{} ports are given for {count} hosts; give one port, or one for each host",
            list.len()
        )));
    }
    let read = |text: &str| match text {
        "" => Ok(5432),
        text => text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
            let origin = values.origin("port");
            let text = shown(text);
            ConfigError::new(format!("port={text} in {origin} is wrong; it must be 1 to 65535"))
        }),
    };
    (0..count).map(|at| read(if list.len() == 1 { list[0] } else { list[at] })).collect()
}

fn place(name: &str, address: &str, port: u16) -> Result<Place, ConfigError> {
    if !address.is_empty() {
        let parsed: IpAddr = address.parse().map_err(|_| {
            ConfigError::new(format!(
                "hostaddr={} is not an IP address; a name belongs in host=",
                shown(address)
            ))
        })?;
        let name = if name.is_empty() { address } else { name };
        return Ok(Place::Tcp { name: name.to_owned(), address: Some(parsed) });
    }
    if name.starts_with('@') {
        return Err(ConfigError::new(format!(
            "host={}: abstract sockets are not supported; name the folder of a socket",
            shown(name)
        )));
    }
    if name.starts_with('/') {
        return Ok(Place::Unix(PathBuf::from(name)));
    }
    if name.is_empty() {
        return Ok(Place::Unix(socket_folder(&SOCKET_FOLDERS.map(Path::new), port)));
    }
    // What follows a comma that should be a blank may be a password.
    if name.contains('=') {
        return Err(ConfigError::new(
            "host= contains `=`; blanks stand between key=value pairs, commas only between hosts",
        ));
    }
    if name.contains(|c: char| c.is_whitespace() || "/@:?".contains(c))
        && name.parse::<IpAddr>().is_err()
    {
        return Err(ConfigError::new(
            "host= contains a character that no host name has; \
             the port belongs in port=, and a socket's folder begins with /",
        ));
    }
    Ok(Place::Tcp { name: name.to_owned(), address: None })
}

/// The folder that has the socket of this port, or the first that is there.
fn socket_folder(folders: &[&Path], port: u16) -> PathBuf {
    let has_socket = |folder: &&&Path| socket_path(folder, port).exists();
    let found = folders.iter().find(has_socket).or_else(|| folders.iter().find(|f| f.is_dir()));
    found.unwrap_or(&folders[0]).to_path_buf()
}

fn root_cert(values: &Values, environment: &Environment) -> RootCert {
    match values.get("sslrootcert") {
        Some("system") => RootCert::System,
        Some(file) => RootCert::File(PathBuf::from(file)),
        None => match environment.in_home(".postgresql/root.crt").filter(|file| file.exists()) {
            Some(file) => RootCert::File(file),
            None => RootCert::Unset,
        },
    }
}

fn ssl_files(
    values: &Values,
    environment: &Environment,
    root: RootCert,
) -> Result<SslFiles, ConfigError> {
    let usual = |name: &str| environment.in_home(name).filter(|file| file.exists());
    let given_cert = values.get("sslcert").map(PathBuf::from);
    let given_key = values.get("sslkey").map(PathBuf::from);
    let cert = given_cert.clone().or_else(|| usual(".postgresql/postgresql.crt"));
    let key = given_key.clone().or_else(|| usual(".postgresql/postgresql.key"));
    if cert.is_some() && key.is_none() {
        return Err(ConfigError::new("sslcert is given without sslkey; name the key's file"));
    }
    if given_key.is_some() && cert.is_none() {
        return Err(ConfigError::new(
            "sslkey is given without sslcert; name the certificate's file",
        ));
    }
    // OpenSSL's older versions are accepted as a lower bound: the bound here is higher anyway.
    let versions = [
        ("TLSv1", TlsVersion::V12),
        ("TLSv1.1", TlsVersion::V12),
        ("TLSv1.2", TlsVersion::V12),
        ("TLSv1.3", TlsVersion::V13),
    ];
    let least = values.choice("ssl_min_protocol_version", &versions)?.unwrap_or(TlsVersion::V12);
    let most =
        values.choice("ssl_max_protocol_version", &versions[2..])?.unwrap_or(TlsVersion::V13);
    if least > most {
        return Err(ConfigError::new("ssl_min_protocol_version is above ssl_max_protocol_version"));
    }
    let send_name = values.choice("sslsni", &[("1", true), ("0", false)])?.unwrap_or(true);
    Ok(SslFiles { root, key: cert.as_ref().and(key), cert, send_name, least, most })
}

fn keepalive(values: &Values) -> Result<Keepalive, ConfigError> {
    let user_timeout = values.number("tcp_user_timeout")?.and_then(|n| u64::try_from(n).ok());
    Ok(Keepalive {
        on: values.number("keepalives")?.unwrap_or(1) != 0,
        idle: values.seconds("keepalives_idle")?.unwrap_or(Duration::from_secs(10)),
        interval: values.seconds("keepalives_interval")?.unwrap_or(Duration::from_secs(10)),
        count: values
            .number("keepalives_count")?
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0),
        user_timeout: user_timeout.filter(|n| *n > 0).map(Duration::from_millis),
    })
}

/// The methods of authentication that `require_auth` lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequireAuth {
    methods: Vec<String>,
    negated: bool,
}

impl RequireAuth {
    fn read(values: &Values) -> Result<Option<Self>, ConfigError> {
        const METHODS: [&str; 7] =
            ["none", "password", "md5", "scram-sha-256", "gss", "sspi", "oauth"];
        let Some(list) = values.list("require_auth") else { return Ok(None) };
        let negated = list.iter().all(|word| word.starts_with('!'));
        if !negated && list.iter().any(|word| word.starts_with('!')) {
            return Err(values.wrong("require_auth", "`!` must stand before all methods or none"));
        }
        let methods: Vec<String> =
            list.iter().map(|word| word.trim_start_matches('!').to_owned()).collect();
        if methods.iter().any(|method| !METHODS.contains(&method.as_str())) {
            let allowed = format!("the methods are {}", METHODS.join(", "));
            return Err(values.wrong("require_auth", &allowed));
        }
        Ok(Some(RequireAuth { methods, negated }))
    }

    /// Whether the server may ask for this method.
    pub(crate) fn allows(&self, method: &str) -> bool {
        self.methods.iter().any(|allowed| allowed == method) != self.negated
    }

    /// Whether this method was named by the user as good enough.
    pub(crate) fn names(&self, method: &str) -> bool {
        !self.negated && self.allows(method)
    }

    /// The list as it was written.
    pub(crate) fn text(&self) -> String {
        let sign = if self.negated { "!" } else { "" };
        let words: Vec<String> =
            self.methods.iter().map(|method| format!("{sign}{method}")).collect();
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_with_the_socket_is_preferred_to_the_first_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let [none, first, second] = ["none", "first", "second"].map(|name| root.path().join(name));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::write(socket_path(&second, 5433), "").unwrap();
        let folders = [none.as_path(), first.as_path(), second.as_path()];
        assert_eq!(socket_folder(&folders, 5433), second);
        assert_eq!(socket_folder(&folders, 5432), first);
        assert_eq!(socket_folder(&folders[..1], 5432), none);
    }
}
