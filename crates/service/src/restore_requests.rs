//! Asking for a restore or a drill, and what became of it.

use flexkeep_bus::Message;
use flexkeep_vault::{ServerName, Vault};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ServiceError;
use crate::restore_message::{DrillOrder, RestoreMessage, RestoreOrder};
use crate::restore_record::{RestoreFate, RestoreRecord};
use crate::service::{Service, blocking};
use crate::status::open;

/// Which of the two a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A restore.
    Restore,
    /// A drill.
    Drill,
}

impl What {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Drill => "drill",
        }
    }
}

/// What is asked for: either of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A restore.
    Restore(RestoreOrder),
    /// A drill.
    Drill(DrillOrder),
}

/// A request for a restore or a drill, and what became of it so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestoreRequest {
    /// The server.
    pub server: ServerName,
    /// The request's id.
    pub request: String,
    /// Which of the two it is.
    pub what: What,
    /// What became of it; `None` while nobody has taken it up.
    #[serde(flatten)]
    pub fate: Option<RestoreFate>,
    /// When that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The data of the event that told its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
}

impl RestoreRequest {
    fn read(
        vault: Option<&Vault>,
        server: ServerName,
        request: String,
        what: What,
    ) -> Result<Self, ServiceError> {
        let key = format!("{request}~{}", what.word());
        let record = match vault {
            Some(vault) => RestoreRecord::read(vault, &server, &key)?.map(|(record, _)| record),
            None => None,
        };
        let mut this = Self { server, request, what, fate: None, at: None, report: None };
        if let Some(record) = record {
            this.fate = Some(record.fate);
            this.at = Some(record.at);
            this.report = record.event.map(|event| event.data);
        }
        Ok(this)
    }
}

impl Service {
    /// Asks for a restore or a drill now. Requests with the same key are one: what became of it is the
    /// answer where that is known, and nothing is sent then.
    ///
    /// # Errors
    /// The order can never work as far as that is known now, or it can't be sent.
    pub async fn restore_now(
        &self,
        server: &str,
        key: &str,
        order: Order,
    ) -> Result<RestoreRequest, ServiceError> {
        let server: ServerName = server.parse()?;
        let now = Timestamp::now();
        let message = match order {
            Order::Restore(order) => RestoreMessage::restore(&server, key, order, now)?,
            Order::Drill(order) => RestoreMessage::drill(&server, key, order, now)?,
        };
        let known = {
            let (service, message) = (self.clone(), message.clone());
            blocking(move || service.known_request(&message)).await??
        };
        if known.fate.is_none() {
            // Another id each minute, as with backups.
            let id = format!("{}~{:x}", message.message_id(), now.as_second() / 60);
            self.send_restore(&id, &message, None).await?;
        }
        Ok(known)
    }

    /// What is known of a request; and whether the policy has what it names.
    fn known_request(&self, message: &RestoreMessage) -> Result<RestoreRequest, ServiceError> {
        let policy = self.policy()?;
        if let Some(order) = &message.restore
            && policy.target(order.target.as_str()).is_none()
        {
            let known = policy.targets().iter().map(|target| target.name().to_string()).collect();
            return Err(ServiceError::UnknownTarget { name: order.target.to_string(), known });
        }
        if message.drill.is_some() && policy.drill(message.server.as_str()).is_none() {
            return Err(ServiceError::NoDrill(message.server.to_string()));
        }
        let vault = open(&policy, self.options.stores.as_ref())?;
        let what = if message.drill.is_some() { What::Drill } else { What::Restore };
        let (server, request) = (message.server.clone(), message.request.clone());
        RestoreRequest::read(vault.as_ref(), server, request, what)
    }

    /// What became of a request.
    ///
    /// # Errors
    /// The policy or the vault can't be read.
    pub async fn restore_request(
        &self,
        what: What,
        request: &str,
    ) -> Result<RestoreRequest, ServiceError> {
        let server: ServerName = request.split('/').next().unwrap_or_default().parse()?;
        let (service, request) = (self.clone(), request.to_owned());
        blocking(move || {
            let policy = service.policy()?;
            let vault = open(&policy, service.options.stores.as_ref())?;
            RestoreRequest::read(vault.as_ref(), server, request, what)
        })
        .await?
    }

    /// Sends a message to the queue of restores, for now or for after a while.
    pub(crate) async fn send_restore(
        &self,
        id: &str,
        message: &RestoreMessage,
        after: Option<SignedDuration>,
    ) -> Result<(), ServiceError> {
        let failed = |source| ServiceError::Send { what: format!("message {id}"), source };
        let mut queued =
            Message::json(id, message).map_err(failed)?.with_subject(message.server.to_string());
        if let Some(after) = after {
            queued = queued.with_deliver_at(Timestamp::now() + after);
        }
        self.options.bus.send(&self.options.restore_queue, &queued).await.map_err(failed)
    }
}
