//! `flexkeep verify`: damage of every kind is found, named, and the backups that it hurts with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flexkeep_tests::{
    Output, Server, TestVault, Version, flexkeep_command, flip, json, run, writable,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// A vault with two backups; the table `orders` is in both, `later` in the second only.
fn two_backups() -> (TestVault, [String; 2]) {
    let server = Server::start(Version::V18);
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE TABLE orders AS SELECT i, md5(i::text) AS note FROM generate_series(1, 200000) i; \
         SELECT lo_from_bytea(0, convert_to(repeat('x', 5000), 'UTF8'));",
    );
    let vault = TestVault::new();
    run(&mut vault.backup(&server), LIMIT).expect_success();
    server.psql(
        "shop",
        "CREATE TABLE later AS SELECT i, md5((i * 3)::text) AS note \
         FROM generate_series(1, 200000) i;",
    );
    run(&mut vault.backup(&server), LIMIT).expect_success();
    let backups = vault.backups().try_into().expect("two backups");
    (vault, backups)
}

fn verify(vault: &TestVault, more: &[&str]) -> Output {
    let mut command = flexkeep_command(&["verify", "--json", "--vault"]);
    run(command.arg(vault.place()).args(more), LIMIT)
}

/// The report, which must say that something is damaged.
#[track_caller]
fn damaged(vault: &TestVault, more: &[&str]) -> Value {
    let out = verify(vault, more);
    assert_eq!(out.code(), Some(4), "{}{}", out.text(), out.errors());
    let report = json(&out);
    assert_eq!(report["status"], "damaged");
    report
}

#[track_caller]
fn sound(vault: &TestVault, more: &[&str]) -> Value {
    let out = verify(vault, more);
    assert_eq!(out.code(), Some(0), "{}{}", out.text(), out.errors());
    json(&out)
}

/// The hurt backups and tables of a report: `backup database entry`.
fn hurt(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for backup in list(&report["hurt"]) {
        for database in list(&backup["databases"]) {
            for entry in list(&database["entries"]) {
                let (id, name) = (text(&backup["backup"]), text(&database["database"]));
                found.push(format!("{id} {name} {}", text(&entry)));
            }
        }
    }
    found
}

fn object(vault: &TestVault, file: &Path) -> String {
    file.strip_prefix(vault.place()).unwrap().to_string_lossy().into_owned()
}

fn truncate(file: &Path) {
    writable(file);
    let length = fs::metadata(file).unwrap().len();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length - 1).unwrap();
}

/// All chunks, the largest last.
fn chunks_by_size(vault: &TestVault) -> Vec<PathBuf> {
    let mut chunks = vault.files("chunks");
    chunks.sort_by_key(|file| fs::metadata(file).unwrap().len());
    chunks
}

#[test]
fn a_whole_vault_is_sound_at_every_depth() {
    let (vault, [first, _]) = two_backups();
    let all = sound(&vault, &[]);
    let chunks = vault.files("chunks").len();
    assert_eq!(all["counts"]["backups"], 2);
    assert_eq!(all["counts"]["chunks"], chunks);
    assert_eq!(all["counts"]["chunks_read"], chunks);
    assert_eq!(all["unreferenced"]["chunks"], 0);
    let sizes = sound(&vault, &["--sizes-only"]);
    assert_eq!(
        (&sizes["counts"]["chunks_read"], &sizes["depth"]["read"]),
        (&0.into(), &"sizes".into())
    );
    let one = sound(&vault, &[&first]);
    assert_eq!(one["counts"]["backups"], 1);
    assert!(one["counts"]["chunks"].as_u64() < Some(chunks as u64), "{one}");
    let sample = sound(&vault, &["--sample", "30", "--seed", "5"]);
    assert!(sample["counts"]["chunks_read"].as_u64() < Some(chunks as u64), "{sample}");
}

#[test]
fn every_kind_of_damage_to_a_chunk_is_found_and_named() {
    let (vault, backups) = two_backups();
    let chunks = chunks_by_size(&vault);
    let largest = chunks.last().expect("a chunk").clone();
    let good = fs::read(&largest).unwrap();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] =
        [("flip", flip), ("truncate", truncate), ("remove", |file| fs::remove_file(file).unwrap())];
    for (what, harm) in harms {
        harm(&largest);
        let report = damaged(&vault, &[]);
        let name = object(&vault, &largest);
        assert_eq!(report["damaged"][0]["object"], *name, "{what}: {report}");
        assert_eq!(report["counts"]["damaged"], 1, "{what}: {report}");
        let hurt = hurt(&report);
        assert!(!hurt.is_empty(), "{what}: {report}");
        for one in &hurt {
            assert!(one.contains(" shop public."), "{what}: {one}");
        }
        if what != "flip" {
            // Also without a look at the content.
            assert_eq!(damaged(&vault, &["--sizes-only"])["damaged"][0]["object"], *name, "{what}");
        }
        let text = {
            let mut command = flexkeep_command(&["verify", "--vault"]);
            run(command.arg(vault.place()), LIMIT)
        };
        assert!(text.text().contains(&name) && text.text().contains("HURT"), "{}", text.text());
        writable_again(&largest, &good);
    }
    assert_eq!(sound(&vault, &[])["counts"]["backups"], backups.len());
}

