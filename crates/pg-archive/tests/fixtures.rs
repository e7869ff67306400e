//! Archives that real `pg_dump` wrote are read, written back and converted.

mod common;

use std::io::Cursor;

use common::{Dribble, fixture, fixtures, read_data, read_toc};
use flexkeep_pg_archive::{
    ArchiveWriter, BlockEvent, Compression, ConvertError, DataBlocks, Entry, EntryFields, Limits,
    Offset, ReadError, Section, Toc, TocError, Version, WriteError, copy_statement,
};

#[test]
fn each_is_written_back_byte_for_byte() {
    for (name, archive) in fixtures() {
        let toc = read_toc(&archive);
        let encoded = toc.encode();
        assert_eq!(encoded.len() as u64, toc.encoded_len(), "{name}");
        assert!(archive.starts_with(&encoded), "{name}");
        let mut written = Vec::new();
        toc.write_to(&mut written).expect("a Vec takes all");
        assert_eq!(written, encoded, "{name}");
    }
}

#[test]
fn reading_asks_for_no_byte_behind_the_table_of_contents() {
    for (name, archive) in fixtures() {
        let length = usize::try_from(read_toc(&archive).encoded_len()).expect("small");
        let mut pipe = Dribble { bytes: &archive[..length], taken: 0 };
        Toc::read(&mut pipe, &Limits::default()).expect("all of it is there");
        assert_eq!(pipe.taken, length, "{name}");
    }
}

#[test]
fn heads_say_who_wrote_them() {
    for (name, archive) in fixtures() {
        let toc = read_toc(&archive);
        let header = toc.header();
        let expected = if name.starts_with("pg15") { Version::V1_14 } else { Version::V1_16 };
        assert_eq!(header.version, expected, "{name}");
        let expected = match name.split('-').nth(2) {
            Some("none") => Compression::None,
            Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            _ => Compression::Lz4,
        };
        assert_eq!(header.compression, expected, "{name}");
        assert_eq!(header.database.as_deref(), Some(b"fixture".as_slice()), "{name}");
        let dumper = header.dump_version.as_deref().expect("a version");
        assert!(dumper.starts_with(&name.as_bytes()[2..4]), "{name}");
        assert_eq!((header.created.year, header.int_size), (126, 4), "{name}");
    }
}

#[test]
fn recorded_offsets_are_where_the_blocks_are() {
    for (name, archive) in fixtures() {
        let toc = read_toc(&archive);
        let data = read_data(&archive, &toc);
        let starts: Vec<_> = data.tables.iter().map(|(id, (at, _))| (*id, *at)).collect();
        let groups = data.blobs.iter().map(|(id, (at, _))| (*id, *at));
        let with_data = toc.entries().iter().filter(|entry| entry.had_dumper()).count();
        assert_eq!(with_data, data.order.len(), "{name}");
        for (id, start) in starts.into_iter().chain(groups) {
            let offset = toc.get(id).expect("an entry").offset();
            let file = name.contains("file");
            assert_eq!(offset, if file { Offset::At(start) } else { Offset::NotSet }, "{name}");
        }
        for entry in toc.entries().iter().filter(|entry| !entry.had_dumper()) {
            assert_eq!(entry.offset(), Offset::NoData, "{name}");
        }
    }
}

#[test]
fn every_copy_statement_comes_apart() {
    for (name, archive) in fixtures() {
        let toc = read_toc(&archive);
        let mut odd = 0;
        for entry in toc.entries().iter().filter(|e| e.desc() == Some(b"TABLE DATA")) {
            let statement = entry.copy_stmt().expect("table data is loaded by COPY");
            let parsed = copy_statement::parse(statement).expect("pg_dump wrote it");
            if parsed.relation.starts_with(b"\"odd") {
                odd += 1;
                let columns: [&[u8]; 3] =
                    [b"\"a \"\"b\"\", (c)\"", "\"ünï\ncöde\"".as_bytes(), b"plain"];
                assert_eq!(parsed.columns, columns, "{name}");
            }
            assert_eq!(entry.tag() == Some(b"no_columns"), parsed.column_list.is_none(), "{name}");
        }
        assert_eq!(odd, 1, "{name}");
    }
}

