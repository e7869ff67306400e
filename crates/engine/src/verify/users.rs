//! Which backups need what is damaged.

use std::collections::{BTreeMap, HashSet};

use flexkeep_vault::damage::users_in;
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{BackupId, ContentHash, Vault};

use super::{HurtBackup, HurtDatabase, Read, VerifyError};
use crate::progress::Progress;

/// Entries that a report names of one database.
const MOST_ENTRIES: usize = 100;

/// A database, or what belongs to the whole server, whose meta objects are whole but do not agree
/// with each other or with the manifest.
pub(super) struct Inconsistent {
    pub(super) backup: String,
    pub(super) database: Option<String>,
    pub(super) problem: String,
}

/// All backups of the vault that name one of `damaged`.
pub(super) fn find(
    vault: &Vault,
    read: &Read,
    damaged: &HashSet<ContentHash>,
    progress: &Progress,
) -> Result<Vec<HurtBackup>, VerifyError> {
    if damaged.is_empty() {
        return Ok(Vec::new());
    }
    let mut hurt = Vec::new();
    for (id, manifest) in &read.wanted {
        progress.check_cancelled(VerifyError::Cancelled)?;
        hurt.extend(of(vault, id, manifest, damaged)?);
    }
    for id in &read.others {
        progress.check_cancelled(VerifyError::Cancelled)?;
        hurt.extend(of(vault, id, &vault.manifest(id)?, damaged)?);
    }
    hurt.sort_by(|a, b| a.backup.cmp(&b.backup));
    Ok(hurt)
}

fn of(
    vault: &Vault,
    id: &BackupId,
    manifest: &Manifest,
    damaged: &HashSet<ContentHash>,
) -> Result<Option<HurtBackup>, VerifyError> {
    let mut databases: BTreeMap<Option<String>, HurtDatabase> = BTreeMap::new();
    users_in(vault, id, manifest, damaged, &mut |user| {
        add(&mut databases, user.database, user.entry);
    })?;
    let databases: Vec<HurtDatabase> = databases.into_values().collect();
    Ok((!databases.is_empty()).then(|| HurtBackup { backup: id.to_string(), databases }))
}

fn add(
    databases: &mut BTreeMap<Option<String>, HurtDatabase>,
    database: Option<String>,
    entry: String,
) {
    let of = databases.entry(database.clone()).or_insert_with(|| HurtDatabase {
        database,
        entries: Vec::new(),
        count: 0,
    });
    of.count += 1;
    if of.entries.len() < MOST_ENTRIES {
        of.entries.push(entry);
    }
}

/// Adds what does not agree.
pub(super) fn add_inconsistent(hurt: &mut Vec<HurtBackup>, inconsistent: Vec<Inconsistent>) {
    for Inconsistent { backup, database, problem } in inconsistent {
        let part = HurtDatabase { database, entries: vec![problem], count: 1 };
        match hurt.iter_mut().find(|one| one.backup == backup) {
            Some(one) => one.databases.push(part),
            None => hurt.push(HurtBackup { backup, databases: vec![part] }),
        }
    }
    hurt.sort_by(|a, b| a.backup.cmp(&b.backup));
}
