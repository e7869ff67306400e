//! The end of a database, and of a backup: whoever finds that all is done writes it down.

use std::time::{Duration, Instant};

use flexkeep_pg_copy::Connection;
use flexkeep_vault::manifest::DatabaseSummary;
use flexkeep_vault::store::PutMode;

use super::LaneEnd;
use super::join::Why;
use super::journals::{self, Journaled};
use super::lane::Member;
use super::locks::Key;
use super::state::{self, AttemptPlan, DatabaseDone};
use crate::backup::{self, Parts};
use crate::dump::Dumped;
use crate::error::BackupError;
use crate::globals;
use crate::source::{self, Database};
use crate::tools::ClientTools;

/// How often it is asked whether somebody else has finished a database.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long it is left to somebody else, who may have been stopped, and longer for each item: the
/// journal is read then.
const FINISH_LIMIT: Duration = Duration::from_secs(60);
const FINISH_LIMIT_PER_ITEM: Duration = Duration::from_millis(5);

impl Member<'_> {
    /// Writes down that a database is done, or waits until somebody else has.
    pub(super) fn finish(
        &self,
        connection: &mut Connection,
        plan: AttemptPlan,
        folder: &str,
    ) -> Result<(), BackupError> {
        let name = plan.database.name.clone();
        let done = state::done_name(plan.database.oid);
        let items = u32::try_from(plan.items.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + FINISH_LIMIT + FINISH_LIMIT_PER_ITEM * items;
        loop {
            self.check()?;
            if self.objects.has(&done)? {
                return Ok(());
            }
            let locked = self.locks.try_lock(connection, &name, Key::Finish)?;
            // The lock only saves work: what is written is created once.
            if locked || Instant::now() >= until {
                let result = self.write_done(connection, plan, folder, &done);
                if locked {
                    self.locks.unlock(connection, &name, Key::Finish)?;
                }
                return result;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn write_done(
        &self,
        connection: &mut Connection,
        plan: AttemptPlan,
        folder: &str,
        done: &str,
    ) -> Result<(), BackupError> {
        let name = plan.database.name.as_str();
        if let Err(error) = plan.types.refuse_altered(connection, name) {
            if matches!(error, BackupError::Changed { .. }) {
                self.lose(folder, name, plan.attempt, Why::Other(&error.to_string()))?;
            }
            return Err(error);
        }
        let Journaled { contents, mut totals } =
            journals::write_contents(&self.objects, folder, &plan)?;
        // What earlier attempts uploaded is in the vault because of this backup too.
        for attempt in 1..plan.attempt {
            let before = state::attempt_folder(plan.database.oid, attempt);
            let (chunks, bytes) = journals::uploaded(&self.objects, &before)?;
            totals.new_chunks += chunks;
            totals.new_stored_bytes += bytes;
        }
        let summary = DatabaseSummary {
            name: plan.database.name,
            oid: plan.database.oid,
            encoding: plan.encoding,
            snapshot_time: plan.snapshot_time,
            attempts: plan.attempt,
            toc: plan.toc,
            contents,
            extensions: plan.extensions,
            totals,
            holders: self.objects.holders(folder)?,
        };
        let value = DatabaseDone { summary: Some(summary), losses: plan.losses, notes: plan.notes };
        self.objects.put(done, &value, PutMode::Create)?;
        Ok(())
    }

    /// Writes down that a database is not in the backup: it was dropped, or is lost for a reason.
    pub(super) fn finish_without(
        &self,
        database: &Database,
        lost: Option<&str>,
    ) -> Result<(), BackupError> {
        let (losses, notes) = match lost {
            Some(reason) => (vec![source::database_loss(&database.name, reason)], Vec::new()),
            None => {
                let note = format!("database {:?} was dropped during the backup", database.name);
                (Vec::new(), vec![note])
            }
        };
        let value = DatabaseDone { summary: None, losses, notes };
        self.objects.put(&state::done_name(database.oid), &value, PutMode::Create)?;
        Ok(())
    }

    /// Roles that were made after those of the backup were written down, as later snapshots may have
    /// objects of theirs.
    fn roles_of_later(&self, parts: &mut Parts) -> Result<(), BackupError> {
        let mut connection = self.connect_to_any()?;
        let options = &self.options.backup;
        let facts = &self.server.facts;
        let major = facts.source.version_num / 10_000;
        let progress = &self.tools.progress;
        let later = globals::later(&mut connection, &self.server.roles, |encoding| {
            let client = ClientTools::find(options.pg_bin.as_deref(), major)?;
            let passwords = options.role_passwords && facts.reads_passwords;
            let stop = || progress.is_cancelled();
            let attempts = options.attempts;
            globals::dump(&client, self.target, encoding, passwords, attempts, &stop)
        })?;
        connection.close();
        if let Some(later) = later {
            parts.globals = Some(self.objects.vault.put_meta(&later.sql)?);
            parts.notes.extend(later.note);
        }
        Ok(())
    }

    /// Seals the backup, all of whose databases are done, and clears the run away.
    pub(super) fn seal(&self) -> Result<LaneEnd, BackupError> {
        self.tools.progress.phase("sealing");
        let objects = &self.objects;
        let record = objects.vault.run(&objects.server, &objects.run)?;
        let started = record.ok_or(BackupError::RunOver)?.started;
        let server = &self.server;
        let mut parts = Parts {
            globals: Some(server.globals.clone()),
            databases: Vec::new(),
            losses: server.losses.clone(),
            notes: server.notes.clone(),
        };
        self.roles_of_later(&mut parts)?;
        for database in &server.databases {
            let done: Option<DatabaseDone> = objects.get(&state::done_name(database.oid))?;
            let DatabaseDone { summary, losses, notes } = done.ok_or(BackupError::RunOver)?;
            match summary {
                Some(summary) => backup::take_over(&mut parts, Dumped { summary, losses, notes }),
                None => {
                    parts.losses.extend(losses);
                    parts.notes.extend(notes);
                }
            }
        }
        if parts.databases.is_empty() {
            let reason = "every database was dropped during the backup".to_owned();
            return Err(BackupError::NothingToDo(reason));
        }
        let (manifest, own) = backup::seal_parts(
            &objects.vault,
            &objects.server,
            &self.options.backup,
            &server.facts.source,
            started,
            parts,
        )?;
        let vault = &objects.vault;
        let id = manifest.backup.parse().map_err(|error| {
            BackupError::Internal(format!("{} was sealed and is no id: {error}", manifest.backup))
        })?;
        let closed = vault
            .seal_run(&objects.server, &objects.run, &id)
            .and_then(|_| vault.remove_run(&objects.server, &objects.run));
        if let Err(error) = closed {
            // Nothing depends on it: the next run of this server clears it away.
            tracing::warn!("cannot close run {}: {error}", objects.run);
        }
        let manifest = Box::new(manifest);
        Ok(if own { LaneEnd::Sealed(manifest) } else { LaneEnd::AlreadySealed(manifest) })
    }
}
