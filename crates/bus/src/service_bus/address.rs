//! A Service Bus namespace and the key or identity for it, as a connection says it.

use std::fmt;
use std::net::IpAddr;

use azure_core::credentials::Secret;

use crate::error::{BusError, BusErrorKind};

/// AMQP over TLS, which Service Bus listens on.
const TLS_PORT: u16 = 5671;
/// AMQP without TLS, which its emulator listens on.
const PLAIN_PORT: u16 = 5672;

/// A Service Bus namespace, and how to prove who we are to it.
///
/// Its `Debug` shows no key and no signature.
#[derive(Clone)]
pub struct ServiceBusConnection {
    host: String,
    port: u16,
    tls: bool,
    pub(super) proof: Proof,
    /// The only queue or topic that the key is for.
    entity: Option<String>,
}

/// What shows who we are.
#[derive(Clone)]
pub(super) enum Proof {
    /// A key, from which tokens are made.
    Key { name: String, key: Secret },
    /// A token that somebody made from a key.
    Signature(Secret),
    /// An identity of Entra ID; the client id if it is user-assigned.
    Identity { client_id: Option<String> },
}

impl ServiceBusConnection {
    /// Whether `text` is meant as a connection string of Service Bus, right or wrong.
    pub(crate) fn is_connection_string(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.contains("endpoint=") || text.contains("sharedaccess") || text.starts_with("sb://")
    }

    /// Reads a connection string: `Endpoint=sb://HOST[:PORT]/` with `SharedAccessKeyName` and
    /// `SharedAccessKey`, or with `SharedAccessSignature`; and perhaps `EntityPath`, and
    /// `UseDevelopmentEmulator=true` for a connection without TLS to an emulator nearby.
    ///
    /// # Errors
    /// `Invalid`, naming the part; never a value.
    pub(crate) fn parse(text: &str) -> Result<Self, BusError> {
        let parts = Parts::read(text)?;
        let (host, port) = parts.endpoint.ok_or_else(|| wrong("it lacks Endpoint=sb://HOST/"))?;
        if parts.is_emulator && !is_nearby(&host) {
            return Err(wrong(
                "UseDevelopmentEmulator=true is for an emulator on this machine or in its \
                 network, as the connection has no TLS; leave it out for a namespace on Azure",
            ));
        }
        let proof = match (parts.key_name, parts.key, parts.signature) {
            (Some(name), Some(key), None) => Proof::Key { name, key },
            (None, None, Some(signature)) => Proof::Signature(signature),
            _ => {
                return Err(wrong(
                    "it needs SharedAccessKeyName and SharedAccessKey, or SharedAccessSignature \
                     alone",
                ));
            }
        };
        let tls = !parts.is_emulator;
        let port = port.unwrap_or(if tls { TLS_PORT } else { PLAIN_PORT });
        Ok(Self { host, port, tls, proof, entity: parts.entity })
    }

    /// The namespace at `host` (or `host:port`), with tokens of an identity: the system-assigned
    /// one, or the one with this client id.
    ///
    /// # Errors
    /// `Invalid` if `host` is none.
    pub fn with_identity(host: &str, client_id: Option<String>) -> Result<Self, BusError> {
        let (host, port) = host_and_port(host).ok_or_else(|| {
            BusError::invalid(
                "the namespace is not a host name such as NAMESPACE.servicebus.windows.net, \
                 without sb:// and without a slash",
            )
        })?;
        let proof = Proof::Identity { client_id };
        Ok(Self { host, port: port.unwrap_or(TLS_PORT), tls: true, proof, entity: None })
    }

    /// The host name of the namespace.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is encrypted, and the host proves its name by a certificate. It is
    /// for all but an emulator.
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// Whether whoever opens it must bring a credential, as it names an identity and no key.
    pub fn wants_credential(&self) -> bool {
        matches!(self.proof, Proof::Identity { .. })
    }

    /// The client id of a user-assigned identity.
    pub fn client_id(&self) -> Option<&str> {
        match &self.proof {
            Proof::Identity { client_id } => client_id.as_deref(),
            Proof::Key { .. } | Proof::Signature(_) => None,
        }
    }

