//! What the tests of the command share.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use assert_cmd::Command;
use flexkeep_vault::contents::{Cut, Entry, EntryKind};
use flexkeep_vault::manifest::{
    DatabaseSummary, Extension, Loss, MANIFEST_FORMAT, Manifest, Source, Totals,
};
use flexkeep_vault::{BackupId, ContentsWriter, FoldersOnly, Place, Vault};
use jiff::Timestamp;

/// The command, without anything of this process's environment that it would read.
pub(crate) fn flexkeep() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flexkeep"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("FLEXKEEP") {
            command.env_remove(&name);
        }
    }
    command.env_remove("CLICOLOR_FORCE").timeout(std::time::Duration::from_secs(60));
    command
}

/// A vault in `folder`.
pub(crate) fn vault(folder: &Path) -> Vault {
    Vault::create(&Place::Folder(folder.to_owned()), &FoldersOnly).unwrap()
}

/// Seals a backup of `server` with one empty table, and with losses or not.
pub(crate) fn seal(vault: &Vault, server: &str, started: &str, losses: Vec<Loss>) -> Manifest {
    let started: Timestamp = started.parse().unwrap();
    let id = BackupId::new(server.parse().unwrap(), started);
    let mut contents = ContentsWriter::new().unwrap();
    let entry = Entry {
        dump_id: 1,
        kind: EntryKind::Table,
        schema: Some("public".to_owned()),
        name: "orders".to_owned(),
        oid: 16_384,
        rows: 0,
        cut: Cut::Content { chunk_bytes: 1 << 20 },
        chunks: Vec::new(),
    };
    contents.push(&entry).unwrap();
    let totals = Totals {
        tables: 1,
        rows: 1_234_567,
        raw_bytes: 2_000_000_000,
        stored_bytes: 400_000_000,
        new_stored_bytes: 40_000_000,
        ..Totals::default()
    };
    let database = DatabaseSummary {
        name: "shop".to_owned(),
        oid: 16_400,
        encoding: "UTF8".to_owned(),
        snapshot_time: started,
        attempts: 1,
        toc: vault.put_meta(b"not a table of contents").unwrap(),
        contents: contents.finish(vault).unwrap(),
        extensions: vec![Extension { name: "citext".to_owned(), version: "1.6".to_owned() }],
        totals,
        holders: Vec::new(),
    };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        vault: vault.id().to_owned(),
        backup: id.to_string(),
        server: server.to_owned(),
        tool: "flexkeep test".to_owned(),
        request: None,
        started,
        sealed: started + jiff::SignedDuration::from_secs(100),
        source: Source { version: "17.2".to_owned(), version_num: 170_002, ..Source::default() },
        globals: Some(vault.put_meta(b"CREATE ROLE app;\n").unwrap()),
        databases: vec![database],
        losses,
        notes: Vec::new(),
        totals,
    };
    vault.seal(&manifest).unwrap();
    manifest
}

/// A loss, with a name that would move the cursor of a terminal.
pub(crate) fn loss() -> Loss {
    Loss {
        database: Some("shop".to_owned()),
        kind: "subscription".to_owned(),
        objects: vec!["sub\x1b[2J".to_owned()],
        count: 1,
        reason: "only a superuser may read subscriptions".to_owned(),
    }
}
