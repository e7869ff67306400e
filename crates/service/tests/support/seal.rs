//! Backups that are sealed without a server.

use flexkeep_service::BackupMessage;
use flexkeep_vault::manifest::{DatabaseSummary, Loss, MANIFEST_FORMAT, Manifest, Source, Totals};
use flexkeep_vault::{BackupId, ContentsWriter, Vault};
use jiff::{SignedDuration, Timestamp};

/// Seals the backup that a message asks for, under the id that it gets.
pub fn seal(vault: &Vault, message: &BackupMessage) -> Manifest {
    seal_losing(vault, message, message.requested, Vec::new())
}

/// Seals the backup that a message asks for, with its beginning and what it could not read.
pub fn seal_losing(
    vault: &Vault,
    message: &BackupMessage,
    started: Timestamp,
    losses: Vec<Loss>,
) -> Manifest {
    let id = BackupId::new(message.server.clone(), started);
    let totals = Totals { raw_bytes: 2_000, new_stored_bytes: 400, ..Totals::default() };
    let database = DatabaseSummary {
        name: "shop".to_owned(),
        oid: 16_400,
        encoding: "UTF8".to_owned(),
        snapshot_time: started,
        attempts: 1,
        toc: vault.put_meta(b"not a table of contents").expect("stores"),
        contents: ContentsWriter::new().expect("a writer").finish(vault).expect("stores"),
        extensions: Vec::new(),
        totals,
        holders: Vec::new(),
    };
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        vault: vault.id().to_owned(),
        backup: id.to_string(),
        server: message.server.to_string(),
        tool: "flexkeep test".to_owned(),
        request: Some(message.request.clone()),
        started,
        sealed: started + SignedDuration::from_secs(100),
        source: Source { version: "17.2".to_owned(), version_num: 170_002, ..Source::default() },
        globals: None,
        databases: vec![database],
        losses,
        notes: Vec::new(),
        totals,
    };
    vault.seal(&manifest).expect("seals");
    manifest
}

/// A loss of ten objects with this name.
pub fn loss(name: &str) -> Loss {
    Loss {
        database: Some("shop".to_owned()),
        kind: "subscription".to_owned(),
        objects: vec![name.to_owned(); 10],
        count: 10,
        reason: "only a superuser may read subscriptions".to_owned(),
    }
}
