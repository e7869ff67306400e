//! Backups of real servers, exported and read back by stock pg_restore.

mod servers;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use flexkeep_engine::{
    BackupOptions, ExportError, ExportOptions, ExportReport, ExportTarget, Progress, RolesFor,
    Severity, backup, check, export,
};
use flexkeep_vault::manifest::Manifest;
use flexkeep_vault::{FoldersOnly, Place, Vault};
use servers::{Server, bin, names_in, run};
use tempfile::TempDir;

/// Roles that need quoting, belong to each other and have settings.
const ROLES: &str = r#"
    CREATE ROLE app_owner NOLOGIN CREATEDB;
    CREATE ROLE app LOGIN PASSWORD 'secret' CONNECTION LIMIT 5 VALID UNTIL '2030-01-01 00:00:00+00';
    CREATE ROLE "We""ird; $x$ -- 'role" LOGIN NOINHERIT;
    CREATE ROLE dba SUPERUSER LOGIN;
    CREATE ROLE tablespace NOLOGIN;
    GRANT app_owner TO app WITH ADMIN OPTION;
    GRANT pg_monitor TO "We""ird; $x$ -- 'role";
    COMMENT ON ROLE app IS E'it''s a \\ backslash;\n\\! second line';
    ALTER ROLE app SET search_path = app, "Odd ""one""", public;
    ALTER ROLE "We""ird; $x$ -- 'role" SET application_name TO E'a;b''c\\d';
"#;

/// Tables of many shapes, and large objects: empty, small, and larger than a part.
const SHOP: &str = r#"
    CREATE SCHEMA app AUTHORIZATION app_owner;
    SET ROLE app_owner;
    CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text,
                             at timestamptz, amount numeric(12,2));
    INSERT INTO app.orders (note, at, amount)
      SELECT repeat(md5(i::text), 1 + i % 9), timestamptz 'epoch' + i * interval '1 min', i / 7.0
      FROM generate_series(1, 60000) i;
    CREATE TABLE app.lines (order_id bigint REFERENCES app.orders, n int, PRIMARY KEY (order_id, n));
    INSERT INTO app.lines SELECT i, n FROM generate_series(1, 3000) i, generate_series(1, 3) n;
    CREATE TABLE app."Empty ""one""" (a int);
    CREATE TABLE app.nothing ();
    INSERT INTO app.nothing SELECT FROM generate_series(1, 5);
    CREATE TABLE app.texts (t text);
    INSERT INTO app.texts VALUES (NULL), (''), (E'tab\tnew\nline\\back'), ('\.'), (E'\u20ac');
    INSERT INTO app.texts SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300000) i;
    CREATE TABLE app.parts (k int, v text) PARTITION BY LIST (k);
    CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES IN (1);
    CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES IN (2);
    INSERT INTO app.parts SELECT 1 + i % 2, i::text FROM generate_series(1, 100) i;
    RESET ROLE;
    SELECT lo_create(70001);
    SELECT lo_from_bytea(70002, 'small');
    SELECT lo_from_bytea(70003, (SELECT string_agg(sha512(i::text::bytea), ''::bytea)
                                 FROM generate_series(1, 500000) i));
    SELECT lo_from_bytea(80000 + i, decode(repeat(md5(i::text), i), 'hex'))
      FROM generate_series(1, 50) i;
    COMMENT ON LARGE OBJECT 70002 IS 'the small one';
    GRANT SELECT ON LARGE OBJECT 70002 TO app;
"#;

