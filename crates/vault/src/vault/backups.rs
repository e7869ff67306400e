//! Sealing backups, and finding them.

use jiff::Timestamp;

use super::meta::{MAX_META_STORED_BYTES, meta_name};
use super::{BackupId, ServerName, Vault, VaultError, checksum, parse_record};
use crate::manifest::{MANIFEST_FORMAT, Manifest, ObjectRef};
use crate::store::{PutMode, StoreErrorKind};

/// The most that a manifest can have, bytes.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Names offered when a backup is not found.
const NEAR_NAMES: usize = 3;

fn manifest_name(id: &BackupId) -> String {
    format!("backups/{}/{id}.json", id.server())
}

/// The id in a manifest's name, `None` for other names.
fn id_of(name: &str) -> Option<BackupId> {
    let (server, file) = name.strip_prefix("backups/")?.split_once('/')?;
    let id: BackupId = file.strip_suffix(".json")?.parse().ok()?;
    (id.server().as_str() == server).then_some(id)
}

impl Vault {
    /// Writes the manifest: from here on the backup exists. All that it names must have been put
    /// (of meta objects this is checked, of chunks the caller knows).
    ///
    /// Sealing the same manifest again succeeds, so a call whose answer was lost may be repeated.
    /// [`VaultError::BackupTaken`] when another backup has the id; [`BackupId::next`] is a way
    /// out.
    pub fn seal(&self, manifest: &Manifest) -> Result<(), VaultError> {
        let refuse =
            |problem: String| VaultError::NotSealable { backup: manifest.backup.clone(), problem };
        let id: BackupId = manifest.backup.parse().map_err(|error| refuse(format!("{error}")))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(refuse(format!("its format is {}", manifest.format)));
        }
        if manifest.vault != self.id() {
            return Err(refuse(format!("it names the vault {}", manifest.vault)));
        }
        if manifest.server != id.server().as_str() {
            return Err(refuse(format!("it names the server {}", manifest.server)));
        }
        for object in meta_objects(manifest) {
            let name = meta_name(&object.hash);
            let there = self.data().head(&name)?.map(|meta| meta.bytes);
            if there != Some(object.stored_bytes) {
                return Err(refuse(format!("{name} is not in the vault as it should be")));
            }
        }
        let body = serde_json::to_vec_pretty(manifest).map_err(|e| refuse(e.to_string()))?;
        let body =
            checksum::add(&body).ok_or_else(|| refuse("its JSON has no fields".to_owned()))?;
        let (bytes, limit_bytes) = (body.len() as u64, MAX_MANIFEST_BYTES);
        if bytes > limit_bytes {
            return Err(VaultError::TooLong { what: "the manifest", bytes, limit_bytes });
        }
        self.data().sync()?;
        let name = manifest_name(&id);
        let Err(error) = self.data().put(&name, &body, PutMode::Create) else { return Ok(()) };
        // It may be there all the same, from this call or from an earlier one.
        match self.data().get(&name, MAX_MANIFEST_BYTES) {
            Ok(there) if there == body => Ok(()),
            Ok(_) => Err(VaultError::BackupTaken(manifest.backup.clone())),
            Err(_) => Err(error.into()),
        }
    }

    /// Servers that have backups, in order.
    pub fn servers(&self) -> Result<Vec<ServerName>, VaultError> {
        let mut servers: Vec<ServerName> = Vec::new();
        self.each_id("backups/", |id| {
            if servers.last() != Some(id.server()) {
                servers.push(id.server().clone());
            }
        })?;
        // Names come in the order of their text with a `/` after it, which is nearly this one.
        servers.sort();
        servers.dedup();
        Ok(servers)
    }

    /// Backups of a server, newest last.
    pub fn backups(&self, server: &ServerName) -> Result<Vec<BackupId>, VaultError> {
        let mut ids = Vec::new();
        self.each_id(&format!("backups/{server}/"), |id| ids.push(id))?;
        ids.sort();
        Ok(ids)
    }

    fn each_id(&self, prefix: &str, mut each: impl FnMut(BackupId)) -> Result<(), VaultError> {
        self.data().list(prefix, &mut |meta| {
            if let Some(id) = id_of(&meta.name) {
                each(id);
            }
        })?;
        Ok(())
    }

    /// The manifest of a backup.
    pub fn manifest(&self, id: &BackupId) -> Result<Manifest, VaultError> {
        self.read_manifest(&manifest_name(id))
    }

    fn read_manifest(&self, name: &str) -> Result<Manifest, VaultError> {
        let damaged = |problem: &str| VaultError::Damaged {
            object: name.to_owned(),
            problem: problem.to_owned(),
        };
        let Some(id) = id_of(name) else {
            return Err(damaged("its name is not that of a backup of this server"));
        };
        let body = match self.data().get(name, MAX_MANIFEST_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(self.no_such_backup(&id.to_string())?);
            }
            result => result?,
        };
        // Before anything in it is believed, also its format.
        let is_checked = checksum::check(&body).map_err(|problem| damaged(&problem))?;
        super::check_format(name, &body, MANIFEST_FORMAT)?;
        if !is_checked {
            checksum::check_absence(&body).map_err(|problem| damaged(&problem))?;
        }
        let manifest: Manifest = parse_record(name, &body)?;
        if manifest.vault != self.id() {
            return Err(VaultError::OtherVault {
                object: name.to_owned(),
                found: manifest.vault,
                vault: self.id().to_owned(),
            });
        }
        if manifest.backup != id.to_string() || manifest.server != id.server().as_str() {
            return Err(damaged("it is the manifest of another backup"));
        }
        Ok(manifest)
    }

    /// The backup that was made for `request`, if there is one with an id of the time `since` or
    /// later. A damaged manifest is nobody's backup.
    pub fn backup_for_request(
        &self,
        server: &ServerName,
        request: &str,
        since: Timestamp,
    ) -> Result<Option<Manifest>, VaultError> {
        let since = BackupId::new(server.clone(), since);
        for id in self.backups(server)?.iter().rev().take_while(|id| **id >= since) {
            match self.manifest(id) {
                Ok(manifest) if manifest.request.as_deref() == Some(request) => {
                    return Ok(Some(manifest));
                }
                Ok(_) => {}
                Err(VaultError::Damaged { object, problem }) => {
                    tracing::warn!("{object} is damaged: {problem}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads every manifest, one at a time, and calls `each` with it; with an error that names
    /// the object for one that cannot be read, and for an object that is no manifest but lies
    /// among them. Whoever deletes must not go on past such an error.
    pub fn all_manifests(
        &self,
        mut each: impl FnMut(Result<(BackupId, Manifest), VaultError>),
    ) -> Result<(), VaultError> {
        let mut names = Vec::new();
        self.data().list("backups/", &mut |meta| names.push(meta.name))?;
        for name in names {
            let id = id_of(&name);
            each(self.read_manifest(&name).and_then(|manifest| match id {
                Some(id) => Ok((id, manifest)),
                None => Err(VaultError::Damaged {
                    object: name,
                    problem: "its name is not that of a backup".to_owned(),
                }),
            }));
        }
        Ok(())
    }

    /// The backup that a user means: `latest` (when the vault has one server only),
    /// `SERVER/latest`, an id, or the beginning of exactly one id.
    pub fn resolve(&self, wanted: &str) -> Result<BackupId, VaultError> {
        let ambiguous = |candidates: Vec<String>| VaultError::AmbiguousBackup {
            wanted: wanted.to_owned(),
            candidates,
        };
        if wanted == "latest" {
            let servers = self.servers()?;
            return match servers.as_slice() {
                [] => Err(self.no_such_backup(wanted)?),
                [server] => self.latest(server, wanted),
                // Not the newest of all: that may be another server's than is meant.
                servers => {
                    Err(ambiguous(servers.iter().map(|name| format!("{name}/latest")).collect()))
                }
            };
        }
        if let Some(server) = wanted.strip_suffix("/latest") {
            return match server.parse() {
                Ok(server) => self.latest(&server, wanted),
                Err(_) => Err(self.no_such_backup(wanted)?),
            };
        }
        let mut candidates = Vec::new();
        self.each_id("backups/", |id| {
            if !wanted.is_empty() && id.to_string().starts_with(wanted) {
                candidates.push(id);
            }
        })?;
        // The whole id counts more than the beginning of `<id>-2`.
        if let Some(exact) = candidates.iter().position(|id| id.to_string() == wanted) {
            return Ok(candidates.swap_remove(exact));
        }
        // And a whole id means no other backup, also where its own is gone.
        if wanted.parse::<BackupId>().is_ok() {
            candidates.clear();
        }
        match candidates.len() {
            1 => Ok(candidates.remove(0)),
            0 => Err(self.no_such_backup(wanted)?),
            _ => {
                candidates.sort();
                Err(ambiguous(candidates.iter().map(BackupId::to_string).collect()))
            }
        }
    }

    fn latest(&self, server: &ServerName, wanted: &str) -> Result<BackupId, VaultError> {
        match self.backups(server)?.pop() {
            Some(id) => Ok(id),
            None => Err(self.no_such_backup(wanted)?),
        }
    }

    /// The error, with names that are near.
    fn no_such_backup(&self, wanted: &str) -> Result<VaultError, VaultError> {
        let mut names = Vec::new();
        self.each_id("backups/", |id| {
            let id = if wanted.ends_with("/latest") {
                format!("{}/latest", id.server())
            } else {
                id.to_string()
            };
            if names.last().is_none_or(|(_, last)| *last != id) {
                names.push((strsim::damerau_levenshtein(wanted, &id), id));
            }
        })?;
        names.sort();
        let near = names.into_iter().take(NEAR_NAMES).map(|(_, name)| name).collect();
        Ok(VaultError::NoSuchBackup { wanted: wanted.chars().take(200).collect(), near })
    }
}

/// All meta objects that a manifest names.
fn meta_objects(manifest: &Manifest) -> impl Iterator<Item = &ObjectRef> {
    let databases = manifest.databases.iter().flat_map(|one| [&one.toc, &one.contents]);
    manifest.globals.iter().chain(databases)
}

const _: () = assert!(MAX_MANIFEST_BYTES <= MAX_META_STORED_BYTES);
