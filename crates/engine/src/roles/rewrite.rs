//! Statement by statement, what becomes of pg_dumpall's text.

use std::collections::{BTreeMap, BTreeSet};

use super::statements::Token;
use super::{PreparedRoles, RolesTarget};

/// Roles that belong to the platform.
const PLATFORM_ROLES: [&str; 4] = ["azure_pg_admin", "azuresu", "azure_superuser", "replication"];

/// Predefined roles that the platform lets nobody grant.
const REFUSED_ROLES: [&str; 5] = [
    "pg_use_reserved_connections",
    "pg_write_all_data",
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_write_server_files",
];

/// Names that one note lists.
const NAMES_SHOWN: usize = 20;

const HEAD: &str = "\
-- Roles, their memberships and settings, made from pg_dumpall's output by flexkeep.
-- It can be run again: a role that exists is kept and changed.

";

pub(crate) const JOIN: &[u8] = b"
-- Only a member can restore what a role owns. To leave a role after that: REVOKE role FROM
-- CURRENT_USER.
";

pub(super) struct Rewriter {
    target: RolesTarget,
    source_major: u32,
    superusers: BTreeSet<Vec<u8>>,
    /// Login roles, with whether they come with a password.
    logins: BTreeMap<Vec<u8>, bool>,
    /// Roles that are made, as they are written and as they are called.
    made: Vec<(Vec<u8>, Vec<u8>)>,
    out: Vec<u8>,
    /// What was left out: the reason, and the names that it concerns.
    left_out: BTreeMap<&'static str, BTreeSet<String>>,
}

/// A part of `ALTER ROLE x WITH ...`.
struct Attribute<'a> {
    name: String,
    text: &'a [u8],
}

impl Rewriter {
    pub(super) fn new(target: RolesTarget, source_major: u32) -> Self {
        Self {
            target,
            source_major,
            superusers: BTreeSet::new(),
            logins: BTreeMap::new(),
            made: Vec::new(),
            out: HEAD.as_bytes().to_vec(),
            left_out: BTreeMap::new(),
        }
    }

