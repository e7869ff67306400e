//! The tokens that a namespace wants to see.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::{Error as AzureError, ErrorKind as AzureErrorKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;

use super::address::Proof;
use super::failure::{Failure, Remedy};
use crate::error::{BusError, BusErrorKind};

/// What a token of Entra ID for Service Bus is for.
const SCOPE: &str = "https://servicebus.azure.net/.default";

/// What need not be escaped in a query: the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// A token, and until when it holds. Its `Debug` does not show it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) value: Secret,
    /// What it is, in the words of `put-token`.
    pub(super) kind: &'static str,
    pub(super) expires: Timestamp,
}

impl Token {
    /// How long it still holds; a month at most, whatever it says.
    pub(super) fn holds_for(&self) -> Duration {
        let left = self.expires.duration_since(Timestamp::now());
        Duration::try_from(left).unwrap_or(Duration::ZERO).min(MONTH)
    }
}

/// Where tokens come from.
#[derive(Clone)]
pub(super) enum TokenSource {
    Key { name: String, key: Secret, lifetime: Duration },
    Signature(Secret),
    Credential(Arc<dyn TokenCredential>),
}

impl TokenSource {
    pub(super) fn new(
        proof: &Proof,
        credential: Option<Arc<dyn TokenCredential>>,
        lifetime: Duration,
    ) -> Result<Self, BusError> {
        Ok(match proof {
            Proof::Key { name, key } => {
                Self::Key { name: name.clone(), key: key.clone(), lifetime }
            }
            Proof::Signature(token) => Self::Signature(token.clone()),
            Proof::Identity { .. } => Self::Credential(credential.ok_or_else(|| {
                BusError::invalid(
                    "the Service Bus connection names an identity, and this program has none; use \
                     a connection string with a key",
                )
            })?),
        })
    }

    /// A token for `audience`, which holds now.
    pub(super) async fn token(&self, audience: &str) -> Result<Token, Failure> {
        let token = match self {
            Self::Key { name, key, lifetime } => {
                let expires = Timestamp::now().saturating_add(*lifetime).unwrap_or(Timestamp::MAX);
                sign(audience, name, key, expires)
            }
            Self::Signature(token) => given(token)?,
            Self::Credential(credential) => {
                credential.get_token(&[SCOPE], None).await.map_err(refused).map(|token| Token {
                    value: token.token,
                    kind: "jwt",
                    expires: Timestamp::from_second(token.expires_on.unix_timestamp())
                        .unwrap_or(Timestamp::MAX),
                })?
            }
        };
        if token.holds_for().is_zero() {
            return Err(Failure::new(
                BusErrorKind::Denied,
                match self {
                    Self::Credential(_) => Remedy::Renew,
                    Self::Key { .. } | Self::Signature(_) => Remedy::GiveUp,
                },
                format!(
                    "the token expired at {}; renew it, and check the clock of this machine",
                    token.expires
                ),
            ));
        }
        Ok(token)
    }
}

/// Shows no key and no token.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Signature(_) => "Signature",
            Self::Credential(_) => "Credential",
        })
    }
}

const SIGNATURE: &str = "servicebus.windows.net:sastoken";

fn sign(audience: &str, name: &str, key: &Secret, expires: Timestamp) -> Token {
    let expires = expires.as_second();
    let resource = utf8_percent_encode(audience, ESCAPED).to_string();
    // The key is the text as it stands, although it looks like base64.
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, key.secret().as_bytes());
    let tag = STANDARD.encode(hmac::sign(&hmac_key, format!("{resource}\n{expires}").as_bytes()));
    let value = format!(
        "SharedAccessSignature sr={resource}&sig={}&se={expires}&skn={}",
        utf8_percent_encode(&tag, ESCAPED),
        utf8_percent_encode(name, ESCAPED),
    );
    Token {
        value: value.into(),
        kind: SIGNATURE,
        expires: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
    }
}

