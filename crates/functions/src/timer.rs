//! The timer trigger.

use jiff::Timestamp;
use serde::Deserialize;

use crate::{bindings::Bindings, envelope::Envelope, error::PayloadError, value};

/// A timer fired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimerEvent {
    /// When it fired before and will again; absent when the host does not monitor the schedule
    /// (`useMonitor` is false, or the interval is under a minute).
    pub schedule_status: Option<ScheduleStatus>,
    /// Whether an occurrence was missed, and this is the one run that makes up for it.
    pub is_past_due: bool,
}

/// What the host remembers of a schedule. `None` stands for "never".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleStatus {
    /// The run before this one; `None` at the first ever.
    pub last: Option<Timestamp>,
    /// The occurrence that is being fired, about now: not the one after.
    pub next: Option<Timestamp>,
    /// When the host wrote this down.
    pub last_updated: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object")]
struct Wire {
    schedule_status: Option<WireStatus>,
    #[serde(default)]
    is_past_due: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object")]
struct WireStatus {
    last: Option<String>,
    next: Option<String>,
    last_updated: Option<String>,
}

pub(crate) fn decode(
    envelope: &Envelope<'_>,
    bindings: &Bindings,
) -> Result<TimerEvent, PayloadError> {
    let name = &bindings.trigger;
    let raw = envelope.trigger(name)?;
    let what = format!("Data.{name}: expected the object of a timer");
    let wire: Wire = value::object(raw.get().as_bytes(), &what)?;
    let date = |text: Option<String>, key: &str| {
        let Some(text) = text else { return Ok(None) };
        let what = format!("Data.{name}.ScheduleStatus.{key}");
        // DateTime.MinValue, in whatever offset, stands for "never".
        if text.starts_with("0001-01-01") {
            return Ok(None);
        }
        value::timestamp(&text, &what).map(Some)
    };
    let schedule_status = match wire.schedule_status {
        None => None,
        Some(status) => Some(ScheduleStatus {
            last: date(status.last, "Last")?,
            next: date(status.next, "Next")?,
            last_updated: date(status.last_updated, "LastUpdated")?,
        }),
    };
    Ok(TimerEvent { schedule_status, is_past_due: wire.is_past_due })
}
