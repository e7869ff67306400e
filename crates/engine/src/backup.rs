//! A whole backup: every database of a server, sealed by one manifest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::contents::Cut;
use flexkeep_vault::manifest::{
    DatabaseSummary, Loss, MANIFEST_FORMAT, Manifest, ObjectRef, Source, Totals,
};
use flexkeep_vault::store::Etag;
use flexkeep_vault::{
    BackupId, ContentHash, RunId, RunRecord, RunState, ServerName, Vault, VaultError,
};
use jiff::Timestamp;

use crate::chunker::{ChunkTools, KnownChunks};
use crate::dump::{self, Dumped, Prepared};
use crate::error::{BackupError, chain};
use crate::globals;
use crate::options::BackupOptions;
use crate::pace::Pace;
use crate::plan::LastCuts;
use crate::progress::{Progress, Restart};
use crate::relay;
use crate::report::Reporter;
use crate::session;
use crate::source::{self, Database, ServerFacts};
use crate::tools::ClientTools;
use crate::turn::Turn;
use crate::uploads::Uploads;

/// Bytes of compressed chunks that may be on their way into the vault, for each lane.
pub(crate) const UPLOAD_BYTES_PER_LANE: usize = 24 << 20;

/// What everything in a run shares.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a pg::Config,
    pub(crate) connect: pg::ConnectOptions,
    pub(crate) options: &'a BackupOptions,
    pub(crate) client: &'a ClientTools,
    pub(crate) facts: &'a ServerFacts,
    pub(crate) server: ServerName,
    pub(crate) id: RunId,
    pub(crate) tools: &'a ChunkTools,
    pub(crate) turn: Turn,
}

/// Backs up the server that `target` reaches into `vault`, and gives the sealed manifest.
///
/// Every database is one state of its own, as of [`DatabaseSummary::snapshot_time`]. What could
/// not be read is in [`Manifest::losses`]; a table that can't be read is an error. When this
/// returns an error, nothing was sealed; what was uploaded is used by the next backup. A request
/// ([`BackupOptions::request`]) whose backup is sealed already gets that one.
///
/// [`DatabaseSummary::snapshot_time`]: flexkeep_vault::manifest::DatabaseSummary::snapshot_time
pub fn backup(
    target: &pg::Config,
    vault: &Vault,
    options: &BackupOptions,
    progress: &Arc<Progress>,
) -> Result<Manifest, BackupError> {
    let started = Timestamp::now();
    progress.phase("connecting");
    let connect = connect_options(options, progress);
    let mut connection = session::connect(target, target.database(), &connect)?;
    session::prepare(&mut connection, "")?;
    let mut facts = source::facts(&mut connection)?;
    let client = ClientTools::find(options.pg_bin.as_deref(), facts.source.version_num / 10_000)?;
    facts.source.pg_dump.clone_from(&client.version);
    let server = server_name(target, options);
    take_server_lock(&mut connection, vault, &server)?;
    let source = Locked { target, connect, client: &client, facts: &facts, server, started };
    let result = back_up_locked(source, &mut connection, vault, options, progress);
    // The server may need a moment to see that a connection has ended, and whoever begins the next
    // backup then would be told that this one is still at work. If it is broken, so is the lock.
    drop(connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()"));
    result
}

/// The name under which a server's backups are kept: as given, or made of its host, and of its port
/// where that is not the usual one.
pub(crate) fn server_name(target: &pg::Config, options: &BackupOptions) -> ServerName {
    match (&options.name, target.port()) {
        (Some(name), _) => name.clone(),
        (None, 5432) => ServerName::sanitize(&target.host()),
        (None, port) => ServerName::sanitize_with_port(&target.host(), port),
    }
}

/// A server that nobody else backs up into this vault meanwhile.
struct Locked<'a> {
    target: &'a pg::Config,
    connect: pg::ConnectOptions,
    client: &'a ClientTools,
    facts: &'a ServerFacts,
    server: ServerName,
    started: Timestamp,
}

