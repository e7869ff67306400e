//! From `ssl…` keys to a TLS configuration, and from a TLS failure to advice.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsError, PeerMisbehaved,
    RootCertStore,
};

use super::stream::TlsStream;
use super::verify::Verifier;
use crate::config::{Config, RootCert, SslFiles, SslMode, TlsVersion};
use crate::error::Error;

/// What is needed to open TLS sessions with one host, again for a cancel request.
#[derive(Clone)]
pub(crate) struct TlsSetup {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    target: String,
}

impl TlsSetup {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// A file that is missing or wrong, or a host name that no certificate can bear.
    pub(crate) fn new(config: &Config, host: &str, target: &str) -> Result<Self, Error> {
        let fail = |advice: String, source: Option<TlsError>| Error::Tls {
            target: target.to_owned(),
            advice,
            source,
        };
        let mode = config.ssl_mode();
        let name = match ServerName::try_from(host.trim_end_matches('.').to_owned()) {
            Ok(name) => name,
            Err(_) if mode == SslMode::VerifyFull => {
                return Err(fail(
                    format!("\"{host}\" is not a name that a certificate can bear"),
                    None,
                ));
            }
            // Not looked at; an address is not sent to the server either.
            Err(_) => ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier =
            verifier(&config.ssl, mode, &provider).map_err(|advice| fail(advice, None))?;
        let versions = match (config.ssl.least, config.ssl.most) {
            (TlsVersion::V12, TlsVersion::V12) => &[&TLS12][..],
            (TlsVersion::V13, _) => &[&TLS13],
            _ => &[&TLS13, &TLS12],
        };
        let unusable = |error| fail("the TLS settings can't be used".into(), Some(error));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut tls = match (&config.ssl.cert, &config.ssl.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "sslcert").map_err(|advice| fail(advice, None))?;
                let key = private_key(key).map_err(|advice| fail(advice, None))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    fail("the client certificate and its key can't be used".into(), Some(error))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        tls.enable_sni = config.ssl.send_name;
        tls.resumption = Resumption::disabled();
        Ok(TlsSetup { config: Arc::new(tls), name, target: target.to_owned() })
    }

    pub(crate) fn stream(&self) -> Result<Box<TlsStream>, Error> {
        TlsStream::new(Arc::clone(&self.config), self.name.clone(), self.target.clone())
            .map(Box::new)
            .map_err(|error| Error::Tls {
                target: self.target.clone(),
                advice: "no session could be set up".into(),
                source: Some(error),
            })
    }
}

fn verifier(
    ssl: &SslFiles,
    mode: SslMode,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, String> {
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let mut own = Vec::new();
    let roots = match &ssl.root {
        // As in libpq: with less than verify-ca a missing file means not to verify.
        RootCert::File(file) if verifies || file.exists() => {
            own = certificates(file, "sslrootcert")?;
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(own.iter().cloned());
            if added == 0 {
                return Err(format!("{} holds no usable certificate", file.display()));
            }
            Some(roots)
        }
        RootCert::System | RootCert::Unset if verifies => Some(system_roots()),
        _ => None,
    };
    let check_name = mode == SslMode::VerifyFull;
    Ok(Verifier { provider: Arc::clone(provider), roots, own, check_name })
}

/// The authorities of servers of Azure. Mozilla, and with it many systems, has retired one of them:
/// <https://learn.microsoft.com/azure/postgresql/flexible-server/concepts-networking-ssl-tls>.
const AZURE: &[u8] = include_bytes!("azure-roots.pem");

/// The system's authorities (those of `SSL_CERT_FILE`, where that is set) and Azure's.
fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        tracing::warn!(
            errors = found.errors.len(),
            "the system has no certificates of authorities; the built-in ones are used"
        );
    }
    roots_beside(found.certs)
}

/// These authorities, or Mozilla's, as built into this program, where there are none; and Azure's.
fn roots_beside(found: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(found).0 == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(AZURE).map_while(Result::ok));
    roots
}

fn certificates(file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let read = CertificateDer::pem_file_iter(file)
        .map_err(|error| format!("cannot read {key}={shown}: {error}"))?;
    let list: Result<Vec<_>, _> = read.collect();
    let list = list.map_err(|error| format!("{key}={shown} is not a PEM file: {error}"))?;
    if list.is_empty() {
        return Err(format!("{key}={shown} holds no certificate (PEM, BEGIN CERTIFICATE)"));
    }
    Ok(list)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let shown = file.display();
        format!("cannot read sslkey={shown} (PEM, not encrypted, is needed): {error}")
    })
}

/// What a TLS failure means and what to do.
pub(crate) fn advice(error: &TlsError, during: &str) -> String {
    let text = match error {
        TlsError::InvalidCertificate(certificate) => return certificate_advice(certificate),
        TlsError::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError,
        ) => "the server does not accept the client's certificate; check sslcert and sslkey",
        TlsError::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
        )
        | TlsError::PeerIncompatible(_) => {
            "the server and this program have no TLS version or cipher in common (1.2 or 1.3 is needed)"
        }
        TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)
        | TlsError::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            "the other side does not speak PostgreSQL"
        }
        TlsError::InvalidMessage(_) => "the other side does not speak TLS here",
        _ => return format!("it failed while {during}"),
    };
    text.to_owned()
}

fn certificate_advice(error: &CertificateError) -> String {
    let text = match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name; connect by a name that it bears, \
             or use sslmode=verify-ca to accept any name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; check both clocks"
        }
        _ => {
            "the server's certificate is not trusted; name its authority's certificate with \
             sslrootcert=FILE, or use sslmode=require to encrypt without verifying"
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_authorities_are_trusted_whatever_the_system_has() {
        let pem: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(AZURE).collect();
        let first = pem.unwrap().swap_remove(0);
        for (found, least) in [(vec![], 100), (vec![first], 3)] {
            let roots = roots_beside(found);
            assert!(roots.len() >= least, "{}", roots.len());
            for name in [
                "DigiCert Global Root G2",
                "DigiCert Global Root CA",
                "Microsoft RSA Root Certificate Authority 2017",
            ] {
                let bears = |subject: &[u8]| {
                    subject.windows(name.len()).any(|part| part == name.as_bytes())
                };
                assert!(roots.roots.iter().any(|root| bears(&root.subject)), "{name}");
            }
        }
    }
}
