//! An export: the archives of a backup's databases, and roles, as files for PostgreSQL's own
//! programs.
//!
//! # Layout
//! One `<database>.dump` each (custom format, see [`names`] for odd names), `roles.sql`,
//! `roles-as-dumped.sql` where that says more, and `README.txt` with the commands.
//!
//! # Consistency
//! Every chunk is decoded and hashed before its bytes are written, every entry with data must be
//! there exactly once, and a file gets its name when it is complete and durable. Where the format
//! allows it the vault's bytes are passed on as they are; for pg_restore 15 and older they are
//! compressed anew.

mod composer;
mod damage;
mod database;
mod encode;
mod error;
mod names;
mod partial;
pub(crate) mod pipeline;
mod readme;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flexkeep_pg_archive::Version;
use flexkeep_vault::damage::find_users;
use flexkeep_vault::manifest::{DatabaseSummary, Manifest};
use flexkeep_vault::{Vault, meta_name};
use serde::Serialize;

use crate::options::{ExportOptions, RolesFor};
use crate::progress::Progress;
use crate::roles::{self, RolesTarget};
pub(crate) use damage::{Damage, MOST_DAMAGED};
use database::{Context, Written};
pub use error::{DamagedObject, ExportError};

const ROLES: &str = "roles.sql";
const ROLES_AS_DUMPED: &str = "roles-as-dumped.sql";
const README: &str = "README.txt";

/// Most bytes that the SQL of a server's roles can have.
const MAX_ROLES_BYTES: u64 = 256 << 20;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The folder.
    pub folder: PathBuf,
    /// The files in it, in the order in which they were written.
    pub files: Vec<ExportedFile>,
    /// What is not in the files, or has to be looked at, for people.
    pub notes: Vec<String>,
    /// Major version of the oldest pg_restore that reads all archives.
    pub pg_restore_major: u32,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Where it is.
    pub path: PathBuf,
    /// The database that it holds, for an archive.
    pub database: Option<String>,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Writes a backup, or some of its databases, into a folder.
///
/// Memory stays within about 96 MiB for each of [`ExportOptions::threads`], and what the tables of
/// contents need.
///
/// # Errors
/// Nothing is written when a file is in the way or a name is unknown. After any other error the
/// files that have their names are complete, and no others are left.
/// [`ExportError::Damaged`] comes last: everything else was verified and written before.
pub fn export(
    vault: &Vault,
    manifest: &Manifest,
    options: &ExportOptions,
    progress: &Arc<Progress>,
) -> Result<ExportReport, ExportError> {
    let chosen = choose(manifest, options)?;
    database::wanted(options.pg_restore, Version::V1_16)?;
    prepare_folder(options, &chosen)?;
    for (database, _) in &chosen {
        progress.planned(database.totals.tables, database.totals.raw_bytes);
    }
    let mut damage = Damage::default();
    let mut export = Export { vault, manifest, options, files: Vec::new(), notes: Vec::new() };
    let roles = export.roles(&mut damage)?;
    let context = Context { vault, options, progress };
    let mut archives = Vec::new();
    for (database, name) in &chosen {
        progress.phase(&database.name);
        if let Some(written) = database::export(&context, database, name, &mut damage)? {
            export.file(written.path.clone(), Some(&database.name), written.bytes);
            archives.push((*database, written));
        }
    }
    progress.phase("writing the instructions");
    let major = archives.iter().map(|(_, written)| oldest_pg_restore(written.version)).max();
    let pg_restore_major = major.unwrap_or(oldest_pg_restore(Version::V1_14));
    export.readme(&archives, roles, pg_restore_major)?;
    if damage.objects.is_empty() {
        let Export { files, notes, .. } = export;
        return Ok(ExportReport { folder: options.to.clone(), files, notes, pg_restore_major });
    }
    progress.phase("looking for other backups that are hurt");
    Err(damaged(vault, damage, export.files))
}

