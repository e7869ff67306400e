//! Meta objects: tables of contents, contents lists, globals.
//!
//! A meta object is one plain zstd frame, named by the hash of its raw content.

use std::io::{self, BufRead, BufReader, Read, Write};

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
    line: Vec<u8>,
}

impl ContentsWriter {
    /// An empty list.
    pub fn new() -> Result<Self, VaultError> {
        Ok(Self { meta: MetaWriter::new("the contents list")?, line: Vec::new() })
    }

    /// Adds an entry; the order is that of the table of contents.
    pub fn push(&mut self, entry: &Entry) -> Result<(), VaultError> {
        self.line.clear();
        let what = "the contents list";
        serde_json::to_writer(&mut self.line, entry)
            .map_err(|error| VaultError::Compress { what, source: error.into() })?;
        self.line.push(b'\n');
        let bytes = self.line.len() as u64;
        if bytes > MAX_CONTENTS_LINE_BYTES {
            let what = "a line of the contents list";
            return Err(VaultError::TooLong { what, bytes, limit_bytes: MAX_CONTENTS_LINE_BYTES });
        }
        self.meta.write(&self.line)
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
        let mut meta = MetaWriter::new("a meta object")?;
        meta.write(raw)?;
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
        check_stored("a meta object", object.stored_bytes)?;
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
