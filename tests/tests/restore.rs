//! Backed up, and restored straight into a server: the copy is the original.

mod restoring;
mod vaulted;

use flexkeep_tests::{
    SAMPLE_DATABASES, Server, Version, compare_databases, compare_properties, compare_roles,
    load_everything, run,
};
use restoring::{LIMIT, database, ends, failures, problems, restore};
use serde_json::Value;
use vaulted::{Backup, Vaulted, assert_same, assert_same_on, restore_in_parallel};

const SAMPLE: &str = "everything";

#[track_caller]
fn whole(version: Version) {
    let (original, copy) = (Server::start(version), Server::start(version));
    load_everything(&original);
    let vaulted = Vaulted::new();
    vaulted.backup(&original, version);
    let plan = ends(0, &mut restore(&vaulted.vault(), &copy, &["--preview"]));
    assert_eq!(plan["status"], "ready");
    assert_eq!(
        copy.psql("postgres", "SELECT count(*) FROM pg_database"),
        "3",
        "a preview changes nothing"
    );
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname ~ '^app'"), "0");

    let report = ends(0, &mut restore(&vaulted.vault(), &copy, &["--verify"]));
    assert_eq!(report["status"], "complete");
    assert_eq!(compare_roles(&original, &copy), Vec::<String>::new());
    for database in SAMPLE_DATABASES {
        assert_same_on(&original, &copy, database);
        assert_eq!(failures(&report, database), Vec::<String>::new());
        rows_are_told(&report, database);
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flexkeep_restore'";
        assert_eq!(copy.psql(database, left), "0", "{database:?} still has a journal");
    }
}

#[track_caller]
fn rows_are_told(report: &Value, name: &str) {
    for table in database(report, name)["tables"].as_array().expect("a list") {
        assert_eq!(table["rows"], table["expected_rows"], "{table}");
        assert_eq!(table["complete"], true, "{table}");
    }
}

#[test]
fn the_sample_of_15_comes_back_whole() {
    whole(Version::V15);
}

#[test]
fn the_sample_of_17_comes_back_whole() {
    whole(Version::V17);
}

#[test]
fn the_sample_of_18_comes_back_whole() {
    whole(Version::V18);
}

/// What is written otherwise about a server of 15 than about its copy on 18, and why.
const DIFFERENT_ON_18: [(&str, &str); 3] = [
    ("MAINTAIN", "a right since 17, which a GRANT ALL written by 15 gives there too"),
    ("; Type: VIEW; ", "since 16, a column of a view's only table is written without the table"),
    ("; Type: MATERIALIZED VIEW; ", "the same"),
];

#[track_caller]
fn is_the_same_on_18(original: &Server, copy: &Server, database: &str) {
    let mut differences = compare_databases(original, database, copy, database);
    differences.retain(|one| {
        original.version() >= Version::V17
            || one.ends_with("only in the copy: nothing")
            || !DIFFERENT_ON_18.iter().any(|(part, _)| one.contains(part))
    });
    assert_eq!(differences, Vec::<String>::new(), "{database:?} on 18");
    let properties = compare_properties(original, database, copy, database);
    assert_eq!(properties, Vec::<String>::new(), "properties of {database:?}");
}

/// The sample of an older server on one of 18.
#[track_caller]
fn restored_into_18(version: Version) -> (Server, Server, Vaulted, Backup) {
    let (original, copy) = (Server::start(version), Server::start(Version::V18));
    load_everything(&original);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, Version::V18);
    ends(0, &mut restore(&vaulted.vault(), &copy, &[]));
    for database in SAMPLE_DATABASES {
        is_the_same_on_18(&original, &copy, database);
    }
    (original, copy, vaulted, backup)
}

#[test]
fn a_backup_of_17_restores_into_18_with_and_without_us() {
    let (original, copy, vaulted, backup) = restored_into_18(Version::V17);
    // An option that is the user's beside the server's own, which no other server takes.
    let options = "SELECT count(*) FROM pg_attribute WHERE attoptions::text LIKE '%n_distinct%'";
    assert_eq!(copy.psql(SAMPLE, options), original.psql(SAMPLE, options));
    assert_ne!(copy.psql(SAMPLE, options), "0");
    copy.psql(SAMPLE, "DROP SUBSCRIPTION IF EXISTS from_far");
    copy.psql("postgres", &format!("DROP DATABASE {SAMPLE}"));
    let exported = vaulted.export(&backup, "out", &[]);
    restore_in_parallel(&copy, SAMPLE, &exported.archive(SAMPLE), &["--create"], &[]);
    is_the_same_on_18(&original, &copy, SAMPLE);
}

