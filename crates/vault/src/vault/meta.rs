//! Meta objects: tables of contents, contents lists, globals.
//!
//! A meta object is one plain zstd frame, named by the hash of its raw content.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use super::{Put, Vault, VaultError};
use crate::contents::Entry;
use crate::hash::ContentHash;
use crate::manifest::ObjectRef;
use crate::store::{PutMode, Store};

/// The most that a meta object can have as stored, bytes. It is what one contents list takes of
/// memory.
pub const MAX_META_STORED_BYTES: u64 = 256 << 20;

/// The longest line of a contents list, bytes: one table of about a million chunks.
pub const MAX_CONTENTS_LINE_BYTES: u64 = 128 << 20;

/// How much text is compressed at once, bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Meta objects are small and read by hand: size over speed.
const LEVEL: i32 = 6;

/// The smallest zstd frame.
const MIN_STORED_BYTES: u64 = 4;

/// Name of a meta object in the vault: `meta/<2 hex>/<64 hex>`.
pub fn meta_name(hash: &ContentHash) -> String {
    let hex = hash.to_string();
    format!("meta/{}/{hex}", &hex[..2])
}

/// Compresses and hashes what is written to it.
struct MetaWriter {
    what: &'static str,
    encoder: zstd::Encoder<'static, Vec<u8>>,
    hasher: blake3::Hasher,
    raw_bytes: u64,
}

