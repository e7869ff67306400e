//! A backup is one state of a database, whatever others do to it meanwhile.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_tests::{
    Output, Running, Server, TestVault, Version, json, pg_command, restore_archive, run,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(100);

/// The manifest of a backup that must have succeeded.
#[track_caller]
fn manifest(output: Output) -> Value {
    json(&output.expect_success())["manifest"].take()
}

/// Exports a backup and restores its database `shop` as a new one.
#[track_caller]
fn restore(vault: &TestVault, server: &Server, backup: &str, as_database: &str) {
    let folder = vault.beside(as_database);
    run(&mut vault.export(backup, &folder), LIMIT).expect_success();
    server.create_database(as_database);
    let archive: PathBuf = folder.join("shop.dump");
    restore_archive(server, as_database, server.version(), &archive, &[]);
}

/// psql in the background, running one statement in the database `shop`.
fn psql(server: &Server, sql: &str) -> Running {
    let mut command = pg_command("psql", server.version());
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]).arg(server.conninfo("shop"));
    Running::start(command.args(["-c", sql]))
}

/// Waits until a query gives `t`.
#[track_caller]
fn wait_for(server: &Server, condition: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while server.psql("shop", &format!("SELECT {condition}")) != "t" {
        assert!(Instant::now() < end, "this did not come true: {condition}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn waits_for_lock(of: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
         WHERE NOT l.granted AND a.query LIKE '{of}')"
    )
}

/// A server with a database `shop`.
fn shop(sql: &str) -> Server {
    let server = Server::options(Version::V17)
        .conf("deadlock_timeout = '500ms'")
        .conf("autovacuum = off")
        .start();
    server.create_database("shop");
    server.psql("shop", sql);
    server
}

/// Rows that compress badly, so that a backup at a high level takes its time.
fn big_table(name: &str, rows: u32) -> String {
    format!(
        "CREATE TABLE {name} AS SELECT i, md5(i::text) || md5((i * 7)::text) || \
         md5((i * 13)::text) AS filler FROM generate_series(1, {rows}) i;"
    )
}

#[test]
fn balances_agree_after_a_backup_under_load() {
    let server = Server::start(Version::V17);
    server.create_database("shop");
    let mut init = pg_command("pgbench", Version::V17);
    init.args(["-i", "-q", "-s", "4"]).arg(server.conninfo("shop"));
    run(&mut init, LIMIT).expect_success();
    let mut load = pg_command("pgbench", Version::V17);
    load.args(["-n", "-c", "4", "-T", "90"]).arg(server.conninfo("shop"));
    let mut load = Running::start(&mut load);
    wait_for(&server, "(SELECT count(*) > 50 FROM pgbench_history)");

    let vault = TestVault::new();
    let mut backups = Vec::new();
    for lanes in ["3", "2", "3"] {
        let out = run(vault.backup(&server).args(["--lanes", lanes]), LIMIT);
        backups.push(manifest(out)["backup"].as_str().unwrap().to_owned());
    }
    assert!(load.is_running(), "the load ended before the backups did");
    drop(load);

    let mut histories = Vec::new();
    for (number, backup) in backups.iter().enumerate() {
        let copy = format!("copy{number}");
        restore(&vault, &server, backup, &copy);
        let sums = server.psql(
            &copy,
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
             (SELECT sum(tbalance) FROM pgbench_tellers), \
             (SELECT sum(bbalance) FROM pgbench_branches), \
             (SELECT sum(delta) FROM pgbench_history)",
        );
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "backup {backup} mixes states: {sums:?}");
        let rows = server.psql(&copy, "SELECT count(*) FROM pgbench_accounts");
        assert_eq!(rows, "400000", "rows of {backup}");
        histories.push(server.psql(&copy, "SELECT count(*) FROM pgbench_history"));
    }
    // Otherwise the load did nothing, and the sums prove nothing.
    let counts: Vec<u32> = histories.iter().map(|n| n.parse().unwrap()).collect();
    assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
}

/// Each table has this many rows in every committed state.
const ROWS: u32 = 3000;

/// What others do in a loop; each is one transaction that keeps [`ROWS`] rows in its table.
const CHANGES: [&str; 5] = [
    "BEGIN; TRUNCATE t0; INSERT INTO t0 SELECT i, i FROM generate_series(1, 3000) i; COMMIT;",
    "ALTER TABLE t1 ALTER v TYPE bigint; ALTER TABLE t1 ALTER v TYPE int;",
    "BEGIN; DROP TABLE IF EXISTS t2; \
     CREATE TABLE t2 AS SELECT i, i AS v FROM generate_series(1, 3000) i; COMMIT;",
    "CREATE OR REPLACE VIEW w AS SELECT * FROM t3; CREATE OR REPLACE FUNCTION f() RETURNS int \
     LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE IF NOT EXISTS s; \
     DROP VIEW w; DROP FUNCTION f(); DROP SEQUENCE s;",
    "BEGIN; CREATE TABLE n AS SELECT i, i AS v FROM generate_series(1, 3000) i; TRUNCATE t4; \
     INSERT INTO t4 SELECT i, i FROM generate_series(1, 3000) i; COMMIT; DROP TABLE n;",
];

