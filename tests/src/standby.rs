//! A server that follows another one.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::server::as_postgres;
use crate::{Server, ServerOptions, pg_tool, run};

const LIMIT: Duration = Duration::from_secs(120);

impl Server {
    /// Starts a streaming replica of this server, made by stock `pg_basebackup`. It tells this one
    /// what it reads (`hot_standby_feedback`), as a replica that is dumped should.
    ///
    /// # Panics
    ///
    /// If the server has no client programs of its own version, or the replica does not come up.
    #[track_caller]
    pub fn standby(&self) -> Self {
        let mut options = self.options.clone();
        options.conf.push("hot_standby_feedback = on".into());
        options.primary = Some(self.conninfo("postgres"));
        options.start()
    }

    /// Waits until a replica has replayed all that is committed here.
    ///
    /// # Panics
    ///
    /// If that takes longer than two minutes.
    #[track_caller]
    pub fn wait_for_standby(&self, standby: &Self) {
        let end = self.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
        let until = Instant::now() + LIMIT;
        while standby.psql("postgres", &replayed) != "t" {
            assert!(Instant::now() < until, "not replayed in {LIMIT:?}:\n{}", standby.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Copies the primary's data directory, ready to follow it. The slot keeps what is not yet sent,
/// as these servers keep little.
#[track_caller]
pub(crate) fn copy_primary(options: &ServerOptions, primary: &str, data: &Path) {
    let mut command = as_postgres(&pg_tool("pg_basebackup", options.version));
    command
        .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--create-slot"])
        .args(["--slot=standby", "-d", primary, "-D"])
        .arg(data)
        .current_dir("/");
    run(&mut command, LIMIT).expect_success();
}
