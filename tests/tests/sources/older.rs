//! Servers of 13, 14 and 16, by the tools of 18: back into their own version, and into 18.

use flexkeep_tests::{Server, Version, compare_databases, compare_roles, load_what_it_knows};

use crate::restoring::{ends, failures, restore};
use crate::vaulted::{Backup, Vaulted, restore_in_parallel};

const SAMPLE: &str = "everything";

/// How many tables of the sample the server has taken, at least, and how many of its statements it
/// has refused at most: so that "all of it is the same" means something.
struct Taken {
    tables: usize,
    refused: usize,
}

fn sample(version: Version, taken: &Taken) -> Server {
    let server = Server::start(version);
    let refused = load_what_it_knows(&server);
    assert!(refused.len() <= taken.refused, "{}: {refused:#?}", refused.len());
    let tables = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'app'::regnamespace";
    let tables: usize = server.psql(SAMPLE, tables).parse().expect("a number");
    assert!(tables >= taken.tables, "{tables} tables");
    server
}

/// What is written otherwise about an older server than about its copy on a newer one, and why.
const DIFFERENT_ON_NEWER: [(&str, &str); 3] = [
    ("MAINTAIN", "a right since 17, which a GRANT ALL written by 15 gives there too"),
    ("; Type: VIEW; ", "since 16, a column of a view's only table is written without the table"),
    ("; Type: MATERIALIZED VIEW; ", "the same"),
];

fn differences(original: &Server, copy: &Server, database: &str) -> Vec<String> {
    let mut all = compare_databases(original, database, copy, database);
    if original.version() != copy.version() {
        all.retain(|one| {
            !one.starts_with("schema ")
                || !DIFFERENT_ON_NEWER.iter().any(|(part, _)| one.contains(part))
        });
    }
    all
}

/// What pg_dump 18 writes in words that servers before 15 or 16 do not know; a restore into such a
/// server tells each.
const TOO_NEW: [&str; 2] = ["unlogged_id_seq", "from_far"];

/// Into the version that it came from, or another one.
#[track_caller]
fn back_into(version: Version, original: &Server, vaulted: &Vaulted) {
    let copy = Server::start(version);
    let mut into = restore(&vaulted.vault(), &copy, &[]);
    let too_new = version < Version::V16;
    let report = ends(if too_new { 3 } else { 0 }, &mut into);
    let failed = failures(&report, SAMPLE);
    assert_eq!(failed.is_empty(), !too_new, "{failed:#?}");
    let mut left = failed;
    left.extend(differences(original, &copy, SAMPLE));
    left.extend(differences(original, &copy, "latin"));
    left.extend(compare_roles(original, &copy));
    left.retain(|one| !too_new || !TOO_NEW.iter().any(|word| one.contains(word)));
    // The column whose sequence was refused stands in its table.
    left.retain(|one| !too_new || !one.contains("Name: unlogged; Type: TABLE"));
    assert_eq!(left, Vec::<String>::new());
}

#[track_caller]
fn comes_back(version: Version, taken: &Taken, also_into: &[Version]) {
    let original = sample(version, taken);
    let vaulted = Vaulted::new();
    let backup: Backup = vaulted.backup(&original, Version::V18);
    assert_eq!(backup.losses(), [r#"1 "database" ["closed"]"#]);
    back_into(version, &original, &vaulted);
    for other in also_into {
        back_into(*other, &original, &vaulted);
    }

    let copy = Server::start(Version::V18);
    ends(0, &mut restore(&vaulted.vault(), &copy, &["--database", SAMPLE]));
    assert_eq!(differences(&original, &copy, SAMPLE), Vec::<String>::new(), "by flexkeep");
    copy.psql(SAMPLE, "DROP SUBSCRIPTION IF EXISTS from_far");
    copy.psql("postgres", &format!("DROP DATABASE {SAMPLE}"));
    let stock = copy;
    let exported = vaulted.export(&backup, "out", &[]);
    restore_in_parallel(&stock, SAMPLE, &exported.archive(SAMPLE), &["--create"], &[]);
    assert_eq!(differences(&original, &stock, SAMPLE), Vec::<String>::new(), "by pg_restore");
}

#[test]
fn a_server_of_13_comes_back() {
    comes_back(Version::V13, &Taken { tables: 30, refused: 40 }, &[]);
}

#[test]
#[ignore = "between two that are tested; make soak runs it"]
fn a_server_of_14_comes_back() {
    let into = [Version::V15, Version::V17];
    comes_back(Version::V14, &Taken { tables: 40, refused: 20 }, &into);
}

#[test]
#[ignore = "between two that are tested; make soak runs it"]
fn a_server_of_16_comes_back() {
    comes_back(Version::V16, &Taken { tables: 40, refused: 3 }, &[Version::V17]);
}
