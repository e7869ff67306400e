//! When the next database is prepared: while the lanes read the last items of the one before.
//!
//! Earlier, its snapshot would be held for hours before anybody reads from it, and keep the server
//! from cleaning up; later, the lanes would wait for pg_dump to look at the catalogs.

use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    /// The database whose last items are being read, if any has come so far.
    passed_by: Option<String>,
    over: bool,
}

/// The turn to be prepared, passed from database to database.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

impl Turn {
    /// Says that the items of `database` are all taken.
    pub(crate) fn pass(&self, database: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.passed_by.as_deref() != Some(database) {
            state.passed_by = Some(database.to_owned());
            self.changed.notify_all();
        }
    }

    /// Says that nobody needs another database.
    pub(crate) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }

    /// Waits until `before` has passed the turn; false when there is no turn any more. Ends
    /// because the thread that reads `before` passes the turn or ends it, however it fares.
    pub(crate) fn wait_for(&self, before: &str) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.over && state.passed_by.as_deref() != Some(before) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.over
    }
}
