//! Backed up, exported, restored by the stock tools: the copy is the original.
//!
//! Between servers of one version no difference is tolerated. Those that come from a newer
//! pg_dump or to a newer server stand in `ONLY_SINCE_16` and `DIFFERENT_ON_18`.

mod vaulted;

use std::fs;
use std::process::Command;

use flexkeep_tests::{
    SAMPLE_DATABASES, Server, Version, compare_databases, compare_roles, load_everything, pg_tool,
    restore_archive, run,
};
use vaulted::{Exported, LIMIT, Vaulted, assert_same, assert_same_on, restore_in_parallel, stock};

const SAMPLE: &str = "everything";

fn sample(version: Version) -> (Server, Server) {
    let original = Server::start(version);
    load_everything(&original);
    (original, Server::start(version))
}

/// Roles, and all databases with four jobs.
#[track_caller]
fn restore_server(original: &Server, copy: &Server, exported: &Exported) {
    exported.restore_roles(copy);
    for database in SAMPLE_DATABASES {
        restore_in_parallel(copy, database, &exported.archive(database), &["--create"], &[]);
        assert_same_on(original, copy, database);
    }
    assert_eq!(compare_roles(original, copy), Vec::<String>::new());
}

/// A database that nobody may connect to is the only one of the sample that is not backed up.
const CLOSED: &str = r#"1 "database" ["closed"]"#;

#[test]
fn the_sample_of_15_comes_back_whole_through_pg_restore_15() {
    let (original, copy) = sample(Version::V15);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, Version::V15);
    assert_eq!(backup.losses(), [CLOSED]);
    let exported = vaulted.export(&backup, "out", &["--pg-restore", "15"]);
    restore_server(&original, &copy, &exported);
    copy.create_database("serial");
    restore_archive(&copy, "serial", Version::V15, &exported.archive(SAMPLE), &[]);
    assert_same(&original, SAMPLE, &copy, "serial");
}

#[test]
fn the_sample_of_17_comes_back_whole() {
    let (original, copy) = sample(Version::V17);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, Version::V17);
    assert_eq!(backup.losses(), [CLOSED]);
    let exported = vaulted.export(&backup, "out", &[]);
    restore_server(&original, &copy, &exported);
}

#[test]
fn the_sample_of_18_comes_back_whole_in_every_mode_of_pg_restore() {
    let (original, copy) = sample(Version::V18);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, Version::V18);
    assert_eq!(backup.losses(), [CLOSED]);
    let exported = vaulted.export(&backup, "out", &[]);
    restore_server(&original, &copy, &exported);

    let scene = Modes { original: &original, copy: &copy, exported: &exported };
    scene.steps("serial", &[&[]]);
    scene.steps(
        "sections",
        &[
            &["--section=pre-data"],
            &["--section=data", "--disable-triggers"],
            &["--section=post-data"],
        ],
    );
    scene.through_a_pipe();
    scene.as_text(&vaulted);
    scene.by_an_edited_list(&vaulted);
    scene.one_table();
    scene.data_only();
}

/// One archive of the sample, restored in many ways.
struct Modes<'a> {
    original: &'a Server,
    copy: &'a Server,
    exported: &'a Exported,
}

