//! What is wrong outside of flexkeep: each has its exit code and names the thing and the way out.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use flexkeep_tests::{
    Output, Running, Server, TestVault, Version, flexkeep_command, json, pg_command, run,
};

const LIMIT: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(30);

/// The command fails with this code, and its JSON document and standard error say these words.
#[track_caller]
fn expect_failure(output: &Output, code: i32, words: &[&str]) {
    let said = format!("{}\n{}", output.text(), output.errors());
    assert_eq!(output.code(), Some(code), "{}\n{said}", output.command);
    for word in words {
        assert!(said.contains(word), "{word:?} is not said by {}\n{said}", output.command);
    }
    assert_eq!(json(output)["exit_code"], code, "{said}");
}

#[track_caller]
fn expect_no_backup(vault: &TestVault) {
    let manifests = vault.files("backups");
    assert!(manifests.is_empty(), "{manifests:?}");
}

fn small_server(version: Version) -> Server {
    let server = Server::start(version);
    server.create_database("shop");
    server.psql("shop", "CREATE TABLE orders AS SELECT i FROM generate_series(1, 1000) i");
    server
}

/// A table that is read by several COPY commands.
const BIG: &str = "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS filler \
                   FROM generate_series(1, 150000) i; CREATE INDEX big_index ON big (i)";

/// Makes whoever reads the table [`BIG`] wait, by a lock on its index, until [`release`].
#[track_caller]
fn hold(server: &Server, database: &str) -> Running {
    let mut command = pg_command("psql", server.version());
    command.args(["-Xqc", "BEGIN; REINDEX INDEX big_index; SELECT pg_sleep(80)", "-d"]);
    let holder = Running::start(command.arg(server.conninfo(database)));
    wait_for_activity(server, "wait_event = 'PgSleep'");
    holder
}

#[track_caller]
fn release(server: &Server, holder: Running) {
    server.psql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    );
    drop(holder);
}

#[track_caller]
fn wait_for_copy(server: &Server) {
    wait_for_activity(server, "application_name = 'flexkeep' AND query LIKE 'COPY (%'");
}

#[track_caller]
fn wait_for_activity(server: &Server, condition: &str) {
    let sql = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE {condition} AND state = 'active' \
         AND pid <> pg_backend_pid()"
    );
    let end = Instant::now() + LIMIT;
    while server.psql("postgres", &sql) != "t" {
        assert!(Instant::now() < end, "no activity with {condition}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut server = small_server(Version::V18);
    server.stop();
    let vault = TestVault::new();
    let out = run(&mut vault.backup(&server), SOON);
    let port = server.port().to_string();
    expect_failure(&out, 1, &["cannot connect", &port, &*server.socket_dir().to_string_lossy()]);
    let tcp = server.conninfo_tcp("postgres") + " sslmode=disable";
    let out = run(&mut vault.backup_from(&tcp, &server), SOON);
    expect_failure(&out, 1, &["cannot connect", "127.0.0.1", &port]);
    // Something that listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let from = format!("host=127.0.0.1 port={port} user=u sslmode=disable connect_timeout=2");
    let out = run(&mut vault.backup_from(&from, &server), SOON);
    expect_failure(&out, 1, &["127.0.0.1", &port.to_string()]);
    let out = run(&mut vault.backup_from("host=no-such-host.invalid user=u", &server), SOON);
    expect_failure(&out, 1, &["no-such-host.invalid"]);
    expect_no_backup(&vault);
}

#[test]
fn wrong_connection_strings_are_bad_input() {
    let server = Server::start(Version::V18);
    let vault = TestVault::new();
    for (text, word) in [
        ("nonsense", "without `=`"),
        ("host=h port=99999 user=u", "99999"),
        ("host=h port=five user=u", "five"),
        ("host=h hosst=h user=u", "hosst"),
        ("host=h user='never ends", "quote"),
        ("postgresql://u@h/d?nope=1", "the key behind dbname in the connection URI is unknown"),
        ("mysql://u@h/d", "postgresql://"),
        ("host=h user=u sslmode=sometimes", "sometimes"),
        ("host=h user=u connect_timeout=soon", "soon"),
        ("service=no-such-service", "no-such-service"),
        ("host=h user=u target_session_attrs=any-one", "any-one"),
    ] {
        let out = run(&mut vault.backup_from(text, &server), SOON);
        expect_failure(&out, 2, &[word]);
    }
    expect_no_backup(&vault);
}

#[test]
fn a_backup_whose_report_goes_nowhere_is_told_to_be_sealed() {
    let server = small_server(Version::V18);
    let vault = TestVault::new();
    for (number, quiet) in [false, true].into_iter().enumerate() {
        let mut command = vault.backup(&server);
        if quiet {
            command = flexkeep_command(&["backup", "--quiet", "--name", "src", "--from"]);
            command.arg(server.conninfo("postgres")).arg("--vault").arg(vault.place());
            command.arg("--pg-bin").arg(server.version().bin());
        }
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{errors}");
        let backups = vault.backups();
        assert_eq!(backups.len(), number + 1);
        let told = format!("backup {} is sealed, but that could not be reported", backups[number]);
        assert!(errors.contains(&told) && errors.contains("flexkeep show"), "{errors}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let to = vault.beside("out");
    let output = vault.export("src/latest", &to).stdout(full).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{errors}");
    assert!(errors.contains("the export into") && to.join("shop.dump").exists(), "{errors}");
}

#[test]
fn exports_can_be_read_by_their_owner_only() {
    let server = small_server(Version::V18);
    server.psql("shop", "SELECT lo_from_bytea(0, 'x')");
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let to = vault.beside("new/out");
    for format in ["custom", "directory", "plain"] {
        let mut command = vault.export("src/latest", &to);
        command.args(["--overwrite", "--format", format, "--pg-bin"]).arg(server.version().bin());
        run(&mut command, LIMIT).expect_success();
    }
    let mut folders = vec![vault.beside("new")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        let mode = |path: &std::path::Path| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions())
        };
        assert_eq!(mode(&folder) & 0o777, 0o700, "{}", folder.display());
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                assert_eq!(mode(&path) & 0o777, 0o600, "{}", path.display());
            }
        }
    }
    // Three of each database, roles, instructions, and what the folders hold.
    assert!(files > 8, "{files}");
}

