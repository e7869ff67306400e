//! Opening a connection: hosts in order, TLS as asked, authentication, the kind of server.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::auth;
use crate::cancel::CancelTarget;
use crate::config::{Config, Host, Place, SslMode, TargetSession};
use crate::connection::Connection;
use crate::dial::{self, Address};
use crate::error::{Error, ServerError};
use crate::options::{CONNECT_TIMEOUT, ConnectOptions};
use crate::tls::TlsSetup;
use crate::transport::Transport;
use crate::wire::Wire;

/// Whether one attempt uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    Never,
    IfOffered,
    Always,
}

pub(crate) fn connect(config: &Config, options: &ConnectOptions) -> Result<Connection, Error> {
    // Before anything is dialled: a server does not wait long for an answer.
    let present = config.with_present_password().map_err(|source| Error::Password {
        target: config.hosts.first().map(Host::target).unwrap_or_default(),
        source,
    })?;
    let config = &present;
    let wait = options.connect_timeout.or(config.connect_timeout).unwrap_or(CONNECT_TIMEOUT);
    let mut attempts = Vec::new();
    let passes: &[TargetSession] = match config.session {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        ref other => std::slice::from_ref(other),
    };
    for wanted in passes {
        for host in &config.hosts {
            match connect_host(config, options, host, *wanted, wait, &mut attempts) {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => {}
                // As in libpq, a wrong password is not tried on the next host.
                Err(error) => return Err(error),
            }
        }
    }
    if attempts.len() > 1 {
        return Err(Error::AllHosts { attempts });
    }
    Err(attempts.pop().unwrap_or_else(|| Error::protocol("the configuration names no host")))
}

fn connect_host(
    config: &Config,
    options: &ConnectOptions,
    host: &Host,
    wanted: TargetSession,
    wait: Duration,
    attempts: &mut Vec<Error>,
) -> Result<Option<Connection>, Error> {
    let addresses = match dial::resolve(host, wait) {
        Ok(addresses) => addresses,
        Err(error) => {
            attempts.push(error);
            return Ok(None);
        }
    };
    for address in &addresses {
        let attempt = Attempt { config, options, host, address, wait };
        match attempt.connect().and_then(|connection| attempt.check(connection, wanted)) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error @ Error::Auth { .. }) => return Err(error),
            Err(error) => attempts.push(error),
        }
    }
    Ok(None)
}

/// One address, with all that an attempt needs.
pub(crate) struct Attempt<'a> {
    pub(crate) config: &'a Config,
    pub(crate) options: &'a ConnectOptions,
    pub(crate) host: &'a Host,
    pub(crate) address: &'a Address,
    wait: Duration,
}

impl Attempt<'_> {
    /// Tries with and without TLS, as the mode allows.
    fn connect(&self) -> Result<Connection, Error> {
        let (first, second) = match (&self.host.place, self.config.ssl_mode()) {
            (Place::Unix(_), _) | (_, SslMode::Disable) => (Encryption::Never, None),
            (_, SslMode::Allow) => (Encryption::Never, Some(Encryption::Always)),
            (_, SslMode::Prefer) => (Encryption::IfOffered, Some(Encryption::Never)),
            _ => (Encryption::Always, None),
        };
        let error = match self.open(first) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        match second {
            Some(second) if may_differ(&error) => self.open(second).map_err(|other| {
                // The first refusal is the one to explain, unless only the second one is one.
                if matches!(other, Error::Tls { .. }) { error } else { other }
            }),
            _ => Err(error),
        }
    }

    fn open(&self, encryption: Encryption) -> Result<Connection, Error> {
        let started = Instant::now();
        let target = &self.address.target;
        let lost = |source| Error::Closed { during: "connecting", source: Some(source) };
        let tls = match encryption {
            Encryption::Never => None,
            _ => Some(TlsSetup::new(self.config, &self.host.name(), target)?),
        };
        let socket = dial::connect(self.address, &self.config.keepalive, self.wait)?;
        let mut transport = Transport::new(socket, started, self.wait).map_err(lost)?;
        transport.stop_on(self.options.stop.clone());
        let tls = match tls {
            Some(setup) => {
                let direct = self.config.direct_tls;
                let encrypted = encrypt(&mut transport, &setup, direct, encryption, target)?;
                encrypted.then_some((setup, direct))
            }
            None => None,
        };
        let mut wire = Wire::new(transport, self.options.max_row_bytes);
        self.send_startup(&mut wire)?;
        auth::authenticate(self, &mut wire)?;
        wire.set_authenticated();
        let (pid, key) = await_ready(&mut wire, target)?;
        wire.transport.set_stall_timeout(self.options.stall_timeout).map_err(lost)?;
        let cancel = CancelTarget {
            address: self.address.clone(),
            keepalive: self.config.keepalive.clone(),
            tls,
            pid,
            key,
        };
        Ok(Connection::new(wire, cancel, self.options.raw_text))
    }

    fn send_startup(&self, wire: &mut Wire) -> Result<(), Error> {
        let application =
            self.config.application_name.as_deref().unwrap_or(&self.options.application_name);
        let mut parameters = vec![
            ("user", self.config.user.as_str()),
            ("database", self.config.database.as_str()),
            ("application_name", application),
        ];
        if !self.options.raw_text {
            parameters.push(("client_encoding", "UTF8"));
        }
        parameters.extend(self.config.options.as_deref().map(|options| ("options", options)));
        let mut message = BytesMut::new();
        frontend::startup_message(parameters, &mut message).map_err(|error| {
            Error::protocol(format!("a connection parameter can't be sent: {error}"))
        })?;
        wire.transport.send(&message, "starting the session")
    }

    /// Whether the server is of the kind that is wanted.
    fn check(
        &self,
        mut connection: Connection,
        wanted: TargetSession,
    ) -> Result<Connection, Error> {
        let question = "SELECT pg_catalog.pg_is_in_recovery(), \
                        pg_catalog.current_setting('transaction_read_only')";
        if wanted == TargetSession::Any {
            return Ok(connection);
        }
        let rows = connection.query(question)?;
        let cell = |index| rows.first().and_then(|row| row.get(index));
        let (standby, read_only) = (cell(0) == Some("t"), cell(1) == Some("on"));
        let (fits, advice) = match wanted {
            TargetSession::ReadWrite => (!read_only, "the session is read-only"),
            TargetSession::ReadOnly => (read_only, "the session is not read-only"),
            TargetSession::Primary => (!standby, "the server is a standby"),
            _ => (standby, "the server is not a standby"),
        };
        if fits {
            return Ok(connection);
        }
        connection.close();
        Err(Error::Connect {
            target: self.address.target.clone(),
            advice: format!("{advice}, which target_session_attrs does not allow"),
            source: None,
        })
    }
}

