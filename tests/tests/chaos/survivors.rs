//! Kills in a world of kills alone: which of them another lane survived.

use std::time::{Duration, Instant};

use crate::calamities::Calamity;
use crate::world::{SESSIONS, World};

/// Which of two is killed, and how.
#[derive(Clone, Copy)]
struct Victim {
    app: usize,
    with_host: bool,
}

/// A session that holds a database's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HolderSession {
    app: String,
    database: u32,
    pid: i32,
}

/// What a kill was to the backup at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The one who was killed held snapshots, and somebody else held each of them all the time.
    Survived,
    /// Nobody else did: a new snapshot has to be taken.
    Lost,
    /// He held none.
    Idle,
}

impl World {
    /// Kills one of the two, while the other one runs. `None` if it does not.
    pub(crate) fn kill_one(&mut self) -> Option<Blow> {
        let victim = Victim { app: self.rng.usize(..2), with_host: self.rng.u32(0..3) == 0 };
        self.apps[1 - victim.app].live_handler()?;
        let before = self.holders();
        let kind = if victim.with_host {
            self.kill_app(victim.app);
            Calamity::KillHost
        } else {
            self.kill_handler(victim.app)?;
            Calamity::KillHandler
        };
        let after = self.holders();
        let blow = judge(&before, &after, SESSIONS[victim.app]);
        let name = SESSIONS[victim.app];
        self.count_it(kind, &format!("{name}, {blow:?}; {before:?} then {after:?}"));
        if victim.with_host {
            self.start_app(victim.app);
        }
        // Never both at once: it is up again before anything else happens.
        let until = Instant::now() + Duration::from_secs(30);
        while self.apps[victim.app].live_handler().is_none() && Instant::now() < until {
            self.tend();
            std::thread::sleep(Duration::from_millis(50));
        }
        if blow == Blow::Survived {
            self.diary.count("survived");
        }
        Some(blow)
    }

    /// Whether both hold a snapshot of the same database.
    pub(crate) fn is_shared(&self) -> bool {
        let holders = self.holders();
        let of = |app: usize| holders.iter().filter(move |one| one.app == SESSIONS[app]);
        of(0).any(|one| of(1).any(|other| other.database == one.database))
    }

    /// Sessions that hold a snapshot (docs/relay.md: its lock, key 0).
    fn holders(&self) -> Vec<HolderSession> {
        let sql = "SELECT a.application_name, l.database, a.pid FROM pg_locks l \
                   JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' \
                   AND l.granted AND l.objsubid = 2 AND l.objid = 0 \
                   AND a.application_name LIKE 'flexkeep%' ORDER BY 1, 2, 3";
        let rows = self.server.psql("postgres", sql);
        let parse = |line: &str| {
            let mut fields = line.split('|');
            let app = fields.next()?.to_owned();
            let database = fields.next()?.parse().ok()?;
            Some(HolderSession { app, database, pid: fields.next()?.parse().ok()? })
        };
        let mut holders: Vec<_> = rows.lines().filter_map(parse).collect();
        holders.dedup();
        holders
    }
}

fn judge(before: &[HolderSession], after: &[HolderSession], victim: &str) -> Blow {
    let mut blow = Blow::Idle;
    for held in before.iter().filter(|one| one.app == victim) {
        let mut others = before.iter().filter(|one| one.app != victim);
        if !others.any(|one| one.database == held.database && after.contains(one)) {
            return Blow::Lost;
        }
        blow = Blow::Survived;
    }
    blow
}
