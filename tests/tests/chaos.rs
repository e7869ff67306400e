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

use checks::Bounds;
use flexkeep_tests::{Server, Version, wait_for};
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

/// A check that cannot fail proves nothing: each change that no single state has is found.
#[test]
fn a_copy_that_is_of_no_single_state_is_found_out() {
    let server = Server::start(Version::V17);
    load::create_tables(&server);
    ddl::create_tables(&server);
    let mut rng = fastrand::Rng::with_seed(SHORT_SEED);
    let mut load = load::Load::start(&server, &mut rng);
    let tally = ddl::start(&mut load, &mut rng);
    let changed = || tally.lock().expect("no thread died").values().map(|(done, _)| *done).sum();
    wait_for("some commits and changes", Duration::from_secs(60), || {
        let changes: u32 = changed();
        (load.told().iter().all(|&commits| commits > 20) && changes > 20).then_some(())
    });
    load.stop();
    server.psql(
        "bank",
        "CREATE TABLE made_7 AS SELECT 1 AS id; INSERT INTO made_register VALUES ('made_7', 1)",
    );
    let bounds = Bounds { at_least: load.told(), at_most: load.begun() };
    assert_eq!(checks::wrong_with(&server, "bank", &bounds), Vec::<String>::new());
    for (sql, found) in [
        ("UPDATE accounts SET balance = balance + 1 WHERE id = 7", "money"),
        ("DELETE FROM log_b WHERE writer = 1 AND seq = 5", "log_a and log_b"),
        ("DELETE FROM log_c WHERE writer = 0 AND seq = 9", "log_a and log_c"),
        ("UPDATE log_a SET seen = '{9999,0,0}' WHERE writer = 0 AND seq = 3", "one after them"),
        ("UPDATE pad_6 SET stamp = stamp + 1", "stamps"),
        ("DELETE FROM pad_9 WHERE id = 1", "stamps"),
        ("TRUNCATE refilled", "emptied"),
        ("UPDATE reshaped SET extra = NULL", "other columns"),
        ("UPDATE swap_a SET content = 3 - content", "another name"),
        ("DROP TABLE made_7", "without their register"),
        ("TRUNCATE made_7", "made_7 has 0 rows"),
        (
            "DELETE FROM log_a WHERE writer = 2; DELETE FROM log_b WHERE writer = 2; \
          DELETE FROM log_c WHERE writer = 2",
            "writer 2 ends with 0",
        ),
    ] {
        // A copy of the database for each, as a transaction would end with the session.
        server.psql("postgres", "DROP DATABASE IF EXISTS damaged");
        server.psql("postgres", "CREATE DATABASE damaged TEMPLATE bank");
        server.psql("damaged", sql);
        let wrong = checks::wrong_with(&server, "damaged", &bounds);
        assert!(wrong.iter().any(|what| what.contains(found)), "{sql}: {wrong:#?}");
    }
}
