//! What is remembered of a server's restore drills.
//!
//! A drill's instant is sent at most once, and only if it came after the drill was first seen or its
//! schedule edited: a drill that is new begins at its next instant. Of instants that were missed
//! only the latest is sent. All of it is pure; whoever calls stores the state.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// What is remembered from one drill to the next. The default is that of a drill never seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrillState {
    /// The latest instant that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<Timestamp>,
    /// When ticks of this schedule began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The schedule at the last tick, to notice that it was edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The database whose turn was last, where they take turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_database: Option<String>,
    /// How the last drill ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<DrillNote>,
    /// Scratch databases that drills were about to make and have not dropped yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scratch: Vec<Scratch>,
}

/// How a drill ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillNote {
    /// Its request.
    pub request: String,
    /// When it ended.
    pub at: Timestamp,
    /// Whether it passed.
    pub passed: bool,
    /// The backup that was tried, if there was one.
    pub backup: Option<String>,
    /// The databases that were restored.
    pub databases: Vec<String>,
    /// Why it did not pass, without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A database that a drill makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// The target that it is on.
    pub target: String,
    /// Its name.
    pub name: String,
}

impl DrillState {
    /// The instant that is due at `now`, and the state after it.
    pub fn tick(
        &self,
        schedule: &Schedule,
        enabled: bool,
        now: Timestamp,
    ) -> (Option<Timestamp>, Self) {
        let mut state = self.clone();
        if !enabled {
            state.since = None;
            return (None, state);
        }
        let text = schedule.to_string();
        if state.schedule.as_ref() != Some(&text) {
            state.schedule = Some(text);
            state.since = None;
        }
        let since = *state.since.get_or_insert(now);
        let instant = schedule.latest_instant(now);
        let due = instant > since && state.last_sent.is_none_or(|sent| instant > sent);
        if due {
            state.last_sent = Some(instant);
        }
        (due.then_some(instant), state)
    }

    /// Whose turn it is: the first name after the last one, and the first of all after the end.
    pub fn next_database<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        let mut names = names.to_vec();
        names.sort_unstable();
        let after = self.last_database.as_deref();
        let next = names.iter().find(|name| after.is_none_or(|after| **name > after));
        next.or(names.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::{Weekday, time};
    use jiff::tz::TimeZone;

    use super::*;
    use crate::schedule::Every;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn weekly(hour: i8) -> Schedule {
        Schedule::new(Every::Week { on: Weekday::Monday }, time(hour, 0, 0, 0), TimeZone::UTC)
    }

    #[test]
    fn a_new_drill_waits_for_its_next_instant_and_each_instant_is_sent_once() {
        let (due, state) = DrillState::default().tick(&weekly(5), true, at("2026-11-24T10:00:00Z"));
        assert_eq!(due, None);
        let (due, state) = state.tick(&weekly(5), true, at("2026-11-30T05:00:00Z"));
        assert_eq!(due, Some(at("2026-11-30T05:00:00Z")));
        for now in ["2026-11-30T05:00:00Z", "2026-12-06T00:00:00Z", "2026-11-24T00:00:00Z"] {
            assert_eq!(state.tick(&weekly(5), true, at(now)).0, None, "{now}");
        }
        // After an outage of weeks only the latest one.
        let (due, state) = state.tick(&weekly(5), true, at("2026-12-30T05:00:00Z"));
        assert_eq!(due, Some(at("2026-12-28T05:00:00Z")));
        assert_eq!(state.tick(&weekly(5), true, at("2026-12-30T05:05:00Z")).0, None);
    }

    #[test]
    fn an_edited_or_enabled_drill_waits_for_its_next_instant() {
        let (_, state) = DrillState::default().tick(&weekly(5), true, at("2026-11-24T10:00:00Z"));
        let (due, state) = state.tick(&weekly(6), true, at("2026-12-01T10:00:00Z"));
        assert_eq!(due, None);
        let (due, state) = state.tick(&weekly(6), false, at("2026-12-08T10:00:00Z"));
        assert_eq!(due, None);
        let (due, state) = state.tick(&weekly(6), true, at("2026-12-15T10:00:00Z"));
        assert_eq!(due, None);
        assert!(state.tick(&weekly(6), true, at("2026-12-21T06:00:01Z")).0.is_some());
    }

    #[test]
    fn databases_take_turns_also_when_some_come_and_go() {
        let mut state = DrillState::default();
        let mut seen = Vec::new();
        let all = ["c", "a", "b"];
        for names in [&all[..], &all, &["a", "c", "bb"], &all, &all, &[]] {
            let next = state.next_database(names);
            seen.push(next.unwrap_or("nothing"));
            state.last_database = next.map(str::to_owned);
        }
        assert_eq!(seen, ["a", "b", "bb", "c", "a", "nothing"]);
    }
}
