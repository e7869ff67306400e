//! Memory has a ceiling, whatever the size of a row, a table, or the number of tables.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_tests::{
    Output, Running, Server, TestVault, Version, flexkeep_command, json, restore_archive, run,
};

const LIMIT: Duration = Duration::from_secs(120);

/// What a backup or an export with two lanes or threads may take: 96 MiB, and 96 MiB for each.
const CEILING_KB: u64 = (96 + 2 * 96) << 10;

/// Runs `flexkeep` to its end and gives the most memory that it ever had, kB.
#[track_caller]
fn peak(command: &mut Command) -> (Output, u64) {
    let mut running = Running::start(command);
    let status = format!("/proc/{}/status", running.pid());
    let end = Instant::now() + LIMIT;
    let mut peak = 0;
    // The kernel keeps the maximum, so that the last look before the end has it all.
    while running.is_running() && Instant::now() < end {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kb.unwrap_or(0));
        thread::sleep(Duration::from_millis(2));
    }
    let output = running.finish(Duration::from_secs(1));
    assert!(peak > 0, "{} was too quick to be looked at", output.command);
    (output, peak)
}

#[track_caller]
fn expect_under_ceiling(what: &str, command: &mut Command) -> Output {
    let (output, peak) = peak(command);
    assert!(peak <= CEILING_KB, "{what} took {peak} kB of memory, more than {CEILING_KB}");
    output.expect_success()
}

/// Backs up with two lanes, again with nothing new, and exports with two threads.
fn round(server: &Server, vault: &TestVault) {
    for what in ["the first backup", "the next backup"] {
        expect_under_ceiling(what, vault.backup(server).args(["--lanes", "2"]));
    }
    let mut export = vault.export("src/latest", &vault.beside("to"));
    expect_under_ceiling("the export", export.args(["--threads", "2"]));
}

#[test]
fn a_value_of_400_mb_takes_no_more_memory_than_a_small_one() {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    // Stored uncompressed and not random: what counts is its length.
    server.psql(
        "shop",
        "CREATE TABLE huge (i int, v text STORAGE EXTERNAL); \
         INSERT INTO huge SELECT 1, repeat(md5('a') || md5('b'), 400000000 / 64); \
         INSERT INTO huge VALUES (2, 'small')",
    );
    let vault = TestVault::new();
    round(&server, &vault);
    let old = vault.beside("old");
    let mut export = vault.export("src/latest", &old);
    let options = ["--threads", "2", "--pg-restore", "15", "--database", "shop"];
    expect_under_ceiling("the export for pg_restore 15", export.args(options));
    server.psql("postgres", "CREATE DATABASE copy TEMPLATE template0");
    restore_archive(&server, "copy", Version::V18, &old.join("shop.dump"), &[]);
    let sums = "SELECT i, length(v), md5(v) FROM huge ORDER BY i";
    assert_eq!(server.psql("copy", sums), server.psql("shop", sums));
}

#[test]
fn a_table_that_is_mostly_toast_takes_no_more_memory() {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE docs (i int, v text STORAGE EXTERNAL); \
         INSERT INTO docs SELECT i, repeat(md5(i::text), 31250) FROM generate_series(1, 300) i; \
         SELECT count(lo_from_bytea(0, convert_to(repeat(md5(i::text), 600000), 'UTF8'))) \
         FROM generate_series(1, 5) i",
    );
    let vault = TestVault::new();
    round(&server, &vault);
    let mut restore = flexkeep_command(&["restore", "src/latest", "--json", "--lanes", "2"]);
    restore.args(["--database", "shop", "--as", "copy", "--into", &server.conninfo("postgres")]);
    expect_under_ceiling("the restore", restore.arg("--vault").arg(vault.place()));
    let rows = "SELECT count(*), sum(length(v)) FROM docs";
    assert_eq!(server.psql("copy", rows), server.psql("shop", rows));
}

/// Makes many tables, a few at a time: one transaction could not lock them all.
fn make_tables(server: &Server, count: u32) {
    server.psql(
        "shop",
        &format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP \
               EXECUTE format('CREATE TABLE t%s AS SELECT %s AS v WHERE %s %% 10 = 0', i, i, i); \
               IF i % 500 = 0 THEN COMMIT; END IF; \
             END LOOP; END $$"
        ),
    );
}

#[test]
fn twenty_thousand_tables_take_no_more_memory_and_enough_locks_are_asked_for() {
    let tables = 20_000;
    let mut server = Server::options(Version::V18).conf("max_connections = 20").start();
    server.create_database("shop");
    make_tables(&server, tables);
    let vault = TestVault::new();
    let out = run(&mut vault.backup(&server), LIMIT);
    let said = json(&out)["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(out.code(), Some(1), "{said}");
    let wanted = said
        .split_once("max_locks_per_transaction to ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u32>().ok());
    let wanted = wanted.unwrap_or_else(|| panic!("no setting is named in {said:?}"));
    assert!(said.contains("20000 tables") && said.contains("restart"), "{said}");

    // What it asks for is enough.
    server.stop();
    let conf = server.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nmax_locks_per_transaction = {wanted}\n")).unwrap();
    server.start_again();
    round(&server, &vault);
    let totals = &vault.list()["backups"][0];
    assert_eq!((totals["tables"].as_u64(), totals["rows"].as_u64()), (Some(20_000), Some(2000)));
}
