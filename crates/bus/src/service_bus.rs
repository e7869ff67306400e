//! Queues and topics of Azure Service Bus, over AMQP 1.0.
//!
//! # At least once
//! A message counts as sent when the broker says `accepted`. After anything else, such as
//! silence, it is sent again with the same MessageId until the limit is reached, so that a queue
//! with duplicate detection keeps it once.
//!
//! # Bounded
//! Each step has a limit, and all of them together have one. A connection on which a step was
//! not done in time is closed, and another one opened: what the other side has frozen is not
//! waited for.

mod address;
mod encode;
mod failure;
mod link;
mod tls;
mod token;

pub use address::ServiceBusConnection;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

use self::encode::Delivery;
use self::failure::{Failure, Remedy};
use self::link::{Link, step};
use self::token::TokenSource;
use crate::bus::{Bus, blocking};
use crate::error::BusError;
use crate::message::{MAX_MESSAGE_BYTES, Message};

/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The limits of a [`ServiceBus`].
#[derive(Clone, Debug)]
pub struct ServiceBusOptions {
    /// For one `send` with all its tries.
    pub total_limit: Duration,
    /// For connecting: name, TCP, TLS, and the opening of AMQP.
    pub connect_limit: Duration,
    /// For getting and showing a token, and for opening a link.
    pub authorize_limit: Duration,
    /// For one delivery, until its outcome is there.
    pub send_limit: Duration,
    /// The pause after the first try; it doubles each time, up to 5 s.
    pub first_pause: Duration,
    /// The least pause when the broker says that it is overloaded.
    pub busy_pause: Duration,
    /// How long a token holds that is made from a key. A token is renewed after three quarters
    /// of its time.
    pub token_lifetime: Duration,
    /// A connection that was not used for this long is not used again.
    pub max_idle: Duration,
}

impl Default for ServiceBusOptions {
    fn default() -> Self {
        Self {
            total_limit: Duration::from_secs(60),
            connect_limit: Duration::from_secs(15),
            authorize_limit: Duration::from_secs(20),
            send_limit: Duration::from_secs(15),
            first_pause: Duration::from_millis(200),
            busy_pause: Duration::from_secs(4),
            token_lifetime: Duration::from_secs(3600),
            max_idle: Duration::from_secs(4 * 60),
        }
    }
}

/// A [`Bus`] to the queues and topics of a Service Bus namespace.
///
/// It has one connection, opened when the first message is sent, and shared by all clones. It
/// must be used within a tokio runtime with its timers on.
#[derive(Clone)]
pub struct ServiceBus {
    inner: Arc<Inner>,
}

struct Inner {
    address: ServiceBusConnection,
    tokens: TokenSource,
    options: ServiceBusOptions,
    tls: AsyncMutex<Option<TlsConnector>>,
    /// Locked while somebody connects: the others wait for that.
    link: AsyncMutex<Option<Arc<Link>>>,
}

impl ServiceBus {
    /// A bus to that namespace; nothing is connected to yet. `credential` gives the tokens where
    /// the connection has no key, and is not used otherwise.
    ///
    /// # Errors
    /// `Invalid` if a credential is wanted and there is none.
    pub fn new(
        connection: ServiceBusConnection,
        credential: Option<Arc<dyn TokenCredential>>,
        options: ServiceBusOptions,
    ) -> Result<Self, BusError> {
        let tokens = TokenSource::new(&connection.proof, credential, options.token_lifetime)?;
        let (tls, link) = Default::default();
        Ok(Self { inner: Arc::new(Inner { address: connection, tokens, options, tls, link }) })
    }
}

#[async_trait]
impl Bus for ServiceBus {
    async fn send(&self, queue: &str, message: &Message) -> Result<(), BusError> {
        message.validate()?;
        self.inner.address.check_entity(queue)?;
        let delivery = encode::single(message)?;
        self.inner.deliver(queue, &format!("message {:?}", message.id), &delivery).await
    }