fn back_up_locked(
    source: Locked<'_>,
    connection: &mut Connection,
    vault: &Vault,
    options: &BackupOptions,
    progress: &Arc<Progress>,
) -> Result<Manifest, BackupError> {
    let Locked { target, connect, client, facts, server, started } = source;
    if let Some(request) = &options.request
        && let Some(sealed) = vault.backup_for_request(&server, &request.id, request.since)?
    {
        return Ok(sealed);
    }
    relay::refuse_live_relay(vault, &server, None, connection)?;
    let databases =
        source::databases(connection, facts.source.flexible_server, &options.exclude_databases)?;
    progress.phase("looking at the last backup");
    let (last, _) = LastBackup::read(vault, &server, progress)?;
    let other_cluster = last.is_of_another_cluster(&facts.source);
    if let Some(note) = &other_cluster {
        progress.message(note.clone());
    }
    let known = Arc::new(last.known);
    let uploads = Uploads::start(
        Arc::new(vault.clone()),
        Arc::clone(&known),
        Arc::clone(progress),
        options.level,
        options.lanes.max(2),
        UPLOAD_BYTES_PER_LANE * options.lanes.max(1),
    )?;
    let tools = ChunkTools {
        vault: Arc::new(vault.clone()),
        known,
        uploads,
        progress: Arc::clone(progress),
        pace: options.max_bytes_per_second.map(Pace::new),
    };
    let id = RunId::new(started);
    let run = Run {
        target,
        connect,
        options,
        client,
        facts,
        server,
        id,
        tools: &tools,
        turn: Turn::default(),
    };
    let record = open_run(&run, started)?;
    let reporter = Reporter::start(vault, &run.server, &run.id, progress);
    let losses = databases.losses.clone();
    let result = read_all(&run, &databases.dump, &last.cuts, connection).and_then(|mut parts| {
        parts.losses.splice(0..0, losses);
        parts.notes.splice(0..0, other_cluster.into_iter().chain(databases.notes.clone()));
        seal(&run, started, parts)
    });
    reporter.stop();
    close_run(&run, record, &result);
    result
}

pub(crate) fn connect_options(options: &BackupOptions, progress: &Progress) -> pg::ConnectOptions {
    pg::ConnectOptions {
        stop: Some(progress.cancel_flag()),
        stall_timeout: options.stall_timeout,
        raw_text: true,
        ..pg::ConnectOptions::default()
    }
}

