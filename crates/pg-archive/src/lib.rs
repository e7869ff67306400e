//! Reads and writes `pg_dump`'s custom archive format (`pg_dump -Fc`), versions 1.12 to 1.16.
//!
//! [`Toc`] is the head and the table of contents: it is read from a pipe or a file, changed,
//! converted to what an older `pg_restore` reads, and written back byte for byte.
//! [`ArchiveWriter`] writes a whole archive, [`blocks`] has the pieces for composing one without
//! a writer, [`DataBlocks`] walks the data of an existing one, and [`zlib`] makes one zlib stream
//! on many threads.
//!
//! # Layout of an archive
//! Head (magic, version, widths, compression, names), the table of contents, then one data block
//! for each entry that has data. A block is a type byte, the entry's dump id, pieces of
//! compressed bytes each behind its length, and a zero length. There is no checksum.
//!
//! Readers trust nothing: hostile bytes give a [`ReadError`] that says where, never a panic, and
//! memory grows only as bytes really arrive. What this crate reads it writes back identically;
//! anything that `pg_dump` never writes (a minus zero, an offset on an entry without data) is
//! refused instead of being normalised.

pub mod blocks;
pub mod copy_statement;
pub mod zlib;

mod convert;
mod data;
mod encode;
mod entry;
mod header;
mod read;
mod toc;
mod writer;

pub use convert::ConvertError;
pub use data::{BlockEvent, DataBlocks};
pub use entry::{Entry, EntryFields, Offset, Section};
pub use header::{Compression, Created, Header, Version};
pub use read::{Limits, Place, ReadError};
pub use toc::{Toc, TocError};
pub use writer::{ArchiveWriter, WriteError};