#[test]
fn a_backup_of_15_restores_into_18_and_never_the_other_way() {
    let (original, copy, ..) = restored_into_18(Version::V15);
    let newer = Vaulted::new();
    newer.backup(&copy, Version::V18);
    let document = ends(1, &mut restore(&newer.vault(), &original, &["--clean"]));
    let problems = problems(&document["details"]);
    assert!(
        problems.iter().any(|one| one.contains("older than the source, which was 18")),
        "{problems:?}"
    );
    assert_eq!(original.psql(SAMPLE, "SELECT count(*) > 0 FROM app.customers"), "t");
}

/// A server with the sample, its backup, and another server with the sample restored.
struct Scene {
    original: Server,
    copy: Server,
    vaulted: Vaulted,
}

impl Scene {
    fn new() -> Self {
        let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
        load_everything(&original);
        let vaulted = Vaulted::new();
        vaulted.backup(&original, Version::V18);
        ends(0, &mut restore(&vaulted.vault(), &copy, &[]));
        Self { original, copy, vaulted }
    }

    #[track_caller]
    fn restore(&self, code: i32, options: &[&str]) -> Value {
        ends(code, &mut restore(&self.vaulted.vault(), &self.copy, options))
    }

    #[track_caller]
    fn is_whole(&self) {
        assert_same(&self.original, SAMPLE, &self.copy, SAMPLE);
    }
}

const ONE: [&str; 2] = ["--database", SAMPLE];

#[test]
fn parts_of_a_database_come_back_into_a_database_that_is_there() {
    let scene = Scene::new();
    dropped_table(&scene);
    dropped_schema(&scene);
    replaced_table(&scene);
    names_taken(&scene);
    other_name(&scene);
    definitions_then_rows(&scene);
}

/// One table with all that belongs to it.
fn dropped_table(scene: &Scene) {
    scene.copy.psql(SAMPLE, "DROP TABLE app.customers CASCADE");
    // What other tables had on it goes with it, and comes back with them.
    let options = ["--table", "app.customers", "--into-existing"];
    let report = scene.restore(0, &[&ONE[..], &options].concat());
    let tables = database(&report, SAMPLE)["tables"].as_array().expect("a list");
    assert_eq!(tables.len(), 1, "{tables:?}");
    let differences = compare_databases(&scene.original, SAMPLE, &scene.copy, SAMPLE);
    let about_it: Vec<_> =
        differences.iter().filter(|one| one.contains("Name: customers")).collect();
    assert_eq!(about_it, Vec::<&String>::new());
    let rows = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY id)) FROM app.customers t";
    assert_eq!(scene.copy.psql(SAMPLE, rows), scene.original.psql(SAMPLE, rows));
}

fn dropped_schema(scene: &Scene) {
    scene.copy.psql(SAMPLE, "DROP SCHEMA \"Weird, schema\" CASCADE");
    let options = ["--schema", "Weird, schema", "--into-existing"];
    scene.restore(0, &[&ONE[..], &options].concat());
    let count =
        "SELECT count(*) FROM pg_class WHERE relnamespace = '\"Weird, schema\"'::regnamespace";
    assert_eq!(scene.copy.psql(SAMPLE, count), scene.original.psql(SAMPLE, count));
}

/// A table whose rows somebody has changed.
fn replaced_table(scene: &Scene) {
    scene.copy.psql(
        SAMPLE,
        "UPDATE app.deleted_rows SET i = i + 1; ALTER TABLE app.deleted_rows ADD more text",
    );
    let refused = [&ONE[..], &["--table", "deleted_rows", "--into-existing"]].concat();
    let document = scene.restore(1, &refused);
    let said = problems(&document["details"]);
    assert!(said.iter().any(|one| one.contains("table app.deleted_rows")), "{said:?}");
    scene.restore(0, &[&ONE[..], &["--table", "deleted_rows", "--clean"]].concat());
    let rows = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY i)) FROM app.deleted_rows t";
    assert_eq!(scene.copy.psql(SAMPLE, rows), scene.original.psql(SAMPLE, rows));
}

fn names_taken(scene: &Scene) {
    let before = scene.copy.psql(SAMPLE, "SELECT count(*) FROM pg_class");
    let document = scene.restore(1, &ONE);
    let said = problems(&document["details"]);
    assert!(said.iter().any(|one| one.contains("it is there already")), "{said:?}");
    let document = scene.restore(1, &[&ONE[..], &["--into-existing"]].concat());
    let said = problems(&document["details"]);
    assert!(said.iter().any(|one| one.contains("objects are there already")), "{said:?}");
    assert_eq!(scene.copy.psql(SAMPLE, "SELECT count(*) FROM pg_class"), before);

    scene.copy.psql(SAMPLE, "DROP SUBSCRIPTION IF EXISTS from_far");
    scene.restore(0, &[&ONE[..], &["--clean"]].concat());
    scene.is_whole();
    assert_same_on(&scene.original, &scene.copy, SAMPLE);
}