/// One backup of a server into a vault at a time. The lock is the connection's, on the source: it
/// goes away with this process, however that ends.
pub(crate) fn take_server_lock(
    connection: &mut Connection,
    vault: &Vault,
    server: &ServerName,
) -> Result<(), BackupError> {
    const QUERY: &str = "server lock";
    let hash = ContentHash::of(format!("flexkeep\n{}\n{server}", vault.id()).as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    let (high, low) = (i32::from_be_bytes([a, b, c, d]), i32::from_be_bytes([e, f, g, h]));
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock({high}, {low})::int");
    let others = format!(
        "SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
         AND l.classid = ({high}::bigint & 4294967295)::oid \
         AND l.objid = ({low}::bigint & 4294967295)::oid AND l.objsubid = 2 \
         AND l.pid <> pg_catalog.pg_backend_pid() LIMIT 1"
    );
    let rows = session::rows(connection, "", "taking the server's lock", &lock)?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no lock row".to_owned()))?;
    let is_taken = session::number::<u8>(row, 0, QUERY)? == 1;
    // An advisory lock is of one database, and another backup may have come in by another one. Of
    // two who ask at the same moment both may be refused.
    let others = session::rows(connection, "", "looking for other backups", &others)?;
    if is_taken && others.is_empty() {
        return Ok(());
    }
    if is_taken {
        let unlock = format!("SELECT pg_catalog.pg_advisory_unlock({high}, {low})");
        session::run(connection, "", "giving the server's lock back", unlock)?;
    }
    let pid = others.first().and_then(|row| row.get(0)).unwrap_or("unknown").to_owned();
    Err(BackupError::AnotherBackup { server: server.to_string(), pid })
}

/// What the last sealed backup of the server tells this one.
#[derive(Default)]
pub(crate) struct LastBackup {
    /// Which it is.
    pub(crate) id: Option<BackupId>,
    /// The cluster that it is of, where that could be read.
    pub(crate) system_identifier: Option<String>,
    /// Whether all of its lists could be read.
    pub(crate) is_whole: bool,
    pub(crate) known: KnownChunks,
    pub(crate) cuts: HashMap<String, LastCuts>,
}

impl LastBackup {
    /// Chunks that the last backup names and that are there with the length it says. One that is
    /// missing or cut off is made anew; they are given too.
    pub(crate) fn read(
        vault: &Vault,
        server: &ServerName,
        progress: &Progress,
    ) -> Result<(Self, Vec<ContentHash>), BackupError> {
        let Some(id) = vault.backups(server)?.pop() else {
            return Ok((Self::default(), Vec::new()));
        };
        let mut last = Self::named(vault, id, progress)?;
        let mut there = last.known.looks();
        vault.list_chunks(&mut |hash, stored_bytes| there.found(&hash, stored_bytes))?;
        let missing = there.missing();
        if let (Some(id), false) = (&last.id, missing.is_empty()) {
            progress.message(format!(
                "{} chunks of the last backup {id} are missing or damaged in the vault; \
                 what the source still has of them is stored again",
                missing.len()
            ));
        }
        last.known.forget(&missing);
        Ok((last, missing))
    }

    /// What to say when it is of another cluster: two servers may have been given one name.
    fn is_of_another_cluster(&self, source: &Source) -> Option<String> {
        let (id, then) = (self.id.as_ref()?, self.system_identifier.as_ref()?);
        let now = source.system_identifier.as_ref()?;
        (then != now).then(|| {
            format!(
                "this is not the database cluster of the last backup {id} (system identifier {now}, \
                 not {then}): the server was made anew or upgraded, or two servers are backed up \
                 under one name, and then each needs a name of its own"
            )
        })
    }

    /// What a backup names, whether or not it is there.
    pub(crate) fn named(
        vault: &Vault,
        id: BackupId,
        progress: &Progress,
    ) -> Result<Self, BackupError> {
        let manifest = match vault.manifest(&id) {
            Ok(manifest) => manifest,
            Err(error) => {
                progress.message(format!(
                    "the last backup {id} cannot be read ({error}); this one starts from nothing"
                ));
                return Ok(Self::default());
            }
        };
        let mut named = Vec::new();
        let mut is_whole = true;
        let mut all_cuts: HashMap<String, LastCuts> = HashMap::new();
        for database in &manifest.databases {
            let cuts = all_cuts.entry(database.name.clone()).or_default();
            let read = vault.read_contents(&database.contents, |entry| {
                named.extend(entry.chunks.iter().map(|chunk| (chunk.hash, chunk.stored_bytes)));
                if !matches!(entry.cut, Cut::Objects(_)) {
                    cuts.insert((entry.schema, entry.name), entry.cut);
                }
            });
            if let Err(error) = read {
                is_whole = false;
                progress.message(format!(
                    "the last backup's list of database {:?} cannot be read ({error}); \
                     its chunks are looked for one by one",
                    database.name
                ));
            }
        }
        Ok(Self {
            id: Some(id),
            system_identifier: manifest.source.system_identifier,
            is_whole,
            known: KnownChunks::new(named),
            cuts: all_cuts,
        })
    }
}

fn open_run(run: &Run<'_>, started: Timestamp) -> Result<(RunRecord, Etag), BackupError> {
    let vault = &run.tools.vault;
    // This process has the server's lock and no lanes are at work, so whatever is there is of a
    // process that died.
    vault.remove_runs(&run.server)?;
    let record = RunRecord {
        run: run.id.clone(),
        server: run.server.clone(),
        request: run.options.request.as_ref().map(|request| request.id.clone()),
        attempt: run.options.request.as_ref().map_or(1, |request| request.attempt),
        started,
        host: hostname(),
        pid: std::process::id(),
        state: RunState::Running,
    };
    let etag = vault.open_run(&record)?;
    Ok((record, etag))
}

/// A run that sealed its backup leaves nothing; one that failed leaves its reason.
fn close_run(
    run: &Run<'_>,
    (mut record, etag): (RunRecord, Etag),
    result: &Result<Manifest, BackupError>,
) {
    let vault = &run.tools.vault;
    let outcome = match result {
        Ok(_) => vault.remove_run(&run.server, &run.id),
        Err(error) => {
            record.state = RunState::Failed { reason: error.to_string() };
            vault.update_run(&record, etag).map(|_| ())
        }
    };
    if let Err(error) = outcome {
        // Nothing depends on it: the next run of this server clears it away.
        tracing::warn!("cannot close run {}: {error}", run.id);
    }
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// All that the manifest will say.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) globals: Option<ObjectRef>,
    pub(crate) databases: Vec<DatabaseSummary>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) notes: Vec<String>,
}

