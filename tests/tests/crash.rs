//! `flexkeep` killed or stopped at any point: the vault stays whole, the server stays free.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_tests::{Running, Server, TestVault, Version, json, restore_archive, rounds, run};

const LIMIT: Duration = Duration::from_secs(100);

/// Three databases: one of some size, one with many small things, one small.
fn server() -> Server {
    let server = Server::start(Version::V17);
    for name in ["shop", "things", "zoo"] {
        server.create_database(name);
    }
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT i AS id, md5(i::text) || md5((i * 7)::text) AS note \
         FROM generate_series(1, 200000) i; CREATE INDEX ON orders (id);",
    );
    server.psql(
        "things",
        "SELECT format('CREATE TABLE t%s AS SELECT %s AS v', i, i) FROM generate_series(1, 100) i \
         \\gexec\n\
         SELECT count(lo_from_bytea(0, decode(md5(i::text), 'hex'))) FROM generate_series(1, 300) i",
    );
    server.psql("zoo", "CREATE TABLE animals AS SELECT 'cat' AS name");
    server
}

/// Changes a part of the data, so that there is something to upload.
fn change(server: &Server, round: u64) {
    let from = round * 9973 % 200_000;
    server.psql(
        "shop",
        &format!(
            "UPDATE orders SET note = md5(random()::text) WHERE id BETWEEN {from} AND {}",
            from + 20_000
        ),
    );
}

/// Random enough for moments; the seed is in the failure's message.
fn moments(seed: u64, count: usize, longest: Duration) -> Vec<Duration> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..count).map(|_| longest.mul_f64(next() as f64 / f64::from(1_u32 << 31))).collect()
}

/// No session and no advisory lock of a backup is left on the server, at once or very soon.
#[track_caller]
fn expect_server_free(server: &Server) {
    let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
               AND pid <> pg_backend_pid()) + (SELECT count(*) FROM pg_locks \
               WHERE locktype = 'advisory')";
    let end = Instant::now() + Duration::from_secs(10);
    while server.psql("postgres", sql) != "0" {
        let left = "SELECT datname, state, query FROM pg_stat_activity WHERE datname IS NOT NULL";
        assert!(Instant::now() < end, "left: {}", server.psql("postgres", left));
        thread::sleep(Duration::from_millis(50));
    }
}

fn expect_no_temporary_files(vault: &TestVault) {
    let left: Vec<_> = vault
        .files(".tmp")
        .into_iter()
        .filter(|file| !file.file_name().unwrap().to_string_lossy().starts_with("lock-"))
        .collect();
    // One that was killed while it replaced its run's record may leave that, and no more.
    assert!(left.len() <= 2, "{left:?}");
}

