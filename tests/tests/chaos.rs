//! Chaos as a program: backups one after the other by two function apps on one queue, while money
//! moves and tables are emptied, rewritten, renamed, made and dropped; and while handlers, hosts
//! and the database are killed or paused at random moments, connections cut, messages doubled and
//! the store fails.
//!
//! What must hold in the end: every sealed backup restores to one state that was; every request
//! ended, and ended once; nothing is left on the server, in the queues, in the run storage or among
//! the processes. Every choice comes from one seed, which is told; moments are not exact.
//!
//! `FLEXKEEP_SEED`, `FLEXKEEP_SOAK_SECONDS` and `FLEXKEEP_SOAK_ONLY` are for `scripts/soak.sh`.

#[path = "chaos/calamities.rs"]
mod calamities;
#[path = "chaos/checks.rs"]
mod checks;
#[path = "chaos/ddl.rs"]
mod ddl;
#[path = "chaos/diary.rs"]
mod diary;
#[path = "chaos/leaks.rs"]
mod leaks;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/rounds.rs"]
mod rounds;
#[path = "chaos/survivors.rs"]
mod survivors;
#[path = "chaos/terms.rs"]
mod terms;
#[path = "chaos/world.rs"]
mod world;

use std::time::{Duration, Instant};

use terms::{Goal, Terms};
use world::World;

/// The seed of the run that is part of `make test`.
const SHORT_SEED: u64 = 1;

/// How long that one goes on, and how many kills it has at least.
const SHORT: Duration = Duration::from_secs(180);
const SHORT_KILLS: u32 = 20;

/// The longest that one world lives in a soak: then another seed has its turn.
const WORLD: Duration = Duration::from_secs(600);

#[test]
fn three_minutes_of_chaos_leave_backups_of_one_state_and_nothing_else() {
    let goal = Goal { time: SHORT, kills: SHORT_KILLS };
    World::start(Terms::of(SHORT_SEED), goal).live();
}

#[test]
#[ignore = "as long as one likes; make soak runs it"]
fn soak() {
    let time = Duration::from_secs(terms::number("FLEXKEEP_SOAK_SECONDS").unwrap_or(1800));
    let first = terms::number("FLEXKEEP_SEED").unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let end = Instant::now() + time;
    if let Some(kills) = terms::only_kills() {
        World::start(Terms::only_kills(first), Goal { time: Duration::ZERO, kills }).live();
        return;
    }
    for seed in first.. {
        let left = end.saturating_duration_since(Instant::now());
        World::start(Terms::of(seed), Goal { time: left.min(WORLD), kills: 0 }).live();
        // A world that would hardly begin shows nothing.
        if end.saturating_duration_since(Instant::now()) < Duration::from_secs(60) {
            return;
        }
    }
}
