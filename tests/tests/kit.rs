//! The kit itself: servers come, go and survive; stock tools' copies are equal; planted
//! differences are found.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{
    SAMPLE_DATABASES, Server, Version, compare_databases, compare_properties, compare_roles,
    dump_archive, load_everything, pg_command, restore_archive, run,
};

/// Gives the servers, original and copy.
fn round_trip(version: Version) -> (Server, Server) {
    let original = Server::start(version);
    load_everything(&original);
    let copy = Server::start(version);
    copy_roles(&original, &copy);
    let dir = tempfile::tempdir().expect("a folder");
    for database in SAMPLE_DATABASES {
        let file = dir.path().join("dump");
        dump_archive(&original, database, version, &file, &[]);
        restore_archive(&copy, "postgres", version, &file, &["--create"]);
        assert_eq!(compare_databases(&original, database, &copy, database), Vec::<String>::new());
        assert_eq!(compare_properties(&original, database, &copy, database), Vec::<String>::new());
    }
    assert_eq!(compare_roles(&original, &copy), Vec::<String>::new());
    (original, copy)
}

/// Through stock pg_dumpall. It also creates `postgres`, which is there.
fn copy_roles(original: &Server, copy: &Server) {
    let mut command = pg_command("pg_dumpall", original.version());
    command.args(["--globals-only", "-d"]).arg(original.conninfo("postgres"));
    let roles = run(&mut command, Duration::from_secs(60)).expect_success().text();
    copy.psql("postgres", &roles.replace("CREATE ROLE postgres;", ""));
}

#[test]
#[ignore = "18 has more to compare; make soak runs it"]
fn on_15_a_stock_copy_of_the_sample_is_equal() {
    round_trip(Version::V15);
}

#[test]
#[ignore = "between two that are tested; make soak runs it"]
fn on_17_a_stock_copy_of_the_sample_is_equal() {
    round_trip(Version::V17);
}

#[test]
fn on_18_a_stock_copy_of_the_sample_is_equal() {
    let (original, copy) = round_trip(Version::V18);
    // Equal is worth something only if a difference anywhere in it would be seen.
    copy.psql(
        "everything",
        r#"SET session_replication_role = replica;
        UPDATE app.huge SET t = overlay(t PLACING '-' FROM 20000000) WHERE id = 1;
        UPDATE app.by_enum_hash SET v = 501 WHERE v = 500;
        INSERT INTO app.no_columns DEFAULT VALUES;
        UPDATE flexkeep_test.units SET name = 'Furlong' WHERE name = 'furlong';
        UPDATE app.numbers SET f8 = 0 WHERE i2 = 4;
        UPDATE app.kinds SET x = '<a/>' WHERE x IS NOT NULL;
        INSERT INTO app.partly_far_near VALUES (99, NULL);
        UPDATE app.orders_2026h2 SET note = '' WHERE id = 10000;
        INSERT INTO "Schema ""with"" 'all' of.it %s \ (x) é
and a newline"."new
line" VALUES (NULL);
        SELECT lo_put(100006, 2999999, 'x'), lo_put(201234, 0, 'S');
        SELECT setval('app.down', -7, false);
        ALTER TABLE app.customers ALTER email SET STATISTICS 322;"#,
    );
    let differences = compare_databases(&original, "everything", &copy, "everything");
    let mut found: Vec<_> = differences.iter().map(|d| d.split(": ").next().unwrap_or(d)).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "large object 100006",
            "large object 201234",
            "rows \"Schema \"\"with\"\" 'all' of.it %s \\ (x) é\nand a newline\".\"new\nline\"",
            "rows app.by_enum_hash",
            "rows app.huge",
            "rows app.kinds",
            "rows app.no_columns",
            "rows app.numbers",
            "rows app.orders",
            "rows app.orders_2026h2",
            "rows app.partly_far_near",
            "rows flexkeep_test.units",
            "schema \"-- Name",
            "sequence app.down",
        ]
    );
}

