//! Tables of contents, contents lists and globals.

use std::collections::{BTreeMap, HashMap, HashSet};

use flexkeep_pg_archive::{Limits, Toc};
use flexkeep_vault::contents::Entry;
use flexkeep_vault::manifest::{DatabaseSummary, Manifest, ObjectRef};
use flexkeep_vault::store::StoreErrorKind;
use flexkeep_vault::{BackupId, ContentHash, Vault, VaultError, chunk_name, meta_name};

use super::users::Inconsistent;
use super::{Findings, VerifyError, Wanted};
use crate::entries::{Listed, check_listed};
use crate::error::chain;
use crate::progress::Progress;

/// The chunks that the lists name. Ordered: the vault lists in this order too.
pub(super) type Chunks = BTreeMap<ContentHash, Wanted>;

/// What was found out about the meta objects of one database; another backup may name the same.
type Pairs = HashMap<(ContentHash, ContentHash), Option<String>>;

/// Reads the meta objects of `backups`, each once.
pub(super) fn read(
    vault: &Vault,
    backups: &[(BackupId, Manifest)],
    findings: &mut Findings,
    progress: &Progress,
) -> Result<(Chunks, Vec<Inconsistent>), VerifyError> {
    let (mut chunks, mut inconsistent) = (Chunks::new(), Vec::new());
    let (mut globals, mut pairs) = (HashSet::new(), Pairs::new());
    for (id, manifest) in backups {
        progress.check_cancelled(VerifyError::Cancelled)?;
        if let Some(object) = &manifest.globals
            && globals.insert(object.hash)
        {
            findings.counts.meta_objects += 1;
            meta(vault, object, findings)?;
        }
        for database in &manifest.databases {
            let key = (database.toc.hash, database.contents.hash);
            let problem = match pairs.get(&key) {
                Some(known) => known.clone(),
                None => {
                    findings.counts.meta_objects += 2;
                    let found = one(vault, database, &mut chunks, findings)?;
                    pairs.insert(key, found.clone());
                    found
                }
            };
            if let Some(problem) = problem {
                let (backup, database) = (id.to_string(), database.name.clone());
                inconsistent.push(Inconsistent { backup, database, problem });
            }
        }
    }
    Ok((chunks, inconsistent))
}

/// Verifies the two meta objects of a database and notes its chunks. The text says in what the
/// two do not agree.
fn one(
    vault: &Vault,
    database: &DatabaseSummary,
    chunks: &mut Chunks,
    findings: &mut Findings,
) -> Result<Option<String>, VerifyError> {
    let toc = meta(vault, &database.toc, findings)?;
    let mut listed = Vec::new();
    let read = vault.read_contents(&database.contents, |entry: Entry| {
        for chunk in &entry.chunks {
            let (raw_bytes, stored_bytes) = (chunk.raw_bytes, chunk.stored_bytes);
            chunks.entry(chunk.hash).or_insert(Wanted {
                kind: entry.kind,
                raw_bytes,
                stored_bytes,
            });
        }
        listed.push(Listed::of(&entry));
    });
    if let Err(error) = read {
        note(&database.contents, error, findings)?;
        return Ok(None);
    }
    let Some(toc) = toc else { return Ok(None) };
    match Toc::read(&mut toc.as_slice(), &Limits::default()) {
        Ok(toc) => Ok(check_listed(&toc, &listed).err()),
        Err(error) => Ok(Some(format!("its table of contents cannot be read: {error}"))),
    }
}

/// The content of a meta object, `None` if it is damaged.
fn meta(
    vault: &Vault,
    object: &ObjectRef,
    findings: &mut Findings,
) -> Result<Option<Vec<u8>>, VerifyError> {
    match vault.get_meta(object, Limits::default().max_total_bytes) {
        Ok(content) => Ok(Some(content)),
        Err(error) => note(object, error, findings).map(|()| None),
    }
}

fn note(object: &ObjectRef, error: VaultError, findings: &mut Findings) -> Result<(), VerifyError> {
    match told(&error) {
        Some((_, problem)) => {
            findings.damage(object.hash, meta_name(&object.hash), problem);
            Ok(())
        }
        None => Err(error.into()),
    }
}

/// The object and its problem, if the error says something about the vault's bytes and not about
/// the way to them.
pub(super) fn told(error: &VaultError) -> Option<(String, String)> {
    match error {
        VaultError::OtherVault { object, found, vault } => {
            Some((object.clone(), format!("it belongs to the vault {found}, this is {vault}")))
        }
        VaultError::NewerFormat { object, .. } => Some((object.clone(), error.to_string())),
        VaultError::Damaged { object, problem } => Some((object.clone(), problem.clone())),
        VaultError::DamagedChunk(damaged) => {
            Some((chunk_name(&damaged.hash), damaged.problem.clone()))
        }
        VaultError::Store(store) if error.is_damage() => {
            Some((store.object.clone(), store.kind.to_string()))
        }
        // A disk that cannot read back what it holds.
        VaultError::Store(store) if store.kind == StoreErrorKind::Other => {
            Some((store.object.clone(), format!("it cannot be read: {}", chain(store))))
        }
        _ => None,
    }
}
