//! One restore drill, from the choice of its databases to the end of its scratch databases.
//!
//! # Crash consistency
//! The name of a scratch database is written into the server's record, after a look that nothing has
//! this name, before the database is made, and taken out after it was dropped. So whatever dies and
//! when: the next drill of the server finds what was left, and drops nothing that no drill made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_engine::{
    self as engine, Assertion, DrillOptions, DrillReport, Progress, RestoreError, ScratchLock,
    chain,
};
use flexkeep_pg_copy::Config;
use flexkeep_policy::{
    Amcheck, DrillDatabases, DrillNote, DrillPolicy, Policy, Scratch, TargetPolicy,
};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{BackupId, ContentHash, ServerName, Vault, VaultError};
use jiff::Timestamp;
use serde::Serialize;

use crate::error::ServiceError;
use crate::message::cut;
use crate::record::Record;
use crate::target::{TargetError, restore_target};

/// Longest silence of the target before it counts as gone.
const STALL: Duration = Duration::from_secs(600);

/// Databases that a note lists.
const NOTED: usize = 20;

/// Problems that a sentence names.
const NAMED: usize = 3;

/// What is to be drilled.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The vault.
    pub vault: Vault,
    /// The policy, for its targets.
    pub policy: Policy,
    /// The server's drill.
    pub drill: DrillPolicy,
    /// What asks for it: makes the names of scratch databases its own.
    pub request: String,
    /// The backup; the newest one when absent.
    pub backup: Option<BackupId>,
    /// Databases in place of those that the policy says.
    pub databases: Vec<String>,
    /// Nobody tries it again: a restore that did not come to its end is a problem of the result,
    /// although it might pass.
    pub last_try: bool,
}

/// Called with the backup and the databases that were chosen.
pub type Chosen<'a> = dyn Fn(&str, &[String]) -> Result<(), ServiceError> + 'a;

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrillResult {
    /// The backup; absent if the server has none.
    pub backup: Option<String>,
    /// The target's name in the policy.
    pub target: String,
    /// How long it took.
    pub duration_seconds: f64,
    /// One for each database.
    pub databases: Vec<DrillReport>,
    /// What is wrong beside the databases.
    pub problems: Vec<String>,
    /// Scratch databases that stay until the next drill, as the policy wants it.
    pub kept: Vec<String>,
    /// Scratch databases that could not be dropped; the next drill tries it again.
    pub left_behind: Vec<String>,
}

/// Why a drill came to no result.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The target can't be connected to as it is written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The policy has no such target.
    #[error("the policy has no target {0:?}")]
    NoTarget(String),
    /// Another drill of the server is at work on the target.
    #[error("another drill of {server} is at work on target {target}; wait for it or stop it")]
    Busy {
        /// The server.
        server: String,
        /// The target.
        target: String,
    },
    /// The vault can't be read, or the server's record can't be written.
    #[error("the vault cannot be used")]
    Vault(#[from] VaultError),
    /// The server's record can't be used.
    #[error(transparent)]
    Record(#[from] ServiceError),
    /// The target failed, or the drill was cancelled.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl DrillError {
    /// Whether the same drill may succeed later without anybody doing something.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Target(_) | Self::NoTarget(_) => false,
            Self::Busy { .. } => true,
            Self::Vault(error) | Self::Record(ServiceError::Vault(error)) => error.may_pass(),
            Self::Record(_) => true,
            Self::Restore(error) => error.may_pass(),
        }
    }

    /// Whether it says anything of the backup: not if somebody else holds a drill, or if this one
    /// was stopped by who held it.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Busy { .. } | Self::Restore(RestoreError::Cancelled { .. }))
    }
}

impl DrillResult {
    /// Whether the backup was restored, and all that was asked of it held.
    pub fn passed(&self) -> bool {
        self.why().is_none()
    }

    /// What was wrong, in a sentence.
    pub fn why(&self) -> Option<String> {
        let mut all: Vec<String> = self.problems.clone();
        for database in &self.databases {
            let named = database.problems.iter();
            all.extend(named.map(|problem| format!("database {:?}: {problem}", database.database)));
        }
        if all.is_empty() {
            return None;
        }
        let more = match all.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        all.truncate(NAMED);
        Some(format!("{}{more}", all.join("; ")))
    }
}

