//! What a bus connection names: a queue file, or a Service Bus namespace.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use azure_core::credentials::TokenCredential;

use crate::bus::{Bus, LocalBus};
use crate::error::{BusError, BusErrorKind};
use crate::local::LocalQueues;
use crate::service_bus::{ServiceBus, ServiceBusConnection, ServiceBusOptions};

pub(crate) const FORMS: &str = "a bus connection is sqlite:PATH (queues in a file of this \
                                machine) or a Service Bus connection \
                                (Endpoint=sb://NAMESPACE.servicebus.windows.net/;…)";

/// What a setting such as `FLEXKEEP_BUS` says about where messages go.
///
/// Its `Debug` shows no key and no signature.
#[derive(Clone)]
pub enum BusConnection {
    /// Queues in a file of this machine.
    Local(PathBuf),
    /// A Service Bus namespace.
    ServiceBus(ServiceBusConnection),
}

impl BusConnection {
    /// Reads `sqlite:PATH` (a relative path is relative to `base`) or a connection string of
    /// Service Bus.
    ///
    /// # Errors
    /// `Unsupported` for another form, `Invalid` for one of these that is not complete or
    /// contradicts itself. The text never has what was given: it may hold a key.
    pub fn parse(text: &str, base: &Path) -> Result<Self, BusError> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("sqlite:") {
            if path.is_empty() {
                return Err(BusError::invalid(format!("sqlite: lacks its path; {FORMS}")));
            }
            return Ok(Self::Local(base.join(path)));
        }
        if ServiceBusConnection::is_connection_string(text) {
            return ServiceBusConnection::parse(text).map(Self::ServiceBus);
        }
        let problem = match text {
            "" => "the bus connection is empty",
            _ => "the bus connection has no known form",
        };
        Err(BusError::new(BusErrorKind::Unsupported, format!("{problem}; {FORMS}")))
    }

    /// Reads the connection that the app setting `name` describes, as the Functions host reads it
    /// for a trigger: `AzureWebJobs` + `name` comes before `name`, and the first of the two that
    /// is there is taken. It has a value (see [`Self::parse`]) or, for an identity in place of a
    /// key, members: `name__fullyQualifiedNamespace`, and `name__credential` = `managedidentity`
    /// with `name__clientId` for an identity that is user-assigned.
    ///
    /// `lookup` gives the value of a setting.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, naming the setting and the way out, never a value.
    pub fn from_settings(
        name: &str,
        lookup: impl Fn(&str) -> Option<String>,
        base: &Path,
    ) -> Result<Self, BusError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        for name in [format!("AzureWebJobs{name}"), name.to_owned()] {
            let member = |member: &str| lookup(&format!("{name}__{member}"));
            let found = if let Some(value) = lookup(&name) {
                Self::parse(&value, base)
            } else if MEMBERS.iter().any(|one| member(one).is_some()) {
                identity(member).map(Self::ServiceBus)
            } else {
                continue;
            };
            return found.map_err(|error| {
                BusError::new(error.kind(), format!("the app setting {name}: {error}"))
            });
        }
        Err(BusError::invalid(format!(
            "the app setting {name} is not set; {FORMS}. For a managed identity in place of a \
             key, set {name}__fullyQualifiedNamespace"
        )))
    }

    /// Opens the bus. `credential` gives the tokens where the connection has no key (see
    /// [`ServiceBusConnection::wants_credential`]); otherwise it is not used.
    ///
    /// # Errors
    /// Those of [`LocalQueues::open`]; `Invalid` if a credential is wanted and there is none. A
    /// namespace is not connected to before something is sent.
    pub fn open(
        &self,
        credential: Option<Arc<dyn TokenCredential>>,
    ) -> Result<Arc<dyn Bus>, BusError> {
        Ok(match self {
            Self::Local(path) => Arc::new(LocalBus(LocalQueues::open(path)?)),
            Self::ServiceBus(connection) => Arc::new(ServiceBus::new(
                connection.clone(),
                credential,
                ServiceBusOptions::default(),
            )?),
        })
    }
}

const NAMESPACE: &str = "fullyQualifiedNamespace";
const CREDENTIAL: &str = "credential";
const CLIENT_ID: &str = "clientId";
const MEMBERS: [&str; 3] = [NAMESPACE, CREDENTIAL, CLIENT_ID];