/// Whether the same server may answer otherwise with or without TLS.
fn may_differ(error: &Error) -> bool {
    matches!(error, Error::Tls { .. }) || error.sqlstate() == Some("28000")
}

/// Asks for TLS and sets it up; false if the server has none and that will do.
pub(crate) fn encrypt(
    transport: &mut Transport,
    setup: &TlsSetup,
    direct: bool,
    encryption: Encryption,
    target: &str,
) -> Result<bool, Error> {
    let fail = |advice: &str| Error::Tls {
        target: target.to_owned(),
        advice: advice.to_owned(),
        source: None,
    };
    if !direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        transport.send(&request, "asking for TLS")?;
        // One byte and no more: what follows it must be TLS already.
        let mut answer = [0];
        transport.read(&mut answer, "asking for TLS")?;
        match answer[0] {
            b'S' => {}
            b'N' if encryption == Encryption::IfOffered => return Ok(false),
            b'N' => {
                return Err(fail(
                    "the server does not speak TLS; turn on its `ssl` setting, or accept an unencrypted \
                     connection with sslmode=disable",
                ));
            }
            b'E' => return Err(fail("the server answered the request for TLS with an error")),
            _ => return Err(fail("the other side does not speak PostgreSQL; check host and port")),
        }
    }
    transport.start_tls(setup.stream()?)?;
    if direct && transport.tls().and_then(|tls| tls.alpn()) != Some(b"postgresql") {
        return Err(fail(
            "the other side does not speak PostgreSQL over direct TLS (17 and newer do)",
        ));
    }
    Ok(true)
}

/// Reads until the server awaits statements: the backend's id and its secret for cancelling.
fn await_ready(wire: &mut Wire, target: &str) -> Result<(i32, i32), Error> {
    let mut key = (0, 0);
    loop {
        match wire.next("starting the session")? {
            Message::BackendKeyData(body) => key = (body.process_id(), body.secret_key()),
            Message::ReadyForQuery(_) => return Ok(key),
            Message::ErrorResponse(body) => {
                return Err(refusal(target, ServerError::read(body.fields())));
            }
            _ => return Err(Error::protocol("an unexpected message came at the session's start")),
        }
    }
}

/// The error for what the server said instead of letting us in.
pub(crate) fn refusal(target: &str, error: ServerError) -> Error {
    let advice = match error.sqlstate() {
        "28P01" => "the password is wrong, or there is no such user",
        "28000" if error.message().contains("pg_hba.conf") => {
            "the server's access rules (pg_hba.conf, or the firewall of a managed server) do not let this \
             user, database, address and encryption in"
        }
        "28000" => "the server does not accept this user",
        _ => return Error::Refused { target: target.to_owned(), source: Box::new(error) },
    };
    Error::Auth {
        target: target.to_owned(),
        advice: advice.to_owned(),
        source: Some(Box::new(error)),
    }
}
