//! Proving who we are, and with SCRAM also who the server is.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::config::{ChannelBindingMode, Place, Secret};
use crate::connect::{Attempt, refusal};
use crate::error::{Error, ServerError};
use crate::wire::Wire;

const DURING: &str = "authenticating";
/// PostgreSQL's default is 4096; a hostile server must not keep us busy for hours.
const MOST_ITERATIONS: u32 = 2_000_000;

/// Answers the server until it is content.
pub(crate) fn authenticate(attempt: &Attempt<'_>, wire: &mut Wire) -> Result<(), Error> {
    let fail = |advice: String| auth_error(attempt, advice);
    let mut asked = false;
    // A server asks once; more than a few requests are no login.
    for _ in 0..4 {
        match wire.next(DURING)? {
            Message::AuthenticationOk => {
                if !asked {
                    allow(attempt, "none")?;
                }
                if attempt.config.channel_binding == ChannelBindingMode::Require {
                    return Err(fail(
                        "channel_binding=require, but the server let us in without it".into(),
                    ));
                }
                return Ok(());
            }
            Message::AuthenticationCleartextPassword => {
                check_method(attempt, "password")?;
                cleartext_is_safe(attempt, wire)?;
                let password = password(attempt)?;
                send_password(wire, password.0.as_bytes())?;
            }
            Message::AuthenticationMd5Password(body) => {
                check_method(attempt, "md5")?;
                let password = password(attempt)?;
                let user = attempt.config.user.as_bytes();
                let hash = md5_hash(user, password.0.as_bytes(), body.salt());
                send_password(wire, hash.as_bytes())?;
            }
            Message::AuthenticationSasl(body) => {
                allow(attempt, "scram-sha-256")?;
                return scram(attempt, wire, &body);
            }
            Message::ErrorResponse(body) => {
                return Err(refusal(&attempt.address.target, ServerError::read(body.fields())));
            }
            Message::AuthenticationGss | Message::AuthenticationSspi => {
                return Err(fail(
                    "the server asks for Kerberos or SSPI, which is not supported".into(),
                ));
            }
            _ => return Err(fail("the server asks for a method that is not supported".into())),
        }
        asked = true;
    }
    Err(fail("the server asks again and again".into()))
}

fn auth_error(attempt: &Attempt<'_>, advice: String) -> Error {
    Error::Auth { target: attempt.address.target.clone(), advice, source: None }
}

/// Whether `require_auth` lets a method pass.
fn allow(attempt: &Attempt<'_>, method: &str) -> Result<(), Error> {
    match &attempt.config.require_auth {
        Some(required) if !required.allows(method) => Err(auth_error(
            attempt,
            format!(
                "the server uses the method \"{method}\", which require_auth={} forbids",
                required.text()
            ),
        )),
        _ => Ok(()),
    }
}

/// As [`allow`], for the methods that have no channel binding.
fn check_method(attempt: &Attempt<'_>, method: &str) -> Result<(), Error> {
    allow(attempt, method)?;
    if attempt.config.channel_binding == ChannelBindingMode::Require {
        return Err(auth_error(
            attempt,
            format!(
                "channel_binding=require, but the server asks for \"{method}\", which has none"
            ),
        ));
    }
    Ok(())
}

fn cleartext_is_safe(attempt: &Attempt<'_>, wire: &Wire) -> Result<(), Error> {
    let named =
        attempt.config.require_auth.as_ref().is_some_and(|required| required.names("password"));
    let unix = matches!(attempt.host.place, Place::Unix(_));
    if unix || wire.transport.is_tls() || named || attempt.options.allow_cleartext_password {
        return Ok(());
    }
    Err(auth_error(
        attempt,
        "the server asks for the password in clear text on an unencrypted connection; \
         use sslmode=require or more, or allow it with require_auth=password"
            .into(),
    ))
}

fn password(attempt: &Attempt<'_>) -> Result<Secret, Error> {
    let found = attempt.config.password_for(attempt.host);
    found.filter(|password| !password.0.is_empty()).ok_or_else(|| {
        let config = attempt.config;
        let passfile = config.ignored_passfile().map_or_else(String::new, |file| {
            format!("; {} is left aside as others may read it (chmod 0600)", file.display())
        });
        auth_error(
            attempt,
            format!(
                "the server asks for the password of user \"{}\" and none is given; \
                 set PGPASSWORD, password=, or a line of the password file{passfile}",
                config.user
            ),
        )
    })
}

