//! When backups are due: a time of a civil day or week, in a time zone.

use std::fmt;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// Local dates are looked at within this of a time; it covers every shift that a zone ever made.
const MARGIN_DAYS: i64 = 3;

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Each civil day.
    Day {
        /// The day that is left when the policy falls back to weekly backups.
        weekly_on: Weekday,
    },
    /// Each civil week.
    Week {
        /// The day of the week.
        on: Weekday,
    },
}

/// The scheduled instants of a server: exactly one for each civil day (or week) of its zone.
///
/// A local time that a change of the clocks skips happens as long after the change as it would have
/// happened after its beginning: 02:30 in a gap from 02:00 to 03:00 is 03:30. A local time
/// that happens twice is taken the first time. A civil day that a zone leaves out (Samoa,
/// 2011-12-30) has no instant of its own.
///
/// Times within some days of the ends of what [`Timestamp`] holds are treated as those ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    every: Every,
    at: Time,
    zone: TimeZone,
}

impl Schedule {
    /// A schedule; `zone` should have a name.
    pub fn new(every: Every, at: Time, zone: TimeZone) -> Self {
        Self { every, at, zone }
    }

    /// How often.
    pub fn every(&self) -> Every {
        self.every
    }

    /// The local time.
    pub fn at(&self) -> Time {
        self.at
    }

    /// The time zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The zone's IANA name.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("a zone without a name")
    }

    /// The nominal distance of two instants: 24 hours, or seven times that. The real one differs
    /// when clocks change.
    pub fn period(&self) -> SignedDuration {
        SignedDuration::from_hours(24 * self.days_apart())
    }

    /// The weekly schedule that a daily one falls back to; a weekly one as it is.
    #[must_use]
    pub fn weekly(&self) -> Schedule {
        match self.every {
            Every::Day { weekly_on } => {
                Schedule { every: Every::Week { on: weekly_on }, ..self.clone() }
            }
            Every::Week { .. } => self.clone(),
        }
    }

    /// The last scheduled instant at or before `now`.
    pub fn latest_instant(&self, now: Timestamp) -> Timestamp {
        let now = within_reach(now);
        let mut date = self.first_date_after(now);
        loop {
            let instant = self.instant_on(date);
            if instant <= now {
                return instant;
            }
            date = date.saturating_sub(Span::new().days(self.days_apart()));
        }
    }

    /// The first scheduled instant after `after`.
    pub fn next_instant(&self, after: Timestamp) -> Timestamp {
        let after = within_reach(after);
        let mut date = self.first_date_after(after);
        let mut next = self.instant_on(date);
        // Down from a date that is late for sure; equal instants are those of a date left out.
        loop {
            date = date.saturating_sub(Span::new().days(self.days_apart()));
            let instant = self.instant_on(date);
            if instant <= after {
                return next;
            }
            next = instant;
        }
    }

    fn days_apart(&self) -> i64 {
        match self.every {
            Every::Day { .. } => 1,
            Every::Week { .. } => 7,
        }
    }

    /// A date of this schedule whose instant is after `time`.
    fn first_date_after(&self, time: Timestamp) -> Date {
        let local = self.zone.to_datetime(time).date();
        let date = local.saturating_add(Span::new().days(MARGIN_DAYS));
        match self.every {
            Every::Day { .. } => date,
            Every::Week { on } => {
                let ahead = date.weekday().until(on);
                date.saturating_add(Span::new().days(ahead))
            }
        }
    }

    fn instant_on(&self, date: Date) -> Timestamp {
        // Compatible: after a gap, before a fold.
        let instant = self.zone.to_ambiguous_timestamp(date.to_datetime(self.at)).compatible();
        instant.expect("the date is days away from the ends of what a timestamp holds")
    }
}

/// Some days away from the ends of what a timestamp holds.
fn within_reach(time: Timestamp) -> Timestamp {
    const MARGIN_SECONDS: i64 = 30 * 24 * 3600;
    let second = time.as_second();
    if second < Timestamp::MIN.as_second() + MARGIN_SECONDS {
        return Timestamp::from_second(Timestamp::MIN.as_second() + MARGIN_SECONDS).unwrap_or(time);
    }
    if second > Timestamp::MAX.as_second() - MARGIN_SECONDS {
        return Timestamp::from_second(Timestamp::MAX.as_second() - MARGIN_SECONDS).unwrap_or(time);
    }
    time
}

