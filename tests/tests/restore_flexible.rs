//! A restore into a look-alike of Flexible Server, by its administrator, who is no superuser.

mod restoring;

use std::process::Command;

use flexkeep_tests::{Lookalike, TestVault, Version, compare_databases, flexkeep_command, run};
use restoring::{LIMIT, ends, failures, problems};

#[track_caller]
fn back_up(server: &Lookalike, vault: &TestVault) {
    let mut command = flexkeep_command(&["backup", "--json", "--name", "src"]);
    command.env("FLEXKEEP_FROM", server.dump_url("postgres"));
    command.env("FLEXKEEP_PG_BIN", Version::V18.bin());
    let out = run(command.arg("--vault").arg(vault.place()), LIMIT);
    assert!(matches!(out.code(), Some(0 | 3)), "{}", out.errors());
}

fn restore(vault: &TestVault, into: &str, options: &[&str]) -> Command {
    let mut command = flexkeep_command(&["restore", "src/latest", "--json", "--into", into]);
    command.args(["--lanes", "2"]).arg("--vault").arg(vault.place()).args(options);
    command
}

#[track_caller]
fn into_another(version: Version) {
    let source = Lookalike::with_sample(Lookalike::options(version).bypass_rls());
    let vault = TestVault::new();
    back_up(&source, &vault);
    let target = Lookalike::options(version).allow_extension("postgres_fdw").start();
    let admin = target.admin_url("postgres");
    // What the server does not allow is told before anything is made.
    let document = ends(1, &mut restore(&vault, &admin, &[]));
    let said = problems(&document["details"]);
    assert!(said.iter().any(|one| one.contains("hstore, pgcrypto, uuid-ossp")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("needs one for its journal")), "{said:?}");
    let made = "SELECT count(*) FROM pg_database WHERE datname IN ('shop', 'legacy', 'guarded')";
    assert_eq!(target.psql("postgres", made), "0");
    target.psql(
        "postgres",
        "ALTER SYSTEM SET azure.extensions = 'postgres_fdw,hstore,pgcrypto,uuid-ossp';
         SELECT pg_reload_conf();
         GRANT CREATE ON DATABASE postgres TO flexadmin",
    );
    // With a chunk less it is not complete, and its administrator no longer a member of the owners.
    let rights = "SELECT pg_has_role('flexadmin', 'app_owner', 'USAGE')";
    let mut chunks = vault.files("chunks");
    chunks.sort_by_key(|path| std::fs::metadata(path).expect("a file of the vault").len());
    let (chunk, aside) = (chunks.last().expect("chunks"), vault.beside("aside"));
    std::fs::rename(chunk, &aside).expect("our own vault");
    let first = ends(4, &mut restore(&vault, &admin, &[])).to_string();
    assert!(first.contains("login roles come without a password"), "{first}");
    assert_eq!(target.psql("postgres", rights), "f");
    std::fs::rename(&aside, chunk).expect("our own vault");
    // What was refused before is told again.
    let report = ends(3, &mut restore(&vault, &admin, &["--continue"]));
    for database in ["postgres", "shop", "guarded", "legacy", ODD] {
        let mut found = compare_databases(&source, database, &target, database);
        found.retain(|one| !LOST.iter().any(|part| one.contains(part)));
        assert_eq!((database, found), (database, Vec::new()));
        let refused = failures(&report, database);
        if database == "legacy" {
            let why = r#""owner of table public.old": "permission denied for schema public""#;
            assert_eq!(refused, [why], "who owns it may make nothing there");
        } else {
            assert_eq!((database, refused), (database, Vec::new()));
        }
    }
    // It had become a member of the owners, and is none any more.
    assert_eq!(
        (source.psql("postgres", rights), target.psql("postgres", rights)),
        ("f".into(), "f".into())
    );
}

const ODD: &str = "Odd \"Db\" 100%";

/// What no role of a customer can read on the source, and what its administrator can't give away
/// on the target.
const LOST: [&str; 6] = [
    "Type: USER MAPPING",
    "Type: SUBSCRIPTION",
    "large object 70002: ",
    "large object 70003: ",
    "Name: old; Type: TABLE",
    "Name: TABLE old; Type: ACL",
];

#[test]
fn the_sample_of_17_comes_back() {
    into_another(Version::V17);
}
