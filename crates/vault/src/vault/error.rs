//! Why a vault operation failed.

use crate::chunk::DamagedChunk;
use crate::store::{StoreError, StoreErrorKind};

/// Why a vault operation failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A place that this build has no store for.
    #[error("cannot use {place:?} as a vault: {reason}")]
    BadPlace {
        /// As the user wrote it, without credentials.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a place, but no vault in it.
    #[error(
        "there is no vault in {place} (no format.json); check the path, or let the first backup make it"
    )]
    NotAVault {
        /// The place.
        place: String,
    },
    /// Create-only: there is one already.
    #[error("there is a vault in {place} already")]
    AlreadyAVault {
        /// The place.
        place: String,
    },
    /// A folder with other things in it is not made into a vault.
    #[error("{place} is not empty and no vault; choose another folder or empty this one")]
    NotEmpty {
        /// The place.
        place: String,
    },
    /// Written by a newer version of this program.
    #[error(
        "{object} has format {found}, this version reads formats up to {known}; use a newer flexkeep"
    )]
    NewerFormat {
        /// What has the format.
        object: String,
        /// Its format.
        found: u32,
        /// The newest that this version reads.
        known: u32,
    },
    /// A chunk whose bytes are not what they should be.
    #[error(transparent)]
    DamagedChunk(#[from] DamagedChunk),
    /// Another object whose bytes are not what they should be.
    #[error("{object} is damaged: {problem}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A manifest that belongs to another vault, as after folders were copied into each other.
    #[error("{object} belongs to the vault {found}, this is the vault {vault}")]
    OtherVault {
        /// The manifest's name.
        object: String,
        /// The vault that it names.
        found: String,
        /// The vault that it lies in.
        vault: String,
    },
    /// Another backup was sealed under the same id.
    #[error("the backup id {0} is taken by another backup")]
    BackupTaken(String),
    /// A manifest that must not be written.
    #[error("backup {backup} cannot be sealed: {problem}")]
    NotSealable {
        /// The backup's id.
        backup: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No backup has that name.
    #[error("there is no backup {wanted:?}{}", hint(.near))]
    NoSuchBackup {
        /// What was asked for.
        wanted: String,
        /// Names like it, best first.
        near: Vec<String>,
    },
    /// More than one backup has that name.
    #[error("{wanted:?} can be {} backups: {}", .candidates.len(), some(.candidates))]
    AmbiguousBackup {
        /// What was asked for.
        wanted: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
    /// An object is longer than the format allows: a mistake of the caller or a limit reached.
    #[error("{what} would have {bytes} bytes, more than the {limit_bytes} that the format allows")]
    TooLong {
        /// Which object.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Compression failed.
    #[error("cannot compress {what}")]
    Compress {
        /// Which object.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl VaultError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    /// Whether the same work may succeed some minutes or hours later: what is transient, a full
    /// disk, and a disk that is not mounted. That one leaves no folder, or one that is somebody
    /// else's. `false` for what says something about the vault itself.
    pub fn may_pass(&self) -> bool {
        let Self::Store(error) = self else { return false };
        matches!(
            error.kind,
            StoreErrorKind::Unavailable
                | StoreErrorKind::NoSpace
                | StoreErrorKind::NoSuchPlace
                | StoreErrorKind::PermissionDenied
                | StoreErrorKind::Other
        )
    }

    /// Whether what failed is that bytes in the vault are wrong or missing.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::DamagedChunk(_) => true,
            Self::Store(error) => {
                matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::TooLarge { .. })
            }
            _ => false,
        }
    }
}

fn hint(near: &[String]) -> String {
    match near {
        [] => "; the vault has no backups".to_owned(),
        near => format!("; did you mean {}?", near.join(", ")),
    }
}

fn some(candidates: &[String]) -> String {
    let shown = candidates.len().min(5);
    let more = if candidates.len() > shown { ", ..." } else { "" };
    format!("{}{more}", candidates[..shown].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_disk_that_is_full_or_not_mounted_may_pass_and_a_damaged_vault_may_not() {
        let store = |kind| {
            let (object, location) = ("chunks/x".to_owned(), "/mnt/vault".to_owned());
            let source = None;
            VaultError::Store(StoreError { operation: "create", object, location, kind, source })
        };
        for kind in [
            StoreErrorKind::Unavailable,
            StoreErrorKind::NoSpace,
            StoreErrorKind::NoSuchPlace,
            StoreErrorKind::PermissionDenied,
            StoreErrorKind::Other,
        ] {
            let error = store(kind);
            assert!(error.may_pass(), "{error}");
        }
        for kind in [StoreErrorKind::NotFound, StoreErrorKind::BadName, StoreErrorKind::Changed] {
            let error = store(kind);
            assert!(!error.may_pass(), "{error}");
        }
        let damaged = VaultError::Damaged { object: "meta/x".into(), problem: "short".into() };
        assert!(!damaged.may_pass());
    }
}
