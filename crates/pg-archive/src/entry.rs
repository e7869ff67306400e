//! One entry of a table of contents.

mod codec;

pub(crate) use codec::EntryReader;

use crate::toc::TocError;

/// The part of a restore that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// That of the entry before it: comments, ACLs, security labels.
    None,
    /// Definitions that data needs.
    PreData,
    /// Table data, large objects, sequence values.
    Data,
    /// Indexes, constraints, triggers.
    PostData,
}

impl Section {
    fn code(self) -> i32 {
        match self {
            Section::None => 1,
            Section::PreData => 2,
            Section::Data => 3,
            Section::PostData => 4,
        }
    }
}

/// Where an entry's data block begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offset {
    /// There is a block, its place is not recorded: what a dump into a pipe has.
    NotSet,
    /// Bytes from the start of the archive.
    At(u64),
    /// There is no block.
    NoData,
}

/// An entry's fields, borrowed: what [`Entry::new`] takes and [`Entry::fields`] gives. Text is
/// bytes in the encoding of the dump; `None` is the archive's null, different from empty.
///
/// To change an entry, build another one:
/// `Entry::new(EntryFields { owner: Some(b"alice"), ..entry.fields() })`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryFields<'a> {
    /// Identifies the entry within the archive; above zero and unique.
    pub dump_id: i32,
    /// Whether the entry has a data block.
    pub had_dumper: bool,
    /// The oid of the catalog that the object is in, 0 if none.
    pub table_oid: u32,
    /// The object's oid; for `TABLE DATA` that of the table.
    pub oid: u32,
    /// The object's name.
    pub tag: Option<&'a [u8]>,
    /// The object's kind, such as `TABLE DATA`.
    pub desc: Option<&'a [u8]>,
    /// The part of the restore it belongs to.
    pub section: Section,
    /// The SQL that creates the object.
    pub defn: Option<&'a [u8]>,
    /// The SQL that drops it.
    pub drop_stmt: Option<&'a [u8]>,
    /// The COPY statement that loads its data.
    pub copy_stmt: Option<&'a [u8]>,
    /// The schema.
    pub namespace: Option<&'a [u8]>,
    /// The tablespace; `None` where it does not apply, empty for the default.
    pub tablespace: Option<&'a [u8]>,
    /// The table access method; version 1.14 and newer.
    pub tableam: Option<&'a [u8]>,
    /// The relation kind's character code, 0 if unknown or not a table; version 1.16 and newer.
    pub relkind: i32,
    /// The owner.
    pub owner: Option<&'a [u8]>,
    /// Whether the table was created WITH OIDS; only `pg_dump` before 12 sets it.
    pub with_oids: bool,
    /// The dump ids of what must be restored before. They may name entries that do not exist.
    pub dependencies: &'a [i32],
    /// Where the data is.
    pub offset: Offset,
}

/// The number of texts in an entry, and their order in `Entry::text`.
const TEXTS: usize = 9;
const TAG: usize = 0;
const DESC: usize = 1;
const DEFN: usize = 2;
const DROP_STMT: usize = 3;
const COPY_STMT: usize = 4;
const NAMESPACE: usize = 5;
const TABLESPACE: usize = 6;
const TABLEAM: usize = 7;
const OWNER: usize = 8;

/// One entry of a table of contents. Its texts share one allocation: a database of many tables
/// has hundreds of thousands of entries.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    text: Box<[u8]>,
    /// Where each text ends in `text`; it begins where the one before it ends.
    ends: [u32; TEXTS],
    /// One bit for each text that is null.
    nulls: u16,
    had_dumper: bool,
    with_oids: bool,
    section: Section,
    dump_id: i32,
    table_oid: u32,
    oid: u32,
    relkind: i32,
    dependencies: Box<[i32]>,
    offset: Offset,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fields().fmt(f)
    }
}