impl Drill {
    /// Restores, looks, and drops. `chosen` is called with the backup and the databases before
    /// anything is made. Blocks for as long as it takes.
    ///
    /// # Errors
    /// There is no result; a later try may give one, see [`DrillError::may_pass`].
    pub fn run(
        &self,
        progress: &Arc<Progress>,
        chosen: &Chosen<'_>,
    ) -> Result<DrillResult, DrillError> {
        let started = Instant::now();
        let name = self.drill.target();
        let target = self
            .policy
            .target(name.as_str())
            .ok_or_else(|| DrillError::NoTarget(name.to_string()))?;
        let config = restore_target(target)?;
        let lock = format!("{}/{}", self.vault.id(), self.server());
        let busy =
            || DrillError::Busy { server: self.server().to_string(), target: name.to_string() };
        let _lock = ScratchLock::take(&config, &lock, STALL)?.ok_or_else(busy)?;
        let mut result = DrillResult {
            backup: None,
            target: name.to_string(),
            duration_seconds: 0.0,
            databases: Vec::new(),
            problems: Vec::new(),
            kept: Vec::new(),
            left_behind: Vec::new(),
        };
        self.drop_leftovers(&mut result)?;
        if let Some((backup, databases)) = self.choose(&mut result)? {
            let id = backup.to_string();
            chosen(&id, &databases)?;
            result.backup = Some(id);
            for database in &databases {
                self.one(target, &config, &backup, database, progress, &mut result)?;
            }
            self.judge(&mut result);
        }
        result.duration_seconds = started.elapsed().as_secs_f64();
        Ok(result)
    }

    fn server(&self) -> &ServerName {
        self.drill.server()
    }

    /// The backup and its databases; what is wrong with them is in the result.
    fn choose(
        &self,
        result: &mut DrillResult,
    ) -> Result<Option<(BackupId, Vec<String>)>, DrillError> {
        let backup = match &self.backup {
            Some(backup) => Some(backup.clone()),
            None => self.vault.backups(self.server())?.pop(),
        };
        let Some(backup) = backup else {
            result.problems.push("the server has no backup in this vault".to_owned());
            return Ok(None);
        };
        result.backup = Some(backup.to_string());
        let manifest = match self.vault.manifest(&backup) {
            Ok(manifest) => manifest,
            Err(error) if error.may_pass() => return Err(error.into()),
            Err(error) => {
                result.problems.push(format!("backup {backup}: {}", chain(&error)));
                return Ok(None);
            }
        };
        let databases = self.databases(&manifest)?;
        for name in &databases {
            if !manifest.databases.iter().any(|one| one.name == *name) {
                let have: Vec<&str> =
                    manifest.databases.iter().map(|one| one.name.as_str()).take(5).collect();
                result.problems.push(format!(
                    "backup {backup} has no database {name:?}; it has {}",
                    have.join(", ")
                ));
            }
        }
        if databases.is_empty() {
            result.problems.push(format!(
                "there is nothing to restore: no database of backup {backup} has rows"
            ));
        }
        let go_on = result.problems.is_empty();
        if self.databases.is_empty() && *self.drill.databases() == DrillDatabases::Rotate {
            for one in self.drill.assertions() {
                let Some(of) = one.database() else { continue };
                if !manifest.databases.iter().any(|database| database.name == of) {
                    result.problems.push(format!(
                        "assertion {:?} is about database {of:?}, which backup {backup} does not \
                         have",
                        one.name()
                    ));
                }
            }
        }
        Ok(go_on.then_some((backup, databases)))
    }

