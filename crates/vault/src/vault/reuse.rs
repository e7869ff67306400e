//! What a backup may rely on of that which is in the vault already.

use super::{ChunkBuffer, Vault, VaultError};
use crate::chunk::chunk_name;
use crate::contents::{ChunkRef, EntryKind};
use crate::hash::ContentHash;
use crate::store::PutMode;

/// What there is under a chunk's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// The chunk, verified; its length in bytes.
    Good {
        /// Length of the object, bytes.
        stored_bytes: u64,
    },
    /// Something else.
    Damaged,
}

impl Vault {
    /// Reads what is there under a chunk's name, if anything, and verifies it. For chunks that no
    /// sealed backup vouches for, such as those of a run that broke off.
    pub fn find_chunk(
        &self,
        kind: EntryKind,
        hash: &ContentHash,
        raw_bytes: u32,
        buffer: &mut ChunkBuffer,
    ) -> Result<Found, VaultError> {
        let stored_bytes = match self.chunk_exists(hash) {
            Ok(None) => return Ok(Found::Absent),
            Ok(Some(stored_bytes)) => stored_bytes,
            Err(error) if error.is_damage() => return Ok(Found::Damaged),
            Err(error) => return Err(error),
        };
        let Ok(length) = u32::try_from(stored_bytes) else { return Ok(Found::Damaged) };
        let chunk = ChunkRef { hash: *hash, raw_bytes, stored_bytes: length, continued: false };
        match self.get_chunk(kind, &chunk, buffer) {
            Ok(()) => Ok(Found::Good { stored_bytes }),
            Err(error) if error.is_damage() => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }

    /// Puts a good object in the place of a damaged one, which heals every backup that names it.
    /// Storage under an immutability policy refuses that.
    pub fn replace_chunk(&self, hash: &ContentHash, object: &[u8]) -> Result<(), VaultError> {
        self.data().put(&chunk_name(hash), object, PutMode::Overwrite)?;
        Ok(())
    }

    /// Calls `each` with every chunk and the length of its object, in the order of their names.
    /// Objects whose names are no hashes are passed over.
    pub fn list_chunks(&self, each: &mut dyn FnMut(ContentHash, u64)) -> Result<(), VaultError> {
        self.data().list("chunks/", &mut |meta| {
            if let Some(Ok(hash)) = meta.name.rsplit('/').next().map(str::parse) {
                each(hash, meta.bytes);
            }
        })?;
        Ok(())
    }
}
