//! The time limit that host.json gives to every function.

use std::time::Duration;

use serde_json::{Map, Value};

/// The host's limit when host.json names none, on the Flex Consumption, Premium and Dedicated plans.
///
/// On the old Consumption plan it is five minutes: name the limit in host.json there.
pub const DEFAULT_FUNCTION_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// host.json can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostJsonError {
    /// It is not JSON, or `functionTimeout` is not a string.
    #[error("host.json can't be read")]
    NotJson(#[source] serde_json::Error),
    /// The limit is not understood.
    #[error(
        "host.json: functionTimeout: expected \"hh:mm:ss\", \"d.hh:mm:ss\" or \"-1\" for no limit, found {found:?}"
    )]
    Timeout {
        /// The value found.
        found: String,
    },
}

/// The limit in `functionTimeout` of a host.json, to be given to [`App::function_timeout`].
///
/// `None` means that there is no limit (`"-1"`); without the key it is [`DEFAULT_FUNCTION_TIMEOUT`]. The app
/// setting `AzureFunctionsJobHost__functionTimeout` overrides host.json and is not seen here.
///
/// # Errors
/// If the text is not JSON (comments count as that), or the limit is not understood or not positive.
///
/// [`App::function_timeout`]: crate::App::function_timeout
pub fn host_json_timeout(host_json: &str) -> Result<Option<Duration>, HostJsonError> {
    let host_json = host_json.trim_start_matches('\u{feff}');
    let host_json: Map<String, Value> =
        serde_json::from_str(host_json).map_err(HostJsonError::NotJson)?;
    // The host's configuration does not mind the case of names.
    let found = host_json.into_iter().find(|(key, _)| key.eq_ignore_ascii_case("functionTimeout"));
    let found = match found {
        Some((_, Value::String(text))) => text,
        None | Some((_, Value::Null)) => return Ok(Some(DEFAULT_FUNCTION_TIMEOUT)),
        Some((_, other)) => return Err(HostJsonError::Timeout { found: other.to_string() }),
    };
    if found.trim() == "-1" {
        return Ok(None);
    }
    match time_span(found.trim()) {
        Some(limit) if !limit.is_zero() => Ok(Some(limit)),
        _ => Err(HostJsonError::Timeout { found }),
    }
}

/// .NET's TimeSpan: `[d.]hh:mm[:ss[.fffffff]]`. A bare number would be days there; nobody means that.
fn time_span(text: &str) -> Option<Duration> {
    let (hours, rest) = text.split_once(':')?;
    let (days, hours) = match hours.split_once('.') {
        Some((days, hours)) => (number(days, 10_675_199)?, hours),
        None => (0, hours),
    };
    let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "0"));
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let whole =
        ((days * 24 + number(hours, 23)?) * 60 + number(minutes, 59)?) * 60 + number(seconds, 59)?;
    if fraction.len() > 7 {
        return None;
    }
    let nanoseconds = number(fraction, 9_999_999)? * 10_u64.pow(9 - fraction.len() as u32);
    Some(Duration::from_secs(whole) + Duration::from_nanos(nanoseconds))
}

fn number(digits: &str, most: u64) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    plain.then(|| digits.parse().ok())?.filter(|number| *number <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(value: &str) -> Result<Option<Duration>, HostJsonError> {
        host_json_timeout(&format!(r#"{{"version":"2.0","functionTimeout":"{value}"}}"#))
    }

    #[test]
    fn hours_minutes_and_seconds_are_read() {
        assert_eq!(timeout("00:10:00").unwrap(), Some(Duration::from_secs(600)));
        assert_eq!(timeout("23:59:59").unwrap(), Some(Duration::from_secs(86_399)));
        assert_eq!(timeout("00:00:01.5").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(timeout("01:30").unwrap(), Some(Duration::from_secs(5400)));
    }

    #[test]
    fn days_before_the_point_are_read() {
        assert_eq!(timeout("1.02:03:04").unwrap(), Some(Duration::from_secs(93_784)));
    }

    #[test]
    fn minus_one_is_no_limit_and_a_missing_key_is_the_default_of_the_platform() {
        assert_eq!(timeout("-1").unwrap(), None);
        assert_eq!(
            host_json_timeout(r#"{"version":"2.0"}"#).unwrap(),
            Some(DEFAULT_FUNCTION_TIMEOUT)
        );
        assert_eq!(host_json_timeout("\u{feff}{}").unwrap(), Some(DEFAULT_FUNCTION_TIMEOUT));
    }

    #[test]
    fn what_is_no_time_is_an_error_that_names_the_key_and_the_value() {
        for value in [
            "",
            "10",
            "ten",
            "24:00:00",
            "00:60:00",
            "00:00:60",
            "-00:10:00",
            "00:00:00",
            "1:2:3:4",
            "0:0:0.12345678",
        ] {
            let error = timeout(value).unwrap_err().to_string();
            assert!(
                error.contains("functionTimeout") && error.contains(&format!("{value:?}")),
                "{error}"
            );
        }
        assert!(matches!(host_json_timeout("{"), Err(HostJsonError::NotJson(_))));
        assert!(matches!(
            host_json_timeout(r#"{"functionTimeout":600}"#),
            Err(HostJsonError::Timeout { .. })
        ));
    }
}
