//! Kindness to a server whose connections are nearly all taken: lanes but one stay away from it.

use std::time::Duration;

use flexkeep_pg_copy::Connection;
use jiff::{SignedDuration, Timestamp};

use super::lane::Member;
use super::sign::{is_fresh, lane_signs};
use crate::error::BackupError;
use crate::session;

/// How often a lane at work looks whether the server has connections left for others.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long a lane but the first leaves a new run to the others.
const BEGINNING: SignedDuration = SignedDuration::from_secs(60);

/// Connections that an ordinary user may still open. Those of other users are seen without rights
/// too, but not what kind they are: background processes have no database.
pub(crate) fn free_connections(
    connection: &mut Connection,
    database: &str,
) -> Result<i64, BackupError> {
    const SQL: &str = "SELECT pg_catalog.current_setting('max_connections')::int \
         - pg_catalog.current_setting('superuser_reserved_connections')::int \
         - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) \
         - (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid IS NOT NULL \
            AND coalesce(a.backend_type, 'client backend') = 'client backend')";
    let rows = session::rows(connection, database, "counting the server's connections", SQL)?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no count".to_owned()))?;
    session::number(row, 0, "connections")
}

/// Whether the server refused a connection because it, the database or the role has too many.
pub(crate) fn is_full(error: &BackupError) -> bool {
    matches!(error, BackupError::Connect { source, .. } if source.sqlstate() == Some("53300"))
}

impl Member<'_> {
    /// Why this lane has to leave the server to others, now that it has a connection; `None` when
    /// it may work. `is_extra`: the one before it goes soon.
    pub(super) fn has_no_room(
        &self,
        connection: &mut Connection,
        database: &str,
        is_extra: bool,
    ) -> Result<Option<String>, BackupError> {
        if self.kept_free() == 0 || !self.may_be_spared()? {
            return Ok(None);
        }
        let free = free_connections(connection, database)?;
        Ok((free + i64::from(is_extra) < self.kept_free()).then(|| self.near_the_limit(free)))
    }

    /// The same for a lane at work: of all, the last one goes.
    pub(super) fn should_make_room(
        &self,
        connection: &mut Connection,
        database: &str,
    ) -> Result<Option<String>, BackupError> {
        if self.kept_free() == 0 || !self.may_be_spared()? || self.working_lanes()?.after > 0 {
            return Ok(None);
        }
        let free = free_connections(connection, database)?;
        Ok((free < self.kept_free()).then(|| self.near_the_limit(free)))
    }

    /// Whether the run goes on without this lane: there is the first one, or another one instead.
    pub(super) fn may_be_spared(&self) -> Result<bool, BackupError> {
        if self.lane.lane == 0 {
            return Ok(false);
        }
        if self.working_lanes()?.others > 0 {
            return Ok(true);
        }
        let record = self.objects.vault.run(&self.objects.server, &self.objects.run)?;
        let started = record.ok_or(BackupError::RunOver)?.started;
        Ok(Timestamp::now().duration_since(started) < BEGINNING)
    }

    fn working_lanes(&self) -> Result<Others, BackupError> {
        let objects = &self.objects;
        let signs = lane_signs(&objects.vault, &objects.server, &objects.run)?;
        let others: Vec<u32> = signs
            .iter()
            .filter(|sign| sign.on.is_some() && sign.resting.is_none() && is_fresh(sign))
            .map(|sign| sign.lane)
            .filter(|&lane| lane != self.lane.lane)
            .collect();
        let after = others.iter().filter(|&&lane| lane > self.lane.lane).count();
        Ok(Others { others: others.len(), after })
    }

    fn kept_free(&self) -> i64 {
        i64::from(self.options.backup.keep_connections_free)
    }

    fn near_the_limit(&self, free: i64) -> String {
        format!(
            "the server has {} connections left and {} are kept free for others; the backup goes \
             on with fewer lanes",
            free.max(0),
            self.kept_free()
        )
    }
}

/// Lanes at work besides this one.
struct Others {
    others: usize,
    /// Those with a higher number.
    after: usize,
}
