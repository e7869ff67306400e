//! An option of columns that is the server's own.
//!
//! PostgreSQL 17.12 of Debian keeps `pg_attver` among the options of every column (`attoptions` of
//! pg_attribute), sets it by itself, and ignores SET and RESET of it. Its own pg_dump leaves it out.
//! That of 18 does not know it and writes `ALTER COLUMN ... SET (pg_attver=...)`, which a server of
//! another version refuses, and with it the table. So it is taken out of what pg_dump said.

use flexkeep_pg_archive::{Entry, EntryFields, Toc, TocError};

use crate::roles::{Token, Unterminated, tokens};

const OPTION: &str = "pg_attver";

/// Takes that option out of all definitions.
pub(crate) fn leave_out(toc: Toc) -> Result<Toc, TocError> {
    let (header, entries) = toc.into_parts();
    let entries = entries.into_iter().map(|entry| {
        // Only a definition that can be read as SQL can have it: a text that cannot stays.
        match entry.defn().filter(|_| may_have(&entry)).map(without) {
            Some(Ok(Some(defn))) => Entry::new(EntryFields { defn: Some(&defn), ..entry.fields() }),
            _ => Ok(entry),
        }
    });
    Toc::new(header, entries.collect::<Result<_, _>>()?)
}

fn may_have(entry: &Entry) -> bool {
    let of_table =
        matches!(entry.desc(), Some(b"TABLE" | b"FOREIGN TABLE" | b"MATERIALIZED VIEW" | b"VIEW"));
    let has = |text: &[u8]| text.windows(OPTION.len()).any(|some| some == OPTION.as_bytes());
    of_table && entry.defn().is_some_and(has)
}

/// The script without the option; `None` if it does not have it.
fn without(sql: &[u8]) -> Result<Option<Vec<u8>>, Unterminated> {
    let tokens = tokens(sql, false)?;
    let (mut out, mut from) = (Vec::with_capacity(sql.len()), 0);
    for statement in tokens.split_inclusive(|token| token.text == b";") {
        let Some(settings) = column_settings(statement) else { continue };
        let all: Vec<&[Token<'_>]> = settings.split(|token| token.text == b",").collect();
        let kept: Vec<&[Token<'_>]> =
            all.iter().copied().filter(|one| !one.first().is_some_and(|t| t.is(OPTION))).collect();
        if kept.len() == all.len() {
            continue;
        }
        let whole = span(sql, statement);
        if kept.is_empty() {
            out.extend_from_slice(&sql[from..whole.start]);
            // pg_dump ends the statement with a line of its own.
            from = whole.end + usize::from(sql.get(whole.end) == Some(&b'\n'));
            continue;
        }
        let place = span(sql, settings);
        out.extend_from_slice(&sql[from..place.start]);
        let kept: Vec<&[u8]> = kept.into_iter().map(|one| &sql[span(sql, one)]).collect();
        out.extend_from_slice(&kept.join(&b", "[..]));
        from = place.end;
    }
    if from == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&sql[from..]);
    Ok(Some(out))
}

/// What stands between the brackets of `ALTER ... ALTER COLUMN name SET (...);`.
fn column_settings<'t, 'a>(statement: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
    let alters = statement.first().is_some_and(|token| token.is("alter"));
    let begin = statement.windows(5).position(|five| {
        five[0].is("alter") && five[1].is("column") && five[3].is("set") && five[4].text == b"("
    });
    let begin = begin.filter(|_| alters)? + 5;
    let end = statement[begin..].iter().position(|token| token.text == b")")?;
    Some(&statement[begin..begin + end])
}

fn span(sql: &[u8], tokens: &[Token<'_>]) -> std::ops::Range<usize> {
    match tokens {
        [first, .., last] => first.at.start..last.at.end,
        [only] => only.at.clone(),
        [] => sql.len()..sql.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sql: &str) -> Option<String> {
        without(sql.as_bytes()).unwrap().map(|sql| String::from_utf8(sql).unwrap())
    }

    #[test]
    fn the_option_goes_and_others_stay() {
        let sql = "CREATE TABLE public.t (\n    a integer,\n    \"b (\" text\n);\n\
            ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=22273880);\n\
            ALTER TABLE ONLY public.t ALTER COLUMN \"b (\" SET (pg_attver=22273880, n_distinct=-0.5, \
            n_distinct_inherited=2);\n\
            ALTER TABLE ONLY public.t ALTER COLUMN \"b (\" SET STORAGE EXTERNAL;\n";
        let expected = "CREATE TABLE public.t (\n    a integer,\n    \"b (\" text\n);\n\
            ALTER TABLE ONLY public.t ALTER COLUMN \"b (\" SET (n_distinct=-0.5, \
            n_distinct_inherited=2);\n\
            ALTER TABLE ONLY public.t ALTER COLUMN \"b (\" SET STORAGE EXTERNAL;\n";
        assert_eq!(left(sql).as_deref(), Some(expected));
        let last = "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=5, pg_attver=1);\n";
        let expected = "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=5);\n";
        assert_eq!(left(last).as_deref(), Some(expected));
        let foreign = "ALTER FOREIGN TABLE ONLY s.ft ALTER COLUMN a SET (pg_attver=7);\n";
        assert_eq!(left(foreign).as_deref(), Some(""));
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for sql in [
            "CREATE TABLE t (pg_attver integer);\n",
            "CREATE TABLE t (a text DEFAULT 'ALTER TABLE t ALTER COLUMN a SET (pg_attver=1);');\n",
            "ALTER TABLE ONLY t ALTER COLUMN pg_attver SET (n_distinct=1);\n",
            "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=1);\n",
            "CREATE VIEW v AS SELECT ' SET (pg_attver=1)'::text;\n",
        ] {
            assert_eq!(left(sql), None, "{sql}");
        }
    }
}