#[test]
fn planted_differences_are_found() {
    let server = Server::start(Version::V18);
    let fill = "CREATE TABLE t (id integer PRIMARY KEY, v text);
        INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i;
        CREATE TABLE twice (v integer); INSERT INTO twice VALUES (1), (1), (2);
        CREATE SEQUENCE s; SELECT nextval('s');
        CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t;
        SELECT lo_from_bytea(7, 'seven');";
    server.create_database("original");
    server.psql("original", fill);
    let plants = [
        ("UPDATE t SET v = 'other' WHERE id = 50", "rows public.t"),
        ("DELETE FROM t WHERE id = 50", "rows public.t"),
        ("UPDATE t SET v = NULL WHERE id = 50", "rows public.t"),
        ("UPDATE twice SET v = 2 WHERE ctid = '(0,1)'", "rows public.twice"),
        ("DELETE FROM t WHERE id < 3; REFRESH MATERIALIZED VIEW m", "rows public.m"),
        ("SELECT nextval('s')", "sequence public.s"),
        ("SELECT lo_put(7, 1, 'E')", "large object 7"),
        ("GRANT SELECT ON LARGE OBJECT 7 TO PUBLIC", "large object 7"),
        ("COMMENT ON LARGE OBJECT 7 IS 'x'", "large object 7"),
        ("SELECT lo_unlink(7)", "large object 7"),
        ("CREATE INDEX extra ON t (v)", "Name: extra; Type: INDEX"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", "Name: t t_pkey; Type: CONSTRAINT"),
        ("GRANT SELECT ON t TO PUBLIC", "Name: TABLE t; Type: ACL"),
        ("DROP TABLE t CASCADE", "rows public.t"),
        ("ALTER TABLE t ALTER v SET DEFAULT 'x'", "Name: t; Type: TABLE"),
    ];
    for (number, (plant, found)) in plants.into_iter().enumerate() {
        let copy = format!("copy{number}");
        server.create_database(&copy);
        server.psql(&copy, fill);
        assert_eq!(compare_databases(&server, "original", &server, &copy), Vec::<String>::new());
        server.psql(&copy, plant);
        let differences = compare_databases(&server, "original", &server, &copy);
        assert!(
            differences.iter().any(|d| d.contains(found)),
            "{plant}: no {found:?} in {differences:#?}"
        );
    }
    server.psql("postgres", "ALTER DATABASE copy0 SET work_mem = '5MB'");
    assert_eq!(compare_properties(&server, "original", &server, "copy0").len(), 1);
}

#[test]
fn roles_that_differ_are_found() {
    let (one, two) = (Server::start(Version::V17), Server::start(Version::V18));
    assert_eq!(compare_roles(&one, &two), Vec::<String>::new());
    one.psql("postgres", "CREATE ROLE a; CREATE ROLE b; GRANT a TO b WITH INHERIT FALSE");
    two.psql("postgres", "CREATE ROLE a; CREATE ROLE b; GRANT a TO b");
    assert_eq!(compare_roles(&one, &two).len(), 1);
    two.psql("postgres", "ALTER ROLE a SET work_mem = '5MB'");
    assert_eq!(compare_roles(&one, &two).len(), 2);
}

#[test]
fn a_server_survives_a_crash_a_restart_and_a_pause() {
    let mut server = Server::start(Version::V18);
    server.psql("postgres", "CREATE TABLE t AS SELECT 1 AS i; CHECKPOINT");
    server.kill_nine();
    server.start_again();
    assert_eq!(server.psql("postgres", "SELECT i FROM t"), "1");
    server.restart();
    assert_eq!(server.psql("postgres", "SELECT i FROM t"), "1");

    server.pause();
    let mut command = pg_command("pg_isready", Version::V18);
    command.args(["-t", "1", "-d"]).arg(server.conninfo("postgres"));
    assert_ne!(run(&mut command, Duration::from_secs(20)).code(), Some(0));
    server.resume();
    assert_eq!(server.psql("postgres", "SELECT i FROM t"), "1");
}

#[test]
fn a_password_is_asked_for_and_given() {
    let server = Server::options(Version::V15).password(r"it's a \secret").start();
    assert_eq!(server.psql("postgres", "SELECT 1"), "1");
    let mut command = pg_command("psql", Version::V15);
    command.args(["-Xwc", "SELECT 1", "-d"]).arg(server.conninfo_as("postgres", None, "postgres"));
    let refused = run(&mut command, Duration::from_secs(20));
    assert!(refused.errors().contains("no password supplied"), "{}", refused.errors());
    let mut command = pg_command("psql", Version::V15);
    command.args(["-XAtc", "SELECT 1", "-d"]).arg(server.conninfo_tcp("postgres"));
    assert_eq!(run(&mut command, Duration::from_secs(20)).expect_success().text(), "1");
}

#[test]
fn encoding_and_settings_are_the_chosen_ones() {
    let server =
        Server::options(Version::V17).encoding("LATIN1", "C").conf("max_connections = 11").start();
    assert_eq!(server.psql("postgres", "SHOW server_encoding; SHOW max_connections"), "LATIN1\n11");
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let server = Server::start(Version::V18);
    let (data, log) = (server.data_dir(), server.log());
    assert!(log.contains("ready to accept connections"), "{log}");
    assert!(works_in(&data) > 0);
    server.pause();
    drop(server);
    assert!(!data.parent().expect("it has one").exists());
    assert_eq!(works_in(&data), 0);
}

#[test]
fn a_server_of_a_panicking_test_leaves_nothing() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let server = Server::start(Version::V18);
        sender.send(server.data_dir()).expect("it is waited for");
        panic!("on purpose");
    });
    let data = receiver.recv().expect("it is sent");
    assert!(test.join().is_err());
    assert!(!data.exists());
    assert_eq!(works_in(&data), 0);
}

/// The guard must also do its work when the test's process is killed, which no test survives to
/// see: so this one runs itself once more, and kills that.
#[test]
fn a_server_of_a_killed_test_leaves_nothing() {
    const CHILD: &str = "FLEXKEEP_KIT_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let server = Server::start(Version::V18);
        std::fs::write(
            std::env::var_os(CHILD).expect("just seen"),
            server.data_dir().to_str().expect("plain"),
        )
        .expect("a file of the parent's");
        std::thread::sleep(Duration::from_secs(60));
        panic!("the parent should have killed this process");
    }
    let note = tempfile::NamedTempFile::new().expect("a file");
    let mut child = Command::new(std::env::current_exe().expect("ours"))
        .args(["--exact", "a_server_of_a_killed_test_leaves_nothing"])
        .env(CHILD, note.path())
        .spawn()
        .expect("our own program");
    let data = wait_for(|| {
        let text = std::fs::read_to_string(note.path()).expect("a file");
        (!text.is_empty()).then_some(text)
    });
    let data = Path::new(&data);
    assert!(works_in(data) > 0);
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    wait_for(|| {
        (!data.parent().expect("it has one").exists() && works_in(data) == 0).then_some(())
    });
}

fn wait_for<T>(mut seen: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(value) = seen() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not seen in 30 seconds");
}

/// How many processes have that working directory.
fn works_in(data: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    processes
        .filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        .count()
}
