//! The package for Azure Functions: what is in the zip, and that it works with nothing of this
//! system's PostgreSQL. `make prove-package` runs it in a bare root file system besides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{Running, Server, Version, flexkeep_command, handler, run, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("fkp-").tempdir_in("/tmp").expect("a folder in /tmp")
}

/// The unpacked client; the first test on a machine downloads it.
fn client() -> PathBuf {
    let limit = Duration::from_secs(600);
    let out = run(&mut Command::new(checkout().join("scripts/package-client.sh")), limit);
    out.expect_success().text().into()
}

fn package(handler: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(checkout().join("scripts/package.py"));
    command.arg("--handler").arg(handler).arg("--client").arg(client());
    command.arg("--out").arg(out).args(more);
    command
}

/// Something small in the handler's place, where the handler does not matter.
fn small_program() -> PathBuf {
    client().join("usr/bin/openssl")
}

/// What the zip says of its files; it is unpacked into `to` with these modes.
fn unpack(zip: &Path, to: &Path) -> Vec<Value> {
    let script = "import json, os, sys, zipfile\n\
        archive = zipfile.ZipFile(sys.argv[1])\n\
        assert archive.testzip() is None\n\
        entries = []\n\
        for e in archive.infolist():\n\
        \x20   mode = e.external_attr >> 16\n\
        \x20   os.chmod(archive.extract(e, sys.argv[2]), mode & 0o777)\n\
        \x20   entries.append([e.filename, f'{mode:o}', e.create_system, e.date_time[0]])\n\
        print(json.dumps(entries))";
    let mut command = Command::new("python3");
    let out = run(command.args(["-c", script]).arg(zip).arg(to), LIMIT).expect_success();
    serde_json::from_str(&out.text()).expect("a list")
}

#[test]
fn the_same_input_gives_the_same_zip_with_the_layout_and_modes_that_the_host_wants() {
    let folder = folder();
    let (one, two) = (folder.path().join("one.zip"), folder.path().join("two.zip"));
    for zip in [&one, &two] {
        run(&mut package(&small_program(), zip, &["--any-glibc"]), LIMIT).expect_success();
    }
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "two zips of one input differ");

    let entries = unpack(&one, &folder.path().join("app"));
    let names: Vec<&str> = entries.iter().map(|e| e[0].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for entry in &entries {
        let name = entry[0].as_str().unwrap();
        let runs = name == "flexkeep-handler"
            || name.starts_with("pgbin/pg_")
            || name.starts_with("pgbin/libexec/")
            || name == "pgbin/lib/ld-linux-x86-64.so.2";
        let mode = if runs { "100755" } else { "100644" };
        assert_eq!(entry, &json!([name, mode, 3, 1980]));
    }
    for name in ["host.json", "policy.toml", "pgbin/ca-certificates.crt", "licenses/README.txt"] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    let bundle = fs::read_to_string(folder.path().join("app/pgbin/ca-certificates.crt")).unwrap();
    let azure = include_str!("../../crates/pg-copy/src/tls/azure-roots.pem");
    for root in azure.split_inclusive("-----END CERTIFICATE-----\n") {
        assert_eq!(bundle.matches(root).count(), 1, "{root}");
    }
    let functions: Vec<&str> =
        names.iter().filter_map(|n| n.strip_suffix("/function.json")).collect();
    assert_eq!(functions, ["api", "backup", "lane", "restore", "schedule"]);
    for function in functions {
        let files = names.iter().filter(|n| n.starts_with(&format!("{function}/"))).count();
        assert_eq!(files, 1, "the host takes another file of {function} for its script");
    }
    every_library_has_its_licence(&folder.path().join("app"), &names);
}

