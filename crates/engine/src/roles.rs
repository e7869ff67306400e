//! Makes what pg_dumpall writes about roles replayable: on a server that has some of the roles
//! already, and on one whose administrator is not a superuser.
//!
//! pg_dumpall's own text stops at the first role that exists. Here a role is made only when it is
//! missing, and the text can be run any number of times with `ON_ERROR_STOP`.

mod rewrite;
mod statements;

pub(crate) use rewrite::JOIN;
pub use statements::Unterminated;
pub(crate) use statements::{Part, Token, split, tokens};

/// For which kind of server roles are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolesTarget {
    /// PostgreSQL, run by a superuser.
    Postgres,
    /// Azure Database for PostgreSQL Flexible Server, run by its administrator, who is none. What
    /// that server refuses becomes a warning that names the statement.
    FlexibleServer {
        /// Its major version where that is known.
        major: Option<u32>,
    },
}

/// Roles, ready for `psql -v ON_ERROR_STOP=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRoles {
    /// The SQL, in the encoding of the dump.
    pub sql: Vec<u8>,
    /// What was left out and why, for people.
    pub notes: Vec<String>,
    /// Whether something was left out. If not, running `sql` makes all that the dump has.
    pub reduced: bool,
}

/// Rewrites `sql`, the output of `pg_dumpall --globals-only` of a server of major version
/// `source_major`.
///
/// # Errors
/// If the text ends within a quote or a comment, as a file that was cut off does.
pub fn prepare(
    sql: &[u8],
    target: RolesTarget,
    source_major: u32,
) -> Result<PreparedRoles, Unterminated> {
    let parts = statements::split(sql)?;
    let mut backslashes = false;
    let mut all: Vec<(&[u8], Vec<Token<'_>>)> = Vec::with_capacity(parts.len());
    for part in parts {
        // `\restrict` guards a file against its own text, and older psql refuses it. Nothing of
        // the original stays outside of a statement here, so that there is nothing to guard.
        let Part::Statement(statement) = part else { continue };
        let tokens = statements::tokens(statement, backslashes)?;
        backslashes = statements::backslash_setting(&tokens).unwrap_or(backslashes);
        all.push((statement, tokens));
    }
    let mut rewriter = rewrite::Rewriter::new(target, source_major);
    for (_, tokens) in &all {
        rewriter.learn(tokens);
    }
    for (statement, tokens) in &all {
        rewriter.statement(statement, tokens);
    }
    Ok(rewriter.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBALS_15: &[u8] = include_bytes!("../tests/fixtures/globals-15.sql");
    const GLOBALS_18: &[u8] = include_bytes!("../tests/fixtures/globals-18.sql");
    const FLEXIBLE: RolesTarget = RolesTarget::FlexibleServer { major: None };

    fn prepared(sql: &[u8], target: RolesTarget, major: u32) -> (String, Vec<String>) {
        let prepared = prepare(sql, target, major).expect("whole text");
        // What comes out can be taken apart again.
        assert!(prepare(&prepared.sql, target, major).is_ok());
        assert_eq!(prepared.reduced, !prepared.notes.is_empty());
        (String::from_utf8(prepared.sql).expect("UTF-8"), prepared.notes)
    }

    #[test]
    fn a_role_is_made_only_when_it_is_missing() {
        for (sql, major) in [(GLOBALS_15, 15), (GLOBALS_18, 18)] {
            let (text, _) = prepared(sql, RolesTarget::Postgres, major);
            assert!(
                text.contains(
                    "IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'app')"
                )
            );
            assert!(!text.contains("\nCREATE ROLE"), "{text}");
            assert!(!text.contains("\\restrict"), "{text}");
            assert!(text.contains("rolname = 'We\"ird; $x$ -- ''role')"), "{text}");
            assert!(text.contains("rolname = E'ünï \\\\ $flexkeep$') THEN CREATE ROLE"), "{text}");
            assert!(
                text.contains("ALTER ROLE app SET search_path TO 'app', 'Odd \"one\"', 'public';")
            );
            assert!(text.contains("PASSWORD 'SCRAM-SHA-256$4096:"));
        }
    }

    #[test]
    fn grants_keep_a_grantor_that_the_target_will_accept() {
        let (text, _) = prepared(GLOBALS_18, RolesTarget::Postgres, 18);
        assert!(text.contains("GRANT app_owner TO reader WITH INHERIT FALSE GRANTED BY app;"));
        assert!(text.contains("GRANT reader TO app WITH INHERIT TRUE;"), "{text}");
        let (text, _) = prepared(GLOBALS_15, RolesTarget::Postgres, 15);
        assert!(text.contains("GRANT app_owner TO app WITH ADMIN OPTION;"), "{text}");
        assert!(!text.contains("GRANTED BY"), "{text}");
    }

    #[test]
    fn tablespaces_stay_as_comments_line_by_line() {
        let sql = b"CREATE TABLESPACE t LOCATION '/a\n\\! rm';\nGRANT ALL ON TABLESPACE t TO x;\n";
        let (text, notes) = prepared(sql, RolesTarget::Postgres, 15);
        assert!(text.contains("-- CREATE TABLESPACE t LOCATION '/a\n-- \\! rm';"), "{text}");
        assert!(text.contains("-- GRANT ALL ON TABLESPACE t TO x;"), "{text}");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("tablespace"), "{notes:?}");
    }

    #[test]
    fn flexible_server_gets_one_statement_for_each_attribute_and_none_that_it_refuses() {
        let sql = b"CREATE ROLE azuresu;\nALTER ROLE azuresu WITH SUPERUSER LOGIN;\n\
            CREATE ROLE azure_pg_admin;\nCREATE ROLE replication;\nCREATE ROLE a;\n\
            ALTER ROLE a WITH NOSUPERUSER INHERIT CREATEDB LOGIN NOREPLICATION NOBYPASSRLS \
            CONNECTION LIMIT -1 VALID UNTIL '2030-01-01';\n\
            CREATE ROLE b;\nALTER ROLE b WITH SUPERUSER BYPASSRLS NOLOGIN;\n\
            GRANT a TO azure_pg_admin GRANTED BY azuresu;\n\
            GRANT azure_pg_admin TO a GRANTED BY azuresu;\n\
            GRANT pg_write_all_data TO a;\nGRANT pg_monitor TO a GRANTED BY azuresu;\n\
            GRANT SET ON PARAMETER log_statement TO a;\nALTER ROLE a SET log_statement TO 'all';\n";
        let (text, notes) = prepared(sql, FLEXIBLE, 16);
        for kept in [
            "ALTER ROLE a CREATEDB;",
            "ALTER ROLE a LOGIN;",
            "ALTER ROLE a CONNECTION LIMIT -1;",
            "ALTER ROLE a VALID UNTIL '2030-01-01';",
            "GRANT azure_pg_admin TO a;",
            "GRANT pg_monitor TO a;",
            "GRANT SET ON PARAMETER log_statement TO a;",
            "ALTER ROLE a SET log_statement TO 'all';",
        ] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        for gone in [
            "azuresu",
            "SUPERUSER",
            "NOREPLICATION",
            "BYPASSRLS",
            "TO azure_pg_admin",
            "pg_write_all_data",
            "CREATE ROLE replication",
        ] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
        let notes = notes.join("\n");
        for said in ["superuser", "BYPASSRLS", "pg_write_all_data", "password", "azuresu"] {
            assert!(notes.contains(said), "{said} in {notes}");
        }
        let sixteen = RolesTarget::FlexibleServer { major: Some(16) };
        let (text, _) = prepared(sql, sixteen, 16);
        assert!(text.contains("ALTER ROLE b BYPASSRLS;"), "{text}");
    }

    #[test]
    fn on_flexible_server_who_runs_it_joins_each_role_and_keeps_what_it_has() {
        let sql = b"CREATE ROLE azuresu;\nCREATE ROLE \"A \"\"b\"\"\";\nCREATE ROLE admin;\n\
            ALTER ROLE admin WITH CREATEROLE;\nGRANT azure_pg_admin TO admin WITH ADMIN OPTION;\n";
        let (text, _) = prepared(sql, FLEXIBLE, 18);
        for kept in [
            "IF NOT pg_catalog.pg_has_role('A \"b\"', 'USAGE') THEN GRANT \"A \"\"b\"\"\" TO CURRENT_USER;",
            "IF current_user <> 'admin' THEN ALTER ROLE admin CREATEROLE;",
            "IF current_user <> 'admin' OR NOT pg_catalog.pg_has_role('azure_pg_admin', 'MEMBER') \
             THEN GRANT azure_pg_admin TO admin WITH ADMIN OPTION;",
        ] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        assert!(!text.contains("GRANT azuresu"), "{text}");
        let (text, _) = prepared(sql, RolesTarget::Postgres, 18);
        assert!(!text.contains("CURRENT_USER"), "{text}");
    }

    #[test]
    fn a_password_is_never_in_the_text_of_a_warning() {
        let (text, _) = prepared(GLOBALS_18, FLEXIBLE, 18);
        assert_eq!(text.matches("SCRAM-SHA-256").count(), 1, "{text}");
        assert!(text.contains("'ALTER ROLE app PASSWORD ...'"), "{text}");
    }

    #[test]
    fn a_cut_off_dump_is_an_error() {
        let cut = prepare(b"COMMENT ON ROLE a IS 'x", RolesTarget::Postgres, 15);
        assert!(cut.expect_err("no end").to_string().contains("from line 1"));
    }
}
