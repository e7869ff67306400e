//! .NET time spans, the way durations are written in host.json and in timer schedules.

use std::time::Duration;

const DAY: u64 = 86_400;

/// Parses `[days.]hours:minutes[:seconds[.fraction]]`, `days:hours:minutes:seconds` or whole days.
/// A negative span is not one of the durations that the host works with, and gives `None`.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    if !text.contains(':') {
        return Some(Duration::from_secs(number(text, 10_675_199)?.checked_mul(DAY)?));
    }
    let mut parts: Vec<&str> = text.split(':').collect();
    let mut days = 0;
    if parts.len() == 4 {
        days = number(parts.remove(0), 10_675_199)?;
    } else if let Some((before, hours)) = parts[0].split_once('.') {
        days = number(before, 10_675_199)?;
        parts[0] = hours;
    }
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    let hours = number(parts[0], 23)?;
    let minutes = number(parts[1], 59)?;
    let (seconds, nanos) = match parts.get(2) {
        None => (0, 0),
        Some(seconds) => match seconds.split_once('.') {
            None => (number(seconds, 59)?, 0),
            Some((whole, fraction)) => (number(whole, 59)?, fraction_nanos(fraction)?),
        },
    };
    Some(Duration::new(days * DAY + hours * 3_600 + minutes * 60 + seconds, nanos))
}

fn number(text: &str, max: u64) -> Option<u64> {
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|value| *value <= max)
}

fn fraction_nanos(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 7 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: u32 = text.parse().ok()?;
    Some(digits * 10_u32.pow(9 - text.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_dotnet_are_read() {
        assert_eq!(parse("00:10:00"), Some(Duration::from_secs(600)));
        assert_eq!(parse("00:00:00.80"), Some(Duration::from_millis(800)));
        assert_eq!(parse("1.02:00:00"), Some(Duration::from_secs(DAY + 7_200)));
        assert_eq!(parse("1:02:00:00"), Some(Duration::from_secs(DAY + 7_200)));
        assert_eq!(parse("05:30"), Some(Duration::from_secs(19_800)));
        assert_eq!(parse("2"), Some(Duration::from_secs(2 * DAY)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-1", "24:00:00", "00:60:00", "1:2:3:4:5", "ten", "00:00:01.12345678", ":"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
