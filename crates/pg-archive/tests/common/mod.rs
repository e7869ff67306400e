//! What several test files share.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod server;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use flexkeep_pg_archive::{BlockEvent, DataBlocks, Limits, Toc};

/// Every kept archive: its name and bytes.
pub(crate) fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("the fixtures are there")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dump"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("readable"))
        })
        .collect();
    found.sort();
    assert_eq!(found.len(), 9, "no fixture is lost");
    found
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let found = fixtures().into_iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("no fixture {name}")).1
}

pub(crate) fn read_toc(mut archive: &[u8]) -> Toc {
    Toc::read(&mut archive, &Limits::default()).expect("a sound archive")
}

/// A large object's oid and pieces.
pub(crate) type Object = (u32, Vec<Vec<u8>>);

/// The compressed data of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// By dump id: where the block begins, and its pieces.
    pub(crate) tables: BTreeMap<i32, (u64, Vec<Vec<u8>>)>,
    /// By dump id: where the block begins, and its objects with their pieces.
    pub(crate) blobs: BTreeMap<i32, (u64, Vec<Object>)>,
    /// The blocks' dump ids in their order.
    pub(crate) order: Vec<i32>,
}

pub(crate) fn read_data(archive: &[u8], toc: &Toc) -> Data {
    let start = usize::try_from(toc.encoded_len()).expect("small");
    let mut blocks = DataBlocks::new(&archive[start..], toc, Limits::default());
    let mut data = Data::default();
    let mut table = None;
    let mut group = None;
    loop {
        let place = blocks.position();
        match blocks.next_event().expect("sound data") {
            None => return data,
            Some(BlockEvent::Table { dump_id }) => {
                data.order.push(dump_id);
                table = Some(dump_id);
                assert!(data.tables.insert(dump_id, (place, Vec::new())).is_none());
            }
            Some(BlockEvent::Blobs { dump_id }) => {
                data.order.push(dump_id);
                group = Some(dump_id);
                assert!(data.blobs.insert(dump_id, (place, Vec::new())).is_none());
            }
            Some(BlockEvent::Blob { oid }) => {
                let id = group.expect("within a group");
                data.blobs.get_mut(&id).expect("begun").1.push((oid, Vec::new()));
            }
            Some(BlockEvent::Piece(piece)) => {
                let pieces = match (table, group) {
                    (Some(id), None) => &mut data.tables.get_mut(&id).expect("begun").1,
                    (None, Some(id)) => {
                        let objects = &mut data.blobs.get_mut(&id).expect("begun").1;
                        &mut objects.last_mut().expect("begun").1
                    }
                    other => panic!("a piece in {other:?}"),
                };
                pieces.push(piece.to_vec());
            }
            Some(BlockEvent::BlobEnd) => {}
            Some(BlockEvent::End) => (table, group) = (None, None),
        }
    }
}

/// A reader that gives one byte at a time and remembers how many were asked for.
pub(crate) struct Dribble<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) taken: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let (Some(to), Some(from)) = (out.first_mut(), self.bytes.get(self.taken)) else {
            assert!(out.is_empty() || self.taken < self.bytes.len(), "asked beyond the end");
            return Ok(0);
        };
        *to = *from;
        self.taken += 1;
        Ok(1)
    }
}
