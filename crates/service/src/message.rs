//! The message that asks for a backup, as it lies on the queue. docs/events.md has its schema.

use flexkeep_vault::ServerName;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the message that this program writes, and the only one that it understands.
pub const MESSAGE_VERSION: u64 = 1;

/// Longest id of a request: with what is added to it, it is the id of messages and events, which
/// Service Bus limits to 128 characters.
const MAX_REQUEST_CHARS: usize = 96;

/// Longest reason that goes into a message, a record or an event, characters.
const MAX_TEXT_CHARS: usize = 1_000;

/// How far the clocks of those who send and those who work may be apart.
pub(crate) const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(1);

/// How much later a request may be made again and still find its backup: longer than queues
/// remember ids.
const ASKED_AGAIN_WITHIN: SignedDuration = SignedDuration::from_hours(8 * 24);

/// Longest message body that is looked at, bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Longest delay before a new try.
const MAX_RETRY_DELAY: SignedDuration = SignedDuration::from_hours(1);

/// Longest delay before a message that found another backup at work looks again.
const MAX_WAIT_DELAY: SignedDuration = SignedDuration::from_mins(5);

/// Asks for one backup of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupMessage {
    /// [`MESSAGE_VERSION`].
    pub version: u64,
    /// The server's name in the policy.
    pub server: ServerName,
    /// One request makes one backup, however often its message is delivered or sent again.
    pub request: String,
    /// When the request was made.
    pub requested: Timestamp,
    /// The scheduled instant; absent for a request by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instant: Option<Timestamp>,
    /// Who asks.
    #[serde(default)]
    pub reason: Reason,
    /// Which try this is, from 1.
    #[serde(default = "one")]
    pub attempt: u32,
    /// How often in a row it found something in its way, such as another backup of the server.
    #[serde(default)]
    pub waits: u32,
    /// How often it found its lanes at work.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks: u32,
    /// Whether the beginning of this try was told already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
    /// Why the last try failed, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Who asks for a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The schedule, at its instant.
    Schedule,
    /// The schedule, for an instant that was missed.
    CatchUp,
    /// A person or a program.
    #[default]
    Manual,
}

pub(crate) fn is_zero(count: &u32) -> bool {
    *count == 0
}

pub(crate) fn one() -> u32 {
    1
}

/// Why a message can never work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Longer than any message for this queue.
    #[error("the message has {0} bytes; a request has a few hundred")]
    TooLong(usize),
    /// Not JSON, or JSON of another shape. The text does not repeat the message.
    #[error("the message is not a request for a backup: {0}")]
    NotARequest(String),
    /// Of another version of the program.
    #[error("the message has version {found}; this program understands version {MESSAGE_VERSION}")]
    Version {
        /// What it says.
        found: String,
    },
    /// An id that can't be used.
    #[error(
        "the request id is not the server's name, a slash, and letters, digits or . _ : / - \
         ({MAX_REQUEST_CHARS} characters in all)"
    )]
    RequestId,
    /// A time that has not come: the backup would be the latest for as long.
    #[error("the message is of {0}, which has not come yet; look at the clock of who sent it")]
    Future(Timestamp),
}

impl BackupMessage {
    /// The request of a schedule for `instant`.
    pub fn scheduled(
        server: &ServerName,
        instant: Timestamp,
        now: Timestamp,
        catch_up: bool,
    ) -> Self {
        Self {
            version: MESSAGE_VERSION,
            server: server.clone(),
            request: format!("{server}/{}", instant.strftime("%Y%m%dT%H%M%SZ")),
            requested: now,
            instant: Some(instant),
            reason: if catch_up { Reason::CatchUp } else { Reason::Schedule },
            attempt: 1,
            waits: 0,
            looks: 0,
            told: false,
            last_error: None,
        }
    }

    /// A request by hand. Requests with the same `key` are one.
    pub fn manual(server: &ServerName, key: &str, now: Timestamp) -> Result<Self, BadMessage> {
        let message = Self {
            version: MESSAGE_VERSION,
            server: server.clone(),
            request: format!("{server}/by-hand/{key}"),
            requested: now,
            instant: None,
            reason: Reason::Manual,
            attempt: 1,
            waits: 0,
            looks: 0,
            told: false,
            last_error: None,
        };
        message.checked(now)
    }

    /// Reads a message's body. What it says must be right to the letter: a field that is not
    /// known may be one that matters.
    pub fn parse(body: &[u8], now: Timestamp) -> Result<Self, BadMessage> {
        parse_versioned::<Self>(body)?.checked(now)
    }

    pub(crate) fn checked(self, now: Timestamp) -> Result<Self, BadMessage> {
        if !is_request_id(&self.request, &self.server) {
            return Err(BadMessage::RequestId);
        }
        if self.attempt == 0 {
            let problem = "\"attempt\" is counted from 1".to_owned();
            return Err(BadMessage::NotARequest(problem));
        }
        let latest = self.instant.map_or(self.requested, |instant| instant.max(self.requested));
        if latest > now + CLOCKS_APART {
            return Err(BadMessage::Future(latest));
        }
        Ok(self)
    }

