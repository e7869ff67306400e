//! Whether what was restored is one state that was.

use std::fmt::Write as _;

use flexkeep_tests::Server;

use crate::ddl;
use crate::load::{ACCOUNTS, BALANCE, PADS, WRITERS};

/// What a backup has to have: the commits that were answered when it was asked for, and none that
/// had not begun when it was done.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) at_least: Vec<u64>,
    pub(crate) at_most: Vec<u64>,
}

/// Everything in the copy that is not as it must be.
pub(crate) fn wrong_with(copy: &Server, database: &str, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: &str, sql: &str, expected: &str| {
        let found = copy.psql(database, sql);
        if found.trim() != expected {
            wrong.push(format!("{what}: {:?}, not {expected:?}", found.trim()));
        }
    };
    let money = ACCOUNTS * BALANCE;
    expect("money", "SELECT count(*), sum(balance) FROM accounts", &format!("{ACCOUNTS}|{money}"));
    for log in ["log_b", "log_c"] {
        let sql = format!(
            "SELECT count(*) FROM (SELECT writer, seq, seen FROM log_a WHERE writer >= 0) a \
             FULL JOIN (SELECT writer, seq, seen FROM {log} WHERE writer >= 0) b \
             USING (writer, seq) WHERE a.seen IS DISTINCT FROM b.seen"
        );
        expect(&format!("commits that log_a and {log} do not share"), &sql, "0");
    }
    expect(
        "writers of whose commits one is missing",
        "SELECT count(*) FROM (SELECT writer, count(*) AS n, max(seq) AS last FROM log_a \
         WHERE writer >= 0 GROUP BY writer) w WHERE n <> last",
        "0",
    );
    expect(
        "commits that are missing although one after them is there",
        "SELECT count(*) FROM (SELECT DISTINCT s.writer - 1 AS writer, s.seq FROM log_a l, \
         unnest(l.seen) WITH ORDINALITY s(seq, writer) WHERE s.seq > 0) s \
         WHERE NOT EXISTS (SELECT FROM log_a l WHERE l.writer = s.writer AND l.seq = s.seq)",
        "0",
    );
    expect("stamps of pads", &stamps(), "");
    schema_changes(&mut expect);
    let last = "SELECT coalesce(max(seq), 0) FROM log_a WHERE writer = ";
    for writer in 0..WRITERS {
        let last = copy.psql(database, &format!("{last}{writer}"));
        let last: u64 = last.trim().parse().expect("a number");
        let (least, most) = (bounds.at_least[writer], bounds.at_most[writer]);
        if !(least..=most).contains(&last) {
            wrong.push(format!("writer {writer} ends with {last}, not in {least}..={most}"));
        }
    }
    made_tables(copy, database, &mut wrong);
    wrong
}

/// Pads whose rows are not all there, or whose stamps differ within a pair.
fn stamps() -> String {
    let mut sql = String::from("SELECT pair, min(low), max(high), bool_and(whole) FROM (");
    for pad in 0..PADS {
        let union = if pad == 0 { "" } else { " UNION ALL " };
        let rows = 2500 + 100 * pad;
        let _ = write!(
            sql,
            "{union}SELECT {} AS pair, min(stamp) AS low, max(stamp) AS high, \
             count(*) = {rows} AS whole FROM pad_{pad}",
            pad / 2
        );
    }
    sql + ") p GROUP BY pair HAVING min(low) <> max(high) OR NOT bool_and(whole)"
}

fn schema_changes(expect: &mut impl FnMut(&str, &str, &str)) {
    let rows = ddl::ROWS;
    let value = |name: &str| format!("(SELECT value FROM register WHERE name = '{name}')");
    expect(
        "a table that is emptied and filled again",
        &format!(
            "SELECT count(*), min(fill) = {0} AND max(fill) = {0} FROM refilled",
            value("refilled")
        ),
        &format!("{rows}|t"),
    );
    let sum = u64::from(rows) * u64::from(rows + 1) / 2;
    expect(
        "a table of other columns and types",
        &format!(
            "SELECT count(*), sum(value), min(extra) = {0} AND max(extra) = {0} FROM reshaped",
            value("reshaped")
        ),
        &format!("{rows}|{sum}|t"),
    );
    for (table, content) in [("swap_a", value("swapped")), ("swap_b", value("swapped"))] {
        let content = if table == "swap_a" { content } else { format!("3 - {content}") };
        expect(
            "a table of another name",
            &format!(
                "SELECT count(*), min(content) = {content} AND max(content) = {content} FROM {table}"
            ),
            &format!("{rows}|t"),
        );
    }
    expect(
        "tables that came or went without their register",
        "SELECT count(*) FROM (SELECT name FROM made_register) r FULL JOIN \
         (SELECT relname::text AS name FROM pg_class WHERE relname ~ '^made_[0-9]+$') c \
         USING (name) WHERE r.name IS NULL OR c.name IS NULL",
        "0",
    );
}

/// Each table that came has as many rows as the register says.
fn made_tables(copy: &Server, database: &str, wrong: &mut Vec<String>) {
    let tables = copy.psql(
        database,
        "SELECT name, rows FROM made_register JOIN pg_class ON relname = name ORDER BY name",
    );
    for line in tables.lines() {
        let (name, rows) = line.split_once('|').expect("two columns");
        let found = copy.psql(database, &format!("SELECT count(*) FROM {name}"));
        if found.trim() != rows {
            wrong.push(format!("{name} has {} rows, not {rows}", found.trim()));
        }
    }
}
