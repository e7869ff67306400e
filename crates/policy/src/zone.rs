//! Time zones by name: the system's database first, as its owner keeps it up to date, then the one
//! in this program, so that a container without any works.

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Names that databases have but that are no place's time: they depend on the machine, or count
/// leap seconds.
const NOT_ZONES: [&str; 5] = ["localtime", "posixrules", "factory", "local", "etc/unknown"];

/// The zone of an IANA name, in any case of letters; `None` when there is no such zone.
pub(crate) fn find(name: &str) -> Option<TimeZone> {
    let lower = name.to_ascii_lowercase();
    if NOT_ZONES.contains(&lower.as_str())
        || lower.starts_with("right/")
        || lower.starts_with("posix/")
    {
        return None;
    }
    if lower == "utc" {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).or_else(|_| TimeZoneDatabase::bundled().get(name)).ok()
}

/// The name of a zone that is nearest to a wrong one.
pub(crate) fn nearest(name: &str) -> Option<String> {
    let names: Vec<String> =
        TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect();
    // A city alone is the most usual mistake.
    let city = name.trim().replace(' ', "_");
    let of_city = names.iter().find(|full| {
        full.rsplit_once('/').is_some_and(|(_, last)| last.eq_ignore_ascii_case(&city))
    });
    of_city
        .cloned()
        .or_else(|| crate::near::nearest(name, names.iter().map(String::as_str)).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_by_their_iana_name_only() {
        assert_eq!(find("europe/berlin").unwrap().iana_name(), Some("Europe/Berlin"));
        assert_eq!(find("UTC").unwrap(), TimeZone::UTC);
        for name in [
            "",
            "Berlin",
            "+02:00",
            "local",
            "localtime",
            "right/Europe/Berlin",
            "posix/UTC",
            "../../etc/passwd",
            "/etc/localtime",
            "Etc/Unknown",
            "Europe",
            "CET-1CEST",
        ] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_a_right_one() {
        assert_eq!(nearest("berlin").as_deref(), Some("Europe/Berlin"));
        assert_eq!(nearest("New York").as_deref(), Some("America/New_York"));
        assert_eq!(nearest("Europe/Berlni").as_deref(), Some("Europe/Berlin"));
        assert_eq!(nearest("+02:00"), None);
    }
}
