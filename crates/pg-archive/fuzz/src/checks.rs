//! What must hold for any bytes: shared by the fuzz targets and `tests/mutation.rs`.
#![allow(dead_code, reason = "each fuzz target uses its own check")]

use flexkeep_pg_archive::{
    BlockEvent, Compression, Created, DataBlocks, Header, Limits, Toc, Version, copy_statement,
};

/// Small enough that a reader that ignores them is noticed.
pub(crate) fn limits() -> Limits {
    Limits {
        max_string_bytes: 1 << 20,
        max_entries: 100_000,
        max_total_bytes: 4 << 20,
        max_piece_bytes: 1 << 20,
    }
}

/// A whole archive: what is read is written back identically, converts or says why not, and its
/// data can be walked.
pub(crate) fn archive(bytes: &[u8]) {
    let mut rest = bytes;
    let Ok(toc) = Toc::read(&mut rest, &limits()) else { return };
    let length = bytes.len() - rest.len();
    assert_eq!(toc.encoded_len(), length as u64);
    assert!(toc.encode() == bytes[..length], "it is written back identically");
    for entry in toc.entries() {
        assert_eq!(toc.get(entry.dump_id()), Some(entry));
        if let Some(statement) = entry.copy_stmt() {
            copy_statement(statement);
        }
    }
    for target in [Version::V1_14, Version::V1_15, Version::V1_16] {
        if let Ok(converted) = toc.clone().to_version(target) {
            let encoded = converted.encode();
            assert_eq!(converted.encoded_len(), encoded.len() as u64);
            let read = Toc::read(&mut encoded.as_slice(), &Limits::default());
            assert!(read.expect("what is written can be read") == converted);
        }
    }
    walk(rest, &toc);
}

/// The data blocks alone.
pub(crate) fn data_blocks(bytes: &[u8]) {
    let header = Header {
        version: Version::V1_16,
        int_size: 4,
        compression: Compression::Zstd,
        gzip_level: -1,
        created: Created::default(),
        database: None,
        server_version: None,
        dump_version: None,
    };
    walk(bytes, &Toc::new(header, Vec::new()).expect("an empty table of contents"));
}

fn walk(bytes: &[u8], toc: &Toc) {
    let mut blocks = DataBlocks::new(bytes, toc, limits());
    let end = toc.encoded_len() + bytes.len() as u64;
    let mut before = blocks.position();
    loop {
        match blocks.next_event() {
            Ok(Some(event)) => assert_ne!(event, BlockEvent::Piece(&[]), "no piece is empty"),
            Ok(None) => {
                assert_eq!(blocks.position(), end, "it ends where the bytes end");
                return;
            }
            Err(_) => break,
        }
        assert!(blocks.position() > before && blocks.position() <= end, "each event takes bytes");
        before = blocks.position();
    }
    assert!(matches!(blocks.next_event(), Ok(None)), "after an error it is over");
}

/// A COPY statement: its parts are really parts of it.
pub(crate) fn copy_statement(bytes: &[u8]) {
    let Ok(parsed) = copy_statement::parse(bytes) else { return };
    let list = parsed.column_list.unwrap_or_default();
    let whole = [b"COPY ", parsed.relation, b" ", list, b" FROM stdin;"].concat();
    assert_eq!(bytes.strip_suffix(b"\n").unwrap_or(bytes), whole);
    if parsed.column_list.is_some() {
        assert_eq!([b"(".as_slice(), &parsed.columns.join(b", ".as_slice()), b")"].concat(), list);
    }
}
