//! Why an export failed.

use std::path::PathBuf;

use flexkeep_pg_archive as archive;
use flexkeep_vault::VaultError;
use flexkeep_vault::damage;
use flexkeep_vault::store::StoreError;

use crate::error::ToolError;

/// Why an export is not complete. No file that it concerns is left under its final name.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Options that contradict each other, or the backup.
    #[error("{0}")]
    Options(String),
    /// A name that the backup does not have.
    #[error("{place} has no {kind} {name:?}; {}", near_names(.near))]
    NoSuchObject {
        /// `backup shop-...` or `database "shop"`.
        place: String,
        /// `database`, `schema` or `table`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Names like it, best first.
        near: Vec<String>,
    },
    /// Older than anything that can be written.
    #[error("cannot write an archive for pg_restore {major}; the oldest that can be served is 12")]
    PgRestoreTooOld {
        /// The major version asked for.
        major: u32,
    },
    /// Something that an earlier export, or somebody else, has put there.
    #[error(
        "{} exists already; choose another folder, or replace such files with --overwrite",
        .path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A folder that would be replaced has what no archive has.
    #[error(
        "{} is not of an archive, and would be gone if {} were replaced; move it, or choose another \
         folder",
        .file.display(),
        .folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The first such file in it.
        file: PathBuf,
    },
    /// A file or folder of the export could not be written.
    #[error("cannot {operation} {}{}", .path.display(), space(.source))]
    File {
        /// `create`, `write`, `finish`, ...
        operation: &'static str,
        /// The file, under its final name.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The container that it goes into refused or failed.
    #[error(transparent)]
    Store(StoreError),
    /// pg_restore, which writes plain SQL, is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Objects of the vault are missing or damaged. What could be written of other databases was.
    #[error("{}", damage_text(.objects, *.more, .hurt, .hurt_unknown.as_deref()))]
    Damaged {
        /// The objects, each with what it is needed for in this backup.
        objects: Vec<DamagedObject>,
        /// Whether the search for more was given up.
        more: bool,
        /// Everything in the vault that needs one of them, in all backups.
        hurt: Vec<damage::User>,
        /// Why `hurt` may not be complete, where it may not.
        hurt_unknown: Option<String>,
        /// Files that are complete all the same.
        written: Vec<String>,
    },
    /// The vault refused or failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The backup's own parts do not fit each other.
    #[error("database {database:?} of the backup is inconsistent: {problem}")]
    Inconsistent {
        /// The database.
        database: String,
        /// What does not fit.
        problem: String,
    },
    /// The stored table of contents can't be read.
    #[error("the table of contents of database {database:?} cannot be read")]
    Toc {
        /// The database.
        database: String,
        /// What is wrong with it.
        #[source]
        source: archive::ReadError,
    },
    /// The archive can't be had in the version asked for.
    #[error("database {database:?} cannot be exported for this pg_restore")]
    Convert {
        /// The database.
        database: String,
        /// Why.
        #[source]
        source: archive::ConvertError,
    },
    /// The stored roles are not the SQL that they should be.
    #[error("the roles of the backup cannot be prepared")]
    Roles(#[from] crate::roles::Unterminated),
    /// The caller asked for it.
    #[error("cancelled; files that were not complete were removed")]
    Cancelled,
    /// A promise that this program makes to itself was broken.
    #[error("internal check failed: {0}")]
    Internal(String),
}

/// An object of the vault that is missing or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    /// Its name in the vault.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
    /// The database of this backup that needs it, `None` for what belongs to the whole server.
    pub database: Option<String>,
    /// The tables that need it, as `schema.name`, or what else it is.
    pub entries: Vec<String>,
}

fn near_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return "it has none".to_owned();
    }
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("it has {}{more}", names[..names.len().min(SHOWN)].join(", "))
}

fn space(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another folder"
        }
        _ => "",
    }
}

fn damage_text(
    objects: &[DamagedObject],
    more: bool,
    hurt: &[damage::User],
    unknown: Option<&str>,
) -> String {
    const ENTRIES: usize = 5;
    let at_least = if more { "at least " } else { "" };
    let mut text = format!("{at_least}{} of the vault cannot be used:", count(objects.len()));
    for object in objects {
        let named = object.entries.len().min(ENTRIES);
        let rest = object.entries.len() - named;
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let of = object.database.as_ref().map(|name| format!(" of database {name:?}"));
        text.push_str(&format!(
            "\n  {} (needed for {}{rest}{}): {}",
            object.name,
            object.entries[..named].join(", "),
            of.unwrap_or_default(),
            object.problem
        ));
    }
    let mut backups: Vec<String> = hurt.iter().map(|user| user.backup.to_string()).collect();
    backups.dedup();
    backups.sort();
    backups.dedup();
    if !backups.is_empty() {
        text.push_str(&format!("\nbackups that need them: {}", backups.join(", ")));
    }
    if let Some(reason) = unknown {
        text.push_str(&format!("\nother backups may need them too: {reason}"));
    }
    text.push_str(
        "\nremove a damaged chunk and the next backup stores it anew, if the source still has \
         those rows; other databases of the backup are exported as they are",
    );
    text
}

fn count(objects: usize) -> String {
    if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") }
}