    /// Each batch is stored whole or not at all.
    async fn send_batch(&self, queue: &str, messages: &[Message]) -> Result<(), BusError> {
        messages.iter().try_for_each(Message::validate)?;
        self.inner.address.check_entity(queue)?;
        let mut next = messages.iter();
        for (delivery, count) in encode::batches(messages, MAX_MESSAGE_BYTES)? {
            let first = next.next().map_or("", |message| &message.id);
            let what = match count {
                1 => format!("message {first:?}"),
                _ => format!("{count} messages from {first:?} on"),
            };
            self.inner.deliver(queue, &what, &delivery).await?;
            for _ in 1..count {
                next.next();
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Sends `delivery`, again and again if need be, until the limit.
    async fn deliver(&self, entity: &str, what: &str, delivery: &Delivery) -> Result<(), BusError> {
        let deadline = Instant::now() + self.options.total_limit;
        let mut pause = self.options.first_pause;
        let mut renewed = false;
        let mut last = None;
        for attempt in 1_u32.. {
            let Ok(outcome) = timeout_at(deadline, self.attempt(entity, delivery)).await else {
                break;
            };
            let Err(failure) = outcome else { return Ok(()) };
            let give_up = match failure.remedy {
                Remedy::GiveUp => true,
                Remedy::Renew => std::mem::replace(&mut renewed, true),
                Remedy::Reconnect | Remedy::Pause => false,
            };
            if give_up {
                return Err(failure.into_error(&self.context(entity, what, "")));
            }
            let wait = match failure.remedy {
                Remedy::Pause => pause.max(self.options.busy_pause),
                _ => pause,
            };
            tracing::warn!(
                entity,
                what,
                attempt,
                error = failure.what,
                "not sent yet; trying again"
            );
            last = Some(failure);
            let again_at = Instant::now() + spread(wait);
            if again_at >= deadline {
                break;
            }
            sleep(again_at.saturating_duration_since(Instant::now())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        let within = format!(" within {} s", self.options.total_limit.as_secs_f32());
        let failure = last.unwrap_or_else(|| Failure::unreachable("it did not answer"));
        Err(failure.into_error(&self.context(entity, what, &within)))
    }

    fn context(&self, entity: &str, what: &str, within: &str) -> String {
        let (host, port) = (self.address.host(), self.address.port());
        format!("cannot send {what} to {entity:?} of the Service Bus {host}:{port}{within}")
    }

    async fn attempt(&self, entity: &str, delivery: &Delivery) -> Result<(), Failure> {
        let link = self.link().await?;
        let outcome = link.send(entity, delivery, &self.tokens, &self.options).await;
        if let Err(failure) = &outcome
            && matches!(failure.remedy, Remedy::Reconnect | Remedy::Renew)
        {
            link.kill();
        }
        outcome
    }

    /// The connection that there is, or a new one.
    async fn link(&self) -> Result<Arc<Link>, Failure> {
        let mut current = self.link.lock().await;
        if let Some(link) = current.as_ref() {
            if link.is_usable(self.options.max_idle) {
                return Ok(Arc::clone(link));
            }
            link.kill();
            *current = None;
        }
        let open = async {
            let tls = match self.address.has_tls() {
                true => Some(self.tls().await?),
                false => None,
            };
            Link::open(&self.address, tls.as_ref()).await
        };
        let link = Arc::new(step("open a connection", self.options.connect_limit, open).await?);
        *current = Some(Arc::clone(&link));
        Ok(link)
    }

    /// The connector, which is made once, as that reads all authorities of this machine.
    async fn tls(&self) -> Result<TlsConnector, Failure> {
        let mut tls = self.tls.lock().await;
        if tls.is_none() {
            let made = blocking(|| Ok(tls::connector())).await;
            *tls = Some(made.map_err(|error| Failure::unreachable(error.to_string()))??);
        }
        tls.clone().ok_or_else(|| Failure::unreachable("TLS can't be set up"))
    }
}

/// `pause` plus or minus a quarter, so that those that failed together do not come back together.
fn spread(pause: Duration) -> Duration {
    let drawn = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    pause.mul_f64(0.75 + drawn / 2.0)
}

/// Shows no key and no token.
impl fmt::Debug for ServiceBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceBus").field(&self.inner.address).finish()
    }
}
