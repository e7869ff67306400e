//! Takes SQL text apart: into statements, and a statement into tokens.
//!
//! It knows what psql's own lexer knows of quotes and comments, and works on bytes, because a
//! server's encoding need not be UTF-8. Every encoding that a server can have keeps ASCII bytes
//! out of other characters, so quotes, semicolons and backslashes are what they seem.

use std::ops::Range;

/// SQL text that ends within a quote or a comment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SQL text has {what} without an end, from line {line}")]
pub struct Unterminated {
    what: &'static str,
    /// The line in which it begins, from 1.
    line: usize,
}

/// A part of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// A statement without its semicolon, and without comments before it.
    Statement(&'a [u8]),
    /// A psql meta-command: a line that begins with a backslash.
    Meta(&'a [u8]),
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A key word, an unquoted identifier or a number.
    Word,
    /// `"an identifier"`.
    Identifier,
    /// `'text'`, `E'text'` or `$$text$$`.
    Text,
    /// One other byte.
    Other,
}

/// A token of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a [u8],
    /// Where it stands in the statement.
    pub(crate) at: Range<usize>,
}

impl Token<'_> {
    /// Whether it is this key word, in any case.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// The name that it spells: folded to lower case, or unquoted.
    pub(crate) fn name(&self) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Word => Some(self.text.to_ascii_lowercase()),
            Kind::Identifier => {
                let inner = &self.text[1..self.text.len() - 1];
                let mut name = Vec::with_capacity(inner.len());
                let mut quoted = false;
                for &byte in inner {
                    quoted = byte == b'"' && !quoted;
                    if !quoted {
                        name.push(byte);
                    }
                }
                Some(name)
            }
            Kind::Text | Kind::Other => None,
        }
    }
}

/// Splits a script. Comments between statements are dropped; those within stay.
pub(crate) fn split(sql: &[u8]) -> Result<Vec<Part<'_>>, Unterminated> {
    let mut parts = Vec::new();
    let mut lexer = Lexer { sql, at: 0, backslashes: false };
    loop {
        lexer.skip_blank()?;
        let start = lexer.at;
        if start == sql.len() {
            return Ok(parts);
        }
        if sql[start] == b'\\' {
            lexer.skip_line();
            parts.push(Part::Meta(sql[start..lexer.at].trim_ascii_end()));
            continue;
        }
        let mut end = start;
        while let Some(token) = lexer.token()? {
            if token.kind == Kind::Other && token.text == b";" {
                break;
            }
            end = token.at.end;
        }
        let statement = &sql[start..end];
        if !statement.is_empty() {
            lexer.follow(statement)?;
            parts.push(Part::Statement(statement));
        }
    }
}

/// The tokens of a statement. `backslashes` is as in [`backslash_setting`].
pub(crate) fn tokens(statement: &[u8], backslashes: bool) -> Result<Vec<Token<'_>>, Unterminated> {
    let mut lexer = Lexer { sql: statement, at: 0, backslashes };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

/// What `SET standard_conforming_strings` makes of a backslash in plain quotes: whether it
/// escapes. `None` for other statements.
pub(crate) fn backslash_setting(tokens: &[Token<'_>]) -> Option<bool> {
    match tokens {
        [set, name, _, value] if set.is("set") && name.is("standard_conforming_strings") => {
            Some(value.is("off") || value.text.eq_ignore_ascii_case(b"'off'"))
        }
        _ => None,
    }
}

struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    /// Whether a backslash escapes in plain quotes.
    backslashes: bool,
}

