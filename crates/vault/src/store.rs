//! Where the bytes lie: the [`Store`] contract and its implementations.

mod blocks;
#[doc(hidden)]
pub mod conformance;
mod faulty;
mod folder;
mod memory;

pub use blocks::{BlockLimits, BlockStore, BlockUpload, CopyRefused, CopySource};
pub use faulty::{Calls, Fault, Faults, FaultyStore};
pub use folder::FolderStore;
pub use memory::MemoryStore;

use std::fmt;
use std::sync::Arc;

/// An object's name inside a store: `/`-separated, no empty segment, none that begins with a dot
/// (those are the stores' own), only `A-Z a-z 0-9 . _ - /`, segments of at most 200 bytes and 800
/// in all. Callers build names from ids of their own, never from user text. No name is another
/// one's folder (`a` and `a/b`).
pub type ObjectName<'a> = &'a str;

/// Whether `name` keeps the rules of [`ObjectName`].
pub fn is_valid_name(name: &str) -> bool {
    name.len() <= 800 && name.split('/').all(is_valid_segment)
}

/// Whether `prefix` may begin a name: a name, or one cut off anywhere, or empty.
pub fn is_valid_prefix(prefix: &str) -> bool {
    let (folders, last) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    (last.is_empty() || is_valid_segment(last)) && (!prefix.contains('/') || is_valid_name(folders))
}

fn is_valid_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=200).contains(&segment.len()) && !segment.starts_with('.') && segment.bytes().all(allowed)
}

/// The version of one object's content, opaque, compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Etag(pub String);

/// What [`Store::head`] and [`Store::list`] tell of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name, as it was put.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Version of the content.
    pub etag: Etag,
}

/// What must be true of the name for a [`Store::put`] to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Nothing has this name yet; otherwise [`StoreErrorKind::AlreadyExists`].
    Create,
    /// Whatever is there is replaced.
    Overwrite,
    /// The object has this etag; otherwise [`StoreErrorKind::Changed`] (also when it is gone).
    Update(Etag),
}

/// A place for objects: a folder, a blob container, memory.
///
/// # Contract
/// - A put is atomic: a reader sees all of it or nothing, also after a crash of this process or
///   of the machine, and of several concurrent creates of one name exactly one succeeds.
/// - A put is durable when it returns; see [`Store::create_unsynced`] for the exception.
/// - A get that follows a put sees it (read-after-write), and so does a list.
/// - Every call ends in bounded time. A store retries what may pass inside itself (one layer
///   only), so what it returns is final for this call; [`StoreError::is_transient`] says whether
///   a later attempt may do better.
/// - Errors never show credentials.
///
/// The trait is synchronous: dumping is CPU work on threads. A store on an asynchronous client
/// blocks on its own runtime.
pub trait Store: Send + Sync + fmt::Debug {
    /// Writes `body` under `name`, if `mode` allows it.
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError>;

    /// Reads a whole object. An object longer than `limit_bytes` is an error
    /// ([`StoreErrorKind::TooLarge`]): a damaged or hostile store must not exhaust memory.
    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// Length and version, `None` when there is no such object.
    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError>;

    /// Calls `each` for every object whose name starts with `prefix`, in ascending byte order of
    /// names. `prefix` need not end at a `/`.
    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError>;

    /// Removes an object; removing what is not there succeeds.
    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError>;

    /// As [`Store::put`] with [`PutMode::Create`], but durable only after [`Store::sync`]: after a
    /// crash of the machine the name may be there with other bytes. For content-addressed objects,
    /// which are verified before they are relied on, and of which there are too many to wait for
    /// the disk each time.
    fn create_unsynced(&self, name: ObjectName<'_>, body: &[u8]) -> Result<Etag, StoreError> {
        self.put(name, body, PutMode::Create)
    }

    /// Makes durable whatever this store has shown so far, also what another process has put and
    /// may not have made durable yet. Called before a manifest is written. After a failure to write
    /// something, every later sync of this store fails too.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The place in words for messages, without credentials: `/srv/vault`, `memory`.
    fn location(&self) -> String;
}

/// A store that can be shared among lanes.
pub type SharedStore = Arc<dyn Store>;

/// Why a store call failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object} in {location}: {kind}")]
pub struct StoreError {
    /// What was tried: `open`, `create`, `replace`, `update`, `read`, `stat`, `list`, `delete`,
    /// `sync`, `write`, `copy`.
    pub operation: &'static str,
    /// The object's name, or the prefix of a listing.
    pub object: String,
    /// [`Store::location`].
    pub location: String,
    /// What went wrong.
    pub kind: StoreErrorKind,
    /// The cause, when another library reported it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of failure that callers tell apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreErrorKind {
    /// Create-only put of a name that is taken.
    #[error("it already exists")]
    AlreadyExists,
    /// Conditional update of an object that is not at that version any more.
    #[error("it was changed by someone else")]
    Changed,
    /// Get of a name that nothing has.
    #[error("it is not there")]
    NotFound,
    /// Longer than the caller's limit.
    #[error("it has {bytes} bytes, more than the {limit_bytes} expected here")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// No room left, or over a quota.
    #[error("no space left")]
    NoSpace,
    /// The store refuses this identity.
    #[error("permission denied")]
    PermissionDenied,
    /// The place itself is missing or is not a folder.
    #[error("the vault is not there")]
    NoSuchPlace,
    /// A name that breaks the rules of [`ObjectName`].
    #[error("the object name is not valid")]
    BadName,
    /// Everything that may pass: time-outs, throttling, interrupted connections.
    #[error("temporarily unavailable")]
    Unavailable,
    /// Everything else; the source says more.
    #[error("input/output error")]
    Other,
}

impl PutMode {
    /// The operation's name for a [`StoreError`].
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Overwrite => "replace",
            Self::Update(_) => "update",
        }
    }
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }
}
