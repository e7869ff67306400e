//! Parts of a database restored into a database that differs: partitions, sequences of others, tables
//! that are something else there. What comes is whole and usable, and what would be lost is told.

mod restoring;
mod vaulted;

use flexkeep_tests::{Server, Version};
use restoring::{database, ends, problems, restore};
use serde_json::Value;
use vaulted::Vaulted;

const SHOP: &str = "
    CREATE ROLE visitor;
    CREATE ROLE tuned;
    CREATE SCHEMA s;
    CREATE SCHEMA far;
    CREATE TABLE s.audit (what text);
    CREATE FUNCTION s.change() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO s.audit VALUES (TG_TABLE_NAME);
         IF TG_WHEN = 'BEFORE' THEN NEW.v := NEW.v || '!'; END IF; RETURN NEW; END $$;
    CREATE TABLE s.p (id int NOT NULL, d int NOT NULL, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
    CREATE TABLE s.p_1 PARTITION OF s.p FOR VALUES FROM (0) TO (10);
    CREATE TABLE s.p_2 PARTITION OF s.p FOR VALUES FROM (10) TO (20);
    CREATE TABLE far.p_3 PARTITION OF s.p FOR VALUES FROM (20) TO (30);
    CREATE INDEX p_v ON s.p (v);
    ALTER TABLE s.p ADD CONSTRAINT p_u UNIQUE (v, d);
    INSERT INTO s.p SELECT i, i % 30, 'v' || i FROM generate_series(1, 900) i;
    CREATE TRIGGER before BEFORE INSERT ON s.p FOR EACH ROW EXECUTE FUNCTION s.change();
    CREATE TRIGGER after AFTER INSERT ON s.p FOR EACH ROW EXECUTE FUNCTION s.change();
    CREATE TABLE s.plain (id int, v text, parts text[]);
    INSERT INTO s.plain SELECT i, 'x' || i, ARRAY[NULL, 'NULL', 'z'] FROM generate_series(1, 200) i;
    CREATE SEQUENCE far.numbers;
    CREATE TABLE s.numbered (id int DEFAULT nextval('far.numbers'));
    INSERT INTO s.numbered SELECT FROM generate_series(1, 10);
    ALTER TABLE s.plain ENABLE ROW LEVEL SECURITY;
    CREATE POLICY seen ON s.plain FOR SELECT TO visitor USING (true);
    ALTER ROLE tuned IN DATABASE shop SET work_mem = '8MB';
    SELECT lo_from_bytea(77, 'an object');";

struct Scene {
    copy: Server,
    vaulted: Vaulted,
    original: Server,
}

impl Scene {
    #[track_caller]
    fn restore(&self, code: i32, options: &[&str]) -> Value {
        let options = [&["--database", "shop"], options].concat();
        ends(code, &mut restore(&self.vaulted.vault(), &self.copy, &options))
    }

    #[track_caller]
    fn refuses(&self, words: &str, options: &[&str]) {
        let document = self.restore(1, options);
        let said = problems(&document["details"]).join("\n");
        assert!(said.contains(words), "{said}");
    }

    #[track_caller]
    fn same(&self, database: &str, sql: &str) {
        assert_eq!(self.copy.psql(database, sql), self.original.psql("shop", sql), "{sql}");
    }

    #[track_caller]
    fn holds(&self, database: &str, sql: &str, expected: &str) {
        assert_eq!(self.copy.psql(database, sql), expected, "{sql}");
    }
}

const ROWS: &str = "SELECT count(*), md5(string_agg(p::text, '' ORDER BY id)) FROM s.p";
const BAD_INDEXES: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";

#[test]
fn what_is_chosen_comes_whole_into_a_database_that_differs() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("shop");
    original.psql("shop", SHOP);
    original.create_database("a=b");
    original.psql("a=b", "CREATE TABLE t AS SELECT 1 AS i");
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    let scene = Scene { copy, vaulted, original };
    partitioned_tables(&scene);
    one_partition(&scene);
    sequences_of_others(&scene);
    rows_into_something_else(&scene);
    roles_and_settings(&scene);
    let name = ["--database", "a=b"];
    ends(0, &mut restore(&scene.vaulted.vault(), &scene.copy, &name));
    scene.holds("a=b", "SELECT count(*) FROM t", "1");
}

/// A partitioned table alone has valid indexes, also those of its constraints, and all partitions.
fn partitioned_tables(scene: &Scene) {
    scene.restore(0, &["--as", "one", "--table", "s.p"]);
    scene.holds("one", BAD_INDEXES, "0");
    scene.same("one", ROWS);
    let upsert = "DO $$ BEGIN EXECUTE 'EXPLAIN INSERT INTO s.p VALUES (1, 1) ON CONFLICT (id, d) \
                  DO NOTHING'; END $$";
    scene.holds("one", upsert, "");
    scene.restore(0, &["--as", "schema", "--schema", "s"]);
    scene.holds("schema", BAD_INDEXES, "0");
    scene.same("schema", ROWS);

    // A partition of later is not dropped with its table in silence.
    scene.copy.psql("one", "CREATE TABLE s.later PARTITION OF s.p FOR VALUES FROM (30) TO (40)");
    let replace = ["--as", "one", "--table", "s.p", "--clean"];
    scene.refuses("not in the restore: s.later", &replace);
    scene.copy.psql("one", "ALTER TABLE s.p DETACH PARTITION s.later");
    scene.restore(0, &replace);
    scene.holds("one", BAD_INDEXES, "0");
    scene.same("one", ROWS);
}

