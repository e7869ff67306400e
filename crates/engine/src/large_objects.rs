//! Reads large objects through `lo_get`, which needs no more than SELECT on each of them
//! (`pg_largeobject` itself is for superusers only), and sees them as of the snapshot.
//!
//! Small ones come many to a COPY. An object of at least [`PART_BYTES`] is read afterwards by
//! itself, part by part, so that no value is ever large on either side.

use std::collections::HashSet;
use std::sync::Arc;

use flexkeep_pg_copy::{BINARY_HEADER, Connection, CopyError, CopySink};
use flexkeep_vault::contents::{ChunkRef, EntryKind};
use flexkeep_vault::large_objects::Builder;

use crate::chunker::{ChunkError, Chunker, SOFT_CHUNK_BYTES};
use crate::error::BackupError;
use crate::journal::ItemJournal;
use crate::session;

/// Most bytes of an object that are asked for at once.
const PART_BYTES: usize = 1 << 20;

/// Large objects of a database that may not be read.
#[derive(Debug, Default)]
pub(crate) struct Unreadable(pub(crate) HashSet<u32>);

impl Unreadable {
    /// Asks for the large objects on which the current role has no SELECT.
    pub(crate) fn ask(connection: &mut Connection, database: &str) -> Result<Self, BackupError> {
        // Before PostgreSQL 18 there is no has_largeobject_privilege. An owner can take SELECT from
        // himself.
        const SQL: &str = "\
            SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m \
            WHERE NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r \
                       WHERE r.rolname = current_user) \
            AND pg_catalog.current_setting('lo_compat_privileges') = 'off' \
            AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(m.lomacl, \
                              pg_catalog.acldefault('L', m.lomowner))) a \
                            WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 \
                            OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))";
        let mut oids = HashSet::new();
        let rows = session::rows(connection, database, "checking rights on large objects", SQL)?;
        for row in &rows {
            oids.insert(session::number(row, 0, "large object rights")?);
        }
        Ok(Self(oids))
    }
}

/// Why reading a slice failed.
pub(crate) type SliceError = CopyError<ChunkError>;

/// Reads the objects `oids`, all of one slice, and gives how many and their chunks.
pub(crate) fn read_slice(
    connection: &mut Connection,
    chunker: &mut Chunker<'_>,
    oids: &[u32],
    journal: &Arc<ItemJournal>,
) -> Result<(u64, Vec<ChunkRef>), SliceError> {
    // Zero stands for an object that may not be read.
    let list = oids.iter().filter(|&&oid| oid != 0).map(u32::to_string).collect::<Vec<_>>();
    if list.is_empty() {
        return Ok((0, Vec::new()));
    }
    let list = list.join(",");
    let sql = format!(
        "COPY (SELECT m.oid, pg_catalog.lo_get(m.oid, 0, {PART_BYTES}) \
         FROM pg_catalog.pg_largeobject_metadata m \
         WHERE m.oid = ANY ('{{{list}}}'::pg_catalog.oid[]) ORDER BY m.oid) \
         TO STDOUT (FORMAT binary)"
    );
    let mut collector = Collector {
        chunker,
        builder: Builder::new(SOFT_CHUNK_BYTES),
        content: Vec::new(),
        journal,
        chunks: Vec::new(),
    };
    let mut rows = ObjectRows {
        collector: &mut collector,
        row: Vec::new(),
        started: false,
        objects: 0,
        large: Vec::new(),
    };
    connection.copy_out(&sql, &mut rows)?;
    let (objects, large) = (rows.objects, rows.large);
    for &oid in &large {
        read_large(connection, &mut collector, oid)?;
    }
    collector.cut().map_err(CopyError::Sink)?;
    Ok((objects + large.len() as u64, collector.chunks))
}

fn read_large(
    connection: &mut Connection,
    collector: &mut Collector<'_, '_>,
    oid: u32,
) -> Result<(), SliceError> {
    collector.begin(oid).map_err(CopyError::Sink)?;
    let mut offset: u64 = 0;
    loop {
        let sql = format!(
            "COPY (SELECT pg_catalog.lo_get({oid}, {offset}, {PART_BYTES})) \
             TO STDOUT (FORMAT binary)"
        );
        let mut part = PartRow { row: Vec::new(), started: false, length: None, collector };
        connection.copy_out(&sql, &mut part)?;
        let length = part.length.ok_or(CopyError::Sink(ChunkError::BadLargeObject))?;
        offset += length as u64;
        if length < PART_BYTES {
            break;
        }
    }
    collector.end().map_err(CopyError::Sink)
}

/// Objects into chunks.
struct Collector<'c, 'a> {
    chunker: &'c mut Chunker<'a>,
    builder: Builder,
    content: Vec<u8>,
    journal: &'c Arc<ItemJournal>,
    chunks: Vec<ChunkRef>,
}