fn read_all(
    run: &Run<'_>,
    databases: &[Database],
    cuts: &HashMap<String, LastCuts>,
    connection: &mut Connection,
) -> Result<Parts, BackupError> {
    let mut parts = Parts::default();
    let passwords = run.options.role_passwords && run.facts.reads_passwords;
    if !run.options.role_passwords {
        parts.notes.push("password hashes of roles were left out as asked".to_owned());
    } else if !passwords {
        parts.losses.extend(source::password_loss(connection)?);
    }
    let failed = AtomicBool::new(false);
    let roles = source::roles(connection)?;
    let encoding = source::encoding(connection, "")?;
    std::thread::scope(|scope| {
        // However this ends: the thread that prepares databases waits for its turn.
        let _end = EndOfTurns(&run.turn);
        let failed = &failed;
        let stop = move || failed.load(Ordering::Relaxed) || run.tools.progress.is_cancelled();
        let attempts = run.options.attempts;
        let dump = move |encoding: &str| {
            globals::dump(run.client, run.target, encoding, passwords, attempts, &stop)
        };
        let globals = scope.spawn(move || dump(&encoding));
        let (sender, receiver) = mpsc::sync_channel(0);
        scope.spawn(move || {
            let empty = LastCuts::new();
            let mut before: Option<&Database> = None;
            for database in databases {
                if !before.is_none_or(|before| run.turn.wait_for(&before.name)) {
                    return;
                }
                let last = cuts.get(&database.name).unwrap_or(&empty);
                let prepared = dump::prepare(run, database, 1, last);
                // Nobody receives any more when another database has failed.
                if sender.send((database, prepared)).is_err() {
                    return;
                }
                before = Some(database);
            }
        });
        let read = read_in_turn(run, receiver, cuts, &mut parts, connection);
        run.turn.end();
        // Nobody waits for the roles then.
        failed.store(read.is_err(), Ordering::Relaxed);
        read?;
        let mut sql = globals
            .join()
            .map_err(|_| BackupError::Internal("the thread for roles panicked".to_owned()))??;
        revive(run, connection)?;
        if let Some(later) = globals::later(connection, &roles, dump)? {
            sql = later.sql;
            parts.notes.extend(later.note);
        }
        parts.globals = Some(run.tools.vault.put_meta(&sql)?);
        if parts.databases.is_empty() {
            let reason = "every database was dropped during the backup".to_owned();
            return Err(BackupError::NothingToDo(reason));
        }
        Ok(parts)
    })
}

