//! PostgreSQL's own regression database. pg_dump can't write all of it as it is: columns that parents
//! got after their children come back in another order. So the yardstick is the copy that pg_dump and
//! pg_restore make of it, from which ours must not differ at all.

use flexkeep_tests::{
    Server, compare_databases, dump_archive, load_regression, regression_version, restore_archive,
};

use crate::restoring::{ends, restore};
use crate::vaulted::{Vaulted, assert_same, restore_in_parallel};

const REGRESSION: &str = "regression";

/// The suite leaves this behind without its C library; fewer means that it did not run.
const LEAST: &str = "SELECT count(*) FILTER (WHERE relkind = 'r') > 400, count(*) FILTER (WHERE relkind = 'i') > 150,
    count(*) FILTER (WHERE relkind = 'p') > 60, count(*) FILTER (WHERE relkind = 'v') > 30
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

#[test]
fn the_regression_database_comes_back() {
    let version = regression_version();
    let original = Server::options(version).conf("max_prepared_transactions = 2").start();
    load_regression(&original);
    assert_eq!(original.psql(REGRESSION, LEAST), "t|t|t|t");
    let vaulted = Vaulted::new();
    let backup = vaulted.backup(&original, version);
    assert_eq!(backup.losses(), Vec::<String>::new());

    // Also under the conditions of the suite: a tablespace without a folder of its own.
    let conf = "allow_in_place_tablespaces = on";
    let stock = Server::options(version).conf(conf).start();
    ends(0, &mut restore(&vaulted.vault(), &stock, &["--schema-only"]));
    stock.psql("postgres", "DROP DATABASE regression");
    let file = vaulted.path("stock.dump");
    dump_archive(&original, REGRESSION, version, &file, &["--compress=1"]);
    restore_archive(&stock, "postgres", version, &file, &["--create"]);
    let differences = compare_databases(&original, REGRESSION, &stock, REGRESSION);
    assert!(differences.len() < 20, "{differences:#?}");

    let copy = Server::options(version).conf(conf).start();
    ends(0, &mut restore(&vaulted.vault(), &copy, &[]));
    assert_same(&stock, REGRESSION, &copy, REGRESSION);
    copy.psql("postgres", "DROP DATABASE regression");
    let exported = vaulted.export(&backup, "out", &[]);
    restore_in_parallel(&copy, REGRESSION, &exported.archive(REGRESSION), &["--create"], &[]);
    assert_same(&stock, REGRESSION, &copy, REGRESSION);
}
