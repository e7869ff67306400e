//! The COPY statement of a `TABLE DATA` entry, taken apart.

/// `COPY relation (columns) FROM stdin;` in its parts, all of them text of the statement,
/// quotes and all, ready to stand in another statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatement<'a> {
    /// The table, such as `public."my table"`.
    pub relation: &'a [u8],
    /// The column list with its parentheses, `None` if the statement has none: then the table has
    /// no column, or `pg_dump` is older than 7.3.
    pub column_list: Option<&'a [u8]>,
    /// Each column.
    pub columns: Vec<&'a [u8]>,
}

/// A COPY statement that `pg_dump` does not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a COPY statement of pg_dump: expected {expected} at byte {position}")]
pub struct CopyStatementError {
    /// What should be there.
    pub expected: &'static str,
    /// Bytes from the start of the statement.
    pub position: usize,
}

/// Takes apart a statement as `pg_dump` writes it. Names may hold any bytes; they are in an
/// encoding in which no byte of a longer character looks like a quote, which is true of all that
/// PostgreSQL knows.
///
/// # Errors
/// If it is anything else, such as `WITH OIDS` or an option list.
pub fn parse(statement: &[u8]) -> Result<CopyStatement<'_>, CopyStatementError> {
    let mut scan = Scan { text: statement, at: 0 };
    scan.expect(b"COPY ", "COPY")?;
    let relation = scan.span(|scan| {
        scan.identifier("a table name")?;
        while scan.accept(b".") {
            scan.identifier("a table name")?;
        }
        Ok(())
    })?;
    scan.expect(b" ", "a space")?;
    let mut columns = Vec::new();
    let mut column_list = None;
    if scan.peek() == Some(b'(') {
        column_list = Some(scan.span(|scan| {
            scan.expect(b"(", "(")?;
            loop {
                columns.push(scan.span(|scan| scan.identifier("a column name"))?);
                if !scan.accept(b", ") {
                    return scan.expect(b")", "a comma or )");
                }
            }
        })?);
    }
    scan.expect(b" FROM stdin;", "FROM stdin;")?;
    scan.accept(b"\n");
    if scan.at != statement.len() {
        return Err(scan.error("the end"));
    }
    Ok(CopyStatement { relation, column_list, columns })
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn error(&self, expected: &'static str) -> CopyStatementError {
        CopyStatementError { expected, position: self.at }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn accept(&mut self, word: &[u8]) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, word: &[u8], expected: &'static str) -> Result<(), CopyStatementError> {
        if self.accept(word) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// The text that `inner` passes over.
    fn span(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<(), CopyStatementError>,
    ) -> Result<&'a [u8], CopyStatementError> {
        let start = self.at;
        inner(self)?;
        Ok(&self.text[start..self.at])
    }

    /// A name: quoted, where a quote inside is doubled, or a plain word.
    fn identifier(&mut self, expected: &'static str) -> Result<(), CopyStatementError> {
        if !self.accept(b"\"") {
            let plain =
                |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 128..);
            let length = self.rest().iter().take_while(|byte| plain(byte)).count();
            self.at += length;
            return if length > 0 { Ok(()) } else { Err(self.error(expected)) };
        }
        let start = self.at;
        loop {
            match self.rest().iter().position(|byte| *byte == b'"') {
                None => return Err(self.error("a closing quote")),
                Some(length) => self.at += length + 1,
            }
            if self.accept(b"\"") {
                continue;
            }
            let empty = self.at == start + 1;
            return if empty { Err(self.error(expected)) } else { Ok(()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_statement_comes_apart() {
        let parsed = parse(b"COPY public.t (a, b) FROM stdin;\n").expect("plain");
        assert_eq!(parsed.relation, b"public.t");
        assert_eq!(parsed.column_list, Some(b"(a, b)".as_slice()));
        assert_eq!(parsed.columns, [b"a", b"b"]);
    }

    #[test]
    fn a_table_without_columns_has_two_spaces_and_no_list() {
        let parsed = parse(b"COPY app.no_columns  FROM stdin;\n").expect("no columns");
        assert_eq!((parsed.relation, parsed.column_list), (b"app.no_columns".as_slice(), None));
        assert!(parsed.columns.is_empty());
    }

    #[test]
    fn other_statements_are_refused_with_the_place() {
        for (statement, position, expected) in [
            ("", 0, "COPY"),
            ("COPY t (a) TO stdout;\n", 10, "FROM stdin;"),
            ("COPY t (a) WITH OIDS FROM stdin;\n", 10, "FROM stdin;"),
            ("COPY t () FROM stdin;\n", 8, "a column name"),
            ("COPY t (a,b) FROM stdin;\n", 9, "a comma or )"),
            ("COPY \"t (a) FROM stdin;\n", 6, "a closing quote"),
            ("COPY \"\" (a) FROM stdin;\n", 7, "a table name"),
            ("COPY t. (a) FROM stdin;\n", 7, "a table name"),
            ("COPY t (a) FROM stdin;\nDROP TABLE t;", 23, "the end"),
        ] {
            let error = parse(statement.as_bytes()).expect_err(statement);
            assert_eq!(error, CopyStatementError { expected, position }, "{statement}");
        }
    }

    fn quoted(name: &[u8]) -> Vec<u8> {
        let mut text = vec![b'"'];
        for byte in name {
            text.push(*byte);
            if *byte == b'"' {
                text.push(b'"');
            }
        }
        text.push(b'"');
        text
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let odd = prop::sample::select(b"\"\".(),; \n\tFROMstdin\xff".to_vec());
        let any = prop::collection::vec(prop_oneof![odd, 1u8..], 1..12).prop_map(|n| quoted(&n));
        prop_oneof![any, "[a-z_][a-z0-9_]{0,8}".prop_map(String::into_bytes)]
    }

    proptest! {
        #[test]
        fn names_of_any_bytes_come_out_as_they_went_in(
            schema in name(), table in name(), columns in prop::collection::vec(name(), 1..6)
        ) {
            let relation = [schema, table].join(&b'.');
            let list = [b"(".as_slice(), &columns.join(b", ".as_slice()), b")"].concat();
            let statement =
                [b"COPY ".as_slice(), &relation, b" ", &list, b" FROM stdin;\n"].concat();
            let parsed = parse(&statement).expect("what pg_dump would write");
            prop_assert_eq!(parsed.relation, relation.as_slice());
            prop_assert_eq!(parsed.column_list, Some(list.as_slice()));
            prop_assert_eq!(parsed.columns, columns);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut statement = b"COPY ".to_vec();
            statement.extend_from_slice(&bytes);
            let _ = parse(&statement);
            let _ = parse(&bytes);
        }
    }
}