fn every_library_has_its_licence(app: &Path, names: &[&str]) {
    let packages = fs::read_to_string(app.join("licenses/packages.txt")).unwrap();
    for name in ["libc6 ", "libpq5 ", "libssl3", "libzstd1 ", "postgresql-client-18 18."] {
        assert!(packages.contains(name), "{name} is missing:\n{packages}");
    }
    for line in packages.lines() {
        let package = line.split(' ').next().unwrap();
        let licence = format!("licenses/debian/{package}.txt");
        assert!(names.contains(&licence.as_str()), "{licence} is missing");
    }
    let crates = fs::read_to_string(app.join("licenses/rust-crates.txt")).unwrap();
    let unknown: Vec<&str> = crates.lines().filter(|l| l.ends_with(": see below")).collect();
    assert!(crates.contains("\ntokio 1.") && unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_package_s_programs_load_nothing_from_this_system() {
    let folder = folder();
    let zip = folder.path().join("app.zip");
    run(&mut package(&small_program(), &zip, &["--any-glibc"]), LIMIT).expect_success();
    unpack(&zip, folder.path());
    let pgbin = folder.path().join("pgbin");
    let lib = pgbin.join("lib");
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let mut loader = Command::new(lib.join("ld-linux-x86-64.so.2"));
        loader.args(["--inhibit-cache", "--library-path"]).arg(&lib);
        let out = run(loader.arg("--list").arg(pgbin.join("libexec").join(name)), LIMIT);
        let listed = out.expect_success().text();
        let paths: Vec<&str> =
            listed.lines().filter_map(|l| l.split_once(" => ")).map(|p| p.1).collect();
        let own = lib.display().to_string();
        assert!(paths.len() > 10, "{listed}");
        for path in paths {
            assert!(path.starts_with(&own), "{name} would load {path}");
        }
        // What would break any program of the system; and started from elsewhere by a relative path.
        let mut launcher = Command::new(format!("./pgbin/{name}"));
        launcher.current_dir(folder.path()).arg("--version");
        launcher.env("LD_LIBRARY_PATH", "/nonexistent").env("OPENSSL_CONF", "/dev/null");
        let version = run(&mut launcher, LIMIT).expect_success().text();
        assert!(version.starts_with(&format!("{name} (PostgreSQL) 18.")), "{version}");
    }
    // It looks for pg_dump beside itself, and asks it for its version.
    let server = Server::start(Version::V18);
    let mut dumpall = Command::new(pgbin.join("pg_dumpall"));
    let out = run(dumpall.args(["--globals-only", "-d", &server.conninfo("postgres")]), LIMIT);
    assert!(out.expect_success().text().contains("CREATE ROLE"));
}

#[test]
fn the_package_backs_a_server_up_with_its_own_pg_dump_and_no_setting_for_it() {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    server.psql("shop", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
    let folder = folder();
    let app = folder.path().join("app");
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, example_policy_for(&server)).unwrap();
    let program = folder.path().join("handler");
    let mut strip = Command::new("strip");
    run(strip.arg("-g").arg("-o").arg(&program).arg(handler()), LIMIT).expect_success();
    let zip = folder.path().join("app.zip");
    let mut command = package(&program, &zip, &["--any-glibc"]);
    run(command.arg("--policy").arg(&policy), LIMIT).expect_success();
    unpack(&zip, &app);

    let state = folder.path();
    let events = state.join("events.jsonl");
    let settings = json!({"Values": {
        "FUNCTIONS_WORKER_RUNTIME": "Custom",
        "FLEXKEEP_POLICY": "policy.toml",
        "FLEXKEEP_TICK": "* * * * * *",
        "FLEXKEEP_QUEUE": "backups",
        "FLEXKEEP_LANES_QUEUE": "lanes",
        "FLEXKEEP_RESTORE_QUEUE": "restores",
        "FLEXKEEP_BUS": format!("sqlite:{}", state.join("queues.db").display()),
        "FLEXKEEP_EVENTS": format!("file:{}", events.display()),
        "FLEXKEEP_VAULT": state.join("vault"),
        "SHOP_PASSWORD": "not asked for",
    }});
    fs::write(state.join("settings.json"), settings.to_string()).unwrap();
    let mut host = flexkeep_command(&["host", "--listen", "127.0.0.1:0", "--app"]);
    host.arg(&app).arg("--settings").arg(state.join("settings.json"));
    // No other pg_dump is to be found.
    host.env("PATH", "/nonexistent");
    let running = Running::start(host.arg("--state").arg(state.join("host")));
    let event = wait_for("the backup is told", LIMIT, || {
        let text = fs::read_to_string(&events).unwrap_or_default();
        assert!(!text.contains("backup.failed"), "{text}\n{}", running.errors_so_far());
        let told = text.lines().find(|line| line.contains("\"flexkeep.backup.completed\""))?;
        serde_json::from_str::<Value>(told).ok()
    });
    assert_eq!(event["data"]["complete"], true, "{event:#}");
    running.terminate();
    running.finish(LIMIT).expect_success();

    let mut show = flexkeep_command(&["show", "latest", "--json", "--vault"]);
    let shown = run(show.arg(state.join("vault")), LIMIT).expect_success().text();
    let version = fs::read_to_string(app.join("licenses/packages.txt")).unwrap();
    let version = version.lines().find_map(|l| l.strip_prefix("postgresql-client-18 ")).unwrap();
    let version = version.split(' ').next().unwrap();
    assert!(shown.contains(&format!("(Debian {version})")), "not by {version}: {shown}");
}

/// The example of the package with its lines uncommented, for this server.
fn example_policy_for(server: &Server) -> String {
    let example = fs::read_to_string(checkout().join("packaging/policy.toml")).unwrap();
    let connection = format!("connection = {:?}", server.conninfo("postgres"));
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(own) if own.starts_with("connection = ") => connection.as_str(),
        Some(own) if !own.starts_with(' ') => own,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_policy_is_refused_as_it_is_with_the_way_out() {
    let mut check = flexkeep_command(&["check", "--policy", "packaging/policy.toml"]);
    check.current_dir(checkout()).env("FLEXKEEP_VAULT", "/nonexistent/vault");
    let out = run(&mut check, LIMIT);
    assert_eq!(out.code(), Some(2), "{}", out.errors());
    assert!(out.errors().contains("write [[server]]"), "{}", out.errors());
}

#[test]
fn what_would_not_run_at_the_host_is_not_packaged() {
    let folder = folder();
    let zip = folder.path().join("app.zip");
    let refused = |command: &mut Command, why: &str| {
        let out = run(command, LIMIT);
        assert_eq!(out.code(), Some(1), "{}", out.errors());
        assert!(out.errors().contains(why), "{why:?} is not in {}", out.errors());
        assert!(!zip.exists(), "{why}");
    };
    refused(&mut package(&small_program(), &zip, &[]), "which the host may not have");
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "[vault\n").unwrap();
    let mut command = package(&small_program(), &zip, &["--any-glibc"]);
    refused(command.arg("--policy").arg(&policy), "policy.toml is no TOML");
    // Programs that are bound to a folder of this machine.
    let bound = folder.path().join("client");
    let programs = bound.join("usr/lib/postgresql/18/bin");
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(bound.join("usr/lib/x86_64-linux-gnu")).unwrap();
    let loader = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    fs::copy(client().join(loader), bound.join(loader)).unwrap();
    fs::copy(Version::V18.bin().join("pg_dump"), programs.join("pg_dump")).unwrap();
    let mut command = Command::new(checkout().join("scripts/package.py"));
    command.arg("--handler").arg(small_program()).args(["--any-glibc", "--client"]);
    refused(command.arg(&bound).arg("--out").arg(&zip), "was bound to a folder");
}
