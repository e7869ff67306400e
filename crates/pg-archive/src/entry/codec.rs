//! An entry's bytes, field after field in the order of the format.

use std::io::Read;

use super::{
    COPY_STMT, DEFN, DESC, DROP_STMT, Entry, NAMESPACE, OWNER, Offset, Section, TABLEAM,
    TABLESPACE, TAG, TEXTS,
};
use crate::encode::{decimal_len, put_decimal, put_int, put_str, str_len};
use crate::header::{Header, Version};
use crate::read::{ReadError, Source};

const OFFSET_NOT_SET: u8 = 1;
const OFFSET_SET: u8 = 2;
const OFFSET_NO_DATA: u8 = 3;
/// A flag byte and a 64-bit number.
const OFFSET_LEN: usize = 9;

impl Entry {
    pub(crate) fn put(&self, out: &mut Vec<u8>, header: &Header) {
        self.put_common(out, header);
        let (flag, place) = match self.offset {
            Offset::NotSet => (OFFSET_NOT_SET, 0),
            Offset::At(place) => (OFFSET_SET, place),
            Offset::NoData => (OFFSET_NO_DATA, 0),
        };
        out.push(flag);
        out.extend_from_slice(&place.to_le_bytes());
    }

    /// As the directory format has it: the name of a file in place of an offset.
    pub(crate) fn put_with_file(&self, out: &mut Vec<u8>, header: &Header, file: &str) {
        self.put_common(out, header);
        put_str(out, usize::from(header.int_size), Some(file.as_bytes()));
    }

    fn put_common(&self, out: &mut Vec<u8>, header: &Header) {
        let width = usize::from(header.int_size);
        put_int(out, width, self.dump_id);
        put_int(out, width, i32::from(self.had_dumper));
        put_decimal(out, width, self.table_oid);
        put_decimal(out, width, self.oid);
        put_str(out, width, self.tag());
        put_str(out, width, self.desc());
        put_int(out, width, self.section.code());
        for text in [DEFN, DROP_STMT, COPY_STMT, NAMESPACE, TABLESPACE] {
            put_str(out, width, self.text(text));
        }
        if header.version >= Version::V1_14 {
            put_str(out, width, self.tableam());
        }
        if header.version >= Version::V1_16 {
            put_int(out, width, self.relkind);
        }
        put_str(out, width, self.owner());
        put_str(out, width, Some(with_oids_text(self.with_oids)));
        for dependency in &self.dependencies {
            put_decimal(out, width, dependency.unsigned_abs());
        }
        put_str(out, width, None);
    }

    pub(crate) fn encoded_len(&self, header: &Header) -> usize {
        let int = 1 + usize::from(header.int_size);
        let tableam = usize::from(header.version >= Version::V1_14);
        let relkind = usize::from(header.version >= Version::V1_16);
        let texts = self.text.len() + (TEXTS - 1 + tableam) * int
            - self.tableam().filter(|_| tableam == 0).map_or(0, <[u8]>::len);
        let dependencies: usize =
            self.dependencies.iter().map(|id| decimal_len(int, id.unsigned_abs())).sum();
        (3 + relkind) * int
            + decimal_len(int, self.table_oid)
            + decimal_len(int, self.oid)
            + texts
            + str_len(int, Some(with_oids_text(self.with_oids)))
            + dependencies
            + int
            + OFFSET_LEN
    }
}

/// The flag is stored as a word.
fn with_oids_text(with_oids: bool) -> &'static [u8] {
    if with_oids { b"true" } else { b"false" }
}

/// What is reused from entry to entry while reading.
#[derive(Default)]
pub(crate) struct EntryReader {
    text: Vec<u8>,
    number: Vec<u8>,
    dependencies: Vec<i32>,
}