    fn databases(&self, manifest: &Manifest) -> Result<Vec<String>, DrillError> {
        if !self.databases.is_empty() {
            let mut names: Vec<String> = Vec::new();
            for name in &self.databases {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            return Ok(names);
        }
        let all = manifest.databases.iter();
        Ok(match self.drill.databases() {
            DrillDatabases::Named(names) => names.clone(),
            DrillDatabases::All => all.map(|one| one.name.clone()).collect(),
            DrillDatabases::Rotate => {
                // A database with an assertion stays in it when it has lost its rows: that is what
                // the assertion is for.
                let assertions = self.drill.assertions();
                let asserted = |name: &str| assertions.iter().any(|a| a.database() == Some(name));
                let with_rows = all.filter(|one| {
                    one.totals.rows + one.totals.large_objects > 0 || asserted(&one.name)
                });
                let names: Vec<&str> = with_rows.map(|one| one.name.as_str()).collect();
                let (record, _) = Record::read(&self.vault, self.server())?;
                record.drill.next_database(&names).map(str::to_owned).into_iter().collect()
            }
        })
    }

    /// One database, from its making to its end. A problem of the backup is in the result; what
    /// may pass is an error.
    fn one(
        &self,
        target: &TargetPolicy,
        config: &Config,
        backup: &BackupId,
        database: &str,
        progress: &Arc<Progress>,
        result: &mut DrillResult,
    ) -> Result<(), DrillError> {
        let scratch = self.scratch_name(database);
        if engine::is_there(config, &scratch, STALL)? {
            result.problems.push(format!(
                "target {} has a database {scratch:?} that no drill made; drop or rename it",
                target.name()
            ));
            return Ok(());
        }
        self.remember(target.name(), &scratch, true)?;
        let options = DrillOptions {
            database: database.to_owned(),
            scratch: scratch.clone(),
            roles: self.drill.roles(),
            amcheck: match self.drill.amcheck() {
                Amcheck::Auto => engine::Amcheck::Auto,
                Amcheck::Require => engine::Amcheck::Require,
                Amcheck::Off => engine::Amcheck::Off,
            },
            assertions: self.assertions(database),
            lanes: target.lanes() as usize,
            stall_timeout: STALL,
        };
        let drilled = engine::drill(&self.vault, backup, config, &options, progress);
        let failed = drilled.is_err();
        if self.drill.keep() && !failed {
            result.kept.push(scratch);
        } else if let Err(error) = self.drop_one(target.name(), config, &scratch) {
            tracing::error!("scratch database {scratch} stays: {}", chain(&error));
            if !failed {
                result.problems.push(format!(
                    "scratch database {scratch:?} could not be dropped: {}",
                    chain(&error)
                ));
            }
            result.left_behind.push(scratch);
        }
        match drilled {
            Ok(report) => result.databases.push(report),
            Err(error) if error.may_pass() && !self.counts(&error) => return Err(error.into()),
            Err(error) => result.databases.push(not_restored(database, &error)),
        }
        Ok(())
    }

    /// Whether a restore that might pass counts as failed: there is no later try.
    fn counts(&self, error: &RestoreError) -> bool {
        self.last_try && matches!(error, RestoreError::Incomplete { .. })
    }

    fn assertions(&self, database: &str) -> Vec<Assertion> {
        let all = self.drill.assertions().iter();
        all.filter(|one| one.database().is_none_or(|of| of == database))
            .map(|one| Assertion {
                name: one.name().to_owned(),
                sql: one.sql().to_owned(),
                timeout: one.timeout(),
            })
            .collect()
    }

    /// A drill that checked nothing did not pass.
    fn judge(&self, result: &mut DrillResult) {
        const NOTHING: &str = "there was nothing to compare: it has no rows";
        let all = self.databases.is_empty() && *self.drill.databases() == DrillDatabases::All;
        if all && !result.databases.iter().any(DrillReport::compared) {
            result.problems.push("there was nothing to compare: no database has rows".to_owned());
        }
        for report in result.databases.iter_mut().filter(|report| !all && !report.compared()) {
            if report.problems.is_empty() {
                report.problems.push(NOTHING.to_owned());
            }
        }
        for assertion in self.drill.assertions() {
            let named = self.drill.databases();
            let wanted = assertion.database().filter(|_| *named != DrillDatabases::Rotate);
            if let Some(database) = wanted.filter(|_| self.databases.is_empty())
                && !result.databases.iter().any(|one| one.database == database)
            {
                result.problems.push(format!(
                    "assertion {:?} is about database {database:?}, which was not restored",
                    assertion.name()
                ));
            }
        }
    }

    /// `flexkeep_drill_shop_1f3a9c02b4d5`: nobody's by chance, and the same whenever the same request
    /// comes again.
    fn scratch_name(&self, database: &str) -> String {
        let server: String = self
            .server()
            .as_str()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(30)
            .collect();
        let of = format!("{}\n{}\n{database}", self.vault.id(), self.request);
        let hash = ContentHash::of(of.as_bytes()).to_string();
        format!("flexkeep_drill_{server}_{}", &hash[..12])
    }

    fn drop_leftovers(&self, result: &mut DrillResult) -> Result<(), DrillError> {
        let (record, _) = Record::read(&self.vault, self.server())?;
        for left in &record.drill.scratch {
            let Some(target) = self.policy.target(&left.target) else {
                tracing::warn!(
                    "database {} is left on target {}, which the policy does not name any more; \
                     drop it by hand",
                    left.name,
                    left.target
                );
                self.remember_text(&left.target, &left.name, false)?;
                continue;
            };
            tracing::info!("dropping scratch database {} of an earlier drill", left.name);
            let dropped = restore_target(target)
                .map_err(DrillError::from)
                .and_then(|config| self.drop_one(target.name(), &config, &left.name));
            match dropped {
                Ok(()) => {}
                Err(error) if left.target == *self.drill.target().as_str() => return Err(error),
                Err(error) => {
                    tracing::error!("scratch database {} stays: {}", left.name, chain(&error));
                    result.left_behind.push(left.name.clone());
                }
            }
        }
        Ok(())
    }

    fn drop_one(
        &self,
        target: &ServerName,
        config: &Config,
        scratch: &str,
    ) -> Result<(), DrillError> {
        engine::drop_scratch(config, scratch, STALL)?;
        self.remember(target, scratch, false)
    }

    fn remember(&self, target: &ServerName, name: &str, there: bool) -> Result<(), DrillError> {
        self.remember_text(target.as_str(), name, there)
    }

    fn remember_text(&self, target: &str, name: &str, there: bool) -> Result<(), DrillError> {
        let scratch = Scratch { target: target.to_owned(), name: name.to_owned() };
        Ok(Record::change(&self.vault, self.server(), |record| {
            record.drill.scratch.retain(|one| *one != scratch);
            if there {
                record.drill.scratch.push(scratch.clone());
            }
        })?)
    }

    /// Writes down how a drill ended, and whose turn it was. The same may be written again.
    ///
    /// # Errors
    /// The record can't be written.
    pub fn note(&self, result: &DrillResult) -> Result<(), ServiceError> {
        let databases: Vec<String> =
            result.databases.iter().map(|one| one.database.clone()).collect();
        let note = DrillNote {
            request: self.request.clone(),
            at: Timestamp::now(),
            passed: result.passed(),
            backup: result.backup.clone(),
            databases,
            why: result.why().map(|why| cut(&why)),
        };
        write_note(&self.vault, self.server(), note, self.rotates())
    }

    /// The same for a drill without a result: of which backup and databases, if they were chosen,
    /// and why.
    ///
    /// # Errors
    /// The record can't be written.
    pub fn note_failure(
        &self,
        backup: Option<String>,
        databases: Vec<String>,
        why: &str,
    ) -> Result<(), ServiceError> {
        let request = self.request.clone();
        let (at, why) = (Timestamp::now(), Some(cut(why)));
        let note = DrillNote { request, at, passed: false, backup, databases, why };
        write_note(&self.vault, self.server(), note, self.rotates())
    }

    fn rotates(&self) -> bool {
        self.databases.is_empty() && *self.drill.databases() == DrillDatabases::Rotate
    }
}

/// Writes a drill's note into its server's record. The next drill of those that rotate is of another
/// database, however this one fared.
pub(crate) fn write_note(
    vault: &Vault,
    server: &ServerName,
    note: DrillNote,
    rotates: bool,
) -> Result<(), ServiceError> {
    let last = note.databases.last().filter(|_| rotates).cloned();
    let databases = note.databases.into_iter().take(NOTED).collect();
    let note = DrillNote { databases, ..note };
    Record::change(vault, server, |record| {
        if let Some(last) = &last {
            record.drill.last_database = Some(last.clone());
        }
        record.drill.last = Some(note.clone());
    })
}

/// The report of a database that could not be restored, with what is known of it.
fn not_restored(database: &str, error: &RestoreError) -> DrillReport {
    let mut drilled = DrillReport::not_restored(database, chain(error));
    if let Some(report) = error.report() {
        drilled.roles_created.clone_from(&report.roles.created);
        drilled.restore_seconds = report.duration_seconds;
        for one in &report.databases {
            drilled.refused.extend(one.failures.iter().cloned());
            drilled.skipped.extend(one.skipped.iter().cloned());
        }
    }
    drilled
}
