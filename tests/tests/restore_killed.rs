//! A restore that is killed, cut off or told to stop, and then continued: nothing is there twice,
//! and nothing is missing.

mod restoring;
mod vaulted;

use std::time::{Duration, Instant};

use flexkeep_tests::{
    Running, Server, Version, flexkeep_command, load_everything, pg_command, rounds,
};
use restoring::{LIMIT, database, ends, restore, restore_as};
use serde_json::Value;
use vaulted::{Vaulted, assert_same, assert_same_on};

/// Rows in several parts of two tables, with keys between them, and triggers that count.
const ROWS: &str = "
    CREATE TABLE large (id integer, a text, b integer);
    INSERT INTO large SELECT i, repeat(md5(i::text), 8), i % 100 FROM generate_series(1, 500000) i;
    ALTER TABLE large ADD PRIMARY KEY (id);
    CREATE INDEX ON large (b);
    CREATE TABLE child (id integer, note text);
    INSERT INTO child SELECT i, repeat('x', 300) FROM generate_series(1, 250000) i;
    ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES large;
    CREATE TABLE seen (n bigint);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO seen VALUES (1); RETURN NEW; END $$;
    CREATE TRIGGER see BEFORE INSERT ON child FOR EACH STATEMENT EXECUTE FUNCTION see();
    SELECT count(lo_from_bytea(1000 + i, convert_to('object ' || i, 'UTF8')))
      FROM generate_series(1, 5000) i;";

struct Scene {
    original: Server,
    copy: Server,
    vaulted: Vaulted,
}

const CHOICE: [&str; 4] = ["--database", "rows", "--database", "everything"];

impl Scene {
    fn new() -> Self {
        let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
        load_everything(&original);
        original.create_database("rows");
        original.psql("rows", ROWS);
        let vaulted = Vaulted::new();
        vaulted.backup(&original, Version::V18);
        Self { original, copy, vaulted }
    }

    fn start(&self, more: &[&str]) -> Running {
        let options = [&CHOICE[..], more].concat();
        Running::start(&mut restore(&self.vaulted.vault(), &self.copy, &options))
    }

    #[track_caller]
    fn end(&self, code: i32, more: &[&str]) -> Value {
        let options = [&CHOICE[..], more].concat();
        ends(code, &mut restore(&self.vaulted.vault(), &self.copy, &options))
    }

    #[track_caller]
    fn is_whole(&self) {
        for database in ["rows", "everything"] {
            assert_same_on(&self.original, &self.copy, database);
        }
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flexkeep_restore'";
        assert_eq!(self.copy.psql("rows", left), "0");
    }

    fn drop_all(&self) {
        self.copy.psql("postgres", "DROP DATABASE IF EXISTS rows WITH (FORCE)");
        let exists = "SELECT count(*) FROM pg_database WHERE datname = 'everything'";
        if self.copy.psql("postgres", exists) == "1" {
            self.copy.psql("everything", "DROP SUBSCRIPTION IF EXISTS from_far");
        }
        self.copy.psql("postgres", "DROP DATABASE IF EXISTS everything WITH (FORCE)");
    }
}

/// Waits for a moment, or until the command ends; whether it still runs.
fn runs_after(running: &mut Running, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if !running.is_running() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.is_running()
}

#[test]
fn a_restore_that_is_killed_again_and_again_ends_whole() {
    let scene = Scene::new();
    let started = Instant::now();
    scene.end(0, &[]);
    let whole = started.elapsed();
    scene.is_whole();
    let mut kills = 0;
    let rounds = rounds(1);
    // A few kills in one restore, each later than the one before; then with other moments.
    for round in 0..rounds {
        scene.drop_all();
        let mut done = false;
        for step in 1..=6_u32 {
            let more: &[&str] = if step == 1 { &[] } else { &["--continue"] };
            let mut running = scene.start(more);
            let time = whole * (step * 3 + round % 3) / 22;
            if !runs_after(&mut running, time) {
                let out = running.finish(LIMIT);
                assert_eq!(out.code(), Some(0), "{}", out.errors());
                done = true;
                break;
            }
            running.kill_nine();
            drop(running);
            kills += 1;
        }
        if !done {
            scene.end(0, &["--continue"]);
        }
        scene.is_whole();
    }
    assert!(kills >= 2 * rounds, "only {kills} kills");
    let document = scene.end(1, &["--continue"]);
    let text = document.to_string();
    assert!(text.contains("there is nothing to continue"), "{text}");
}

