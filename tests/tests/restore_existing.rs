//! Restores into databases that are there: rows into definitions, with keys, triggers and
//! materialised views about them; and what hangs on the order in which things are made.

mod restoring;
mod vaulted;

use std::fs;

use flexkeep_tests::{Server, Version, flexkeep_command, run};
use restoring::{LIMIT, database, ends, failures, problems, restore, restore_as};
use serde_json::Value;
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

/// A trigger that notes when its table is emptied, and a materialised view of another.
const WATCHED: &str = "
    CREATE TABLE emptied (name text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO public.emptied VALUES (TG_TABLE_NAME); RETURN NULL; END $$;
    CREATE TABLE watched AS SELECT i FROM generate_series(1, 100) i;
    CREATE TRIGGER note AFTER TRUNCATE ON watched EXECUTE FUNCTION note();
    CREATE MATERIALIZED VIEW inner_view AS SELECT count(*) AS n FROM watched;
    CREATE MATERIALIZED VIEW outer_view AS SELECT n FROM inner_view;";

/// A table whose owner sees only some of its rows, and a key into it from one whose rows come later.
const GUARDED: &str = "
    CREATE TABLE parents (id integer PRIMARY KEY, who text);
    CREATE TABLE children (id integer REFERENCES parents);
    INSERT INTO parents SELECT i, 'nobody' FROM generate_series(1, 100) i;
    INSERT INTO children SELECT 1 + i % 100 FROM generate_series(1, 400000) i;
    ALTER TABLE parents OWNER TO keeper;
    ALTER TABLE children OWNER TO keeper;
    ALTER TABLE parents ENABLE ROW LEVEL SECURITY;
    ALTER TABLE parents FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON parents USING (who = current_user);
    COMMENT ON POLICY own ON parents IS 'each sees its own';";

struct Scene {
    original: Server,
    copy: Server,
    vaulted: Vaulted,
}

impl Scene {
    #[track_caller]
    fn restore(&self, code: i32, options: &[&str]) -> Value {
        ends(code, &mut restore(&self.vaulted.vault(), &self.copy, options))
    }
}

#[test]
fn triggers_views_policies_and_journals_do_not_stand_in_the_way() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    for server in [&original, &copy] {
        server.psql("postgres", "CREATE ROLE keeper LOGIN CREATEDB");
    }
    original.create_database("watched");
    original.psql("watched", WATCHED);
    original.create_database("guarded");
    original.psql("guarded", GUARDED);
    original.psql("postgres", "ALTER DATABASE guarded OWNER TO keeper");
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    let scene = Scene { original, copy, vaulted };
    policies_come_after_keys(&scene);
    emptied_tables(&scene);
    views_of_views(&scene);
    journal_in_a_backup(&scene);
}

fn policies_come_after_keys(scene: &Scene) {
    let keeper = scene.copy.conninfo_as("keeper", None, "postgres");
    let mut command = restore_as(&scene.vaulted.vault(), &keeper, &["--database", "guarded"]);
    ends(0, &mut command);
    assert_same(&scene.original, "guarded", &scene.copy, "guarded");
}

fn emptied_tables(scene: &Scene) {
    let rows_alone = ["--database", "watched", "--data-only", "--clean"];
    scene.restore(0, &["--database", "watched"]);
    let report = scene.restore(0, &rows_alone);
    let noted = scene.copy.psql("watched", "SELECT count(*) FROM emptied");
    assert_eq!(noted, "0", "the trigger fired when the table was emptied");
    let skipped = database(&report, "watched")["skipped"].to_string();
    for view in ["inner_view", "outer_view"] {
        assert!(skipped.contains(&format!("public.{view}")), "{skipped}");
    }
    // Who can't turn it off is told.
    scene.copy.psql("watched", "GRANT CREATE ON DATABASE watched TO keeper");
    let keeper = scene.copy.conninfo_as("keeper", None, "postgres");
    let document = ends(1, &mut restore_as(&scene.vaulted.vault(), &keeper, &rows_alone));
    let said = problems(&document["details"]).join("\n");
    assert!(said.contains("watched note"), "{said}");
}

/// One materialised view that needs another, which is not there either.
fn views_of_views(scene: &Scene) {
    scene.copy.psql("watched", "DROP MATERIALIZED VIEW inner_view CASCADE");
    let choice = ["--database", "watched", "--table", "outer_view", "--into-existing"];
    scene.restore(0, &choice);
    assert_eq!(scene.copy.psql("watched", "SELECT n FROM outer_view"), "100");
    assert_same(&scene.original, "watched", &scene.copy, "watched");
}

/// The journal of a restore that was not complete when its target was backed up.
fn journal_in_a_backup(scene: &Scene) {
    let (chunks, aside) = (scene.vaulted.vault().join("chunks"), scene.vaulted.path("aside"));
    fs::rename(&chunks, &aside).expect("our own vault");
    scene.restore(4, &["--database", "watched", "--as", "half"]);
    fs::rename(&aside, &chunks).expect("our own vault");

    let second = Vaulted::new();
    let from = scene.copy.conninfo("postgres");
    let mut check = flexkeep_command(&["check", "--json", "--from", &from, "--vault"]);
    let check = run(check.arg(second.path("other")).arg("--pg-bin").arg(Version::V18.bin()), LIMIT);
    let said = check.text();
    assert!(said.contains("a restore into it is not complete"), "{said}{}", check.errors());
    second.backup(&scene.copy, Version::V18);
    let report = ends(0, &mut restore(&second.vault(), &scene.original, &["--database", "half"]));
    let skipped = database(&report, "half")["skipped"].to_string();
    assert!(skipped.contains("schema flexkeep_restore"), "{skipped}");
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flexkeep_restore'";
    assert_eq!(scene.original.psql("half", there), "0");
    assert_eq!(scene.original.psql("half", "SELECT to_regclass('watched') IS NOT NULL"), "t");
}