fn identity(member: impl Fn(&str) -> Option<String>) -> Result<ServiceBusConnection, BusError> {
    let namespace = member(NAMESPACE).ok_or_else(|| {
        BusError::invalid(format!(
            "its member __{NAMESPACE} is not set; it is NAMESPACE.servicebus.windows.net"
        ))
    })?;
    let is_managed = match member(CREDENTIAL) {
        None => false,
        Some(kind) if kind.trim().eq_ignore_ascii_case("managedidentity") => true,
        Some(_) => {
            return Err(BusError::new(
                BusErrorKind::Unsupported,
                format!(
                    "its member __{CREDENTIAL} is not managedidentity, which is the only kind \
                     that is supported; leave it out for the system-assigned identity"
                ),
            ));
        }
    };
    let client_id = member(CLIENT_ID).map(|id| id.trim().to_owned());
    if client_id.is_some() && !is_managed {
        return Err(BusError::invalid(format!(
            "its member __{CLIENT_ID} needs __{CREDENTIAL} set to managedidentity beside it"
        )));
    }
    ServiceBusConnection::with_identity(namespace.trim(), client_id)
}

/// Shows no key and no signature.
impl fmt::Debug for BusConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.debug_tuple("Local").field(path).finish(),
            Self::ServiceBus(connection) => connection.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "Endpoint=sb://key.servicebus.windows.net/;SharedAccessKeyName=k;\
                       SharedAccessKey=c2VjcmV0";

    fn read(settings: &[(&str, &str)]) -> Result<BusConnection, BusError> {
        let lookup = |name: &str| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        BusConnection::from_settings("BUS", lookup, Path::new("/app"))
    }

    fn host(settings: &[(&str, &str)]) -> String {
        match read(settings).unwrap() {
            BusConnection::ServiceBus(connection) => connection.host().to_owned(),
            BusConnection::Local(path) => path.display().to_string(),
        }
    }

    #[test]
    fn a_setting_has_a_value_or_members_and_the_host_s_prefix_comes_first() {
        assert_eq!(host(&[("BUS", " sqlite:q.db ")]), "/app/q.db");
        assert_eq!(host(&[("BUS", KEY)]), "key.servicebus.windows.net");
        assert_eq!(host(&[("BUS", "sqlite:q.db"), ("AzureWebJobsBUS", "sqlite:/r.db")]), "/r.db");
        let member = ("BUS__fullyQualifiedNamespace", "ns.servicebus.windows.net");
        assert_eq!(host(&[member]), "ns.servicebus.windows.net");
        assert_eq!(host(&[member, ("BUS", "")]), "ns.servicebus.windows.net");
        assert_eq!(host(&[member, ("BUS", KEY)]), "key.servicebus.windows.net");
        let prefixed = ("AzureWebJobsBUS__fullyQualifiedNamespace", "first.example.org");
        assert_eq!(host(&[member, prefixed, ("BUS", KEY)]), "first.example.org");
    }

    #[test]
    fn an_identity_is_the_system_s_or_the_one_that_is_named() {
        let namespace = ("BUS__fullyQualifiedNamespace", "ns.servicebus.windows.net");
        let (managed, id) = (("BUS__credential", "ManagedIdentity"), ("BUS__clientId", "guid"));
        let client_id = |settings: &[(&str, &str)]| match read(settings).unwrap() {
            BusConnection::ServiceBus(connection) => {
                assert!(connection.wants_credential());
                connection.client_id().map(str::to_owned)
            }
            BusConnection::Local(_) => panic!("no namespace"),
        };
        assert_eq!(client_id(&[namespace]), None);
        assert_eq!(client_id(&[namespace, managed]), None);
        assert_eq!(client_id(&[namespace, managed, id]).as_deref(), Some("guid"));
        for (wrong, named) in [
            (&[namespace, id][..], "__clientId"),
            (&[managed, id], "__fullyQualifiedNamespace"),
            (&[namespace, ("BUS__credential", "c2VjcmV0")], "__credential"),
            (&[("BUS__fullyQualifiedNamespace", "sb://c2VjcmV0/")], "NAMESPACE."),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("app setting BUS"), "{error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_without_its_value() {
        for settings in [&[][..], &[("BUS", " ")], &[("BUS", "c2VjcmV0")], &[("BUS", "sqlite:")]] {
            let error = read(settings).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("app setting BUS") && shown.contains("sqlite:PATH"), "{shown}");
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
        let shown = format!("{:?}", read(&[("BUS", KEY)]).unwrap());
        assert!(shown.contains("key.servicebus") && !shown.contains("c2VjcmV0"), "{shown}");
    }
}
