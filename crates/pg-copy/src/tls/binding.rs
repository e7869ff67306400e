//! The channel binding `tls-server-end-point` of RFC 5929: a digest of the server's certificate.

use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// The OID 2.16.840.1.101.3.4.2 (the SHA-2 family) in DER, without its last arc.
const SHA2: [u8; 10] = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The certificate's digest by the hash of its own signature, SHA-256 in place of MD5 and SHA-1.
/// `None` where the signature has no such hash (Ed25519): PostgreSQL does not define one either.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = signature_hash(certificate)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

fn signature_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let signature = parsed.signature_algorithm();
    match signature.oid.to_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        "1.2.840.113549.1.1.10" => pss_hash(&signature.parameters.as_ref()?.to_der().ok()?),
        _ => None,
    }
}

/// The hash among the parameters of RSASSA-PSS: the first one named, SHA-1 if none is.
fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let Some(at) = parameters.windows(SHA2.len()).position(|window| window == SHA2) else {
        return Some(&SHA256);
    };
    match parameters.get(at + SHA2.len())? {
        1 => Some(&SHA256),
        2 => Some(&SHA384),
        3 => Some(&SHA512),
        _ => None,
    }
}
