//! The events: what is told, under which ids. docs/events.md and docs/events.schema.json say the
//! same for those who listen; a test holds them together.
//!
//! An event may be told more than once, always under the id that it had the first time.

use flexkeep_bus::CloudEvent;
use flexkeep_engine::{DatabaseProgress, DatabaseState, LaneProgress, Restart, RunProgress};
use flexkeep_policy::Transition;
use flexkeep_vault::manifest::{DatabaseSummary, Loss, Manifest};
use flexkeep_vault::{ContentHash, Place};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::message::{BackupMessage, cut};

/// Databases, losses and notes that one event lists; the manifest has them all. An event must
/// stay under the megabyte that event services take.
pub(crate) const MAX_LISTED: usize = 100;

/// Names that one entry of such a list has.
pub(crate) const MAX_NAMES: usize = 10;

/// Where the schema of all events is published.
const SCHEMA: &str = "https://github.com/flexkeep/flexkeep/blob/main/docs/events.schema.json";

/// Makes events about the servers of one vault.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) vault: String,
}

/// What an event is about.
#[derive(Clone, Copy)]
pub(crate) enum About {
    BackupStarted,
    BackupRestarted,
    BackupProgress,
    BackupCompleted,
    BackupFailed,
    ServerOverdue,
    ScheduleDegraded,
    ScheduleRestored,
    RestoreStarted,
    RestoreContinued,
    RestoreCompleted,
    RestoreFailed,
    DrillPassed,
    DrillFailed,
}

impl About {
    fn type_(self) -> &'static str {
        match self {
            Self::BackupStarted => "flexkeep.backup.started",
            Self::BackupRestarted => "flexkeep.backup.restarted",
            Self::BackupProgress => "flexkeep.backup.progress",
            Self::BackupCompleted => "flexkeep.backup.completed",
            Self::BackupFailed => "flexkeep.backup.failed",
            Self::ServerOverdue => "flexkeep.server.overdue",
            Self::ScheduleDegraded => "flexkeep.schedule.degraded",
            Self::ScheduleRestored => "flexkeep.schedule.restored",
            Self::RestoreStarted => "flexkeep.restore.started",
            Self::RestoreContinued => "flexkeep.restore.continued",
            Self::RestoreCompleted => "flexkeep.restore.completed",
            Self::RestoreFailed => "flexkeep.restore.failed",
            Self::DrillPassed => "flexkeep.drill.passed",
            Self::DrillFailed => "flexkeep.drill.failed",
        }
    }
}

impl Events {
    pub(crate) fn new(place: &Place) -> Self {
        Self { vault: address(place) }
    }

    /// For messages that come while the policy, and with it the vault, can't be read.
    pub(crate) fn without_vault() -> Self {
        Self { vault: "/flexkeep".to_owned() }
    }

    pub(crate) fn event(&self, about: About, id: String, subject: &str, data: Value) -> CloudEvent {
        CloudEvent::new(id, self.vault.clone(), about.type_(), Timestamp::now(), data)
            .with_subject(subject)
            .with_dataschema(SCHEMA)
    }

    fn of_request(
        &self,
        about: About,
        message: &BackupMessage,
        what: &str,
        mut data: Value,
    ) -> CloudEvent {
        data["server"] = json!(message.server.as_str());
        data["request"] = json!(message.request);
        data["reason"] = json!(message.reason);
        data["attempt"] = json!(message.attempt);
        data["vault"] = json!(self.vault);
        if let Some(instant) = message.instant {
            data["instant"] = json!(instant);
        }
        self.event(about, format!("{}/{what}", message.request), message.server.as_str(), data)
    }

    pub(crate) fn started(&self, message: &BackupMessage) -> CloudEvent {
        self.of_request(About::BackupStarted, message, "started", json!({}))
    }

    /// The backup begins anew, after a failure or the death of whoever worked on it.
    pub(crate) fn restarted(
        &self,
        message: &BackupMessage,
        delivery: u32,
        why: &str,
    ) -> CloudEvent {
        let what = format!("restarted/{}.{delivery}", message.attempt);
        self.of_request(About::BackupRestarted, message, &what, json!({"why": cut(why)}))
    }

