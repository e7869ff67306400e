//! The head and the table of contents.

use std::io::{self, Read, Write};

use crate::encode::put_int;
use crate::entry::{Entry, EntryReader, Offset};
use crate::header::{Compression, Header, Version};
use crate::read::{Limits, ReadError, Source};

/// Entries are encoded in portions of about this many bytes when written to a stream.
const WRITE_PORTION: usize = 64 << 10;

/// A head and table of contents that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TocError {
    /// A dump id is zero or negative.
    #[error("dump id {dump_id} is not above zero")]
    DumpId {
        /// The id.
        dump_id: i32,
    },
    /// Two entries have the same dump id.
    #[error("two entries have dump id {dump_id}")]
    Duplicate {
        /// The id.
        dump_id: i32,
    },
    /// No entry has the dump id.
    #[error("no entry has dump id {dump_id}")]
    Unknown {
        /// The id.
        dump_id: i32,
    },
    /// An entry depends on a negative dump id.
    #[error("entry {dump_id} depends on {dependency}, which is no dump id")]
    Dependency {
        /// The entry.
        dump_id: i32,
        /// What it names.
        dependency: i32,
    },
    /// An entry's texts are longer than the format can hold.
    #[error("the texts of entry {dump_id} are longer than 2^31-1 bytes together")]
    TooLong {
        /// The entry.
        dump_id: i32,
    },
    /// There are more entries than the format can count.
    #[error("{count} entries are more than an archive can hold")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The head has a field that no archive can have.
    #[error("the head is impossible: {reason}")]
    Header {
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive's version does not know the compression.
    #[error("archive version {version} has no {compression} compression")]
    Compression {
        /// The version.
        version: Version,
        /// The compression.
        compression: Compression,
    },
}

/// The head and the table of contents of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    header: Header,
    entries: Vec<Entry>,
    /// The places of the entries, in the order of their dump ids.
    by_id: Vec<u32>,
}

impl Toc {
    /// Reads head and table of contents from the start of an archive, and not a byte of what
    /// follows. It reads in small steps: give it something buffered.
    ///
    /// # Errors
    /// If the stream fails or ends, the bytes are not those of a custom archive of version 1.12
    /// to 1.16, or a limit is reached.
    pub fn read<R: Read>(reader: &mut R, limits: &Limits) -> Result<Toc, ReadError> {
        let mut source = Source::new(reader, limits);
        let header = Header::read(&mut source)?;
        let count = source.int("entry count")?;
        let count = usize::try_from(count)
            .map_err(|_| source.invalid(format!("a count of {count} entries")))?;
        if count > limits.max_entries {
            return Err(source.over_limit("max_entries", limits.max_entries as u64));
        }
        let mut entries = Vec::new();
        let mut reader = EntryReader::default();
        for index in 0..count {
            source.set_entry(Some(index));
            entries.push(reader.read(&mut source, header.version)?);
        }
        entries.shrink_to_fit();
        let by_id = index_by_id(&entries).map_err(|error| source.invalid(error.to_string()))?;
        Ok(Toc { header, entries, by_id })
    }

    /// A table of contents of these entries, in this order. A gzip level that the version does
    /// not store becomes the default, so that what is written is what is read.
    ///
    /// # Errors
    /// If two entries have the same dump id, there are more than 2^31-1, or the head has a
    /// width, level, name or compression that its version cannot hold.
    pub fn new(mut header: Header, entries: Vec<Entry>) -> Result<Toc, TocError> {
        let names = [&header.database, &header.server_version, &header.dump_version];
        if names.into_iter().flatten().any(|name| i32::try_from(name.len()).is_err()) {
            return Err(TocError::Header { reason: "a name is longer than 2^31-1 bytes" });
        }
        if !(4..=8).contains(&header.int_size) {
            return Err(TocError::Header { reason: "integers must have 4 to 8 bytes" });
        }
        if header.gzip_level == 0 {
            return Err(TocError::Header { reason: "gzip level 0 would mean no compression" });
        }
        let (version, compression) = (header.version, header.compression);
        if !compression.fits(version) {
            return Err(TocError::Compression { version, compression });
        }
        header.forget_unstored();
        let by_id = index_by_id(&entries)?;
        Ok(Toc { header, entries, by_id })
    }

    /// The head.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The entries, in the archive's order, which is the order of a restore.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The head and the entries, to be changed and put together again by [`Toc::new`].
    pub fn into_parts(self) -> (Header, Vec<Entry>) {
        (self.header, self.entries)
    }

    /// The place in [`Toc::entries`] of the entry with this dump id.
    pub fn position(&self, dump_id: i32) -> Option<usize> {
        let found = self
            .by_id
            .binary_search_by_key(&dump_id, |place| self.entries[*place as usize].dump_id());
        found.ok().map(|found| self.by_id[found] as usize)
    }

