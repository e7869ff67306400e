//! The beginning of a run: one look at the server decides what is read.

use std::collections::HashMap;
use std::sync::Arc;

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::store::PutMode;
use flexkeep_vault::{RunId, RunRecord, RunState, ServerName, Vault};
use jiff::{SignedDuration, Timestamp};

use super::locks::Locks;
use super::sign::lane_signs;
use super::state::{self, RunObjects, ServerPlan};
use super::{Lane, LaneOptions};
use crate::backup;
use crate::error::BackupError;
use crate::globals;
use crate::progress::Progress;
use crate::session;
use crate::source::{self, Database};
use crate::tools::ClientTools;

/// How long after the last sign of a run's lanes the server is asked whether they live: asking
/// takes a connection.
const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// How long a run of another request is left alone without any sign: its own request looks after
/// it more often than that.
const ABANDONED_AFTER: SignedDuration = SignedDuration::from_mins(30);

/// Bytes of databases for which one lane is enough.
const BYTES_PER_LANE: u64 = 32 << 20;

/// What became of the beginning of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// The request's backup is there.
    Sealed(Box<Manifest>),
    /// These lanes are to be started; the run has none now.
    Start(Vec<Lane>),
    /// Its lanes are at work.
    AtWork {
        /// The run.
        run: RunId,
    },
    /// It was given up; what it did is cleared away when the next one begins.
    GivenUp {
        /// The run.
        run: RunId,
        /// Why.
        reason: String,
    },
}

