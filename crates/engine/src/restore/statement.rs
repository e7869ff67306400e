//! The SQL that makes an entry, as pg_restore sends it: definition, owner, tablespace, access method.

use std::collections::HashSet;

use flexkeep_pg_archive::Entry;

use super::parts::{desc, is_large_object};
use super::sql::statements;
use super::target::{ident, lossy};

/// Relation kind of a partitioned table.
const PARTITIONED: i32 = b'p' as i32;

/// Large objects that one statement makes or changes.
const OBJECTS_A_STATEMENT: usize = 1000;

/// What statements depend on besides their entry.
pub(super) struct Dialect<'a> {
    /// Whether objects get their owners.
    pub(super) owners: bool,
    /// Whether the restoring role may become any other by SET SESSION AUTHORIZATION.
    pub(super) superuser: bool,
    /// Tablespaces of the target.
    pub(super) tablespaces: &'a HashSet<Vec<u8>>,
}

/// What makes an entry.
pub(super) struct Statements {
    /// The object itself.
    pub(super) object: Vec<u8>,
    /// What gives it to its owner; empty if there is none.
    pub(super) owner: Vec<u8>,
}

impl Dialect<'_> {
    /// All that makes `entry`. `group` is the BLOB METADATA entry of an ACL of large objects.
    pub(super) fn statements(&self, entry: &Entry, group: Option<&Entry>) -> Statements {
        let mut sql = Vec::new();
        self.storage(entry, &mut sql);
        let defn = entry.defn().unwrap_or_default();
        let tag = entry.tag().unwrap_or_default();
        match desc(entry) {
            b"BLOB METADATA" => create_objects(&oids(entry), &mut sql),
            b"ACL" if tag.starts_with(b"LARGE OBJECTS") => {
                let oids = group.map(oids).unwrap_or_default();
                acl_of_objects(&self.acl(defn), &oids, &mut sql);
            }
            b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL" => sql.extend_from_slice(&self.acl(defn)),
            b"SCHEMA" if !self.owners && !defn.starts_with(b"--") => {
                sql.extend_from_slice(&[b"CREATE SCHEMA ", &ident(tag)[..], b";"].concat());
            }
            _ => sql.extend_from_slice(defn),
        }
        sql.extend_from_slice(b"\n;");
        if entry.relkind() == PARTITIONED
            && let Some(method) = entry.tableam().filter(|method| !method.is_empty())
        {
            let table = qualified(entry);
            let parts =
                [b"ALTER TABLE ", &table[..], b" SET ACCESS METHOD ", &ident(method)[..], b";"];
            sql.extend_from_slice(&parts.concat());
        }
        let mut owner = Vec::new();
        if self.owners {
            self.owner(entry, &mut owner);
        }
        Statements { object: sql, owner }
    }

    fn storage(&self, entry: &Entry, sql: &mut Vec<u8>) {
        if let Some(space) = entry.tablespace() {
            sql.extend_from_slice(b"SET default_tablespace = ");
            if space.is_empty() || !self.tablespaces.contains(space) {
                sql.extend_from_slice(b"''");
            } else {
                sql.extend_from_slice(&ident(space));
            }
            sql.push(b';');
        }
        if entry.relkind() != PARTITIONED
            && let Some(method) = entry.tableam().filter(|method| !method.is_empty())
        {
            sql.extend_from_slice(b"SET default_table_access_method = ");
            sql.extend_from_slice(&ident(method));
            sql.push(b';');
        }
    }

    fn owner(&self, entry: &Entry, sql: &mut Vec<u8>) {
        let owner = entry.owner().unwrap_or_default();
        if owner.is_empty() || entry.drop_stmt().is_none_or(<[u8]>::is_empty) {
            return;
        }
        let owner = ident(owner);
        if desc(entry) == b"BLOB METADATA" {
            for oid in oids(entry) {
                sql.extend_from_slice(format!("ALTER LARGE OBJECT {oid} OWNER TO ").as_bytes());
                sql.extend_from_slice(&owner);
                sql.push(b';');
            }
        } else if let Some(object) = object_words(entry) {
            sql.extend_from_slice(&[b"ALTER ", &object[..], b" OWNER TO ", &owner, b";"].concat());
        }
    }

    /// Rights granted by others than the owner are granted in their name. Who is no superuser can
    /// take a name by SET ROLE only.
    fn acl(&self, defn: &[u8]) -> Vec<u8> {
        if self.superuser {
            return defn.to_vec();
        }
        let Ok(parts) = statements(defn) else { return defn.to_vec() };
        let mut out = Vec::with_capacity(defn.len());
        for part in parts {
            let text = part.text;
            let word = |index: usize, word: &str| {
                part.tokens.get(index).is_some_and(|token| token.is(word))
            };
            if word(1, "session") && word(2, "authorization") && part.tokens.len() >= 3 {
                let name = part.tokens.get(3).and_then(|token| token.name());
                match name {
                    Some(name) if word(0, "set") => {
                        out.extend_from_slice(b"SET ROLE ");
                        out.extend_from_slice(&ident(&name));
                    }
                    _ => out.extend_from_slice(b"RESET ROLE"),
                }
            } else {
                out.extend_from_slice(text);
            }
            out.extend_from_slice(b";\n");
        }
        out
    }
}

