//! A bound on how fast data is read, out of kindness to the source.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a reader sleeps before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(200);

/// Lets so many bytes pass a second.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When what has passed so far will have taken its time.
    free_at: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Counts bytes that were read, and waits until as many may be; ends early when `stop` says so.
    pub(crate) fn spend(&self, bytes: u64, stop: impl Fn() -> bool) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            // Time in which nothing was read is not saved up.
            *free_at = (*free_at).max(Instant::now()) + cost;
            *free_at
        };
        while !stop() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_stop_ends_the_wait() {
        let pace = Pace::new(1_000_000);
        let began = Instant::now();
        for _ in 0..4 {
            pace.spend(50_000, || false);
        }
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        let began = Instant::now();
        pace.spend(u64::MAX / 2_000_000_000, || true);
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
