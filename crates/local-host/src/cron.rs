//! NCRONTAB expressions, as timer triggers use them.
//!
//! Six fields: second, minute, hour, day of month, month, day of week; with five the second is 0.
//! They are not crontab's: the day of month **and** the day of week must match, Sunday is 0 only
//! (7 is an error in the host too), names may be cut short (`Mon`, `Janu`), and a range that runs
//! backwards is turned round. Times are UTC, as on the platform.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Forty years hold every combination of date and weekday, also over a leap year left out.
const DAYS_TO_SEARCH: u32 = 41 * 366;

const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: &[&str] =
    &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    // One bit for each value that matches.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
}

const fn field(name: &'static str, min: u8, max: u8, names: &'static [&'static str]) -> Field {
    Field { name, min, max, names }
}

const FIELDS: [Field; 6] = [
    field("second", 0, 59, &[]),
    field("minute", 0, 59, &[]),
    field("hour", 0, 23, &[]),
    field("day", 1, 31, &[]),
    field("month", 1, 12, MONTHS),
    field("day of week", 0, 6, DAYS),
];

impl Cron {
    /// Parses an expression of six or five fields; says what is wrong with one that it refuses.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<&str> = text.split_whitespace().collect();
        if parts.len() == 5 {
            parts.insert(0, "0");
        }
        if parts.len() != FIELDS.len() {
            return Err(format!(
                "has {} fields instead of six: {{second}} {{minute}} {{hour}} {{day}} {{month}} \
                 {{day of week}}",
                parts.len()
            ));
        }
        let mut bits = [0; 6];
        for ((bits, part), field) in bits.iter_mut().zip(&parts).zip(&FIELDS) {
            *bits = field.parse(part).map_err(|problem| format!("{}: {problem}", field.name))?;
        }
        let [seconds, minutes, hours, days, months, weekdays] = bits;
        let cron = Self { seconds, minutes, hours, days, months, weekdays };
        match cron.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err("no date ever matches".to_owned()),
        }
    }

    /// The first match strictly after an instant, `None` if the calendar ends before.
    pub(crate) fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        let start = TimeZone::UTC.to_datetime(instant);
        let mut date = start.date();
        // Matches are whole seconds: the first candidate is the next full one.
        let mut from =
            match start.time().with().subsec_nanosecond(0).build().ok()?.checked_add(1.second()) {
                Ok(time) => time,
                Err(_) => {
                    date = date.tomorrow().ok()?;
                    Time::midnight()
                }
            };
        for _ in 0..DAYS_TO_SEARCH {
            if self.matches_date(date)
                && let Some(time) = self.time_from(from)
            {
                return TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time)).ok();
            }
            date = date.tomorrow().ok()?;
            from = Time::midnight();
        }
        None
    }

    fn matches_date(&self, date: Date) -> bool {
        has(self.months, date.month())
            && has(self.days, date.day())
            && has(self.weekdays, date.weekday().to_sunday_zero_offset())
    }

    /// The first matching time of a day at or after `from`.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        let first = |bits: u64| bits.trailing_zeros() as i8;
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = next_from(self.seconds, second)
            {
                return Time::new(hour, minute, second, 0).ok();
            }
            if let Some(minute) = next_from(self.minutes, minute + 1) {
                return Time::new(hour, minute, first(self.seconds), 0).ok();
            }
        }
        let hour = next_from(self.hours, hour + 1)?;
        Time::new(hour, first(self.minutes), first(self.seconds), 0).ok()
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1 << value) != 0
}

