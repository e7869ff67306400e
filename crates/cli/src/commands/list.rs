//! `flexkeep list`

use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{BackupId, RunRecord, ServerName, Vault};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::ListArgs;
use crate::exit::{self, Exit, Failure};
use crate::live::SCREEN;
use crate::output::{self, Output};
use crate::render::{self, losses};
use crate::vault;

/// What `--json` gives, and the table shows.
#[derive(Serialize)]
pub(crate) struct Listing {
    pub(crate) vault: VaultInfo,
    pub(crate) backups: Vec<Listed>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) runs: Vec<RunRecord>,
}

#[derive(Serialize)]
pub(crate) struct VaultInfo {
    pub(crate) id: String,
    pub(crate) place: String,
}

/// A backup.
#[derive(Serialize)]
pub(crate) struct Listed {
    pub(crate) status: &'static str,
    pub(crate) backup: String,
    pub(crate) server: String,
    pub(crate) started: Timestamp,
    pub(crate) sealed: Timestamp,
    pub(crate) databases: Vec<String>,
    pub(crate) tables: u64,
    pub(crate) rows: u64,
    pub(crate) large_objects: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) new_stored_bytes: u64,
    pub(crate) losses: u64,
}

/// A manifest that can't be read.
#[derive(Serialize)]
pub(crate) struct Unreadable {
    pub(crate) error: String,
    #[serde(skip)]
    exit: Option<Exit>,
}

impl Listed {
    fn new(manifest: &Manifest) -> Self {
        let totals = manifest.totals;
        Self {
            status: losses::status_key(manifest),
            backup: manifest.backup.clone(),
            server: manifest.server.clone(),
            started: manifest.started,
            sealed: manifest.sealed,
            databases: manifest.databases.iter().map(|one| one.name.clone()).collect(),
            tables: totals.tables,
            rows: totals.rows,
            large_objects: totals.large_objects,
            raw_bytes: totals.raw_bytes,
            stored_bytes: totals.stored_bytes,
            new_stored_bytes: totals.new_stored_bytes,
            losses: manifest.losses.iter().map(|loss| loss.count).sum(),
        }
    }
}

pub(crate) fn run(args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    let vault = vault::choose(&args.vault)?.open()?;
    let listing = read(&vault, args.name.as_ref())?;
    if output.json {
        output::json(&listing)?;
    } else if output.quiet {
        let ids: String = listing.backups.iter().map(|one| format!("{}\n", one.backup)).collect();
        output::write(ids.as_bytes())?;
    } else {
        output::text(&render::list::table(&listing, Timestamp::now()))?;
    }
    if !output.json {
        for one in &listing.unreadable {
            SCREEN.print(&format!("error: {}", one.error));
        }
    }
    let damaged = listing.unreadable.iter().filter_map(|one| one.exit);
    Ok(damaged.max_by_key(|exit| exit.code()).unwrap_or(Exit::Success))
}

fn read(vault: &Vault, only: Option<&ServerName>) -> Result<Listing, Failure> {
    let mut found: Vec<(BackupId, Listed)> = Vec::new();
    let mut unreadable = Vec::new();
    match only {
        None => vault.all_manifests(|read| match read {
            Ok((id, manifest)) => found.push((id, Listed::new(&manifest))),
            Err(error) => unreadable.push(Unreadable::new(vault, error)),
        })?,
        Some(server) => {
            for id in known_backups(vault, server)? {
                match vault.manifest(&id) {
                    Ok(manifest) => found.push((id, Listed::new(&manifest))),
                    Err(error) => unreadable.push(Unreadable::new(vault, error)),
                }
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Listing {
        vault: VaultInfo { id: vault.id().to_owned(), place: vault.location() },
        backups: found.into_iter().map(|(_, listed)| listed).collect(),
        unreadable,
        runs: runs(vault, only)?,
    })
}

impl Unreadable {
    fn new(vault: &Vault, error: flexkeep_vault::VaultError) -> Self {
        let damaged = vault.is_about_one_object(&error);
        let exit = Some(if damaged { Exit::Damage } else { exit::of_vault(&error) });
        Self { error: format!("{:#}", anyhow::Error::new(error)), exit }
    }
}

/// The backups of a server that has some.
fn known_backups(vault: &Vault, server: &ServerName) -> Result<Vec<BackupId>, Failure> {
    let backups = vault.backups(server)?;
    if !backups.is_empty() {
        return Ok(backups);
    }
    let mut others: Vec<String> = vault.servers()?.iter().map(ServerName::to_string).collect();
    others.sort_by_key(|name| strsim::damerau_levenshtein(name, server.as_str()));
    let failure = Failure::usage(format!("the vault has no backup of a server {server}"));
    Err(match others.as_slice() {
        [] => failure.hint("it has no backups at all"),
        others => {
            failure.hint(format!("it has backups of {}", others[..others.len().min(5)].join(", ")))
        }
    })
}

/// Runs that have not sealed a backup: at work, dead, or failed.
fn runs(vault: &Vault, only: Option<&ServerName>) -> Result<Vec<RunRecord>, Failure> {
    let mut servers = vault.servers_with_runs()?;
    servers.retain(|server| only.is_none_or(|only| only == server));
    let mut runs = Vec::new();
    for server in &servers {
        match vault.list_runs(server) {
            Ok(found) => runs.extend(found),
            // No backup depends on it.
            Err(error) => tracing::warn!("cannot read the runs of {server}: {error}"),
        }
    }
    Ok(runs)
}