/// The triggers of its table do not fire for the rows of a partition that comes back.
fn one_partition(scene: &Scene) {
    scene.copy.psql("schema", "DROP TABLE s.p_2");
    scene.restore(0, &["--as", "schema", "--table", "s.p_2", "--into-existing"]);
    scene.same("schema", ROWS);
    scene.holds("schema", BAD_INDEXES, "0");
    scene.holds("schema", "SELECT count(*) FROM s.audit", "0");
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 's.p_2'::regclass";
    scene.same("schema", indexes);
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 's.p_2'::regclass";
    scene.same("schema", triggers);
}

/// A sequence that a table only uses goes on where it was, and the report names it.
fn sequences_of_others(scene: &Scene) {
    let report = scene.restore(0, &["--as", "numbers", "--table", "s.numbered"]);
    scene.holds("numbers", "SELECT nextval('far.numbers')", "11");
    let also = database(&report, "numbers")["also"].to_string();
    assert!(also.contains("sequence far.numbers, for"), "{also}");
}

/// Rows alone go into tables that are there: not twice, and not into what keeps none.
fn rows_into_something_else(scene: &Scene) {
    let rows = |name| ["--as", name, "--table", "s.plain", "--data-only", "--into-existing"];
    scene.copy.create_database("parts");
    scene.copy.psql(
        "parts",
        "CREATE SCHEMA s; CREATE TABLE s.plain (id int, v text, parts text[]) PARTITION BY HASH (id);
         CREATE TABLE s.half PARTITION OF s.plain FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE s.rest PARTITION OF s.plain FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         SELECT lo_from_bytea(5, 'not in the way of tables')",
    );
    scene.copy.psql("postgres", "ALTER ROLE postgres SET array_nulls = off");
    scene.restore(0, &rows("parts"));
    scene.copy.psql("postgres", "ALTER ROLE postgres RESET array_nulls");
    scene.same("parts", "SELECT count(*), md5(string_agg(p::text, '' ORDER BY id)) FROM s.plain p");
    scene.refuses("tables have rows already", &rows("parts"));
    let again = ["--as", "parts", "--table", "s.plain", "--data-only", "--clean"];
    scene.restore(0, &again);
    scene.holds("parts", "SELECT count(*) FROM s.plain", "200");

    scene.copy.create_database("views");
    scene.copy.psql(
        "views",
        "CREATE SCHEMA s; CREATE TABLE s.base (id int, v text, parts text[]);
         CREATE VIEW s.plain AS SELECT * FROM s.base",
    );
    scene.refuses("are no tables there: s.plain", &rows("views"));
}

/// Who may not become the role of a policy restores it all the same; a role with settings in the
/// database comes along.
fn roles_and_settings(scene: &Scene) {
    scene.restore(0, &["--as", "tuned"]);
    let set = "SELECT count(*) FROM pg_db_role_setting WHERE setrole = 'tuned'::regrole";
    scene.holds("postgres", set, "1");
    scene.copy.psql("postgres", "CREATE ROLE admin LOGIN CREATEDB CREATEROLE");
    let into = scene.copy.conninfo_as("admin", None, "postgres");
    let options =
        ["--database", "shop", "--as", "theirs", "--table", "s.plain", "--no-owner", "--no-acl"];
    ends(0, &mut restoring::restore_as(&scene.vaulted.vault(), &into, &options));
    scene.holds("theirs", "SELECT count(*) FROM pg_policy", "1");
}

/// What the server refuses is found before the database that is to be replaced is gone.
#[test]
fn a_database_stays_when_the_one_in_its_place_cannot_be_made() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("shop");
    original.psql("shop", "CREATE TABLE t AS SELECT 1 AS i");
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    copy.create_database("shop");
    copy.psql("shop", "CREATE TABLE precious AS SELECT 1 AS i");
    // As a locale that is missing would, this shows when the database is made, and not before.
    copy.psql("postgres", "ALTER DATABASE template0 IS_TEMPLATE false");
    copy.psql("postgres", "DROP DATABASE template0");
    let scene = Scene { copy, vaulted, original };
    let document = scene.restore(1, &["--clean"]);
    assert!(document.to_string().contains("template0"), "{document:#}");
    scene.holds("shop", "SELECT count(*) FROM precious", "1");
    scene.copy.psql("postgres", "CREATE DATABASE template0 IS_TEMPLATE true TEMPLATE template1");
    scene.restore(0, &["--clean"]);
    scene.holds("shop", "SELECT to_regclass('precious') IS NULL", "t");
    scene.holds("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'flexkeep'", "0");
}
