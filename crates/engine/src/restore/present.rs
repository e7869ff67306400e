//! What a database of the target has already.

use std::collections::{HashMap, HashSet};

use flexkeep_pg_archive::Entry;

use super::error::RestoreError;
use super::parts::{desc, is_large_object};
use super::target::Db;

/// Schema and name.
type Names = HashSet<(Vec<u8>, Vec<u8>)>;

/// Names in a database, by kind. Only kinds that the question covers are known.
#[derive(Default)]
pub(super) struct Present {
    /// Tables, indexes, sequences, views: schema and name, and their kind (`pg_class.relkind`).
    relations: HashMap<(Vec<u8>, Vec<u8>), u8>,
    types: Names,
    /// Schema, and name with argument types.
    functions: Names,
    constraints: Names,
    pub(super) schemas: HashSet<Vec<u8>>,
    extensions: HashSet<Vec<u8>>,
    publications: HashSet<Vec<u8>>,
    languages: HashSet<Vec<u8>>,
    /// Other kinds: kind and schema as in a table of contents, and name.
    others: HashSet<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    /// Operators, their classes and families: in the words of their DROP statement, without blanks.
    operators: HashSet<Vec<u8>>,
    pub(super) large_objects: u64,
    /// Whether there is anything that no new database has.
    pub(super) is_empty: bool,
}

const EXTENSION_MEMBER: &str = "EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = o.oid \
     AND d.classid = o.tableoid AND d.deptype = 'e')";

impl Present {
    /// A database that is yet to be made.
    pub(super) fn nothing() -> Self {
        Self { is_empty: true, ..Self::default() }
    }

    /// Asks a database.
    pub(super) fn ask(db: &mut Db) -> Result<Self, RestoreError> {
        const DOING: &str = "listing what the database has";
        let system = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', \
                      'flexkeep_restore') AND n.nspname !~ '^pg_(toast_)?temp_'";
        let mut pairs = |sql: String| -> Result<Names, RestoreError> {
            let rows = db.rows(DOING, sql)?;
            let cell = |row: &flexkeep_pg_copy::Row, at| {
                row.get_bytes(at).map(<[u8]>::to_vec).unwrap_or_default()
            };
            Ok(rows.iter().map(|row| (cell(row, 0), cell(row, 1))).collect())
        };
        let types = pairs(format!(
            "SELECT n.nspname, t.typname FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE {system}"
        ))?;
        let functions = pairs(format!(
            "SELECT n.nspname, pg_catalog.textcat(pg_catalog.textcat(p.proname::text, '('), \
             pg_catalog.textcat(pg_catalog.oidvectortypes(p.proargtypes), ')')) \
             FROM pg_catalog.pg_proc p \
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {system}"
        ))?;
        let constraints = pairs(format!(
            "SELECT n.nspname, pg_catalog.textcat(pg_catalog.textcat(c.relname::text, ' '), \
             x.conname::text) FROM pg_catalog.pg_constraint x \
             JOIN pg_catalog.pg_class c ON c.oid = x.conrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {system}"
        ))?;
        let relations = db.rows(
            DOING,
            format!(
                "SELECT n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {system}"
            ),
        )?;
        let relations = relations.iter().map(|row| {
            let cell = |at| row.get_bytes(at).unwrap_or_default();
            ((cell(0).to_vec(), cell(1).to_vec()), cell(2).first().copied().unwrap_or_default())
        });
        let relations = relations.collect();
        let others = db.rows(DOING, others_sql(system))?;
        let others = others.iter().map(|row| {
            let cell = |at| row.get_bytes(at).map(<[u8]>::to_vec).unwrap_or_default();
            (cell(0), cell(1), cell(2))
        });
        let others = others.collect();
        let operators = db.set(DOING, &operators_sql(system))?;
        let operators = operators.iter().map(|words| without_blanks(words)).collect();
        let large_objects =
            db.value(DOING, "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata")?;
        let is_empty = db.is_true(DOING, &nothing_of_a_user(system))?;
        Ok(Self {
            relations,
            types,
            functions,
            constraints,
            others,
            operators,
            schemas: db.set(DOING, "SELECT nspname FROM pg_catalog.pg_namespace")?,
            extensions: db.set(DOING, "SELECT extname FROM pg_catalog.pg_extension")?,
            publications: db.set(DOING, "SELECT pubname FROM pg_catalog.pg_publication")?,
            languages: db.set(DOING, "SELECT lanname FROM pg_catalog.pg_language")?,
            large_objects: large_objects.parse().unwrap_or_default(),
            is_empty,
        })
    }