    /// What a token is for: the queue or topic `entity`.
    pub(super) fn audience(&self, entity: &str) -> String {
        format!("amqps://{}/{entity}", self.host)
    }

    /// Checks that `entity` is a name, and one that the key is for.
    pub(super) fn check_entity(&self, entity: &str) -> Result<(), BusError> {
        let is_name = !entity.is_empty()
            && entity.len() <= 260
            && entity.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
            && !entity.starts_with(['/', '.'])
            && !entity.ends_with(['/', '.']);
        if !is_name {
            return Err(BusError::invalid(format!(
                "{entity:?} is no name of a queue or topic: 1 to 260 of A-Z a-z 0-9 - _ . /, \
                 beginning and ending with a letter or digit"
            )));
        }
        match &self.entity {
            Some(only) if !only.eq_ignore_ascii_case(entity) => Err(BusError::invalid(format!(
                "the connection string is for {only:?} only (EntityPath), not for {entity:?}; use \
                 one of the namespace"
            ))),
            _ => Ok(()),
        }
    }
}

/// Shows no key and no signature.
impl fmt::Debug for ServiceBusConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match &self.proof {
            Proof::Key { .. } => "a key",
            Proof::Signature(_) => "a signature",
            Proof::Identity { client_id: None } => "an identity",
            Proof::Identity { client_id: Some(_) } => "a user-assigned identity",
        };
        f.debug_struct("ServiceBus")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("proof", &proof)
            .field("entity", &self.entity)
            .finish()
    }
}

/// What is written in a connection string.
#[derive(Default)]
struct Parts {
    endpoint: Option<(String, Option<u16>)>,
    key_name: Option<String>,
    key: Option<Secret>,
    signature: Option<Secret>,
    entity: Option<String>,
    is_emulator: bool,
}

impl Parts {
    fn read(text: &str) -> Result<Self, BusError> {
        let mut parts = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            // A key in base64 may end with "=".
            let (name, value) = part.split_once('=').ok_or_else(|| {
                wrong("it is NAME=VALUE;NAME=VALUE;…, and something in it has no =")
            })?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "endpoint" => parts.endpoint = Some(endpoint(value)?),
                "sharedaccesskeyname" => parts.key_name = non_empty(value),
                "sharedaccesskey" => parts.key = non_empty(value).map(Secret::from),
                "sharedaccesssignature" => parts.signature = non_empty(value).map(Secret::from),
                "entitypath" => parts.entity = non_empty(value),
                "usedevelopmentemulator" => {
                    parts.is_emulator = value.eq_ignore_ascii_case("true");
                }
                // Such as TransportType, of older clients.
                _ => {
                    tracing::debug!("a part of the bus connection string is not known, and ignored")
                }
            }
        }
        Ok(parts)
    }
}

fn non_empty(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn endpoint(value: &str) -> Result<(String, Option<u16>), BusError> {
    let scheme = value.get(..5).unwrap_or_default();
    let rest = value.get(5..).unwrap_or_default();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    scheme
        .eq_ignore_ascii_case("sb://")
        .then(|| host_and_port(rest))
        .flatten()
        .ok_or_else(|| wrong("its Endpoint is not of the form sb://HOST/ or sb://HOST:PORT/"))
}

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = !host.is_empty()
        && host.len() <= 253
        && !host.starts_with(['.', '-'])
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b));
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    is_host.then(|| (host.to_ascii_lowercase(), port))
}

/// Whether `host` can be an emulator: this machine, its private network, or a container.
fn is_nearby(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => {
            !host.contains('.') || host.ends_with(".internal") || host.ends_with(".localhost")
        }
    }
}

