//! Work on many threads whose outcomes are taken in order, with a bound on how far it runs ahead.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the threads share.
struct State<T> {
    /// The first job that no worker has taken.
    next: usize,
    /// The first job whose outcome was not taken yet.
    taken: usize,
    /// Outcomes that wait for their turn.
    ready: BTreeMap<usize, T>,
    /// Workers that still run.
    workers: usize,
    stop: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a worker has ended, also when it panicked.
struct Ends<'a, T>(&'a Shared<T>);

impl<T> Drop for Ends<'_, T> {
    fn drop(&mut self) {
        self.0.lock().workers -= 1;
        self.0.changed.notify_all();
    }
}

/// Stops the workers, also when taking an outcome panicked.
struct Stops<'a, T>(&'a Shared<T>);

impl<T> Drop for Stops<'_, T> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

/// Does `work` on each of `jobs` on `threads` threads, and gives the outcomes to `take` in the
/// order of the jobs, on this thread. At most `window` jobs are being done or wait to be taken.
/// `worker` makes what a thread keeps between jobs. The first error of `take` ends everything.
///
/// # Panics
/// If a worker does.
pub(crate) fn in_order<J: Sync, W, T: Send, E>(
    jobs: &[J],
    threads: usize,
    window: usize,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &J) -> T + Sync,
    mut take: impl FnMut(&J, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.clamp(1, jobs.len().max(1));
    let window = window.max(threads);
    let shared = Shared {
        state: Mutex::new(State {
            next: 0,
            taken: 0,
            ready: BTreeMap::new(),
            workers: threads,
            stop: false,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _ends = Ends(&shared);
                let mut kept = worker();
                while let Some(index) = next_job(&shared, jobs.len(), window) {
                    let outcome = work(&mut kept, &jobs[index]);
                    shared.lock().ready.insert(index, outcome);
                    shared.changed.notify_all();
                }
            });
        }
        let _stops = Stops(&shared);
        for (index, job) in jobs.iter().enumerate() {
            // A worker that panicked left a job undone; the scope passes its panic on.
            let Some(outcome) = outcome(&shared, index) else { return Ok(()) };
            take(job, outcome)?;
            shared.lock().taken = index + 1;
            shared.changed.notify_all();
        }
        Ok(())
    })
}

fn next_job<T>(shared: &Shared<T>, jobs: usize, window: usize) -> Option<usize> {
    let mut state = shared.lock();
    loop {
        if state.stop || state.next >= jobs {
            return None;
        }
        if state.next < state.taken + window {
            state.next += 1;
            return Some(state.next - 1);
        }
        state = shared.wait(state);
    }
}

fn outcome<T>(shared: &Shared<T>, index: usize) -> Option<T> {
    let mut state = shared.lock();
    loop {
        if let Some(outcome) = state.ready.remove(&index) {
            return Some(outcome);
        }
        if state.workers == 0 {
            return None;
        }
        state = shared.wait(state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn outcomes_come_in_order_and_never_more_than_the_window_ahead() {
        let jobs: Vec<usize> = (0..200).collect();
        let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = Vec::new();
        let result: Result<(), ()> = in_order(
            &jobs,
            4,
            8,
            || (),
            |(), job| {
                let begun = begun.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(begun <= taken.load(Ordering::SeqCst) + 8 + 1);
                if job % 7 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                job * 2
            },
            |job, outcome| {
                assert_eq!(outcome, job * 2);
                seen.push(*job);
                taken.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!((result, seen), (Ok(()), jobs));
    }

    #[test]
    fn an_error_stops_the_workers() {
        let jobs: Vec<usize> = (0..100_000).collect();
        let done = AtomicUsize::new(0);
        let result = in_order(
            &jobs,
            3,
            6,
            || (),
            |(), _| done.fetch_add(1, Ordering::SeqCst),
            |job, _| if *job == 5 { Err("enough") } else { Ok(()) },
        );
        assert_eq!(result, Err("enough"));
        assert!(done.load(Ordering::SeqCst) <= 5 + 6 + 1);
    }

    #[test]
    fn no_jobs_are_no_work() {
        let result: Result<(), ()> =
            in_order(&[] as &[u8], 4, 8, || (), |(), _| (), |_, ()| Err(()));
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_panic_of_a_worker_is_not_a_hang() {
        let panics = std::panic::catch_unwind(|| {
            in_order(
                &[1, 2, 3],
                2,
                2,
                || (),
                |(), job| assert_ne!(*job, 2, "on purpose"),
                |_, ()| Ok::<(), ()>(()),
            )
        });
        assert!(panics.is_err());
    }
}