#[test]
fn no_table_loses_its_rows_to_changes_of_definitions() {
    let tables: String = (0..5)
        .map(|n| {
            format!("CREATE TABLE t{n} AS SELECT i, i AS v FROM generate_series(1, {ROWS}) i;")
        })
        .collect();
    let server = shop(&(tables + &big_table("big", 300_000)));
    let vault = TestVault::new();
    let stop = AtomicBool::new(false);
    let (backups, done) = thread::scope(|scope| {
        let changers: Vec<_> = CHANGES
            .iter()
            .map(|sql| {
                let (server, stop) = (&server, &stop);
                scope.spawn(move || {
                    let mut done = 0_u32;
                    while !stop.load(Ordering::Relaxed) {
                        let sql = format!("SET lock_timeout = '1s';{sql}");
                        done += u32::from(server.try_psql("shop", &sql).code() == Some(0));
                        thread::sleep(Duration::from_millis(30));
                    }
                    done
                })
            })
            .collect();
        let outputs: Vec<Output> = (0..4)
            .map(|_| run(vault.backup(&server).args(["--lanes", "3", "--level", "9"]), LIMIT))
            .collect();
        stop.store(true, Ordering::Relaxed);
        let done: Vec<u32> = changers.into_iter().map(|c| c.join().unwrap()).collect();
        (outputs, done)
    });
    assert!(done.iter().all(|&n| n >= 2), "some changes hardly ever came through: {done:?}");
    for (number, output) in backups.into_iter().enumerate() {
        let copy = format!("copy{number}");
        let backup = manifest(output)["backup"].as_str().unwrap().to_owned();
        restore(&vault, &server, &backup, &copy);
        let counts = server.psql(
            &copy,
            "SELECT relname, (xpath('//c/text()', query_to_xml(format( \
               'SELECT count(*) AS c FROM %I', relname), false, true, '')))[1] \
             FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
             ORDER BY 1",
        );
        for table in ["t0", "t1", "t2", "t3", "t4"] {
            assert!(counts.lines().any(|l| l.starts_with(table)), "no {table} in {counts}");
        }
        for line in counts.lines() {
            let expected = if line.starts_with("big|") { 300_000 } else { ROWS };
            assert!(line.ends_with(&format!("|{expected}")), "backup {number}:\n{counts}");
        }
    }
}

