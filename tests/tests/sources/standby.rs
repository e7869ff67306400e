//! A streaming replica is backed up while its primary works on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flexkeep_tests::{SAMPLE_DATABASES, Server, Version, load_everything};

use crate::restoring::{ends, restore};
use crate::vaulted::{Vaulted, assert_same_on, restore_in_parallel};

/// Rows that always have the sum 0 in what is committed: two accounts a statement, and one row a
/// transfer that names both.
const ACCOUNTS: &str = "
    CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL, pad text);
    INSERT INTO account SELECT i, 0, repeat('x', 600) FROM generate_series(1, 40000) i;
    CREATE TABLE transfer (id bigint GENERATED ALWAYS AS IDENTITY, source integer, target integer, amount integer);";
const TRANSFERS: &str = "
    DO $$ DECLARE a integer; b integer; n integer; BEGIN
      FOR i IN 1..20 LOOP
        a := 1 + (random() * 39999)::integer; b := 1 + a % 40000; n := (random() * 100)::integer;
        UPDATE account SET balance = balance - n WHERE id = a;
        UPDATE account SET balance = balance + n WHERE id = b;
        INSERT INTO transfer (source, target, amount) VALUES (a, b, n);
        COMMIT;
      END LOOP; END $$";

/// A database that nobody may connect to, and what a standby does not have.
const LOSSES: [&str; 3] = [
    r#"1 "database" ["closed"]"#,
    r#"1 "unlogged table data" ["app.unlogged"]"#,
    r#"2 "unlogged sequence state" ["app.unlogged_id_seq","app.unlogged_sequence"]"#,
];

/// A standby has no rows of unlogged tables and not the state of unlogged sequences, so that the copy
/// can't have them either.
const FORGET_UNLOGGED: &str = "
    DO $$ DECLARE one regclass; kind \"char\"; BEGIN
      FOR one, kind IN SELECT oid, relkind FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'S') LOOP
        IF kind = 'r' THEN EXECUTE format('TRUNCATE %s', one);
        ELSE PERFORM setval(one, 1, false); END IF;
      END LOOP; END $$";

#[test]
fn a_standby_is_backed_up_whole_but_for_unlogged_rows() {
    let original = Server::start(Version::V17);
    load_everything(&original);
    let standby = original.standby();
    original.wait_for_standby(&standby);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&standby, Version::V17);
    assert_eq!(backup.manifest["source"]["standby"], true);

    assert_eq!(backup.losses(), LOSSES);
    for database in SAMPLE_DATABASES {
        original.psql(database, FORGET_UNLOGGED);
    }
    let copy = Server::start(Version::V17);
    ends(0, &mut restore(&vaulted.vault(), &copy, &[]));
    for database in SAMPLE_DATABASES {
        assert_same_on(&original, &copy, database);
    }
    let stock = Server::start(Version::V17);
    let exported = vaulted.export(&backup, "out", &[]);
    exported.restore_roles(&stock);
    restore_in_parallel(&stock, "everything", &exported.archive("everything"), &["--create"], &[]);
    assert_same_on(&original, &stock, "everything");
}

#[test]
fn a_standby_that_replays_a_busy_primary_gives_one_moment() {
    let primary = Server::start(Version::V18);
    primary.create_database("bank");
    primary.psql("bank", ACCOUNTS);
    let standby = primary.standby();
    primary.wait_for_standby(&standby);
    let vaulted = Vaulted::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Two of them may wait for each other; one is then given up.
                    drop(primary.try_psql("bank", TRANSFERS));
                }
            });
        }
        while primary.psql("bank", "SELECT count(*) < 200 FROM transfer") == "t" {
            thread::sleep(Duration::from_millis(20));
        }
        let backup = vaulted.backup(&standby, Version::V18);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(backup.losses(), Vec::<String>::new());
    });
    let copy = Server::start(Version::V18);
    ends(0, &mut restore(&vaulted.vault(), &copy, &["--database", "bank"]));
    let sums = "SELECT (SELECT sum(balance) FROM account),
        (SELECT count(*) FROM account a WHERE balance <>
          (SELECT coalesce(sum(CASE WHEN target = a.id THEN amount ELSE 0 END
                             - CASE WHEN source = a.id THEN amount ELSE 0 END), 0)
           FROM transfer WHERE a.id IN (source, target))),
        (SELECT count(*) >= 100 FROM transfer)";
    let sums = sums.replace("FROM account a WHERE", "FROM touched a WHERE");
    copy.psql(
        "bank",
        "CREATE TABLE touched AS SELECT * FROM account
           WHERE balance <> 0 OR id IN (SELECT source FROM transfer UNION SELECT target FROM transfer)",
    );
    copy.psql("bank", "CREATE INDEX ON transfer (source); CREATE INDEX ON transfer (target)");
    assert_eq!(copy.psql("bank", &sums), "0|0|t");
}
