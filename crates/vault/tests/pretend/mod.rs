//! A pretend backup: small, but of all kinds of objects and in the order that the engine keeps.

// Each test file uses its own part of this.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::HashSet;

use flexkeep_vault::contents::{ChunkRef, Cut, Entry, EntryKind};
use flexkeep_vault::large_objects::Builder;
use flexkeep_vault::manifest::{
    DatabaseSummary, MANIFEST_FORMAT, Manifest, ObjectRef, Source, Totals,
};
use flexkeep_vault::store::{PutMode, SharedStore};
use flexkeep_vault::{
    BackupId, ChunkBuffer, ChunkEncoder, ContentHash, ContentsWriter, Put, RunId, RunRecord,
    RunState, Vault, VaultError,
};
use jiff::Timestamp;

/// The table of contents: not a real one, the vault does not look into it.
pub(crate) const TOC: &[u8] =
    b"PGDMP\x01\x10\x00\x04\x08\x01\x03 pretend head and table of contents";

/// The roles.
pub(crate) const GLOBALS: &[u8] = b"CREATE ROLE app;\n";

/// Raw content of the chunks of the one table, in order; the last two are cut within a row.
pub(crate) fn table_chunks() -> Vec<Vec<u8>> {
    let rows = |from: u32, to: u32| -> Vec<u8> {
        (from..to).flat_map(|row| format!("{row}\tvalue {row}\n").into_bytes()).collect()
    };
    vec![rows(1, 200), rows(200, 400), b"400\tcut in ".to_vec(), b"two\n".to_vec()]
}

/// Large objects: one that goes over chunks, an empty one, and one with a large oid.
pub(crate) fn large_objects() -> Vec<(u32, Vec<u8>)> {
    vec![(16_500, vec![0xab; 2500]), (16_501, Vec::new()), (4_000_000_000, b"bytes\n".to_vec())]
}

/// Raw content of the chunks of the large objects.
pub(crate) fn large_object_chunks() -> Vec<Vec<u8>> {
    let mut builder = Builder::new(1024);
    let mut chunks = Vec::new();
    for (oid, bytes) in large_objects() {
        builder.begin(oid);
        let mut rest = bytes.as_slice();
        loop {
            rest = &rest[builder.append(rest)..];
            if rest.is_empty() {
                break;
            }
            let mut raw = Vec::new();
            builder.take(&mut raw);
            chunks.push(raw);
        }
        builder.end();
    }
    let mut raw = Vec::new();
    builder.take(&mut raw);
    chunks.push(raw);
    chunks
}

fn store_chunks(
    vault: &Vault,
    kind: EntryKind,
    chunks: &[Vec<u8>],
    totals: &mut Totals,
) -> Result<Vec<ChunkRef>, VaultError> {
    let mut encoder = ChunkEncoder::new(3).unwrap();
    let mut refs = Vec::new();
    for raw in chunks {
        let hash = ContentHash::of(raw);
        let stored = match vault.chunk_exists(&hash)? {
            Some(stored) => stored,
            None => {
                let object = match kind {
                    EntryKind::Table => encoder.encode_table(raw),
                    EntryKind::LargeObjects => encoder.encode_large_objects(raw),
                }
                .unwrap();
                match vault.put_chunk(&hash, object)? {
                    Put::Stored => {
                        totals.new_chunks += 1;
                        object.len() as u64
                    }
                    Put::AlreadyThere { stored_bytes } => stored_bytes,
                }
            }
        };
        totals.chunks += 1;
        totals.raw_bytes += raw.len() as u64;
        totals.stored_bytes += stored;
        let continued = kind == EntryKind::Table && !raw.ends_with(b"\n");
        let (raw_bytes, stored_bytes) = (raw.len() as u32, stored as u32);
        refs.push(ChunkRef { hash, raw_bytes, stored_bytes, continued });
    }
    Ok(refs)
}