impl Modes<'_> {
    #[track_caller]
    fn steps(&self, name: &str, steps: &[&[&str]]) {
        self.copy.create_database(name);
        let archive = self.exported.archive(SAMPLE);
        for options in steps {
            restore_archive(self.copy, name, self.copy.version(), &archive, options);
        }
        assert_same(self.original, SAMPLE, self.copy, name);
        self.drop_database(name);
    }

    fn data_only(&self) {
        self.copy.create_database("data_only");
        let (archive, version) = (self.exported.archive(SAMPLE), self.copy.version());
        restore_archive(self.copy, "data_only", version, &archive, &["--schema-only"]);
        // Rows that are older than these constraints do not pass them: they were made NOT VALID.
        self.copy.psql(
            "data_only",
            r#"ALTER TABLE app.chicken DROP CONSTRAINT small;
            ALTER TABLE app.not_enforced DROP CONSTRAINT "b is there""#,
        );
        let options = ["--data-only", "--disable-triggers"];
        restore_archive(self.copy, "data_only", version, &archive, &options);
        self.copy.psql(
            "data_only",
            r#"ALTER TABLE app.chicken ADD CONSTRAINT small CHECK (id < 500) NOT VALID;
            ALTER TABLE app.not_enforced ADD CONSTRAINT "b is there" NOT NULL b NOT VALID;
            REFRESH MATERIALIZED VIEW app.totals; REFRESH MATERIALIZED VIEW app.of_totals"#,
        );
        let mut differences = compare_databases(self.original, SAMPLE, self.copy, "data_only");
        // pg_restore enables all triggers afterwards, whatever they were before.
        differences.retain(|one| !one.contains("; Type: TRIGGER; "));
        assert_eq!(differences, Vec::<String>::new());
        self.drop_database("data_only");
    }

    fn through_a_pipe(&self) {
        self.copy.create_database("pipe");
        let program = pg_tool("pg_restore", self.copy.version());
        // A file as its standard input would let it seek.
        let mut restore = Command::new("sh");
        restore.args(["-c", r#"cat "$1" | "$2" --exit-on-error -d "$3""#, "sh"]);
        restore.arg(self.exported.archive(SAMPLE)).arg(program).arg(self.copy.conninfo("pipe"));
        let out = run(&mut restore, LIMIT).expect_success();
        assert_eq!(out.errors(), "");
        assert_same(self.original, SAMPLE, self.copy, "pipe");
        self.drop_database("pipe");
    }

    fn as_text(&self, vaulted: &Vaulted) {
        let text = vaulted.path("out.sql");
        let file = text.to_str().expect("a plain path");
        let archive = self.exported.archive(SAMPLE);
        stock("pg_restore", self.copy.version(), &["-f", file], &archive);
        self.copy.create_database("text");
        self.copy.psql_file("text", &text);
        assert_same(self.original, SAMPLE, self.copy, "text");
        self.drop_database("text");
    }

    /// Without the rows of one table, and with the rows of another one last.
    fn by_an_edited_list(&self, vaulted: &Vaulted) {
        let archive = self.exported.archive(SAMPLE);
        let list = stock("pg_restore", self.copy.version(), &["-l"], &archive);
        let (mut kept, mut last) = (Vec::new(), Vec::new());
        for line in list.lines() {
            if line.contains("TABLE DATA app other_method ") {
                last.push(line);
            } else if !line.contains("TABLE DATA app deleted_rows ") {
                kept.push(line);
            }
        }
        assert_eq!((last.len(), list.lines().count() - kept.len()), (1, 2), "{list}");
        let file = vaulted.path("list");
        fs::write(&file, [kept, last].concat().join("\n")).expect("our own folder");
        self.copy.create_database("list");
        let options = ["-L", file.to_str().expect("a plain path")];
        restore_archive(self.copy, "list", self.copy.version(), &archive, &options);
        let differences = compare_databases(self.original, SAMPLE, self.copy, "list");
        assert_eq!(differences.len(), 1, "{differences:#?}");
        assert!(differences[0].starts_with("rows app.deleted_rows: "), "{differences:#?}");
        self.drop_database("list");
    }

    fn one_table(&self) {
        self.copy.create_database("part");
        self.copy.psql("part", "CREATE SCHEMA app");
        let options = ["-n", "app", "-t", "deleted_rows"];
        let archive = self.exported.archive(SAMPLE);
        restore_archive(self.copy, "part", self.copy.version(), &archive, &options);
        let rows =
            "SELECT count(*), md5(string_agg(t::text, '' ORDER BY i)) FROM app.deleted_rows t";
        assert_eq!(self.copy.psql("part", rows), self.original.psql(SAMPLE, rows));
        let tables = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' \
                      AND relnamespace = 'app'::regnamespace";
        assert_eq!(self.copy.psql("part", tables), "deleted_rows");
        self.drop_database("part");
    }

    fn drop_database(&self, name: &str) {
        self.copy.psql(name, "DROP SUBSCRIPTION IF EXISTS from_far");
        self.copy.psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}

/// What pg_dump 18 writes about a server of 15 in words that 15 does not know: `run_as_owner`.
const ONLY_SINCE_16: &str = "SUBSCRIPTION";

/// What is written otherwise about a server of 15 than about its copy on 18, and why.
const DIFFERENT_ON_18: [(&str, &str); 3] = [
    ("MAINTAIN", "a right since 17, which a GRANT ALL written by 15 gives there too"),
    ("; Type: VIEW; ", "since 16, a column of a view's only table is written without the table"),
    ("; Type: MATERIALIZED VIEW; ", "the same"),
];

fn is_expected_on_18(difference: &str) -> bool {
    difference.starts_with("schema ")
        && !difference.ends_with("only in the copy: nothing")
        && DIFFERENT_ON_18.iter().any(|(part, _)| difference.contains(part))
}

#[test]
fn a_backup_of_15_by_pg_dump_18_restores_into_15_and_into_18() {
    let (original, copy) = sample(Version::V15);
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, Version::V18);
    assert_eq!(backup.losses(), [CLOSED]);
    let exported = vaulted.export(&backup, "for-15", &["--pg-restore", "15"]);
    exported.restore_roles(&copy);
    for database in SAMPLE_DATABASES {
        let left_out = [ONLY_SINCE_16];
        let archive = exported.archive(database);
        restore_in_parallel(&copy, database, &archive, &["--create"], &left_out);
        let mut differences = compare_databases(&original, database, &copy, database);
        differences.retain(|one| {
            !one.contains("Type: SUBSCRIPTION")
                && !one.contains(" SUBSCRIPTION from_far; Type: COMMENT")
        });
        assert_eq!(differences, Vec::<String>::new(), "{database:?} on 15");
    }
    drop(copy);

    let copy = Server::start(Version::V18);
    let exported = vaulted.export(&backup, "for-18", &[]);
    exported.restore_roles(&copy);
    for database in SAMPLE_DATABASES {
        restore_in_parallel(&copy, database, &exported.archive(database), &["--create"], &[]);
        let mut differences = compare_databases(&original, database, &copy, database);
        differences.retain(|one| !is_expected_on_18(one));
        assert_eq!(differences, Vec::<String>::new(), "{database:?} on 18");
    }
}

/// Data that is awkward to cut.
const ROWS: &str = r"
    -- A chunk ends at the first row end past 16 MiB, or at 24 MiB within a row. A row of a text
    -- column is one byte longer than the text.
    CREATE TABLE around_the_cuts (t text);
    INSERT INTO around_the_cuts SELECT repeat('0123456789abcdef', n / 16) || repeat('!', n % 16)
      FROM unnest(ARRAY[16777214, 16777215, 16777216, 3, 25165822, 25165823, 25165824, 25165825, 0,
                        8388607, 8388607, 8388608, 8388607, 16777214, 8388608, 1]) n;
    CREATE TABLE sixty_megabytes AS
      SELECT 1 AS id, string_agg(md5(i::text), '') AS t FROM generate_series(1, 1900000) i;
    INSERT INTO sixty_megabytes VALUES (2, NULL), (3, ''), (4, '\N'), (5, '\.');
    -- Where a chunk ends there is an escape, or a character of two bytes.
    CREATE TABLE cut_in_an_escape AS SELECT 'a' || repeat(E'\n\\\t', 4500000) AS t;
    CREATE TABLE cut_in_a_character AS SELECT 'a' || repeat('é', 13000000) AS t;
    CREATE TABLE no_columns ();
    INSERT INTO no_columns SELECT FROM generate_series(1, 300000);
    CREATE TABLE all_generated (a integer GENERATED ALWAYS AS (42) STORED);
    INSERT INTO all_generated SELECT FROM generate_series(1, 100000);
    CREATE TABLE toasted (id integer, raw bytea);
    ALTER TABLE toasted ALTER raw SET STORAGE EXTERNAL;
    INSERT INTO toasted SELECT i, decode((SELECT string_agg(md5(i || ' ' || j), '')
      FROM generate_series(1, 1500) j), 'hex') FROM generate_series(1, 600) i;
    CREATE UNLOGGED TABLE unlogged AS SELECT i, md5(i::text) FROM generate_series(1, 40000) i;
    CREATE TABLE parent (id integer, t text);
    CREATE TABLE child () INHERITS (parent);
    CREATE TABLE grandchild (more text) INHERITS (child);
    INSERT INTO parent SELECT i, md5(i::text) FROM generate_series(1, 30000) i;
    INSERT INTO child SELECT i, md5(i::text) FROM generate_series(30001, 60000) i;
    INSERT INTO grandchild SELECT i, md5(i::text), 'more' FROM generate_series(60001, 90000) i;
    CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
    CREATE TABLE through_the_root (c colour, v integer) PARTITION BY HASH (c);
    SELECT format('CREATE TABLE leaf_%s PARTITION OF through_the_root FOR VALUES WITH (MODULUS 3, REMAINDER %1$s)', i)
      FROM generate_series(0, 2) i \gexec
    INSERT INTO through_the_root SELECT (enum_range(NULL::colour))[1 + i % 3], i FROM generate_series(1, 60000) i;
    -- Pages without rows at the beginning, in the middle and at the end.
    CREATE TABLE holes AS SELECT i, repeat('h', 100) AS t FROM generate_series(1, 100000) i;
    DELETE FROM holes WHERE i < 20000 OR i BETWEEN 40000 AND 70000 OR i > 90000;
";

/// What an administrator may have set for a database, and no backup may stumble over.
const AWKWARD_SETTINGS: [&str; 8] = [
    "enable_seqscan = off",
    "enable_tidscan = off",
    "statement_timeout = '200ms'",
    "lock_timeout = '100ms'",
    "idle_in_transaction_session_timeout = '200ms'",
    "transaction_timeout = '500ms'",
    "client_encoding = 'LATIN1'",
    "default_transaction_isolation = 'serializable'",
];

#[test]
fn rows_of_all_lengths_and_tables_of_odd_shapes_come_back() {
    let server = Server::start(Version::V18);
    server.create_database("rows");
    server.psql("rows", ROWS);
    for setting in AWKWARD_SETTINGS {
        server.psql("postgres", &format!("ALTER DATABASE rows SET {setting}"));
    }
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&server, Version::V18);
    assert_eq!(backup.losses(), Vec::<String>::new());
    server.psql("postgres", "ALTER DATABASE rows RESET ALL");
    let exported = vaulted.export(&backup, "out", &["--database", "rows"]);
    server.create_database("copy");
    let archive = exported.archive("rows");
    restore_archive(&server, "copy", Version::V18, &archive, &["-j", "2"]);
    assert_same(&server, "rows", &server, "copy");

    // Once more as zlib streams, which have no pieces.
    let exported = vaulted.export(&backup, "zlib", &["--database", "rows", "--pg-restore", "15"]);
    server.psql("postgres", "DROP DATABASE copy");
    server.create_database("copy");
    let archive = exported.archive("rows");
    restore_archive(&server, "copy", Version::V18, &archive, &["-j", "2"]);
    assert_same(&server, "rows", &server, "copy");
}

