//! The message that asks for a restore or a restore drill, as it lies on the queue of restores.
//! docs/events.md has its schema.

use flexkeep_engine::{DatabaseChoice, Existing, RestoreOptions, RestoreParts};
use flexkeep_vault::{BackupId, ServerName};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::message::{
    BadMessage, CLOCKS_APART, MESSAGE_VERSION, Reason, cut, is_request_id, look_delay, one,
    retry_delay, versioned_object, without_values,
};

/// The word for the newest backup.
const LATEST: &str = "latest";

/// The most names of one kind in a message.
const MAX_NAMES: usize = 500;

/// The longest of them, bytes: two names of PostgreSQL with a dot, and quotes for those who like them.
const MAX_NAME_BYTES: usize = 256;

/// Asks for one restore, or for one drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreMessage {
    /// [`MESSAGE_VERSION`].
    pub version: u64,
    /// The server whose backup it is, by its name in the vault.
    pub server: ServerName,
    /// One request is done once, however often its message is delivered or sent again.
    pub request: String,
    /// When the request was made.
    pub requested: Timestamp,
    /// What to restore, and where to; or else a drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreOrder>,
    /// The drill that the policy has for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillOrder>,
    /// The scheduled instant; absent for a request by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instant: Option<Timestamp>,
    /// Who asks.
    #[serde(default)]
    pub reason: Reason,
    /// Which try this is, from 1.
    #[serde(default = "one")]
    pub attempt: u32,
    /// How often in a row it found something in its way, or was cut off by a time limit.
    #[serde(default)]
    pub waits: u32,
    /// Whether its beginning was told already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
    /// Why it was put off last, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What to restore, and where to. The names are those of the options of `flexkeep restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// The target, by its name in the policy.
    pub target: ServerName,
    /// The backup's id, or `latest`.
    #[serde(default = "latest")]
    pub backup: String,
    /// Which databases; all of the backup when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseOrder>,
    /// Only these schemas of the one database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Only these tables of the one database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Definitions without rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub schema_only: bool,
    /// Rows without definitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub data_only: bool,
    /// The database may be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub into_existing: bool,
    /// What is in the way is dropped first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clean: bool,
    /// Go on with a restore that another request began.
    #[serde(default, rename = "continue", skip_serializing_if = "std::ops::Not::not")]
    pub resume: bool,
    /// Make no roles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_roles: bool,
    /// Everything belongs to who restores.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_owner: bool,
    /// Grant nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_acl: bool,
    /// Read and check every chunk before anything is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

/// One database to restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseOrder {
    /// Its name in the backup.
    pub name: String,
    /// Its name on the target; the same when absent.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub restored_as: Option<String>,
}

/// What a drill leaves open. What it checks, and where, is in the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillOrder {
    /// The backup's id, or `latest`.
    #[serde(default = "latest")]
    pub backup: String,
    /// Databases in place of those that the policy says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<String>,
}

impl Default for DrillOrder {
    fn default() -> Self {
        Self { backup: latest(), databases: Vec::new() }
    }
}

fn latest() -> String {
    LATEST.to_owned()
}

/// Why a message of the queue of restores can never work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRestoreMessage {
    /// As with a message for a backup.
    #[error(transparent)]
    Common(#[from] BadMessage),
    /// JSON of another shape, or with contradictions. The text does not repeat the message.
    #[error("the message is not a request for a restore or a drill: {0}")]
    NotARequest(String),
}

impl RestoreMessage {
    fn new(server: &ServerName, request: String, requested: Timestamp) -> Self {
        Self {
            version: MESSAGE_VERSION,
            server: server.clone(),
            request,
            requested,
            restore: None,
            drill: None,
            instant: None,
            reason: Reason::Manual,
            attempt: 1,
            waits: 0,
            told: false,
            last_error: None,
        }
    }

    /// The drill of a schedule for `instant`.
    pub fn scheduled_drill(server: &ServerName, instant: Timestamp, now: Timestamp) -> Self {
        let request = format!("{server}/{}", instant.strftime("%Y%m%dT%H%M%SZ"));
        Self {
            drill: Some(DrillOrder::default()),
            instant: Some(instant),
            reason: Reason::Schedule,
            ..Self::new(server, request, now)
        }
    }

    /// A restore by hand. Requests with the same `key` are one.
    pub fn restore(
        server: &ServerName,
        key: &str,
        order: RestoreOrder,
        now: Timestamp,
    ) -> Result<Self, BadRestoreMessage> {
        let message = Self::new(server, format!("{server}/by-hand/{key}"), now);
        Self { restore: Some(order), ..message }.checked(now)
    }

    /// A drill by hand. Requests with the same `key` are one.
    pub fn drill(
        server: &ServerName,
        key: &str,
        order: DrillOrder,
        now: Timestamp,
    ) -> Result<Self, BadRestoreMessage> {
        let message = Self::new(server, format!("{server}/by-hand/{key}"), now);
        Self { drill: Some(order), ..message }.checked(now)
    }