/// The server goes on with a statement whose client was killed.
#[test]
fn a_database_that_a_killed_restore_still_makes_is_waited_for() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("rows");
    original.psql("rows", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    let session = |sql: &str| {
        let mut command = pg_command("psql", Version::V18);
        let name = " application_name='flexkeep restore'";
        command.args(["-Xqc", sql, "-d"]).arg(copy.conninfo("postgres") + name);
        Running::start(&mut command)
    };
    let holder = session("BEGIN; LOCK TABLE pg_database IN SHARE MODE; SELECT pg_sleep(4); COMMIT");
    let is_there = |what: &str| {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {what}");
        let until = Instant::now() + Duration::from_secs(30);
        while copy.psql("postgres", &sql) != "1" {
            assert!(Instant::now() < until, "no session: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    is_there("wait_event = 'PgSleep'");
    let making = session("CREATE DATABASE rows TEMPLATE template0");
    is_there("query LIKE 'CREATE DATABASE%' AND wait_event_type = 'Lock'");
    let options = ["--continue", "--database", "rows"];
    ends(0, &mut restore(&vaulted.vault(), &copy, &options));
    assert_same_on(&original, &copy, "rows");
    assert_eq!(making.finish(LIMIT).code(), Some(0));
    holder.finish(LIMIT);
}

#[test]
fn a_restore_that_is_told_to_stop_says_what_is_there_and_goes_on() {
    let scene = Scene::new();
    let mut running = scene.start(&[]);
    // As soon as there are rows.
    let until = Instant::now() + Duration::from_secs(60);
    let begun = "SELECT count(*) FROM pg_database WHERE datname = 'rows'";
    while scene.copy.psql("postgres", begun) == "0" && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(running.is_running());
    running.terminate();
    let out = running.finish(Duration::from_secs(60));
    assert_eq!(out.code(), Some(130), "{}", out.errors());
    let document: Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
    assert_eq!(document["details"]["status"], "incomplete", "{document:#}");
    assert_eq!(database(&document["details"], "rows")["status"], "incomplete", "{document:#}");

    // Without --continue it is refused, with other options too.
    let text = scene.end(1, &[]).to_string();
    assert!(text.contains("continue it (--continue)"), "{text}");
    let text = scene.end(1, &["--continue", "--no-acl"]).to_string();
    assert!(text.contains("the journal of another restore"), "{text}");
    scene.end(0, &["--continue"]);
    scene.is_whole();
}

#[test]
fn a_target_that_crashes_in_the_middle_is_survived_or_continued() {
    let mut scene = Scene::new();
    let mut running = scene.start(&[]);
    let until = Instant::now() + Duration::from_secs(60);
    let begun = "SELECT count(*) FROM pg_database WHERE datname = 'rows'";
    while scene.copy.psql("postgres", begun) == "0" && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    runs_after(&mut running, Duration::from_millis(300));
    scene.copy.kill_nine();
    scene.copy.start_again();
    let out = running.finish(LIMIT);
    let code = out.code();
    assert!(matches!(code, Some(0 | 1)), "{}", out.errors());
    if code == Some(1) {
        scene.end(0, &["--continue"]);
    }
    scene.is_whole();
}

/// Rows that stop on the target only, where `gates` says so.
const GATED: &str = "
    CREATE FUNCTION gate(gate integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
      IF current_setting('application_name') = 'flexkeep restore' THEN
        WHILE EXISTS (SELECT FROM public.gates WHERE n = gate) LOOP
          PERFORM pg_sleep(0.02);
        END LOOP;
      END IF;
      RETURN true;
    END $$;
    CREATE UNLOGGED TABLE large (id integer, a text, CHECK (id <> 105000 OR gate(1)));
    INSERT INTO large SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 110000) i;
    CREATE INDEX ON large (id);
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE hashed (m mood, i integer) PARTITION BY HASH (m);
    CREATE UNLOGGED TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE UNLOGGED TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO hashed SELECT (enum_range(NULL::mood))[1 + i % 3], i FROM generate_series(1, 300) i;
    CREATE TABLE first AS SELECT i FROM generate_series(1, 1000) i;
    CREATE TABLE second AS SELECT i FROM generate_series(1, 900) i;
    ALTER TABLE second ADD PRIMARY KEY (i);
    CREATE TABLE last (id integer CHECK (gate(2)));
    INSERT INTO last VALUES (1);";

/// A crash takes the commits that were not on the disk yet, and empties unlogged tables.
#[test]
fn what_a_crash_of_the_target_took_is_made_again_by_the_same_restore() {
    let original = Server::start(Version::V18);
    let slow_to_flush =
        ["wal_writer_delay = 10s", "wal_writer_flush_after = 1GB", "autovacuum = off"];
    let options = slow_to_flush.iter().fold(Server::options(Version::V18), |o, line| o.conf(line));
    let mut copy = options.start();
    original.create_database("gated");
    original.psql("gated", GATED);
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    copy.create_database("gated");
    let flushed = |copy: &Server, sql: &str| {
        copy.psql("gated", &format!("SET synchronous_commit = on; {sql}"));
    };
    flushed(&copy, "CREATE TABLE gates (n integer); INSERT INTO gates VALUES (1), (2)");

    let mut command = flexkeep_command(&["restore", "source/latest", "--json", "--lanes", "1"]);
    command.args(["--database", "gated", "--into-existing", "--into", &copy.conninfo("gated")]);
    let running = Running::start(command.arg("--vault").arg(vaulted.vault()));
    let stands_at = |copy: &Server, table: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE wait_event = 'PgSleep' AND query LIKE 'COPY public.{table} %'"
        );
        let until = Instant::now() + Duration::from_secs(60);
        while copy.psql("gated", &sql) != "1" {
            assert!(Instant::now() < until, "it never came to {table}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // In the second part of a table: the journal has the first for good, and the crash empties it.
    stands_at(&copy, "large");
    flushed(&copy, "CREATE TABLE a_flush ()");
    copy.kill_nine();
    copy.start_again();
    flushed(&copy, "DELETE FROM gates WHERE n = 1");
    // All that was loaded since is not on the disk.
    stands_at(&copy, "last");
    copy.kill_nine();
    copy.start_again();
    flushed(&copy, "DELETE FROM gates");
    let out = running.finish(LIMIT);
    assert_eq!(out.code(), Some(0), "{}", out.errors());
    copy.psql("gated", "DROP TABLE gates, a_flush");
    assert_same(&original, "gated", &copy, "gated");
}

#[test]
fn a_database_into_which_somebody_restores_is_not_dropped() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    for server in [&original, &copy] {
        server.create_database("rows");
    }
    original.psql("rows", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    // As a restore does that goes on for three more seconds.
    let mut session = pg_command("psql", Version::V18);
    let name = " application_name='flexkeep restore'";
    let lock = "SELECT pg_advisory_lock(x'666b726573746f72'::bigint)";
    session.args(["-Xq", "-c", lock, "-c", "SELECT pg_sleep(3)", "-d"]);
    let holder = Running::start(session.arg(copy.conninfo("rows") + name));
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let until = Instant::now() + Duration::from_secs(30);
    while copy.psql("postgres", asleep) != "1" {
        assert!(Instant::now() < until, "no session");
        std::thread::sleep(Duration::from_millis(10));
    }
    ends(0, &mut restore(&vaulted.vault(), &copy, &["--database", "rows", "--clean"]));
    let held = holder.finish(LIMIT);
    assert_eq!(held.code(), Some(0), "the other one was ended: {}", held.errors());
    assert_same_on(&original, &copy, "rows");
}

/// Rows that stop on the target only, as long as `gates` has one.
const HELD: &str = "
    CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
      IF current_setting('application_name') = 'flexkeep restore' THEN
        WHILE EXISTS (SELECT FROM public.gates) LOOP
          PERFORM pg_sleep(0.02);
        END LOOP;
      END IF;
      RETURN true;
    END $$;
    CREATE TABLE held (i integer CHECK (gate()));
    INSERT INTO held VALUES (1);";

/// Its sessions are those of the user who logged in, whatever role they take. One that lives is not
/// disturbed, and does not end one that waits for it.
#[test]
fn a_killed_restore_is_ended_in_any_role_and_one_that_waits_is_not() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("held");
    original.psql("held", HELD);
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    copy.psql("postgres", "CREATE ROLE crew; CREATE ROLE carol LOGIN IN ROLE crew");
    copy.create_database("held");
    copy.psql("postgres", "ALTER DATABASE held OWNER TO crew");
    copy.psql("held", "CREATE TABLE gates AS SELECT 1 AS n; GRANT SELECT ON gates TO PUBLIC");
    let carol = copy.conninfo_as("carol", None, "postgres") + " options='-c role=crew'";
    let command = |more: &[&str]| {
        let choice = ["--database", "held", "--no-roles", "--no-owner", "--no-acl"];
        restore_as(&vaulted.vault(), &carol, &[&choice[..], more].concat())
    };
    let pid_of = |what: &str| {
        let sql = format!("SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE {what}");
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let pid = copy.psql("postgres", &sql);
            if pid != "0" {
                return pid;
            }
            assert!(Instant::now() < until, "no session: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let at_the_gate = "query LIKE 'COPY public.held %' AND wait_event = 'PgSleep'";
    let first = Running::start(&mut command(&["--into-existing"]));
    let old = pid_of(at_the_gate);
    first.kill_nine();
    drop(first);
    let mut second = Running::start(&mut command(&["--continue"]));
    pid_of(&format!("{at_the_gate} AND pid <> {old}"));
    let left =
        copy.psql("held", &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {old}"));
    assert_eq!(left, "0", "the killed one's session is still there");

    ends(5, &mut command(&["--continue"]));
    assert!(second.is_running(), "the other one was ended");
    let waiting = Running::start(&mut command(&["--continue"]));
    pid_of(
        "datname = 'held' AND application_name = 'flexkeep restore, looking' \
         AND wait_event = 'ClientRead' AND usename = 'carol' AND query LIKE '%advisory_lock%'",
    );
    copy.psql("held", "DELETE FROM gates");
    let out = second.finish(LIMIT);
    assert_eq!(out.code(), Some(0), "{}", out.errors());
    let out = waiting.finish(LIMIT);
    assert_eq!(out.code(), Some(1), "{}", out.errors());
    assert!(out.text().contains("there is nothing to continue"), "{}", out.text());
    assert_eq!(copy.psql("held", "SELECT count(*) FROM held"), "1");
}

#[test]
fn a_target_that_falls_silent_is_given_up_in_time() {
    let scene = Scene::new();
    let mut running = scene.start(&["--stall-timeout", "3s"]);
    let until = Instant::now() + Duration::from_secs(60);
    let begun = "SELECT count(*) FROM pg_database WHERE datname = 'rows'";
    while scene.copy.psql("postgres", begun) == "0" && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    runs_after(&mut running, Duration::from_millis(200));
    scene.copy.pause();
    let out = running.finish(Duration::from_secs(240));
    scene.copy.resume();
    assert_eq!(out.code(), Some(1), "{}", out.errors());
    scene.end(0, &["--continue"]);
    scene.is_whole();
}

#[test]
fn a_damaged_chunk_is_named_and_the_rest_is_loaded() {
    let scene = Scene::new();
    let chunks = {
        let mut files = Vec::new();
        let mut folders = vec![scene.vaulted.vault().join("chunks")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder of the vault").flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort_by_key(|path| std::fs::metadata(path).expect("a file of the vault").len());
        files
    };
    // The largest one holds rows of `app.huge`.
    let victim = chunks.last().expect("there are chunks");
    let whole = std::fs::read(victim).expect("a chunk");
    let mut hurt = whole.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 0xff;
    std::fs::write(victim, &hurt).expect("our own vault");
    let name = victim.file_name().expect("a name").to_string_lossy().into_owned();

    let document = scene.end(4, &["--verify"]);
    let error = document["error"].as_str().expect("a text");
    assert!(error.contains(&name) && error.contains("app.huge"), "{error}");
    let exists = "SELECT count(*) FROM pg_database WHERE datname IN ('rows', 'everything')";
    assert_eq!(
        scene.copy.psql("postgres", exists),
        "0",
        "nothing is written before all is verified"
    );

    let document = scene.end(4, &[]);
    let error = document["error"].as_str().expect("a text");
    assert!(error.contains(&name) && error.contains("app.huge"), "{error}");
    let report = &document["details"];
    assert_eq!(report["status"], "incomplete");
    assert_eq!(database(report, "everything")["status"], "incomplete");
    assert_eq!(database(report, "rows")["status"], "complete");

    // A chunk that is not there at all is told in the same way.
    std::fs::remove_file(victim).expect("our own vault");
    for more in [&["--continue", "--verify"][..], &["--continue"]] {
        let error = scene.end(4, more)["error"].to_string();
        assert!(error.contains(&name) && error.contains("app.huge"), "{error}");
    }

    // Once the chunk is whole again, the rest comes; triggers had not been made before the rows.
    std::fs::write(victim, &whole).expect("our own vault");
    scene.end(0, &["--continue"]);
    scene.is_whole();
}
