//! Exit codes, and the errors that lead to them.

use std::process::ExitCode;

use flexkeep_engine::{BackupError, ExportError, RestoreError, VerifyError};
use flexkeep_vault::VaultError;

use crate::hints;

/// How the command ends. The numbers are a promise (docs/cli.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; nothing to report.
    Success = 0,
    /// It failed: no backup, an incomplete restore, a drill that did not pass.
    Failed = 1,
    /// Arguments, a connection string, a policy, settings or a backup's name are wrong.
    Usage = 2,
    /// The backup is sealed, but something of the source is not in it; or all rows are restored, but
    /// the server refused definitions.
    Losses = 3,
    /// Bytes in the vault are wrong or missing.
    Damage = 4,
    /// Another backup or drill of the same server, or restore into the same database, is running.
    Busy = 5,
    /// The work is done, but its report could not be written to standard output.
    Unreported = 6,
    /// Stopped by Ctrl-C or SIGTERM.
    Cancelled = 130,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What a command could not do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the command ends.
    pub(crate) exit: Exit,
    /// What happened, with its causes.
    pub(crate) error: anyhow::Error,
    /// What to do about it, where that is known and the error does not say it.
    pub(crate) hint: Option<String>,
    /// More about it for programs, in the document of `--json`.
    pub(crate) details: Option<serde_json::Value>,
}

impl Failure {
    /// An error of the user's input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, anyhow::Error::msg(message.into()))
    }

    /// Another failure.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None, details: None }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure of a report: what it was to tell is done all the same, and must not look undone.
    pub(crate) fn of_report(self, done: &str) -> Self {
        let error = self.error.context(format!("{done}, but that could not be reported"));
        Self { exit: Exit::Unreported, error, ..self }
    }

    /// What the user stopped is cancelled, whatever it failed with on its way out.
    pub(crate) fn or_cancelled(self, cancelled: bool) -> Self {
        if cancelled { Self { exit: Exit::Cancelled, hint: None, ..self } } else { self }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let hint = hints::vault(&error);
        Self { hint, ..Self::new(of_vault(&error), error) }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let exit = match &error {
            BackupError::AnotherBackup { .. } => Exit::Busy,
            BackupError::Cancelled => Exit::Cancelled,
            BackupError::NoSuchDatabase(_) => Exit::Usage,
            BackupError::Vault(error) => of_vault(error),
            _ => Exit::Failed,
        };
        let hint = hints::backup(&error);
        Self { hint, ..Self::new(exit, error) }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let exit = match &error {
            ExportError::NoSuchObject { .. }
            | ExportError::Options(_)
            | ExportError::PgRestoreTooOld { .. }
            | ExportError::Exists { .. }
            | ExportError::Foreign { .. } => Exit::Usage,
            ExportError::Damaged { .. }
            | ExportError::Inconsistent { .. }
            | ExportError::Toc { .. } => Exit::Damage,
            ExportError::Vault(error) => of_vault(error),
            ExportError::Cancelled => Exit::Cancelled,
            _ => Exit::Failed,
        };
        let (hint, details) = (hints::export(&error), damage(&error));
        Self { hint, details, ..Self::new(exit, error) }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let exit = match &error {
            RestoreError::Options(_) | RestoreError::NoSuchObject { .. } => Exit::Usage,
            RestoreError::Damaged { .. }
            | RestoreError::Inconsistent { .. }
            | RestoreError::Toc { .. } => Exit::Damage,
            RestoreError::Incomplete { damaged, .. } if !damaged.is_empty() => Exit::Damage,
            RestoreError::Vault(error) => of_vault(error),
            RestoreError::Busy { .. } => Exit::Busy,
            RestoreError::Cancelled { .. } => Exit::Cancelled,
            _ => Exit::Failed,
        };
        let hint = hints::restore(&error);
        let details = match &error {
            RestoreError::Unfit(plan) => serde_json::to_value(plan).ok(),
            other => other.report().and_then(|report| serde_json::to_value(report).ok()),
        };
        Self { hint, details, ..Self::new(exit, error) }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Vault(error) => error.into(),
            VerifyError::NothingToVerify { .. } => Self::new(Exit::Usage, error),
            VerifyError::Cancelled => Self::new(Exit::Cancelled, error),
        }
    }
}