/// Makes the connection for questions anew if it has ended: the server may have been restarted in the
/// hours since, and the databases have been read all the same.
fn revive(run: &Run<'_>, connection: &mut Connection) -> Result<(), BackupError> {
    if connection.is_usable() && connection.execute("SELECT").is_ok() {
        return Ok(());
    }
    *connection = session::connect(run.target, run.target.database(), &run.connect)?;
    session::prepare(connection, "")
}

/// Ends the turns when it is dropped.
struct EndOfTurns<'t>(&'t Turn);

impl Drop for EndOfTurns<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reads each database as soon as it is prepared.
fn read_in_turn(
    run: &Run<'_>,
    receiver: mpsc::Receiver<(&Database, Result<Prepared, BackupError>)>,
    cuts: &HashMap<String, LastCuts>,
    parts: &mut Parts,
    connection: &mut Connection,
) -> Result<(), BackupError> {
    for (database, prepared) in receiver {
        let dumped = match dump_with_attempts(run, database, prepared, cuts.get(&database.name)) {
            Err(error) if error.is_database_gone() => {
                read_renamed(run, database, cuts, parts, connection)
            }
            dumped => dumped.map(Some),
        };
        run.turn.pass(&database.name);
        if let Some(dumped) = dumped? {
            take_over(parts, dumped);
        }
    }
    Ok(())
}

/// Reads a database that is not to be found by its name any more under its new one; `None` when it
/// is not in the backup, which the parts say then.
fn read_renamed(
    run: &Run<'_>,
    database: &Database,
    cuts: &HashMap<String, LastCuts>,
    parts: &mut Parts,
    connection: &mut Connection,
) -> Result<Option<Dumped>, BackupError> {
    revive(run, connection)?;
    let Some(name) = source::name_now(connection, database.oid)? else {
        if let Some(reason) = source::made_again(connection, &database.name)? {
            parts.losses.push(source::database_loss(&database.name, reason));
            return Ok(None);
        }
        parts.notes.push(format!("database {:?} was dropped during the backup", database.name));
        return Ok(None);
    };
    let Ok(name) = String::from_utf8(name) else {
        let reason = "it got a name that is not UTF-8 during the backup";
        parts.losses.push(source::database_loss(&database.name, reason));
        return Ok(None);
    };
    let renamed = Database { name, oid: database.oid };
    let last = cuts.get(&renamed.name);
    let prepared = dump::prepare(run, &renamed, 1, last.unwrap_or(&LastCuts::new()));
    match dump_with_attempts(run, &renamed, prepared, last) {
        Err(error) if error.is_database_gone() => {
            let reason = "it was renamed again and again, or dropped, during the backup";
            parts.losses.push(source::database_loss(&database.name, reason));
            Ok(None)
        }
        dumped => {
            parts.notes.push(source::renamed_note(&database.name, &renamed.name));
            dumped.map(Some)
        }
    }
}

/// A database that was read becomes a part of the backup.
pub(crate) fn take_over(parts: &mut Parts, dumped: Dumped) {
    let Dumped { summary, losses, notes } = dumped;
    if parts.databases.iter().any(|one| one.name == summary.name) {
        // A manifest has one of each name.
        let reason = "it got the name of a database that had been read before";
        parts.losses.push(source::database_loss(&summary.name, reason));
        return;
    }
    parts.databases.push(summary);
    parts.losses.extend(losses);
    parts.notes.extend(notes);
}