/// Makes the backup of `server` at `time`.
pub(crate) fn backup(vault: &Vault, server: &str, time: &str) -> Result<Manifest, VaultError> {
    let started: Timestamp = time.parse().unwrap();
    let server: flexkeep_vault::ServerName = server.parse().unwrap();
    let mut record = RunRecord {
        run: RunId::new(started),
        server: server.clone(),
        request: None,
        attempt: 1,
        started,
        host: "here".to_owned(),
        pid: 1,
        state: RunState::Running,
    };
    let etag = vault.open_run(&record)?;
    let mut totals = Totals { tables: 1, rows: 400, large_objects: 3, ..Totals::default() };
    let table = store_chunks(vault, EntryKind::Table, &table_chunks(), &mut totals)?;
    vault.put_run_object(&server, &record.run, "journal/1", b"done", PutMode::Create)?;
    let blobs = store_chunks(vault, EntryKind::LargeObjects, &large_object_chunks(), &mut totals)?;
    let mut contents = ContentsWriter::new()?;
    let entry = |dump_id, kind, schema: Option<&str>, name: &str, rows, cut, chunks| Entry {
        dump_id,
        kind,
        schema: schema.map(str::to_owned),
        name: name.to_owned(),
        oid: if kind == EntryKind::Table { 16_384 } else { 0 },
        rows,
        cut,
        chunks,
    };
    contents.push(&entry(
        3300,
        EntryKind::Table,
        Some("public"),
        "pretend",
        400,
        Cut::Pages { pages: 64, chunk_bytes: 1 << 20 },
        table,
    ))?;
    contents.push(&entry(
        3301,
        EntryKind::Table,
        Some("public"),
        "empty",
        0,
        Cut::Content { chunk_bytes: 1 << 20 },
        Vec::new(),
    ))?;
    let cut = Cut::Objects(1000);
    contents.push(&entry(
        3302,
        EntryKind::LargeObjects,
        None,
        "16500..4000000000",
        3,
        cut,
        blobs,
    ))?;
    let contents = contents.finish(vault)?;
    let toc = vault.put_meta(TOC)?;
    let globals = vault.put_meta(GLOBALS)?;
    let id = BackupId::new(server.clone(), started);
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        vault: vault.id().to_owned(),
        backup: id.to_string(),
        server: server.to_string(),
        tool: "flexkeep test".to_owned(),
        request: None,
        started,
        sealed: started,
        source: Source::default(),
        globals: Some(globals),
        databases: vec![DatabaseSummary {
            name: "app".to_owned(),
            oid: 5,
            encoding: "UTF8".to_owned(),
            snapshot_time: started,
            attempts: 1,
            toc,
            contents,
            extensions: Vec::new(),
            totals,
            holders: Vec::new(),
        }],
        losses: Vec::new(),
        notes: Vec::new(),
        totals,
    };
    vault.seal(&manifest)?;
    record.state = RunState::Sealed { backup: id };
    vault.update_run(&record, etag)?;
    vault.remove_run(&server, &record.run)?;
    Ok(manifest)
}

fn verify_meta(vault: &Vault, object: &ObjectRef) -> Vec<u8> {
    vault.get_meta(object, 1 << 20).expect("a manifest names meta objects that are there")
}

/// Reads back everything that any manifest names; returns how many backups there are.
pub(crate) fn verify_all(vault: &Vault) -> usize {
    let mut backups = 0;
    let mut buffer = ChunkBuffer::new();
    vault
        .all_manifests(|read| {
            let (id, manifest) = read.expect("what is listed can be read");
            assert_eq!(manifest.backup, id.to_string());
            assert_eq!(verify_meta(vault, manifest.globals.as_ref().unwrap()), GLOBALS);
            for database in &manifest.databases {
                assert_eq!(verify_meta(vault, &database.toc), TOC);
                let mut entries = Vec::new();
                vault.read_contents(&database.contents, |entry| entries.push(entry)).unwrap();
                assert_eq!(entries.len(), 3);
                let expected = [table_chunks(), Vec::new(), large_object_chunks()];
                for (entry, expected) in entries.iter().zip(expected) {
                    assert_eq!(entry.chunks.len(), expected.len());
                    for (chunk, expected) in entry.chunks.iter().zip(expected) {
                        vault.get_chunk(entry.kind, chunk, &mut buffer).unwrap();
                        assert_eq!(buffer.raw(), expected);
                    }
                }
            }
            backups += 1;
        })
        .unwrap();
    backups
}

/// Names in a store.
pub(crate) fn names(store: &SharedStore) -> HashSet<String> {
    let mut names = HashSet::new();
    store
        .list("", &mut |meta| {
            names.insert(meta.name);
        })
        .unwrap();
    names
}