/// REINDEX holds an index exclusively, and so the lanes that read its table; TRUNCATE stands in line
/// behind the leader's locks, and so the other lanes may not have theirs.
#[test]
fn what_a_lane_cannot_lock_is_left_to_the_leader_and_nobody_hangs_or_starves() {
    let tables: String = (0..6).map(|n| big_table(&format!("t{n}"), 3_000)).collect();
    let server =
        shop(&(tables + &big_table("big", 120_000) + "CREATE INDEX big_index ON big (i);"));
    let holder = psql(&server, "BEGIN; REINDEX INDEX big_index; SELECT pg_sleep(80)");
    wait_for(&server, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
    let vault = TestVault::new();
    let backup = Running::start(vault.backup(&server).args(["--lanes", "3"]));
    wait_for(
        &server,
        "(SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'flexkeep' \
          AND query LIKE 'COPY (%' AND wait_event_type = 'Lock')",
    );
    let truncates: Vec<Running> = (0..6)
        .map(|n| psql(&server, &format!("SET lock_timeout = '90s'; TRUNCATE t{n}")))
        .collect();
    let end = Instant::now() + Duration::from_secs(60);
    for said in ["canceling statement due to lock timeout", "could not obtain lock on relation"] {
        while !server.log().contains(said) {
            assert!(Instant::now() < end, "{said:?} was never said:\n{}", server.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
    server.psql(
        "shop",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    );
    drop(holder);
    let manifest = manifest(backup.finish(LIMIT));
    for truncate in truncates {
        truncate.finish(LIMIT).expect_success();
    }
    assert_eq!(manifest["databases"][1]["attempts"], 1, "{manifest:#}");
    restore(&vault, &server, "src/latest", "copy");
    assert_eq!(server.psql("copy", "SELECT count(*), sum(i) FROM big"), "120000|7200060000");
    for n in 0..6 {
        let count = |database| server.psql(database, &format!("SELECT count(*) FROM t{n}"));
        assert_eq!((count("copy"), count("shop")), ("3000".into(), "0".into()), "t{n}");
    }
}

/// No lock keeps anybody from renaming a schema, and a COPY finds its table by the newest names.
#[test]
fn schemas_that_change_places_while_tables_are_read_cost_one_attempt_and_mix_nothing() {
    let schema = |name| {
        format!(
            "CREATE SCHEMA {name}; CREATE TABLE {name}.t AS SELECT '{name}' AS v; \
             COMMENT ON TABLE {name}.t IS '{name}';"
        )
    };
    let tables = [schema("live"), schema("next"), big_table("big", 120_000)].concat();
    let server = shop(&(tables + "CREATE INDEX big_index ON big (i);"));
    let holder = psql(&server, "BEGIN; REINDEX INDEX big_index; SELECT pg_sleep(80)");
    wait_for(&server, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
    let vault = TestVault::new();
    let backup = Running::start(vault.backup(&server).args(["--lanes", "2"]));
    wait_for(&server, &waits_for_lock("COPY%"));
    server.psql(
        "shop",
        "BEGIN; ALTER SCHEMA live RENAME TO old; ALTER SCHEMA next RENAME TO live; \
         ALTER SCHEMA old RENAME TO next; COMMIT; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    );
    drop(holder);
    let manifest = manifest(backup.finish(LIMIT));
    assert_eq!(manifest["databases"][1]["attempts"], 2, "{manifest:#}");
    restore(&vault, &server, "src/latest", "copy");
    let what_is_in = |schema| {
        let table = format!("{schema}.t");
        server.psql("copy", &format!("SELECT v, obj_description('{table}'::regclass) FROM {table}"))
    };
    assert_eq!((what_is_in("live"), what_is_in("next")), ("next|next".into(), "live|live".into()));
}

#[test]
fn what_happens_while_the_first_lock_waits_is_seen_as_a_whole() {
    let server = shop(
        "CREATE TABLE a AS SELECT 1 AS v; CREATE TABLE z AS SELECT 1 AS v; \
         CREATE TABLE doomed AS SELECT 1 AS v;",
    );
    let vault = TestVault::new();
    let holder = psql(
        &server,
        "BEGIN; TRUNCATE z; INSERT INTO z VALUES (2); \
         SELECT pg_sleep(3); COMMIT",
    );
    wait_for(&server, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for(&server, &waits_for_lock("LOCK TABLE%"));
    server.psql("shop", "CREATE TABLE late AS SELECT 3 AS v; DROP TABLE doomed;");
    holder.finish(LIMIT).expect_success();
    let manifest = manifest(backup.finish(LIMIT));
    assert_eq!(manifest["databases"][1]["name"], "shop");
    restore(&vault, &server, "src/latest", "copy");
    let rows = server.psql("copy", "TABLE a; TABLE z; TABLE late; SELECT to_regclass('doomed')");
    assert_eq!(rows.lines().collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn a_truncate_in_front_of_pg_dump_costs_one_attempt_and_no_row() {
    let server = shop("CREATE TABLE a AS SELECT 1 AS v; CREATE TABLE z AS SELECT 1 AS v;");
    let vault = TestVault::new();
    let holder = psql(&server, "BEGIN; LOCK TABLE z; SELECT pg_sleep(3); COMMIT");
    wait_for(&server, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for(&server, &waits_for_lock("LOCK TABLE%"));
    let truncate = psql(
        &server,
        "SET lock_timeout = '60s'; BEGIN; TRUNCATE a; INSERT INTO a VALUES (2); COMMIT",
    );
    wait_for(&server, &waits_for_lock("%TRUNCATE a%"));
    holder.finish(LIMIT).expect_success();
    let manifest = manifest(backup.finish(LIMIT));
    truncate.finish(LIMIT).expect_success();
    assert_eq!(manifest["databases"][1]["attempts"], 2, "{manifest:#}");
    restore(&vault, &server, "src/latest", "copy");
    assert_eq!(server.psql("copy", "TABLE a"), "2");
}

#[test]
fn a_deadlock_with_somebody_elses_locks_is_survived() {
    let server = shop("CREATE TABLE a AS SELECT 1 AS v; CREATE TABLE b AS SELECT 2 AS v;");
    let vault = TestVault::new();
    let other = psql(&server, "BEGIN; LOCK TABLE b; SELECT pg_sleep(2); LOCK TABLE a; COMMIT");
    wait_for(&server, "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for(&server, &waits_for_lock("LOCK TABLE%"));
    manifest(backup.finish(LIMIT));
    other.finish(LIMIT);
    assert!(server.log().contains("deadlock detected"), "there was no deadlock");
    restore(&vault, &server, "src/latest", "copy");
    assert_eq!(server.psql("copy", "TABLE a; TABLE b"), "1\n2");
}