    /// A backup with an id of before this time is not this request's. The same request may have
    /// been made more than once, by hand days later, each time with a time of its own.
    pub fn since(&self) -> Timestamp {
        let first = self.instant.map_or(self.requested, |instant| instant.min(self.requested));
        first - ASKED_AGAIN_WITHIN
    }

    /// The id of the message on the queue: the queue drops a second one. What follows the request
    /// is set off by a character that no request has, so that no two requests share an id.
    pub fn message_id(&self) -> String {
        let mut id = format!("backup/{}", self.request);
        if self.attempt > 1 {
            id.push_str(&format!("~{}", self.attempt));
        }
        if self.waits > 0 {
            id.push_str(&format!("~w{}", self.waits));
        }
        if self.looks > 0 {
            id.push_str(&format!("~l{}", self.looks));
        }
        id
    }

    /// The same request for a later try, and how long to wait for it.
    pub fn next_try(&self, why: &str) -> (Self, SignedDuration) {
        let next = Self {
            attempt: self.attempt.saturating_add(1),
            waits: 0,
            looks: 0,
            told: false,
            last_error: Some(cut(why)),
            ..self.clone()
        };
        (next, retry_delay(self.attempt))
    }

    /// The same try, later: something that is no failure is in its way. `told`: its beginning was
    /// told, and need not be again.
    pub fn next_look(&self, told: bool) -> (Self, SignedDuration) {
        let next = Self { waits: self.waits.saturating_add(1), told, ..self.clone() };
        (next, look_delay(self.waits))
    }

    /// The same try, later: its lanes are at work. How often that is does not count.
    pub(crate) fn next_look_at_work(&self) -> (Self, SignedDuration) {
        let next = Self { looks: self.looks.saturating_add(1), told: true, ..self.clone() };
        (next, look_delay(self.looks))
    }
}

/// Reads a body that has a version. No error repeats a value.
pub(crate) fn parse_versioned<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadMessage> {
    serde_json::from_value(versioned_object(body)?)
        .map_err(|error| BadMessage::NotARequest(without_values(&error.to_string())))
}

/// How long to wait after a try that failed: 1, 4, 16, 60, 60, ... minutes.
pub(crate) fn retry_delay(attempt: u32) -> SignedDuration {
    let minutes = 4_i64.saturating_pow(attempt.saturating_sub(1).min(8));
    SignedDuration::from_mins(minutes).min(MAX_RETRY_DELAY)
}

/// How long to wait for what is in the way: 5, 10, 20, ... seconds.
pub(crate) fn look_delay(waits: u32) -> SignedDuration {
    let seconds = 5_i64.saturating_mul(2_i64.saturating_pow(waits.min(10)));
    SignedDuration::from_secs(seconds).min(MAX_WAIT_DELAY)
}

/// The JSON object of a body, which says that it has [`MESSAGE_VERSION`].
pub(crate) fn versioned_object(body: &[u8]) -> Result<serde_json::Value, BadMessage> {
    if body.len() > MAX_BODY_BYTES {
        return Err(BadMessage::TooLong(body.len()));
    }
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        BadMessage::NotARequest(format!("it is not JSON ({place})"))
    })?;
    let Some(object) = value.as_object() else {
        return Err(BadMessage::NotARequest("it is JSON, but not an object".to_owned()));
    };
    match object.get("version") {
        Some(version) if version.as_u64() == Some(MESSAGE_VERSION) => {}
        Some(version) => {
            let found = if version.is_number() { version.to_string() } else { "of text".into() };
            return Err(BadMessage::Version { found });
        }
        None => return Err(BadMessage::NotARequest("it has no \"version\"".to_owned())),
    }
    Ok(value)
}

/// Whether a text can be the id of a request for a server: no two servers share one.
pub(crate) fn is_request_id(text: &str, server: &ServerName) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'-');
    let own = text.strip_prefix(server.as_str()).and_then(|rest| rest.strip_prefix('/'));
    own.is_some_and(|own| !own.is_empty() && !own.ends_with('/'))
        && text.len() <= MAX_REQUEST_CHARS
        && text.bytes().all(good)
}

/// A text for people, short enough for messages, records and events.
pub(crate) fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_TEXT_CHARS).collect();
    if short.len() < text.len() {
        short.push_str(" ...");
    }
    short
}