    /// Reads a message's body. What it says must be right to the letter.
    pub fn parse(body: &[u8], now: Timestamp) -> Result<Self, BadRestoreMessage> {
        let value = versioned_object(body).map_err(|bad| match bad {
            BadMessage::NotARequest(why) => BadRestoreMessage::NotARequest(why),
            other => other.into(),
        })?;
        let message: Self = serde_json::from_value(value)
            .map_err(|error| BadRestoreMessage::NotARequest(without_values(&error.to_string())))?;
        message.checked(now)
    }

    fn checked(self, now: Timestamp) -> Result<Self, BadRestoreMessage> {
        let wrong = |why: &str| Err(BadRestoreMessage::NotARequest(why.to_owned()));
        if !is_request_id(&self.request, &self.server) {
            return Err(BadMessage::RequestId.into());
        }
        if self.attempt == 0 {
            return wrong("\"attempt\" is counted from 1");
        }
        let latest = self.instant.map_or(self.requested, |instant| instant.max(self.requested));
        if latest > now + CLOCKS_APART {
            return Err(BadMessage::Future(latest).into());
        }
        let problem = match (&self.restore, &self.drill) {
            (Some(order), None) => self.check_backup(&order.backup).or_else(|| order.problem()),
            (None, Some(order)) => self.check_backup(&order.backup).or_else(|| order.problem()),
            _ => Some("it must have either \"restore\" or \"drill\""),
        };
        match problem {
            Some(problem) => wrong(problem),
            None => Ok(self),
        }
    }

    fn check_backup(&self, backup: &str) -> Option<&'static str> {
        let good = backup == LATEST
            || backup.parse::<BackupId>().is_ok_and(|id| *id.server() == self.server);
        (!good).then_some("\"backup\" is neither \"latest\" nor the id of a backup of its server")
    }

    /// The backup that it names; `None` for the newest one.
    pub fn backup(&self) -> Option<BackupId> {
        let restore = self.restore.as_ref().map(|order| &order.backup);
        restore.or(self.drill.as_ref().map(|order| &order.backup))?.parse().ok()
    }

    /// `restore` or `drill`.
    pub fn what(&self) -> &'static str {
        if self.drill.is_some() { "drill" } else { "restore" }
    }

    /// What tells this request from one for a backup, and a drill from a restore, with the same id.
    /// No request's id has a `~`.
    pub fn key(&self) -> String {
        format!("{}~{}", self.request, self.what())
    }

    /// The id of the message on the queue: the queue drops a second one.
    pub fn message_id(&self) -> String {
        let mut id = format!("{}/{}", self.what(), self.request);
        if self.attempt > 1 {
            id.push_str(&format!("~{}", self.attempt));
        }
        if self.waits > 0 {
            id.push_str(&format!("~w{}", self.waits));
        }
        id
    }

    /// The same request for a later try, and how long to wait for it.
    pub fn next_try(&self, why: &str) -> (Self, SignedDuration) {
        let next = Self {
            attempt: self.attempt.saturating_add(1),
            waits: 0,
            last_error: Some(cut(why)),
            ..self.clone()
        };
        (next, retry_delay(self.attempt))
    }

    /// The same try, later.
    pub fn next_look(&self, why: &str) -> (Self, SignedDuration) {
        let next = Self {
            waits: self.waits.saturating_add(1),
            last_error: Some(cut(why)),
            ..self.clone()
        };
        (next, look_delay(self.waits))
    }
}

impl RestoreOrder {
    /// What contradicts itself or can't be a name.
    fn problem(&self) -> Option<&'static str> {
        let selective = !self.schemas.is_empty() || !self.tables.is_empty();
        let databases = self.databases.iter().map(|one| &one.name);
        let others = self.databases.iter().filter_map(|one| one.restored_as.as_ref());
        let names = databases.chain(others).chain(&self.schemas).chain(&self.tables);
        if self.schema_only && self.data_only {
            Some("\"schema_only\" and \"data_only\" exclude each other")
        } else if self.into_existing && self.clean {
            Some("\"into_existing\" and \"clean\" exclude each other")
        } else if self.resume && self.clean {
            Some("\"continue\" and \"clean\" exclude each other")
        } else if selective && self.databases.len() != 1 {
            Some(
                "\"schemas\" and \"tables\" are chosen from one database; name it in \"databases\"",
            )
        } else if self.data_only && !self.into_existing && !self.clean && !self.resume {
            Some(
                "\"data_only\" needs \"into_existing\" or \"clean\": rows go into tables that are there",
            )
        } else if [self.databases.len(), self.schemas.len(), self.tables.len()]
            .iter()
            .any(|len| *len > MAX_NAMES)
        {
            Some("a list of names has more than 500 entries")
        } else {
            bad_name(names)
        }
    }

    /// Whether it may write into databases that are there.
    pub fn overwrites(&self) -> bool {
        self.into_existing || self.clean || self.data_only
    }

    /// What the engine is to do.
    pub(crate) fn options(&self, lanes: usize) -> RestoreOptions {
        let choice = |one: &DatabaseOrder| DatabaseChoice {
            name: one.name.clone(),
            restored_as: one.restored_as.clone(),
        };
        RestoreOptions {
            databases: self.databases.iter().map(choice).collect(),
            schemas: self.schemas.clone(),
            tables: self.tables.clone(),
            parts: match (self.schema_only, self.data_only) {
                (true, _) => RestoreParts::SchemaOnly,
                (_, true) => RestoreParts::DataOnly,
                _ => RestoreParts::Everything,
            },
            existing: match (self.clean, self.into_existing) {
                (true, _) => Existing::Clean,
                (_, true) => Existing::Keep,
                _ => Existing::Refuse,
            },
            resume: self.resume,
            roles: !self.no_roles,
            owners: !self.no_owner,
            acls: !self.no_acl,
            verify: self.verify,
            lanes,
            ..RestoreOptions::default()
        }
    }
}