#[test]
fn a_hundred_thousand_large_objects_and_one_of_60_megabytes_come_back() {
    let server = Server::start(Version::V18);
    server.create_database("objects");
    server.psql(
        "objects",
        "SELECT count(lo_from_bytea(1000 + i, convert_to('object ' || i, 'UTF8')))
           FROM generate_series(1, 100000) i;
         SELECT lo_from_bytea(1, convert_to((SELECT string_agg(md5(i::text), '')
           FROM generate_series(1, 1900000) i), 'UTF8'));
         -- Around the lengths at which a chunk is cut.
         SELECT lo_from_bytea(n::oid, convert_to(repeat('0123456789abcdef', n / 16), 'UTF8'))
           FROM unnest(ARRAY[16777200, 16777216, 16777232, 25165808, 25165824, 25165840]) n;
         SELECT lo_create(2);
         BEGIN;
         SELECT lo_truncate64(lo_open(2, 131072), 50000000);
         COMMIT;
         SELECT lo_put(2, 49999999, '!');",
    );
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&server, Version::V18);
    assert_eq!(backup.losses(), Vec::<String>::new());
    assert_eq!(backup.total("large_objects"), 100_008);
    let exported = vaulted.export(&backup, "out", &["--database", "objects"]);
    server.create_database("copy");
    let archive = exported.archive("objects");
    restore_archive(&server, "copy", Version::V18, &archive, &["-j", "2"]);
    assert_same(&server, "objects", &server, "copy");
    eprint(&format!("100,008 large objects: backup in {:.1} s", backup.took.as_secs_f64()));

    // A second backup finds all of it in the vault.
    let again = vaulted.backup(&server, Version::V18);
    let copies = again.manifest["databases"].as_array().expect("a list").len();
    assert_eq!(copies, 3);
    assert_eq!(again.total("new_chunks"), 0, "{:#}", again.manifest["totals"]);
}

