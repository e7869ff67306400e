//! Sizes, counts, times and durations for people.

use std::time::Duration;

use jiff::Timestamp;

/// `512 B`, `1.50 kB`, `12.3 MB`, `978 GB`: powers of ten, three digits.
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        // What would be rounded to 1000 belongs to the next unit.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The part of a whole, `None` of nothing. Less than all is never `100 %`.
pub(crate) fn percent(part: u64, whole: u64) -> Option<String> {
    if whole == 0 {
        return None;
    }
    let percent = part as f64 * 100.0 / whole as f64;
    Some(if part >= whole {
        "100 %".to_owned()
    } else if part > 0 && percent < 1.0 {
        "<1 %".to_owned()
    } else {
        format!("{:.0} %", percent.floor())
    })
}

/// `0.4 s`, `42 s`, `2 m 10 s`, `3 h 5 m`, `2 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `0:01:05`.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `2026-11-22T22:53:00Z`.
pub(crate) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long ago something was: `42 s ago`, `3 h ago`, `12 d ago`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    match seconds {
        ..0 => "in the future".to_owned(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} m ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The time between two moments, zero if they are the wrong way round.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_ten_with_three_digits() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1_234_567, "1.23 MB"),
            (9_994_999, "9.99 MB"),
            (9_995_001, "10.0 MB"),
            (99_960_000, "100 MB"),
            (999_400, "999 kB"),
            (999_600, "1.00 MB"),
            (978_000_000_000, "978 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_have_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn less_than_all_is_never_all() {
        assert_eq!(percent(0, 0), None);
        assert_eq!(percent(0, 5).unwrap(), "0 %");
        assert_eq!(percent(1, 1_000_000).unwrap(), "<1 %");
        assert_eq!(percent(999_999, 1_000_000).unwrap(), "99 %");
        assert_eq!(percent(7, 5).unwrap(), "100 %");
    }

    #[test]
    fn durations_and_ages_use_two_units_at_most() {
        let cases = [(42, "42 s"), (130, "2 m 10 s"), (11_100, "3 h 5 m"), (187_200, "2 d 4 h")];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(clock(Duration::from_secs(3665)), "1:01:05");
        let now: Timestamp = "2026-11-22T22:53:00.9Z".parse().unwrap();
        assert_eq!(time(now), "2026-11-22T22:53:00Z");
        let then = |seconds: i64| Timestamp::from_second(now.as_second() - seconds).unwrap();
        for (seconds, text) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (7200, "2 h ago"),
            (259_200, "3 d ago"),
            (-5, "in the future"),
        ] {
            assert_eq!(age(then(seconds), now), text);
        }
        assert_eq!(between(now, then(5)), Duration::ZERO);
    }
}