fn damaged(vault: &Vault, damage: Damage, files: Vec<ExportedFile>) -> ExportError {
    let (hurt, hurt_unknown) = match find_users(vault, &damage.hashes) {
        Ok(users) => (users, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    ExportError::Damaged {
        objects: damage.objects,
        more: damage.more,
        hurt,
        hurt_unknown,
        written: files.into_iter().map(|file| file.path).collect(),
    }
}

/// The oldest major version whose pg_restore reads this.
fn oldest_pg_restore(version: Version) -> u32 {
    match version {
        Version::V1_12 => 9,
        Version::V1_13 => 11,
        Version::V1_14 => 12,
        Version::V1_15 => 16,
        Version::V1_16 => 17,
    }
}

/// The chosen databases and the names of their files. The names do not depend on the choice.
fn choose<'a>(
    manifest: &'a Manifest,
    options: &ExportOptions,
) -> Result<Vec<(&'a DatabaseSummary, String)>, ExportError> {
    let all = manifest.databases.iter().map(|database| database.name.as_str());
    for name in &options.databases {
        if !manifest.databases.iter().any(|database| database.name == *name) {
            let mut near: Vec<String> = all.map(str::to_owned).collect();
            near.sort_by_key(|one| strsim::damerau_levenshtein(one, name));
            let (backup, name) = (manifest.backup.clone(), name.clone());
            return Err(ExportError::NoSuchDatabase { backup, name, near });
        }
    }
    let stems = names::file_stems(all);
    Ok(manifest
        .databases
        .iter()
        .zip(stems)
        .filter(|(one, _)| options.databases.is_empty() || options.databases.contains(&one.name))
        .map(|(database, stem)| (database, format!("{stem}.dump")))
        .collect())
}

/// Makes the folder, and refuses before anything is written when files are in the way.
fn prepare_folder(
    options: &ExportOptions,
    chosen: &[(&DatabaseSummary, String)],
) -> Result<(), ExportError> {
    std::fs::create_dir_all(&options.to).map_err(|source| ExportError::File {
        operation: "create the folder",
        path: options.to.clone(),
        source,
    })?;
    if options.overwrite {
        return Ok(());
    }
    let fixed = [ROLES, ROLES_AS_DUMPED, README];
    for name in chosen.iter().map(|(_, name)| name.as_str()).chain(fixed) {
        let path = options.to.join(name);
        match path.symlink_metadata() {
            Ok(_) => return Err(ExportError::Exists { path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ExportError::File { operation: "look at", path, source }),
        }
    }
    Ok(())
}

/// What is known of roles.sql when the instructions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RolesWritten {
    Absent,
    For { flexible_server: bool, reduced: bool },
}

struct Export<'a> {
    vault: &'a Vault,
    manifest: &'a Manifest,
    options: &'a ExportOptions,
    files: Vec<ExportedFile>,
    notes: Vec<String>,
}

impl Export<'_> {
    fn file(&mut self, path: PathBuf, database: Option<&str>, bytes: u64) {
        self.files.push(ExportedFile { path, database: database.map(str::to_owned), bytes });
    }

    fn write(&mut self, name: &str, body: &[u8], secret: bool) -> Result<(), ExportError> {
        let (folder, overwrite) = (&self.options.to, self.options.overwrite);
        let (path, bytes) = partial::write_file(folder, name, body, secret, overwrite)?;
        self.file(path, None, bytes);
        Ok(())
    }

    fn roles(&mut self, damage: &mut Damage) -> Result<RolesWritten, ExportError> {
        let Some(object) = &self.manifest.globals else {
            self.notes.push("the backup has no roles".to_owned());
            return Ok(RolesWritten::Absent);
        };
        let sql = match self.vault.get_meta(object, MAX_ROLES_BYTES) {
            Ok(sql) => sql,
            Err(error) if error.is_damage() => {
                let name = meta_name(&object.hash);
                damage.add(object.hash, name, &error, None, "(globals)".to_owned());
                return Ok(RolesWritten::Absent);
            }
            Err(error) => return Err(error.into()),
        };
        let flexible_server = match self.options.roles_for {
            RolesFor::Same => self.manifest.source.flexible_server,
            RolesFor::Postgres => false,
            RolesFor::FlexibleServer => true,
        };
        let target = if flexible_server {
            RolesTarget::FlexibleServer { major: None }
        } else {
            RolesTarget::Postgres
        };
        let prepared = roles::prepare(&sql, target, self.manifest.source.version_num / 10_000)?;
        self.write(ROLES, &prepared.sql, true)?;
        if prepared.reduced {
            self.write(ROLES_AS_DUMPED, &sql, true)?;
        } else if self.options.overwrite {
            remove_stale(&self.options.to.join(ROLES_AS_DUMPED))?;
        }
        let notes = prepared.notes.into_iter().map(|note| format!("{ROLES}: {note}"));
        self.notes.extend(notes);
        Ok(RolesWritten::For { flexible_server, reduced: prepared.reduced })
    }

    fn readme(
        &mut self,
        archives: &[(&DatabaseSummary, Written)],
        roles: RolesWritten,
        pg_restore_major: u32,
    ) -> Result<(), ExportError> {
        let text = readme::Readme {
            manifest: self.manifest,
            archives,
            roles,
            notes: &self.notes,
            pg_restore_major,
        }
        .text();
        self.write(README, text.as_bytes(), false)
    }
}

/// An earlier export's file that this one does not have.
fn remove_stale(path: &Path) -> Result<(), ExportError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ExportError::File { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