fn wrong(problem: &str) -> BusError {
    BusError::new(
        BusErrorKind::Invalid,
        format!("the connection string of Service Bus is not right: {problem}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0==";

    fn parse(text: &str) -> ServiceBusConnection {
        ServiceBusConnection::parse(text).unwrap()
    }

    #[test]
    fn a_connection_string_names_host_port_and_key() {
        let azure = parse(&format!("Endpoint=sb://Ns.servicebus.windows.net/;{KEY}"));
        assert_eq!((azure.host(), azure.port()), ("ns.servicebus.windows.net", 5671));
        assert!(azure.has_tls() && !azure.wants_credential());
        let Proof::Key { name, key } = &azure.proof else { panic!("a key") };
        assert_eq!((name.as_str(), key.secret()), ("k", "c2VjcmV0=="));
        assert_eq!(azure.audience("q"), "amqps://ns.servicebus.windows.net/q");
        let odd = parse("endpoint=SB://h:1; SHAREDACCESSSIGNATURE = SharedAccessSignature sr=x;;");
        assert_eq!((odd.host(), odd.port()), ("h", 1));
        let Proof::Signature(token) = &odd.proof else { panic!("a signature") };
        assert_eq!(token.secret(), "SharedAccessSignature sr=x");
    }

    #[test]
    fn only_an_emulator_nearby_is_spoken_to_without_tls() {
        let emulator = |host: &str| {
            ServiceBusConnection::parse(&format!(
                "Endpoint=sb://{host};{KEY};UseDevelopmentEmulator=true;"
            ))
        };
        let nearby =
            ["localhost", "127.0.0.1", "[::1]", "10.1.2.3", "servicebus", "host.docker.internal"];
        for host in nearby {
            let connection = emulator(host).unwrap();
            assert!(!connection.has_tls(), "{host}");
            assert_eq!(connection.port(), 5672);
        }
        assert_eq!(emulator("localhost:5699/").unwrap().port(), 5699);
        for host in ["ns.servicebus.windows.net", "8.8.8.8", "localhost.example.org"] {
            let error = emulator(host).unwrap_err().to_string();
            assert!(error.contains("UseDevelopmentEmulator"), "{error}");
        }
        let off = parse(&format!("Endpoint=sb://localhost/;{KEY};UseDevelopmentEmulator=false"));
        assert!(off.has_tls());
    }

    #[test]
    fn what_is_wrong_is_named_and_never_shown() {
        for (text, named) in [
            (KEY.to_owned(), "lacks Endpoint"),
            ("Endpoint=sb://h/;SharedAccessKey=c2VjcmV0".to_owned(), "SharedAccessKeyName"),
            (format!("Endpoint=sb://h/;{KEY};SharedAccessSignature=c2VjcmV0"), "alone"),
            (format!("Endpoint=https://c2VjcmV0/;{KEY}"), "sb://HOST/"),
            (format!("Endpoint=sb://c2VjcmV0:port/;{KEY}"), "sb://HOST/"),
            (format!("Endpoint=sb://c2VjcmV0/path/;{KEY}"), "sb://HOST/"),
            (format!("Endpoint=sb://a@c2VjcmV0/;{KEY}"), "sb://HOST/"),
            ("Endpoint=sb://h/;c2VjcmV0".to_owned(), "no ="),
        ] {
            let error = ServiceBusConnection::parse(&text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(named), "{named}: {shown}");
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
        let shown = format!("{:?}", parse(&format!("Endpoint=sb://h/;{KEY}")));
        assert!(shown.contains("a key") && !shown.contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn a_key_for_one_entity_is_for_no_other() {
        let only = parse(&format!("Endpoint=sb://h/;{KEY};EntityPath=Backups"));
        only.check_entity("backups").unwrap();
        let error = only.check_entity("events").unwrap_err().to_string();
        assert!(error.contains("EntityPath") && error.contains("\"Backups\""), "{error}");
        let any = parse(&format!("Endpoint=sb://h/;{KEY}"));
        for name in ["backups", "a/b.c_d-e"] {
            any.check_entity(name).unwrap();
        }
        for name in ["", "/a", "a/", "a b", "a?x", "ä", "$cbs"] {
            assert!(any.check_entity(name).is_err(), "{name:?}");
        }
    }
}