/// Times are for whoever reads the output of a test.
#[expect(clippy::print_stderr, reason = "a test says how long it took")]
fn eprint(text: &str) {
    eprintln!("{text}");
}

#[test]
fn a_change_of_one_percent_costs_little_and_no_change_costs_nothing() {
    let server = Server::options(Version::V18).conf("autovacuum = off").start();
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders (id integer PRIMARY KEY, placed timestamptz, state text, note text);
         INSERT INTO orders SELECT i, '2026-01-01'::timestamptz + i * interval '1 minute', 'open',
             md5(i::text) || md5((-i)::text) || md5((i * 7)::text) || md5((i * 11)::text)
           FROM generate_series(1, 600000) i",
    );
    let vaulted = Vaulted::new();
    let first = vaulted.backup(&server, Version::V18);
    assert!(first.total("raw_bytes") > 90_000_000, "{:#}", first.manifest["totals"]);

    server.psql("shop", "UPDATE orders SET state = 'sent' WHERE id > 594000");
    let second = vaulted.backup(&server, Version::V18);
    let (all, new) = (first.total("new_stored_bytes"), second.total("new_stored_bytes"));
    assert!(new > 0 && new * 100 < all * 3, "{new} of {all} bytes are new");

    let third = vaulted.backup(&server, Version::V18);
    assert_eq!(third.total("new_chunks"), 0, "{:#}", third.manifest["totals"]);
    assert_eq!(third.total("new_stored_bytes"), 0);

    // Grown by half: what was there is not stored again.
    server.psql(
        "shop",
        "INSERT INTO orders SELECT i, now(), 'new', md5(i::text) FROM generate_series(600001, 900000) i",
    );
    let grown = vaulted.backup(&server, Version::V18);
    assert!(grown.total("new_stored_bytes") * 2 < all, "{:#}", grown.manifest["totals"]);

    let source = &Server::start(Version::V18);
    for (backup, rows) in [(&second, 600_000), (&grown, 900_000)] {
        assert_eq!(backup.total("rows"), rows);
        let exported = vaulted.export(backup, &backup.id, &["--database", "shop"]);
        source.psql("postgres", "DROP DATABASE IF EXISTS shop");
        let archive = exported.archive("shop");
        restore_archive(source, "postgres", Version::V18, &archive, &["-C", "-j", "2"]);
        let sent = source.psql("shop", "SELECT count(*) FROM orders WHERE state = 'sent'");
        assert_eq!(sent, "6000");
    }
    assert_same(&server, "shop", source, "shop");
    // The second backup is as the table was then.
    source.psql("shop", "DELETE FROM orders WHERE id > 600000");
    let exported = vaulted.export(&second, "second", &["--database", "shop"]);
    source.create_database("then");
    restore_archive(source, "then", Version::V18, &exported.archive("shop"), &[]);
    assert_same(source, "shop", source, "then");
}