/// Opens the run of a request, or finds the one that is open.
///
/// # Errors
/// [`BackupError::AnotherBackup`] while another request's run of the server is at work.
pub fn begin(
    target: &pg::Config,
    vault: &Vault,
    options: &LaneOptions,
    progress: &Arc<Progress>,
) -> Result<Begun, BackupError> {
    let (Some(server), Some(request)) = (&options.backup.name, &options.backup.request) else {
        return Err(BackupError::Internal("a run needs a server's name and a request".to_owned()));
    };
    if let Some(sealed) = vault.backup_for_request(server, &request.id, request.since)? {
        return Ok(Begun::Sealed(Box::new(sealed)));
    }
    let is_own = |record: &RunRecord| record.request.as_deref() == Some(request.id.as_str());
    let own = vault.list_runs(server)?.into_iter().find(is_own);
    if let Some(own) = &own
        && !options.delivered_again
        && own.state == RunState::Running
        && last_sign(vault, own)?.is_some_and(|at| age(at) < SILENT_AFTER)
    {
        return Ok(Begun::AtWork { run: own.run.clone() });
    }
    progress.phase("connecting");
    let connect = backup::connect_options(&options.backup, progress);
    let mut connection = session::connect(target, target.database(), &connect)?;
    session::prepare(&mut connection, "")?;
    backup::take_server_lock(&mut connection, vault, server)?;
    // Only now nobody else opens or clears a run; what is sealed meanwhile is found again.
    if let Some(sealed) = vault.backup_for_request(server, &request.id, request.since)? {
        return Ok(Begun::Sealed(Box::new(sealed)));
    }
    let begun = match vault.list_runs(server)?.into_iter().find(is_own) {
        Some(RunRecord { run, attempt, state: RunState::Failed { reason }, .. })
            if attempt >= request.attempt =>
        {
            Begun::GivenUp { run, reason }
        }
        Some(own) if own.state == RunState::Running => match go_on(&mut connection, vault, own)? {
            Some(begun) => begun,
            None => open(target, vault, options, progress, &mut connection, server)?,
        },
        _ => open(target, vault, options, progress, &mut connection, server)?,
    };
    drop(connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()"));
    connection.close();
    Ok(begun)
}

fn age(at: Timestamp) -> SignedDuration {
    Timestamp::now().duration_since(at)
}

/// The last sign of life of a run.
fn last_sign(vault: &Vault, record: &RunRecord) -> Result<Option<Timestamp>, BackupError> {
    let signs = lane_signs(vault, &record.server, &record.run)?;
    Ok(signs.iter().map(|sign| sign.at).max())
}

/// Goes on with a run of this request that somebody opened. `None` if he did not come to plan it.
fn go_on(
    connection: &mut Connection,
    vault: &Vault,
    record: RunRecord,
) -> Result<Option<Begun>, BackupError> {
    let objects =
        RunObjects { vault: vault.clone(), server: record.server.clone(), run: record.run.clone() };
    let Some(plan) = objects.get::<ServerPlan>(state::SERVER)? else { return Ok(None) };
    let locks = Locks::of(vault, &record.server, &record.run);
    if locks.any_lane(connection)? {
        let sign = last_sign(vault, &record)?.unwrap_or(record.started);
        if age(sign) < ABANDONED_AFTER {
            return Ok(Some(Begun::AtWork { run: record.run }));
        }
        // Sessions of processes that were stopped: they would hold the run up for ever.
        locks.end_all(connection)?;
    }
    let signs = lane_signs(vault, &record.server, &record.run)?;
    let generation = signs.iter().map(|sign| sign.generation + 1).max().unwrap_or(0);
    Ok(Some(Begun::Start(lanes(&record.run, plan.lanes, generation))))
}

fn lanes(run: &RunId, count: u32, generation: u32) -> Vec<Lane> {
    (0..count.max(1)).map(|lane| Lane { run: run.clone(), lane, generation }).collect()
}

/// Opens a new run.
fn open(
    target: &pg::Config,
    vault: &Vault,
    options: &LaneOptions,
    progress: &Arc<Progress>,
    connection: &mut Connection,
    server: &ServerName,
) -> Result<Begun, BackupError> {
    let backup_options = &options.backup;
    let mut facts = source::facts(connection)?;
    let major = facts.source.version_num / 10_000;
    let client = ClientTools::find(backup_options.pg_bin.as_deref(), major)?;
    facts.source.pg_dump.clone_from(&client.version);
    let found = source::databases(
        connection,
        facts.source.flexible_server,
        &backup_options.exclude_databases,
    )?;
    clear(vault, server, connection)?;
    let (mut losses, mut notes) = (found.losses, found.notes);
    let passwords = backup_options.role_passwords && facts.reads_passwords;
    if !backup_options.role_passwords {
        notes.push("password hashes of roles were left out as asked".to_owned());
    } else if !passwords {
        losses.extend(source::password_loss(connection)?);
    }
    let sizes = sizes_of(connection, &found.dump)?;
    let bytes: u64 = sizes.iter().sum();
    progress.phase("roles");
    let stop = || progress.is_cancelled();
    let roles_before = source::roles(connection)?;
    let encoding = source::encoding(connection, "")?;
    let attempts = backup_options.attempts;
    let roles = globals::dump(&client, target, &encoding, passwords, attempts, &stop)?;
    let wanted = u32::try_from(backup_options.lanes).unwrap_or(u32::MAX).max(1);
    let plan = ServerPlan {
        facts,
        databases: found.dump,
        sizes,
        losses,
        notes,
        globals: vault.put_meta(&roles)?,
        roles: roles_before,
        lanes: u32::try_from(bytes.div_ceil(BYTES_PER_LANE)).unwrap_or(u32::MAX).clamp(1, wanted),
    };
    let started = Timestamp::now();
    let record = RunRecord {
        run: RunId::new(started),
        server: server.clone(),
        request: backup_options.request.as_ref().map(|request| request.id.clone()),
        attempt: backup_options.request.as_ref().map_or(1, |request| request.attempt),
        started,
        host: backup::hostname(),
        pid: std::process::id(),
        state: RunState::Running,
    };
    vault.open_run(&record)?;
    let objects =
        RunObjects { vault: vault.clone(), server: server.clone(), run: record.run.clone() };
    objects.put(state::SERVER, &plan, PutMode::Create)?;
    Ok(Begun::Start(lanes(&record.run, plan.lanes, 0)))
}

/// Bytes on disk of each database, 0 where it is gone or can't be asked.
fn sizes_of(connection: &mut Connection, databases: &[Database]) -> Result<Vec<u64>, BackupError> {
    const QUERY: &str = "sizes";
    const SQL: &str = "SELECT d.oid, pg_catalog.pg_database_size(d.oid) \
         FROM pg_catalog.pg_database d WHERE NOT d.datistemplate \
         AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')";
    let mut sizes = HashMap::new();
    for row in &session::rows(connection, "", "asking for the databases' sizes", SQL)? {
        sizes.insert(session::number::<u32>(row, 0, QUERY)?, session::number(row, 1, QUERY)?);
    }
    Ok(databases.iter().map(|one| sizes.get(&one.oid).copied().unwrap_or(0)).collect())
}

/// Clears away what runs of this server left behind. The server's lock is held.
///
/// # Errors
/// [`BackupError::AnotherBackup`] if one of them is at work.
fn clear(
    vault: &Vault,
    server: &ServerName,
    connection: &mut Connection,
) -> Result<(), BackupError> {
    refuse_live_relay(vault, server, None, connection)?;
    Ok(vault.remove_runs(server)?)
}

/// Refuses to go on while lanes of a run, other than that of `request`, are at work. The server's
/// lock is held.
pub(crate) fn refuse_live_relay(
    vault: &Vault,
    server: &ServerName,
    request: Option<&str>,
    connection: &mut Connection,
) -> Result<(), BackupError> {
    for record in vault.list_runs(server)? {
        let is_own = request.is_some() && record.request.as_deref() == request;
        if record.state != RunState::Running || is_own {
            continue;
        }
        let objects =
            RunObjects { vault: vault.clone(), server: server.clone(), run: record.run.clone() };
        // Without it, the run is of one process, which held the server's lock.
        if !objects.has(state::SERVER)? {
            continue;
        }
        let locks = Locks::of(vault, server, &record.run);
        let sign = last_sign(vault, &record)?.unwrap_or(record.started);
        if locks.any_lane(connection)? || age(sign) < ABANDONED_AFTER {
            let pid = "of several lanes".to_owned();
            return Err(BackupError::AnotherBackup { server: server.to_string(), pid });
        }
    }
    Ok(())
}