fn other_name(scene: &Scene) {
    let name = "another \"name\" é";
    scene.restore(0, &[&ONE[..], &["--as", name]].concat());
    assert_same(&scene.original, SAMPLE, &scene.copy, name);
    let properties = compare_properties(&scene.original, SAMPLE, &scene.copy, name);
    assert_eq!(properties, Vec::<String>::new());
    let refused = scene.restore(2, &["--database", "everything=x", "--database", "latin=x"]);
    assert!(refused["error"].as_str().is_some_and(|text| text.contains("two databases")));
    let refused = scene.restore(2, &["--database", "evrything"]);
    let error = refused["error"].as_str().expect("a text");
    assert!(error.contains("no database \"evrything\"; it has everything"), "{error}");
    let refused = scene.restore(2, &[&ONE[..], &["--table", "app.custmers"]].concat());
    let error = refused["error"].as_str().expect("a text");
    assert!(error.contains("no table \"app.custmers\"; it has app.customers"), "{error}");
}

/// Definitions first, and rows into them.
fn definitions_then_rows(scene: &Scene) {
    scene.restore(0, &["--database", "latin", "--as", "l2", "--schema-only"]);
    assert_eq!(
        scene.copy.psql(
            "l2",
            "SELECT sum(reltuples) <= 0 FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ),
        "t"
    );
    let plan =
        scene.restore(0, &["--database", "latin", "--as", "l2", "--data-only", "--into-existing"]);
    assert_eq!(plan["status"], "complete");
    assert_same(&scene.original, "latin", &scene.copy, "l2");
    let document =
        scene.restore(1, &["--database", "latin", "--as", "l2", "--data-only", "--into-existing"]);
    let said = problems(&document["details"]);
    assert!(said.iter().any(|one| one.contains("tables have rows already")), "{said:?}");
    scene.restore(0, &["--database", "latin", "--as", "l2", "--data-only", "--clean"]);
    assert_same(&scene.original, "latin", &scene.copy, "l2");
}

/// Objects of kinds that have no table, and an object with a password.
const ODD: &str = "
    CREATE ROLE keeper;
    CREATE FOREIGN DATA WRAPPER wrapper;
    CREATE SERVER far FOREIGN DATA WRAPPER wrapper;
    CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u', password 'hunter2');
    CREATE COLLATION by_code (locale = 'C');
    CREATE FUNCTION same(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT $1 = $2';
    CREATE OPERATOR === (FUNCTION = same, LEFTARG = integer, RIGHTARG = integer);
    CREATE OPERATOR FAMILY family USING btree;
    CREATE TEXT SEARCH CONFIGURATION plain (COPY = pg_catalog.simple);
    CREATE TABLE t (i integer);
    INSERT INTO t VALUES (1);
    ALTER TABLE t OWNER TO keeper;
    SELECT lo_from_bytea(4242, 'an object');";

/// What stands in the way is told before anything is changed, roles included; and what is refused is
/// shown without passwords.
#[test]
fn what_is_in_the_way_is_found_and_passwords_are_not_shown() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("odd");
    original.psql("odd", ODD);
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    copy.create_database("other");
    copy.psql(
        "other",
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql
           AS $$ BEGIN RAISE 'no mappings here'; END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE USER MAPPING')
           EXECUTE FUNCTION refuse();",
    );
    let restore = |more: &[&str]| {
        let options = [&["--database", "odd", "--as", "other"], more].concat();
        restore(&vaulted.vault(), &copy, &options)
    };
    let nobodys = ["--into-existing", "--no-roles", "--no-owner", "--no-acl"];
    let out = run(&mut restore(&nobodys), LIMIT);
    assert_eq!(out.code(), Some(3), "{}{}", out.text(), out.errors());
    let said = out.text() + &out.errors();
    assert!(said.contains("no mappings here"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let refused = |words: &[&str], more: &[&str]| {
        let document = ends(1, &mut restore(more));
        let said = problems(&document["details"]).join("\n");
        assert!(words.iter().all(|one| said.contains(one)), "{said}");
    };
    copy.psql("other", "DROP TABLE t");
    let names = [
        "foreign data wrapper wrapper",
        "server far",
        "collation public.by_code",
        "operator public.===",
        "operator family public.family",
        "text search configuration public.plain",
        "1 large objects are there already: 4242",
    ];
    refused(&names, &["--into-existing"]);
    let keepers = "SELECT count(*) FROM pg_roles WHERE rolname = 'keeper'";
    assert_eq!(copy.psql("other", "SELECT to_regclass('t') IS NULL"), "t");

    copy.psql("other", "CREATE TABLE t (i integer); CREATE VIEW v AS SELECT * FROM t");
    let document = ends(1, &mut restore(&["--table", "t", "--clean"]));
    let error = document["error"].as_str().expect("a text");
    assert!(error.contains("view public.v depends on table public.t"), "{error}");
    assert!(document["details"].is_null(), "nothing was changed: {document:#}");

    copy.psql(
        "other",
        "CREATE SUBSCRIPTION holds CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)",
    );
    refused(&["cannot be dropped while it has these: subscription holds"], &["--clean"]);
    assert_eq!(copy.psql("other", keepers), "0");
}

/// The server's disk gets full in the middle: that is said in its words, and with more room the
/// restore goes on to the end.
#[test]
fn a_full_disk_of_the_target_is_told_and_the_restore_continues_with_more_room() {
    let original = Server::start(Version::V18);
    let copy = Server::options(Version::V18).small_disk(64).start();
    original.create_database("rows");
    original.psql(
        "rows",
        "CREATE TABLE small AS SELECT i FROM generate_series(1, 1000) i;
         CREATE TABLE large AS SELECT i AS id, repeat(md5(i::text), 8) AS t
           FROM generate_series(1, 100000) i;
         ALTER TABLE large ADD PRIMARY KEY (id);",
    );
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    let disk = copy.small_disk();
    let disk = disk.display();
    copy.psql("postgres", &format!("CREATE TABLESPACE little LOCATION '{disk}'"));
    copy.psql("postgres", "CREATE DATABASE rows TEMPLATE template0 TABLESPACE little");
    let other_files = format!("COPY (SELECT 1) TO PROGRAM 'head -c 40M /dev/zero >{disk}/other'");
    copy.psql("postgres", &other_files);

    let options = ["--database", "rows", "--into-existing"];
    let out = run(&mut restore(&vaulted.vault(), &copy, &options), LIMIT);
    let said = out.text() + &out.errors();
    assert!(matches!(out.code(), Some(1 | 3)), "{:?}: {said}", out.code());
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("large"), "{said}");

    copy.psql("postgres", &format!("COPY (SELECT 1) TO PROGRAM 'rm {disk}/other'"));
    let report =
        ends(0, &mut restore(&vaulted.vault(), &copy, &["--database", "rows", "--continue"]));
    rows_are_told(&report, "rows");
    assert_same(&original, "rows", &copy, "rows");
}

#[test]
fn rows_of_all_lengths_and_twenty_thousand_large_objects_come_back() {
    let (original, copy) = (Server::start(Version::V18), Server::start(Version::V18));
    original.create_database("rows");
    original.psql(
        "rows",
        r"CREATE TABLE sixty_megabytes AS
            SELECT 1 AS id, string_agg(md5(i::text), '') AS t FROM generate_series(1, 1900000) i;
          INSERT INTO sixty_megabytes VALUES (2, NULL), (3, ''), (4, '\N'), (5, '\.');
          CREATE TABLE cut_in_a_character AS SELECT 'a' || repeat('é', 13000000) AS t;
          CREATE TABLE no_columns ();
          INSERT INTO no_columns SELECT FROM generate_series(1, 30000);
          CREATE TABLE large (id integer PRIMARY KEY, a text, b integer);
          INSERT INTO large SELECT i, md5(i::text) || repeat(' some more text', 8), i % 100
            FROM generate_series(1, 1000000) i;
          CREATE INDEX ON large (b);
          CREATE TABLE child (id integer REFERENCES large, note text);
          INSERT INTO child SELECT i, 'x' FROM generate_series(1, 200000) i;
          SELECT count(lo_from_bytea(1000 + i, convert_to('object ' || i, 'UTF8')))
            FROM generate_series(1, 20000) i;
          SELECT lo_from_bytea(1, convert_to((SELECT string_agg(md5(i::text), '')
            FROM generate_series(1, 900000) i), 'UTF8'));",
    );
    let vaulted = Vaulted::new();
    vaulted.backup(&original, Version::V18);
    let report = ends(0, &mut restore(&vaulted.vault(), &copy, &["--database", "rows"]));
    assert_eq!(database(&report, "rows")["large_objects"], 20_001);
    assert_same(&original, "rows", &copy, "rows");
}