/// A signature as it was given; its `se` says until when it holds.
fn given(token: &Secret) -> Result<Token, Failure> {
    let fields = token.secret().trim_start_matches("SharedAccessSignature ").split('&');
    let expires = fields
        .filter_map(|field| field.strip_prefix("se="))
        .find_map(|seconds| Timestamp::from_second(seconds.parse().ok()?).ok())
        .ok_or_else(|| {
            Failure::new(
                BusErrorKind::Invalid,
                Remedy::GiveUp,
                "the SharedAccessSignature has no se=SECONDS, the moment when it expires; make \
                 another one",
            )
        })?;
    Ok(Token { value: token.clone(), kind: SIGNATURE, expires })
}

/// Why a credential gave no token. It tries once; what may pass is tried again as all that a send
/// takes.
fn refused(error: AzureError) -> Failure {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    let mut may_pass = false;
    while let Some(one) = cause {
        may_pass |= one.downcast_ref::<AzureError>().is_some_and(|error| match error.kind() {
            AzureErrorKind::Io | AzureErrorKind::Connection => true,
            AzureErrorKind::HttpResponse { status, .. } => {
                // 404 and 410 are what the metadata service of a machine says while it starts.
                matches!(u16::from(*status), 404 | 408 | 410 | 429 | 500..=599)
            }
            _ => false,
        });
        cause = one.source();
    }
    let failure = if may_pass {
        Failure::new(
            BusErrorKind::Unreachable,
            Remedy::Pause,
            "the identity's token could not be had just now",
        )
    } else {
        Failure::new(
            BusErrorKind::Denied,
            Remedy::GiveUp,
            "the identity gave no token for Service Bus; check that the app has the identity, and \
             its client id",
        )
    };
    failure.with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_others_compute() {
        let expires = Timestamp::from_second(1_795_000_000).unwrap();
        let key = Secret::from("c2VjcmV0K2tleT09".to_owned());
        let token = sign("amqps://ns.servicebus.windows.net/a/b", "Root Key", &key, expires);
        // python3: base64(hmac-sha256(key, quote(audience, safe="") + "\n" + expires))
        assert_eq!(
            token.value.secret(),
            "SharedAccessSignature sr=amqps%3A%2F%2Fns.servicebus.windows.net%2Fa%2Fb\
             &sig=8U5IPumrS8PQvq8GHiE4j9AImnxLH%2Bl8ArStWEEBe%2Fs%3D&se=1795000000&skn=Root%20Key"
        );
        assert_eq!(token.expires, expires);
        assert!(!format!("{token:?}").contains("sig="));
    }

    #[tokio::test]
    async fn a_given_signature_says_when_it_expires() {
        let at = |se: i64| {
            let text = format!("SharedAccessSignature sr=x&sig=c2VjcmV0&se={se}&skn=k");
            TokenSource::Signature(text.into())
        };
        let soon = Timestamp::now().as_second() + 100;
        let token = at(soon).token("x").await.unwrap();
        assert!((90..=100).contains(&token.holds_for().as_secs()));
        let failure = at(soon - 200).token("x").await.unwrap_err();
        assert_eq!(failure.kind, BusErrorKind::Denied);
        assert!(failure.what.contains("expired at") && !failure.what.contains("c2VjcmV0"));
        let none = TokenSource::Signature("SharedAccessSignature sr=x".into());
        assert_eq!(none.token("x").await.unwrap_err().kind, BusErrorKind::Invalid);
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        let kind = |kind: AzureErrorKind| {
            let inner = AzureError::with_message(kind, "inner");
            refused(AzureError::with_error(AzureErrorKind::Credential, inner, "outer")).kind
        };
        assert_eq!(kind(AzureErrorKind::Io), BusErrorKind::Unreachable);
        assert_eq!(kind(AzureErrorKind::Other), BusErrorKind::Denied);
    }
}