#[test]
fn two_exports_into_one_folder_at_once_leave_whole_archives() {
    let server = small_server(Version::V18);
    server.psql("shop", BIG);
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let to = vault.beside("out");
    for format in ["custom", "directory"] {
        for _ in 0..3 {
            let start = || {
                let mut command = vault.export("src/latest", &to);
                Running::start(command.args(["--overwrite", "--format", format]))
            };
            let both = [start(), start()];
            for one in both {
                one.finish(LIMIT).expect_success();
            }
            let archive = to.join(if format == "custom" { "shop.dump" } else { "shop.dir" });
            let mut restore = pg_command("pg_restore", server.version());
            restore.args(["-f", "-"]).arg(&archive);
            let sql = run(&mut restore, LIMIT).expect_success().text();
            assert!(sql.matches('\n').count() > 150_000, "{format}");
        }
    }
    let left = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn a_wrong_password_and_a_database_that_is_not_there_are_named() {
    let server = Server::options(Version::V18).password("Right-1-secret").start();
    let vault = TestVault::new();
    let wrong = server.conninfo_as("postgres", Some("Wrong-2-secret"), "postgres");
    let out = run(&mut vault.backup_from(&wrong, &server), SOON);
    expect_failure(&out, 1, &["password authentication failed", "postgres", "PGPASSWORD"]);
    assert!(!(out.text() + &out.errors()).contains("Wrong-2-secret"));
    let none = server.conninfo_as("postgres", None, "postgres");
    let out = run(&mut vault.backup_from(&none, &server), SOON);
    expect_failure(&out, 1, &["password", "PGPASSWORD"]);
    let out = run(&mut vault.backup_from(&server.conninfo("nowhere"), &server), SOON);
    expect_failure(&out, 1, &["nowhere", "does not exist"]);
    expect_no_backup(&vault);
}

#[test]
fn tables_that_the_role_may_not_read_are_all_named() {
    let server = small_server(Version::V18);
    server.psql(
        "shop",
        "CREATE ROLE dumper LOGIN; CREATE TABLE salaries (v int); CREATE TABLE \"Kon ten\" (v int); \
         CREATE TABLE hidden (v int); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; \
         CREATE SEQUENCE numbers; \
         GRANT SELECT ON orders, hidden TO dumper",
    );
    let vault = TestVault::new();
    let from = server.conninfo_as("dumper", None, "postgres");
    let out = run(&mut vault.backup_from(&from, &server), SOON);
    let words = [
        "public.salaries",
        "Kon ten",
        "public.hidden",
        "sequence public.numbers",
        "\\\"shop\\\"",
        "grant SELECT",
        "BYPASSRLS",
    ];
    expect_failure(&out, 1, &words);
    expect_no_backup(&vault);
    server.psql("shop", "GRANT pg_read_all_data TO dumper; ALTER ROLE dumper BYPASSRLS");
    let out = run(&mut vault.backup_from(&from, &server), SOON);
    // That role may even read the passwords of roles.
    assert_eq!(out.code(), Some(0), "{}", out.errors());
}

#[test]
fn what_a_dump_role_cannot_read_is_listed_as_lost() {
    let server = small_server(Version::V17);
    server.psql(
        "shop",
        "CREATE ROLE dumper LOGIN; GRANT SELECT ON orders TO dumper; \
         CREATE ROLE other LOGIN PASSWORD 'x1'; \
         SELECT lo_from_bytea(4711, 'secret'); SELECT lo_from_bytea(4712, 'open'); \
         GRANT SELECT ON LARGE OBJECT 4712 TO dumper; \
         SELECT lo_from_bytea(4713, 'own'); ALTER LARGE OBJECT 4713 OWNER TO dumper; \
         REVOKE SELECT ON LARGE OBJECT 4713 FROM dumper; \
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; \
         CREATE USER MAPPING FOR other SERVER far OPTIONS (user 'a', password 'Far-3-secret'); \
         CREATE SERVER own FOREIGN DATA WRAPPER postgres_fdw; \
         GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO dumper; ALTER SERVER own OWNER TO dumper; \
         CREATE USER MAPPING FOR other SERVER own OPTIONS (user 'a'); \
         CREATE USER MAPPING FOR dumper SERVER own OPTIONS (user 'b'); \
         CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere dbname=x' PUBLICATION p \
         WITH (connect = false);",
    );
    for sql in [
        "CREATE DATABASE mould IS_TEMPLATE true",
        "CREATE DATABASE mule ENCODING 'MULE_INTERNAL' TEMPLATE template0 LOCALE 'C'",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'",
        "CREATE DATABASE \"a=b\"",
    ] {
        server.psql("postgres", sql);
    }
    server.psql("latin", "CREATE DATABASE U&\"\\00e9\" TEMPLATE template0");
    let vault = TestVault::new();
    let from = server.conninfo_as("dumper", None, "a=b");
    let out = run(&mut vault.backup_from(&from, &server), SOON);
    assert_eq!(out.code(), Some(3), "{}", out.errors());
    let document = json(&out);
    assert_eq!(document["status"], "with_losses");
    let losses = document["manifest"]["losses"].as_array().unwrap();
    for (kind, object) in [
        ("large object", "4711"),
        ("subscription", "sub"),
        ("large object", "4713"),
        ("user mapping options", "other on far"),
        ("user mapping options", "other on own"),
        ("database", "\u{fffd}"),
        ("role password", "other"),
    ] {
        let listed = losses.iter().any(|loss| {
            loss["kind"] == kind
                && loss["objects"].as_array().unwrap().iter().any(|name| name == object)
                && loss["reason"].as_str().is_some_and(|reason| !reason.is_empty())
        });
        assert!(listed, "no {kind} {object} in {losses:#?}");
    }
    for readable in ["4712", "dumper on own"] {
        assert!(!losses.iter().any(|l| l.to_string().contains(readable)), "{losses:#?}");
    }
    let databases = document["manifest"]["databases"].as_array().unwrap();
    let names: Vec<_> = databases.iter().map(|database| &database["name"]).collect();
    assert_eq!(names, ["a=b", "latin", "mule", "postgres", "shop"]);
    let notes = document["manifest"]["notes"].to_string();
    assert!(notes.contains("mould") && notes.contains("is a template"), "{notes}");
    let mut show = flexkeep_command(&["show", "src/latest", "--vault"]);
    let shown = run(show.arg(vault.place()), SOON).expect_success().text();
    assert!(shown.contains("NOT BACKED UP") && shown.contains("4711"), "{shown}");
    let quiet = run(vault.backup_from(&from, &server).args(["--progress", "none"]), SOON);
    assert_eq!(quiet.code(), Some(3));
}

#[test]
fn pg_dump_must_be_there_and_new_enough() {
    let server = small_server(Version::V18);
    let vault = TestVault::new();
    let backup = |bin: &std::path::Path| {
        let mut command = flexkeep_command(&["backup", "--json", "--name", "src", "--pg-bin"]);
        command.arg(bin).arg("--from").arg(server.conninfo("postgres"));
        run(command.arg("--vault").arg(vault.place()), SOON)
    };
    let old = Version::V15.bin();
    expect_failure(&backup(&old), 1, &["pg_dump", "PostgreSQL 18", "15", "--pg-bin"]);
    let nothing = vault.beside("nothing");
    expect_failure(&backup(&nothing), 1, &[&*nothing.to_string_lossy(), "--pg-bin"]);
    // One that can't be run.
    fs::create_dir(&nothing).unwrap();
    for name in ["pg_dump", "pg_dumpall"] {
        fs::write(nothing.join(name), "no program").unwrap();
    }
    expect_failure(&backup(&nothing), 1, &[&*nothing.to_string_lossy(), "--pg-bin"]);
    expect_no_backup(&vault);
}

#[test]
fn names_that_do_not_exist_are_told_and_exports_replace_nothing() {
    let server = small_server(Version::V18);
    let vault = TestVault::new();
    let out = run(vault.backup(&server).args(["--exclude-database", "shap"]), SOON);
    expect_failure(&out, 2, &["shap", "does not exist"]);
    run(&mut vault.backup(&server), SOON).expect_success();
    let to = vault.beside("to");
    let out = run(vault.export("src/latest", &to).args(["--database", "shap"]), SOON);
    expect_failure(&out, 2, &["shap", "shop"]);
    expect_failure(&run(&mut vault.export("srv/latest", &to), SOON), 2, &["srv", "flexkeep list"]);
    run(&mut vault.export("src/latest", &to), SOON).expect_success();
    fs::write(to.join("shop.dump"), "mine").unwrap();
    let out = run(&mut vault.export("src/latest", &to), SOON);
    expect_failure(&out, 2, &["exists already", "--overwrite"]);
    assert_eq!(fs::read_to_string(to.join("shop.dump")).unwrap(), "mine");
    run(vault.export("src/latest", &to).arg("--overwrite"), SOON).expect_success();
    let file = vault.beside("file");
    fs::write(&file, "mine").unwrap();
    let out = run(&mut vault.export("src/latest", &file), SOON);
    let said = format!("{}{}", out.text(), out.errors());
    assert!(matches!(out.code(), Some(1 | 2)) && said.contains(&*file.to_string_lossy()), "{said}");
}

#[test]
fn a_second_backup_of_a_server_is_refused_while_the_first_runs() {
    let server = small_server(Version::V18);
    server.psql("shop", BIG);
    let vault = TestVault::new();
    let holder = hold(&server, "shop");
    let first = Running::start(&mut vault.backup(&server));
    wait_for_copy(&server);
    let pid = server.psql(
        "postgres",
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'",
    );
    // The lock is an advisory one, and those are of one database each.
    for database in ["postgres", "shop"] {
        let second = run(&mut vault.backup_from(&server.conninfo(database), &server), SOON);
        expect_failure(&second, 5, &["another backup", "\\\"src\\\"", &pid]);
    }
    release(&server, holder);
    first.finish(LIMIT).expect_success();
    assert_eq!(vault.backups().len(), 1);
}

#[test]
fn a_database_dropped_or_renamed_during_the_backup_is_a_note_and_the_others_are_whole() {
    let server = small_server(Version::V18);
    server.create_database("doomed");
    server.psql("doomed", BIG);
    server.create_database("vagrant");
    server.psql("vagrant", "CREATE TABLE t AS SELECT 1 AS v");
    // Not what the test is about, but to be had for nothing here: statements that are too long to be
    // sent while another one is answered, and an extension's table in pg_catalog.
    server.psql(
        "shop",
        "DO $$ BEGIN FOR t IN 1 .. 3 LOOP EXECUTE (SELECT pg_catalog.format('CREATE TABLE wide%s (%s)', \
           t, string_agg(repeat('x', 55) || i || ' int', ',')) FROM generate_series(1, 1600) i); \
           EXECUTE format('INSERT INTO wide%s DEFAULT VALUES', t); END LOOP; END $$; \
         SET allow_system_table_mods = on; CREATE TABLE pg_catalog.nodes AS SELECT 1 AS n; \
         CREATE EXTENSION postgres_fdw; ALTER EXTENSION postgres_fdw ADD TABLE pg_catalog.nodes; \
         UPDATE pg_extension SET extconfig = ARRAY['pg_catalog.nodes'::regclass::oid], \
           extcondition = ARRAY[''] WHERE extname = 'postgres_fdw'",
    );
    let vault = TestVault::new();
    let _holder = hold(&server, "doomed");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for_copy(&server);
    server.psql("postgres", "ALTER DATABASE vagrant RENAME TO settled");
    server.psql("postgres", "DROP DATABASE doomed WITH (FORCE)");
    let done = json(&backup.finish(LIMIT).expect_success());
    let manifest = &done["manifest"];
    let names: Vec<_> =
        manifest["databases"].as_array().unwrap().iter().map(|d| &d["name"]).collect();
    assert_eq!(names, ["postgres", "shop", "settled"]);
    assert!(manifest["notes"].to_string().contains("was renamed to"), "{manifest:#}");
    // orders, three wide ones, and that of the extension.
    assert_eq!(manifest["databases"][1]["totals"]["tables"], 5, "{manifest:#}");
    let notes = manifest["notes"].to_string();
    assert!(notes.contains("doomed") && notes.contains("dropped during the backup"), "{notes}");
    run(&mut vault.export("src/latest", &vault.beside("to")), SOON).expect_success();
}

/// No lock on a table protects from these: types of its columns that are altered, roles that are made,
/// databases that are made again.
#[test]
fn what_changes_beside_the_tables_is_in_the_backup_or_told() {
    let server = small_server(Version::V17);
    server.create_database("doomed");
    server.psql("doomed", BIG);
    server.psql(
        "doomed",
        "CREATE TYPE pair AS (a int, secret text); CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE TABLE typed AS SELECT ROW(i, 's' || i)::pair AS p, ARRAY['sad'::mood] AS m
           FROM generate_series(1, 9) i",
    );
    server.create_database("vagrant");
    let vault = TestVault::new();
    let holder = hold(&server, "doomed");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for_copy(&server);
    server.psql("doomed", "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
    server.psql("doomed", "ALTER TYPE pair DROP ATTRIBUTE secret, ADD ATTRIBUTE secret text");
    server.psql("shop", "CREATE ROLE latecomer LOGIN; ALTER TABLE orders OWNER TO latecomer");
    server.psql("postgres", "DROP DATABASE vagrant");
    server.create_database("vagrant");
    release(&server, holder);
    let out = backup.finish(LIMIT);
    assert_eq!(out.code(), Some(3), "{}{}", out.text(), out.errors());
    let manifest = json(&out)["manifest"].take();
    let databases = manifest["databases"].as_array().unwrap();
    let doomed = databases.iter().find(|one| one["name"] == "doomed").expect("a database");
    assert!(doomed["attempts"].as_u64() > Some(1), "{doomed:#}");
    let losses = manifest["losses"].to_string();
    assert!(losses.contains("vagrant") && losses.contains("made again"), "{losses}");
    let to = vault.beside("to");
    run(&mut vault.export("src/latest", &to), SOON).expect_success();
    let roles = fs::read_to_string(to.join("roles.sql")).unwrap();
    assert!(roles.contains("latecomer"), "{roles}");
    let data =
        run(pg_command("pg_restore", Version::V18).arg("-f-").arg(to.join("doomed.dump")), SOON);
    let data = data.expect_success().text();
    assert!(data.contains("'blue'") && data.contains("{blue}"), "{data}");

    // A session that waits for a lock ends with its client, and so do the locks that it has.
    let sql = "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(80)";
    let mut blocker = pg_command("psql", Version::V17);
    let blocker = Running::start(blocker.args(["-Xqc", sql, "-d"]).arg(server.conninfo("shop")));
    wait_for_activity(&server, "wait_event = 'PgSleep'");
    let waits = Running::start(&mut vault.backup(&server));
    wait_for_activity(&server, "application_name = 'flexkeep' AND wait_event_type = 'Lock'");
    waits.kill_nine();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flexkeep'";
    let end = Instant::now() + SOON;
    while server.psql("postgres", sessions) != "0" {
        assert!(Instant::now() < end, "its session waits on");
        thread::sleep(Duration::from_millis(100));
    }
    drop(blocker);
}

#[test]
fn secrets_are_nowhere() {
    let secret = "Geheim-9-xyzzy";
    let server = Server::options(Version::V18).password(secret).start();
    server.create_database("shop");
    server.psql("shop", "CREATE TABLE orders AS SELECT 1 AS v");
    let vault = TestVault::new();
    let bare = server.conninfo_as("postgres", None, "postgres");
    let passfile = vault.beside("pgpass");
    fs::write(&passfile, format!("*:*:*:*:{secret}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&passfile, mode).unwrap();
    let url = format!(
        "postgresql://postgres:{secret}@127.0.0.1:{}/postgres?sslmode=disable",
        server.port()
    );
    let mut outputs = Vec::new();
    for (from, password) in
        [(server.conninfo("postgres"), None), (bare.clone(), Some(())), (url, None)]
    {
        let mut command = vault.backup_from(&from, &server);
        if password.is_some() {
            command.env("PGPASSWORD", secret);
        }
        outputs.push(run(command.arg("-vvv"), SOON).expect_success());
    }
    let with_file = format!("{bare} passfile='{}'", passfile.display());
    outputs.push(run(vault.backup_from(&with_file, &server).arg("-vvv"), SOON).expect_success());
    // And in failures: of the server's, and of pg_dump's, which gets the password from us.
    server.psql("shop", "CREATE ROLE dumper LOGIN PASSWORD 'Geheim-9-xyzzy'");
    let dumper = server.conninfo_as("dumper", Some(secret), "postgres");
    let out = run(vault.backup_from(&dumper, &server).arg("-vvv"), SOON);
    expect_failure(&out, 1, &["orders"]);
    outputs.push(out);
    for output in &outputs {
        let said = output.text() + &output.errors();
        assert!(!said.contains(secret), "{said}");
    }
    for file in vault.files("") {
        let bytes = fs::read(&file).unwrap();
        let there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!there, "{}", file.display());
    }
    let show =
        flexkeep_command(&["show", "src/latest", "--json", "--vault"]).arg(vault.place()).output();
    assert!(!String::from_utf8_lossy(&show.unwrap().stdout).contains(secret));
}

#[test]
fn a_server_that_dies_in_the_middle_fails_the_backup_and_one_that_comes_back_does_not() {
    let mut server = small_server(Version::V18);
    server.psql("shop", BIG);
    let vault = TestVault::new();
    let holder = hold(&server, "shop");
    let backup = Running::start(vault.backup(&server).args(["--attempts", "2"]));
    wait_for_copy(&server);
    server.kill_nine();
    drop(holder);
    let out = backup.finish(Duration::from_secs(60));
    expect_failure(&out, 1, &["shop"]);
    expect_no_backup(&vault);
    server.start_again();

    let holder = hold(&server, "shop");
    let backup = Running::start(&mut vault.backup(&server));
    wait_for_copy(&server);
    server.kill_nine();
    drop(holder);
    server.start_again();
    let done = json(&backup.finish(LIMIT).expect_success());
    let databases = done["manifest"]["databases"].as_array().unwrap();
    let shop = databases.iter().find(|database| database["name"] == "shop").unwrap();
    assert!(shop["attempts"].as_u64() >= Some(2), "{shop}");
    run(&mut vault.export("src/latest", &vault.beside("to")), SOON).expect_success();
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let server = small_server(Version::V18);
    server.psql("shop", BIG);
    let vault = TestVault::new();
    let from = server.conninfo("postgres") + " connect_timeout=2";
    let holder = hold(&server, "shop");
    let mut command = vault.backup_from(&from, &server);
    command.args(["--stall-timeout", "2s", "--attempts", "2"]);
    let backup = Running::start(&mut command);
    wait_for_copy(&server);
    server.pause();
    let out = backup.finish(Duration::from_secs(60));
    server.resume();
    release(&server, holder);
    expect_failure(&out, 1, &["silent"]);
    expect_no_backup(&vault);
    run(&mut vault.backup(&server), LIMIT).expect_success();
}
