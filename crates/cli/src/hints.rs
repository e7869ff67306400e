//! What to do about an error, where the error itself does not say it.

use flexkeep_engine::{BackupError, ExportError, RestoreError, ToolError};
use flexkeep_pg_copy as pg;
use flexkeep_vault::VaultError;

/// What to do about damage. A new backup reads a chunk that the last one has no more than an old one:
/// it looks whether it is there and how long it is.
const DAMAGE: &str = "the file system or somebody else changed or removed it; an older or newer backup \
    may be whole. Remove what is damaged and still there from the vault: a new backup then stores \
    again what the source still has of it";

/// What an interrupted or failed backup leaves behind.
const NOTHING_LOST: &str =
    "nothing was sealed; run the command again, it uses what is stored already";

pub(crate) fn vault(error: &VaultError) -> Option<String> {
    let hint = match error {
        VaultError::NoSuchBackup { .. } | VaultError::AmbiguousBackup { .. } => {
            "`flexkeep list` shows the backups of the vault"
        }
        error if error.is_damage() => DAMAGE,
        error if error.is_transient() => "this may pass; run the command again",
        _ => return None,
    };
    Some(hint.to_owned())
}

pub(crate) fn backup(error: &BackupError) -> Option<String> {
    let hint = match error {
        BackupError::Vault(error) => return vault(error),
        BackupError::Connect { source, .. } => return connection(source),
        BackupError::Server { source, .. } if is_silence(source) => {
            "a busy server may need longer: raise --stall-timeout. Nothing was sealed"
        }
        BackupError::Server { source, .. } if source.is_transient() => NOTHING_LOST,
        // What passes by itself, and what the server can be given more time for, is told by the last.
        BackupError::AttemptsExhausted { last, .. }
            if !matches!(**last, BackupError::Changed { .. }) =>
        {
            return backup(last);
        }
        BackupError::AttemptsExhausted { .. } => {
            "run it when fewer tables are being changed or dropped, or raise --attempts; what is \
             stored already is used again"
        }
        BackupError::UploadFailed => NOTHING_LOST,
        BackupError::Tool(ToolError::Missing { .. }) => {
            "--pg-bin DIR, or FLEXKEEP_PG_BIN, names their folder"
        }
        BackupError::Internal(_) => "this is a defect of flexkeep; please report it with this text",
        _ => return None,
    };
    Some(hint.to_owned())
}

pub(crate) fn export(error: &ExportError) -> Option<String> {
    match error {
        ExportError::Vault(error) => vault(error),
        ExportError::Damaged { .. } => Some(DAMAGE.to_owned()),
        ExportError::Store(error) if error.is_transient() => {
            Some("this may pass; run the command again".to_owned())
        }
        ExportError::Tool(ToolError::Missing { .. }) => {
            Some("--pg-bin DIR, or FLEXKEEP_PG_BIN, names their folder".to_owned())
        }
        ExportError::Internal(_) => {
            Some("this is a defect of flexkeep; please report it with this text".to_owned())
        }
        _ => None,
    }
}

pub(crate) fn restore(error: &RestoreError) -> Option<String> {
    let hint = match error {
        RestoreError::Vault(error) => return vault(error),
        RestoreError::Connect { source, .. } => return connection(source),
        RestoreError::Incomplete { .. } | RestoreError::Cancelled { report: Some(_) } => {
            "the same command with --continue goes on where it ended (docs/restore.md has how to give \
             it up)"
        }
        RestoreError::Cancelled { report: None } => "nothing was changed",
        RestoreError::Damaged { .. } => DAMAGE,
        RestoreError::Internal(_) => {
            "this is a defect of flexkeep; please report it with this text"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn is_silence(error: &pg::Error) -> bool {
    matches!(error, pg::Error::TimedOut { .. })
}

fn connection(error: &pg::Error) -> Option<String> {
    matches!(error, pg::Error::Auth { .. }).then(|| {
        "give the password in PGPASSWORD or in a password file (~/.pgpass, mode 0600)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_points_to_the_list() {
        let error = VaultError::NoSuchBackup { wanted: "x".into(), near: Vec::new() };
        assert!(vault(&error).unwrap().contains("flexkeep list"));
    }

    #[test]
    fn an_error_that_says_what_to_do_has_no_hint() {
        let tables = vec!["public.a".to_owned()];
        let error = BackupError::Unreadable { database: "shop".into(), tables };
        assert_eq!(backup(&error), None);
    }
}
