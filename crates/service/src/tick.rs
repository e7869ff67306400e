//! The schedule: who is due now.

use flexkeep_policy::{DrillPolicy, Policy, ServerPolicy};
use flexkeep_vault::Vault;
use jiff::Timestamp;
use serde::Serialize;

use crate::error::ServiceError;
use crate::message::BackupMessage;
use crate::record::Record;
use crate::restore_message::RestoreMessage;
use crate::service::{Service, blocking};

/// How often a server is looked at again when its record changes meanwhile.
const TRIES: u32 = 10;

/// What one look at the schedules did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ticked {
    /// The servers for which something was done, in the policy's order.
    pub servers: Vec<TickedServer>,
    /// The drills for which a message was sent.
    pub drills: Vec<TickedDrill>,
}

/// A drill for which a message was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TickedDrill {
    /// The server's name.
    pub server: String,
    /// The instant.
    pub sent: Timestamp,
}

/// What was done for a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TickedServer {
    /// Its name.
    pub server: String,
    /// The instant for which a message was sent.
    pub sent: Option<Timestamp>,
    /// Whether that instant was missed when it came.
    pub catch_up: bool,
    /// The instant whose backup is overdue, told now for the first time.
    pub overdue: Option<Timestamp>,
}

impl Service {
    /// Sends a message for every server that is due at `now`, and tells of those that are overdue.
    ///
    /// May be called at any time and twice for the same instant: the queue drops the second
    /// message, and the record says that the first was sent.
    ///
    /// # Errors
    /// The policy can't be used, or some servers failed; the others were looked at.
    pub async fn tick(&self, now: Timestamp) -> Result<Ticked, ServiceError> {
        let service = self.clone();
        let (policy, vault) = blocking(move || {
            let policy = service.policy()?;
            let vault = service.vault(&policy)?;
            Ok::<_, ServiceError>((policy, vault))
        })
        .await??;
        let mut ticked = Ticked::default();
        let mut failed = Vec::new();
        let servers = policy.servers().iter().filter(|server| server.enabled());
        let mut all = 0;
        for server in servers {
            all += 1;
            match self.tick_server(&policy, &vault, server, now).await {
                Ok(Some(one)) => ticked.servers.push(one),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("server {}: {}", server.name(), flexkeep_engine::chain(&error));
                    failed.push((server.name().to_string(), error));
                }
            }
        }
        for drill in policy.drills() {
            all += 1;
            match self.tick_drill(&vault, drill, now).await {
                Ok(sent) => ticked.drills.extend(
                    sent.map(|sent| TickedDrill { server: drill.server().to_string(), sent }),
                ),
                Err(error) => {
                    let name = drill.server();
                    tracing::error!("drill of {name}: {}", flexkeep_engine::chain(&error));
                    failed.push((name.to_string(), error));
                }
            }
        }
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(ticked),
            Some((server, error)) => {
                Err(ServiceError::Some { failed: count, all, server, source: Box::new(error) })
            }
        }
    }

    async fn tick_server(
        &self,
        policy: &Policy,
        vault: &Vault,
        server: &ServerPolicy,
        now: Timestamp,
    ) -> Result<Option<TickedServer>, ServiceError> {
        let name = server.name();
        for _ in 0..TRIES {
            let (read_from, read_name) = (vault.clone(), name.clone());
            let (mut record, before) =
                blocking(move || Record::read(&read_from, &read_name)).await??;
            let old = record.clone();
            let tick = record.schedule.tick(server, now);
            record.schedule = tick.state;
            let mut one = TickedServer {
                server: name.to_string(),
                sent: None,
                catch_up: false,
                overdue: tick.overdue.as_ref().map(|overdue| overdue.instant),
            };
            if let Some(overdue) = tick.overdue {
                let events = Self::events(policy);
                record.owe(events.overdue(name.as_str(), overdue.instant, overdue.last_success));
            }
            if let Some(change) = tick.transition {
                record.owe(Self::events(policy).changed(name.as_str(), now, change));
            }
            if let Some(behind) = tick.clock_behind {
                tracing::error!(
                    "server {name}: the clock says {now}, but the backup of {} was sent already; \
                     nothing is sent until then. If that clock was wrong, remove \
                     schedule/{name}.json from the vault",
                    behind.last_sent
                );
            }
            let mut unsent = None;
            if let Some(due) = tick.due {
                // Before the record says so: a death in between sends it twice, and the queue
                // drops the second.
                let message = BackupMessage::scheduled(name, due.instant, now, due.catch_up);
                match self.send(&message, None).await {
                    Ok(()) => (one.sent, one.catch_up) = (Some(due.instant), due.catch_up),
                    // The next tick sends it. What is owed is told all the same.
                    Err(error) => {
                        record.schedule.last_sent = old.schedule.last_sent;
                        unsent = Some(error);
                    }
                }
            }
            let changed = record != old;
            let (write_to, write_name) = (vault.clone(), name.clone());
            let written = !changed
                || blocking(move || record.write(&write_to, &write_name, before)).await??;
            if written {
                self.tell_owed(vault, name).await?;
                if let Some(error) = unsent {
                    return Err(error);
                }
                return Ok((one.sent.is_some() || one.overdue.is_some()).then_some(one));
            }
        }
        Err(ServiceError::Contended(name.to_string()))
    }

    /// Sends a message for a drill that is due; gives its instant.
    async fn tick_drill(
        &self,
        vault: &Vault,
        drill: &DrillPolicy,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, ServiceError> {
        let name = drill.server();
        for _ in 0..TRIES {
            let (read_from, read_name) = (vault.clone(), name.clone());
            let (mut record, before) =
                blocking(move || Record::read(&read_from, &read_name)).await??;
            let (due, state) = record.drill.tick(drill.schedule(), drill.enabled(), now);
            if let Some(instant) = due {
                // Before the record says so, as with backups.
                let message = RestoreMessage::scheduled_drill(name, instant, now);
                self.send_restore(&message.message_id(), &message, None).await?;
            }
            if state == record.drill {
                return Ok(due);
            }
            record.drill = state;
            let (write_to, write_name) = (vault.clone(), name.clone());
            if blocking(move || record.write(&write_to, &write_name, before)).await?? {
                return Ok(due);
            }
        }
        Err(ServiceError::Contended(name.to_string()))
    }
}