/// Columns of every type that is taken in binary format, with what is special in each, and a row that
/// is longer than any buffer.
const BINARY: &str = "
    CREATE TYPE mood AS ENUM ('fair', E'b\\\\ad', 'un\tsure');
    CREATE DOMAIN code AS varchar(12) CHECK (value <> 'x');
    CREATE TABLE wide (id bigint, at timestamptz, until timestamp, day date, who uuid, ok boolean,
      note text, doc jsonb, old json, raw bytea, amount numeric, price numeric(9,3), few smallint, several
      integer, mood mood, code code, \"Padded\" char(9), other oid, short name, gone text,
      made text GENERATED ALWAYS AS ('made') STORED);
    ALTER TABLE wide DROP COLUMN gone;
    INSERT INTO wide SELECT i, '2024-02-27'::timestamptz + i * interval '7.000013 s', '1970-01-01'::timestamp
      - i * interval '9 days', '2000-03-01'::date - i, md5(i::text)::uuid, i % 3 = 0,
      CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN E'tab\\t, line\\n, \\\\ and \\r' || i ELSE repeat(md5(i::text) || ' ', i % 9) END,
      jsonb_build_object('id', i, 'text', 'a \"b\" \\ ' || chr(9) || i), json_build_array(i, NULL), decode(md5(i::text), 'hex'),
      (i - 30000) / 7.0, i / 100.0 - 300, i % 30000, -i, (ARRAY['fair', E'b\\\\ad', 'un\tsure', NULL]::mood[])[1 + i % 4],
      'c' || i, 'p' || i % 7, i, 'n' || i FROM generate_series(1, 60000) i;
    INSERT INTO wide (id, at, note, raw, doc) VALUES (0, 'infinity', repeat(E'long\\t\\\\', 400000),
      decode(repeat('00ff5c09', 200000), 'hex'), to_jsonb(repeat('x\"', 300000)));
    CREATE TABLE numbers AS SELECT i AS a, i * 2 AS b, i / 7.0 AS c FROM generate_series(1, 250000) i;
    ANALYZE;";

