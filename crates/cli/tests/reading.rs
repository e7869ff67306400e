//! list, show and export on vaults that are made without a server.

mod common;

use common::{flexkeep, loss, seal, vault};
use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use serde_json::Value;
use tempfile::TempDir;

/// Two servers: one complete backup, then one with losses, then one of the other server.
fn example() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(folder.path());
    seal(&vault, "zoo", "2026-11-20T01:02:03Z", Vec::new());
    seal(&vault, "zoo", "2026-11-21T01:02:03Z", vec![loss()]);
    seal(&vault, "attic", "2026-11-22T01:02:03Z", Vec::new());
    folder
}

fn run(folder: &TempDir, args: &[&str]) -> assert_cmd::assert::Assert {
    flexkeep().args(args).env("FLEXKEEP_VAULT", folder.path()).assert()
}

fn json(folder: &TempDir, args: &[&str], code: i32) -> Value {
    let assert = run(folder, args).code(code);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn the_list_is_a_table_with_the_newest_last() {
    let folder = example();
    let assert = run(&folder, &["list"]).code(0).stderr(is_empty());
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("STATUS"), "{text}");
    assert!(lines[1].starts_with("complete     zoo-20261120T010203Z"), "{text}");
    assert!(lines[2].starts_with("with losses  zoo-20261121T010203Z"), "{text}");
    assert!(lines[3].starts_with("complete     attic-20261122T010203Z"), "{text}");
    assert!(lines[2].contains("2026-11-21T01:02:03Z") && lines[2].contains("2.00 GB"), "{text}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn the_list_of_one_server_has_no_other() {
    let folder = example();
    run(&folder, &["list", "--name", "attic", "-q"]).code(0).stdout("attic-20261122T010203Z\n");
    run(&folder, &["list", "--name", "atic"])
        .code(2)
        .stderr(contains("no backup of a server atic").and(contains("attic, zoo")));
}

#[test]
fn the_list_as_json_has_what_the_table_has() {
    let folder = example();
    let list = json(&folder, &["list", "--json"], 0);
    let backups = list["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 3);
    assert_eq!(backups[1]["status"], "with_losses");
    assert_eq!(backups[1]["losses"], 1);
    assert_eq!(backups[2]["backup"], "attic-20261122T010203Z");
    assert_eq!(backups[2]["databases"][0], "shop");
    assert_eq!(backups[2]["raw_bytes"], 2_000_000_000_u64);
    assert_eq!(list["unreadable"].as_array().unwrap().len(), 0);
    assert_eq!(list["runs"].as_array().unwrap().len(), 0);
}

#[test]
fn an_empty_vault_has_no_backups_and_is_fine() {
    let folder = tempfile::tempdir().unwrap();
    vault(folder.path());
    run(&folder, &["list"]).code(0).stdout(contains("has no backups"));
    run(&folder, &["show", "latest"]).code(2).stderr(contains("there is no backup"));
}

#[test]
fn a_failed_run_is_listed_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(folder.path());
    let started: jiff::Timestamp = "2026-11-22T01:02:03Z".parse().unwrap();
    let run_record = flexkeep_vault::RunRecord {
        run: flexkeep_vault::RunId::new(started),
        server: "new-one".parse().unwrap(),
        request: None,
        attempt: 1,
        started,
        host: "vm1".to_owned(),
        pid: 77,
        state: flexkeep_vault::RunState::Failed { reason: "disk full".to_owned() },
    };
    vault.open_run(&run_record).unwrap();
    run(&folder, &["list"]).code(0).stdout(contains("Run of new-one").and(contains("disk full")));
    let list = json(&folder, &["list", "--json"], 0);
    assert_eq!(list["runs"][0]["state"]["reason"], "disk full");
}

#[test]
fn a_damaged_manifest_is_named_and_does_not_hide_the_others() {
    let folder = example();
    let manifest = folder.path().join("backups/zoo/zoo-20261121T010203Z.json");
    let mut permissions = std::fs::metadata(&manifest).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&manifest, permissions).unwrap();
    std::fs::write(&manifest, "{\"format\": 1").unwrap();
    run(&folder, &["list"])
        .code(4)
        .stdout(contains("zoo-20261120T010203Z").and(contains("attic-")))
        .stderr(contains("zoo-20261121T010203Z.json is damaged"));
    let list = json(&folder, &["list", "--json"], 4);
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    assert!(list["unreadable"][0]["error"].as_str().unwrap().contains("damaged"));
    run(&folder, &["show", "zoo-20261121T010203Z"]).code(4).stderr(contains("damaged"));
}

