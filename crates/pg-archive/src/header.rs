//! The head of an archive.

use std::fmt;
use std::io::Read;

use crate::encode::{put_int, put_str, str_len};
use crate::read::{ReadError, Source};

const MAGIC: &[u8; 5] = b"PGDMP";
const FORMAT_CUSTOM: u8 = 1;
/// What the directory format's `toc.dat` says too: the two have the same table of contents.
const FORMAT_TAR: u8 = 3;
/// Bytes of a file offset; nothing else was ever written on a 64-bit machine.
pub(crate) const OFFSET_SIZE: u8 = 8;
/// What `pg_dump` before 16 stores for "gzip, default level".
const DEFAULT_GZIP_LEVEL: i32 = -1;

/// An archive format version. The order is the order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `pg_dump` 9.0 to 10.
    V1_12,
    /// `pg_dump` 11: the `SEARCHPATH` entry.
    V1_13,
    /// `pg_dump` 12 to 15: table access methods.
    V1_14,
    /// `pg_dump` 16: a compression algorithm instead of a level.
    V1_15,
    /// `pg_dump` 17 and newer: relation kinds, grouped large objects.
    V1_16,
}

impl Version {
    const ALL: [Version; 5] =
        [Version::V1_12, Version::V1_13, Version::V1_14, Version::V1_15, Version::V1_16];

    /// The minor number; the major one is always 1.
    pub fn minor(self) -> u8 {
        match self {
            Version::V1_12 => 12,
            Version::V1_13 => 13,
            Version::V1_14 => 14,
            Version::V1_15 => 15,
            Version::V1_16 => 16,
        }
    }

    /// The newest version that this major of `pg_restore` reads, `None` before 9.0.
    pub fn for_pg_restore(major: u32) -> Option<Version> {
        match major {
            0..=8 => None,
            9 | 10 => Some(Version::V1_12),
            11 => Some(Version::V1_13),
            12..=15 => Some(Version::V1_14),
            16 => Some(Version::V1_15),
            _ => Some(Version::V1_16),
        }
    }

    fn from_numbers(major: u8, minor: u8, revision: u8) -> Option<Version> {
        let known = Self::ALL.into_iter().find(|version| version.minor() == minor);
        known.filter(|_| major == 1 && revision == 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor())
    }
}

/// How the data blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Raw COPY text.
    None,
    /// One zlib stream (not gzip members, in spite of the name) per table or large object.
    Gzip,
    /// One LZ4 frame per table or large object; version 1.15 and newer.
    Lz4,
    /// Zstandard frames, each beginning a piece; version 1.15 and newer.
    Zstd,
}

impl Compression {
    pub(crate) fn fits(self, version: Version) -> bool {
        version >= Version::V1_15 || matches!(self, Compression::None | Compression::Gzip)
    }

    fn algorithm(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Lz4 => 2,
            Compression::Zstd => 3,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        })
    }
}

/// When the archive was made, in the local time of the machine that ran `pg_dump`, as C's
/// `struct tm` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Created {
    /// 0 to 60.
    pub second: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 23.
    pub hour: i32,
    /// Day of the month, 1 to 31.
    pub day: i32,
    /// Month counted from 0.
    pub month: i32,
    /// Years since 1900.
    pub year: i32,
    /// Positive when daylight saving time was in force, negative when unknown.
    pub is_dst: i32,
}

/// The head of an archive. Names are bytes: they come in the encoding of the dumped database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The format version, which decides the layout of all that follows.
    pub version: Version,
    /// Bytes of an integer's magnitude, 4 to 8; `pg_dump` always writes 4.
    pub int_size: u8,
    /// How data blocks are compressed.
    pub compression: Compression,
    /// The level that versions below 1.15 store for gzip; never 0. Newer ones do not store it.
    pub gzip_level: i32,
    /// When the archive was made.
    pub created: Created,
    /// The database's name as it was connected to.
    pub database: Option<Vec<u8>>,
    /// The server's version string.
    pub server_version: Option<Vec<u8>>,
    /// `pg_dump`'s version string.
    pub dump_version: Option<Vec<u8>>,
}