fn writable_again(file: &Path, content: &[u8]) {
    if file.exists() {
        writable(file);
    }
    fs::write(file, content).unwrap();
}

#[test]
fn two_chunks_that_changed_places_are_both_found() {
    let (vault, _) = two_backups();
    let chunks = chunks_by_size(&vault);
    let [.., a, b] = chunks.as_slice() else { panic!("too few chunks") };
    let (of_a, of_b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    writable_again(a, &of_b);
    writable_again(b, &of_a);
    let report = damaged(&vault, &[]);
    let mut named: Vec<_> =
        (0..2).map(|n| report["damaged"][n]["object"].as_str().unwrap().to_owned()).collect();
    named.sort();
    let mut wanted = [object(&vault, a), object(&vault, b)];
    wanted.sort();
    assert_eq!(named, wanted);
}

#[test]
fn damage_that_one_backup_shows_is_told_of_all_that_it_hurts() {
    let (vault, [first, second]) = two_backups();
    // All chunks of the first backup are the second's too.
    for chunk in &vault.files("chunks") {
        flip(chunk);
    }
    let report = damaged(&vault, &[&first]);
    let hurt = hurt(&report);
    for backup in [&first, &second] {
        assert!(hurt.contains(&format!("{backup} shop public.orders")), "{hurt:?}");
    }
}

#[test]
fn a_manifest_of_another_vault_and_one_that_is_damaged_are_named() {
    let (vault, [first, second]) = two_backups();
    let (other, _) = two_backups();
    let strange = other.files("backups").remove(0);
    let target = vault.place().join("backups/src").join(strange.file_name().unwrap());
    if !target.exists() {
        fs::copy(&strange, &target).unwrap();
        let report = damaged(&vault, &[]);
        assert_eq!(report["unreadable"][0]["object"], *object(&vault, &target));
        let problem = report["unreadable"][0]["problem"].as_str().unwrap();
        assert!(problem.contains("belongs to the vault"), "{problem}");
        let id = target.file_stem().unwrap().to_string_lossy().into_owned();
        let to = vault.beside("out");
        let to = to.to_str().unwrap();
        for command in [&["list"][..], &["show", &id], &["export", &id, "--to", to]] {
            let out = run(flexkeep_command(command).arg("--vault").arg(vault.place()), LIMIT);
            assert_eq!(out.code(), Some(4), "{command:?}: {}", out.errors());
            assert!(out.errors().contains("belongs to the vault"), "{}", out.errors());
        }
        assert_eq!(report["counts"]["backups"], 2, "the others are verified all the same");
        writable(&target);
        fs::remove_file(&target).unwrap();
    }
    truncate(&vault.place().join(format!("backups/src/{second}.json")));
    let report = damaged(&vault, &[]);
    assert!(report["unreadable"][0]["object"].as_str().unwrap().contains(&second), "{report}");
    assert!(report["unreferenced"].is_null(), "what it names is not known: {report}");
    // Whoever asks for one backup learns that another is damaged.
    let report = damaged(&vault, &["--sizes-only", &first]);
    assert_eq!((&report["counts"]["damaged"], hurt(&report).len()), (&0.into(), 0), "{report}");
}

#[test]
fn damaged_lists_are_named_with_their_backups() {
    let (vault, backups) = two_backups();
    for meta in vault.files("meta") {
        let good = fs::read(&meta).unwrap();
        for harm in [flip, truncate] {
            harm(&meta);
            let report = damaged(&vault, &["--sizes-only"]);
            assert_eq!(report["damaged"][0]["object"], *object(&vault, &meta), "{report}");
            let hurt = hurt(&report);
            assert!(
                hurt.iter().all(|one| backups.iter().any(|id| one.starts_with(id))),
                "{hurt:?}"
            );
            assert!(!hurt.is_empty(), "{report}");
            fs::write(&meta, &good).unwrap();
        }
    }
    sound(&vault, &[]);
}

#[test]
fn a_changed_manifest_is_damage_for_every_command_that_reads_it() {
    let (vault, [first, _]) = two_backups();
    let manifest = vault.place().join(format!("backups/src/{first}.json"));
    let good = fs::read_to_string(&manifest).unwrap();
    writable(&manifest);
    for (from, to) in [
        ("\"globals\": {", "\"globalr\": {"),
        ("\"name\": \"shop\"", "\"name\": \"shoq\""),
        ("\"encoding\": \"UTF8\"", "\"encoding\": \"UTF9\""),
        ("\"version_num\": 18", "\"version_num\": 19"),
        ("\"snapshot_time\": \"2", "\"snapshot_time\": \"3"),
        ("\"tables\": 1", "\"tables\": 3"),
        ("\"blake3\"", "\"blake2\""),
    ] {
        assert!(good.contains(from), "{from}: {good}");
        fs::write(&manifest, good.replacen(from, to, 1)).unwrap();
        let report = damaged(&vault, &["--sizes-only"]);
        let named = report["unreadable"][0]["object"].as_str().unwrap();
        assert!(named.contains(&first), "{to}: {report}");
    }
    let to = vault.beside("out");
    let to = to.to_str().unwrap();
    for command in [&["list"][..], &["show", &first], &["export", &first, "--to", to]] {
        let out = run(flexkeep_command(command).arg("--vault").arg(vault.place()), LIMIT);
        assert_eq!(out.code(), Some(4), "{command:?}: {}{}", out.text(), out.errors());
        assert!(out.errors().contains(&first), "{}", out.errors());
    }
    assert!(!Path::new(to).exists());
    fs::write(&manifest, &good).unwrap();
    sound(&vault, &["--sizes-only"]);
}

#[test]
fn a_manifest_that_names_what_cannot_be_does_not_stop_the_others() {
    let (vault, [first, second]) = two_backups();
    let manifest = vault.place().join(format!("backups/src/{first}.json"));
    let good = fs::read(&manifest).unwrap();
    writable(&manifest);
    for part in ["globals", "toc", "contents"] {
        // As an earlier version wrote it, without a checksum.
        let mut json: Value = serde_json::from_slice(&good).unwrap();
        json.as_object_mut().unwrap().remove("blake3");
        let of = json["databases"].as_array().unwrap().iter().position(|one| one["name"] == "shop");
        let object = match part {
            "globals" => &mut json["globals"],
            part => &mut json["databases"][of.unwrap()][part],
        };
        object["stored_bytes"] = 315_030_000_000_u64.into();
        let name = object["hash"].as_str().unwrap().to_owned();
        fs::write(&manifest, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
        let report = damaged(&vault, &["--sizes-only"]);
        let hurt = hurt(&report);
        let [only] = hurt.as_slice() else { panic!("{part}: {hurt:?}") };
        let database = if part == "globals" { "-" } else { "shop" };
        assert!(only.starts_with(&format!("{first} {database} ")), "{part}: {only}");
        assert!(only.contains(&name) && only.contains("315030000000"), "{part}: {only}");
        assert_eq!(report["counts"]["backups"], 2, "{part}: {report}");
        // Also where something else is damaged, and all backups are searched for it.
        let chunk = chunks_by_size(&vault).pop().expect("a chunk");
        let content = fs::read(&chunk).unwrap();
        truncate(&chunk);
        damaged(&vault, &["--sizes-only", &second]);
        fs::write(&chunk, content).unwrap();
    }
}

#[test]
fn links_where_objects_were_are_damage() {
    let (vault, [first, second]) = two_backups();
    let link = |file: &Path| {
        let aside = vault.beside("aside");
        fs::rename(file, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, file).unwrap();
    };
    let back = |file: &Path| {
        fs::remove_file(file).unwrap();
        fs::rename(vault.beside("aside"), file).unwrap();
    };
    for meta in vault.files("meta") {
        link(&meta);
        let report = damaged(&vault, &["--sizes-only"]);
        assert_eq!(report["damaged"][0]["object"], *object(&vault, &meta), "{report}");
        let hurt = hurt(&report);
        assert!(hurt.iter().all(|one| one.starts_with(&first) || one.starts_with(&second)));
        assert!(!hurt.is_empty(), "{report}");
        back(&meta);
    }
    let manifest = vault.place().join(format!("backups/src/{first}.json"));
    link(&manifest);
    let report = damaged(&vault, &["--sizes-only"]);
    assert_eq!(report["unreadable"][0]["object"], *object(&vault, &manifest), "{report}");
    assert_eq!(report["counts"]["backups"], 1, "{report}");
    back(&manifest);
    sound(&vault, &["--sizes-only"]);
}

#[test]
fn nothing_to_verify_is_no_success() {
    let (vault, [first, _]) = two_backups();
    let out = verify(&vault, &["src-19990101T000000Z"]);
    assert_eq!(out.code(), Some(2), "{}", out.errors());
    for manifest in vault.files("backups") {
        fs::remove_file(manifest).unwrap();
    }
    let out = verify(&vault, &[]);
    assert_eq!(out.code(), Some(2), "{}", out.errors());
    assert!(out.errors().contains("nothing was verified"), "{}", out.errors());
    assert_eq!(verify(&vault, &[&first]).code(), Some(2));
}
