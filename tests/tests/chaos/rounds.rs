//! Backups, one after the other, until the time is over.

use std::time::{Duration, Instant};

use flexkeep_tests::{json, run};

use crate::calamities::kills;
use crate::checks::{self, Bounds};
use crate::diary::say;
use crate::survivors::Blow;
use crate::world::{LANES, World};

/// How long a backup may go on after the last thing that happened to it.
const END_LIMIT: Duration = Duration::from_secs(180);

/// How long a restore may take, and other commands.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// How long after the last thing that happened sessions are counted: those of the dead are gone.
const QUIET: Duration = Duration::from_secs(3);

/// How long a kill waits for a moment when both have the snapshot that is at work.
const SHARED_LIMIT: Duration = Duration::from_secs(4);

/// How much longer a world may live than it was told, until there were enough kills.
const MORE_TIME: Duration = Duration::from_secs(120);

/// When requests say they were made: an id makes each of them one of its own.
const REQUESTED: &str = "2026-11-22T01:00:00Z";

/// A request, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) request: String,
    /// The backup, or why there is none.
    pub(crate) end: Result<String, String>,
}

impl World {
    /// Lives until the goal is reached, and proves what must hold.
    pub(crate) fn live(mut self) {
        let mut told = Instant::now();
        while !self.is_reached() {
            self.round(true);
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                say(&format!("chaos: {}", self.summary()));
            }
        }
        // What somebody wrote late, and was killed before he could clear it away, goes with the next
        // backup.
        self.round(false);
        self.end();
        let summary = self.summary();
        self.diary.write(&format!("seed-{}", self.terms.seed), &summary);
        say(&format!("chaos: passed, {summary}"));
        let sealed = self.asked.iter().filter(|asked| asked.end.is_ok()).count();
        assert!(sealed * 2 > self.asked.len(), "few backups were sealed: {:#?}", self.asked);
    }

    fn is_reached(&self) -> bool {
        if self.terms.only_kills {
            return self.diary.counted("survived") >= self.goal.kills;
        }
        let enough = kills(self) >= self.goal.kills;
        assert!(
            enough || self.began.elapsed() < self.goal.time + MORE_TIME,
            "{} kills in {:?} are too few",
            kills(self),
            self.began.elapsed()
        );
        enough && self.began.elapsed() >= self.goal.time
    }

    /// Whether there were fewer kills than there should be by now.
    pub(crate) fn lacks_kills(&self) -> bool {
        let part = self.began.elapsed().as_secs_f64() / self.goal.time.as_secs_f64().max(1.0);
        f64::from(kills(self)) < f64::from(self.goal.kills) * part.min(1.0)
    }

    fn summary(&self) -> String {
        let sealed = self.asked.iter().filter(|asked| asked.end.is_ok()).count();
        let tally = self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ddl: Vec<String> =
            tally.iter().map(|(name, (done, not))| format!("{name} {done} (not {not})")).collect();
        format!(
            "seed {}: {} s, {} backups sealed and restored, {} given up; {} kills; {}; \
             commits {:?}; {}",
            self.terms.seed,
            self.began.elapsed().as_secs(),
            sealed,
            self.asked.len() - sealed,
            kills(self),
            self.diary.counts_of(""),
            self.load.told(),
            ddl.join(", ")
        )
    }

    /// One backup, what happens to it unless it has its peace, and its restore.
    fn round(&mut self, strikes: bool) {
        let request = format!("src/round-{}", self.asked.len());
        let at_least = self.load.told();
        let body = format!(
            "{{\"version\":1,\"server\":\"src\",\"request\":\"{request}\",\
             \"requested\":\"{REQUESTED}\"}}"
        );
        self.diary.note(&format!("{request} is asked for"));
        self.apps[0].send(&request, &body);
        let most = match (strikes, self.terms.only_kills) {
            (false, _) => 0,
            (true, true) => 6,
            (true, false) => 8,
        };
        let strikes = self.rng.u32(most.min(2)..=most);
        let before = self.diary.counts.clone();
        let (end, excused) = self.wait_while_things_happen(&request, strikes);
        let at_most = self.load.begun();
        self.diary.note(&format!("{request} has ended: {end:?}"));
        self.asked.push(Asked { request: request.clone(), end: end.clone() });
        // Nothing asks the server while it is paused.
        self.tend_while(|world| world.server_paused_until.is_some());
        match end {
            Ok(backup) => {
                self.expect_one_state(&backup, &Bounds { at_least, at_most });
                if self.terms.only_kills && !excused {
                    self.expect_no_new_attempt(&backup);
                }
            }
            Err(why) => {
                assert!(!self.terms.only_kills, "given up: {why}");
                let happened =
                    |kind: &str| self.diary.counted(kind) > before.get(kind).copied().unwrap_or(0);
                assert!(
                    is_explained(&why, happened),
                    "{request} is given up without a reason: {why}"
                );
                self.diary.count("given up");
            }
        }
        let pause = Instant::now() + Duration::from_millis(self.rng.u64(0..2500));
        self.tend_while(|_| Instant::now() < pause);
    }

    fn tend_while(&mut self, condition: impl Fn(&Self) -> bool) {
        loop {
            self.tend();
            if !condition(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets things happen to a backup until it has ended; whether a new snapshot was needed.
    fn wait_while_things_happen(
        &mut self,
        request: &str,
        mut strikes: u32,
    ) -> (Result<String, String>, bool) {
        let mut next = Instant::now() + Duration::from_millis(self.rng.u64(100..3000));
        let mut last = Instant::now();
        let mut excused = false;
        let pauses = self.pauses();
        let mut counted = Instant::now();
        loop {
            self.tend();
            if last.elapsed() > QUIET && counted.elapsed() > QUIET && self.pauses() == pauses {
                counted = Instant::now();
                self.expect_few_sessions();
            }
            if let Some(end) = self.end_of(request) {
                return (end, excused);
            }
            let is_time = strikes > 0 && Instant::now() >= next;
            if is_time && (next.elapsed() > SHARED_LIMIT || self.is_a_good_moment()) {
                strikes -= 1;
                if self.terms.only_kills {
                    excused |= self.kill_one() == Some(Blow::Lost);
                } else {
                    self.strike();
                }
                next = Instant::now() + Duration::from_millis(self.rng.u64(200..3000));
                last = Instant::now();
            }
            if self.is_disturbed() {
                last = Instant::now();
            }
            assert!(
                last.elapsed() < END_LIMIT,
                "{request} has not ended within {END_LIMIT:?} after the last thing happened to it"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether something may happen now: in a world of kills, when both hold the snapshot, as a kill
    /// shows little else.
    fn is_a_good_moment(&self) -> bool {
        !self.terms.only_kills || self.is_shared()
    }

    /// How often somebody was paused: his lanes are doubled then, and may stay so for a while.
    fn pauses(&self) -> u32 {
        let kinds = ["pause handler", "pause host", "pause server", "pause store"];
        kinds.iter().map(|kind| self.diary.counted(kind)).sum()
    }

    /// No more sessions of lanes than lanes, and one: those with a lane's place or a snapshot
    /// (docs/relay.md: the keys of their locks).
    fn expect_few_sessions(&mut self) {
        let sql = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                   AND objsubid = 2 AND (objid = 0 OR objid >= 16)";
        // It may be recovering.
        let out = self.server.try_psql("postgres", sql);
        if let Ok(count) = out.text().trim().parse::<u32>() {
            assert!(count <= LANES + 1, "{count} sessions of {LANES} lanes");
            self.diary.count("sessions counted");
        }
    }

    /// How a request has ended, if it has.
    fn end_of(&self, request: &str) -> Option<Result<String, String>> {
        let (completed, failed) = (format!("{request}/completed"), format!("{request}/failed"));
        self.apps[0].events().iter().find_map(|event| {
            let text = |field: &str| event["data"][field].as_str().unwrap_or_default().to_owned();
            let id = event["id"].as_str()?;
            if id == completed {
                return Some(Ok(text("backup")));
            }
            (id == failed).then(|| Err(text("why")))
        })
    }

    /// Restores a backup into the other server, and proves that it is one state that was.
    fn expect_one_state(&mut self, backup: &str, bounds: &Bounds) {
        let into = self.copy.conninfo("postgres");
        let arguments = [
            "restore",
            backup,
            "--into",
            &into,
            "--database",
            "bank",
            "--database",
            "zoo",
            "--no-roles",
        ];
        run(&mut self.flexkeep(&arguments), COMMAND_LIMIT).expect_success();
        let wrong = checks::wrong_with(&self.copy, "bank", bounds);
        assert!(wrong.is_empty(), "{backup} is of no single state: {wrong:#?}");
        let animals = self.copy.psql("zoo", "SELECT count(*) FROM animals");
        assert_eq!(animals.trim(), "100", "{backup}");
        self.copy.psql("postgres", "DROP DATABASE bank");
        self.copy.psql("postgres", "DROP DATABASE zoo");
    }

    /// A snapshot that somebody held all the time is not taken anew.
    fn expect_no_new_attempt(&mut self, backup: &str) {
        let shown = json(
            &run(&mut self.flexkeep(&["show", "--json", backup]), COMMAND_LIMIT).expect_success(),
        );
        let databases = shown["manifest"]["databases"].as_array().expect("databases").clone();
        for database in &databases {
            assert_eq!(
                database["attempts"], 1,
                "{backup}: a lane of each database lived, and {} was read anew",
                database["name"]
            );
        }
        self.diary.count("backups of one attempt");
    }
}

/// Whether what happened explains why a backup was given up: each snapshot that it was allowed was
/// lost (to a calamity, or to a change of a table that nobody had locked), or one try after the other
/// met a server or a store that was away, or a worker that died.
fn is_explained(why: &str, happened: impl Fn(&str) -> bool) -> bool {
    let any = |kinds: &[&str]| kinds.iter().any(|kind| happened(kind));
    let server = ["kill server", "stop server at once", "pause server", "kill backend"];
    let store = ["store faults", "store refuses", "pause store"];
    let worker = ["kill handler", "kill host", "pause handler", "pause host"];
    why.contains("snapshots were lost")
        || (why.contains("given up after")
            && ((why.contains("cannot connect") && any(&server))
                || (why.contains("temporarily unavailable") && any(&store))
                || (why.contains("without an answer") && any(&worker))))
}