impl Header {
    pub(crate) fn read<R: Read>(source: &mut Source<'_, R>) -> Result<Header, ReadError> {
        if source.array::<5>("magic")? != *MAGIC {
            return Err(source.invalid("not a custom-format archive: it does not begin with PGDMP"));
        }
        let [major, minor, revision] = source.array::<3>("version")?;
        let Some(version) = Version::from_numbers(major, minor, revision) else {
            let reason = format!("version {major}.{minor}.{revision} is not one of 1.12 to 1.16");
            return Err(source.invalid(reason));
        };
        let int_size = source.byte("integer size")?;
        if !(4..=8).contains(&int_size) {
            return Err(source.invalid(format!("integers of {int_size} bytes are not supported")));
        }
        source.int_size = usize::from(int_size);
        let offset_size = source.byte("offset size")?;
        if offset_size != OFFSET_SIZE {
            return Err(source.invalid(format!("offsets of {offset_size} bytes, expected 8")));
        }
        match source.byte("format")? {
            FORMAT_CUSTOM => {}
            FORMAT_TAR => return Err(source.invalid("a tar archive: dump with --format=custom")),
            5 => return Err(source.invalid("a directory archive: dump with --format=custom")),
            other => return Err(source.invalid(format!("format {other}, expected 1 (custom)"))),
        }
        let (compression, gzip_level) = read_compression(source, version)?;
        let created = Created {
            second: source.int("creation second")?,
            minute: source.int("creation minute")?,
            hour: source.int("creation hour")?,
            day: source.int("creation day")?,
            month: source.int("creation month")?,
            year: source.int("creation year")?,
            is_dst: source.int("creation daylight saving")?,
        };
        Ok(Header {
            version,
            int_size,
            compression,
            gzip_level,
            created,
            database: source.string("database name")?,
            server_version: source.string("server version")?,
            dump_version: source.string("pg_dump version")?,
        })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        self.put_as(out, FORMAT_CUSTOM);
    }

    /// As the directory format has it.
    pub(crate) fn put_of_directory(&self, out: &mut Vec<u8>) {
        self.put_as(out, FORMAT_TAR);
    }

    fn put_as(&self, out: &mut Vec<u8>, format: u8) {
        let width = usize::from(self.int_size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[1, self.version.minor(), 0]);
        out.extend_from_slice(&[self.int_size, OFFSET_SIZE, format]);
        if self.version >= Version::V1_15 {
            out.push(self.compression.algorithm());
        } else {
            let stored = if self.compression == Compression::None { 0 } else { self.gzip_level };
            put_int(out, width, stored);
        }
        let Created { second, minute, hour, day, month, year, is_dst } = self.created;
        for part in [second, minute, hour, day, month, year, is_dst] {
            put_int(out, width, part);
        }
        for name in [&self.database, &self.server_version, &self.dump_version] {
            put_str(out, width, name.as_deref());
        }
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let int = 1 + usize::from(self.int_size);
        let compression = if self.version >= Version::V1_15 { 1 } else { int };
        let names = [&self.database, &self.server_version, &self.dump_version];
        11 + compression
            + 7 * int
            + names.into_iter().map(|name| str_len(int, name.as_deref())).sum::<usize>()
    }

    /// Makes what the version has no field for what a reader would take it to be.
    pub(crate) fn forget_unstored(&mut self) {
        if self.version >= Version::V1_15 || self.compression == Compression::None {
            self.gzip_level = DEFAULT_GZIP_LEVEL;
        }
    }

    /// This head in another version. The caller has checked that the compression fits.
    pub(crate) fn with_version(&self, version: Version) -> Header {
        Header { version, ..self.clone() }
    }
}

fn read_compression<R: Read>(
    source: &mut Source<'_, R>,
    version: Version,
) -> Result<(Compression, i32), ReadError> {
    if version < Version::V1_15 {
        return Ok(match source.int("compression level")? {
            0 => (Compression::None, DEFAULT_GZIP_LEVEL),
            level => (Compression::Gzip, level),
        });
    }
    let compression = match source.byte("compression")? {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Lz4,
        3 => Compression::Zstd,
        other => {
            return Err(source.invalid(format!(
                "compression algorithm {other} is not one of 0 none, 1 gzip, 2 lz4, 3 zstd"
            )));
        }
    };
    Ok((compression, DEFAULT_GZIP_LEVEL))
}