/// All rows and large objects of a database as one text.
const FINGERPRINT: &str = r#"
    SELECT 'orders', count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM app.orders o
    UNION ALL SELECT 'lines', count(*), md5(string_agg(l::text, '|' ORDER BY order_id, n))
      FROM app.lines l
    UNION ALL SELECT 'empty', count(*), '' FROM app."Empty ""one"""
    UNION ALL SELECT 'nothing', count(*), '' FROM app.nothing
    UNION ALL SELECT 'texts', count(*), md5(string_agg(md5(coalesce(t, 'null')), '|' ORDER BY t))
      FROM app.texts
    UNION ALL SELECT tableoid::regclass::text, count(*), md5(string_agg(v, '|' ORDER BY v))
      FROM app.parts GROUP BY tableoid
    UNION ALL SELECT 'objects', count(*), md5(string_agg(oid || md5(lo_get(oid)) || lomowner::regrole
        || coalesce(lomacl::text, '') || coalesce(obj_description(oid, 'pg_largeobject'), ''), '|'
        ORDER BY oid)) FROM pg_largeobject_metadata
    UNION ALL SELECT 'sequence', last_value, '' FROM app.orders_id_seq
    UNION ALL SELECT 'constraints', count(*), '' FROM pg_constraint
      WHERE connamespace = 'app'::regnamespace AND contype IN ('p', 'f')
    ORDER BY 1, 2
"#;

const ROLE_LIST: &str = r"
    SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
           rolconnlimit, rolpassword, rolvaliduntil, rolbypassrls,
           (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0),
           shobj_description(a.oid, 'pg_authid'),
           (SELECT string_agg(m.member::regrole || ' ' || m.admin_option, ',' ORDER BY m.member::regrole::text)
            FROM pg_auth_members m WHERE m.roleid = a.oid)
    FROM pg_authid a WHERE rolname <> 'postgres' AND (rolname !~ '^pg_' OR rolname = 'pg_monitor')
    ORDER BY rolname
";

/// A source server, its backup, and folders.
struct Scene {
    source: Server,
    vault: Vault,
    manifest: Manifest,
    folder: TempDir,
}

