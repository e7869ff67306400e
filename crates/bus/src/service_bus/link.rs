//! One connection to a namespace, with a link for each queue and topic that is sent to.
//!
//! # Concurrency
//! Deliveries on one link are pipelined: its lock is held until a delivery is handed over, not
//! until its outcome is there. Opening a link, and proving again who we are, holds up the others
//! of that link only.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::SenderSettleMode;
use fe2o3_amqp::types::primitives::Timestamp as AmqpTimestamp;
use fe2o3_amqp::{Connection, Sender, Session};
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

use super::ServiceBusOptions;
use super::address::ServiceBusConnection;
use super::encode::Delivery;
use super::failure::Failure;
use super::tls;
use super::token::TokenSource;

/// How long the other side may be silent before the connection counts as dead: it sends empty
/// frames more often than that.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long the old token goes on serving after a failure to renew it.
const RENEWAL_PAUSE: Duration = Duration::from_secs(20);

/// A connection to a namespace.
pub(super) struct Link {
    address: ServiceBusConnection,
    handle: ConnectionHandle<()>,
    session: AsyncMutex<SessionHandle<()>>,
    entities: Mutex<HashMap<String, Arc<Entity>>>,
    /// The same socket once more. Closing it is what surely ends the tasks that serve the
    /// connection, also when the other side is frozen and they wait for it.
    socket: std::net::TcpStream,
    is_dead: AtomicBool,
    last_used: Mutex<Instant>,
}

/// A queue or topic.
type Entity = AsyncMutex<Option<OpenSender>>;

struct OpenSender {
    sender: Sender,
    /// When to show another token.
    renew_at: Instant,
    expires_at: Instant,
}

impl Link {
    /// Connects, without showing a token yet. `tls` is not there for an emulator only.
    pub(super) async fn open(
        address: &ServiceBusConnection,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, Failure> {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?;
        let stream = TcpStream::from_std(stream)?;
        let opened = match tls {
            Some(tls) => {
                let name = tls::server_name(address.host())?;
                open_amqp(address, tls.connect(name, stream).await?).await
            }
            None => open_amqp(address, stream).await,
        };
        let mut handle = opened?;
        let session = Session::begin(&mut handle).await?;
        Ok(Self {
            address: address.clone(),
            handle,
            session: AsyncMutex::new(session),
            entities: Mutex::default(),
            socket,
            is_dead: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
        })
    }

    /// Whether something may still be sent on it. One that was not used for `max_idle` may have
    /// been forgotten by whatever is between here and there.
    pub(super) fn is_usable(&self, max_idle: Duration) -> bool {
        let last_used = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_dead.load(Ordering::Acquire)
            && !self.handle.is_closed()
            && last_used.elapsed() < max_idle
    }

    /// Ends it, at once and for all that wait on it.
    pub(super) fn kill(&self) {
        self.is_dead.store(true, Ordering::Release);
        // It fails if the other side was first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Sends `delivery` to `entity`, and waits for the outcome.
    pub(super) async fn send(
        &self,
        entity: &str,
        delivery: &Delivery,
        tokens: &TokenSource,
        options: &ServiceBusOptions,
    ) -> Result<(), Failure> {
        self.touch();
        let slot = self.entity(entity);
        let mut open = slot.lock().await;
        self.ready(&mut open, entity, tokens, options).await?;
        let sent = async {
            let Some(link) = open.as_mut() else {
                return Err(Failure::unreachable("the link was closed"));
            };
            let settled = link.sender.send_batchable_ref(delivery).await?;
            drop(open);
            Failure::outcome(settled.await?)
        };
        let outcome = step("take the message", options.send_limit, sent).await;
        self.touch();
        outcome
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn entity(&self, name: &str) -> Arc<Entity> {
        let mut entities = self.entities.lock().unwrap_or_else(PoisonError::into_inner);
        match entities.get(name) {
            Some(entity) => Arc::clone(entity),
            None => Arc::clone(entities.entry(name.to_owned()).or_default()),
        }
    }

    /// Sees to it that the link is open, and our token is good.
    async fn ready(
        &self,
        open: &mut Option<OpenSender>,
        entity: &str,
        tokens: &TokenSource,
        options: &ServiceBusOptions,
    ) -> Result<(), Failure> {
        let prove = async {
            let token = tokens.token(&self.address.audience(entity)).await?;
            let holds_for = token.holds_for();
            let mut session = self.session.lock().await;
            // A pair of links for each token: one that is kept would be closed by the broker
            // for being idle, and after a cancelled call would give the answer to the last one.
            let mut client = CbsClient::builder()
                .client_node_addr(format!("flexkeep-{}", Uuid::new_v4()))
                .attach(&mut session)
                .await?;
            let expires = AmqpTimestamp::from(token.expires.as_millisecond());
            let shown = CbsToken::new(token.value.secret(), token.kind, expires);
            client.put_token(self.address.audience(entity), shown).await?;
            drop(session);
            let now = Instant::now();
            Ok((now + holds_for.mul_f32(0.75), now + holds_for))
        };
        let prove = step("answer the token", options.authorize_limit, prove);
        if let Some(link) = open {
            if Instant::now() < link.renew_at {
                return Ok(());
            }
            match prove.await {
                Ok((renew_at, expires_at)) => {
                    (link.renew_at, link.expires_at) = (renew_at, expires_at);
                }
                Err(failure) if Instant::now() + RENEWAL_PAUSE < link.expires_at => {
                    tracing::warn!(
                        entity,
                        error = failure.what,
                        "the token could not be renewed; the old one still holds"
                    );
                    link.renew_at = Instant::now() + RENEWAL_PAUSE;
                }
                Err(failure) => return Err(failure),
            }
            return Ok(());
        }
        let (renew_at, expires_at) = prove.await?;
        let attach = async {
            let mut session = self.session.lock().await;
            Ok(Sender::builder()
                .name(format!("flexkeep-{entity}-{}", Uuid::new_v4()))
                .target(entity)
                .sender_settle_mode(SenderSettleMode::Unsettled)
                .attach(&mut session)
                .await?)
        };
        let sender = step("open a link", options.authorize_limit, attach).await?;
        *open = Some(OpenSender { sender, renew_at, expires_at });
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn open_amqp<Io>(
    address: &ServiceBusConnection,
    stream: Io,
) -> Result<ConnectionHandle<()>, Failure>
where
    Io: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let silence_limit = u32::try_from(SILENCE_LIMIT.as_millis()).unwrap_or(u32::MAX);
    Ok(Connection::builder()
        .container_id(format!("flexkeep-{}", Uuid::new_v4()))
        .hostname(address.host())
        .sasl_hostname(address.host())
        // What is beneath is set up by us: with TLS, or without.
        .scheme("amqp")
        .sasl_profile(SaslProfile::Anonymous)
        .idle_time_out(silence_limit)
        .open_with_stream(stream)
        .await?)
}

/// Gives `work` until `limit`. What stays silent for longer is not waited for.
pub(super) async fn step<T>(
    doing: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::unreachable(format!("it did not {doing} within {} s", limit.as_secs_f32())))
    })
}
