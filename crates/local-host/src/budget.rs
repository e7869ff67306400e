//! How often the handler may fail before the host gives up, and how long a restart waits.

use std::time::{Duration, Instant};

/// The host stops at this many errors…
const MAX_ERRORS: usize = 3;

/// …none of which came longer than this after the one before.
const MEMORY: Duration = Duration::from_secs(30 * 60);

/// Counts the handler's errors.
#[derive(Debug, Default)]
pub(crate) struct ErrorBudget {
    errors: usize,
    last: Option<Instant>,
}

impl ErrorBudget {
    /// Counts an error; says whether it was one too many.
    pub(crate) fn is_spent_by(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.duration_since(last) > MEMORY) {
            self.errors = 0;
        }
        self.errors += 1;
        self.last = Some(now);
        self.errors >= MAX_ERRORS
    }
}

/// A handler that ends itself this often in a row, and never was ready, never will be.
const MAX_EARLY_EXITS: usize = 10;

/// Counts handlers that ended themselves without an error before they were ready, which restarts
/// would otherwise go on with for ever.
#[derive(Debug, Default)]
pub(crate) struct EarlyExits {
    in_a_row: usize,
}

impl EarlyExits {
    /// Counts such an end; says whether it was one too many.
    pub(crate) fn are_too_many(&mut self, was_ready: bool) -> bool {
        self.in_a_row = if was_ready { 0 } else { self.in_a_row + 1 };
        self.in_a_row >= MAX_EARLY_EXITS
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A handler that ran this long did not end in a loop.
const LONG_RUN: Duration = Duration::from_secs(30);

/// Slows down restarts that do not count as errors, so that they cannot become a tight loop.
#[derive(Debug, Default)]
pub(crate) struct RestartPause {
    next: Duration,
}

impl RestartPause {
    /// The pause after a handler that ran for `lifetime`: none the first time, then longer and
    /// longer as long as handlers end soon.
    pub(crate) fn after(&mut self, lifetime: Duration) -> Duration {
        if lifetime >= LONG_RUN {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_errors_are_too_many_unless_half_an_hour_lies_between() {
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        let mut budget = ErrorBudget::default();
        assert!(!budget.is_spent_by(minutes(0)));
        assert!(!budget.is_spent_by(minutes(30)));
        assert!(budget.is_spent_by(minutes(60)), "no gap was longer than half an hour");
        let mut budget = ErrorBudget::default();
        assert!(!budget.is_spent_by(minutes(0)));
        assert!(!budget.is_spent_by(minutes(1)));
        assert!(!budget.is_spent_by(minutes(32)), "the count starts anew");
        assert!(!budget.is_spent_by(minutes(33)));
        assert!(budget.is_spent_by(minutes(34)));
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_anew_after_a_long_run() {
        let mut pause = RestartPause::default();
        let soon = Duration::from_millis(5);
        let pauses: Vec<u128> = (0..10).map(|_| pause.after(soon).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(pause.after(LONG_RUN), Duration::ZERO);
        assert_eq!(pause.after(soon), FIRST_PAUSE);
    }

    #[test]
    fn ends_before_readiness_are_too_many_only_in_a_row() {
        let mut exits = EarlyExits::default();
        let nine_are_too_many = (0..9).any(|_| exits.are_too_many(false));
        assert!(!nine_are_too_many && !exits.are_too_many(true));
        assert!(!(0..9).any(|_| exits.are_too_many(false)) && exits.are_too_many(false));
    }
}
