//! The environment that makes PostgreSQL's own programs connect to the same place.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::{
    ChannelBindingMode, Config, PasswordError, Place, RootCert, SslMode, TargetSession, TlsVersion,
};

/// Variables that would turn a child to another place or way, and are not set here.
const ALL: &[&str] = &[
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGHOSTADDR",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGREQUIREAUTH",
    "PGREQUIRESSL",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLCERTMODE",
    "PGSSLCOMPRESSION",
    "PGSSLNEGOTIATION",
    "PGREQUIREPEER",
    "PGLOADBALANCEHOSTS",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
    "PGCLIENTENCODING",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    "PGLOCALEDIR",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGGSSDELEGATION",
];

impl Config {
    /// The variables to set for a child `pg_dump`, `pg_dumpall` or `pg_restore`, so that it connects
    /// to the same place in the same way. Those of [`Config::libpq_unset`] must be removed
    /// first; [`Config::apply_to`] does both.
    ///
    /// The password is among them: an environment, unlike a command line, can be read only by
    /// the same user. Keepalives have no variable; the child uses the system's. A password that
    /// is asked for at each connection is not there: see [`Config::with_present_password`].
    pub fn libpq_env(&self) -> Vec<(OsString, OsString)> {
        let mut set: Vec<(&str, OsString)> = Vec::new();
        let hosts: Vec<String> = self.hosts.iter().map(super::Host::name).collect();
        let ports: Vec<String> = self.hosts.iter().map(|host| host.port.to_string()).collect();
        set.push(("PGHOST", hosts.join(",").into()));
        set.push(("PGPORT", ports.join(",").into()));
        set.push(("PGUSER", self.user.clone().into()));
        set.push(("PGDATABASE", self.database.clone().into()));
        let addresses: Vec<String> = self.hosts.iter().map(address).collect();
        if addresses.iter().any(|address| !address.is_empty()) {
            set.push(("PGHOSTADDR", addresses.join(",").into()));
        }
        match (&self.password, &self.passfile) {
            (Some(password), _) => set.push(("PGPASSWORD", password.0.clone().into())),
            (None, Some(file)) => set.push(("PGPASSFILE", file.clone().into())),
            (None, None) => {}
        }
        self.ssl_env(&mut set);
        set.push(("PGGSSENCMODE", "disable".into()));
        set.push(("PGCHANNELBINDING", self.channel_binding_word().into()));
        set.push(("PGTARGETSESSIONATTRS", self.session_word().into()));
        let wait = self.connect_timeout.unwrap_or(crate::options::CONNECT_TIMEOUT);
        set.push(("PGCONNECT_TIMEOUT", wait.as_secs().max(2).to_string().into()));
        let optional = [
            ("PGAPPNAME", self.application_name.clone()),
            ("PGOPTIONS", self.options.clone()),
            ("PGREQUIREAUTH", self.require_auth.as_ref().map(super::RequireAuth::text)),
        ];
        for (name, value) in optional {
            set.extend(value.map(|value| (name, value.into())));
        }
        set.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    /// The variables that must not be passed on to a child, as they would change where or how it connects.
    pub fn libpq_unset(&self) -> Vec<OsString> {
        let set = self.libpq_env();
        let is_set = |name: &str| set.iter().any(|(set, _)| set == name);
        ALL.iter().filter(|name| !is_set(name)).map(OsString::from).collect()
    }

    /// Prepares a child's environment with [`Config::libpq_env`] and [`Config::libpq_unset`], and
    /// with the password that is good now.
    ///
    /// # Errors
    /// No password could be had from the provider.
    pub fn apply_to(&self, command: &mut Command) -> Result<(), PasswordError> {
        let present = self.with_present_password()?;
        for name in present.libpq_unset() {
            command.env_remove(name);
        }
        command.envs(present.libpq_env());
        Ok(())
    }

    fn ssl_env(&self, set: &mut Vec<(&str, OsString)>) {
        let mode = self.ssl_mode();
        set.push(("PGSSLMODE", mode.to_string().into()));
        let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
        match &self.ssl.root {
            RootCert::File(file) => set.push(("PGSSLROOTCERT", file.clone().into())),
            // The file works with every libpq; the word `system` only from 16 on.
            RootCert::System | RootCert::Unset if verifies => {
                let bundle = openssl_probe::probe().cert_file;
                let value = bundle.map_or_else(|| "system".into(), Into::into);
                set.push(("PGSSLROOTCERT", value));
            }
            RootCert::System | RootCert::Unset => {}
        }
        if let (Some(cert), Some(key)) = (&self.ssl.cert, &self.ssl.key) {
            set.push(("PGSSLCERT", Path::as_os_str(cert).into()));
            set.push(("PGSSLKEY", Path::as_os_str(key).into()));
        }
        if self.direct_tls {
            set.push(("PGSSLNEGOTIATION", "direct".into()));
        }
        let word = |version| match version {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        };
        set.push(("PGSSLMINPROTOCOLVERSION", word(self.ssl.least).into()));
        set.push(("PGSSLMAXPROTOCOLVERSION", word(self.ssl.most).into()));
        set.push(("PGSSLSNI", if self.ssl.send_name { "1" } else { "0" }.into()));
    }

    fn channel_binding_word(&self) -> &'static str {
        match self.channel_binding {
            ChannelBindingMode::Disable => "disable",
            ChannelBindingMode::Prefer => "prefer",
            ChannelBindingMode::Require => "require",
        }
    }

    fn session_word(&self) -> &'static str {
        match self.session {
            TargetSession::Any => "any",
            TargetSession::ReadWrite => "read-write",
            TargetSession::ReadOnly => "read-only",
            TargetSession::Primary => "primary",
            TargetSession::Standby => "standby",
            TargetSession::PreferStandby => "prefer-standby",
        }
    }
}

fn address(host: &super::Host) -> String {
    match &host.place {
        Place::Tcp { address: Some(address), .. } => address.to_string(),
        _ => String::new(),
    }
}
