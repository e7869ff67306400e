//! The guard against types that are altered while their values are read. No lock on a table keeps
//! anybody from that, and the server writes values of enum and composite types by the newest
//! catalog: an attribute that was dropped is missing in rows of an older snapshot, and a label that
//! got another name has it there too. The table of contents is of the snapshot, so such values would
//! be others, or no values at all, when they are restored.

use std::collections::BTreeMap;

use flexkeep_pg_copy::Connection;
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::session;

/// The enum and composite types that columns of tables are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TypeMarks(BTreeMap<u32, TypeMark>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TypeMark {
    name: String,
    is_enum: bool,
    /// Labels, or attributes with their types, in order.
    parts: Vec<String>,
}

/// Types of columns, and what those are made of: elements of arrays, bases of domains, attributes,
/// subtypes of ranges. What the system has itself does not change.
const SQL: &str = "\
    WITH RECURSIVE used(oid) AS (\
      SELECT a.atttypid FROM pg_catalog.pg_attribute a \
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
      WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped \
      AND a.atttypid >= 16384 \
      UNION \
      SELECT x.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (\
        SELECT t.typelem UNION ALL SELECT t.typbasetype \
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
          WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid\
      ) x(oid) WHERE x.oid >= 16384) \
    SELECT t.oid, pg_catalog.format('%I.%I', n.nspname, t.typname), (t.typtype = 'e')::int, p.part \
    FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace CROSS JOIN LATERAL (\
      SELECT e.enumlabel::text AS part, e.enumsortorder::float8 AS place \
      FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid \
      UNION ALL SELECT pg_catalog.concat(a.attnum, ' ', a.attname, ' ', a.atttypid, ' ', a.atttypmod), \
      a.attnum FROM pg_catalog.pg_attribute a \
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p \
    ORDER BY t.oid, p.place";

impl TypeMarks {
    /// Those that the connection sees: in a transaction with a snapshot, those of the snapshot.
    pub(crate) fn ask(connection: &mut Connection, database: &str) -> Result<Self, BackupError> {
        const QUERY: &str = "types";
        let mut marks: BTreeMap<u32, TypeMark> = BTreeMap::new();
        for row in &session::rows(connection, database, "asking for the types of columns", SQL)? {
            let name = session::lossy(&session::bytes(row, 1, QUERY)?);
            let is_enum = session::number::<u8>(row, 2, QUERY)? == 1;
            let part = session::lossy(&session::bytes(row, 3, QUERY)?);
            let oid = session::number(row, 0, QUERY)?;
            let mark = marks.entry(oid);
            mark.or_insert_with(|| TypeMark { name, is_enum, parts: Vec::new() }).parts.push(part);
        }
        Ok(Self(marks))
    }

    /// Refuses what was read if a type has changed since these marks were made; to be asked outside
    /// of the snapshot, when all is read.
    pub(crate) fn refuse_altered(
        &self,
        connection: &mut Connection,
        database: &str,
    ) -> Result<(), BackupError> {
        if self.0.is_empty() {
            return Ok(());
        }
        match self.altered(&Self::ask(connection, database)?) {
            Some(name) => {
                let what = format!("type {name}");
                Err(BackupError::Changed { database: database.to_owned(), what })
            }
            None => Ok(()),
        }
    }

    /// The first type that is another one now.
    fn altered(&self, now: &Self) -> Option<&str> {
        let is_altered = |(oid, before): &(&u32, &TypeMark)| {
            // No column has it any more: then its table was refused, or is not in the backup.
            let Some(now) = now.0.get(oid) else { return false };
            if before.is_enum {
                // Labels may come to them: no row of the snapshot has those.
                let old = now.parts.iter().filter(|label| before.parts.contains(label));
                !old.eq(&before.parts)
            } else {
                now.parts != before.parts
            }
        };
        self.0.iter().find(is_altered).map(|(_, mark)| mark.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(is_enum: bool, parts: &[&str]) -> TypeMarks {
        let parts = parts.iter().map(|&part| part.to_owned()).collect();
        TypeMarks([(20_000, TypeMark { name: "s.t".to_owned(), is_enum, parts })].into())
    }

    #[test]
    fn only_labels_that_come_to_the_others_do_no_harm() {
        let before = marks(true, &["a", "b"]);
        for (now, altered) in [
            (marks(true, &["a", "b"]), None),
            (marks(true, &["new", "a", "between", "b"]), None),
            (marks(true, &["b", "a"]), Some("s.t")),
            (marks(true, &["a", "renamed"]), Some("s.t")),
            (TypeMarks::default(), None),
        ] {
            assert_eq!(before.altered(&now), altered, "{now:?}");
        }
        let before = marks(false, &["1 a 23 -1", "2 b 25 -1"]);
        assert_eq!(before.altered(&before.clone()), None);
        let more = marks(false, &["1 a 23 -1", "2 b 25 -1", "3 c 25 -1"]);
        assert_eq!(before.altered(&more), Some("s.t"));
        assert_eq!(before.altered(&marks(false, &["1 a 23 -1", "3 b 25 -1"])), Some("s.t"));
    }
}
