//! Whether a copy is the same as its original.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Server, schema_text};

/// Everything in a database by which the second one differs from the first, in words; empty if
/// they are the same: definitions (through the newer server's pg_dump), rows of every table and
/// materialised view, large objects, and sequences.
///
/// Rows are compared as a set with repetitions: a restored table has them in another order. Rows
/// under a hash partitioning are compared at its root, as a hash may differ between servers.
#[track_caller]
pub fn compare_databases(
    original: &Server,
    database: &str,
    copy: &Server,
    copied_database: &str,
) -> Vec<String> {
    let version = original.version().max(copy.version());
    let mut differences = compare_schemas(
        &schema_text(original, database, version),
        &schema_text(copy, copied_database, version),
    );
    for (kind, sql) in [("rows", ROWS), ("large object", LARGE_OBJECTS), ("sequence", SEQUENCES)] {
        let (one, two) = (facts(original, database, sql), facts(copy, copied_database, sql));
        differences.extend(compare_facts(kind, &one, &two));
    }
    differences
}

/// What belongs to the database itself: owner, encoding, locale, ACL, settings, comment, limits.
#[track_caller]
pub fn compare_properties(
    original: &Server,
    database: &str,
    copy: &Server,
    copied_database: &str,
) -> Vec<String> {
    let of = |server: &Server, name: &str| {
        let literal = format!("'{}'", name.replace('\'', "''"));
        facts(server, "postgres", &PROPERTIES.replace("$NAME", &literal))
    };
    compare_facts("database", &of(original, database), &of(copy, copied_database))
}

/// Roles of two servers: attributes, passwords, memberships, settings, comments.
#[track_caller]
pub fn compare_roles(original: &Server, copy: &Server) -> Vec<String> {
    // Options of memberships came with 16.
    let options = original.version().major().min(copy.version().major()) >= 16;
    let more = if options { "||' inherit '||inherit_option||' set '||set_option" } else { "" };
    let sql = ROLES.replace("$OPTIONS", more);
    let of = |server: &Server| facts(server, "postgres", &sql);
    compare_facts("role", &of(original), &of(copy))
}

type Facts = BTreeMap<String, String>;

/// Runs a query whose single value is a JSON object of strings.
#[track_caller]
fn facts(server: &Server, database: &str, sql: &str) -> Facts {
    let text = server.psql(database, &format!("{SETTINGS}{sql}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not an object of texts: {e}: {text}"))
}

fn compare_facts(kind: &str, original: &Facts, copy: &Facts) -> Vec<String> {
    let names: BTreeSet<_> = original.keys().chain(copy.keys()).collect();
    let differs = |name: &&&String| original.get(**name) != copy.get(**name);
    let words = |facts: &Facts, name: &str| facts.get(name).cloned().unwrap_or("missing".into());
    names
        .iter()
        .filter(differs)
        .map(|name| {
            format!("{kind} {name}: {}; copy: {}", words(original, name), words(copy, name))
        })
        .collect()
}

/// Compares dumps entry by entry, in any order: the order of entries hangs on OIDs here and there.
fn compare_schemas(original: &str, copy: &str) -> Vec<String> {
    let (original, copy) = (entries(original), entries(copy));
    let mut differences = Vec::new();
    for name in original.keys().chain(copy.keys()).collect::<BTreeSet<_>>() {
        let none = Vec::new();
        let left = original.get(name).unwrap_or(&none);
        let right = copy.get(name).unwrap_or(&none);
        let only = |a: &Vec<String>, b: &Vec<String>| {
            a.iter().find(|line| !b.contains(line)).map_or("nothing".into(), |l| format!("{l:?}"))
        };
        if left != right {
            differences.push(format!(
                "schema {name:?}: only in the original: {}; only in the copy: {}",
                only(left, right),
                only(right, left)
            ));
        }
    }
    differences
}

/// The lines of each entry of a plain dump, by its `-- Name: …` line. The lines of an ACL are
/// sorted, as grants are restored in another order than they were made in.
fn entries(dump: &str) -> BTreeMap<String, Vec<String>> {
    let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = "(start)".to_owned();
    for line in dump.lines().filter(|line| !line.is_empty() && *line != "--") {
        if line.starts_with("-- Name: ") {
            name = line.to_owned();
        }
        entries.entry(name.clone()).or_default().push(line.to_owned());
    }
    for (name, lines) in &mut entries {
        if name.contains("; Type: ACL;") || name.contains("; Type: DEFAULT ACL;") {
            lines.sort();
        }
    }
    entries
}

// Files, because scripts/demo.sh compares with them too.
const SETTINGS: &str = include_str!("compare/settings.sql");

const ROWS: &str = include_str!("compare/rows.sql");
const LARGE_OBJECTS: &str = include_str!("compare/large_objects.sql");
const SEQUENCES: &str = include_str!("compare/sequences.sql");
const PROPERTIES: &str = include_str!("compare/properties.sql");
const ROLES: &str = include_str!("compare/roles.sql");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_another_order_are_the_same() {
        let one =
            "--\n-- Name: a; Type: TABLE\n--\n\nCREATE a;\n-- Name: b; Type: TABLE\nCREATE b;\n";
        let two = "-- Name: b; Type: TABLE\nCREATE b;\n-- Name: a; Type: TABLE\nCREATE a;\n";
        assert_eq!(compare_schemas(one, two), Vec::<String>::new());
    }

    #[test]
    fn a_changed_a_missing_and_a_new_entry_are_found() {
        let one = "-- Name: a; Type: TABLE\nCREATE a;\n-- Name: b; Type: TABLE\nCREATE b;\n";
        let two = "-- Name: a; Type: TABLE\nCREATE A;\n-- Name: c; Type: TABLE\nCREATE c;\n";
        assert_eq!(compare_schemas(one, two).len(), 3);
    }

    #[test]
    fn facts_that_differ_or_are_missing_are_told() {
        let facts = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let one = facts(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let two = facts(&[("a", "1"), ("b", "0"), ("d", "4")]);
        assert_eq!(
            compare_facts("x", &one, &two),
            ["x b: 2; copy: 0", "x c: 3; copy: missing", "x d: missing; copy: 4"]
        );
    }
}
