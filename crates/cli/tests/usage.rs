//! Arguments, connection strings and vaults that are wrong, and help.

mod common;

use common::flexkeep;
use predicates::prelude::*;
use predicates::str::{contains, is_empty};

const SECRET: &str = "hunter2";

fn secret_free() -> impl Predicate<str> {
    contains(SECRET).not()
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in ["backup", "list", "show", "export", "check", "completions"] {
        flexkeep()
            .args([command, "--help"])
            .assert()
            .code(0)
            .stdout(contains("Examples:").and(contains(format!("flexkeep {command}"))))
            .stderr(is_empty());
    }
    flexkeep()
        .arg("--help")
        .assert()
        .code(0)
        .stdout(contains("Exit codes:").and(contains("sealed with losses")));
    flexkeep().arg("--version").assert().code(0).stdout(contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_does_not_show_the_environment() {
    flexkeep()
        .args(["backup", "--help"])
        .env("FLEXKEEP_FROM", format!("password={SECRET}"))
        .assert()
        .stdout(secret_free().and(contains("FLEXKEEP_FROM")));
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = flexkeep().args(["completions", shell]).assert().code(0);
        script.stdout(contains("flexkeep").and(contains("roles-for")).and(contains("pg-bin")));
    }
}

#[test]
fn wrong_arguments_end_with_2() {
    for args in [
        &[][..],
        &["restore"],
        &["backup", "--lanes", "0"],
        &["backup", "--stall-timeout", "10"],
        &["backup", "--name", "Not/A/Name"],
        &["show", "--vault", "/v"],
        &["export", "latest", "--vault", "/v"],
        &["export", "latest", "--vault", "/v", "--to", "x", "--roles-for", "mysql"],
        &["list", "-q", "-v"],
    ] {
        flexkeep().args(args).assert().code(2).stdout(is_empty()).stderr(is_empty().not());
    }
}

#[test]
fn a_connection_string_in_the_wrong_place_is_not_repeated() {
    let url = format!("postgresql://me:{SECRET}@db.example.org/shop");
    let words = format!("host=db.example.org password='{SECRET} x'");
    for secret in [&url, &words] {
        for args in [
            vec!["backup", secret],
            vec![secret],
            vec!["backup", "--roles-for", secret],
            vec!["backup", "--lanes", secret],
            vec!["export", "latest", "--to", "x", "--roles-for", secret],
            vec!["backup", "--name", secret],
        ] {
            flexkeep().args(&args).assert().code(2).stderr(secret_free()).stdout(secret_free());
        }
        let folder = tempfile::tempdir().unwrap();
        common::vault(folder.path());
        for json in [&[][..], &["--json"]] {
            flexkeep()
                .args(["show", secret, "--vault"])
                .arg(folder.path())
                .args(json)
                .assert()
                .code(2)
                .stderr(secret_free())
                .stdout(secret_free());
        }
    }
}

#[test]
fn a_wrong_connection_string_is_told_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("vault");
    for (from, says) in [
        (format!("host=h user=u pasword={SECRET}"), "pasword"),
        (format!("postgresql://u:{SECRET}@h:nineteen/db"), "port"),
        (format!("host=h user=u password={SECRET} sslmode=sometimes"), "sslmode"),
        (format!("host=h user=u password={SECRET} x"), "="),
    ] {
        for command in ["backup", "check"] {
            flexkeep()
                .args([command, "--from", &from, "--vault"])
                .arg(&place)
                .assert()
                .code(2)
                .stdout(is_empty())
                .stderr(secret_free().and(contains("cannot use --from")).and(contains(says)));
            flexkeep()
                .args([command, "--json", "--vault"])
                .arg(&place)
                .env("FLEXKEEP_FROM", &from)
                .assert()
                .code(2)
                .stdout(secret_free().and(contains("\"exit_code\": 2")))
                .stderr(secret_free().and(contains("cannot use FLEXKEEP_FROM")));
        }
    }
    assert!(!place.exists(), "a vault was made for a server that nobody can reach");
}

