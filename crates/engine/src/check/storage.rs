//! The vault: whether it can be opened, written and has room, and how old the last backup is.

use std::path::Path;

use flexkeep_pg_copy as pg;
use flexkeep_vault::store::{PutMode, StoreError, StoreErrorKind};
use flexkeep_vault::{Place, RemoteStores, RunId, ServerName, Vault, VaultError};
use jiff::{Timestamp, Unit};

use super::{CheckReport, Severity, chain, size};
use crate::backup::server_name;
use crate::options::BackupOptions;

const SUBJECT: &str = "vault";

/// A first backup needs at most about as much as the databases have on disk; later ones store
/// what has changed, of which a quarter is a careful guess.
const LATER_BACKUPS_SHARE: u64 = 4;

pub(super) fn look(
    target: &pg::Config,
    (place, stores): (&Place, &dyn RemoteStores),
    options: &BackupOptions,
    source_bytes: Option<u64>,
    report: &mut CheckReport,
) {
    let server = server_name(target, options);
    let first = match Vault::open(place, stores) {
        Ok(vault) => {
            let what = format!("the vault {} in {}", vault.id(), vault.location());
            report.add(Severity::Ok, SUBJECT, what);
            probe(&vault, report);
            last_backup(&vault, &server, report)
        }
        Err(error) if is_absent(&error) => {
            absent(place, report);
            true
        }
        Err(error) => {
            report.add_error(SUBJECT, &error);
            return;
        }
    };
    if let (Some(bytes), Place::Folder(folder)) = (source_bytes, place) {
        let needed = if first { bytes } else { bytes / LATER_BACKUPS_SHARE };
        room(folder, needed, first, report);
    }
}

fn is_absent(error: &VaultError) -> bool {
    match error {
        VaultError::NotAVault { .. } => true,
        VaultError::Store(StoreError { kind, .. }) => *kind == StoreErrorKind::NoSuchPlace,
        _ => false,
    }
}

/// Whether the first backup can make the vault.
fn absent(place: &Place, report: &mut CheckReport) {
    let Place::Folder(folder) = place else {
        return report.add(Severity::Note, SUBJECT, "there is none; the first backup makes it");
    };
    let nearest = nearest_folder(folder);
    let entries = if nearest == folder { std::fs::read_dir(folder) } else { read_nothing() };
    match entries.map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            let place = folder.display().to_string();
            report.add_error(SUBJECT, &VaultError::NotEmpty { place });
            return;
        }
        Ok(false) => {}
        Err(error) if nearest != folder && error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            let what = format!("cannot look into {}: {error}", folder.display());
            return report.add(Severity::Error, SUBJECT, what);
        }
    }
    match try_to_write(nearest) {
        Ok(()) => report.add(
            Severity::Note,
            SUBJECT,
            format!("there is none in {}; the first backup makes it", folder.display()),
        ),
        Err(error) => report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            format!("cannot make a vault: {} is not writable: {error}", nearest.display()),
            "choose another place, or give this user the right to write there",
        ),
    }
}

fn read_nothing() -> std::io::Result<std::fs::ReadDir> {
    Err(std::io::ErrorKind::NotFound.into())
}

/// The folder itself, or the nearest one above it that is there.
fn nearest_folder(folder: &Path) -> &Path {
    folder
        .ancestors()
        .find(|one| one.exists())
        .unwrap_or_else(|| Path::new(if folder.is_absolute() { "/" } else { "." }))
}

fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let name =
        format!(".flexkeep-check-{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
    let path = folder.join(name);
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)
}

/// Writes, reads and deletes a small object where runs keep theirs.
fn probe(vault: &Vault, report: &mut CheckReport) {
    let name = format!("runs/check/{}/probe", RunId::new(Timestamp::now()));
    let body = b"flexkeep check";
    let runs = vault.runs();
    let tried = runs.put(&name, body, PutMode::Create).and_then(|_| {
        let read = runs.get(&name, body.len() as u64);
        let deleted = runs.delete(&name);
        read.and_then(|read| deleted.map(|()| read))
    });
    match tried {
        Ok(read) if read == body => report.add(Severity::Ok, SUBJECT, "it can be written and read"),
        Ok(_) => report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            "it gave back other bytes than were written",
            "check the storage itself before relying on anything in it",
        ),
        Err(error) => report.add_error(SUBJECT, &error),
    }
}

/// Whether there is none yet.
fn last_backup(vault: &Vault, server: &ServerName, report: &mut CheckReport) -> bool {
    const SUBJECT: &str = "last backup";
    let newest = match vault.backups(server) {
        Ok(mut backups) => backups.pop(),
        Err(error) => {
            report.add_error(SUBJECT, &error);
            return true;
        }
    };
    let Some(id) = newest else {
        report.add(Severity::Note, SUBJECT, format!("there is none of the server {server} yet"));
        return true;
    };
    let age = Timestamp::now().since((Unit::Hour, id.time())).map(|span| span.get_hours());
    let age = age.map(|hours| format!("{} days and {} hours old", hours / 24, hours % 24));
    let age = age.unwrap_or_else(|_| "of unknown age".to_owned());
    match vault.manifest(&id) {
        Ok(manifest) => {
            let totals = manifest.totals;
            let what = format!("{id} is {age} and holds {}", size(totals.raw_bytes));
            report.add(Severity::Ok, SUBJECT, what);
        }
        Err(error) => report.add(
            Severity::Warning,
            SUBJECT,
            format!("{id} is {age} and cannot be read: {}", chain(&error)),
        ),
    }
    false
}

fn room(folder: &Path, needed: u64, first: bool, report: &mut CheckReport) {
    const SUBJECT: &str = "space";
    let nearest = nearest_folder(folder);
    let free = match rustix::fs::statvfs(nearest) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            let what = format!("cannot ask for the space of {}: {error}", nearest.display());
            return report.add(Severity::Warning, SUBJECT, what);
        }
    };
    let which = if first { "a first backup" } else { "another backup" };
    let what = format!("{} are free, {which} may take up to about {}", size(free), size(needed));
    if free >= needed {
        report.add(Severity::Ok, SUBJECT, what);
    } else {
        report.add_with_way_out(
            Severity::Warning,
            SUBJECT,
            what,
            "free some space or choose another place; COPY text often compresses to a quarter",
        );
    }
}