impl DrillOrder {
    fn problem(&self) -> Option<&'static str> {
        if self.databases.len() > MAX_NAMES {
            return Some("a list of names has more than 500 entries");
        }
        bad_name(self.databases.iter())
    }
}

fn bad_name<'a>(mut names: impl Iterator<Item = &'a String>) -> Option<&'static str> {
    let bad =
        |name: &&String| name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0');
    names.find(bad).map(|_| "a name is empty, longer than 256 bytes, or has a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T01:30:02Z".parse().unwrap()
    }

    const GOOD: &str = r#"{"version":1,"server":"shop","request":"shop/r",
        "requested":"2026-11-22T01:30:00Z","restore":{"target":"spare"}}"#;

    #[test]
    fn a_message_reads_back_as_it_was_written_and_what_is_left_out_is_usual() {
        let message = RestoreMessage::parse(GOOD.as_bytes(), now()).unwrap();
        let order = message.restore.clone().unwrap();
        assert_eq!((order.backup.as_str(), order.overwrites()), ("latest", false));
        assert_eq!((message.backup(), message.reason), (None, Reason::Manual));
        let usual = RestoreOptions::default();
        assert_eq!(format!("{:?}", order.options(usual.lanes)), format!("{usual:?}"));
        let drill = RestoreMessage::scheduled_drill(&"shop".parse().unwrap(), now(), now());
        assert_eq!(drill.message_id(), "drill/shop/20261122T013002Z");
        for message in [message.next_try("away").0.next_look("busy").0, message, drill] {
            let body = serde_json::to_vec(&message).unwrap();
            assert_eq!(RestoreMessage::parse(&body, now()).unwrap(), message);
        }
    }

    #[test]
    fn what_can_never_work_is_told_without_repeating_it() {
        let with = |more: &str| GOOD.replace("\"spare\"", &format!("\"spare\",{more}"));
        let cases = [
            ("hunter2".to_owned(), "not JSON"),
            (GOOD.replace(":1,", ":2,"), "version 2"),
            (GOOD.replace("shop/r", "other/r"), "request id"),
            (GOOD.replace("restore", "hunter2"), "field that is not known"),
            (GOOD.replace("\"restore\"", "\"drill\":{},\"restore\""), "either"),
            (GOOD.replace(",\n        \"requested", ",\"x\":1,\"requested"), "not known"),
            (with(r#""backup":"other-20261122T010203Z""#), "\"backup\""),
            (with(r#""backup":"shop""#), "\"backup\""),
            (with(r#""connection":"host=hunter2 password=hunter2""#), "not known"),
            (GOOD.replace("\"spare\"", "\"host=hunter2\""), "cannot have"),
            (with(r#""clean":true,"into_existing":true"#), "exclude each other"),
            (with(r#""schema_only":true,"data_only":true"#), "exclude each other"),
            (with(r#""clean":true,"continue":true"#), "exclude each other"),
            (with(r#""tables":["hunter2"]"#), "one database"),
            (with(r#""data_only":true"#), "needs"),
            (with(r#""databases":[{"name":""}]"#), "a name is empty"),
            (with(r#""databases":["hunter2"]"#), "wrong type"),
            (GOOD.replace("2026-11-22", "2026-11-23"), "has not come yet"),
        ];
        for (body, words) in cases {
            let error = RestoreMessage::parse(body.as_bytes(), now()).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_restore_and_a_drill_of_one_name_are_two_requests() {
        let server = "shop".parse().unwrap();
        let order = RestoreMessage::parse(GOOD.as_bytes(), now()).unwrap().restore.unwrap();
        let restore = RestoreMessage::restore(&server, "k", order, now()).unwrap();
        let drill = RestoreMessage::drill(&server, "k", DrillOrder::default(), now()).unwrap();
        assert_eq!(restore.request, drill.request);
        assert_ne!(restore.key(), drill.key());
        assert_ne!(restore.message_id(), drill.message_id());
        let longest = RestoreMessage {
            request: "r".repeat(96),
            attempt: u32::MAX,
            waits: u32::MAX,
            ..restore
        };
        assert!(longest.message_id().len() <= 128, "{}", longest.message_id().len());
    }
}