#[track_caller]
fn expect_every_backup_whole(vault: &TestVault, sealed: usize) {
    let backups = vault.backups();
    assert_eq!(backups.len(), sealed, "{backups:?}");
    for backup in &backups {
        let to = vault.beside(backup);
        run(&mut vault.export(backup, &to), LIMIT).expect_success();
        std::fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn kill_nine_at_any_moment_damages_nothing() {
    let server = server();
    let vault = TestVault::new();
    let started = Instant::now();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let mut usual = started.elapsed();
    let mut sealed = 1;
    let mut killed = 0;
    let count = rounds(12) as usize;
    for (round, part) in (1..).zip(moments(20_261_122, count, Duration::from_secs(1))) {
        let moment = usual.mul_f64(part.as_secs_f64());
        change(&server, round);
        let mut backup = Running::start(&mut vault.backup(&server));
        thread::sleep(moment);
        let ended = !backup.is_running();
        backup.kill_nine();
        let done = backup.finish(LIMIT);
        sealed += usize::from(done.code() == Some(0));
        killed += usize::from(!ended);
        if ended {
            // The first one took longer, on a busier machine perhaps.
            usual = usual.min(moment);
        }
        // It may have sealed and died before it could say so.
        let listed = vault.backups().len();
        assert!(listed == sealed || listed == sealed + 1 && done.code().is_none(), "{round}");
        sealed = listed;
        expect_server_free(&server);
    }
    assert!(killed * 5 >= count * 2, "only {killed} of {count} were killed while they worked");
    expect_no_temporary_files(&vault);
    run(&mut vault.backup(&server), LIMIT).expect_success();
    expect_every_backup_whole(&vault, sealed + 1);
    assert_eq!(vault.list()["runs"].as_array().unwrap().len(), 0, "{}", vault.list());
    let sums = "SELECT md5(string_agg(id || note, ',' ORDER BY id)) FROM orders";
    let to = vault.beside("last");
    run(&mut vault.export("src/latest", &to), LIMIT).expect_success();
    server.create_database("copy");
    restore_archive(&server, "copy", Version::V17, &to.join("shop.dump"), &[]);
    assert_eq!(server.psql("copy", sums), server.psql("shop", sums));
}

/// Whether a folder of the vault has a file whose name begins like this.
fn has(vault: &TestVault, folder: &str, name: &str) -> bool {
    let begins = |file: &Path| file.file_name().unwrap().to_string_lossy().starts_with(name);
    vault.files(folder).iter().any(|file| begins(file))
}

/// A border between two phases: a folder of the vault, and the beginning of the name of a file that
/// must be there.
const BORDERS: [(&str, &str); 6] = [
    ("", "format.json"),
    ("runs", "run.json"),
    ("runs", "plan.json"),
    ("chunks", ""),
    ("runs", "item-"),
    ("meta", ""),
];

#[test]
fn kill_nine_between_two_phases_leaves_no_backup_and_is_built_upon() {
    let server = server();
    for (folder, name) in BORDERS {
        let vault = TestVault::new();
        let mut backup = Running::start(&mut vault.backup(&server));
        let end = Instant::now() + LIMIT;
        while !has(&vault, folder, name) {
            assert!(Instant::now() < end && backup.is_running(), "no {name} in {folder}");
            thread::sleep(Duration::from_millis(1));
        }
        backup.kill_nine();
        assert_eq!(backup.finish(LIMIT).code(), None, "{name}");
        assert!(has(&vault, "", "format.json"), "{name} was there before the vault was one");
        assert_eq!(vault.backups(), Vec::<String>::new(), "{folder} {name}");
        expect_server_free(&server);
        let next = run(&mut vault.backup(&server), LIMIT).expect_success();
        assert_eq!(json(&next)["status"], "complete", "{name}");
        expect_every_backup_whole(&vault, 1);
    }
}

#[test]
fn what_a_killed_backup_uploaded_is_not_uploaded_again() {
    let server = server();
    let vault = TestVault::new();
    let mut backup = Running::start(&mut vault.backup(&server));
    let end = Instant::now() + LIMIT;
    while vault.files("chunks").len() < 20 {
        assert!(Instant::now() < end && backup.is_running(), "too few chunks");
        thread::sleep(Duration::from_millis(1));
    }
    backup.kill_nine();
    backup.finish(LIMIT);
    let before = vault.files("chunks").len() as u64;
    let next = json(&run(&mut vault.backup(&server), LIMIT).expect_success());
    let totals = &next["manifest"]["totals"];
    let (all, new) = (totals["chunks"].as_u64().unwrap(), totals["new_chunks"].as_u64().unwrap());
    // One that was written to the end, but not yet under its name, does not count.
    assert!(new + before <= all + 2, "{new} of {all} chunks are new, {before} were there");
    assert!(totals["new_stored_bytes"].as_u64() < totals["stored_bytes"].as_u64(), "{totals}");
    expect_every_backup_whole(&vault, 1);
}

#[test]
fn ctrl_c_and_sigterm_stop_a_backup_soon_and_seal_nothing() {
    let server = server();
    for signal in [Running::interrupt, Running::terminate] {
        let vault = TestVault::new();
        let mut command = vault.backup(&server);
        let mut backup = Running::start(command.args(["--level", "16"]));
        let end = Instant::now() + LIMIT;
        while vault.files("chunks").len() < 2 {
            assert!(Instant::now() < end && backup.is_running(), "too few chunks");
            thread::sleep(Duration::from_millis(1));
        }
        signal(&backup);
        expect_cancelled(backup, &vault);
        expect_server_free(&server);
        run(&mut vault.backup(&server), LIMIT).expect_success();
        expect_every_backup_whole(&vault, 1);
    }
}

#[track_caller]
fn expect_cancelled(backup: Running, vault: &TestVault) {
    let done = backup.finish(Duration::from_secs(5));
    assert_eq!(done.code(), Some(130), "{}", done.errors());
    assert_eq!(json(&done)["status"], "cancelled");
    assert_eq!(vault.backups(), Vec::<String>::new());
}

#[test]
fn ctrl_c_stops_a_backup_that_waits_for_a_lock_or_for_a_silent_server() {
    let server = server();
    let vault = TestVault::new();
    let holder = Running::start(
        flexkeep_tests::pg_command("psql", Version::V17)
            .args(["-Xqc", "BEGIN; LOCK TABLE orders; SELECT pg_sleep(60)", "-d"])
            .arg(server.conninfo("shop")),
    );
    wait_for(&server, "wait_event = 'PgSleep'");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for(&server, "query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'");
    backup.interrupt();
    expect_cancelled(backup, &vault);
    drop(holder);
    server.psql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' \
         AND pid <> pg_backend_pid()",
    );
    expect_server_free(&server);

    let mut command: Command = vault.backup(&server);
    let backup = Running::start(command.args(["--level", "16"]));
    wait_for(&server, "query LIKE 'COPY %' AND state = 'active'");
    server.pause();
    backup.terminate();
    let done = backup.finish(Duration::from_secs(5));
    server.resume();
    assert_eq!(done.code(), Some(130), "{}", done.errors());
    expect_server_free(&server);
}

#[track_caller]
fn wait_for(server: &Server, activity: &str) {
    let sql = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {activity}"
    );
    let end = Instant::now() + Duration::from_secs(60);
    while server.psql("postgres", &sql) != "t" {
        assert!(Instant::now() < end, "no such activity: {activity}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_export_that_is_killed_or_stopped_leaves_nothing_that_looks_whole() {
    let server = server();
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let whole = |folder: &Path| folder.join("shop.dump").exists();
    static USUAL: OnceLock<Duration> = OnceLock::new();
    let first = run(&mut vault.export("src/latest", &vault.beside("whole")), LIMIT);
    let usual = *USUAL.get_or_init(|| first.took);
    let good = std::fs::read(vault.beside("whole").join("shop.dump")).unwrap();
    for (number, moment) in moments(7, rounds(6) as usize, usual).into_iter().enumerate() {
        let to = vault.beside(&format!("to{number}"));
        let export = Running::start(&mut vault.export("src/latest", &to));
        thread::sleep(moment);
        if number % 2 == 0 {
            export.kill_nine()
        } else {
            export.interrupt()
        }
        let done = export.finish(Duration::from_secs(5));
        assert!(matches!(done.code(), None | Some(0 | 130)), "{}", done.errors());
        assert!(!whole(&to) || std::fs::read(to.join("shop.dump")).unwrap() == good, "{number}");
        // The next one is not hindered by what was left.
        run(vault.export("src/latest", &to).arg("--overwrite"), LIMIT).expect_success();
        assert!(std::fs::read(to.join("shop.dump")).unwrap() == good, "{number}");
    }
}
