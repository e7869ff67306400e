//! The SQL of docs/deploy.md makes a user that can dump everything, and change nothing.

use std::time::Duration;

use flexkeep_tests::{Server, Version, pg_command, run};

use super::read;

/// The block of SQL behind a mark.
fn sql(mark: &str) -> String {
    let text = read("docs/deploy.md");
    let behind = text.split(&format!("<!-- tested: {mark} -->\n```sql\n")).nth(1);
    let block = behind.and_then(|text| text.split("\n```").next());
    block.unwrap_or_else(|| panic!("docs/deploy.md has no block marked {mark}")).to_owned()
}

fn dumps_everything_and_changes_nothing(version: Version) {
    let server = Server::start(version);
    server.create_database("shop");
    server.psql(
        "shop",
        "CREATE SCHEMA hidden; REVOKE ALL ON SCHEMA hidden FROM PUBLIC;
         CREATE TABLE hidden.orders (id serial PRIMARY KEY, what text);
         INSERT INTO hidden.orders (what) VALUES ('a lamp');
         CREATE MATERIALIZED VIEW hidden.lamps AS SELECT * FROM hidden.orders;",
    );
    server.psql("postgres", &sql("password"));
    let as_user = server.conninfo_as("flexkeep", Some("a long random one"), "shop");
    let mut dump = pg_command("pg_dump", version);
    let dump = run(dump.args(["--dbname", &as_user]), Duration::from_secs(60)).expect_success();
    assert!(dump.text().contains("a lamp"), "{}", dump.text());
    for change in [
        "INSERT INTO hidden.orders (what) VALUES ('a chair')",
        "DELETE FROM hidden.orders",
        "CREATE TABLE hidden.more ()",
        "CREATE DATABASE more",
        "CREATE ROLE more",
    ] {
        let mut psql = pg_command("psql", version);
        psql.args(["-X", "-d", &as_user, "-c", change]);
        let refused = run(&mut psql, Duration::from_secs(60));
        assert_eq!(refused.code(), Some(1), "{change}");
        assert!(refused.errors().contains("permission denied"), "{change}: {}", refused.errors());
    }
}

#[test]
fn on_15_the_user_of_the_docs_dumps_everything_and_changes_nothing() {
    dumps_everything_and_changes_nothing(Version::V15);
}

#[test]
fn on_18_the_user_of_the_docs_dumps_everything_and_changes_nothing() {
    dumps_everything_and_changes_nothing(Version::V18);
}