#[test]
fn a_backup_with_losses_says_so_first_and_without_escape_sequences() {
    let folder = example();
    let assert = run(&folder, &["show", "zoo/latest"]).code(0).stderr(is_empty());
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert!(
        text.starts_with("Status     with losses\nBackup     zoo-20261121T010203Z\n"),
        "{text}"
    );
    assert!(text.contains("NOT BACKED UP\n  1 subscription of database shop"), "{text}");
    assert!(text.contains("sub\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
    assert!(text.contains("flexkeep export zoo-20261121T010203Z --vault "), "{text}");
}

#[test]
fn a_backup_is_found_by_id_by_beginning_and_as_latest() {
    let folder = example();
    for (wanted, id) in [
        ("attic/latest", "attic-20261122T010203Z"),
        ("att", "attic-20261122T010203Z"),
        ("zoo-20261120", "zoo-20261120T010203Z"),
        ("zoo-20261120T010203Z", "zoo-20261120T010203Z"),
    ] {
        let shown = json(&folder, &["show", wanted, "--json"], 0);
        assert_eq!(shown["backup"], id);
        assert_eq!(shown["manifest"]["databases"][0]["extensions"][0]["name"], "citext");
    }
}

#[test]
fn an_unknown_or_ambiguous_backup_is_answered_with_names() {
    let folder = example();
    run(&folder, &["show", "zoo-20261120T010204Z"])
        .code(2)
        .stderr(contains("did you mean zoo-20261120T010203Z").and(contains("flexkeep list")));
    run(&folder, &["show", "zoo-"]).code(2).stderr(contains("can be 2 backups"));
    run(&folder, &["show", "latest"]).code(2).stderr(contains("attic/latest, zoo/latest"));
    let failed = json(&folder, &["show", "nonsense", "--json"], 2);
    assert_eq!((&failed["status"], &failed["exit_code"]), (&"failed".into(), &2.into()));
}

#[test]
fn an_export_refuses_unknown_names_before_it_writes() {
    let folder = example();
    let to = folder.path().with_extension("export");
    let to = to.to_str().unwrap();
    run(&folder, &["export", "att", "--to", to, "--database", "shpo"])
        .code(2)
        .stderr(contains("no database \"shpo\"").and(contains("shop")));
    run(&folder, &["export", "att", "--to", to, "--pg-restore", "9"]).code(2);
    assert!(!std::path::Path::new(to).exists());
}

#[test]
fn an_export_of_damaged_contents_ends_with_4() {
    let folder = example();
    let to = tempfile::tempdir().unwrap();
    let to = to.path().join("out");
    let args = ["export", "att", "--json", "--to", to.to_str().unwrap()];
    let failed = json(&folder, &args, 4);
    assert_eq!((&failed["status"], &failed["exit_code"]), (&"failed".into(), &4.into()));
    assert!(!to.join("shop.dump").exists());
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let folder = example();
    let script = "\"$0\" list | head -n 1 >/dev/null; exit ${PIPESTATUS[0]}";
    assert_cmd::Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_flexkeep")])
        .env("FLEXKEEP_VAULT", folder.path())
        .assert()
        .code(0)
        .stderr(is_empty());
}
