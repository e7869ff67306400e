//! The table `schedule = { every = …, on = …, at = …, zone = … }`.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use toml::de::DeValue;

use crate::near;
use crate::problem::{Report, Spot, shown};
use crate::schedule::{Every, Schedule, weekday_name};
use crate::section::{Field, Section, type_name};
use crate::zone;

/// A schedule as it should be, for messages.
pub(crate) const EXAMPLE: &str =
    r#"schedule = { every = "week", on = "sunday", at = "02:30", zone = "Europe/Berlin" }"#;

const WEEKDAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

/// Reads the key `schedule` of a section; all that is wrong with it is reported.
pub(crate) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Field<Schedule> {
    let Some((value, spot)) = section.value("schedule") else { return Field::Absent };
    let table = match value {
        DeValue::Table(table) => table,
        DeValue::Array(_) => {
            let way_out = "expected one schedule, found a list; a server has one, so split it into \
                           two [[server]] entries with names of their own, or write";
            report.add(&spot, format!("{way_out} {EXAMPLE}"));
            return Field::Bad;
        }
        other => {
            let found = type_name(other);
            report.add(&spot, format!("expected a table, found {found}; write {EXAMPLE}"));
            return Field::Bad;
        }
    };
    let section = section.below(table, spot);
    section.check_keys(&["every", "on", "at", "zone", "weekly_on"], &[], report);
    // All of them before any is given up, so that all problems are seen at once.
    let every = every(&section, report);
    let at = at(&section, report);
    let zone = zone(&section, report);
    match (every, at, zone) {
        (Some(every), Some(at), Some(zone)) => Field::Good(Schedule::new(every, at, zone)),
        _ => Field::Bad,
    }
}

fn every(section: &Section<'_>, report: &mut Report<'_>) -> Option<Every> {
    let on = weekday(section, "on", report);
    let weekly_on = weekday(section, "weekly_on", report);
    let (text, spot) = match section.text("every", r#"every = "week""#, report) {
        Field::Absent => {
            report.add(
                &section.missing("every"),
                r#"missing; expected how often: write every = "day" or every = "week""#,
            );
            return None;
        }
        Field::Bad => return None,
        Field::Good(found) => found,
    };
    match text {
        "day" => {
            if let Some((_, spot)) = section.value("on") {
                report.add(
                    &spot,
                    r#"a daily schedule has no day; remove it, or write every = "week""#,
                );
                return None;
            }
            Some(Every::Day { weekly_on: weekly_on.or_usual(Weekday::Sunday)? })
        }
        "week" => {
            if let Some((_, spot)) = section.value("weekly_on") {
                report.add(
                    &spot,
                    r#"only a daily schedule falls back to weekly; remove it, the day is that of on"#,
                );
                return None;
            }
            match on {
                Field::Good(on) => Some(Every::Week { on }),
                Field::Bad => None,
                Field::Absent => {
                    report.add(
                        &section.missing("on"),
                        r#"missing; expected a day of the week: write on = "sunday""#,
                    );
                    None
                }
            }
        }
        other => {
            let found = shown(other);
            report.add(
                &spot,
                format!(r#"expected "day" or "week", found {found:?}; write every = "week""#),
            );
            None
        }
    }
}

fn weekday(section: &Section<'_>, key: &str, report: &mut Report<'_>) -> Field<Weekday> {
    let example = format!("{key} = \"sunday\"");
    section.text(key, &example, report).and_then(|(text, spot)| {
        let found = WEEKDAYS.into_iter().find(|day| text.eq_ignore_ascii_case(weekday_name(*day)));
        if found.is_none() {
            let names = WEEKDAYS.map(weekday_name);
            // Sundays, sun, and what is near by its letters.
            let begins = |name: &&str| {
                text.len() >= 2
                    && text.is_char_boundary(2)
                    && name.starts_with(&text[..2].to_ascii_lowercase())
            };
            let near = near::nearest(text, names).or_else(|| names.into_iter().find(begins));
            report.add(
                &spot,
                format!(
                    "expected a day of the week, monday to sunday, found {:?}; write {key} = {:?}",
                    shown(text),
                    near.unwrap_or("sunday")
                ),
            );
        }
        found
    })
}

fn at(section: &Section<'_>, report: &mut Report<'_>) -> Option<Time> {
    match section.text("at", r#"at = "02:30""#, report) {
        Field::Bad => None,
        Field::Absent => {
            report.add(
                &section.missing("at"),
                r#"missing; expected the local time: write at = "02:30""#,
            );
            None
        }
        Field::Good((text, spot)) => {
            let time = time_of_day(text);
            if time.is_none() {
                let found = shown(text);
                report.add(
                    &spot,
                    format!(
                        "expected a local time HH:MM from 00:00 to 23:59, found {found:?}; \
                         write such as at = \"02:30\""
                    ),
                );
            }
            time
        }
    }
}

/// `HH:MM`, and no other spelling.
fn time_of_day(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let two = |digits: &str| {
        let good = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        if good { digits.parse::<i8>().ok() } else { None }
    };
    Time::new(two(hour)?, two(minute)?, 0, 0).ok()
}

fn zone(section: &Section<'_>, report: &mut Report<'_>) -> Option<TimeZone> {
    let field = section.text("zone", r#"zone = "Europe/Berlin""#, report);
    field.and_then(|(text, spot)| found_zone(text, &spot, report)).or_usual(TimeZone::UTC)
}

fn found_zone(text: &str, spot: &Spot, report: &mut Report<'_>) -> Option<TimeZone> {
    let found = zone::find(text);
    if found.is_none() {
        let near = if report.is_full() { None } else { zone::nearest(text) };
        let way_out = near.map_or_else(
            || "write zone = \"UTC\" or the name of a place's zone".to_owned(),
            |near| format!("did you mean {near:?}?"),
        );
        report.add(
            spot,
            format!(
                "expected an IANA zone such as Europe/Berlin, found {:?}; {way_out}",
                shown(text)
            ),
        );
    }
    found
}