#[test]
fn a_table_that_is_read_in_binary_format_is_the_same_as_one_that_is_read_as_text() {
    let original = Server::options(Version::V18).conf("log_statement = all").start();
    let copy = Server::start(Version::V18);
    original.create_database("shop");
    original.psql("shop", BINARY);
    let asked = |words: &str| {
        let log = original.log();
        log.lines().filter(|line| line.contains(words) && line.contains("STDOUT")).count()
    };
    let binary = || {
        let log = original.log();
        let copies = log.lines().filter(|line| line.contains("(FORMAT binary)"));
        copies.map(|line| (line.contains("public.wide"), line.contains("public.numbers"))).collect()
    };
    let vaulted = Vaulted::new();
    let first = vaulted.backup(&original, Version::V18);
    let read: Vec<(bool, bool)> = binary();
    assert!(!read.is_empty() && read.iter().all(|one| *one == (true, false)), "{read:?}");
    assert!(asked("public.numbers") > 0);
    let exported = vaulted.export(&first, "out", &[]);
    restore_in_parallel(&copy, "shop", &exported.archive("shop"), &["--create"], &[]);
    assert_same(&original, "shop", &copy, "shop");

    // A time zone that is not known to be UTC, and is: times are text again, and all chunks are known.
    original.psql("postgres", "ALTER DATABASE shop SET timezone = 'GMT0'");
    let before = asked("public.wide");
    let second = vaulted.backup(&original, Version::V18);
    assert!(asked("public.wide") > before);
    assert_eq!(binary(), read, "nothing more is read in binary format");
    assert_eq!((second.total("new_chunks"), second.total("rows")), (0, first.total("rows")));
}
