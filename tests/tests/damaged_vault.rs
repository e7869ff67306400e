//! A vault that is full, can't be written, is of the future, or whose bytes are wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flexkeep_tests::{
    Output, Server, TestVault, Version, flexkeep_command, flip, json, run, writable,
};

const LIMIT: Duration = Duration::from_secs(60);

#[track_caller]
fn expect_failure(output: &Output, code: i32, words: &[&str]) {
    let said = format!("{}\n{}", output.text(), output.errors());
    assert_eq!(output.code(), Some(code), "{}\n{said}", output.command);
    for word in words {
        assert!(said.contains(word), "{word:?} is not said by {}\n{said}", output.command);
    }
}

/// A server with a table of about 25 MB that does not compress well.
fn server() -> Server {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT i, md5(i::text) || md5((i * 7)::text) AS note \
         FROM generate_series(1, 250000) i; CREATE TABLE few AS SELECT 1 AS v;",
    );
    server
}

/// The command in a mount namespace of its own, after `prepare` has run there.
fn in_namespace(prepare: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    // Whoever is not root becomes it within a namespace of users.
    let is_root = rustix_is_root();
    wrapped.args(if is_root { &["--mount"][..] } else { &["--map-root-user", "--mount"] });
    wrapped.args(["sh", "-ec", &format!("{prepare}; exec \"$@\""), "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn small_disk(at: &Path) -> String {
    format!("mkdir -p '{0}'; mount -t tmpfs -o size=8m tmpfs '{0}'", at.display())
}

#[test]
fn a_full_disk_fails_backup_and_export_and_names_the_place() {
    let server = server();
    let vault = TestVault::new();
    let backup = vault.backup(&server);
    let out = run(&mut in_namespace(&small_disk(&vault.place()), &backup), LIMIT);
    expect_failure(&out, 1, &["No space left", "chunks/"]);
    // More space, and the same vault is good again, with what it has already.
    let place = vault.place();
    let then_more = format!(
        "{}; ! \"$@\" >/dev/null 2>&1; mount -o remount,size=100m '{}'",
        small_disk(&place),
        place.display()
    );
    let out = run(&mut in_namespace(&then_more, &backup), LIMIT).expect_success();
    let totals = json(&out)["manifest"]["totals"].take();
    assert!(totals["new_chunks"].as_u64() < totals["chunks"].as_u64(), "{totals}");
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let to = vault.beside("to");
    for more in [&[][..], &["--pg-restore", "15"]] {
        let mut export = vault.export("src/latest", &to);
        export.args(more);
        let out = run(&mut in_namespace(&small_disk(&to), &export), LIMIT);
        expect_failure(&out, 1, &["No space left", "shop.dump"]);
    }
}

#[test]
fn a_vault_that_cannot_be_written_is_named() {
    let server = server();
    let vault = TestVault::new();
    fs::write(vault.beside("file"), "").unwrap();
    for place in ["file", "file/under"] {
        let place = vault.beside(place);
        let mut command = Command::new(vault.backup(&server).get_program());
        let from = server.conninfo("postgres");
        command.args(["backup", "--json", "--from", &from, "--vault"]).arg(&place);
        let out = run(&mut command, LIMIT);
        let said = format!("{}{}", out.text(), out.errors());
        assert!(matches!(out.code(), Some(1 | 2)), "{said}");
        assert!(said.contains(&*place.to_string_lossy()), "{said}");
    }
    run(&mut vault.backup(&server), LIMIT).expect_success();
    server.psql("shop", "UPDATE orders SET note = 'x' || note WHERE i < 1000");
    let place = vault.place();
    let read_only =
        format!("mount --bind '{0}' '{0}'; mount -o remount,ro,bind '{0}'", place.display());
    let out = run(&mut in_namespace(&read_only, &vault.backup(&server)), LIMIT);
    expect_failure(&out, 1, &["Read-only file system", "runs/"]);
    assert_eq!(vault.backups().len(), 1);
}

#[test]
fn a_vault_of_the_future_is_not_touched() {
    let server = server();
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let format = vault.place().join("format.json");
    let text = fs::read_to_string(&format).unwrap();
    writable(&format);
    fs::write(&format, text.replace("\"format\": 1", "\"format\": 99")).unwrap();
    for out in [
        run(&mut vault.backup(&server), LIMIT),
        run(&mut vault.export("src/latest", &vault.beside("to")), LIMIT),
    ] {
        expect_failure(&out, 1, &["format 99", "newer flexkeep"]);
    }
}

/// What happens to an object.
type Harm = fn(&Path);

fn truncate(file: &Path) {
    writable(file);
    let length = fs::metadata(file).unwrap().len();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length / 2).unwrap();
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

const HARMS: [(&str, Harm); 3] = [("flip", flip), ("truncate", truncate), ("remove", remove)];

/// The name of an object in the vault.
fn name(vault: &TestVault, file: &Path) -> String {
    file.strip_prefix(vault.place()).unwrap().to_string_lossy().into_owned()
}

/// The largest file: a chunk of `orders`.
fn largest(files: Vec<PathBuf>) -> PathBuf {
    files.into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
}

#[test]
fn damage_is_found_named_and_where_the_source_still_has_it_healed() {
    let server = server();
    for (what, harm) in HARMS {
        let vault = TestVault::new();
        run(&mut vault.backup(&server), LIMIT).expect_success();
        run(&mut vault.backup(&server), LIMIT).expect_success();
        let chunk = largest(vault.files("chunks"));
        harm(&chunk);
        let to = vault.beside("to");
        let out = run(&mut vault.export("src/latest", &to), LIMIT);
        let backups = vault.backups();
        let chunk_name = name(&vault, &chunk);
        expect_failure(&out, 4, &[&chunk_name, &backups[0], &backups[1], "orders"]);
        let document = json(&out);
        assert_eq!(document["details"]["damaged"][0]["object"], *chunk_name, "{what}");
        assert!(!to.join("shop.dump").exists(), "{what}");
        // Data of another database is not held back.
        assert!(to.join("postgres.dump").exists(), "{what}");

        assert!(out.errors().contains("Remove what is damaged"), "{}", out.errors());

        if what == "flip" {
            // Only its length is looked at when it is relied on, so the hint is to be followed.
            run(&mut vault.backup(&server), LIMIT).expect_success();
            let export = run(&mut vault.export("src/latest", &vault.beside("not-yet")), LIMIT);
            assert_eq!(export.code(), Some(4));
            remove(&chunk);
        }
        let out = run(&mut vault.backup(&server), LIMIT).expect_success();
        assert!(out.errors().contains("missing or damaged"), "{}", out.errors());
        let export = run(&mut vault.export(&backups[0], &vault.beside("again")), LIMIT);
        assert_eq!(export.code(), Some(0), "{what}: {}", export.errors());
    }
}

#[test]
fn compressed_sql_that_breaks_off_is_no_whole_file() {
    let server = server();
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let chunk = largest(vault.files("chunks"));
    let good = fs::read(&chunk).unwrap();
    for (compress, check) in [("gzip", "gzip"), ("zstd", "zstd")] {
        let sql = vault.beside(compress);
        for damaged in [false, true] {
            if damaged {
                flip(&chunk);
            } else {
                writable(&chunk);
                fs::write(&chunk, &good).unwrap();
            }
            let place = vault.place().display().to_string();
            let export =
                ["export", "src/latest", "--vault", &place, "--database", "shop", "--to", "-"];
            let mut command = flexkeep_command(&export);
            command.args(["--format", "plain", "--compress", compress, "--pg-bin"]);
            command.arg(server.version().bin()).stdout(fs::File::create(&sql).unwrap());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            let code = child.wait().unwrap().code();
            assert_eq!(code, Some(if damaged { 4 } else { 0 }), "{compress}");
            let input = fs::File::open(&sql).unwrap();
            let checked = Command::new(check).arg("-t").stdin(input).stderr(Stdio::null()).status();
            assert_eq!(checked.unwrap().success(), !damaged, "{compress}, damaged: {damaged}");
        }
        // It had begun.
        assert!(fs::metadata(&sql).unwrap().len() > 0, "{compress}");
    }
}

#[test]
fn damage_to_lists_and_manifests_is_found_and_named() {
    let server = server();
    for (what, harm) in HARMS {
        let vault = TestVault::new();
        run(&mut vault.backup(&server), LIMIT).expect_success();
        let backup = vault.backups().remove(0);
        for meta in vault.files("meta") {
            let good = fs::read(&meta).unwrap();
            harm(&meta);
            let to = vault.beside("to");
            let out = run(vault.export(&backup, &to).arg("--overwrite"), LIMIT);
            expect_failure(&out, 4, &[&name(&vault, &meta)]);
            fs::write(&meta, good).unwrap();
        }
        let to = vault.beside("to");
        run(vault.export(&backup, &to).arg("--overwrite"), LIMIT).expect_success();

        // The next backup does not need the damaged ones, and is whole.
        for meta in vault.files("meta") {
            harm(&meta);
        }
        let out = run(&mut vault.backup(&server), LIMIT);
        if what == "flip" {
            assert_eq!(out.code(), Some(0), "{what}: {}", out.errors());
        }
        let out = out.expect_success();
        assert!(out.errors().contains("cannot be read"), "{what}: {}", out.errors());
        let export = run(vault.export("src/latest", &to).arg("--overwrite"), LIMIT);
        assert_eq!(export.code(), Some(0), "{what}: {}", export.errors());

        let of_first = |file: &std::path::PathBuf| file.ends_with(format!("{backup}.json"));
        let manifests = vault.files("backups");
        let manifest = manifests.iter().find(|file| of_first(file)).expect("the first manifest");
        harm(manifest);
        let out = run(&mut vault.export(&backup, &vault.beside("to2")), LIMIT);
        if what == "remove" {
            expect_failure(&out, 2, &[&backup]);
        } else {
            expect_failure(&out, 4, &[&name(&vault, manifest)]);
        }
        run(&mut vault.backup(&server), LIMIT).expect_success();
        let out = run(vault.export("src/latest", &to).arg("--overwrite"), LIMIT);
        assert_eq!(out.code(), Some(0), "{what}: {}", out.errors());
    }
}
