//! Restores into databases that are there: rows into definitions, with keys about them.

mod restoring;
mod vaulted;

use flexkeep_tests::{Server, Version};
use restoring::{ends, failures, restore};
use vaulted::{Vaulted, assert_same};

/// Keys that are compared by operators outside of the system's schema, or not column by column.
const KEYS: &str = "
    CREATE EXTENSION citext;
    CREATE EXTENSION ltree;
    CREATE TABLE names (n citext PRIMARY KEY);
    CREATE TABLE of_names (n citext REFERENCES names);
    INSERT INTO names VALUES ('Ab');
    INSERT INTO of_names VALUES ('aB'), (NULL);
    CREATE TABLE paths (p ltree PRIMARY KEY);
    CREATE TABLE of_paths (p ltree REFERENCES paths);
    INSERT INTO paths VALUES ('a.b');
    INSERT INTO of_paths VALUES ('a.b');
    CREATE TABLE parts (id integer PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
    CREATE TABLE of_parts (id bigint REFERENCES parts);
    INSERT INTO parts VALUES (5), (105);
    INSERT INTO of_parts VALUES (5), (105);
    CREATE DOMAIN number AS integer;
    CREATE TABLE pairs (a number, b text COLLATE \"C\", PRIMARY KEY (a, b));
    CREATE TABLE of_pairs (x integer, y text, FOREIGN KEY (x, y) REFERENCES pairs MATCH FULL);
    INSERT INTO pairs VALUES (1, 'x');
    INSERT INTO of_pairs VALUES (1, 'x'), (NULL, NULL);";

/// Since 18 a key may have a period, which several rows cover together.
const PERIODS: &str = "
    CREATE EXTENSION btree_gist;
    CREATE TABLE times (id integer, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS));
    CREATE TABLE of_times (id integer, during daterange,
      FOREIGN KEY (id, PERIOD during) REFERENCES times (id, PERIOD during));
    INSERT INTO times VALUES (1, '[2020-01-01,2021-01-01)'), (1, '[2021-01-01,2022-01-01)');
    INSERT INTO of_times VALUES (1, '[2020-05-01,2021-05-01)'), (NULL, '[2020-05-01,2021-05-01)');";

const DANGLING: &str = "
    SET session_replication_role = replica;
    INSERT INTO of_names VALUES ('nobody');
    INSERT INTO of_paths VALUES ('no.where');
    INSERT INTO of_parts VALUES (7);
    INSERT INTO of_pairs VALUES (1, NULL);";

#[track_caller]
fn keys_hold(version: Version) {
    let (original, copy) = (Server::start(version), Server::start(version));
    original.create_database("keys");
    original.psql("keys", KEYS);
    let has_periods = version == Version::V18;
    if has_periods {
        original.psql("keys", PERIODS);
    }
    let vaulted = Vaulted::new();
    vaulted.backup(&original, version);
    let restore = |code, name: &str, more: &[&str]| {
        let choice = ["--database", "keys", "--as", name];
        let options = [&choice[..], more].concat();
        ends(code, &mut restore(&vaulted.vault(), &copy, &options))
    };
    restore(0, "keys", &["--schema-only"]);
    restore(0, "keys", &["--data-only", "--into-existing"]);
    assert_same(&original, "keys", &copy, "keys");

    original.psql("keys", DANGLING);
    if has_periods {
        let outside = "SET session_replication_role = replica;
                       INSERT INTO of_times VALUES (1, '[2021-05-01,2023-01-01)')";
        original.psql("keys", outside);
    }
    vaulted.backup(&original, version);
    restore(0, "broken", &["--schema-only"]);
    let report = restore(3, "broken", &["--data-only", "--into-existing"]);
    let broken = failures(&report, "broken");
    let mut tables = vec!["of_names", "of_pairs", "of_parts", "of_paths"];
    tables.extend(has_periods.then_some("of_times"));
    assert_eq!(broken.len(), tables.len(), "{broken:?}");
    for (failure, table) in broken.iter().zip(tables) {
        assert!(failure.contains(&format!("foreign key public.{table} ")), "{failure}");
        assert!(failure.contains("rows point to rows that are not there"), "{failure}");
    }
}

#[test]
fn keys_of_all_kinds_are_checked_after_rows_alone_on_15() {
    keys_hold(Version::V15);
}

#[test]
fn keys_of_all_kinds_are_checked_after_rows_alone_on_18() {
    keys_hold(Version::V18);
}
