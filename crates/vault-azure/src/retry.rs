//! The one layer of retries.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use crate::options::RetryLimits;

/// The clock of one request and its repetitions.
#[derive(Debug)]
pub(crate) struct Tries {
    limits: RetryLimits,
    end: Instant,
    failures: u32,
}

impl Tries {
    /// For a request that moves `bytes`.
    pub(crate) fn new(limits: &RetryLimits, bytes: u64) -> Self {
        let end = Instant::now() + limits.total + limits.transfer(bytes);
        Self { limits: limits.clone(), end, failures: 0 }
    }

    /// More time, as more bytes are to come than was known.
    pub(crate) fn extend(&mut self, bytes: u64) {
        self.end += self.limits.transfer(bytes);
    }

    /// How many tries have failed.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long a try that moves `bytes` may take now.
    pub(crate) fn limit(&self, bytes: u64) -> Duration {
        (self.limits.answer + self.limits.transfer(bytes))
            .min(self.end.saturating_duration_since(Instant::now()))
    }

    /// One try.
    pub(crate) async fn attempt<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = azure_core::Result<T>>,
    ) -> Result<T, Failure> {
        let limit = self.limit(bytes);
        match timeout(limit, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::timed_out(limit)),
        }
    }

    /// Waits for the next try; gives the failure back when there is none, as it won't pass or the
    /// time is over.
    pub(crate) async fn pause(&mut self, failure: Failure) -> Result<(), Failure> {
        self.failures += 1;
        if !failure.may_pass() {
            return Err(failure);
        }
        let doubled = self.limits.first_pause.saturating_mul(1 << (self.failures - 1).min(16));
        let pause = doubled.min(self.limits.max_pause).mul_f64(0.5 + fastrand::f64());
        let pause = pause.max(failure.retry_after().unwrap_or_default());
        if Instant::now() + pause >= self.end {
            return Err(failure.after(self.failures));
        }
        tracing::debug!(%failure, ?pause, tries = self.failures, "trying a storage request again");
        sleep(pause).await;
        Ok(())
    }
}

/// Tries `request` until it succeeds, fails for good, or the time is over. Also tells how many
/// tries failed before: one of them may have taken effect although its answer was lost.
pub(crate) async fn with_retries<T, F>(
    limits: &RetryLimits,
    bytes: u64,
    mut request: impl FnMut() -> F,
) -> (Result<T, Failure>, u32)
where
    F: Future<Output = azure_core::Result<T>>,
{
    let mut tries = Tries::new(limits, bytes);
    loop {
        let failure = match tries.attempt(bytes, request()).await {
            Ok(value) => return (Ok(value), tries.failures()),
            Err(failure) => failure,
        };
        let failed_before = tries.failures();
        if let Err(failure) = tries.pause(failure).await {
            return (Err(failure), failed_before);
        }
    }
}

#[cfg(test)]
mod tests {
    use azure_core::Error;
    use azure_core::error::ErrorKind;

    use super::*;

    fn limits() -> RetryLimits {
        RetryLimits {
            total: Duration::from_secs(60),
            answer: Duration::from_secs(5),
            ..RetryLimits::default()
        }
    }

    fn io_error() -> Error {
        Error::with_message(ErrorKind::Io, "broken")
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_until_it_does() {
        let mut calls = 0;
        let (result, failed) = with_retries(&limits(), 0, || {
            calls += 1;
            let result = if calls < 4 { Err(io_error()) } else { Ok(calls) };
            async move { result }
        })
        .await;
        assert_eq!((result.unwrap(), failed), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_passes_ends_in_time() {
        let started = Instant::now();
        let (result, failed) =
            with_retries(&limits(), 0, || async { Err::<(), _>(io_error()) }).await;
        assert!(result.unwrap_err().may_pass());
        assert!(failed > 5, "{failed}");
        assert!(started.elapsed() <= Duration::from_secs(60));
        assert!(started.elapsed() > Duration::from_secs(30), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_ends_in_time() {
        let started = Instant::now();
        let never = || std::future::pending::<azure_core::Result<()>>();
        let (result, _) = with_retries(&limits(), 0, never).await;
        assert!(result.unwrap_err().to_string().contains("no answer"));
        assert!(started.elapsed() <= Duration::from_secs(61), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_not_tried_again() {
        let mut calls = 0;
        let (result, failed) = with_retries(&limits(), 0, || {
            calls += 1;
            async { Err::<(), _>(Error::with_message(ErrorKind::DataConversion, "no XML")) }
        })
        .await;
        assert!(!result.unwrap_err().may_pass());
        assert_eq!((calls, failed), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_gets_the_time_of_a_slow_connection() {
        let tries = Tries::new(&limits(), 4 << 20);
        assert_eq!(tries.limit(4 << 20), Duration::from_secs(5 + 64));
    }
}