/// What is damaged, for programs.
fn damage(error: &ExportError) -> Option<serde_json::Value> {
    let ExportError::Damaged { objects, more, hurt, hurt_unknown, written } = error else {
        return None;
    };
    let objects: Vec<_> = objects
        .iter()
        .map(|object| {
            serde_json::json!({
                "object": object.name,
                "problem": object.problem,
                "database": object.database,
                "entries": object.entries,
            })
        })
        .collect();
    let hurt: Vec<_> = hurt
        .iter()
        .map(|user| {
            serde_json::json!({
                "backup": user.backup.to_string(),
                "database": user.database,
                "entry": user.entry,
            })
        })
        .collect();
    Some(serde_json::json!({
        "damaged": objects,
        "more": more,
        "hurt": hurt,
        "hurt_unknown": hurt_unknown,
        "written": written,
    }))
}

/// The exit code of what an open vault says.
pub(crate) fn of_vault(error: &VaultError) -> Exit {
    match error {
        VaultError::BadPlace { .. }
        | VaultError::NotAVault { .. }
        | VaultError::NotEmpty { .. }
        | VaultError::NoSuchBackup { .. }
        | VaultError::AmbiguousBackup { .. } => Exit::Usage,
        // Bytes that belong elsewhere are damage of this vault, whole as they may be.
        VaultError::OtherVault { .. } => Exit::Damage,
        error if error.is_damage() => Exit::Damage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_documentation() {
        let doc = include_str!("../../../docs/cli.md");
        let all = [
            Exit::Success,
            Exit::Failed,
            Exit::Usage,
            Exit::Losses,
            Exit::Damage,
            Exit::Busy,
            Exit::Unreported,
            Exit::Cancelled,
        ];
        for exit in all {
            assert!(doc.contains(&format!("\n| {} |", exit.code())), "{exit:?}");
            assert!(
                crate::args::EXIT_CODES.contains(&format!("\n{:5}  ", exit.code())),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn a_cancelled_command_has_its_own_code_whatever_it_died_of() {
        let failure = Failure::from(BackupError::UploadFailed);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.or_cancelled(true).exit, Exit::Cancelled);
        assert_eq!(Failure::from(BackupError::Cancelled).exit, Exit::Cancelled);
    }

    #[test]
    fn a_backup_that_finds_another_one_is_busy() {
        let (server, pid) = ("a".to_owned(), "7".to_owned());
        let failure = Failure::from(BackupError::AnotherBackup { server, pid });
        assert_eq!(failure.exit, Exit::Busy);
    }

    #[test]
    fn an_export_that_finds_damage_names_it_for_programs() {
        let object = flexkeep_engine::DamagedObject {
            name: "chunks/ab/abcd".to_owned(),
            problem: "it is missing".to_owned(),
            database: Some("shop".to_owned()),
            entries: vec!["public.orders".to_owned()],
        };
        let failure = Failure::from(ExportError::Damaged {
            objects: vec![object],
            more: false,
            hurt: Vec::new(),
            hurt_unknown: None,
            written: vec!["/x/other.dump".into()],
        });
        assert_eq!(failure.exit, Exit::Damage);
        let details = failure.details.unwrap();
        assert_eq!(details["damaged"][0]["object"], "chunks/ab/abcd");
        assert_eq!(details["damaged"][0]["entries"][0], "public.orders");
        assert_eq!(details["written"][0], "/x/other.dump");
    }

    #[test]
    fn damage_in_the_vault_is_told_from_a_wrong_name() {
        let damaged = VaultError::Damaged { object: "meta/x".into(), problem: "short".into() };
        assert_eq!(Failure::from(damaged).exit, Exit::Damage);
        let (found, vault) = ("a".to_owned(), "b".to_owned());
        let strange = VaultError::OtherVault { object: "backups/x".into(), found, vault };
        assert_eq!(Failure::from(strange).exit, Exit::Damage);
        let unknown = VaultError::NoSuchBackup { wanted: "x".into(), near: Vec::new() };
        assert_eq!(Failure::from(unknown).exit, Exit::Usage);
    }
}
