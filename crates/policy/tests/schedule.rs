//! Instants over every change of the clocks of every zone.

use std::collections::BTreeMap;

use flexkeep_policy::{Every, Schedule};
use jiff::civil::{Date, Time, Weekday, date, time};
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::prelude::*;

/// The zones of the database in this program (and so the same on every machine), one of each lot
/// whose clocks are the same from 2020 to 2030.
fn zones() -> Vec<TimeZone> {
    let database = TimeZoneDatabase::bundled();
    let (start, end) = (timestamp("2019-12-01T00:00:00Z"), timestamp("2031-02-01T00:00:00Z"));
    let mut different = BTreeMap::new();
    let mut count = 0;
    for name in database.available() {
        let zone = database.get(name.as_str()).unwrap();
        let changes: Vec<(Timestamp, Offset)> = zone
            .following(start)
            .map(|change| (change.timestamp(), change.offset()))
            .take_while(|(time, _)| *time < end)
            .collect();
        different.entry((zone.to_offset(start), changes)).or_insert(zone);
        count += 1;
    }
    assert!(count > 400 && different.len() > 60, "{} of {count} zones", different.len());
    different.into_values().collect()
}

fn timestamp(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn daily(at: Time, zone: &TimeZone) -> Schedule {
    Schedule::new(Every::Day { weekly_on: Weekday::Sunday }, at, zone.clone())
}

fn weekly(on: Weekday, at: Time, zone: &TimeZone) -> Schedule {
    Schedule::new(Every::Week { on }, at, zone.clone())
}

/// Walks from `from` to `until` and checks each instant: the right civil day, at the local time or
/// right after a gap, the first of two; strictly later than the one before it, and what
/// latest and next say around it agrees.
fn walk(schedule: &Schedule, from: Date, until: Date, days: i64) -> usize {
    let zone = schedule.zone();
    let start = zone.to_timestamp(from.to_datetime(Time::midnight())).unwrap();
    let mut instant = schedule.next_instant(start - SignedDuration::from_hours(48));
    let mut day = zone.to_datetime(instant).date();
    let mut count = 0;
    let nanosecond = SignedDuration::from_nanos(1);
    while day < until {
        let next = schedule.next_instant(instant);
        assert!(next > instant, "{schedule}: {instant} and then {next}");
        assert_eq!(schedule.latest_instant(instant), instant, "{schedule}");
        assert_eq!(schedule.latest_instant(next - nanosecond), instant, "{schedule}");
        assert_eq!(schedule.next_instant(next - nanosecond), next, "{schedule}");
        let expected = day.checked_add(days.days()).unwrap();
        check_local(schedule, expected, next);
        (instant, day) = (next, expected);
        count += 1;
    }
    count
}

/// The instant of a civil day, found without the library's own rule: the first moment at which the
/// local clock shows the time, or, in a gap, the moment as long after its beginning.
fn check_local(schedule: &Schedule, day: Date, instant: Timestamp) {
    let zone = schedule.zone();
    let wanted = day.to_datetime(schedule.at());
    let local = zone.to_datetime(instant);
    if local == wanted {
        // Not the second time: no earlier offset shows the same.
        let earlier = zone.to_offset(instant - SignedDuration::from_hours(26));
        let as_before = earlier.to_timestamp(wanted).unwrap();
        let repeats = as_before < instant && zone.to_datetime(as_before) == wanted;
        assert!(!repeats, "{schedule}: {instant} is the second {wanted}");
        return;
    }
    // The local time does not exist: under the offset before the gap it is this instant.
    let gap = zone.preceding(instant + SignedDuration::from_nanos(1)).next().unwrap().timestamp();
    let before = zone.to_offset(gap - SignedDuration::from_nanos(1));
    assert_eq!(before.to_timestamp(wanted).unwrap(), instant, "{schedule} {day} became {local}");
    assert!(
        before.to_datetime(gap) <= wanted && zone.to_datetime(gap) > wanted,
        "{schedule} {day}"
    );
}

#[test]
fn each_civil_day_of_each_zone_has_exactly_one_instant() {
    let times = [time(2, 30, 0, 0), time(0, 0, 0, 0), time(23, 59, 0, 0), time(1, 15, 0, 0)];
    for (index, zone) in zones().iter().enumerate() {
        let schedule = daily(times[index % times.len()], zone);
        let count = walk(&schedule, date(2020, 1, 1), date(2030, 12, 31), 1);
        assert!((4016..=4020).contains(&count), "{schedule}: {count}");
    }
}

#[test]
fn each_civil_week_of_each_zone_has_exactly_one_instant() {
    for zone in zones() {
        for (on, at) in
            [(Weekday::Sunday, time(2, 30, 0, 0)), (Weekday::Saturday, time(23, 30, 0, 0))]
        {
            let schedule = weekly(on, at, &zone);
            let count = walk(&schedule, date(2020, 1, 1), date(2030, 12, 31), 7);
            assert!((572..=576).contains(&count), "{schedule}: {count}");
        }
    }
}

#[test]
fn every_change_of_the_clocks_is_met_at_its_very_minutes() {
    let (start, end) = (timestamp("2020-01-01T00:00:00Z"), timestamp("2031-01-01T00:00:00Z"));
    let mut changes = 0;
    for zone in zones() {
        for change in zone.following(start).take_while(|change| change.timestamp() < end) {
            let after = zone.to_datetime(change.timestamp());
            let before = zone.to_datetime(change.timestamp() - SignedDuration::from_nanos(1));
            for local in [after, before] {
                for minutes in [-61, -31, -1, 0, 1, 29, 61] {
                    let at = local.checked_add(minutes.minutes()).unwrap().time();
                    let at = time(at.hour(), at.minute(), 0, 0);
                    let day = local.date();
                    let (from, until) = (day - 2.days(), day + 3.days());
                    walk(&daily(at, &zone), from, until, 1);
                    walk(&weekly(day.weekday(), at, &zone), from - 7.days(), until, 7);
                }
            }
            changes += 1;
        }
    }
    assert!(changes > 500, "only {changes} changes");
}

#[test]
fn a_day_that_never_was_is_left_out_and_none_comes_twice() {
    // Samoa left out 2011-12-30, Kwajalein 1993-08-21.
    for (name, from, until, days) in [
        ("Pacific/Apia", date(2011, 12, 20), date(2012, 1, 10), 20),
        ("Pacific/Kwajalein", date(1993, 8, 10), date(1993, 9, 1), 21),
    ] {
        let zone = TimeZoneDatabase::bundled().get(name).unwrap();
        for at in [time(0, 0, 0, 0), time(12, 0, 0, 0), time(23, 59, 0, 0)] {
            let schedule = daily(at, &zone);
            let start = zone.to_timestamp(from.to_datetime(Time::midnight())).unwrap();
            let end = zone.to_timestamp(until.to_datetime(Time::midnight())).unwrap();
            let mut seen = Vec::new();
            let mut instant = schedule.next_instant(start - SignedDuration::from_nanos(1));
            while instant < end {
                seen.push(zone.to_datetime(instant).date());
                assert_eq!(schedule.latest_instant(instant), instant);
                instant = schedule.next_instant(instant);
            }
            assert!(seen.is_sorted_by(|one, next| one < next), "{schedule}: {seen:?}");
            assert_eq!(seen.len(), days, "{schedule}: {seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn latest_and_next_agree_at_any_time(
        second in Timestamp::MIN.as_second()..=Timestamp::MAX.as_second(),
        zone in proptest::sample::select(vec![
            "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca",
            "Asia/Kathmandu", "Pacific/Apia", "America/Scoresbysund", "Antarctica/Troll",
        ]),
        hour in 0..24i8,
        minute in 0..60i8,
        on in proptest::option::of(1..=7i8),
    ) {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        let at = time(hour, minute, 0, 0);
        let schedule = match on {
            Some(on) => weekly(Weekday::from_monday_one_offset(on).unwrap(), at, &zone),
            None => daily(at, &zone),
        };
        let now = Timestamp::from_second(second).unwrap();
        let (latest, next) = (schedule.latest_instant(now), schedule.next_instant(now));
        prop_assert!(latest < next);
        prop_assert_eq!(schedule.next_instant(latest), next);
        prop_assert_eq!(schedule.latest_instant(next), next);
        // Within some days of the ends of time they are those of the ends.
        if (-300_000_000_000..250_000_000_000).contains(&second) {
            prop_assert!(latest <= now && now < next);
            let gap = next.duration_since(latest) - schedule.period();
            prop_assert!(gap.abs() <= SignedDuration::from_hours(25), "{} {}", schedule, gap);
        }
    }
}