    /// Whether the object of an entry is there, as far as its kind was asked for. What is not
    /// known counts as there.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.knows(entry).unwrap_or(true)
    }

    /// Whether the object that an entry would make is there; `false` for kinds not asked for.
    pub(super) fn is_in_the_way(&self, entry: &Entry) -> bool {
        // An extension is made only if it is missing, and a schema that is there is used.
        !matches!(desc(entry), b"EXTENSION" | b"SCHEMA" | b"PROCEDURAL LANGUAGE")
            && self.knows(entry).unwrap_or(false)
    }

    fn knows(&self, entry: &Entry) -> Option<bool> {
        if is_large_object(entry) {
            return None;
        }
        let tag = entry.tag().unwrap_or_default().to_vec();
        let pair = || (entry.namespace().unwrap_or_default().to_vec(), tag.clone());
        match desc(entry) {
            b"TABLE" | b"FOREIGN TABLE" | b"VIEW" | b"MATERIALIZED VIEW" | b"SEQUENCE"
            | b"INDEX" => Some(self.relations.contains_key(&pair())),
            b"TYPE" | b"DOMAIN" | b"SHELL TYPE" => Some(self.types.contains(&pair())),
            b"FUNCTION" | b"PROCEDURE" | b"AGGREGATE" => Some(self.functions.contains(&pair())),
            b"CONSTRAINT" | b"FK CONSTRAINT" | b"CHECK CONSTRAINT" => {
                Some(self.constraints.contains(&pair()))
            }
            b"SCHEMA" => Some(self.schemas.contains(&tag)),
            b"EXTENSION" => Some(self.extensions.contains(&tag)),
            b"PUBLICATION" => Some(self.publications.contains(&tag)),
            b"PROCEDURAL LANGUAGE" => Some(self.languages.contains(&tag)),
            kind if OTHERS.contains(&kind) => {
                let schema = entry.namespace().unwrap_or_default().to_vec();
                Some(self.others.contains(&(kind.to_vec(), schema, tag)))
            }
            b"OPERATOR" | b"OPERATOR CLASS" | b"OPERATOR FAMILY" => {
                let words = entry.drop_stmt()?.strip_prefix(b"DROP ")?;
                // Perhaps it is only written in another way.
                self.operators.contains(&without_blanks(words)).then_some(true)
            }
            _ => None,
        }
    }

    pub(super) fn has_extension(&self, entry: &Entry) -> bool {
        entry.tag().is_some_and(|name| self.extensions.contains(name))
    }

    /// Whether there is a table, or another relation, of this name.
    pub(super) fn has_relation(&self, schema: &[u8], name: &[u8]) -> bool {
        self.relation_kind(schema, name).is_some()
    }

    /// What a relation is, as `pg_class.relkind` has it.
    pub(super) fn relation_kind(&self, schema: &[u8], name: &[u8]) -> Option<u8> {
        self.relations.get(&(schema.to_vec(), name.to_vec())).copied()
    }
}

/// Kinds that [`others_sql`] asks for.
const OTHERS: [&[u8]; 11] = [
    b"COLLATION",
    b"CONVERSION",
    b"STATISTICS",
    b"TEXT SEARCH CONFIGURATION",
    b"TEXT SEARCH DICTIONARY",
    b"TEXT SEARCH PARSER",
    b"TEXT SEARCH TEMPLATE",
    b"FOREIGN DATA WRAPPER",
    b"SERVER",
    b"SUBSCRIPTION",
    b"ACCESS METHOD",
];

