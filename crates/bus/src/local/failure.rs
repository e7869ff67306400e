//! What a failure of SQLite means, and the way out.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::{BusError, BusErrorKind};

const READ_ONLY: &str = "it may not be written; check the owner and mode of the file and its \
                         folder, and how the disk is mounted";

/// The error for what SQLite said while we wanted to do `doing` with the queue file.
pub(super) fn explain(path: &Path, doing: &str, error: rusqlite::Error) -> BusError {
    let (kind, advice) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            BusErrorKind::Busy,
            "another process kept it locked for longer than we wait; try again, or see who has it \
             open (lsof, fuser) and end that",
        ),
        Some(ErrorCode::DiskFull) => (
            BusErrorKind::NoSpace,
            "there is no space left on its disk; nothing was changed, free some and try again",
        ),
        Some(ErrorCode::ReadOnly) => (BusErrorKind::ReadOnly, READ_ONLY),
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => (
            BusErrorKind::CannotOpen,
            "it cannot be opened; check the owner and mode of the file and its folder",
        ),
        Some(ErrorCode::NotADatabase) => (
            BusErrorKind::Foreign,
            "it is no queue file of flexkeep, or its beginning is damaged; name another file, or \
             move this one away with its -wal and -shm",
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            BusErrorKind::Damaged,
            "it is damaged; stop what uses it, move it away with its -wal and -shm, and start again \
             with a new one: waiting messages are lost, backups are not",
        ),
        Some(ErrorCode::SystemIoFailure) => {
            (BusErrorKind::Io, "its disk failed to read or write; check the disk and try again")
        }
        Some(_) => (BusErrorKind::Io, "SQLite failed"),
        // What SQLite did not say itself: a row that is not what this format has.
        None => (
            BusErrorKind::Damaged,
            "it has a row that this format does not know; move it away with its -wal and -shm",
        ),
    };
    BusError::new(kind, format!("queue file {}: cannot {doing}: {advice}", path.display()))
        .with_source(error)
}

/// The error for a file that could be opened for reading only.
pub(super) fn read_only(path: &Path) -> BusError {
    let text = format!("queue file {}: cannot use it: {READ_ONLY}", path.display());
    BusError::new(BusErrorKind::ReadOnly, text)
}

/// The error for a file that could not be created.
pub(super) fn cannot_create(path: &Path, error: io::Error) -> BusError {
    let shown = path.display();
    let (kind, advice) = match error.kind() {
        _ if path.is_dir() => (BusErrorKind::CannotOpen, "that is a folder; name a file in it"),
        io::ErrorKind::NotFound => {
            (BusErrorKind::CannotOpen, "its folder does not exist; create that first")
        }
        io::ErrorKind::PermissionDenied => (
            BusErrorKind::CannotOpen,
            "this user may not write into its folder; change its owner or mode",
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            (BusErrorKind::ReadOnly, "the disk is mounted read-only; name a file elsewhere")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (BusErrorKind::NoSpace, "there is no space left on its disk; free some")
        }
        _ => (BusErrorKind::CannotOpen, "the operating system refused"),
    };
    BusError::new(kind, format!("cannot create the queue file {shown}: {advice}"))
        .with_source(error)
}