impl Scene {
    fn of(major: u32) -> Self {
        let source = Server::start(major);
        source.sql("postgres", ROLES);
        for database in ["shop", "Shop"] {
            source.sql("postgres", &format!("CREATE DATABASE \"{database}\" OWNER app_owner"));
        }
        source.sql("shop", SHOP);
        source.sql("Shop", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
        source.sql(
            "postgres",
            "CREATE TABLE jobs AS SELECT 'daily' AS name; \
                                ALTER DATABASE postgres SET work_mem = '5MB'",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let vault = Vault::create(&place(&folder), &FoldersOnly).expect("makes a vault");
        let options = backup_options();
        let manifest = backup(&source.config(), &vault, &options, &Arc::default())
            .unwrap_or_else(|error| panic!("backup: {error:?}"));
        assert_eq!(manifest.losses, []);
        Self { source, vault, manifest, folder }
    }

    fn export(&self, to: &str, change: impl FnOnce(&mut ExportOptions)) -> ExportReport {
        self.try_export(to, change).unwrap_or_else(|error| panic!("export: {error}"))
    }

    fn try_export(
        &self,
        to: &str,
        change: impl FnOnce(&mut ExportOptions),
    ) -> Result<ExportReport, ExportError> {
        let mut options = export_options(self.folder.path().join(to));
        change(&mut options);
        export(&self.vault, &self.manifest, &options, &Arc::default())
    }

    fn to(&self, folder: &str) -> PathBuf {
        self.folder.path().join(folder)
    }

    /// The largest chunk of the database, where its object lies.
    fn chunk_of(&self, database: &str) -> PathBuf {
        let summary = self.manifest.databases.iter().find(|one| one.name == database);
        let mut chunks = Vec::new();
        self.vault
            .read_contents(&summary.expect("the database").contents, |entry| {
                chunks.extend(entry.chunks);
            })
            .expect("a contents list");
        let largest = chunks.iter().max_by_key(|chunk| chunk.stored_bytes).expect("a chunk");
        self.to("vault").join(flexkeep_vault::chunk_name(&largest.hash))
    }
}

fn place(folder: &TempDir) -> Place {
    Place::Folder(folder.path().join("vault"))
}

/// With pg_dump of the newest version, whatever the server's.
fn backup_options() -> BackupOptions {
    BackupOptions { pg_bin: Some(bin(18)), ..BackupOptions::default() }
}

fn export_options(to: PathBuf) -> ExportOptions {
    ExportOptions { threads: 3, ..ExportOptions::new(ExportTarget::Folder(to)) }
}

/// Restores with the commands of the README and compares.
fn restore_and_compare(scene: &Scene, folder: &Path, target: &Server, client: u32) {
    for _ in 0..2 {
        let mut psql = target.client(target.major, "psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"]);
        run(psql.arg(folder.join("roles.sql")));
    }
    assert_eq!(target.sql("postgres", ROLE_LIST), scene.source.sql("postgres", ROLE_LIST));
    for file in ["Shop.dump", "shop~2.dump"] {
        let mut restore = target.client(client, "pg_restore");
        restore.args(["--create", "--jobs", "4", "--dbname", "postgres"]);
        run(restore.arg(folder.join(file)));
    }
    let mut restore = target.client(client, "pg_restore");
    restore.args(["--jobs", "4", "--dbname", "postgres"]);
    run(restore.arg(folder.join("postgres.dump")));
    compare(scene, target);
}

/// Runs every command of a README as a user would, from its folder, and counts them.
fn run_readme(readme: &Path, target: &Server) -> usize {
    let text = std::fs::read_to_string(readme).expect("a README");
    let commands = text.lines().filter_map(|line| line.strip_prefix("    "));
    let programs = ["psql ", "pg_restore "];
    let mut count = 0;
    for command in commands.filter(|line| programs.iter().any(|one| line.starts_with(one))) {
        let client = target.client(target.major, "psql");
        let path = client.get_program().to_owned();
        let path = Path::new(&path).parent().expect("a folder").display().to_string();
        let environment: Vec<_> = client.get_envs().filter(|(_, v)| v.is_some()).collect();
        let mut sh = std::process::Command::new("sh");
        for (key, value) in environment {
            sh.env(key, value.unwrap_or_default());
        }
        sh.env("PATH", format!("{path}:/usr/bin:/bin")).args(["-e", "-c"]);
        sh.arg(command.replace("TARGET", "part")).stdin(Stdio::null());
        run(sh.current_dir(readme.parent().expect("a folder")));
        count += 1;
    }
    count
}

fn compare(scene: &Scene, target: &Server) {
    assert_eq!(target.sql("shop", FINGERPRINT), scene.source.sql("shop", FINGERPRINT));
    assert_eq!(target.sql("Shop", "SELECT sum(i) FROM t"), "500500\n");
    assert_eq!(target.sql("postgres", "SELECT name FROM jobs"), "daily\n");
}

#[test]
fn the_stored_form_restores_in_parallel_from_a_pipe_and_with_the_readme_commands() {
    let scene = Scene::of(18);
    let report = scene.export("out", |_| ());
    assert_eq!(report.pg_restore_major, 17);
    assert_eq!(
        names_in(&scene.to("out")),
        ["README.txt", "Shop.dump", "postgres.dump", "roles.sql", "shop~2.dump"]
    );
    let target = Server::start(18);
    restore_and_compare(&scene, &scene.to("out"), &target, 17);

    let target = Server::start(18);
    target.sql("postgres", "CREATE DATABASE part");
    target.sql("part", "CREATE SCHEMA app");
    let commands = run_readme(&scene.to("out").join("README.txt"), &target);
    assert_eq!(commands, 9, "commands of the README");
    compare(&scene, &target);
    assert_eq!(target.sql("postgres", "SHOW work_mem"), "5MB\n");

    // From a pipe, which cannot be sought in.
    target.sql("postgres", "DROP DATABASE shop");
    let file = std::fs::File::open(scene.to("out").join("shop~2.dump")).expect("the archive");
    let mut cat = std::process::Command::new("cat")
        .stdin(file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut restore = target.client(18, "pg_restore");
    restore.args(["--create", "--exit-on-error", "--dbname", "postgres"]);
    run(restore.stdin(cat.stdout.take().expect("a pipe")));
    assert!(cat.wait().expect("ends").success());
    compare(&scene, &target);
}

#[test]
fn an_archive_for_pg_restore_15_is_one_zlib_stream_a_table_and_restores() {
    let scene = Scene::of(15);
    let report = scene.export("old", |options| options.pg_restore = Some(15));
    assert_eq!(report.pg_restore_major, 12);
    let target = Server::start(15);
    restore_and_compare(&scene, &scene.to("old"), &target, 15);

    // 1.15 with zstd; what reads 1.16 reads it too.
    let report = scene.export("sixteen", |options| options.pg_restore = Some(16));
    assert_eq!(report.pg_restore_major, 16);
    let head = std::fs::read(scene.to("sixteen").join("Shop.dump")).expect("an archive");
    assert_eq!(&head[..8], b"PGDMP\x01\x0f\x00");
    let target = Server::start(18);
    restore_and_compare(&scene, &scene.to("sixteen"), &target, 17);
}

#[test]
fn roles_find_their_way_to_a_server_whose_first_superuser_has_another_name() {
    let scene = Scene::of(18);
    scene.export("out", |options| options.databases = vec!["Shop".to_owned()]);
    let target = Server::start_with(18, "boss");
    let mut outputs = Vec::new();
    for _ in 0..2 {
        let mut psql = target.client(18, "psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "boss", "-d", "postgres", "-f"]);
        run(psql.arg(scene.to("out").join("roles.sql")));
        let list = ROLE_LIST.replace("<> 'postgres'", "NOT IN ('postgres', 'boss')");
        outputs.push(target.sql_as("boss", "postgres", &list));
    }
    let expected = scene.source.sql("postgres", ROLE_LIST);
    assert_eq!(outputs, [expected.clone(), expected]);
}

#[test]
fn flexible_server_roles_run_for_an_administrator_who_is_no_superuser() {
    let scene = Scene::of(18);
    scene.export("out", |options| options.roles_for = RolesFor::FlexibleServer);
    assert!(scene.to("out").join("roles-as-dumped.sql").is_file());
    let target = Server::start(18);
    target.sql(
        "postgres",
        "CREATE ROLE admin LOGIN CREATEROLE CREATEDB; \
                            GRANT pg_monitor TO admin WITH ADMIN OPTION",
    );
    for _ in 0..2 {
        let mut psql = target.client(18, "psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "admin", "-d", "postgres", "-f"]);
        run(psql.arg(scene.to("out").join("roles.sql")));
    }
    let list = "SELECT rolname, rolcanlogin, rolcreatedb, rolconnlimit, rolsuper FROM pg_roles \
                WHERE rolname IN ('app', 'app_owner', 'dba') ORDER BY 1";
    assert_eq!(target.sql("postgres", list), "app|t|f|5|f\napp_owner|f|t|-1|f\ndba|t|f|-1|f\n");
    let member = "SELECT pg_has_role('app', 'app_owner', 'MEMBER'), \
                  pg_has_role('We\"ird; $x$ -- ''role', 'pg_monitor', 'MEMBER')";
    assert_eq!(target.sql("postgres", member), "t|t\n");
}

#[test]
fn damage_is_named_with_the_backups_that_it_hurts_and_leaves_no_file() {
    let scene = Scene::of(18);
    let second = backup(&scene.source.config(), &scene.vault, &backup_options(), &Arc::default())
        .expect("a second backup");
    let chunk = scene.chunk_of("shop");
    let mut bytes = std::fs::read(&chunk).expect("the chunk");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write_over(&chunk, &bytes);
    let error = scene.try_export("out", |_| ()).expect_err("damaged");
    let ExportError::Damaged { objects, hurt, written, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(objects.len(), 1, "{objects:?}");
    assert_eq!(objects[0].database.as_deref(), Some("shop"));
    assert!(chunk.ends_with(&objects[0].name), "{objects:?}");
    let backups: Vec<String> = hurt.iter().map(|user| user.backup.to_string()).collect();
    assert!(backups.contains(&scene.manifest.backup) && backups.contains(&second.backup));
    assert!(error.to_string().contains(&second.backup), "{error}");
    assert_eq!(
        names_in(&scene.to("out")),
        ["README.txt", "Shop.dump", "postgres.dump", "roles.sql"]
    );
    assert_eq!(written.len(), 4, "{written:?}");

    for (to, problem) in [("cut", "cut short"), ("gone", "not there")] {
        if to == "cut" {
            write_over(&chunk, &bytes[..middle]);
        } else {
            std::fs::remove_file(&chunk).expect("removes");
        }
        let error = scene.try_export(to, |options| options.pg_restore = Some(15));
        let text = error.expect_err("damaged").to_string();
        assert!(text.contains(problem), "{text}");
        assert!(!names_in(&scene.to(to)).iter().any(|name| name.contains("partial")));
    }
}

/// Objects of a vault may be read-only.
fn write_over(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("removes");
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let scene = Scene::of(15);
    let error = scene.try_export("a", |options| options.databases = vec!["shp".to_owned()]);
    let text = error.expect_err("no such database").to_string();
    assert!(text.contains("\"shp\"") && text.contains("it has shop"), "{text}");
    let error = scene.try_export("a", |options| options.pg_restore = Some(11));
    assert!(matches!(error, Err(ExportError::PgRestoreTooOld { major: 11 })));
    assert!(!scene.to("a").exists());

    std::fs::create_dir(scene.to("b")).expect("makes");
    std::fs::write(scene.to("b").join("postgres.dump"), "mine").expect("writes");
    let error = scene.try_export("b", |_| ()).expect_err("in the way");
    assert!(error.to_string().contains("postgres.dump exists already"), "{error}");
    assert_eq!(names_in(&scene.to("b")), ["postgres.dump"]);
    scene.export("b", |options| options.overwrite = true);
    assert!(
        std::fs::read(scene.to("b").join("postgres.dump")).expect("reads").starts_with(b"PGDMP")
    );

    let progress = Arc::<Progress>::default();
    progress.cancel();
    let options = export_options(scene.to("c"));
    let error = export(&scene.vault, &scene.manifest, &options, &progress);
    assert!(matches!(error, Err(ExportError::Cancelled)), "{error:?}");
    assert!(!names_in(&scene.to("c")).iter().any(|name| name.contains("dump")));
}

#[test]
fn a_check_names_what_a_backup_would_lose_or_stumble_over() {
    let scene = Scene::of(18);
    let report =
        check(&scene.source.config(), &place(&scene.folder), &FoldersOnly, &backup_options());
    assert!(report.worst() <= Severity::Warning, "{report:?}");
    let says = |report: &flexkeep_engine::CheckReport, severity, part: &str| {
        report.findings.iter().any(|one| one.severity == severity && one.what.contains(part))
    };
    for part in ["connected to", "all can be read", "written and read", "hours old", "lanes takes"]
    {
        assert!(says(&report, Severity::Ok, part), "{part} in {report:#?}");
    }
    assert_eq!(
        scene.vault.list_runs(&scene.manifest.server.parse().expect("a name")).expect("lists"),
        []
    );

    let config = scene.source.config().with_user("app");
    let report = check(&config, &place(&scene.folder), &FoldersOnly, &backup_options());
    assert_eq!(report.worst(), Severity::Error);
    for (severity, part) in [
        (Severity::Error, "tables cannot be read by \"app\": "),
        (Severity::Warning, "role passwords would not be in the backup"),
        (Severity::Warning, "large objects would not be in the backup"),
    ] {
        assert!(says(&report, severity, part), "{part} in {report:#?}");
    }
}
