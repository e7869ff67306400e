//! The message that starts a lane of a backup, as it lies on the queue. docs/events.md has its
//! schema.

use flexkeep_engine::Lane;
use flexkeep_vault::RunId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::message::{BackupMessage, BadMessage, MESSAGE_VERSION, is_zero, parse_versioned};

/// Longest wait of a lane that finds something in its way.
const MAX_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// Most lanes of a server; a message with more is not of this program.
const MAX_LANE: u32 = 1_000;

/// How often a lane looks for what is in its way to have gone.
const MAX_WAITS: u32 = 40;

/// Starts a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneMessage {
    /// [`MESSAGE_VERSION`].
    pub version: u64,
    /// The request that the run is for.
    pub backup: BackupMessage,
    /// The run.
    pub run: RunId,
    /// Which lane, from 0.
    pub lane: u32,
    /// How many were in this lane before.
    pub generation: u32,
    /// How often it found something in its way.
    #[serde(default)]
    pub waits: u32,
    /// How often in a row it failed.
    #[serde(default)]
    pub failures: u32,
    /// How many messages for it went unanswered before this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent_again: u32,
}

impl LaneMessage {
    /// The message that starts `lane` for a request.
    pub fn new(backup: &BackupMessage, lane: &Lane) -> Self {
        Self {
            version: MESSAGE_VERSION,
            backup: backup.clone(),
            run: lane.run.clone(),
            lane: lane.lane,
            generation: lane.generation,
            waits: 0,
            failures: 0,
            sent_again: 0,
        }
    }

    /// The same lane, of which so many messages went unanswered: the queue drops no id that it has
    /// not seen.
    pub(crate) fn sent_again(self, times: u32) -> Self {
        Self { sent_again: times, ..self }
    }

    /// Whether it may look once more for what is in its way: its request looks after the run anyway.
    pub(crate) fn may_wait(&self) -> bool {
        self.waits < MAX_WAITS
    }

    /// Reads a message's body.
    pub fn parse(body: &[u8], now: Timestamp) -> Result<Self, BadMessage> {
        let message: Self = parse_versioned(body)?;
        if message.lane >= MAX_LANE {
            let problem = format!("\"lane\" is {} or more", MAX_LANE);
            return Err(BadMessage::NotARequest(problem));
        }
        let backup = message.backup.clone().checked(now)?;
        Ok(Self { backup, ..message })
    }

    /// The lane that it starts.
    pub fn lane(&self) -> Lane {
        Lane { run: self.run.clone(), lane: self.lane, generation: self.generation }
    }

    /// The id of the message on the queue. Runs are of a second of a server, and requests are of a
    /// server too, so the run's name and the server's set it apart.
    pub fn message_id(&self) -> String {
        let mut id = format!(
            "lane/{}/{}/{}.{}~w{}.{}",
            self.backup.server,
            self.run.as_str(),
            self.lane,
            self.generation,
            self.waits,
            self.failures
        );
        if self.sent_again > 0 {
            id.push_str(&format!("~s{}", self.sent_again));
        }
        id
    }

    /// The same lane later: something that is no failure is in its way.
    pub fn later(&self) -> (Self, SignedDuration) {
        let next = Self { waits: self.waits.saturating_add(1), ..self.clone() };
        (next, delay(self.waits))
    }

    /// The same lane after a longer wait.
    pub fn in_a_while(&self) -> (Self, SignedDuration) {
        (self.later().0, MAX_DELAY)
    }

    /// The same lane after a failure.
    pub fn again(&self) -> (Self, SignedDuration) {
        let next = Self { failures: self.failures.saturating_add(1), ..self.clone() };
        (next, delay(self.failures.saturating_add(11)))
    }
}

/// Ten times a second, as a hand-over takes no longer; then 2, 4, 8, ... seconds.
fn delay(times: u32) -> SignedDuration {
    SignedDuration::from_secs(2_i64.saturating_pow(times.saturating_sub(10).min(10))).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> LaneMessage {
        let server = "shop".parse().unwrap();
        let now: Timestamp = "2026-11-22T01:30:00Z".parse().unwrap();
        let backup = BackupMessage::manual(&server, "k", now).unwrap();
        let lane = Lane { run: RunId::new(now), lane: 1, generation: 3 };
        LaneMessage::new(&backup, &lane)
    }

    #[test]
    fn a_message_comes_back_as_it_was_sent_and_no_other_is_taken_for_one() {
        let now: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let message = message();
        let body = serde_json::to_string(&message).unwrap();
        assert_eq!(LaneMessage::parse(body.as_bytes(), now).unwrap(), message);
        for (from, to) in [
            ("\"lane\":1", "\"lane\":-1"),
            ("\"lane\":1", "\"lane\":1000"),
            ("\"version\":1,\"backup\"", "\"version\":2,\"backup\""),
            ("shop/by-hand/k", "other/k"),
            ("\"generation\":3", "\"generation\":3,\"more\":1"),
        ] {
            assert!(body.contains(from), "{body}");
            let bad = body.replace(from, to);
            assert!(LaneMessage::parse(bad.as_bytes(), now).is_err(), "{bad}");
        }
        let request = serde_json::to_vec(&message.backup).unwrap();
        assert!(LaneMessage::parse(&request, now).is_err());
    }

    #[test]
    fn each_start_of_a_lane_has_an_id_of_its_own() {
        let first = message();
        let mut ids = vec![first.message_id()];
        ids.push(first.later().0.message_id());
        ids.push(first.again().0.message_id());
        ids.push(LaneMessage::new(&first.backup, &first.lane().next()).message_id());
        ids.push(first.clone().sent_again(1).message_id());
        ids.push(first.clone().sent_again(1).later().0.message_id());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 6);
        let longest = LaneMessage {
            waits: u32::MAX,
            failures: u32::MAX,
            lane: 999,
            generation: u32::MAX,
            sent_again: u32::MAX,
            ..first
        };
        assert!(longest.message_id().len() + "server-of-63-characters".len() + 40 <= 128 + 23);
    }
}
