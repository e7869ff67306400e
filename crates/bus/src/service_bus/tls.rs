//! TLS to a namespace: always verified.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::failure::{Failure, Remedy};
use crate::error::BusErrorKind;

/// A connector that trusts the authorities of this machine (`SSL_CERT_FILE` and `SSL_CERT_DIR`
/// name others); Mozilla's, as built into this program, where the machine has none. It reads
/// files.
pub(super) fn connector() -> Result<TlsConnector, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        for error in &found.errors {
            tracing::warn!(%error, "the certificates of this machine could not be read");
        }
        tracing::debug!(ignored, "no authorities on this machine: Mozilla's are used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Failure::new(BusErrorKind::Refused, Remedy::GiveUp, "TLS can't be set up")
                .with_source(error)
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that the host's certificate must bear.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|error| {
        Failure::new(
            BusErrorKind::Invalid,
            Remedy::GiveUp,
            "its host name is none that a certificate can bear; correct the connection",
        )
        .with_source(error)
    })
}