/// A query: kind, schema and name of objects of those kinds.
fn others_sql(system: &str) -> String {
    let of = |kind: &str, catalog: &str, prefix: &str| {
        format!(
            "SELECT '{kind}', n.nspname, o.{prefix}name FROM pg_catalog.{catalog} o \
             JOIN pg_catalog.pg_namespace n ON n.oid = o.{prefix}namespace WHERE {system} UNION ALL "
        )
    };
    [
        of("COLLATION", "pg_collation", "coll"),
        of("CONVERSION", "pg_conversion", "con"),
        of("STATISTICS", "pg_statistic_ext", "stx"),
        of("TEXT SEARCH CONFIGURATION", "pg_ts_config", "cfg"),
        of("TEXT SEARCH DICTIONARY", "pg_ts_dict", "dict"),
        of("TEXT SEARCH PARSER", "pg_ts_parser", "prs"),
        of("TEXT SEARCH TEMPLATE", "pg_ts_template", "tmpl"),
    ]
    .concat()
        + "SELECT 'FOREIGN DATA WRAPPER', '', fdwname FROM pg_catalog.pg_foreign_data_wrapper \
           UNION ALL SELECT 'SERVER', '', srvname FROM pg_catalog.pg_foreign_server \
           UNION ALL SELECT 'ACCESS METHOD', '', amname FROM pg_catalog.pg_am \
           UNION ALL SELECT 'SUBSCRIPTION', '', s.subname FROM pg_catalog.pg_subscription s \
           JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
           WHERE d.datname = pg_catalog.current_database()"
}

/// A query: operators, operator classes and families in the words that pg_dump drops them with.
fn operators_sql(system: &str) -> String {
    let of = |kind: &str, catalog: &str, prefix: &str| {
        format!(
            " UNION ALL SELECT pg_catalog.format('OPERATOR {kind} %I.%I USING %I', n.nspname, \
             o.{prefix}name, a.amname) FROM pg_catalog.{catalog} o \
             JOIN pg_catalog.pg_am a ON a.oid = o.{prefix}method \
             JOIN pg_catalog.pg_namespace n ON n.oid = o.{prefix}namespace WHERE {system}"
        )
    };
    format!(
        "SELECT pg_catalog.format('OPERATOR %I.%s(%s,%s)', n.nspname, o.oprname, \
         coalesce(pg_catalog.format_type(nullif(o.oprleft, 0), NULL), 'NONE'), \
         coalesce(pg_catalog.format_type(nullif(o.oprright, 0), NULL), 'NONE')) \
         FROM pg_catalog.pg_operator o \
         JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE {system}{}{}",
        of("CLASS", "pg_opclass", "opc"),
        of("FAMILY", "pg_opfamily", "opf"),
    )
}

fn without_blanks(words: &[u8]) -> Vec<u8> {
    words.iter().copied().filter(|byte| !matches!(byte, b' ' | b'\n' | b';')).collect()
}

/// A query: whether nothing is there but what every new database has, extensions included that the
/// platform puts into it.
fn nothing_of_a_user(system: &str) -> String {
    let of = |catalog: &str, schema: &str| {
        format!(
            "NOT EXISTS (SELECT FROM pg_catalog.{catalog} o \
             JOIN pg_catalog.pg_namespace n ON n.oid = o.{schema} \
             WHERE {system} AND NOT {EXTENSION_MEMBER})"
        )
    };
    format!(
        "SELECT {} AND {} AND {} \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE {system} \
             AND n.nspname <> 'public' AND n.oid >= 16384 AND NOT EXISTS \
             (SELECT FROM pg_catalog.pg_extension e WHERE e.extnamespace = n.oid)) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication)",
        of("pg_class", "relnamespace"),
        of("pg_type", "typnamespace"),
        of("pg_proc", "pronamespace"),
    )
}