    /// Looks at a statement before any is rewritten.
    pub(super) fn learn(&mut self, tokens: &[Token<'_>]) {
        let [alter, role, name, with, attributes @ ..] = tokens else { return };
        if !(alter.is("alter") && role.is("role") && with.is("with")) {
            return;
        }
        let Some(name) = name.name() else { return };
        let has = |word: &str| attributes.iter().any(|token| token.is(word));
        if has("superuser") {
            self.superusers.insert(name.clone());
        }
        if has("login") {
            *self.logins.entry(name).or_default() |= has("password");
        }
    }

    pub(super) fn statement(&mut self, statement: &[u8], tokens: &[Token<'_>]) {
        let word = |index: usize, word: &str| tokens.get(index).is_some_and(|t| t.is(word));
        let name = |index: usize| tokens.get(index).and_then(Token::name);
        let on_tablespace =
            tokens.windows(2).any(|pair| pair[0].is("on") && pair[1].is("tablespace"));
        if on_tablespace || (word(1, "tablespace") && !word(0, "grant") && !word(0, "set")) {
            self.tablespace(statement, tokens);
        } else if word(0, "create") && word(1, "role") && tokens.len() == 3 {
            self.create_role(
                statement,
                &statement[tokens[2].at.clone()],
                name(2).unwrap_or_default(),
            );
        } else if word(0, "alter") && word(1, "role") && word(3, "with") {
            self.alter_role(statement, tokens, &name(2).unwrap_or_default());
        } else if (word(0, "alter") && word(1, "role")) || (word(1, "on") && word(2, "role")) {
            let role = if word(0, "alter") { name(2) } else { name(3) };
            if !self.is_dropped(&role.unwrap_or_default()) {
                self.keep(statement);
            }
        } else if word(0, "grant") && word(2, "to") {
            self.membership(statement, tokens);
        } else if word(0, "security") && word(1, "label") {
            self.security_label(statement, tokens);
        } else if word(0, "set") || word(0, "select") {
            self.push(statement);
        } else if !self.names_platform_grantee(tokens) {
            self.keep(statement);
        }
    }

    pub(super) fn finish(mut self) -> PreparedRoles {
        if self.is_flexible() {
            self.join_all();
            for (name, password) in std::mem::take(&mut self.logins) {
                if !password && !self.is_dropped(&name) {
                    self.leave_out("login roles come without a password; set one for each", &name);
                }
            }
        }
        let notes: Vec<String> = self
            .left_out
            .iter()
            .map(|(reason, names)| {
                let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
                let more = names.len().saturating_sub(NAMES_SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{reason}: {}{more}", shown.join(", "))
            })
            .collect();
        PreparedRoles { sql: self.out, reduced: !notes.is_empty(), notes }
    }

    fn is_flexible(&self) -> bool {
        matches!(self.target, RolesTarget::FlexibleServer { .. })
    }

    /// Whether the role is the platform's own there.
    fn is_dropped(&self, role: &[u8]) -> bool {
        self.is_flexible() && (is_one_of(role, &PLATFORM_ROLES) || role.starts_with(b"pg_"))
    }

    fn names_platform_grantee(&self, tokens: &[Token<'_>]) -> bool {
        let to = tokens.iter().rposition(|token| token.is("to") || token.is("from"));
        let grantee = to.and_then(|to| tokens.get(to + 1)).and_then(Token::name);
        grantee.is_some_and(|name| self.is_dropped(&name))
    }

    fn create_role(&mut self, statement: &[u8], written: &[u8], role: Vec<u8>) {
        if self.is_dropped(&role) {
            return self.leave_out("roles of the platform are left out", &role);
        }
        self.made.push((written.to_vec(), role.clone()));
        let mut body = b"IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ".to_vec();
        body.extend_from_slice(&literal(&role));
        body.extend_from_slice(b") THEN ");
        body.extend_from_slice(statement);
        body.extend_from_slice(b"; END IF;");
        self.block(&body);
    }

    fn alter_role(&mut self, statement: &[u8], tokens: &[Token<'_>], role: &[u8]) {
        if self.is_dropped(role) {
            return;
        }
        let head = &statement[..tokens[2].at.end];
        let attributes = attributes(statement, &tokens[4..]);
        if let RolesTarget::FlexibleServer { major } = self.target {
            for attribute in &attributes {
                self.flexible_attribute(head, attribute, role, major);
            }
            return;
        }
        let rest: Vec<&[u8]> =
            attributes.iter().filter(|a| a.name != "NOSUPERUSER").map(|a| a.text).collect();
        if !rest.is_empty() {
            self.push(&[head, b" WITH ", &rest.join(&b' ')].concat());
        }
        if rest.len() < attributes.len() {
            // Never the role that runs this, nor the one that initdb made: neither can lose it.
            let mut body = b"IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolsuper \
                AND oid <> 10 AND rolname NOT IN (current_user, session_user) AND rolname = "
                .to_vec();
            body.extend_from_slice(&literal(role));
            body.extend_from_slice(b") THEN ");
            body.extend_from_slice(head);
            body.extend_from_slice(b" NOSUPERUSER; END IF;");
            self.block(&body);
        }
    }

    fn flexible_attribute(
        &mut self,
        head: &[u8],
        attribute: &Attribute<'_>,
        role: &[u8],
        major: Option<u32>,
    ) {
        let before_16 = major.is_none_or(|major| major < 16);
        match attribute.name.as_str() {
            // A new role has none of these, and even their absence may not be said.
            "NOSUPERUSER" | "NOREPLICATION" => return,
            "NOBYPASSRLS" if before_16 => return,
            "SUPERUSER" => {
                return self.leave_out("no role can be a superuser there; this one was", role);
            }
            "BYPASSRLS" if before_16 => {
                let reason = "BYPASSRLS is refused before PostgreSQL 16; on 16 and newer give it \
                              to them by hand";
                return self.leave_out(reason, role);
            }
            _ => {}
        }
        let statement = [head, b" ", attribute.text].concat();
        // The text of a warning ends in logs.
        let shown = if attribute.name == "PASSWORD" {
            [head, b" PASSWORD ..."].concat()
        } else {
            statement.clone()
        };
        // Who runs this is as it shall be, and since 16 may not change itself.
        let condition = [b"current_user <> ", &literal(role)[..]].concat();
        self.attempt_if(Some(&condition), &statement, &shown);
    }

    /// Who restores what a role owns must be in it, if it is not a superuser.
    fn join_all(&mut self) {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() {
            return;
        }
        self.out.extend_from_slice(JOIN);
        for (written, role) in &made {
            let statement = [b"GRANT ", &written[..], b" TO CURRENT_USER"].concat();
            let condition =
                [b"NOT pg_catalog.pg_has_role(", &literal(role)[..], b", 'USAGE')"].concat();
            self.attempt_if(Some(&condition), &statement, &statement);
        }
    }

    fn membership(&mut self, statement: &[u8], tokens: &[Token<'_>]) {
        let (Some(granted), Some(member)) = (tokens[1].name(), tokens.get(3).and_then(Token::name))
        else {
            return self.keep(statement);
        };
        if self.is_flexible() {
            if is_one_of(&granted, &REFUSED_ROLES) {
                return self.leave_out("grants of these roles are refused there", &granted);
            }
            // Membership in azure_pg_admin itself can be granted; being given to it can't.
            let granted_is_platform =
                is_one_of(&granted, &PLATFORM_ROLES) && granted != b"azure_pg_admin";
            if granted_is_platform || self.is_dropped(&member) {
                return;
            }
        }
        // Who runs this cannot be given again, with the admin option, what it has from another.
        let condition = self.is_flexible().then(|| {
            let (member, granted) = (literal(&member), literal(&granted));
            [
                b"current_user <> ",
                &member[..],
                b" OR NOT pg_catalog.pg_has_role(",
                &granted,
                b", 'MEMBER')",
            ]
            .concat()
        });
        let by = tokens
            .windows(3)
            .find(|window| window[0].is("granted") && window[1].is("by"))
            .map(|window| (window[0].at.start, window[2].clone()));
        match by {
            Some((start, grantor)) if !self.keeps_grantor(&grantor) => {
                self.keep_if(condition.as_deref(), statement[..start].trim_ascii_end());
            }
            _ => self.keep_if(condition.as_deref(), statement),
        }
    }

    /// Since PostgreSQL 16 a grantor must hold the role with the admin option, except for the one
    /// superuser that initdb made, whose name may be another one on the target. A grant by a
    /// superuser is recorded as that one's, if nothing is said. Before 16 a grantor means nothing.
    fn keeps_grantor(&self, grantor: &Token<'_>) -> bool {
        let superuser = grantor.name().is_none_or(|name| self.superusers.contains(&name));
        !self.is_flexible() && self.source_major >= 16 && !superuser
    }

    fn tablespace(&mut self, statement: &[u8], tokens: &[Token<'_>]) {
        let at = match tokens.iter().position(|token| token.is("on")) {
            Some(on) => on + 1,
            None => 1,
        };
        let name = tokens.get(at + 1).and_then(Token::name).unwrap_or_default();
        let reason = if self.is_flexible() {
            "there are no tablespaces there; use pg_restore --no-tablespaces"
        } else {
            "a tablespace is a folder of the server's machine: make it, then take these lines \
             of roles.sql in; or use pg_restore --no-tablespaces"
        };
        if !self.left_out.contains_key(reason) {
            self.out.extend_from_slice(format!("-- Left out: {reason}.\n").as_bytes());
        }
        self.leave_out(reason, &name);
        for line in statement.split(|byte| matches!(byte, b'\n' | b'\r')) {
            self.out.extend_from_slice(b"-- ");
            self.out.extend_from_slice(line);
            self.out.push(b'\n');
        }
        // The semicolon belongs before the line end.
        self.out.pop();
        self.out.extend_from_slice(b";\n");
    }

    /// Labels need their provider, a library that the target may not load.
    fn security_label(&mut self, statement: &[u8], tokens: &[Token<'_>]) {
        let role = tokens
            .iter()
            .position(|token| token.is("role"))
            .and_then(|at| tokens.get(at + 1))
            .and_then(Token::name)
            .unwrap_or_default();
        if self.is_dropped(&role) {
            return;
        }
        if tokens.iter().any(|token| token.name().is_some_and(|name| name == b"pgaadauth")) {
            let reason = "Entra roles must be made again with pgaadauth_create_principal";
            return self.leave_out(reason, &role);
        }
        self.attempt(statement, statement);
    }

    /// A statement that a superuser may always run.
    fn keep(&mut self, statement: &[u8]) {
        self.keep_if(None, statement);
    }

    /// The same; the condition is for Flexible Server.
    fn keep_if(&mut self, condition: Option<&[u8]>, statement: &[u8]) {
        if self.is_flexible() {
            self.attempt_if(condition, statement, statement);
        } else {
            self.push(statement);
        }
    }

    fn push(&mut self, statement: &[u8]) {
        self.out.extend_from_slice(statement);
        self.out.extend_from_slice(b";\n");
    }

    /// A statement whose refusal is a warning.
    fn attempt(&mut self, statement: &[u8], shown: &[u8]) {
        self.attempt_if(None, statement, shown);
    }

    fn attempt_if(&mut self, condition: Option<&[u8]>, statement: &[u8], shown: &[u8]) {
        let mut body = match condition {
            Some(condition) => [b"IF ", condition, b" THEN ", statement, b"; END IF"].concat(),
            None => statement.to_vec(),
        };
        body.extend_from_slice(b"; EXCEPTION WHEN OTHERS THEN RAISE WARNING 'refused: %: %', ");
        body.extend_from_slice(&literal(shown));
        body.extend_from_slice(b", SQLERRM;");
        self.block(&body);
    }

    fn block(&mut self, body: &[u8]) {
        let mut tag = String::from("$flexkeep$");
        let mut number = 0_u32;
        while contains(body, tag.as_bytes()) {
            number += 1;
            tag = format!("$flexkeep{number}$");
        }
        for part in [b"DO ", tag.as_bytes(), b" BEGIN ", body, b" END ", tag.as_bytes(), b";\n"] {
            self.out.extend_from_slice(part);
        }
    }

    fn leave_out(&mut self, reason: &'static str, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        self.left_out.entry(reason).or_default().insert(format!("{name:?}"));
    }
}

/// Each attribute with its argument.
fn attributes<'a>(statement: &'a [u8], tokens: &[Token<'a>]) -> Vec<Attribute<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let name = String::from_utf8_lossy(tokens[at].text).to_ascii_uppercase();
        let negative = tokens.get(at + 2).is_some_and(|token| token.text == b"-");
        let length = match name.as_str() {
            "CONNECTION" if negative => 4,
            "CONNECTION" | "VALID" => 3,
            "PASSWORD" => 2,
            _ => 1,
        };
        let end = (at + length).min(tokens.len());
        let text = &statement[tokens[at].at.start..tokens[end - 1].at.end];
        found.push(Attribute { name, text });
        at = end;
    }
    found
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|one| one.as_bytes() == name)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A text literal that means the same whatever `standard_conforming_strings` is.
fn literal(text: &[u8]) -> Vec<u8> {
    let escaped = text.contains(&b'\\');
    let mut quoted = if escaped { b"E'".to_vec() } else { b"'".to_vec() };
    for &byte in text {
        if byte == b'\'' || byte == b'\\' {
            quoted.push(byte);
        }
        quoted.push(byte);
    }
    quoted.push(b'\'');
    quoted
}
