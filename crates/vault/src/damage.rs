//! Which backups a damaged or missing object hurts.

use std::collections::HashSet;

use crate::contents::ChunkRef;
use crate::hash::ContentHash;
use crate::manifest::Manifest;
use crate::vault::{BackupId, Vault, VaultError};

/// Something that needs a damaged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The backup.
    pub backup: BackupId,
    /// The database, `None` for what belongs to the whole server.
    pub database: Option<String>,
    /// The entry, as `schema.name`; `(table of contents)`, `(contents list)` or `(globals)` for
    /// those meta objects.
    pub entry: String,
}

/// Finds all that names one of `damaged` (chunks or meta objects), oldest name first within a
/// server. Reads every manifest and every contents list; a contents list that cannot be read is
/// itself reported, since it hurts its database alike. A manifest that cannot be read is an error.
pub fn find_users(vault: &Vault, damaged: &[ContentHash]) -> Result<Vec<User>, VaultError> {
    let damaged: HashSet<ContentHash> = damaged.iter().copied().collect();
    let mut users = Vec::new();
    let mut failure = None;
    vault.all_manifests(|read| {
        let found = read.and_then(|(backup, manifest)| {
            users_in(vault, &backup, &manifest, &damaged, &mut |user| users.push(user))
        });
        failure = failure.take().or(found.err());
    })?;
    match failure {
        Some(error) => Err(error),
        None => Ok(users),
    }
}

/// Calls `each` for all of one backup that names one of `damaged`, as [`find_users`] does.
pub fn users_in(
    vault: &Vault,
    backup: &BackupId,
    manifest: &Manifest,
    damaged: &HashSet<ContentHash>,
    each: &mut dyn FnMut(User),
) -> Result<(), VaultError> {
    let mut report = |database: Option<&str>, entry: String| {
        let (backup, database) = (backup.clone(), database.map(str::to_owned));
        each(User { backup, database, entry });
    };
    if manifest.globals.as_ref().is_some_and(|object| damaged.contains(&object.hash)) {
        report(None, "(globals)".to_owned());
    }
    for database in &manifest.databases {
        let name = Some(database.name.as_str());
        if damaged.contains(&database.toc.hash) {
            report(name, "(table of contents)".to_owned());
        }
        let read = vault.read_contents(&database.contents, |entry| {
            let hit = |chunk: &ChunkRef| damaged.contains(&chunk.hash);
            if entry.chunks.iter().any(hit) {
                let schema = entry.schema.map(|schema| schema + ".").unwrap_or_default();
                report(name, schema + &entry.name);
            }
        });
        match read {
            Err(error) if vault.is_about_one_object(&error) => {
                report(name, "(contents list)".to_owned())
            }
            result => result?,
        }
    }
    Ok(())
}
