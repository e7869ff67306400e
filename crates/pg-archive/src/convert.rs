//! Converting a table of contents to another archive version.

mod large_objects;

use crate::entry::{Entry, EntryFields, Offset};
use crate::header::{Compression, Version};
use crate::toc::{Toc, TocError};

/// The relation kind of a partitioned table.
const RELKIND_PARTITIONED_TABLE: i32 = b'p' as i32;

/// Why an archive cannot be had in another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Only 1.14, 1.15 and 1.16 are written.
    #[error("cannot convert to archive version {target}, only to 1.14, 1.15 or 1.16")]
    Target {
        /// The version asked for.
        target: Version,
    },
    /// The target does not know the compression of the data.
    #[error(
        "archive version {target} has no {compression} compression: compress the data with gzip"
    )]
    Compression {
        /// The version asked for.
        target: Version,
        /// The compression of the data.
        compression: Compression,
    },
    /// A group of large objects is not as `pg_dump` writes it.
    #[error("cannot take apart the large objects of entry {dump_id}: {reason}")]
    LargeObjects {
        /// The entry.
        dump_id: i32,
        /// What is wrong.
        reason: String,
    },
    /// There are no dump ids left for new entries.
    #[error("the archive's dump ids are used up: no new entries can be added")]
    OutOfIds,
    /// The outcome would not be a table of contents.
    #[error("the converted table of contents is impossible")]
    Toc(#[from] TocError),
}

impl Toc {
    /// This table of contents as another version of the format has it, for a `pg_restore` that
    /// reads no newer one ([`Version::for_pg_restore`]). The data blocks stay as they are;
    /// offsets in them become [`Offset::NotSet`], because the table's length changes.
    ///
    /// From 1.16 down, each group of large objects becomes one `BLOB` entry per object, with
    /// its own comments and ACL, before the data, as `pg_dump` 15 and 16 write them. The objects'
    /// data stays in as many `BLOBS` entries as it was. A group's first object keeps the group's
    /// dump id, the others get new ones above [`Toc::max_dump_id`]. An access method chosen for a
    /// partitioned table (possible since PostgreSQL 17) is lost, as older versions have no place
    /// for it; its partitions keep theirs.
    ///
    /// Upwards nothing is regrouped, and relation kinds are 0, which newer `pg_restore` treats
    /// as it treats an old archive.
    ///
    /// # Errors
    /// If the target is below 1.14 (and not the version it has already), does not know the
    /// compression, or the large objects are not as `pg_dump` writes them.
    pub fn to_version(self, target: Version) -> Result<Toc, ConvertError> {
        let version = self.header().version;
        if target == version {
            return Ok(self);
        }
        if target < Version::V1_14 {
            return Err(ConvertError::Target { target });
        }
        let compression = self.header().compression;
        if !compression.fits(target) {
            return Err(ConvertError::Compression { target, compression });
        }
        let first_new_id = self.max_dump_id().checked_add(1).ok_or(ConvertError::OutOfIds)?;
        let (header, mut entries) = self.into_parts();
        if version == Version::V1_16 {
            entries = large_objects::ungroup(entries, first_new_id)?;
        }
        for entry in &mut entries {
            convert_entry(entry, target)?;
        }
        Ok(Toc::new(header.with_version(target), entries)?)
    }

    /// The same with other compression of the data, which the caller then has to provide.
    ///
    /// # Errors
    /// If this version does not know the compression.
    pub fn with_compression(self, compression: Compression) -> Result<Toc, TocError> {
        let (mut header, entries) = self.into_parts();
        header.compression = compression;
        Toc::new(header, entries)
    }
}

fn convert_entry(entry: &mut Entry, target: Version) -> Result<(), TocError> {
    if matches!(entry.offset(), Offset::At(_)) {
        entry.set_offset(Offset::NotSet);
    }
    if target < Version::V1_16 && entry.relkind() != 0 {
        let fields = entry.fields();
        // An older pg_restore would make it the default of what comes next.
        let partitioned = fields.relkind == RELKIND_PARTITIONED_TABLE;
        let tableam = fields.tableam.filter(|_| !partitioned);
        *entry = Entry::new(EntryFields { relkind: 0, tableam, ..fields })?;
    }
    Ok(())
}