impl EntryReader {
    pub(crate) fn read<R: Read>(
        &mut self,
        source: &mut Source<'_, R>,
        version: Version,
    ) -> Result<Entry, ReadError> {
        let dump_id = source.int("dump id")?;
        if dump_id <= 0 {
            return Err(source.invalid(format!("dump id {dump_id} is not above zero")));
        }
        let had_dumper = match source.int("data flag")? {
            0 => false,
            1 => true,
            other => return Err(source.invalid(format!("data flag {other} is not 0 or 1"))),
        };
        let table_oid = self.oid(source, "catalog oid")?;
        let oid = self.oid(source, "oid")?;
        self.text.clear();
        let (mut ends, mut nulls) = ([0; TEXTS], 0u16);
        let mut text = |reader: &mut Self, source: &mut Source<'_, R>, index: usize, field| {
            if source.string_into(field, &mut reader.text)?.is_none() {
                nulls |= 1 << index;
            }
            ends[index] = match i32::try_from(reader.text.len()) {
                Ok(_) => reader.text.len() as u32,
                Err(_) => return Err(source.invalid("the entry's texts exceed 2^31-1 bytes")),
            };
            Ok(())
        };
        text(self, source, TAG, "tag")?;
        text(self, source, DESC, "kind")?;
        let section = read_section(source)?;
        text(self, source, DEFN, "definition")?;
        text(self, source, DROP_STMT, "drop statement")?;
        text(self, source, COPY_STMT, "copy statement")?;
        text(self, source, NAMESPACE, "schema")?;
        text(self, source, TABLESPACE, "tablespace")?;
        let mut relkind = 0;
        if version >= Version::V1_14 {
            text(self, source, TABLEAM, "table access method")?;
        }
        if version >= Version::V1_16 {
            relkind = source.int("relation kind")?;
        }
        text(self, source, OWNER, "owner")?;
        if version < Version::V1_14 {
            nulls |= 1 << TABLEAM;
            ends[TABLEAM] = ends[TABLESPACE];
        }
        let with_oids = self.with_oids(source)?;
        self.read_dependencies(source)?;
        Ok(Entry {
            text: self.text.as_slice().into(),
            ends,
            nulls,
            had_dumper,
            with_oids,
            section,
            dump_id,
            table_oid,
            oid,
            relkind,
            dependencies: self.dependencies.as_slice().into(),
            offset: read_offset(source)?,
        })
    }

    fn oid<R: Read>(
        &mut self,
        source: &mut Source<'_, R>,
        field: &'static str,
    ) -> Result<u32, ReadError> {
        let oid = source.decimal(field, &mut self.number)?;
        oid.ok_or_else(|| source.invalid("it is null"))
    }

    fn with_oids<R: Read>(&mut self, source: &mut Source<'_, R>) -> Result<bool, ReadError> {
        self.number.clear();
        let found = source.string_into("with-oids flag", &mut self.number)?;
        match (found, self.number.as_slice()) {
            (Some(_), b"false") => Ok(false),
            (Some(_), b"true") => Ok(true),
            _ => Err(source.invalid("it is neither false nor true")),
        }
    }

    fn read_dependencies<R: Read>(&mut self, source: &mut Source<'_, R>) -> Result<(), ReadError> {
        self.dependencies.clear();
        while let Some(id) = source.decimal("dependency", &mut self.number)? {
            let id = i32::try_from(id)
                .map_err(|_| source.invalid(format!("dependency {id} is above 2^31-1")))?;
            self.dependencies.push(id);
        }
        Ok(())
    }
}

fn read_section<R: Read>(source: &mut Source<'_, R>) -> Result<Section, ReadError> {
    match source.int("section")? {
        1 => Ok(Section::None),
        2 => Ok(Section::PreData),
        3 => Ok(Section::Data),
        4 => Ok(Section::PostData),
        other => Err(source.invalid(format!("section {other} is not one of 1 to 4"))),
    }
}

fn read_offset<R: Read>(source: &mut Source<'_, R>) -> Result<Offset, ReadError> {
    let [flag, place @ ..] = source.array::<OFFSET_LEN>("data offset")?;
    match (flag, u64::from_le_bytes(place)) {
        (OFFSET_NOT_SET, 0) => Ok(Offset::NotSet),
        (OFFSET_SET, place) => Ok(Offset::At(place)),
        (OFFSET_NO_DATA, 0) => Ok(Offset::NoData),
        (OFFSET_NOT_SET | OFFSET_NO_DATA, place) => {
            Err(source.invalid(format!("a place ({place}) though the flag says there is none")))
        }
        _ => Err(source.invalid(format!("offset flag {flag} is not one of 1, 2, 3"))),
    }
}
