//! The vault: chunks, meta objects and manifests in a store that is write-once, and runs in one
//! that changes.
//!
//! # Layout
//! ```text
//! data store                                  write-once: nothing is replaced, but a damaged chunk
//!   format.json                               version and id of the vault
//!   chunks/<2 hex>/<hash>                     raw content of tables and large objects, as pieces
//!                                             of a pg_dump archive (see [`crate::chunk`])
//!   meta/<2 hex>/<hash>                       tables of contents, contents lists, globals: zstd
//!   backups/<server>/<backup>.json            the manifest: the backup
//! runs store                                  what changes while a backup is made
//!   runs/<server>/<run>/run.json              the run's record
//!   runs/<server>/<run>/...                   plan, journal, batons, progress
//!   schedule/<server>.json                    what the schedule knows of the server
//!   restores/<server>/<hash of request>.json  how far a request for a restore or a drill is
//! ```
//! In a folder both stores are the one folder; in blob storage they are two containers, so that
//! the first can be under an immutability policy. `<hash>` is BLAKE3 of the raw content.
//! docs/vault-format.md has every byte.
//!
//! # Consistency
//! A backup exists if and only if its manifest does. A manifest names meta objects; those of kind
//! contents name chunks; nothing else names anything. Objects under `chunks/` and `meta/` follow
//! from their names, but for the compression, so whoever comes second finds what it would have
//! written: a chunk that is there is used as it is, after a look at its size; a meta object after
//! it was read and found whole. Readers believe
//! nothing: every object is checked against the hash and the lengths in what names it.
//!
//! # Concurrency
//! Any number of runs and readers, on any number of machines, at once. Puts into the data store
//! are create-only, and of several puts of one name one wins; that two runs put the same chunk is
//! no conflict. Deleting (retention) is what must not go on beside a run that may still reuse what
//! is deleted; it is not part of this module.
//!
//! # Crash consistency
//! Data before what names it: chunks, then contents and tables of contents, then (after
//! [`crate::store::Store::sync`]) the manifest. Every put is atomic and durable. A crash anywhere
//! leaves objects that nothing names, which the next run reuses and retention removes; never a
//! manifest that names what is not there. A put whose answer is lost may be repeated: chunks and
//! meta objects are found there, and sealing compares what it finds with what it wanted to write.

mod backups;
mod changing;
mod checksum;
mod error;
mod ids;
mod meta;
mod place;
mod remote;
mod restores;
mod reuse;
mod runs;
mod schedule;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use backups::MAX_MANIFEST_BYTES;
pub use error::VaultError;
pub use ids::{BackupId, BadId, RunId, ServerName};
pub use meta::{ContentsWriter, MAX_CONTENTS_LINE_BYTES, MAX_META_STORED_BYTES, meta_name};
pub use place::{Place, PlaceUrl};
pub use remote::{FoldersOnly, RemoteStores, Stores};
pub use reuse::Found;
pub use runs::{MAX_RUN_OBJECT_BYTES, RunRecord, RunState};
pub use schedule::MAX_SCHEDULE_BYTES;

use crate::chunk::{ChunkDecoder, MAX_CHUNK_STORED_BYTES, MIN_CHUNK_STORED_BYTES, chunk_name};
use crate::contents::{ChunkRef, EntryKind};
use crate::hash::ContentHash;
use crate::store::{Etag, FolderStore, PutMode, SharedStore, Store, StoreError, StoreErrorKind};

/// The vault format that this version writes; it reads this and all older ones.
pub const VAULT_FORMAT: u32 = 1;

const FORMAT_NAME: &str = "format.json";

/// The most that `format.json` can have, bytes.
const MAX_FORMAT_BYTES: u64 = 64 << 10;

/// How often a create is tried again when what it found is deleted before it is looked at.
const PUT_RETRIES: usize = 5;

/// `format.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    format: u32,
    vault: String,
    created: Timestamp,
}

/// An open vault. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Vault {
    data: SharedStore,
    runs: SharedStore,
    id: Arc<str>,
}

/// What a put of content-addressed bytes did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The bytes were written.
    Stored,
    /// Somebody had written this content before; the object has this length, which may differ
    /// from that of the bytes given (another compression level).
    AlreadyThere {
        /// Length of the object that is there, bytes.
        stored_bytes: u64,
    },
}

/// Buffers for reading chunks; keep one a thread. At most [`MAX_CHUNK_STORED_BYTES`] and
/// [`crate::chunk::MAX_CHUNK_RAW_BYTES`].
#[derive(Default)]
pub struct ChunkBuffer {
    decoder: ChunkDecoder,
    object: Vec<u8>,
    raw: Vec<u8>,
}

