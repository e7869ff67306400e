//! The last backup, as all lanes of a run see it.
//!
//! Which of its chunks are still in the vault is found by listing them all. One lane does that and
//! writes down what was missing; those that come later only read the last backup's own list.

use flexkeep_vault::store::PutMode;
use flexkeep_vault::{BackupId, ContentHash};
use serde::{Deserialize, Serialize};

use super::state::{self, RunObjects};
use crate::backup::LastBackup;
use crate::error::BackupError;
use crate::progress::Progress;

/// Of more chunks that are missing nothing is written down: something is wrong with the vault, and
/// each lane looks for itself. Nor if a part of the last backup could not be read: what one lane
/// could not look for the next one shall not rely on.
const MISSING_LISTED: usize = 100_000;

/// What the first lane found.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// The last backup.
    backup: BackupId,
    /// Its chunks that are not in the vault as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<ContentHash>,
}

/// What the last backup tells the lanes of a run.
pub(super) fn of_run(objects: &RunObjects, progress: &Progress) -> Result<LastBackup, BackupError> {
    match objects.get::<Found>(state::LAST_BACKUP)? {
        Some(Found { backup, missing }) => {
            let mut last = LastBackup::named(&objects.vault, backup, progress)?;
            last.known.forget(&missing);
            Ok(last)
        }
        None => {
            let (last, missing) = LastBackup::read(&objects.vault, &objects.server, progress)?;
            if let (Some(backup), true) = (&last.id, last.is_whole)
                && missing.len() <= MISSING_LISTED
            {
                let found = Found { backup: backup.clone(), missing };
                objects.put(state::LAST_BACKUP, &found, PutMode::Create)?;
            }
            Ok(last)
        }
    }
}