/// The words that name an object in ALTER ... OWNER TO; `None` for what has no owner of its own.
fn object_words(entry: &Entry) -> Option<Vec<u8>> {
    match desc(entry) {
        kind @ (b"COLLATION"
        | b"CONVERSION"
        | b"DOMAIN"
        | b"FOREIGN TABLE"
        | b"MATERIALIZED VIEW"
        | b"SEQUENCE"
        | b"STATISTICS"
        | b"TABLE"
        | b"TEXT SEARCH DICTIONARY"
        | b"TEXT SEARCH CONFIGURATION"
        | b"TYPE"
        | b"VIEW"
        | b"DATABASE"
        | b"PROCEDURAL LANGUAGE"
        | b"SCHEMA"
        | b"EVENT TRIGGER"
        | b"FOREIGN DATA WRAPPER"
        | b"SERVER"
        | b"PUBLICATION"
        | b"SUBSCRIPTION") => Some([kind, b" ", &qualified(entry)].concat()),
        b"BLOB" => Some([b"LARGE OBJECT ", entry.tag()?].concat()),
        // What their DROP statement says identifies them.
        b"AGGREGATE" | b"FUNCTION" | b"OPERATOR" | b"OPERATOR CLASS" | b"OPERATOR FAMILY"
        | b"PROCEDURE" => {
            let words = entry.drop_stmt()?.strip_prefix(b"DROP ")?;
            let end = words.iter().rposition(|byte| !matches!(byte, b';' | b'\n'))?;
            Some(words[..=end].to_vec())
        }
        _ => None,
    }
}

/// Schema, if there is one, and name, quoted.
pub(super) fn qualified(entry: &Entry) -> Vec<u8> {
    let name = ident(entry.tag().unwrap_or_default());
    match entry.namespace() {
        Some(schema) if !schema.is_empty() => [ident(schema), name].join(&b'.'),
        _ => name,
    }
}

/// The large objects that an entry makes.
pub(super) fn made_objects(entry: &Entry) -> Vec<u32> {
    match desc(entry) {
        b"BLOB METADATA" => oids(entry),
        b"BLOB" => lossy(entry.tag().unwrap_or_default()).parse().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The large objects of a BLOB METADATA entry.
fn oids(entry: &Entry) -> Vec<u32> {
    let text = String::from_utf8_lossy(entry.defn().unwrap_or_default());
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn create_objects(oids: &[u32], sql: &mut Vec<u8>) {
    for group in oids.chunks(OBJECTS_A_STATEMENT) {
        let list: Vec<String> = group.iter().map(u32::to_string).collect();
        let text = format!(
            "SELECT pg_catalog.count(pg_catalog.lo_create(o)) \
             FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) o;",
            list.join(",")
        );
        sql.extend_from_slice(text.as_bytes());
    }
}

/// An ACL that is written for the first object of a group, for each of them.
fn acl_of_objects(defn: &[u8], oids: &[u32], sql: &mut Vec<u8>) {
    let Ok(parts) = statements(defn) else { return };
    for part in parts {
        // `... ON LARGE OBJECT 123 TO ...`
        let place =
            part.tokens.windows(3).find(|window| window[0].is("large") && window[1].is("object"));
        let Some(oid) = place.map(|window| window[2].at.clone()) else {
            sql.extend_from_slice(part.text);
            sql.extend_from_slice(b";");
            continue;
        };
        for one in oids {
            sql.extend_from_slice(&part.text[..oid.start]);
            sql.extend_from_slice(one.to_string().as_bytes());
            sql.extend_from_slice(&part.text[oid.end..]);
            sql.push(b';');
        }
    }
}

/// Whether an entry may share a message with its neighbours: what costs nothing but the way.
pub(super) fn is_small(entry: &Entry) -> bool {
    desc(entry) != b"EXTENSION" && (!is_large_object(entry) || desc(entry) == b"BLOB")
}
