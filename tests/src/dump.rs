//! What the stock tools say and do: the yardstick for ours.

use std::path::Path;
use std::time::Duration;

use crate::{Server, Version, pg_command, run};

const LIMIT: Duration = Duration::from_secs(570);

/// A database's definitions as that version's pg_dump writes them, [normalised](normalise).
#[track_caller]
pub fn schema_text(server: &Server, database: &str, version: Version) -> String {
    let mut command = pg_command("pg_dump", version);
    command.args(["--schema-only", "-d"]).arg(server.conninfo(database));
    normalise(&run(&mut command, LIMIT).expect_success().text())
}

/// Takes out what differs between two dumps of the same thing: the random tokens of `\restrict`,
/// the versions of server and pg_dump, and the option that Debian's 17.12 sets on each column itself.
pub fn normalise(dump: &str) -> String {
    let volatile =
        ["\\restrict ", "\\unrestrict ", "-- Dumped from database version", "-- Dumped by pg_dump"];
    let mut text = String::with_capacity(dump.len());
    for line in dump.lines().filter(|line| !volatile.iter().any(|v| line.starts_with(v))) {
        text += &without_own_option(line);
        text.push('\n');
        if text.ends_with(" SET ();\n") {
            // Nothing is left of the statement, whose names may have several lines.
            let begins = ["ALTER TABLE ONLY ", "ALTER FOREIGN TABLE ONLY "];
            let begin = begins.iter().filter_map(|begin| text.rfind(begin)).max();
            text.truncate(begin.expect("a statement that alters a column"));
        }
    }
    text
}

fn without_own_option(line: &str) -> String {
    let (Some((before, rest)), true) = (line.split_once("pg_attver="), line.contains(" SET ("))
    else {
        return line.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.strip_prefix(", ") {
        Some(rest) => format!("{before}{rest}"),
        None => format!("{}{rest}", before.trim_end_matches(", ")),
    }
}

/// Stock `pg_dump -Fc` of a database into a file; `options` go to pg_dump.
#[track_caller]
pub fn dump_archive(
    server: &Server,
    database: &str,
    version: Version,
    file: &Path,
    options: &[&str],
) {
    let mut command = pg_command("pg_dump", version);
    command.args(["-Fc", "-f"]).arg(file).args(options).arg("-d").arg(server.conninfo(database));
    run(&mut command, LIMIT).expect_success();
}

/// Stock `pg_restore` of an archive into a database that exists, stopping at the first error;
/// `options` go to pg_restore, such as `["-j", "4"]`.
#[track_caller]
pub fn restore_archive(
    server: &Server,
    database: &str,
    version: Version,
    file: &Path,
    options: &[&str],
) {
    let mut command = pg_command("pg_restore", version);
    command.arg("--exit-on-error").args(options).arg("-d").arg(server.conninfo(database)).arg(file);
    let out = run(&mut command, LIMIT).expect_success();
    assert_eq!(out.errors(), "", "pg_restore had something to say about {}", file.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_dump_to_dump_is_taken_out() {
        let dump = "--\n\\restrict abc\n-- Dumped by pg_dump version 18.1\nSELECT 1;\n";
        assert_eq!(normalise(dump), "--\nSELECT 1;\n");
    }
}