/// Tries until a snapshot holds, as often as the options allow.
fn dump_with_attempts(
    run: &Run<'_>,
    database: &Database,
    prepared: Result<Prepared, BackupError>,
    last: Option<&LastCuts>,
) -> Result<Dumped, BackupError> {
    let mut prepared = prepared;
    let mut attempt = 1;
    loop {
        if run.tools.progress.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let error = match prepared.and_then(|prepared| dump::dump(run, prepared)) {
            Ok(mut dumped) => {
                dumped.summary.attempts = attempt;
                return Ok(dumped);
            }
            Err(error) => error,
        };
        // What a stopped lane died of says nothing about the server.
        if run.tools.progress.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        if !error.is_worth_a_new_attempt() || error.is_database_gone() {
            return Err(error);
        }
        if attempt >= run.options.attempts.max(1) {
            let (database, last) = (database.name.clone(), Box::new(error));
            return Err(BackupError::AttemptsExhausted { database, attempts: attempt, last });
        }
        run.tools.progress.restart(Restart {
            database: database.name.clone(),
            attempt: attempt + 1,
            reason: chain(&error),
        });
        dump::pause(run, attempt, error.is_recovery_conflict());
        attempt += 1;
        let empty = LastCuts::new();
        prepared = dump::prepare(run, database, attempt, last.unwrap_or(&empty));
    }
}

fn seal(run: &Run<'_>, started: Timestamp, parts: Parts) -> Result<Manifest, BackupError> {
    run.tools.uploads.drain()?;
    run.tools.progress.phase("sealing");
    let vault = &run.tools.vault;
    seal_parts(vault, &run.server, run.options, &run.facts.source, started, parts)
        .map(|(manifest, _)| manifest)
}

/// Writes the manifest. Of several who do it for one request, all get the same one; the flag says
/// who wrote it.
pub(crate) fn seal_parts(
    vault: &Vault,
    server: &ServerName,
    options: &BackupOptions,
    source: &Source,
    started: Timestamp,
    parts: Parts,
) -> Result<(Manifest, bool), BackupError> {
    let mut totals = Totals::default();
    for database in &parts.databases {
        totals += database.totals;
    }
    let request = options.request.as_ref();
    let mut id = BackupId::new(server.clone(), request.map_or(started, |request| request.at));
    loop {
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            vault: vault.id().to_owned(),
            backup: id.to_string(),
            server: server.to_string(),
            tool: options.tool.clone(),
            request: request.map(|request| request.id.clone()),
            started,
            sealed: Timestamp::now(),
            source: source.clone(),
            globals: parts.globals.clone(),
            databases: parts.databases.clone(),
            losses: parts.losses.clone(),
            notes: parts.notes.clone(),
            totals,
        };
        match vault.seal(&manifest) {
            Ok(()) => return Ok((manifest, true)),
            // Another backup began in the same second; or it is this request's, of a process that
            // was thought dead.
            Err(VaultError::BackupTaken(_)) => match vault.manifest(&id) {
                Ok(taken) if request.is_some() && taken.request == manifest.request => {
                    return Ok((taken, false));
                }
                // Perhaps it is this request's: the next try finds out.
                Err(error @ VaultError::Store(_)) if request.is_some() => return Err(error.into()),
                _ => id = id.next(),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_another_port_of_its_host_has_another_name() {
        let name = |conninfo: &str| {
            let environment = pg::Environment::empty().with("USER", "me");
            let target = pg::Config::parse_in(conninfo, &environment).unwrap();
            server_name(&target, &BackupOptions::default()).to_string()
        };
        assert_eq!(name("host=db.example.org"), "db.example.org");
        assert_eq!(name("host=db.example.org port=5433"), "db.example.org-5433");
    }

    #[test]
    fn another_cluster_is_told_where_both_are_known() {
        let source = |identifier: Option<&str>| Source {
            system_identifier: identifier.map(str::to_owned),
            ..Source::default()
        };
        let last = LastBackup {
            id: Some("shop-20261122T225300Z".parse().unwrap()),
            system_identifier: Some("11".to_owned()),
            ..LastBackup::default()
        };
        assert_eq!(last.is_of_another_cluster(&source(Some("11"))), None);
        assert_eq!(last.is_of_another_cluster(&source(None)), None);
        let told = last.is_of_another_cluster(&source(Some("22"))).unwrap();
        assert!(told.contains("shop-20261122T225300Z") && told.contains("22, not 11"), "{told}");
    }
}
