//! When a timer fires: an NCRONTAB expression, or a time span between runs.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::cron::Cron;
use crate::timespan;

/// Under this interval the host keeps no status of a timer.
const MONITORED_FROM: SignedDuration = SignedDuration::from_mins(1);

/// A timer's schedule.
#[derive(Debug, Clone)]
pub(crate) enum Schedule {
    Cron(Cron),
    Every(Duration),
}

impl Schedule {
    /// Parses an expression or a time span; says what is wrong with a text that is neither.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().contains(char::is_whitespace) {
            return Cron::parse(text).map(Self::Cron);
        }
        match timespan::parse(text) {
            Some(every) if every >= Duration::from_millis(1) => Ok(Self::Every(every)),
            _ => Err("is neither six NCRONTAB fields nor a time span such as \"00:05:00\"".into()),
        }
    }

    /// The first occurrence after an instant. The end of the calendar stands for never.
    pub(crate) fn next_after(&self, instant: Timestamp) -> Timestamp {
        match self {
            Self::Cron(cron) => cron.next_after(instant).unwrap_or(Timestamp::MAX),
            Self::Every(every) => {
                let every = SignedDuration::try_from(*every).unwrap_or(SignedDuration::MAX);
                instant.checked_add(every).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Whether a status is kept: not if any of the next occurrences lie within a minute.
    pub(crate) fn is_monitored(&self, now: Timestamp) -> bool {
        let mut at = self.next_after(now);
        (0..5).all(|_| {
            let next = self.next_after(at);
            let interval = next.duration_since(at);
            at = next;
            next == Timestamp::MAX || interval >= MONITORED_FROM
        })
    }

    /// `AdjustForDST` of the timer info.
    pub(crate) fn adjusts_for_dst(&self) -> bool {
        matches!(self, Self::Cron(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_counts_from_the_last_run() {
        let schedule = Schedule::parse("00:05:00").unwrap();
        let now: Timestamp = "2026-11-22T11:47:35.5Z".parse().unwrap();
        assert_eq!(schedule.next_after(now).to_string(), "2026-11-22T11:52:35.5Z");
        assert!(!schedule.adjusts_for_dst());
    }

    #[test]
    fn a_status_is_kept_from_one_minute_on() {
        let kept = |text: &str| Schedule::parse(text).unwrap().is_monitored(Timestamp::UNIX_EPOCH);
        assert!(kept("0 * * * * *"));
        assert!(kept("00:01:00"));
        assert!(!kept("*/30 * * * * *"));
        assert!(!kept("00:00:59"));
        assert!(!kept("0,30 0 */12 * * *"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "hourly", "00:00:00", "-00:05:00", "0 0 0"] {
            assert!(Schedule::parse(text).is_err(), "{text:?}");
        }
    }
}
