//! What others may see of a run while it goes on: its progress, beside its record in the vault.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flexkeep_vault::store::{PutMode, StoreErrorKind};
use flexkeep_vault::{RunId, ServerName, Vault, VaultError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::progress::{Progress, ProgressReading};
use crate::relay::{self, DatabaseProgress, LaneProgress};

/// How often a run writes its progress into the vault. Short backups write none: a write that
/// waits for the disk costs others time.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(5);

const OBJECT: &str = "progress.json";

/// How far a run was at some moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProgress {
    /// When this was read, on the clock of the machine that backs up.
    pub at: Timestamp,
    /// Bytes of data read per second since the reading before.
    pub bytes_per_second: u64,
    /// The time left, seconds, if it goes on as it went; `None` when that is not known.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// The counters.
    #[serde(flatten)]
    pub reading: ProgressReading,
    /// The lanes, in their order; none of a backup by one process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<LaneProgress>,
    /// The databases, in the order of the backup; none of a backup by one process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseProgress>,
}

impl RunProgress {
    /// Done, in percent of what is planned so far; `None` before anything is planned.
    pub fn percent(&self) -> Option<u8> {
        let total = self.reading.total_bytes;
        let percent = u128::from(self.reading.done_bytes) * 100 / u128::from(total.max(1));
        (total > 0).then_some(percent.min(100) as u8)
    }
}

/// The last progress that a run has written, of all its lanes; `None` if it has not yet.
pub fn run_progress(
    vault: &Vault,
    server: &ServerName,
    run: &RunId,
) -> Result<Option<RunProgress>, VaultError> {
    match vault.get_run_object(server, run, OBJECT) {
        // Only for people to look at: what cannot be read says nothing.
        Ok(body) => Ok(serde_json::from_slice(&body).ok()),
        Err(VaultError::Store(error)) if error.kind == StoreErrorKind::NotFound => {
            match relay::relay_progress(vault, server, run) {
                Err(BackupError::Vault(error)) => Err(error),
                progress => Ok(progress.ok().flatten()),
            }
        }
        Err(error) => Err(error),
    }
}

/// The time left if what is planned takes as long as what is done, which took `elapsed`.
fn seconds_left(reading: &ProgressReading, elapsed: Duration) -> Option<u64> {
    let left = reading.total_bytes.saturating_sub(reading.done_bytes);
    let seconds = u128::from(left) * u128::from(elapsed.as_secs());
    u64::try_from(seconds.checked_div(u128::from(reading.done_bytes))?).ok()
}

/// Writes progress from a thread of its own until it is stopped.
pub(crate) struct Reporter {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    pub(crate) fn start(
        vault: &Vault,
        server: &ServerName,
        run: &RunId,
        progress: &Arc<Progress>,
    ) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let (vault, server, run) = (vault.clone(), server.clone(), run.clone());
        let progress = Arc::clone(progress);
        let work = move || {
            let (mut read_before, began) = (0, Instant::now());
            while stopped.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                let reading = progress.read();
                let read = reading.read_bytes.saturating_sub(read_before);
                read_before = reading.read_bytes;
                let bytes_per_second = read / PROGRESS_EVERY.as_secs().max(1);
                let report = RunProgress {
                    at: Timestamp::now(),
                    bytes_per_second,
                    seconds_left: seconds_left(&reading, began.elapsed()),
                    reading,
                    lanes: Vec::new(),
                    databases: Vec::new(),
                };
                let Ok(body) = serde_json::to_vec(&report) else { continue };
                let put = vault.put_run_object(&server, &run, OBJECT, &body, PutMode::Overwrite);
                if let Err(error) = put {
                    tracing::warn!("cannot write the progress of run {run}: {error}");
                }
            }
        };
        // Without the thread nobody sees the progress; the backup is none the worse.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(work).ok();
        Self { stop, thread }
    }

    /// Waits for a write that is under way: none comes after the run was removed.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if let Some(thread) = self.thread {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}