    /// The entry with this dump id.
    pub fn get(&self, dump_id: i32) -> Option<&Entry> {
        self.position(dump_id).map(|place| &self.entries[place])
    }

    /// The largest dump id that an entry has or depends on, 0 if there is none. New entries must
    /// have larger ones: dependencies may name objects that are not in the archive.
    pub fn max_dump_id(&self) -> i32 {
        let ids = |entry: &Entry| {
            entry.dependencies().iter().copied().max().unwrap_or(0).max(entry.dump_id())
        };
        self.entries.iter().map(ids).max().unwrap_or(0)
    }

    /// Records where an entry's data is. The length of the encoding stays the same.
    ///
    /// # Errors
    /// If there is no such entry.
    pub fn set_offset(&mut self, dump_id: i32, offset: Offset) -> Result<(), TocError> {
        let place = self.position(dump_id).ok_or(TocError::Unknown { dump_id })?;
        self.entries[place].set_offset(offset);
        Ok(())
    }

    /// The length of the encoding in bytes: where the first data block begins.
    pub fn encoded_len(&self) -> u64 {
        let count = 1 + u64::from(self.header.int_size);
        let entries: u64 =
            self.entries.iter().map(|entry| entry.encoded_len(&self.header) as u64).sum();
        self.header.encoded_len() as u64 + count + entries
    }

    /// Head and table of contents as `pg_dump` writes them.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = usize::try_from(self.encoded_len()).unwrap_or(0);
        let mut out = Vec::with_capacity(capacity);
        self.put_start(&mut out);
        for entry in &self.entries {
            entry.put(&mut out, &self.header);
        }
        out
    }

    /// Writes what [`Toc::encode`] gives, without holding it in memory.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn write_to<W: Write>(&self, out: &mut W) -> io::Result<()> {
        let mut portion = Vec::with_capacity(WRITE_PORTION);
        self.put_start(&mut portion);
        for entry in &self.entries {
            if portion.len() >= WRITE_PORTION {
                out.write_all(&portion)?;
                portion.clear();
            }
            entry.put(&mut portion, &self.header);
        }
        out.write_all(&portion)
    }

    /// Writes the `toc.dat` of the directory format. The data of an entry is then in the file of
    /// [`Toc::directory_file`], with the suffix of the compression (`.zst`, `.gz`, none).
    ///
    /// # Errors
    /// If the writer fails.
    pub fn write_directory_to<W: Write>(&self, out: &mut W) -> io::Result<()> {
        let mut portion = Vec::with_capacity(WRITE_PORTION);
        self.header.put_of_directory(&mut portion);
        self.put_count(&mut portion);
        for entry in &self.entries {
            if portion.len() >= WRITE_PORTION {
                out.write_all(&portion)?;
                portion.clear();
            }
            let file = self.directory_file(entry).unwrap_or_default();
            entry.put_with_file(&mut portion, &self.header, &file);
        }
        out.write_all(&portion)
    }

    /// The file that has an entry's data in the directory format: of large objects the list of
    /// their files, which has no suffix. `None` if it has no data. Before version 1.16 there
    /// is one such list, whatever the number of entries.
    pub fn directory_file(&self, entry: &Entry) -> Option<String> {
        let id = entry.dump_id();
        match (entry.had_dumper(), entry.desc() == Some(b"BLOBS")) {
            (false, _) => None,
            (true, true) if self.header.version < Version::V1_16 => Some("blobs.toc".to_owned()),
            (true, true) => Some(format!("blobs_{id}.toc")),
            (true, false) => Some(format!("{id}.dat")),
        }
    }

    fn put_start(&self, out: &mut Vec<u8>) {
        self.header.put(out);
        self.put_count(out);
    }

    fn put_count(&self, out: &mut Vec<u8>) {
        let count = i32::try_from(self.entries.len()).expect("the count was checked");
        put_int(out, usize::from(self.header.int_size), count);
    }
}

/// The places of the entries in the order of their dump ids, which must differ.
fn index_by_id(entries: &[Entry]) -> Result<Vec<u32>, TocError> {
    let count = entries.len();
    let last = i32::try_from(count).map_err(|_| TocError::TooMany { count })?;
    let mut by_id: Vec<u32> = (0..last.unsigned_abs()).collect();
    let id = |place: u32| entries[place as usize].dump_id();
    by_id.sort_unstable_by_key(|place| id(*place));
    match by_id.windows(2).find(|pair| id(pair[0]) == id(pair[1])) {
        Some(pair) => Err(TocError::Duplicate { dump_id: id(pair[0]) }),
        None => Ok(by_id),
    }
}
