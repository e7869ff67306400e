//! An export: a backup's databases, and roles, as files for PostgreSQL's own programs.
//!
//! # Layout
//! For each database one archive, `<database>.dump` (custom format), `<database>.dir` (directory
//! format) or `<database>.sql` (plain, with `.gz` or `.zst` where it is compressed; see [`names`] for
//! odd names); `roles.sql`, `roles-as-dumped.sql` where that says more, and `README.txt` with the
//! commands. They go into a folder or a container; one database alone to standard output.
//!
//! # Consistency
//! Every chunk is decoded and hashed before its bytes are written, every entry with data must be
//! there exactly once, and a file gets its name when it is complete and durable. Where the format
//! allows it the vault's bytes are passed on as they are; for pg_restore 15 and older they are
//! compressed anew. What a storage service copies by itself is the exception: see [`compose`].

mod blob;
mod compose;
mod composer;
mod custom;
mod damage;
mod database;
mod directory;
mod encode;
mod error;
mod layout;
mod names;
mod part;
mod partial;
pub(crate) mod pipeline;
mod plain;
mod readme;
mod sink;

use std::path::Path;
use std::sync::Arc;

use flexkeep_pg_archive::Version;
use flexkeep_vault::damage::find_users;
use flexkeep_vault::manifest::{DatabaseSummary, Manifest};
use flexkeep_vault::{Vault, meta_name};
use serde::Serialize;

use crate::options::{ExportFormat, ExportOptions, ExportTarget, RolesFor};
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
    /// The folder, the container's URL without a query, or `-`.
    pub folder: String,
    /// What the databases are written as.
    pub format: ExportFormat,
    /// The files in it, in the order in which they were written.
    pub files: Vec<ExportedFile>,
    /// What is not in the files, or has to be looked at, for people.
    pub notes: Vec<String>,
    /// Major version of the oldest pg_restore that reads all archives; of plain SQL the oldest
    /// server that knows all that is in it.
    pub pg_restore_major: u32,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Where it is: a path, a URL without a query, or `-`.
    pub path: String,
    /// The database that it holds, for an archive.
    pub database: Option<String>,
    /// Its length in bytes; of a folder that of its files.
    pub bytes: u64,
    /// How an archive got into a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

/// How the bytes of an archive got into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Bytes that the storage service copied from the vault by itself: they were not read, only
    /// their lengths compared.
    pub copied_bytes: u64,
    /// Bytes that were read, verified and sent.
    pub sent_bytes: u64,
    /// Why the service was not let, or did not want to, copy any.
    pub refused: Option<String>,
}

/// Writes a backup, or some of its databases, or a part of one.
///
/// Memory stays within about 96 MiB for each of [`ExportOptions::threads`], and what the tables of
/// contents need.
///
/// # Errors
/// Nothing is written when a file is in the way or a name is unknown. After any other error the
/// files that have their names are complete, and no others are left; standard output may have got a
/// part. [`ExportError::Damaged`] comes last: everything else was verified and written before.
pub fn export(
    vault: &Vault,
    manifest: &Manifest,
    options: &ExportOptions,
    progress: &Arc<Progress>,
) -> Result<ExportReport, ExportError> {
    let chosen = choose(manifest, options)?;
    check_options(options, &chosen)?;
    let server_major = manifest.source.version_num / 10_000;
    let context = Context { vault, options, progress, server_major };
    if options.is_selective() {
        chosen.iter().try_for_each(|(database, _)| database::check_part(context, database))?;
    }
    prepare_target(options, &chosen)?;
    let mut damage = Damage::default();
    let mut export = Export { vault, manifest, options, files: Vec::new(), notes: Vec::new() };
    let is_alone = matches!(options.to, ExportTarget::Stdout);
    let roles = if is_alone { RolesWritten::Absent } else { export.roles(&mut damage)? };
    let mut archives = Vec::new();
    for (database, name) in &chosen {
        progress.check_cancelled(ExportError::Cancelled)?;
        progress.phase(&database.name);
        if let Some(written) = database::export(context, database, name, &mut damage)? {
            export.archive(database, &written);
            archives.push((*database, written));
        }
    }
    progress.phase("writing the instructions");
    let major = archives.iter().map(|(_, written)| written.major).max();
    let pg_restore_major = major.unwrap_or(oldest_pg_restore(Version::V1_14));
    if !is_alone {
        export.readme(&archives, roles, pg_restore_major)?;
    }
    if damage.objects.is_empty() {
        let Export { files, notes, .. } = export;
        let folder = match &options.to {
            ExportTarget::Folder(folder) => folder.display().to_string(),
            ExportTarget::Blocks(store) => store.location(),
            ExportTarget::Stdout => sink::STDOUT.to_owned(),
        };
        let format = options.format;
        return Ok(ExportReport { folder, format, files, notes, pg_restore_major });
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
            let (place, name) = (format!("backup {}", manifest.backup), name.clone());
            return Err(ExportError::NoSuchObject { place, kind: "database", name, near });
        }
    }
    let stems = names::file_stems(all);
    Ok(manifest
        .databases
        .iter()
        .zip(stems)
        .filter(|(one, _)| options.databases.is_empty() || options.databases.contains(&one.name))
        .map(|(database, stem)| (database, file_name(&stem, options)))
        .collect())
}

