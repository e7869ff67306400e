//! Tables of contents, contents lists and globals.

use std::collections::{BTreeMap, HashMap};

use flexkeep_pg_archive::{Limits, Toc};
use flexkeep_vault::contents::Entry;
use flexkeep_vault::manifest::{DatabaseSummary, Manifest, ObjectRef};
use flexkeep_vault::store::StoreErrorKind;
use flexkeep_vault::{
    BackupId, ContentHash, MAX_META_STORED_BYTES, Vault, VaultError, chunk_name, meta_name,
};

use super::users::Inconsistent;
use super::{Findings, VerifyError, Wanted};
use crate::entries::{Listed, check_listed};
use crate::error::chain;
use crate::progress::Progress;

/// The chunks that the lists name. Ordered: the vault lists in this order too.
pub(super) type Chunks = BTreeMap<ContentHash, Wanted>;

/// What was found out about the meta objects of one database, or about globals; another backup may
/// name the same, with the same lengths or with others.
type Known<T> = HashMap<T, Option<String>>;

/// Reads the meta objects of `backups`, each once.
pub(super) fn read(
    vault: &Vault,
    backups: &[(BackupId, Manifest)],
    findings: &mut Findings,
    progress: &Progress,
) -> Result<(Chunks, Vec<Inconsistent>), VerifyError> {
    let (mut chunks, mut inconsistent) = (Chunks::new(), Vec::new());
    let mut globals: Known<ObjectRef> = HashMap::new();
    let mut pairs: Known<(ObjectRef, ObjectRef)> = HashMap::new();
    for (id, manifest) in backups {
        progress.check_cancelled(VerifyError::Cancelled)?;
        if let Some(object) = &manifest.globals {
            let problem = match globals.get(object) {
                Some(known) => known.clone(),
                None => {
                    findings.counts.meta_objects += 1;
                    let found = impossible("globals", object, most_bytes());
                    if found.is_none() {
                        meta(vault, object, findings)?;
                    }
                    globals.insert(object.clone(), found.clone());
                    found
                }
            };
            if let Some(problem) = problem {
                let backup = id.to_string();
                inconsistent.push(Inconsistent { backup, database: None, problem });
            }
        }
        for database in &manifest.databases {
            let key = (database.toc.clone(), database.contents.clone());
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
                let (backup, database) = (id.to_string(), Some(database.name.clone()));
                inconsistent.push(Inconsistent { backup, database, problem });
            }
        }
    }
    Ok((chunks, inconsistent))
}

/// The most that a table of contents or globals can have, bytes.
fn most_bytes() -> u64 {
    Limits::default().max_total_bytes
}

/// What is wrong with a reference itself: nothing can be as long as it says.
fn impossible(what: &str, object: &ObjectRef, most_raw_bytes: u64) -> Option<String> {
    let ObjectRef { raw_bytes, stored_bytes, .. } = *object;
    let (bytes, most) = if stored_bytes > MAX_META_STORED_BYTES {
        (stored_bytes, MAX_META_STORED_BYTES)
    } else if raw_bytes > most_raw_bytes {
        (raw_bytes, most_raw_bytes)
    } else {
        return None;
    };
    let name = meta_name(&object.hash);
    Some(format!(
        "its manifest says that its {what}, {name}, has {bytes} bytes, more than the {most} that \
         are possible"
    ))
}

/// Verifies the two meta objects of a database and notes its chunks. The text says in what the
/// two do not agree, or that the manifest cannot be right about them.
fn one(
    vault: &Vault,
    database: &DatabaseSummary,
    chunks: &mut Chunks,
    findings: &mut Findings,
) -> Result<Option<String>, VerifyError> {
    let wrong = impossible("table of contents", &database.toc, most_bytes())
        .or_else(|| impossible("contents list", &database.contents, u64::MAX));
    if wrong.is_some() {
        return Ok(wrong);
    }
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
        note(vault, &database.contents, error, findings)?;
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
    match vault.get_meta(object, most_bytes()) {
        Ok(content) => Ok(Some(content)),
        Err(error) => note(vault, object, error, findings).map(|()| None),
    }
}

fn note(
    vault: &Vault,
    object: &ObjectRef,
    error: VaultError,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    match told(vault, &error) {
        Some((_, problem)) => {
            findings.damage(object.hash, meta_name(&object.hash), problem);
            Ok(())
        }
        None => Err(error.into()),
    }
}

/// The object and its problem, if the error says something about the vault's bytes and not about
/// the way to them.
pub(super) fn told(vault: &Vault, error: &VaultError) -> Option<(String, String)> {
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
        // A disk that cannot read back what it holds; a link, or a file of somebody else, where an
        // object was. But a store that lets nothing be read any more says nothing about its objects.
        VaultError::Store(store)
            if store.kind == StoreErrorKind::Other || vault.is_about_one_object(error) =>
        {
            Some((store.object.clone(), format!("it cannot be read: {}", chain(store))))
        }
        _ => None,
    }
}