/// What serde says of a wrong shape repeats the value, which may be anything, also a secret.
pub(crate) fn without_values(error: &str) -> String {
    match error.split_once("invalid type: ").or_else(|| error.split_once("invalid value: ")) {
        Some((_, rest)) => match rest.rsplit_once(", expected ") {
            Some((_, expected)) => format!("a field has the wrong type, expected {expected}"),
            None => "a field has the wrong type".to_owned(),
        },
        None if error.starts_with("missing field") => error.to_owned(),
        None if error.starts_with("unknown field") => match error.rsplit_once(", expected ") {
            Some((_, expected)) => {
                format!("it has a field that is not known; known are {expected}")
            }
            None => "it has a field that is not known".to_owned(),
        },
        None => "a field has a value that it cannot have".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduled() -> BackupMessage {
        let instant = "2026-11-22T01:30:00Z".parse().unwrap();
        let now = "2026-11-22T01:30:02Z".parse().unwrap();
        BackupMessage::scheduled(&"shop".parse().unwrap(), instant, now, false)
    }

    fn now() -> Timestamp {
        "2026-11-22T01:30:02Z".parse().unwrap()
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let (tried, _) = scheduled().next_try("connection refused");
        for message in [scheduled(), tried.next_look(true).0, tried] {
            let body = serde_json::to_vec(&message).unwrap();
            assert_eq!(BackupMessage::parse(&body, now()).unwrap(), message);
        }
    }

    #[test]
    fn a_message_by_hand_needs_only_what_cannot_be_guessed() {
        let body =
            br#"{"version":1,"server":"shop","request":"shop/x-1","requested":"2026-11-22T01:30:00Z"}"#;
        let message = BackupMessage::parse(body, now()).unwrap();
        assert_eq!((message.reason, message.attempt, message.instant), (Reason::Manual, 1, None));
    }

    #[test]
    fn what_can_never_work_is_told_without_repeating_it() {
        let good = r#"{"version":1,"server":"shop","request":"shop/r","requested":"2026-11-22T01:30:00Z"}"#;
        let cases = [
            ("hunter2".to_owned(), "not JSON"),
            (String::new(), "not JSON"),
            ("[\"hunter2\"]".to_owned(), "not an object"),
            ("{\"server\":\"hunter2\"}".to_owned(), "no \"version\""),
            (good.replace(":1,", ":2,"), "version 2"),
            (good.replace(":1,", ":\"hunter2\","), "version of text"),
            (good.replace("\"shop\"", "\"Hunter2!\""), "a value that it cannot have"),
            (good.replace("\"shop\"", "{\"hunter2\":1}"), "wrong type"),
            (good.replace("shop/r", "shop/hunter2 "), "request id"),
            (good.replace("shop/r", &format!("shop/{}", "r".repeat(92))), "request id"),
            (good.replace("\"shop/r\"", "\"shop/r\",\"hunter2\":1"), "field that is not known"),
            (good.replace("\"server\":\"shop\",", ""), "missing field `server`"),
            (good.replace("2026-11-22", "hunter2"), "a value that it cannot have"),
            (good.replace("shop/r", "other/hunter2"), "request id"),
            (good.replace("shop/r", "shop/"), "request id"),
            (good.replace("shop/r", "shop"), "request id"),
            (good.replace("2026-11-22", "2026-11-23"), "has not come yet"),
            (good.replace(":1,", ":1,\"attempt\":0,"), "counted from 1"),
            (" ".repeat(MAX_BODY_BYTES + 1), "bytes"),
        ];
        for (body, words) in cases {
            let error = BackupMessage::parse(body.as_bytes(), now()).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
            assert!(!error.to_lowercase().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_request_shares_an_id_with_the_next_try_of_another() {
        let server = "shop".parse().unwrap();
        let one = BackupMessage::manual(&server, "k", now()).unwrap();
        let other = BackupMessage::manual(&server, "k/2", now()).unwrap();
        assert_ne!(one.next_try("away").0.message_id(), other.message_id());
        let third = BackupMessage::manual(&server, "k/w1", now()).unwrap();
        assert_ne!(one.next_look(false).0.message_id(), third.message_id());
        assert!(BackupMessage::manual(&server, "k~2", now()).is_err());
    }

    #[test]
    fn however_long_an_error_is_the_next_message_can_be_read() {
        let (next, _) = scheduled().next_try(&"\u{1F9E8}".repeat(100_000));
        let body = serde_json::to_vec(&next).unwrap();
        assert!(body.len() < 8_000, "{}", body.len());
        assert_eq!(BackupMessage::parse(&body, now()).unwrap(), next);
    }

    #[test]
    fn each_try_has_a_message_id_of_its_own_and_waits_longer() {
        let mut message = scheduled();
        let mut ids = vec![message.message_id()];
        let mut minutes = Vec::new();
        for _ in 0..6 {
            let (next, delay) = message.next_try("away");
            minutes.push(delay.as_mins());
            let (look, _) = next.next_look(false);
            ids.extend([next.message_id(), look.message_id(), look.next_look(true).0.message_id()]);
            message = next;
        }
        assert_eq!(minutes, [1, 4, 16, 60, 60, 60]);
        assert_eq!(ids[0], "backup/shop/20261122T013000Z");
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(ids.iter().all(|id| id.len() <= 128));
        let longest = BackupMessage {
            request: "r".repeat(96),
            attempt: u32::MAX,
            waits: u32::MAX,
            ..message
        };
        assert!(longest.message_id().len() <= 128, "{}", longest.message_id().len());
    }
}