impl MetaWriter {
    fn new(what: &'static str) -> Result<Self, VaultError> {
        let make = || {
            let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
            encoder.include_checksum(true)?;
            Ok(encoder)
        };
        let encoder = make().map_err(|source| VaultError::Compress { what, source })?;
        Ok(Self { what, encoder, hasher: blake3::Hasher::new(), raw_bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        let what = self.what;
        self.encoder.write_all(bytes).map_err(|source| VaultError::Compress { what, source })?;
        self.hasher.update(bytes);
        self.raw_bytes += bytes.len() as u64;
        check_stored(what, self.encoder.get_ref().len() as u64)
    }

    fn put(self, vault: &Vault) -> Result<ObjectRef, VaultError> {
        let what = self.what;
        let stored =
            self.encoder.finish().map_err(|source| VaultError::Compress { what, source })?;
        check_stored(what, stored.len() as u64)?;
        let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        let limits = (MIN_STORED_BYTES, MAX_META_STORED_BYTES);
        let create =
            |store: &dyn Store, name: &str, body: &[u8]| store.put(name, body, PutMode::Create);
        let mut object =
            ObjectRef { hash, raw_bytes: self.raw_bytes, stored_bytes: stored.len() as u64 };
        let there = match vault.put_once(&meta_name(&hash), &stored, limits, create) {
            Ok(Put::Stored) => return Ok(object),
            Ok(Put::AlreadyThere { stored_bytes }) => {
                vault.verify_meta(&ObjectRef { stored_bytes, ..object }).map(|()| stored_bytes)
            }
            Err(error) => Err(error),
        };
        match there {
            Ok(stored_bytes) => object.stored_bytes = stored_bytes,
            // A whole database hangs on it: what is damaged is not relied on, but replaced.
            Err(error) if error.is_damage() => {
                vault.data().put(&meta_name(&hash), &stored, PutMode::Overwrite)?;
            }
            Err(error) => return Err(error),
        }
        Ok(object)
    }
}

fn check_stored(what: &'static str, bytes: u64) -> Result<(), VaultError> {
    if bytes > MAX_META_STORED_BYTES {
        return Err(VaultError::TooLong { what, bytes, limit_bytes: MAX_META_STORED_BYTES });
    }
    Ok(())
}

/// Writes the contents list of a database, entry by entry; keeps only its compressed form in
/// memory, about 40 bytes a chunk.
pub struct ContentsWriter {
    meta: MetaWriter,
}

/// Text on its way into a meta object. The line of a huge table, or the table of contents of many,
/// has many megabytes, and is nowhere as a whole.
struct Sink<'a> {
    meta: &'a mut MetaWriter,
    what: &'static str,
    bytes: u64,
    limit_bytes: u64,
    failure: Option<VaultError>,
}

impl<'a> Sink<'a> {
    /// Has `write` write text of at most `limit_bytes`.
    fn fill(
        meta: &'a mut MetaWriter,
        (what, limit_bytes): (&'static str, u64),
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), VaultError> {
        let sink = Sink { meta, what, bytes: 0, limit_bytes, failure: None };
        let mut buffer = BufWriter::with_capacity(BUFFER_BYTES, sink);
        let written = write(&mut buffer).and_then(|()| buffer.flush());
        let (sink, _) = buffer.into_parts();
        match (written, sink.failure) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(failure)) => Err(failure),
            (Err(source), None) => Err(VaultError::Compress { what, source }),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        let written = if self.bytes > self.limit_bytes {
            let Self { what, bytes, limit_bytes, .. } = *self;
            Err(VaultError::TooLong { what, bytes, limit_bytes })
        } else {
            self.meta.write(bytes)
        };
        written.map(|()| bytes.len()).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("it was refused")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ContentsWriter {
    /// An empty list.
    pub fn new() -> Result<Self, VaultError> {
        Ok(Self { meta: MetaWriter::new("the contents list")? })
    }

    /// Adds an entry; the order is that of the table of contents. After an error the list is of no
    /// use.
    pub fn push(&mut self, entry: &Entry) -> Result<(), VaultError> {
        let limit = ("a line of the contents list", MAX_CONTENTS_LINE_BYTES);
        Sink::fill(&mut self.meta, limit, |line| {
            serde_json::to_writer(&mut *line, entry)?;
            line.write_all(b"\n")
        })
    }

    /// Stores the list.
    pub fn finish(self, vault: &Vault) -> Result<ObjectRef, VaultError> {
        self.meta.put(vault)
    }
}

impl Vault {
    /// Stores a meta object. If one of this content is there already and whole, it stays, and the
    /// reference has that one's stored size; a damaged one is replaced.
    pub fn put_meta(&self, raw: &[u8]) -> Result<ObjectRef, VaultError> {
        self.put_meta_with(|out| out.write_all(raw))
    }

    /// As [`Vault::put_meta`], of what `write` writes. Memory: its compressed form.
    pub fn put_meta_with(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<ObjectRef, VaultError> {
        let what = "a meta object";
        let mut meta = MetaWriter::new(what)?;
        Sink::fill(&mut meta, (what, u64::MAX), write)?;
        meta.put(self)
    }

    /// Raw content of a meta object, verified. `limit_bytes` bounds the raw content.
    pub fn get_meta(&self, object: &ObjectRef, limit_bytes: u64) -> Result<Vec<u8>, VaultError> {
        let limit_bytes = limit_bytes.min(isize::MAX as u64);
        if object.raw_bytes > limit_bytes {
            let what = "a meta object";
            return Err(VaultError::TooLong { what, bytes: object.raw_bytes, limit_bytes });
        }
        let stored = self.stored_meta(object)?;
        let mut raw = Vec::new();
        read_frame(object, &stored, |reader| reader.read_to_end(&mut raw).map(|_| ()))?;
        Ok(raw)
    }

    /// Calls `each` for every entry of a contents list, in order, once the whole list has been
    /// verified. Memory: the stored list and one entry.
    pub fn read_contents(
        &self,
        object: &ObjectRef,
        mut each: impl FnMut(Entry),
    ) -> Result<(), VaultError> {
        let stored = self.stored_meta(object)?;
        read_frame(object, &stored, |reader| io::copy(reader, &mut io::sink()).map(|_| ()))?;
        read_frame(object, &stored, |reader| {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            loop {
                line.clear();
                let limit = MAX_CONTENTS_LINE_BYTES + 1;
                let bytes = reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
                if bytes == 0 {
                    return Ok(());
                }
                if line.pop() != Some(b'\n') {
                    return Err(io::Error::other("a line is cut short or too long"));
                }
                each(serde_json::from_slice(&line)?);
            }
        })
    }

    fn verify_meta(&self, object: &ObjectRef) -> Result<(), VaultError> {
        let stored = self.stored_meta(object)?;
        read_frame(object, &stored, |reader| io::copy(reader, &mut io::sink()).map(|_| ()))
    }

    fn stored_meta(&self, object: &ObjectRef) -> Result<Vec<u8>, VaultError> {
        let name = meta_name(&object.hash);
        if object.stored_bytes > MAX_META_STORED_BYTES {
            // What names it is wrong, not a caller.
            let problem = format!(
                "it should have {} bytes, more than the {MAX_META_STORED_BYTES} that are possible",
                object.stored_bytes
            );
            return Err(VaultError::Damaged { object: name, problem });
        }
        let stored = self.data().get(&name, object.stored_bytes)?;
        if stored.len() as u64 != object.stored_bytes {
            let problem = format!(
                "it has {} bytes, not the {} that were stored",
                stored.len(),
                object.stored_bytes
            );
            return Err(VaultError::Damaged { object: name, problem });
        }
        Ok(stored)
    }
}

/// Passes the raw content to `consume`, never more than it should have, and verifies it.
fn read_frame(
    object: &ObjectRef,
    stored: &[u8],
    consume: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> Result<(), VaultError> {
    let damaged =
        |problem: String| VaultError::Damaged { object: meta_name(&object.hash), problem };
    let decoder = zstd::Decoder::with_buffer(stored)
        .map_err(|error| damaged(format!("zstd: {error}")))?
        .single_frame();
    let mut reader = Hashing {
        inner: decoder.take(object.raw_bytes.saturating_add(1)),
        hasher: blake3::Hasher::new(),
        bytes: 0,
    };
    consume(&mut reader).map_err(|error| damaged(error.to_string()))?;
    if reader.bytes != object.raw_bytes {
        return Err(damaged(format!("its content has not the {} bytes it had", object.raw_bytes)));
    }
    if reader.hasher.finalize().as_bytes() != object.hash.as_bytes() {
        return Err(damaged("its content has another hash".to_owned()));
    }
    if !reader.inner.into_inner().finish().is_empty() {
        return Err(damaged("something follows its frame".to_owned()));
    }
    Ok(())
}

struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
