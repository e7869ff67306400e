//! Content-addressed chunks, write-once manifests, and the stores that keep them.
//!
//! [`Vault`] is the way in: it keeps chunks (made by [`ChunkEncoder`]), meta objects and
//! manifests in two [`store::Store`]s.

pub mod chunk;
pub mod contents;
pub mod damage;
mod hash;
pub mod manifest;
pub mod store;
mod vault;

pub use chunk::{
    ChunkDecoder, ChunkEncoder, DamagedChunk, EncodeError, MAX_CHUNK_RAW_BYTES,
    MAX_CHUNK_STORED_BYTES, chunk_name, large_objects,
};
pub use hash::{BadHash, ContentHash};
pub use vault::{
    BackupId, BadId, ChunkBuffer, ContentsWriter, FoldersOnly, Found, MAX_CONTENTS_LINE_BYTES,
    MAX_MANIFEST_BYTES, MAX_META_STORED_BYTES, MAX_RUN_OBJECT_BYTES, MAX_SCHEDULE_BYTES, Place,
    PlaceUrl, Put, RemoteStores, RunId, RunRecord, RunState, ServerName, Stores, VAULT_FORMAT,
    Vault, VaultError, meta_name,
};