    /// A database is read anew from a later snapshot.
    pub(crate) fn snapshot_lost(
        &self,
        message: &BackupMessage,
        delivery: u32,
        restart: &Restart,
    ) -> CloudEvent {
        // The name of a database may be longer than an id should be.
        let database = ContentHash::of(restart.database.as_bytes()).to_string();
        let what = format!(
            "restarted/{}.{delivery}/{}/{}",
            message.attempt,
            &database[..12],
            restart.attempt
        );
        let data = json!({
            "why": cut(&restart.reason),
            "database": restart.database,
            "snapshot": restart.attempt,
        });
        self.of_request(About::BackupRestarted, message, &what, data)
    }

    /// How far a backup at work is. Who tells it twice for one period tells it under one id.
    pub(crate) fn progress(
        &self,
        message: &BackupMessage,
        period: Timestamp,
        progress: &RunProgress,
    ) -> CloudEvent {
        let reading = &progress.reading;
        let of = |state| progress.databases.iter().filter(move |one| one.state == state);
        let databases: Vec<Value> =
            of(DatabaseState::Reading).take(MAX_LISTED).map(database_progress).collect();
        let data = json!({
            "percent": progress.percent(),
            "bytes_per_second": progress.bytes_per_second,
            "seconds_left": progress.seconds_left,
            "total_bytes": reading.total_bytes,
            "done_bytes": reading.done_bytes,
            "read_bytes": reading.read_bytes,
            "stored_bytes": reading.stored_bytes,
            "databases_count": progress.databases.len(),
            "databases_done": of(DatabaseState::Done).count(),
            "databases": databases,
            "lanes": progress.lanes.iter().map(lane_progress).collect::<Vec<_>>(),
        });
        let what = format!("progress/{}.{}", message.attempt, period.strftime("%Y%m%dT%H%M%SZ"));
        self.of_request(About::BackupProgress, message, &what, data)
    }

    /// The backup is there. Its lists are as long as an event can have them.
    pub(crate) fn completed(&self, message: &BackupMessage, manifest: &Manifest) -> CloudEvent {
        let mut listed = MAX_LISTED;
        loop {
            let event = self.completed_with(message, manifest, listed);
            if listed == 0 || event.to_json().is_ok() {
                return event;
            }
            listed /= 2;
        }
    }

    fn completed_with(
        &self,
        message: &BackupMessage,
        manifest: &Manifest,
        listed: usize,
    ) -> CloudEvent {
        let seconds = (manifest.sealed.as_millisecond() - manifest.started.as_millisecond()) as f64;
        let databases: Vec<Value> = manifest.databases.iter().take(listed).map(database).collect();
        let losses: Vec<Value> = manifest.losses.iter().take(listed).map(loss).collect();
        let notes: Vec<String> = manifest.notes.iter().take(listed).map(|n| cut(n)).collect();
        let totals = manifest.totals;
        let data = json!({
            "backup": manifest.backup,
            "complete": manifest.losses.is_empty(),
            "started": manifest.started,
            "sealed": manifest.sealed,
            "duration_seconds": seconds / 1000.0,
            "postgresql": manifest.source.version,
            "tables": totals.tables,
            "rows": totals.rows,
            "large_objects": totals.large_objects,
            "raw_bytes": totals.raw_bytes,
            "stored_bytes": totals.stored_bytes,
            "new_stored_bytes": totals.new_stored_bytes,
            "databases_count": manifest.databases.len(),
            "databases": databases,
            "not_backed_up_count": manifest.losses.len(),
            "not_backed_up": losses,
            "notes": notes,
        });
        self.of_request(About::BackupCompleted, message, "completed", data)
    }

    /// The request is given up.
    pub(crate) fn failed(&self, message: &BackupMessage, why: &str) -> CloudEvent {
        self.of_request(About::BackupFailed, message, "failed", json!({"why": cut(why)}))
    }

    /// A message that can never work.
    pub(crate) fn refused(&self, message_id: &str, why: &str) -> CloudEvent {
        self.refused_as(About::BackupFailed, "refused", message_id, why)
    }