impl Entry {
    /// An entry with these fields.
    ///
    /// # Errors
    /// If the dump id is not above zero, a dependency is negative, or the texts are together
    /// longer than 2^31-1 bytes.
    pub fn new(fields: EntryFields<'_>) -> Result<Entry, TocError> {
        let dump_id = fields.dump_id;
        if dump_id <= 0 {
            return Err(TocError::DumpId { dump_id });
        }
        if let Some(&dependency) = fields.dependencies.iter().find(|id| **id < 0) {
            return Err(TocError::Dependency { dump_id, dependency });
        }
        let texts = [
            fields.tag,
            fields.desc,
            fields.defn,
            fields.drop_stmt,
            fields.copy_stmt,
            fields.namespace,
            fields.tablespace,
            fields.tableam,
            fields.owner,
        ];
        let total: usize = texts.iter().flatten().map(|text| text.len()).sum();
        if i32::try_from(total).is_err() {
            return Err(TocError::TooLong { dump_id });
        }
        let mut text = Vec::with_capacity(total);
        let (mut ends, mut nulls) = ([0; TEXTS], 0);
        for (index, value) in texts.into_iter().enumerate() {
            match value {
                Some(value) => text.extend_from_slice(value),
                None => nulls |= 1 << index,
            }
            ends[index] = text.len() as u32;
        }
        Ok(Entry {
            text: text.into_boxed_slice(),
            ends,
            nulls,
            had_dumper: fields.had_dumper,
            with_oids: fields.with_oids,
            section: fields.section,
            dump_id,
            table_oid: fields.table_oid,
            oid: fields.oid,
            relkind: fields.relkind,
            dependencies: fields.dependencies.into(),
            offset: fields.offset,
        })
    }

    /// All fields.
    pub fn fields(&self) -> EntryFields<'_> {
        EntryFields {
            dump_id: self.dump_id,
            had_dumper: self.had_dumper,
            table_oid: self.table_oid,
            oid: self.oid,
            tag: self.tag(),
            desc: self.desc(),
            section: self.section,
            defn: self.defn(),
            drop_stmt: self.drop_stmt(),
            copy_stmt: self.copy_stmt(),
            namespace: self.namespace(),
            tablespace: self.tablespace(),
            tableam: self.tableam(),
            relkind: self.relkind,
            owner: self.owner(),
            with_oids: self.with_oids,
            dependencies: &self.dependencies,
            offset: self.offset,
        }
    }

    /// See [`EntryFields::dump_id`].
    pub fn dump_id(&self) -> i32 {
        self.dump_id
    }

    /// See [`EntryFields::had_dumper`].
    pub fn had_dumper(&self) -> bool {
        self.had_dumper
    }

    /// See [`EntryFields::table_oid`].
    pub fn table_oid(&self) -> u32 {
        self.table_oid
    }

    /// See [`EntryFields::oid`].
    pub fn oid(&self) -> u32 {
        self.oid
    }

    /// See [`EntryFields::tag`].
    pub fn tag(&self) -> Option<&[u8]> {
        self.text(TAG)
    }

    /// See [`EntryFields::desc`].
    pub fn desc(&self) -> Option<&[u8]> {
        self.text(DESC)
    }

    /// See [`EntryFields::section`].
    pub fn section(&self) -> Section {
        self.section
    }

    /// See [`EntryFields::defn`].
    pub fn defn(&self) -> Option<&[u8]> {
        self.text(DEFN)
    }

    /// See [`EntryFields::drop_stmt`].
    pub fn drop_stmt(&self) -> Option<&[u8]> {
        self.text(DROP_STMT)
    }

    /// See [`EntryFields::copy_stmt`].
    pub fn copy_stmt(&self) -> Option<&[u8]> {
        self.text(COPY_STMT)
    }

    /// See [`EntryFields::namespace`].
    pub fn namespace(&self) -> Option<&[u8]> {
        self.text(NAMESPACE)
    }

    /// See [`EntryFields::tablespace`].
    pub fn tablespace(&self) -> Option<&[u8]> {
        self.text(TABLESPACE)
    }

    /// See [`EntryFields::tableam`].
    pub fn tableam(&self) -> Option<&[u8]> {
        self.text(TABLEAM)
    }

    /// See [`EntryFields::relkind`].
    pub fn relkind(&self) -> i32 {
        self.relkind
    }

    /// See [`EntryFields::owner`].
    pub fn owner(&self) -> Option<&[u8]> {
        self.text(OWNER)
    }

    /// See [`EntryFields::with_oids`].
    pub fn with_oids(&self) -> bool {
        self.with_oids
    }

    /// See [`EntryFields::dependencies`].
    pub fn dependencies(&self) -> &[i32] {
        &self.dependencies
    }

    /// See [`EntryFields::offset`].
    pub fn offset(&self) -> Offset {
        self.offset
    }

    pub(crate) fn set_offset(&mut self, offset: Offset) {
        self.offset = offset;
    }

    fn text(&self, index: usize) -> Option<&[u8]> {
        if self.nulls & (1 << index) != 0 {
            return None;
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start as usize..self.ends[index] as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_little_memory() {
        assert!(size_of::<Entry>() <= 120, "{}", size_of::<Entry>());
    }
}
