//! Speeds and the time left, from readings.

use std::collections::VecDeque;
use std::time::Duration;

use flexkeep_engine::ProgressReading;

/// How far back a speed looks.
const SPEED_WINDOW: Duration = Duration::from_secs(5);

/// How far back the estimate of the time left looks: tables differ, so it is longer.
const ESTIMATE_WINDOW: Duration = Duration::from_secs(60);

/// Least time for which a speed says something.
const LEAST_TIME: Duration = Duration::from_millis(900);

/// The last readings with the time since the start.
#[derive(Default)]
pub(crate) struct Meter {
    readings: VecDeque<(Duration, ProgressReading)>,
}

impl Meter {
    /// Adds a reading.
    pub(crate) fn add(&mut self, at: Duration, reading: ProgressReading) {
        while self.readings.front().is_some_and(|(then, _)| at - *then > ESTIMATE_WINDOW) {
            self.readings.pop_front();
        }
        self.readings.push_back((at, reading));
    }

    /// Bytes read a second, lately.
    pub(crate) fn read_speed(&self) -> Option<u64> {
        self.speed(SPEED_WINDOW, |reading| reading.read_bytes)
    }

    /// The time left if work goes on as in the last minute; `None` when that is not known.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let (_, last) = self.readings.back()?;
        let left = last.total_bytes.saturating_sub(last.done_bytes);
        let speed = self.speed(ESTIMATE_WINDOW, |reading| reading.done_bytes)?;
        left.checked_div(speed).map(Duration::from_secs)
    }

    fn speed(&self, window: Duration, of: impl Fn(&ProgressReading) -> u64) -> Option<u64> {
        let (now, last) = self.readings.back()?;
        let (then, first) = self.readings.iter().find(|(then, _)| *now - *then <= window)?;
        let time = *now - *then;
        // An attempt that was given up takes what it did back.
        let bytes = of(last).saturating_sub(of(first));
        (time >= LEAST_TIME).then(|| (bytes as f64 / time.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(done: u64, total: u64) -> ProgressReading {
        ProgressReading {
            done_bytes: done,
            read_bytes: done,
            total_bytes: total,
            ..ProgressReading::default()
        }
    }

    #[test]
    fn speed_and_time_left_follow_the_last_readings() {
        let mut meter = Meter::default();
        assert_eq!((meter.read_speed(), meter.time_left()), (None, None));
        for second in 0..100 {
            // Slow at first; nothing of that is left in the windows at the end.
            let done = if second < 30 { second } else { 30 + (second - 30) * 100 };
            meter.add(Duration::from_secs(second), reading(done, 17_030 - 100));
        }
        assert_eq!(meter.read_speed(), Some(100));
        assert_eq!(meter.time_left(), Some(Duration::from_secs(100)));
    }

    #[test]
    fn a_standstill_has_no_time_left_and_a_step_back_no_speed() {
        let mut meter = Meter::default();
        meter.add(Duration::ZERO, reading(500, 1000));
        meter.add(Duration::from_secs(1), reading(500, 1000));
        assert_eq!((meter.read_speed(), meter.time_left()), (Some(0), None));
        meter.add(Duration::from_secs(2), reading(0, 1000));
        assert_eq!(meter.read_speed(), Some(0));
    }
}