impl ChunkBuffer {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The object of the chunk that was read last: bytes of an archive.
    pub fn object(&self) -> &[u8] {
        &self.object
    }

    /// Its raw content.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

impl Vault {
    /// Opens the vault in `place`; `remote` opens the stores of what is no folder.
    pub fn open(place: &Place, remote: &dyn RemoteStores) -> Result<Self, VaultError> {
        let Stores { data, runs } = match place {
            Place::Folder(path) => one_store(FolderStore::open(path)?),
            Place::Url(url) => remote.open(url, false)?,
        };
        Self::with_stores(data, runs)
    }

    /// Makes a vault in `place`, which must be empty or not there.
    pub fn create(place: &Place, remote: &dyn RemoteStores) -> Result<Self, VaultError> {
        let Stores { data, runs } = stores_for_vault(place, remote)?;
        Self::create_in(data, runs)
    }

    /// Opens the vault in `place`, or makes one if there is none.
    pub fn open_or_create(place: &Place, remote: &dyn RemoteStores) -> Result<Self, VaultError> {
        let Stores { data, runs } = stores_for_vault(place, remote)?;
        Self::open_or_create_in(data, runs)
    }

    /// Opens the vault in two stores, which may be the same.
    pub fn with_stores(data: SharedStore, runs: SharedStore) -> Result<Self, VaultError> {
        let body = match data.get(FORMAT_NAME, MAX_FORMAT_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(VaultError::NotAVault { place: data.location() });
            }
            result => result?,
        };
        let object = format!("the vault in {}", data.location());
        check_format(&object, &body, VAULT_FORMAT)?;
        let format: Format = parse_record(FORMAT_NAME, &body)?;
        Ok(Self { data, runs, id: format.vault.into() })
    }