fn next_from(bits: u64, value: i8) -> Option<i8> {
    let rest = bits & (u64::MAX << value);
    (rest != 0).then(|| rest.trailing_zeros() as i8)
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, item| Ok(bits | self.parse_item(item)?))
    }

    fn parse_item(&self, item: &str) -> Result<u64, String> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => {
                let step: u16 =
                    step.parse().map_err(|_| format!("{step:?} is not a number of steps"))?;
                (range, Some(step.max(1)))
            }
        };
        let (first, last) = if range == "*" {
            (self.min, self.max)
        } else if let Some((first, last)) = range.split_once('-') {
            let (first, last) = (self.value(first)?, self.value(last)?);
            (first.min(last), first.max(last))
        } else {
            let value = self.value(range)?;
            (value, if step.is_some() { self.max } else { value })
        };
        let step = usize::from(step.unwrap_or(1));
        Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        let Self { min, max, .. } = *self;
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match text.parse() {
                Ok(value) if (min..=max).contains(&value) => Ok(value),
                _ if self.names.len() == 7 && text == "7" => {
                    Err("7 is not a day, Sunday is 0".to_owned())
                }
                _ => Err(format!("{text:?} is not a number from {min} to {max}")),
            };
        }
        let name = text.to_lowercase();
        let place =
            self.names.iter().position(|known| !name.is_empty() && known.starts_with(&name));
        match place {
            Some(place) => Ok(min + place as u8),
            None => Err(format!("{text:?} is not a number from {min} to {max} nor a name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next(cron: &str, after: &str) -> String {
        let after: Timestamp = after.parse().unwrap();
        Cron::parse(cron).unwrap().next_after(after).unwrap().to_string()
    }

    #[test]
    fn the_samples_of_the_documentation_fire_when_it_says() {
        let at = "2026-11-22T11:47:35.5Z"; // a Sunday
        assert_eq!(next("0 */5 * * * *", at), "2026-11-22T11:50:00Z");
        assert_eq!(next("0 0 * * * *", at), "2026-11-22T12:00:00Z");
        assert_eq!(next("0 0 */2 * * *", at), "2026-11-22T12:00:00Z");
        assert_eq!(next("0 0 9-17 * * *", at), "2026-11-22T12:00:00Z");
        assert_eq!(next("0 30 9 * * *", at), "2026-11-23T09:30:00Z");
        assert_eq!(next("0 30 9 * * 1-5", at), "2026-11-23T09:30:00Z");
        assert_eq!(next("0 30 9 * Jan Mon", at), "2027-01-04T09:30:00Z");
        assert_eq!(next("*/5 * * * *", at), "2026-11-22T11:50:00Z");
        assert_eq!(next("* * * * * *", at), "2026-11-22T11:47:36Z");
        assert_eq!(next("5/20 * * * * *", at), "2026-11-22T11:47:45Z");
    }

    #[test]
    fn a_match_is_strictly_later_than_the_instant() {
        assert_eq!(next("0 0 0 * * *", "2026-11-22T00:00:00Z"), "2026-11-23T00:00:00Z");
        assert_eq!(next("0 0 0 * * *", "2026-11-21T23:59:59.999Z"), "2026-11-22T00:00:00Z");
        assert_eq!(next("59 59 23 31 12 *", "2026-12-31T23:59:59Z"), "2027-12-31T23:59:59Z");
    }

    #[test]
    fn day_of_month_and_day_of_week_must_both_match() {
        assert_eq!(next("0 0 0 13 * Fri", "2026-11-22T00:00:00Z"), "2027-08-13T00:00:00Z");
        assert_eq!(next("0 0 0 29 2 Sunday", "2032-03-01T00:00:00Z"), "2060-02-29T00:00:00Z");
    }

    #[test]
    fn names_may_be_cut_short_and_backward_ranges_are_turned_round() {
        assert_eq!(Cron::parse("0 0 0 * * FRI-mon"), Cron::parse("0 0 0 * * 1-5"));
        assert_eq!(Cron::parse("0 0 0 * Janu Th"), Cron::parse("0 0 0 * 1 4"));
    }

    #[test]
    fn what_the_host_refuses_is_refused_with_a_reason() {
        let refused = |text: &str| Cron::parse(text).unwrap_err();
        assert!(refused("* * *").starts_with("has 3 fields instead of six"));
        assert_eq!(refused("0 0 0 * * 7"), "day of week: 7 is not a day, Sunday is 0");
        assert_eq!(refused("60 * * * * *"), "second: \"60\" is not a number from 0 to 59");
        assert!(refused("0 0 0 * Foo *").starts_with("month: \"Foo\""));
        assert!(refused("0 0 0 * * ,1").starts_with("day of week: \"\""));
        assert!(refused("0 */x * * * *").contains("number of steps"));
        assert_eq!(refused("0 0 0 30 2 *"), "no date ever matches");
    }

    /// What an expression means, second by second.
    fn slow_match(lists: &[Vec<i8>; 6], at: DateTime) -> bool {
        let weekday = at.date().weekday().to_sunday_zero_offset();
        let values = [at.second(), at.minute(), at.hour(), at.day(), at.month(), weekday];
        lists.iter().zip(values).all(|(list, value)| list.is_empty() || list.contains(&value))
    }

    fn list(min: i8, max: i8, most: usize) -> impl Strategy<Value = Vec<i8>> {
        prop::collection::vec(min..=max, 0..=most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_next_match_is_the_first_one_that_a_slow_search_finds(
            seconds in list(0, 59, 4), minutes in list(0, 59, 6), hours in list(0, 23, 8),
            days in list(1, 31, 20), months in list(1, 12, 0), weekdays in list(0, 6, 6),
            start in 1_700_000_000_i64..1_900_000_000,
        ) {
            let lists = [seconds, minutes, hours, days, months, weekdays];
            let text = lists.each_ref().map(|list| match list.is_empty() {
                true => "*".to_owned(),
                false => list.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
            });
            let cron = Cron::parse(&text.join(" ")).unwrap();
            let start = Timestamp::from_second(start).unwrap();
            let found = cron.next_after(start).unwrap();
            let datetime = |at: Timestamp| TimeZone::UTC.to_datetime(at);
            prop_assert!(slow_match(&lists, datetime(found)), "{found} does not match");
            let mut at = start + 1.second();
            let limit = (start + 24.hours()).min(found);
            while at < limit {
                prop_assert!(!slow_match(&lists, datetime(at)), "{at} comes before {found}");
                at += 1.second();
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-*/, 0-9a-zA-Z]{0,30}") {
            let _ = Cron::parse(&text);
        }
    }
}