#[test]
fn a_password_in_the_wrong_place_makes_nothing_and_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("vault");
    let vault = common::vault(&folder.path().join("full"));
    common::seal(&vault, "zoo", "2026-11-20T01:02:03Z", Vec::new());
    for place in [
        format!("password={SECRET} host=x"),
        format!("host=x password = '{SECRET}'"),
        format!("postgresql://u:{SECRET}@h/d"),
        format!("postgres://u:a/{SECRET}@h/d"),
    ] {
        let backup = ["backup", "--from", "host=/nowhere user=u", "--vault", &place];
        let export = ["export", "latest", "--vault", "../full", "--to", &place];
        let cwd = folder.path().join("cwd");
        std::fs::create_dir_all(&cwd).unwrap();
        for args in [&backup[..], &export, &["list", "--vault", &place]] {
            let assert = flexkeep().args(args).current_dir(&cwd).assert();
            assert.code(2).stdout(secret_free()).stderr(secret_free().and(contains("cannot use")));
        }
        assert_eq!(std::fs::read_dir(&cwd).unwrap().count(), 0, "nothing is made of that name");
    }
    for from in [
        SECRET.to_owned(),
        format!("host=h password=my {SECRET}=1 user=x"),
        format!("host=h,password={SECRET}"),
        format!("host=h,{SECRET}=x"),
        format!("host=h;Password={SECRET}"),
        format!("user=u,password={SECRET} host=/nowhere"),
    ] {
        for command in ["backup", "check"] {
            flexkeep()
                .args([command, "--from", &from, "--vault"])
                .arg(&place)
                .assert()
                .code(2)
                .stdout(secret_free())
                .stderr(secret_free().and(contains("cannot use --from")));
        }
    }
    assert!(!place.exists());
}

#[test]
fn a_password_on_the_command_line_is_warned_of_but_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("host={} user=u password={SECRET}", folder.path().display());
    let backup = |from: &str| {
        let mut command = flexkeep();
        command.args(["backup", "--from", from, "--vault"]).arg(folder.path().join("vault"));
        command
    };
    // No server listens in the folder.
    backup(&from)
        .assert()
        .code(1)
        .stdout(is_empty())
        .stderr(secret_free().and(contains("PGPASSWORD").count(1)).and(contains("cannot connect")));
    let without = from.replace(&format!(" password={SECRET}"), "");
    backup(&without)
        .env("PGPASSWORD", SECRET)
        .args(["-vvv", "--progress", "json"])
        .assert()
        .code(1)
        .stderr(secret_free().and(contains("the command line").not()));
}

#[test]
fn what_is_not_said_is_asked_for() {
    flexkeep().args(["backup", "--vault", "/v"]).assert().code(2).stderr(contains("--from"));
    flexkeep()
        .args(["backup", "--vault", "/v"])
        .env("FLEXKEEP_FROM", "")
        .assert()
        .code(2)
        .stderr(contains("FLEXKEEP_FROM"));
    for command in [&["list"][..], &["show", "x"], &["export", "x", "--to", "y"]] {
        flexkeep().args(command).assert().code(2).stderr(contains("--vault"));
    }
}

#[test]
fn a_vault_that_is_not_there_is_bad_input_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for place in [folder.path(), &missing] {
        for command in [&["list"][..], &["show", "latest"], &["export", "latest", "--to", "x"]] {
            flexkeep()
                .args(command)
                .env("FLEXKEEP_VAULT", place)
                .assert()
                .code(2)
                .stderr(contains("there is no vault in").and(contains("flexkeep backup")));
        }
    }
    assert!(!missing.exists());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for command in [&["list"][..], &["backup", "--from", "host=/nowhere user=u"]] {
        let assert = flexkeep().args(command).arg("--vault").arg(&file).assert();
        assert.code(2).stderr(contains("file"));
    }
    flexkeep().args(["list", "--vault", "s3://bucket"]).assert().code(2).stderr(contains("s3://"));
    flexkeep().args(["list", "--vault"]).arg(&missing).env("FLEXKEEP_LOG", "=,=").assert().code(2);
}

#[test]
fn a_folder_with_other_things_is_not_made_into_a_vault() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "text").unwrap();
    flexkeep()
        .args(["backup", "--from", "host=/nowhere user=u", "--vault"])
        .arg(folder.path())
        .assert()
        .code(2)
        .stderr(contains("not empty"));
}
