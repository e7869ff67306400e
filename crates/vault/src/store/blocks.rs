//! A place for large objects that are put together from blocks: where an export goes that is not
//! written into a folder.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use super::StoreError;

/// What the service allows for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Most blocks of an object.
    pub blocks: usize,
    /// Longest block that the service copies by itself, bytes.
    pub copied_bytes: u64,
}

/// An object that is being put together. Nothing is under its name before the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockUpload {
    /// The object's name.
    pub name: String,
    /// Drawn for each upload, so that two of one name do not mix.
    pub id: String,
}

/// What a block is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource<'a> {
    /// A whole object of the vault's data store.
    Vault {
        /// Its name.
        name: &'a str,
        /// The length that it should have, which only bounds the wait.
        bytes: u64,
    },
    /// A range of an object of this store.
    Own {
        /// Its name.
        name: &'a str,
        /// The bytes.
        range: Range<u64>,
    },
}

/// Why a block was not copied: the caller sends its bytes instead.
#[derive(Debug, thiserror::Error)]
#[error("the storage service did not copy a block by itself")]
pub struct CopyRefused(#[source] pub StoreError);

/// A store that builds objects from blocks, of which some may be copied by the service itself.
///
/// # Contract
/// - Blocks of one upload may be sent and copied in any order and at once. A block that is sent
///   again replaces the one before.
/// - An object appears at its commit, whole and durable, or not at all. Blocks that are never
///   committed are the service's to remove.
/// - Every call ends in bounded time, with its retries inside, and errors never show credentials.
pub trait BlockStore: Send + Sync + fmt::Debug {
    /// The place in words for messages, without credentials, and no slash at the end.
    fn location(&self) -> String;

    /// What is possible.
    fn limits(&self) -> BlockLimits;

    /// Whether [`BlockStore::copy`] can be tried on objects of the vault.
    fn may_copy(&self) -> bool;

    /// Length of an object, `None` if there is none of this name.
    fn length(&self, name: &str) -> Result<Option<u64>, StoreError>;

    /// Begins an upload. Sends nothing.
    fn begin(&self, name: &str) -> BlockUpload;

    /// Sends a block. `index` is below 1,000,000.
    fn send(&self, upload: &BlockUpload, index: u32, body: Vec<u8>) -> Result<(), StoreError>;

    /// Has the service copy a block.
    ///
    /// # Errors
    /// If it does not, for whatever reason; the same bytes can be sent then.
    fn copy(
        &self,
        upload: &BlockUpload,
        index: u32,
        source: &CopySource<'_>,
    ) -> Result<(), CopyRefused>;

    /// Lengths of the blocks that the service has of an upload.
    fn sizes(&self, upload: &BlockUpload) -> Result<HashMap<u32, u64>, StoreError>;

    /// Makes the object of these blocks, in this order. Without `overwrite` an object that is there
    /// is [`super::StoreErrorKind::AlreadyExists`].
    fn commit(
        &self,
        upload: &BlockUpload,
        blocks: &[u32],
        overwrite: bool,
    ) -> Result<(), StoreError>;

    /// Removes an object; removing what is not there succeeds.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
}