fn file_name(stem: &str, options: &ExportOptions) -> String {
    let name = match options.format {
        ExportFormat::Custom => format!("{stem}.dump"),
        ExportFormat::Directory => format!("{stem}.dir"),
        ExportFormat::Plain => format!("{stem}{}", plain::suffix(options.compression)),
    };
    // A database called roles.
    if [ROLES, ROLES_AS_DUMPED].iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
        return format!("{stem}~db{}", plain::suffix(options.compression));
    }
    name
}

/// What contradicts itself.
fn check_options(
    options: &ExportOptions,
    chosen: &[(&DatabaseSummary, String)],
) -> Result<(), ExportError> {
    let wrong = |text: &str| Err(ExportError::Options(text.to_owned()));
    let [is_stdout, is_container] = match options.to {
        ExportTarget::Folder(_) => [false, false],
        ExportTarget::Blocks(_) => [false, true],
        ExportTarget::Stdout => [true, false],
    };
    if options.is_selective() && chosen.len() != 1 {
        return wrong("schemas and tables can be chosen from one database; name it");
    }
    if is_stdout && chosen.len() != 1 {
        return wrong("standard output takes one database; name it");
    }
    if options.format == ExportFormat::Directory && is_stdout {
        return wrong("a directory does not fit into standard output; choose custom or plain");
    }
    if options.format == ExportFormat::Directory && is_container {
        return wrong(
            "a directory can be written into a folder only; a custom archive has the same, and \
             pg_restore --jobs reads it as well",
        );
    }
    if options.create && options.format != ExportFormat::Plain {
        return wrong("only plain SQL says CREATE DATABASE itself; pg_restore --create does it");
    }
    if options.format != ExportFormat::Plain {
        database::wanted(options, Version::V1_16)?;
    }
    Ok(())
}

/// Makes the folder, and refuses before anything is written when files are in the way.
fn prepare_target(
    options: &ExportOptions,
    chosen: &[(&DatabaseSummary, String)],
) -> Result<(), ExportError> {
    if let ExportTarget::Folder(folder) = &options.to {
        partial::create_folders(folder).map_err(|source| ExportError::File {
            operation: "create the folder",
            path: folder.clone(),
            source,
        })?;
    }
    if options.overwrite {
        return match &options.to {
            ExportTarget::Folder(folder) if options.format == ExportFormat::Directory => chosen
                .iter()
                .try_for_each(|(_, name)| directory::refuse_foreign(&folder.join(name))),
            _ => Ok(()),
        };
    }
    let fixed = [ROLES, ROLES_AS_DUMPED, README];
    let names = chosen.iter().map(|(_, name)| name.as_str()).chain(fixed);
    names.into_iter().try_for_each(|name| sink::refuse_existing(options, name))
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
    fn archive(&mut self, database: &DatabaseSummary, written: &Written) {
        let (path, bytes) = (written.path.clone(), written.bytes);
        let (database, transfer) = (Some(database.name.clone()), written.transfer.clone());
        self.files.push(ExportedFile { path, database, bytes, transfer });
        self.notes.extend(written.notes.iter().cloned());
    }

    fn write(&mut self, name: &str, body: &[u8]) -> Result<(), ExportError> {
        let (path, bytes) = sink::write_file(self.options, name, body)?;
        self.files.push(ExportedFile { path, database: None, bytes, transfer: None });
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
        self.write(ROLES, &prepared.sql)?;
        if prepared.reduced {
            self.write(ROLES_AS_DUMPED, &sql)?;
        } else if self.options.overwrite {
            remove_stale(&self.options.to, ROLES_AS_DUMPED)?;
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
            options: self.options,
        }
        .text();
        self.write(README, text.as_bytes())
    }
}

/// An earlier export's file that this one does not have.
fn remove_stale(target: &ExportTarget, name: &str) -> Result<(), ExportError> {
    match target {
        ExportTarget::Folder(folder) => remove_file(&folder.join(name)),
        ExportTarget::Blocks(store) => store.delete(name).map_err(sink::store_error),
        ExportTarget::Stdout => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), ExportError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ExportError::File { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
