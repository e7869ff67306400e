//! Any table of contents and any data that can be built is written and read back.

use std::io::Cursor;

use flexkeep_pg_archive::{
    ArchiveWriter, BlockEvent, Compression, Created, DataBlocks, Entry, EntryFields, Header,
    Limits, Offset, Section, Toc, Version,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..20))
}

fn header() -> impl Strategy<Value = Header> {
    use Version::{V1_12, V1_13, V1_14, V1_15, V1_16};
    let version = prop::sample::select(vec![V1_12, V1_13, V1_14, V1_15, V1_16]);
    let compression = prop::sample::select(vec![
        Compression::None,
        Compression::Gzip,
        Compression::Lz4,
        Compression::Zstd,
    ]);
    let created = any::<[i32; 7]>().prop_map(|[second, minute, hour, day, month, year, is_dst]| {
        Created { second, minute, hour, day, month, year, is_dst }
    });
    let level = any::<i32>().prop_filter("0 is no compression", |level| *level != 0);
    (version, 4u8..=8, compression, level, created, text(), text(), text()).prop_map(
        |(version, int_size, compression, level, created, database, server, dump)| {
            let new = version >= V1_15;
            let old_kind = matches!(compression, Compression::None | Compression::Gzip);
            let compression = if new || old_kind { compression } else { Compression::Gzip };
            // What a version does not store comes back as its default.
            let stored = !new && compression == Compression::Gzip;
            Header {
                version,
                int_size,
                compression,
                gzip_level: if stored { level } else { -1 },
                created,
                database,
                server_version: server,
                dump_version: dump,
            }
        },
    )
}

/// The texts of an entry, then its numbers, section, flags, dependencies and offset.
type Parts = ([Option<Vec<u8>>; 9], (u32, u32, i32), Section, (bool, bool), Vec<i32>, Offset);

fn parts() -> impl Strategy<Value = Parts> {
    use Section::{Data, None, PostData, PreData};
    (
        prop::array::uniform9(text()),
        any::<(u32, u32, i32)>(),
        prop::sample::select(vec![None, PreData, Data, PostData]),
        any::<(bool, bool)>(),
        vec(0..=i32::MAX, 0..4),
        prop_oneof![Just(Offset::NotSet), Just(Offset::NoData), any::<u64>().prop_map(Offset::At)],
    )
}

fn entry(dump_id: i32, version: Version, parts: &Parts) -> Entry {
    let (texts, (table_oid, oid, relkind), section, flags, dependencies, offset) = parts;
    let [tag, desc, defn, drop_stmt, copy_stmt, namespace, tablespace, tableam, owner] =
        texts.each_ref().map(Option::as_deref);
    let fields = EntryFields {
        dump_id,
        had_dumper: flags.0,
        table_oid: *table_oid,
        oid: *oid,
        tag,
        desc,
        section: *section,
        defn,
        drop_stmt,
        copy_stmt,
        namespace,
        tablespace,
        tableam: tableam.filter(|_| version >= Version::V1_14),
        relkind: if version >= Version::V1_16 { *relkind } else { 0 },
        owner,
        with_oids: flags.1,
        dependencies,
        offset: *offset,
    };
    let entry = Entry::new(fields).expect("sound fields");
    assert_eq!(entry.fields(), fields, "an entry gives what it was given");
    entry
}

proptest! {
    #[test]
    fn a_table_of_contents(header in header(), all in vec(parts(), 0..12), ids in any::<u32>()) {
        // Ids in some order that is not the entries'.
        let id = |index: usize| ((index as i32).wrapping_mul(7919) ^ (ids as i32 & 0xff)) + 1;
        let entries: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(index, parts)| entry(id(index), header.version, parts))
            .collect();
        let toc = Toc::new(header, entries).expect("sound parts");
        let encoded = toc.encode();
        prop_assert_eq!(toc.encoded_len(), encoded.len() as u64);
        let mut with_more = encoded.clone();
        with_more.extend_from_slice(b"more");
        let mut rest = with_more.as_slice();
        let read = Toc::read(&mut rest, &Limits::default()).expect("what was written");
        prop_assert_eq!(rest, b"more");
        prop_assert_eq!(&read, &toc);
        prop_assert_eq!(read.encode(), encoded);
        for (place, entry) in toc.entries().iter().enumerate() {
            prop_assert_eq!(toc.position(entry.dump_id()), Some(place));
        }
    }

    #[test]
    fn data_blocks(tables in vec(vec(vec(any::<u8>(), 1..50), 0..4), 0..5),
                   blobs in vec((1u32.., vec(vec(any::<u8>(), 1..50), 0..4)), 0..5)) {
        let toc = toc_for(tables.len());
        let group = tables.len() as i32 + 1;
        let mut writer = ArchiveWriter::new(Cursor::new(Vec::new()), toc).expect("begins");
        let mut expected = Vec::new();
        for (pieces, dump_id) in tables.iter().zip(1..) {
            writer.start_table(dump_id).expect("a table");
            expected.push(BlockEvent::Table { dump_id });
            for piece in pieces {
                writer.piece(piece).expect("a piece");
                expected.push(BlockEvent::Piece(piece));
            }
            writer.end_block().expect("ends");
            expected.push(BlockEvent::End);
        }
        writer.start_blobs(group).expect("a group");
        expected.push(BlockEvent::Blobs { dump_id: group });
        for (oid, pieces) in &blobs {
            writer.start_blob(*oid).expect("an object");
            expected.push(BlockEvent::Blob { oid: *oid });
            for piece in pieces {
                writer.piece(piece).expect("a piece");
                expected.push(BlockEvent::Piece(piece));
            }
            writer.end_blob().expect("ends");
            expected.push(BlockEvent::BlobEnd);
        }
        writer.end_block().expect("ends");
        expected.push(BlockEvent::End);
        let archive = writer.finish().expect("complete").into_inner();

        let mut rest = archive.as_slice();
        let toc = Toc::read(&mut rest, &Limits::default()).expect("what was written");
        let mut blocks = DataBlocks::new(rest, &toc, Limits::default());
        for event in expected {
            let position = blocks.position();
            let found = blocks.next_event().expect("sound data");
            prop_assert_eq!(found, Some(event));
            if let BlockEvent::Table { dump_id } | BlockEvent::Blobs { dump_id } = event {
                let entry = toc.get(dump_id).expect("an entry");
                prop_assert_eq!(entry.offset(), Offset::At(position));
            }
        }
        prop_assert_eq!(blocks.next_event().expect("sound data"), None);
        prop_assert_eq!(blocks.position(), archive.len() as u64);
    }
}

/// So many tables and one group of large objects, uncompressed.
fn toc_for(tables: usize) -> Toc {
    let header = Header {
        version: Version::V1_16,
        int_size: 4,
        compression: Compression::None,
        gzip_level: -1,
        created: Created::default(),
        database: None,
        server_version: None,
        dump_version: None,
    };
    let empty =
        ([const { None }; 9], (0, 0, 0), Section::Data, (true, false), vec![], Offset::NotSet);
    let entries = (0..=tables).map(|index| {
        let entry = entry(index as i32 + 1, Version::V1_16, &empty);
        let desc: &[u8] = if index == tables { b"BLOBS" } else { b"TABLE DATA" };
        Entry::new(EntryFields { desc: Some(desc), ..entry.fields() }).expect("sound fields")
    });
    Toc::new(header, entries.collect()).expect("sound parts")
}