impl<'a> Lexer<'a> {
    fn follow(&mut self, statement: &[u8]) -> Result<(), Unterminated> {
        // Only a short statement can be the one that counts.
        if statement.len() < 80 {
            let tokens = tokens(statement, self.backslashes)?;
            self.backslashes = backslash_setting(&tokens).unwrap_or(self.backslashes);
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.sql.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn unterminated(&self, what: &'static str, start: usize) -> Unterminated {
        let line = 1 + self.sql[..start].iter().filter(|byte| **byte == b'\n').count();
        Unterminated { what, line }
    }

    fn skip_line(&mut self) {
        let rest = &self.sql[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        self.at += end.unwrap_or(rest.len());
    }

    fn skip_blank(&mut self) -> Result<(), Unterminated> {
        loop {
            match (self.peek(0), self.peek(1)) {
                _ if self.at >= self.sql.len() => return Ok(()),
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'-', b'-') => self.skip_line(),
                (b'/', b'*') => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Unterminated> {
        let (start, mut depth) = (self.at, 0_usize);
        while self.at < self.sql.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => (depth, self.at) = (depth + 1, self.at + 2),
                (b'*', b'/') => (depth, self.at) = (depth - 1, self.at + 2),
                _ => self.at += 1,
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.unterminated("a comment", start))
    }

    fn token(&mut self) -> Result<Option<Token<'a>>, Unterminated> {
        self.skip_blank()?;
        let start = self.at;
        if start >= self.sql.len() {
            return Ok(None);
        }
        let kind = match self.peek(0) {
            b'"' => self.quoted(start, b'"', false, "a quoted identifier")?,
            b'\'' => self.quoted(start, b'\'', self.backslashes, "a text")?,
            b'e' | b'E' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.quoted(start, b'\'', true, "a text")?
            }
            b'$' => self.dollar(start)?,
            byte if is_word(byte) => {
                while self.at < self.sql.len() && (is_word(self.peek(0)) || self.peek(0) == b'$') {
                    self.at += 1;
                }
                Kind::Word
            }
            _ => {
                self.at += 1;
                Kind::Other
            }
        };
        Ok(Some(Token { kind, text: &self.sql[start..self.at], at: start..self.at }))
    }

    fn quoted(
        &mut self,
        start: usize,
        quote: u8,
        escapes: bool,
        what: &'static str,
    ) -> Result<Kind, Unterminated> {
        self.at += 1;
        while self.at < self.sql.len() {
            match self.peek(0) {
                b'\\' if escapes => self.at += 2,
                byte if byte == quote && self.peek(1) == quote => self.at += 2,
                byte if byte == quote => {
                    self.at += 1;
                    return Ok(if quote == b'"' { Kind::Identifier } else { Kind::Text });
                }
                _ => self.at += 1,
            }
        }
        self.at = self.sql.len();
        Err(self.unterminated(what, start))
    }

    fn dollar(&mut self, start: usize) -> Result<Kind, Unterminated> {
        let rest = &self.sql[start + 1..];
        let tag = rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
        if rest.get(tag) != Some(&b'$') || rest[0].is_ascii_digit() {
            self.at += 1;
            return Ok(Kind::Other);
        }
        let mark = &self.sql[start..start + tag + 2];
        let body = &self.sql[start + mark.len()..];
        match body.windows(mark.len()).position(|window| window == mark) {
            Some(length) => {
                self.at = start + length + 2 * mark.len();
                Ok(Kind::Text)
            }
            None => Err(self.unterminated("a dollar-quoted text", start)),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(sql: &str) -> Vec<String> {
        let shown = |part: &Part<'_>| match part {
            Part::Statement(text) => String::from_utf8_lossy(text).into_owned(),
            Part::Meta(text) => format!("meta {}", String::from_utf8_lossy(text)),
        };
        split(sql.as_bytes()).expect("ends properly").iter().map(shown).collect()
    }

    #[test]
    fn semicolons_in_quotes_and_comments_end_nothing() {
        let sql =
            "SELECT ';', E'\\';', $$;$$, $a$;$$;$a$, \";\"\";\" -- ;\n/* ; /* ; */ ; */;\n;b;";
        let found = statements(sql);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("\";\"\";\""), "{found:?}");
        assert_eq!(found[1], "b");
    }

    #[test]
    fn a_backslash_at_the_start_is_a_meta_command_to_the_line_end() {
        assert_eq!(
            statements("-- x\n\\restrict a;b\nSET a = 1;\n\\connect x\nlast"),
            ["meta \\restrict a;b", "SET a = 1", "meta \\connect x", "last"]
        );
    }

    #[test]
    fn plain_quotes_know_backslashes_only_when_the_script_says_so() {
        assert_eq!(statements(r"A 'x\'; B"), [r"A 'x\'", "B"]);
        assert_eq!(
            statements(r"SET standard_conforming_strings = off; A 'x\'; B'; C"),
            ["SET standard_conforming_strings = off", r"A 'x\'; B'", "C"]
        );
    }

    #[test]
    fn what_does_not_end_is_an_error_that_names_the_line() {
        for sql in ["a;\n'x", "a;\n\"x", "a;\n/* x", "a;\n$x$ $x", "a;\nE'x\\'"] {
            let error = split(sql.as_bytes()).expect_err(sql);
            assert!(error.to_string().ends_with("from line 2"), "{error}");
        }
    }

    #[test]
    fn names_are_folded_or_unquoted() {
        let found = tokens(br#"ABC "A""b" 'x' $1"#, false).expect("ends");
        assert_eq!(found[0].name().as_deref(), Some(&b"abc"[..]));
        assert_eq!(found[1].name().as_deref(), Some(&b"A\"b"[..]));
        assert_eq!(found[2].name(), None);
        assert_eq!(found.len(), 5);
    }
}
