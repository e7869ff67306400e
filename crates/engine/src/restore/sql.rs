//! SQL of the backup taken apart, and put together for a target of another kind or name.

use std::collections::BTreeSet;

use flexkeep_pg_archive::Entry;

use super::parts::desc;
use super::target::ident;
use crate::roles::{Part, Token, Unterminated, split, tokens};

/// A statement and its tokens.
pub(super) struct Statement<'a> {
    pub(super) text: &'a [u8],
    pub(super) tokens: Vec<Token<'a>>,
}

impl Statement<'_> {
    pub(super) fn word(&self, index: usize, word: &str) -> bool {
        self.tokens.get(index).is_some_and(|token| token.is(word))
    }

    pub(super) fn name(&self, index: usize) -> Option<Vec<u8>> {
        self.tokens.get(index).and_then(Token::name)
    }
}

/// The statements of a script, without what only psql understands.
pub(super) fn statements(sql: &[u8]) -> Result<Vec<Statement<'_>>, Unterminated> {
    let mut all = Vec::new();
    for part in split(sql)? {
        if let Part::Statement(text) = part {
            all.push(Statement { text, tokens: tokens(text, false)? });
        }
    }
    Ok(all)
}

/// The same statements about a database of another name.
pub(super) fn for_database(
    sql: &[u8],
    old: &[u8],
    new: &[u8],
) -> Result<Vec<Vec<u8>>, Unterminated> {
    let renamed = statements(sql)?.into_iter().map(|statement| {
        let place = statement
            .tokens
            .windows(2)
            .find(|pair| pair[0].is("database") && pair[1].name().is_some_and(|name| name == old));
        match place {
            Some(pair) => {
                let at = &pair[1].at;
                [&statement.text[..at.start], &ident(new), &statement.text[at.end..]].concat()
            }
            None => statement.text.to_vec(),
        }
    });
    Ok(renamed.collect())
}

/// The owner of what an entry makes.
pub(super) fn owner_named(entry: &Entry) -> Option<Vec<u8>> {
    let owned = entry.drop_stmt().is_some_and(|drop| !drop.is_empty());
    entry.owner().filter(|owner| owned && !owner.is_empty()).map(<[u8]>::to_vec)
}

/// The role whose settings in one database a statement changes.
fn set_in_database(statement: &Statement<'_>) -> Option<Vec<u8>> {
    let is_it = statement.word(0, "alter") && statement.word(1, "role") && statement.word(3, "in");
    is_it.then(|| statement.name(2)).flatten()
}

/// The roles that an entry names: owner, grantees, grantors, those of policies and mappings.
pub(super) fn roles_named(entry: &Entry, owners: bool, acls: bool) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    if owners {
        names.extend(owner_named(entry));
    }
    if desc(entry) == b"DATABASE PROPERTIES"
        && let Ok(all) = statements(entry.defn().unwrap_or_default())
    {
        names.extend(all.iter().filter_map(set_in_database));
    }
    let is_acl = matches!(desc(entry), b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL");
    let wanted = (is_acl && acls) || matches!(desc(entry), b"POLICY" | b"USER MAPPING");
    if wanted && let Ok(all) = statements(entry.defn().unwrap_or_default()) {
        for statement in &all {
            grantees(statement, is_acl, &mut names);
        }
    }
    for reserved in [&b"public"[..], b"current_user", b"session_user", b"current_role"] {
        names.remove(reserved);
    }
    names
}

fn grantees(statement: &Statement<'_>, is_acl: bool, names: &mut BTreeSet<Vec<u8>>) {
    let tokens = &statement.tokens;
    if statement.word(1, "session") && statement.word(2, "authorization") {
        names.extend(statement.name(3));
        return;
    }
    if let Some(at) = tokens.windows(2).position(|pair| pair[0].is("for") && pair[1].is("role")) {
        names.extend(statement.name(at + 2));
    }
    let begins =
        |token: &Token<'_>| token.is("to") || token.is("from") || (!is_acl && token.is("for"));
    // A policy's USING and a grant's WITH come after its roles.
    let at = if is_acl {
        tokens.iter().rposition(begins)
    } else if statement.word(1, "user") {
        tokens.iter().position(begins)
    } else {
        let end = tokens.iter().position(|token| token.is("using") || token.is("with"));
        tokens[..end.unwrap_or(tokens.len())].iter().rposition(|token| token.is("to"))
    };
    let Some(mut at) = at else { return };
    while let Some(name) = statement.name(at + 1) {
        names.insert(name);
        if tokens.get(at + 2).is_none_or(|token| token.text != b",") {
            break;
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_gets_another_name_wherever_it_is_named() {
        let sql = b"ALTER DATABASE shop SET a TO 'DATABASE shop';\n\
            ALTER ROLE shop IN DATABASE shop SET b TO 1;\nCOMMENT ON DATABASE shop IS 'shop';";
        let renamed = for_database(sql, b"shop", b"sh\"op 2").unwrap();
        let texts: Vec<_> = renamed.iter().map(|one| String::from_utf8_lossy(one)).collect();
        assert_eq!(
            texts,
            [
                "ALTER DATABASE \"sh\"\"op 2\" SET a TO 'DATABASE shop'",
                "ALTER ROLE shop IN DATABASE \"sh\"\"op 2\" SET b TO 1",
                "COMMENT ON DATABASE \"sh\"\"op 2\" IS 'shop'",
            ]
        );
    }

    fn named(sql: &str, is_acl: bool) -> Vec<String> {
        let mut names = BTreeSet::new();
        for statement in statements(sql.as_bytes()).unwrap() {
            grantees(&statement, is_acl, &mut names);
        }
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn grantees_and_grantors_are_found() {
        assert_eq!(
            named("GRANT ALL ON TABLE a.\"to\" TO \"Od\"\"d\" WITH GRANT OPTION;", true),
            ["Od\"d"]
        );
        assert_eq!(
            named("REVOKE ALL ON SCHEMA s FROM b; SET SESSION AUTHORIZATION c;", true),
            ["b", "c"]
        );
        let default =
            "ALTER DEFAULT PRIVILEGES FOR ROLE o IN SCHEMA a GRANT SELECT ON TABLES TO r;";
        assert_eq!(named(default, true), ["o", "r"]);
    }

    #[test]
    fn roles_with_settings_in_a_database_are_found() {
        let sql = b"ALTER DATABASE d SET a TO 1; ALTER ROLE \"r 1\" IN DATABASE d SET b TO 2;";
        let found: Vec<_> = statements(sql).unwrap().iter().filter_map(set_in_database).collect();
        assert_eq!(found, [b"r 1".to_vec()]);
    }

    #[test]
    fn roles_of_policies_are_found() {
        let policy = "CREATE POLICY p ON a.t FOR SELECT TO x, \"y z\" USING ((a = 'to q'));";
        assert_eq!(named(policy, false), ["x", "y z"]);
        assert_eq!(named("CREATE POLICY p ON a.t USING (true)", false), Vec::<String>::new());
        assert_eq!(named("CREATE USER MAPPING FOR u SERVER s", false), ["u"]);
    }
}