fn send_password(wire: &mut Wire, password: &[u8]) -> Result<(), Error> {
    let mut message = BytesMut::new();
    frontend::password_message(password, &mut message)
        .map_err(|_| Error::protocol("the password contains a zero byte"))?;
    wire.transport.send(&message, DURING)
}

/// The SCRAM exchange, up to the server's word that all is well.
fn scram(
    attempt: &Attempt<'_>,
    wire: &mut Wire,
    body: &AuthenticationSaslBody,
) -> Result<(), Error> {
    let fail = |advice: &str| auth_error(attempt, advice.to_owned());
    let (mechanism, binding) = choose_mechanism(attempt, wire, body)?;
    let password = password(attempt)?;
    let mut scram = ScramSha256::new(password.0.as_bytes(), binding);
    let mut message = BytesMut::new();
    let unsendable = |_| Error::protocol("a SASL message can't be sent");
    frontend::sasl_initial_response(mechanism, scram.message(), &mut message)
        .map_err(unsendable)?;
    wire.transport.send(&message, DURING)?;

    let challenge = match wire.next(DURING)? {
        Message::AuthenticationSaslContinue(body) => body,
        other => return Err(unexpected(attempt, other)),
    };
    if iterations(challenge.data()).is_none_or(|count| count > MOST_ITERATIONS) {
        return Err(fail("the server asks for an unreasonable number of SCRAM iterations"));
    }
    scram
        .update(challenge.data())
        .map_err(|_| fail("the server's SCRAM challenge is not a valid one"))?;
    message.clear();
    frontend::sasl_response(scram.message(), &mut message).map_err(unsendable)?;
    wire.transport.send(&message, DURING)?;

    let last = match wire.next(DURING)? {
        Message::AuthenticationSaslFinal(body) => body,
        other => return Err(unexpected(attempt, other)),
    };
    scram.finish(last.data()).map_err(|_| {
        fail("the server could not prove that it knows the password; it may not be the server it claims to be")
    })?;
    // Only now may the server say that all is well.
    match wire.next(DURING)? {
        Message::AuthenticationOk => Ok(()),
        other => Err(unexpected(attempt, other)),
    }
}

fn unexpected(attempt: &Attempt<'_>, message: Message) -> Error {
    match message {
        Message::ErrorResponse(body) => {
            refusal(&attempt.address.target, ServerError::read(body.fields()))
        }
        _ => auth_error(attempt, "the server broke off the SCRAM exchange".into()),
    }
}

/// The mechanism and its binding; with `channel_binding=require` never without one.
fn choose_mechanism(
    attempt: &Attempt<'_>,
    wire: &Wire,
    body: &AuthenticationSaslBody,
) -> Result<(&'static str, ChannelBinding), Error> {
    let fail = |advice: &str| auth_error(attempt, advice.to_owned());
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Some(name) =
        mechanisms.next().map_err(|_| Error::protocol("the list of SASL mechanisms is broken"))?
    {
        plain |= name == SCRAM_SHA_256;
        plus |= name == SCRAM_SHA_256_PLUS;
    }
    let mode = attempt.config.channel_binding;
    let end_point = match wire.transport.tls() {
        Some(tls) if mode != ChannelBindingMode::Disable => tls.server_end_point(),
        _ => None,
    };
    match (end_point, plus, plain) {
        (Some(data), true, _) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(data)))
        }
        _ if mode == ChannelBindingMode::Require => Err(fail(if wire.transport.is_tls() {
            "channel_binding=require, but the server or its certificate does not offer it"
        } else {
            "channel_binding=require, but the connection does not use TLS"
        })),
        // Saying that we could have bound exposes a server list that was tampered with.
        (Some(_), false, true) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        (None, _, true) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(fail("the server offers no SASL mechanism that is supported (SCRAM-SHA-256 is)")),
    }
}

/// The `i=` of the server's first message.
fn iterations(challenge: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(challenge).ok()?;
    text.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::iterations;

    #[test]
    fn the_number_of_iterations_is_read() {
        assert_eq!(iterations(b"r=abc,s=c2FsdA==,i=4096"), Some(4096));
        assert_eq!(iterations(b"r=abc,s=c2FsdA==,i=99999999999"), None);
        assert_eq!(iterations(b"\xff"), None);
    }
}