/// A weekday as the policy file has it.
pub(crate) fn weekday_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            Every::Day { .. } => f.write_str("every day")?,
            Every::Week { on } => write!(f, "every week on {}", weekday_name(on))?,
        }
        write!(f, " at {:02}:{:02} {}", self.at.hour(), self.at.minute(), self.zone_name())
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    fn time_of(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn daily(at: Time, zone: &str) -> Schedule {
        let every = Every::Day { weekly_on: Weekday::Sunday };
        Schedule::new(every, at, TimeZone::get(zone).unwrap())
    }

    fn weekly(on: Weekday, at: Time, zone: &str) -> Schedule {
        Schedule::new(Every::Week { on }, at, TimeZone::get(zone).unwrap())
    }

    #[test]
    fn the_instant_itself_is_the_latest_and_not_the_next() {
        let daily = daily(time(3, 15, 0, 0), "UTC");
        let instant = time_of("2026-11-23T03:15:00Z");
        let second = SignedDuration::from_secs(1);
        assert_eq!(daily.latest_instant(instant), instant);
        assert_eq!(daily.latest_instant(instant - second), time_of("2026-11-22T03:15:00Z"));
        assert_eq!(daily.next_instant(instant), time_of("2026-11-24T03:15:00Z"));
        assert_eq!(daily.next_instant(instant - second), instant);
    }

    #[test]
    fn a_week_begins_at_its_day_and_time() {
        let weekly = weekly(Weekday::Sunday, time(2, 30, 0, 0), "Europe/Berlin");
        // 2026-11-23 is a Monday; Berlin is an hour ahead of UTC.
        let now = time_of("2026-11-23T12:00:00Z");
        assert_eq!(weekly.latest_instant(now), time_of("2026-11-22T01:30:00Z"));
        assert_eq!(weekly.next_instant(now), time_of("2026-11-29T01:30:00Z"));
        assert_eq!(weekly.period(), SignedDuration::from_hours(168));
        assert_eq!(weekly.to_string(), "every week on sunday at 02:30 Europe/Berlin");
    }

    #[test]
    fn a_time_that_is_skipped_happens_an_hour_later_and_one_that_repeats_the_first_time() {
        let daily = daily(time(2, 30, 0, 0), "Europe/Berlin");
        // 2026-03-29: 02:00 becomes 03:00.
        let before = time_of("2026-03-28T12:00:00Z");
        assert_eq!(daily.next_instant(before), time_of("2026-03-29T01:30:00Z"));
        assert_eq!(daily.next_instant(time_of("2026-03-29T01:30:00Z")).to_string(), {
            "2026-03-30T00:30:00Z"
        });
        // 2026-10-25: 03:00 becomes 02:00.
        let before = time_of("2026-10-24T12:00:00Z");
        assert_eq!(daily.next_instant(before), time_of("2026-10-25T00:30:00Z"));
        assert_eq!(
            daily.next_instant(time_of("2026-10-25T00:30:00Z")),
            time_of("2026-10-26T01:30:00Z")
        );
    }

    #[test]
    fn a_day_that_a_zone_left_out_has_no_instant_of_its_own() {
        // Samoa went from 2011-12-29 to 2011-12-31.
        let daily = daily(time(3, 0, 0, 0), "Pacific/Apia");
        let mut days = Vec::new();
        let mut instant = time_of("2011-12-28T00:00:00Z");
        for _ in 0..4 {
            instant = daily.next_instant(instant);
            days.push(daily.zone().to_datetime(instant).date().day());
        }
        assert_eq!(days, [28, 29, 31, 1]);
    }

    #[test]
    fn a_fallback_keeps_time_and_zone() {
        let every = Every::Day { weekly_on: Weekday::Saturday };
        let daily = Schedule::new(every, time(4, 0, 0, 0), TimeZone::UTC);
        assert_eq!(daily.to_string(), "every day at 04:00 UTC");
        assert_eq!(daily.weekly().to_string(), "every week on saturday at 04:00 UTC");
        assert_eq!(daily.weekly().weekly(), daily.weekly());
    }

    #[test]
    fn the_ends_of_time_do_no_harm() {
        for schedule in [
            daily(time(23, 59, 0, 0), "Pacific/Kiritimati"),
            weekly(Weekday::Monday, time(0, 0, 0, 0), "America/Adak"),
        ] {
            for time in [Timestamp::MIN, Timestamp::MAX] {
                let latest = schedule.latest_instant(time);
                assert!(schedule.next_instant(time) > latest);
            }
        }
    }
}