impl Collector<'_, '_> {
    fn begin(&mut self, oid: u32) -> Result<(), ChunkError> {
        if !self.builder.has_room() {
            self.cut()?;
        }
        self.builder.begin(oid);
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), ChunkError> {
        loop {
            let taken = self.builder.append(bytes);
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.cut()?;
        }
    }

    fn end(&mut self) -> Result<(), ChunkError> {
        self.builder.end();
        Ok(())
    }

    fn cut(&mut self) -> Result<(), ChunkError> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let continued = self.builder.take(&mut self.content);
        let content = &mut self.content;
        let chunk =
            self.chunker.store(EntryKind::LargeObjects, continued, content, self.journal)?;
        self.chunks.push(chunk);
        Ok(())
    }
}

/// Rows `oid, bytea` of a binary COPY.
struct ObjectRows<'r, 'c, 'a> {
    collector: &'r mut Collector<'c, 'a>,
    row: Vec<u8>,
    started: bool,
    objects: u64,
    /// Those that are longer than what was asked for.
    large: Vec<u32>,
}

impl CopySink for ObjectRows<'_, '_, '_> {
    type Error = ChunkError;

    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), ChunkError> {
        if !collect(&mut self.row, &mut self.started, part, row_end)? {
            return Ok(());
        }
        if let Some(fields) = tuple(&self.row)? {
            let [oid, bytes] = fields[..] else { return Err(ChunkError::BadLargeObject) };
            let oid = oid.try_into().map_err(|_| ChunkError::BadLargeObject)?;
            let oid = u32::from_be_bytes(oid);
            if bytes.len() >= PART_BYTES {
                self.large.push(oid);
            } else {
                self.objects += 1;
                self.collector.begin(oid)?;
                self.collector.append(bytes)?;
                self.collector.end()?;
            }
        }
        self.row.clear();
        Ok(())
    }
}

/// The one row of a part of a long object.
struct PartRow<'r, 'c, 'a> {
    collector: &'r mut Collector<'c, 'a>,
    row: Vec<u8>,
    started: bool,
    length: Option<usize>,
}

impl CopySink for PartRow<'_, '_, '_> {
    type Error = ChunkError;

    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), ChunkError> {
        if !collect(&mut self.row, &mut self.started, part, row_end)? {
            return Ok(());
        }
        if let Some(fields) = tuple(&self.row)? {
            let [bytes] = fields[..] else { return Err(ChunkError::BadLargeObject) };
            self.length = Some(bytes.len());
            self.collector.append(bytes)?;
        }
        self.row.clear();
        Ok(())
    }
}

/// Collects one message, without the file header; true when there is something whole to look at.
fn collect(
    row: &mut Vec<u8>,
    started: &mut bool,
    part: &[u8],
    row_end: bool,
) -> Result<bool, ChunkError> {
    if row.len() + part.len() > PART_BYTES + 4096 {
        return Err(ChunkError::BadLargeObject);
    }
    row.extend_from_slice(part);
    if !row_end {
        return Ok(false);
    }
    if !*started {
        if !row.starts_with(BINARY_HEADER) {
            return Err(ChunkError::BadLargeObject);
        }
        row.drain(..BINARY_HEADER.len());
        *started = true;
    }
    Ok(!row.is_empty())
}

/// The fields of a binary tuple; `None` for the end mark.
fn tuple(mut row: &[u8]) -> Result<Option<Vec<&[u8]>>, ChunkError> {
    let count = i16::from_be_bytes(take(&mut row)?);
    if count == -1 {
        return Ok(None);
    }
    let mut fields = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(take(&mut row)?);
        let length = usize::try_from(length).map_err(|_| ChunkError::BadLargeObject)?;
        let (field, rest) = row.split_at_checked(length).ok_or(ChunkError::BadLargeObject)?;
        fields.push(field);
        row = rest;
    }
    Ok(Some(fields))
}

fn take<const N: usize>(row: &mut &[u8]) -> Result<[u8; N], ChunkError> {
    let (head, rest) = row.split_first_chunk::<N>().ok_or(ChunkError::BadLargeObject)?;
    *row = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_tuple_gives_its_fields_and_the_end_mark_none() {
        let row = [0, 2, 0, 0, 0, 1, 7, 0, 0, 0, 0];
        assert_eq!(tuple(&row).unwrap(), Some(vec![&[7][..], &[][..]]));
        assert_eq!(tuple(&[0xff, 0xff]).unwrap(), None);
    }

    #[test]
    fn a_tuple_that_lies_about_its_length_is_refused() {
        assert!(tuple(&[0, 1, 0, 0, 0, 9, 7]).is_err());
        assert!(tuple(&[0, 1, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(tuple(&[0]).is_err());
    }
}