    pub(crate) fn refused_as(
        &self,
        about: About,
        what: &str,
        message_id: &str,
        why: &str,
    ) -> CloudEvent {
        // Whatever made the message made its id: not all of it may stand in an event.
        let id = ContentHash::of(message_id.as_bytes()).to_string();
        let shown: String = message_id.chars().filter(|c| c.is_ascii_graphic()).take(128).collect();
        let data = json!({"why": cut(why), "message_id": shown, "vault": self.vault});
        self.event(about, format!("message/{}/{what}", &id[..32]), "message", data)
    }

    pub(crate) fn overdue(
        &self,
        server: &str,
        instant: Timestamp,
        last_success: Option<Timestamp>,
    ) -> CloudEvent {
        let data = json!({
            "server": server,
            "vault": self.vault,
            "instant": instant,
            "last_success": last_success,
        });
        self.of_server(About::ServerOverdue, server, "overdue", instant, data)
    }

    /// A daily schedule became a weekly one, or is daily again.
    pub(crate) fn changed(&self, server: &str, at: Timestamp, change: Transition) -> CloudEvent {
        let mut data = json!({"server": server, "vault": self.vault, "instant": at});
        match change {
            Transition::FellBack { failures } => {
                data["failures"] = json!(failures);
                (data["from"], data["to"]) = (json!("day"), json!("week"));
                self.of_server(About::ScheduleDegraded, server, "degraded", at, data)
            }
            Transition::Restored { reason } => {
                data["why"] = json!(reason);
                (data["from"], data["to"]) = (json!("week"), json!("day"));
                self.of_server(About::ScheduleRestored, server, "restored", at, data)
            }
        }
    }

    fn of_server(
        &self,
        about: About,
        server: &str,
        what: &str,
        instant: Timestamp,
        data: Value,
    ) -> CloudEvent {
        let id = format!("{server}/{}/{what}", instant.strftime("%Y%m%dT%H%M%SZ"));
        self.event(about, id, server, data)
    }
}

/// The vault as a URI.
pub(crate) fn address(place: &Place) -> String {
    let path = match place {
        Place::Folder(path) => path,
        other => return other.to_string(),
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut uri = "file://".to_owned();
    for byte in absolute.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

fn database(database: &DatabaseSummary) -> Value {
    let totals = database.totals;
    json!({
        "name": database.name,
        "snapshot_time": database.snapshot_time,
        "snapshots": database.attempts,
        "tables": totals.tables,
        "rows": totals.rows,
        "large_objects": totals.large_objects,
        "raw_bytes": totals.raw_bytes,
        "stored_bytes": totals.stored_bytes,
        "new_stored_bytes": totals.new_stored_bytes,
    })
}

fn database_progress(database: &DatabaseProgress) -> Value {
    let lost: Vec<Value> = database
        .lost
        .iter()
        .map(|lost| json!({"snapshot": lost.snapshot, "at": lost.at, "reason": cut(&lost.reason)}))
        .collect();
    json!({
        "database": database.database,
        "total_bytes": database.total_bytes,
        "done_bytes": database.done_bytes,
        "snapshot": database.snapshot,
        "items": database.items,
        "items_done": database.items_done,
        "holders": database.holders,
        "holders_so_far": database.holders_so_far,
        "held_since": database.held_since,
        "lost": lost,
    })
}

fn lane_progress(lane: &LaneProgress) -> Value {
    json!({
        "lane": lane.lane,
        "generation": lane.generation,
        "host": lane.host,
        "pid": lane.pid,
        "at": lane.at,
        "silent": lane.silent,
        "database": lane.database,
        "snapshot": lane.snapshot,
        "leaving": lane.leaving,
        "resting": lane.resting.as_deref().map(cut),
        "bytes_per_second": lane.bytes_per_second,
    })
}

fn loss(loss: &Loss) -> Value {
    json!({
        "database": loss.database,
        "kind": loss.kind,
        "count": loss.count,
        "objects": loss.objects.iter().take(MAX_NAMES).map(|name| cut(name)).collect::<Vec<_>>(),
        "why": cut(&loss.reason),
    })
}