#[test]
fn a_copy_made_with_the_writer_is_the_same_file() {
    for (name, archive) in fixtures() {
        if name.contains("pipe") {
            continue;
        }
        assert!(rewrite(&archive, &read_toc(&archive)) == archive, "{name}");
    }
}

/// Writes the archive's data under another table of contents.
fn rewrite(archive: &[u8], toc: &Toc) -> Vec<u8> {
    let data = read_data(archive, &read_toc(archive));
    let mut writer = ArchiveWriter::new(Cursor::new(Vec::new()), toc.clone()).expect("begins");
    for id in &data.order {
        if let Some((_, pieces)) = data.tables.get(id) {
            writer.start_table(*id).expect("a table");
            pieces.iter().for_each(|piece| writer.piece(piece).expect("a piece"));
        } else {
            writer.start_blobs(*id).expect("a group");
            for (oid, pieces) in &data.blobs[id].1 {
                writer.start_blob(*oid).expect("an object");
                pieces.iter().for_each(|piece| writer.piece(piece).expect("a piece"));
                writer.end_blob().expect("ends");
            }
        }
        writer.end_block().expect("ends");
    }
    writer.finish().expect("complete").into_inner()
}

/// What matters of the entries of large objects, without ids and what only one version has.
fn large_objects(toc: &Toc) -> Vec<String> {
    let mut found: Vec<_> = toc
        .entries()
        .iter()
        .filter(|entry| {
            entry.desc() == Some(b"BLOB")
                || entry.tag().is_some_and(|tag| tag.starts_with(b"LARGE OBJECT"))
        })
        .map(|entry| {
            let needs: Vec<_> = entry
                .dependencies()
                .iter()
                .map(|id| toc.get(*id).and_then(Entry::tag).map(String::from_utf8_lossy))
                .collect();
            let EntryFields { table_oid, oid, .. } = entry.fields();
            let text = |text: Option<&[u8]>| text.map(|text| text.escape_ascii().to_string());
            format!(
                "{:?} {table_oid} {oid} {:?} {:?} {:?} {:?} {:?} {needs:?}",
                text(entry.desc()),
                text(entry.tag()),
                entry.section(),
                text(entry.defn()),
                text(entry.drop_stmt()),
                text(entry.owner()),
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
fn large_objects_taken_apart_are_what_pg_dump_15_writes() {
    let expected = large_objects(&read_toc(&fixture("pg15-file-gzip")));
    assert_eq!(expected.len(), 8 + 2 + 3, "objects, comments, ACLs");
    for name in ["pg17-file-gzip", "pg18-file-gzip", "pg18-pipe-none"] {
        for target in [Version::V1_14, Version::V1_15] {
            let toc = read_toc(&fixture(name));
            let max_id = toc.max_dump_id();
            let before = toc.entries().len();
            let old: Vec<_> = toc.entries().iter().map(Entry::dump_id).collect();
            let converted = toc.to_version(target).expect("converts");
            assert_eq!(large_objects(&converted), expected, "{name} to {target}");
            // Four groups hold eight objects, one ACL stands for two.
            assert_eq!(converted.entries().len(), before + 4 + 1);
            for entry in converted.entries() {
                assert!(entry.dump_id() > max_id || old.contains(&entry.dump_id()));
                assert_ne!(entry.desc(), Some(b"BLOB METADATA".as_slice()));
                assert_eq!(entry.relkind(), 0);
            }
            let groups = converted.entries().iter().filter(|e| e.desc() == Some(b"BLOBS"));
            assert_eq!(groups.count(), 4, "the data stays in its groups");
        }
    }
}

#[test]
fn large_objects_taken_apart_come_before_all_data() {
    let toc = read_toc(&fixture("pg17-pipe-none")).to_version(Version::V1_14).expect("converts");
    let data = toc.entries().iter().position(|e| e.section() == Section::Data).expect("data");
    for (place, entry) in toc.entries().iter().enumerate() {
        assert_eq!(place < data, entry.section() == Section::PreData || !later(entry));
    }
    fn later(entry: &Entry) -> bool {
        matches!(entry.section(), Section::Data | Section::PostData)
    }
    for pair in toc.entries().windows(2).filter(|pair| pair[1].section() == Section::None) {
        let [first, second] = pair else { unreachable!("windows of two") };
        let about = |entry: &Entry| entry.dependencies().first().copied();
        let id = about(second);
        assert!(Some(first.dump_id()) == id || about(first) == id, "{second:?}");
    }
}

#[test]
fn the_chosen_access_method_of_a_partitioned_table_goes_with_its_relation_kind() {
    let toc = read_toc(&fixture("pg17-pipe-none"));
    let (header, mut entries) = toc.into_parts();
    let place = entries.iter().position(|e| e.relkind() == i32::from(b'p')).expect("one");
    let id = entries[place].dump_id();
    entries[place] =
        Entry::new(EntryFields { tableam: Some(b"other"), ..entries[place].fields() }).expect("ok");
    let toc = Toc::new(header, entries).expect("sound").to_version(Version::V1_15).expect("ok");
    assert_eq!(toc.get(id).expect("kept").tableam(), None);
    let plain = toc.entries().iter().find(|e| e.tag() == Some(b"numbers")).expect("a table");
    assert_eq!(plain.tableam(), Some(b"heap".as_slice()));
}

#[test]
fn converting_up_changes_only_the_head_and_new_fields() {
    let old = read_toc(&fixture("pg15-pipe-none"));
    for target in [Version::V1_15, Version::V1_16] {
        let new = old.clone().to_version(target).expect("converts");
        assert_eq!(new.entries(), old.entries());
        assert_eq!(read_toc(&new.encode()), new);
        assert_eq!(new.to_version(Version::V1_14).expect("and back"), old);
    }
}

#[test]
fn a_gzip_level_is_kept_only_where_it_is_stored() {
    let (mut header, entries) = read_toc(&fixture("pg15-file-gzip")).into_parts();
    header.gzip_level = 9;
    let old = Toc::new(header, entries).expect("sound");
    assert_eq!(read_toc(&old.encode()).header().gzip_level, 9);
    let new = old.clone().to_version(Version::V1_15).expect("converts");
    assert_eq!(read_toc(&new.encode()), new);
    let raw = old.with_compression(Compression::None).expect("1.14 knows it");
    assert_eq!(read_toc(&raw.encode()), raw);
}

#[test]
fn converting_forgets_offsets() {
    let toc = read_toc(&fixture("pg15-file-gzip")).to_version(Version::V1_16).expect("converts");
    assert!(toc.entries().iter().all(|entry| !matches!(entry.offset(), Offset::At(_))));
    assert!(toc.entries().iter().any(|entry| entry.offset() == Offset::NotSet));
}

#[test]
fn versions_that_are_not_written_and_unknown_compression_are_refused() {
    let zstd = read_toc(&fixture("pg17-file-zstd"));
    let error = zstd.clone().to_version(Version::V1_14).expect_err("zstd is newer");
    assert_eq!(
        error.to_string(),
        "archive version 1.14 has no zstd compression: compress the data with gzip"
    );
    let target = Version::V1_13;
    assert_eq!(zstd.clone().to_version(target), Err(ConvertError::Target { target }));
    let gzip = zstd.with_compression(Compression::Gzip).expect("1.16 knows it");
    let old = gzip.to_version(Version::V1_14).expect("gzip is old enough");
    assert!(matches!(
        old.with_compression(Compression::Lz4),
        Err(TocError::Compression { version: Version::V1_14, compression: Compression::Lz4 })
    ));
}

#[test]
fn an_offset_can_be_set_in_place() {
    let mut toc = read_toc(&fixture("pg18-pipe-none"));
    let length = toc.encoded_len();
    let id = toc.entries().iter().find(|entry| entry.had_dumper()).expect("data").dump_id();
    toc.set_offset(id, Offset::At(u64::MAX)).expect("it exists");
    assert_eq!(toc.get(id).expect("it exists").offset(), Offset::At(u64::MAX));
    assert_eq!(toc.encoded_len(), length);
    assert_eq!(read_toc(&toc.encode()), toc);
    let unknown = toc.max_dump_id() + 1;
    assert_eq!(
        toc.set_offset(unknown, Offset::NoData),
        Err(TocError::Unknown { dump_id: unknown })
    );
}

#[test]
fn wide_integers_are_read_and_written_back() {
    let (mut header, entries) = read_toc(&fixture("pg17-file-gzip")).into_parts();
    for int_size in 5..=8 {
        header.int_size = int_size;
        let toc = Toc::new(header.clone(), entries.clone()).expect("sound");
        let encoded = toc.encode();
        assert_eq!(encoded.len() as u64, toc.encoded_len());
        assert_eq!(read_toc(&encoded), toc);
        assert!(matches!(
            ArchiveWriter::new(Cursor::new(Vec::new()), toc),
            Err(WriteError::IntSize { .. })
        ));
    }
}

#[test]
fn other_formats_and_versions_are_named_in_the_error() {
    let archive = fixture("pg17-file-gzip");
    for (at, value, expected) in [
        (0, b'p', "byte 0, magic: not a custom-format archive: it does not begin with PGDMP"),
        (6, 17, "byte 5, version: version 1.17.0 is not one of 1.12 to 1.16"),
        (6, 11, "byte 5, version: version 1.11.0 is not one of 1.12 to 1.16"),
        (8, 9, "byte 8, integer size: integers of 9 bytes are not supported"),
        (9, 4, "byte 9, offset size: offsets of 4 bytes, expected 8"),
        (10, 3, "byte 10, format: a tar archive: dump with --format=custom"),
        (10, 5, "byte 10, format: a directory archive: dump with --format=custom"),
        (
            11,
            4,
            "byte 11, compression: compression algorithm 4 is not one of 0 none, 1 gzip, 2 lz4, \
             3 zstd",
        ),
    ] {
        let mut archive = archive.clone();
        archive[at] = value;
        let error = Toc::read(&mut archive.as_slice(), &Limits::default()).expect_err(expected);
        assert_eq!(error.to_string(), format!("the archive is invalid at {expected}"));
    }
}

#[test]
fn a_table_of_contents_cut_anywhere_is_truncated() {
    for (name, archive) in fixtures() {
        let length = usize::try_from(read_toc(&archive).encoded_len()).expect("small");
        for cut in (0..length).step_by(5) {
            let error = Toc::read(&mut &archive[..cut], &Limits::default()).expect_err("cut");
            assert!(matches!(error, ReadError::Truncated { .. }), "{name} at {cut}: {error}");
        }
    }
}

#[test]
fn data_cut_anywhere_but_between_blocks_is_truncated() {
    for (name, archive) in fixtures() {
        let toc = read_toc(&archive);
        let data = read_data(&archive, &toc);
        let borders: Vec<_> = data
            .tables
            .values()
            .map(|(at, _)| *at)
            .chain(data.blobs.values().map(|(at, _)| *at))
            .collect();
        let start = usize::try_from(toc.encoded_len()).expect("small");
        for cut in start..archive.len() {
            let mut blocks = DataBlocks::new(&archive[start..cut], &toc, Limits::default());
            let end = loop {
                match blocks.next_event() {
                    Ok(Some(_)) => {}
                    end => break end.map(|_| ()),
                }
            };
            if borders.contains(&(cut as u64)) {
                end.expect("complete blocks");
            } else {
                assert!(matches!(end, Err(ReadError::Truncated { .. })), "{name} at {cut}");
                assert!(matches!(blocks.next_event(), Ok(None)), "after an error it is over");
            }
        }
    }
}

#[test]
fn limits_are_kept() {
    let archive = fixture("pg17-file-gzip");
    let toc = read_toc(&archive);
    let full = Limits::default();
    for (limits, name) in [
        (Limits { max_entries: toc.entries().len() - 1, ..full.clone() }, "max_entries"),
        (Limits { max_string_bytes: 40, ..full.clone() }, "max_string_bytes"),
        (Limits { max_total_bytes: toc.encoded_len() - 1, ..full.clone() }, "max_total_bytes"),
    ] {
        let error = Toc::read(&mut archive.as_slice(), &limits).expect_err(name);
        assert!(matches!(error, ReadError::OverLimit { limit, .. } if limit == name), "{error}");
    }
    let exact = Limits {
        max_entries: toc.entries().len(),
        max_total_bytes: toc.encoded_len(),
        ..full.clone()
    };
    assert_eq!(Toc::read(&mut archive.as_slice(), &exact).expect("just fits"), toc);
    let start = usize::try_from(toc.encoded_len()).expect("small");
    let small = Limits { max_piece_bytes: 5, ..full };
    let mut blocks = DataBlocks::new(&archive[start..], &toc, small);
    assert!(matches!(blocks.next_event(), Ok(Some(BlockEvent::Table { .. }))));
    let error = blocks.next_event().expect_err("a longer piece");
    assert!(matches!(error, ReadError::OverLimit { limit: "max_piece_bytes", allowed: 5, .. }));
}

#[test]
fn the_writer_refuses_what_gives_no_archive() {
    let archive = fixture("pg17-file-gzip");
    let toc = read_toc(&archive);
    let with_data: Vec<_> =
        toc.entries().iter().filter(|e| e.had_dumper()).map(Entry::dump_id).collect();
    let (first, second) = (with_data[0], with_data[1]);
    let last = *with_data.last().expect("large objects");
    let without = toc.entries()[0].dump_id();
    let begin = || ArchiveWriter::new(Cursor::new(Vec::new()), toc.clone()).expect("begins");

    assert!(matches!(begin().finish(), Err(WriteError::Missing { dump_id }) if dump_id == first));
    let mut writer = begin();
    assert!(matches!(writer.start_table(second), Err(WriteError::Missing { .. })));
    assert!(matches!(writer.start_table(without), Err(WriteError::Kind { .. })));
    assert!(matches!(writer.start_table(last), Err(WriteError::Kind { .. })));
    assert!(matches!(writer.start_blobs(first), Err(WriteError::Kind { .. })));
    assert!(matches!(writer.start_table(i32::MAX), Err(WriteError::Toc(_))));
    assert!(matches!(writer.piece(b"x"), Err(WriteError::Misplaced { .. })));
    writer.start_table(first).expect("the first");
    assert!(matches!(writer.end_block(), Err(WriteError::EmptyGzip)));
    assert!(matches!(writer.start_blob(7), Err(WriteError::Misplaced { .. })));
    writer.piece(b"").expect("nothing");
    assert!(matches!(writer.end_block(), Err(WriteError::EmptyGzip)));
    writer.piece(b"something").expect("a piece");
    assert!(matches!(writer.start_table(second), Err(WriteError::Misplaced { .. })));
    writer.end_block().expect("now it can end");
    assert!(matches!(writer.start_table(first), Err(WriteError::OutOfOrder { .. })));
    writer.start_table(second).expect("the next");
    assert!(matches!(writer.finish(), Err(WriteError::Misplaced { .. })));
}

/// An output that has room for so many bytes.
struct Full(Cursor<Vec<u8>>, usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.position() as usize + bytes.len() > self.1 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Full {
    fn seek(&mut self, place: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(place)
    }
}

#[test]
fn a_writer_whose_output_failed_finishes_nothing() {
    let toc = read_toc(&fixture("pg15-pipe-none"));
    let room = usize::try_from(toc.encoded_len()).expect("small") + 20;
    let first = toc.entries().iter().find(|e| e.had_dumper()).expect("data").dump_id();
    let mut writer =
        ArchiveWriter::new(Full(Cursor::new(Vec::new()), room), toc).expect("it has room");
    writer.start_table(first).expect("it has room");
    assert!(matches!(writer.piece(&[b'x'; 100]), Err(WriteError::Io(_))));
    assert!(matches!(writer.end_block(), Err(WriteError::Misplaced { .. })));
    assert!(matches!(writer.finish(), Err(WriteError::Misplaced { .. })));
}
