//! How far a long piece of work is: counters that lanes add to and a display reads.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared counters of one backup or export. All sizes are bytes.
#[derive(Debug, Default)]
pub struct Progress {
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    read_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    objects_total: AtomicU64,
    objects_done: AtomicU64,
    cancelled: Arc<AtomicBool>,
    phase: Mutex<String>,
    messages: Mutex<Vec<String>>,
    restarts: Mutex<Vec<Restart>>,
}

/// A database whose snapshot was given up, and that is read anew from a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The database.
    pub database: String,
    /// The attempt that begins now; the first was 1.
    pub attempt: u32,
    /// Why the last one was given up, without secrets.
    pub reason: String,
}

/// One reading of [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReading {
    /// What is being done now, such as `shop: tables`.
    pub phase: String,
    /// Estimated size of the whole work, on-disk bytes of the tables planned so far.
    pub total_bytes: u64,
    /// How much of `total_bytes` is done.
    pub done_bytes: u64,
    /// Bytes of data read (COPY text), or verified at an export.
    pub read_bytes: u64,
    /// Bytes written to the vault or the folder.
    pub stored_bytes: u64,
    /// Tables and groups of large objects planned so far.
    pub objects_total: u64,
    /// How many of them are done.
    pub objects_done: u64,
}

impl Progress {
    /// A reading of all counters.
    pub fn read(&self) -> ProgressReading {
        ProgressReading {
            phase: self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            objects_total: self.objects_total.load(Ordering::Relaxed),
            objects_done: self.objects_done.load(Ordering::Relaxed),
        }
    }

    /// Asks the work to stop: it ends with an error soon, and seals nothing.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// An error, if [`Progress::cancel`] was called.
    pub(crate) fn check_cancelled<E>(&self, error: E) -> Result<(), E> {
        if self.is_cancelled() { Err(error) } else { Ok(()) }
    }

    /// What becomes true when it is cancelled, for those that wait.
    pub(crate) fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Takes the messages since the last call, such as a new attempt and its reason.
    pub fn take_messages(&self) -> Vec<String> {
        std::mem::take(&mut self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the restarts since the last call.
    pub fn take_restarts(&self) -> Vec<Restart> {
        std::mem::take(&mut self.restarts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn restart(&self, restart: Restart) {
        self.message(format!(
            "database {:?}: snapshot {} was given up ({}); trying again",
            restart.database,
            restart.attempt - 1,
            restart.reason
        ));
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner).push(restart);
    }

    pub(crate) fn message(&self, text: String) {
        tracing::info!("{text}");
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    pub(crate) fn phase(&self, text: &str) {
        text.clone_into(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn planned(&self, objects: u64, bytes: u64) {
        self.objects_total.fetch_add(objects, Ordering::Relaxed);
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Goes back to an earlier reading: what an attempt that failed had planned and done does not
    /// count. What it read and stored did happen.
    pub(crate) fn go_back(&self, to: &ProgressReading) {
        self.total_bytes.store(to.total_bytes, Ordering::Relaxed);
        self.done_bytes.store(to.done_bytes, Ordering::Relaxed);
        self.objects_total.store(to.objects_total, Ordering::Relaxed);
        self.objects_done.store(to.objects_done, Ordering::Relaxed);
    }

    pub(crate) fn read_some(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn object_done(&self) {
        self.objects_done.fetch_add(1, Ordering::Relaxed);
    }
}