    /// Makes a vault in two stores, which may be the same; the data store must be empty.
    pub fn create_in(data: SharedStore, runs: SharedStore) -> Result<Self, VaultError> {
        let place = data.location();
        if data.head(FORMAT_NAME)?.is_some() {
            return Err(VaultError::AlreadyAVault { place });
        }
        let mut empty = true;
        data.list("", &mut |_| empty = false)?;
        if !empty {
            return Err(VaultError::NotEmpty { place });
        }
        let format = Format {
            format: VAULT_FORMAT,
            vault: uuid::Uuid::new_v4().to_string(),
            created: Timestamp::now(),
        };
        let body = serde_json::to_vec_pretty(&format)
            .map_err(|error| VaultError::Compress { what: "format.json", source: error.into() })?;
        match data.put(FORMAT_NAME, &body, PutMode::Create) {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
                Err(VaultError::AlreadyAVault { place })
            }
            result => {
                result?;
                Ok(Self { data, runs, id: format.vault.into() })
            }
        }
    }

    /// Opens the vault in two stores, or makes one if there is none.
    pub fn open_or_create_in(data: SharedStore, runs: SharedStore) -> Result<Self, VaultError> {
        match Self::with_stores(Arc::clone(&data), Arc::clone(&runs)) {
            Err(VaultError::NotAVault { .. }) => {}
            result => return result,
        }
        match Self::create_in(Arc::clone(&data), Arc::clone(&runs)) {
            // Somebody else was faster, and may even have put something into it since.
            Err(error @ (VaultError::AlreadyAVault { .. } | VaultError::NotEmpty { .. })) => {
                match Self::with_stores(data, runs) {
                    Err(VaultError::NotAVault { .. }) => Err(error),
                    result => result,
                }
            }
            result => result,
        }
    }

    /// The vault's id, which its manifests name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it lies, for messages.
    pub fn location(&self) -> String {
        self.data.location()
    }

    /// The write-once store.
    pub fn data(&self) -> &SharedStore {
        &self.data
    }

    /// The store that changes.
    pub fn runs(&self) -> &SharedStore {
        &self.runs
    }

    /// Length of a chunk's object, `None` when the vault has no such chunk. A length that no
    /// chunk can have is an error.
    pub fn chunk_exists(&self, hash: &ContentHash) -> Result<Option<u64>, VaultError> {
        let name = chunk_name(hash);
        let Some(meta) = self.data.head(&name)? else { return Ok(None) };
        check_size(&name, meta.bytes, CHUNK_SIZES).map(Some)
    }

    /// Stores a chunk's object; `hash` is that of the raw content that it was made from.
    pub fn put_chunk(&self, hash: &ContentHash, object: &[u8]) -> Result<Put, VaultError> {
        let create = |store: &dyn Store, name: &str, body: &[u8]| store.create_unsynced(name, body);
        self.put_once(&chunk_name(hash), object, CHUNK_SIZES, create)
    }

    /// Reads a chunk into `buffer` and verifies it: the hash of its raw content and that length
    /// count, the object's length may differ from [`ChunkRef::stored_bytes`] after a repair.
    pub fn get_chunk(
        &self,
        kind: EntryKind,
        chunk: &ChunkRef,
        buffer: &mut ChunkBuffer,
    ) -> Result<(), VaultError> {
        buffer.object = Vec::new();
        buffer.raw.clear();
        // Not limited to the length in the reference: a chunk that was damaged and made anew may
        // have another one, and the hash is the authority.
        buffer.object = self.data.get(&chunk_name(&chunk.hash), MAX_CHUNK_STORED_BYTES as u64)?;
        let stored_bytes = u32::try_from(buffer.object.len()).unwrap_or(u32::MAX);
        let chunk = &ChunkRef { stored_bytes, ..*chunk };
        Ok(buffer.decoder.decode(kind, &buffer.object, chunk, &mut buffer.raw)?)
    }

    /// Whether `error` is about one object, and not about the way to all of them: damage, or an
    /// object that cannot be read while the vault's own record can.
    pub fn is_about_one_object(&self, error: &VaultError) -> bool {
        match error {
            VaultError::Store(store)
                if matches!(
                    store.kind,
                    StoreErrorKind::PermissionDenied | StoreErrorKind::Other
                ) =>
            {
                self.data.get(FORMAT_NAME, MAX_FORMAT_BYTES).is_ok()
            }
            error => error.is_damage(),
        }
    }

    /// Creates an object whose name follows from its content.
    fn put_once(
        &self,
        name: &str,
        body: &[u8],
        sizes: (u64, u64),
        create: impl Fn(&dyn Store, &str, &[u8]) -> Result<Etag, StoreError>,
    ) -> Result<Put, VaultError> {
        check_size(name, body.len() as u64, sizes)?;
        let mut tries = 0;
        loop {
            match create(&*self.data, name, body) {
                Ok(_) => return Ok(Put::Stored),
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
                    if let Some(meta) = self.data.head(name)? {
                        let stored_bytes = check_size(name, meta.bytes, sizes)?;
                        return Ok(Put::AlreadyThere { stored_bytes });
                    }
                    tries += 1;
                    if tries > PUT_RETRIES {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens or makes a folder that is a vault or can become one. Looks at its first level only: a
/// path like `/` given by mistake is refused without reading all of it.
fn one_store(store: FolderStore) -> Stores {
    let store: SharedStore = Arc::new(store);
    Stores { data: Arc::clone(&store), runs: store }
}

fn stores_for_vault(place: &Place, remote: &dyn RemoteStores) -> Result<Stores, VaultError> {
    match place {
        Place::Folder(path) => Ok(one_store(folder_for_vault(path)?)),
        Place::Url(url) => remote.open(url, true),
    }
}

fn folder_for_vault(path: &Path) -> Result<FolderStore, VaultError> {
    let store = FolderStore::create(path)?;
    if store.head(FORMAT_NAME)?.is_none() && !store.looks_empty()? {
        // Another process may make the vault right now.
        if store.head(FORMAT_NAME)?.is_none() {
            return Err(VaultError::NotEmpty { place: store.location() });
        }
    }
    Ok(store)
}

const CHUNK_SIZES: (u64, u64) = (MIN_CHUNK_STORED_BYTES, MAX_CHUNK_STORED_BYTES as u64);

fn check_size(object: &str, bytes: u64, (least, most): (u64, u64)) -> Result<u64, VaultError> {
    if (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    let problem = format!(
        "a length of {bytes} bytes is not possible; remove it, and the next backup stores it anew"
    );
    Err(VaultError::Damaged { object: object.to_owned(), problem })
}

/// Refuses a format newer than `known`, before anything else of the record is looked at.
fn check_format(object: &str, body: &[u8], known: u32) -> Result<(), VaultError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u32,
    }
    let Probe { format: found } = parse_record(object, body)?;
    match found {
        0 => {
            let problem = "its format is 0".to_owned();
            Err(VaultError::Damaged { object: object.to_owned(), problem })
        }
        found if found > known => {
            Err(VaultError::NewerFormat { object: object.to_owned(), found, known })
        }
        _ => Ok(()),
    }
}

/// Parses JSON; fields that this version does not know are left alone.
fn parse_record<T: DeserializeOwned>(object: &str, body: &[u8]) -> Result<T, VaultError> {
    serde_json::from_slice(body).map_err(|error| VaultError::Damaged {
        object: object.to_owned(),
        problem: error.to_string(),
    })
}
