//! The contents of one database: which chunks make up the data of which archive entry.

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;

/// The data of one archive entry (`TABLE DATA` or `BLOBS`), in the order of the table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its dump id in the table of contents, which is the authority for its name.
    pub dump_id: i32,
    /// What its chunks hold.
    pub kind: EntryKind,
    /// The table's schema, for people (`U+FFFD` for bytes that are not UTF-8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table's name, or the tag of the large objects, likewise.
    pub name: String,
    /// The table's oid on the source; 0 for large objects.
    pub oid: u32,
    /// Rows of the table, or large objects.
    pub rows: u64,
    /// How the table was cut.
    pub cut: Cut,
    /// The chunks, in order.
    pub chunks: Vec<ChunkRef>,
}

/// What the chunks of an entry hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// COPY text.
    Table,
    /// Large objects.
    LargeObjects,
}

/// How an entry was cut into chunks. The next backup cuts alike, so that what did not change
/// makes the same chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Read as a whole. A chunk ends at a row whose content says so.
    Content {
        /// Mean raw length of a chunk, bytes.
        chunk_bytes: u32,
    },
    /// Read by ranges of pages: a chunk also ends at each multiple of `pages`.
    Pages {
        /// Heap pages of a range.
        pages: u32,
        /// Mean raw length of a chunk, bytes.
        chunk_bytes: u32,
    },
    /// Large objects: a new chunk begins at each multiple of this many oids of the entry.
    Objects(u32),
}

/// One chunk of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ChunkTuple", into = "ChunkTuple")]
pub struct ChunkRef {
    /// Hash of the raw content; its name.
    pub hash: ContentHash,
    /// Length of the raw content, bytes.
    pub raw_bytes: u32,
    /// Length of the object, bytes.
    pub stored_bytes: u32,
    /// Whether the chunk ends within a row, which the next chunk continues.
    pub continued: bool,
}

/// `[hash, raw, stored]` or `[hash, raw, stored, 1]` where the last row goes on: there may be
/// hundreds of thousands, so they are written short.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ChunkTuple {
    Whole(ContentHash, u32, u32),
    Continued(ContentHash, u32, u32, u8),
}

impl From<ChunkTuple> for ChunkRef {
    fn from(tuple: ChunkTuple) -> Self {
        match tuple {
            ChunkTuple::Whole(hash, raw_bytes, stored_bytes) => {
                Self { hash, raw_bytes, stored_bytes, continued: false }
            }
            ChunkTuple::Continued(hash, raw_bytes, stored_bytes, flag) => {
                Self { hash, raw_bytes, stored_bytes, continued: flag != 0 }
            }
        }
    }
}

impl From<ChunkRef> for ChunkTuple {
    fn from(chunk: ChunkRef) -> Self {
        let ChunkRef { hash, raw_bytes, stored_bytes, continued } = chunk;
        if continued {
            Self::Continued(hash, raw_bytes, stored_bytes, 1)
        } else {
            Self::Whole(hash, raw_bytes, stored_bytes)
        }
    }
}
