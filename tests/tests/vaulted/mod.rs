//! What these tests do to a server: back it up, export it and restore it, with the commands that
//! a user has.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flexkeep_tests::{
    Server, Version, compare_databases, compare_properties, flexkeep, pg_command, restore_archive,
    run,
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const LIMIT: Duration = Duration::from_secs(280);

/// A vault in a folder that goes when the test ends.
pub(crate) struct Vaulted {
    folder: TempDir,
}

/// What `flexkeep backup --json` said.
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) manifest: Value,
    pub(crate) took: Duration,
}

impl Backup {
    /// One of the totals.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.manifest["totals"][name].as_u64().unwrap_or_else(|| panic!("no total {name}"))
    }

    /// The kinds of the losses, with what was lost.
    pub(crate) fn losses(&self) -> Vec<String> {
        let losses = self.manifest["losses"].as_array().expect("a list");
        losses
            .iter()
            .map(|one| format!("{} {} {}", one["count"], one["kind"], one["objects"]))
            .collect()
    }
}

/// The files of one `flexkeep export`.
pub(crate) struct Exported {
    pub(crate) folder: PathBuf,
    files: Value,
}

impl Exported {
    /// The archive of a database.
    #[track_caller]
    pub(crate) fn archive(&self, database: &str) -> PathBuf {
        let files = self.files.as_array().expect("a list");
        let file = files.iter().find(|file| file["database"] == database);
        file.unwrap_or_else(|| panic!("no {database:?} in {files:#?}"))["path"]
            .as_str()
            .expect("a path")
            .into()
    }

    /// Runs `roles.sql` as the README says.
    #[track_caller]
    pub(crate) fn restore_roles(&self, server: &Server) {
        server.psql_file("postgres", &self.folder.join("roles.sql"));
    }
}

impl Vaulted {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.path("vault")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(flexkeep());
        command.args([name, "--json", "--vault"]).arg(self.vault());
        command
    }

    /// Backs a server up with two lanes and the tools of that version.
    #[track_caller]
    pub(crate) fn backup(&self, server: &Server, tools: Version) -> Backup {
        let mut command = self.command("backup");
        command.args(["--name", "source", "--lanes", "2", "--from", &server.conninfo("postgres")]);
        let out = run(command.arg("--pg-bin").arg(tools.bin()), LIMIT);
        // 3: sealed, with losses that the caller looks at.
        assert!(
            matches!(out.code(), Some(0 | 3)),
            "{:?}: {}\n{}",
            out.status,
            out.errors(),
            out.text()
        );
        let mut said: Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
        Backup {
            id: said["backup"].as_str().expect("an id").to_owned(),
            manifest: said["manifest"].take(),
            took: out.took,
        }
    }

    /// Exports a backup into a new folder of that name.
    #[track_caller]
    pub(crate) fn export(&self, backup: &Backup, to: &str, options: &[&str]) -> Exported {
        let folder = self.path(to);
        let mut command = self.command("export");
        command.args([&backup.id, "--to"]).arg(&folder).args(options);
        let out = run(&mut command, LIMIT).expect_success();
        let mut said: Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
        Exported { folder, files: said["files"].take() }
    }
}

/// Restores with parallel jobs in one go, without the entries that hold one of these words.
/// `create` is `["--create"]`, or nothing where the database exists.
///
/// Two things can only be right because flexkeep completes the dependencies of the archive: the
/// trigger of a partitioned table waits for the rows of its partitions, and rows of an extension's
/// table for those that they refer to.
#[track_caller]
pub(crate) fn restore_in_parallel(
    server: &Server,
    database: &str,
    archive: &Path,
    create: &[&str],
    left_out: &[&str],
) {
    let version = server.version();
    let list = stock("pg_restore", version, &["-l", "--create"], archive);
    let kept: Vec<&str> =
        list.lines().filter(|line| !left_out.iter().any(|words| line.contains(words))).collect();
    let list = archive.with_extension("list");
    fs::write(&list, kept.join("\n")).expect("our own folder");
    let target = if create.is_empty() { database } else { "postgres" };
    let options = [&["-j", "4", "-L", list.to_str().expect("a plain path")], create].concat();
    restore_archive(server, target, version, archive, &options);
}

/// Asserts that a database and its properties are the same in the copy of a server.
#[track_caller]
pub(crate) fn assert_same_on(original: &Server, copy: &Server, database: &str) {
    assert_same(original, database, copy, database);
    let differences = compare_properties(original, database, copy, database);
    assert_eq!(differences, Vec::<String>::new(), "properties of {database:?}");
}

/// Asserts that nothing differs between two databases.
#[track_caller]
pub(crate) fn assert_same(original: &Server, database: &str, copy: &Server, copied: &str) {
    let differences = compare_databases(original, database, copy, copied);
    assert_eq!(differences, Vec::<String>::new(), "{database:?} and its copy {copied:?}");
}

/// A stock tool that has to succeed; what it printed.
#[track_caller]
pub(crate) fn stock(name: &str, version: Version, arguments: &[&str], file: &Path) -> String {
    run(pg_command(name, version).args(arguments).arg(file), LIMIT).expect_success().text()
}
