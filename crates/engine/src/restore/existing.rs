//! A database that is there: what is in the way, and clearing it away.

use std::collections::HashSet;

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy::quote_literal;

use super::choose::Item;
use super::error::RestoreError;
use super::options::{Existing, RestoreOptions};
use super::parts::{Role, desc, is_large_object, name_of};
use super::statement::{made_objects, qualified};
use super::target::{Db, TargetFacts, literal, lossy, number};
use crate::check::{CheckReport, Severity};
use crate::error::some;

/// Looks what is in the way.
pub(super) fn look(
    item: &Item<'_>,
    options: &RestoreOptions,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    if !may_create(item, db)? {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!(
                "{:?} may make no schema in it, and needs one for its journal",
                lossy(&facts.user)
            ),
            "grant it CREATE on the database, or restore the others by name (--database)",
        );
    }
    if options.definitions() {
        if options.existing != Existing::Clean {
            refuse_present(item, subject, report);
            refuse_large_objects(item, db, subject, report)?;
        } else {
            refuse_other_partitions(item, db, subject, report)?;
        }
        return Ok(());
    }
    tables_for_rows(item, options, db, subject, report)?;
    triggers(item, options, facts, db, subject, report)
}

/// Whether the restoring role may make schemas in the database.
pub(super) fn may_create(item: &Item<'_>, db: &mut Db) -> Result<bool, RestoreError> {
    let name = quote_literal(&item.name);
    db.is_true(
        "asking for rights on the database",
        &format!("SELECT pg_catalog.has_database_privilege({name}, 'CREATE')"),
    )
}

fn refuse_present(item: &Item<'_>, subject: &str, report: &mut CheckReport) {
    let entries = item.parts.entries();
    let in_the_way: Vec<String> = item
        .selection
        .places(&[Role::Definition, Role::After])
        .into_iter()
        .map(|place| &entries[place])
        .filter(|entry| item.present.is_in_the_way(entry))
        .map(name_of)
        .collect();
    if !in_the_way.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("{} objects are there already: {}", in_the_way.len(), some(&in_the_way)),
            "drop or rename them; have them replaced (--clean); or restore under another name (--as)",
        );
    }
}

/// With a partitioned table its partitions are dropped, those too that the backup does not have.
fn refuse_other_partitions(
    item: &Item<'_>,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let entries = item.parts.entries();
    let tables: Vec<&Entry> = item
        .selection
        .places(&[Role::Definition])
        .into_iter()
        .map(|place| &entries[place])
        .filter(|entry| matches!(desc(entry), b"TABLE" | b"FOREIGN TABLE"))
        .collect();
    let replaced: HashSet<(&[u8], &[u8])> = tables
        .iter()
        .map(|entry| (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default()))
        .collect();
    let mut others = Vec::new();
    for entry in tables.iter().filter(|entry| kind_of(item, entry) == Some(b'p')) {
        let sql = [
            &b"SELECT n.nspname, c.relname FROM pg_catalog.pg_partition_tree("[..],
            &literal(&qualified(entry)),
            b"::pg_catalog.regclass) t JOIN pg_catalog.pg_class c ON c.oid = t.relid \
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2",
        ]
        .concat();
        for row in db.rows("asking for partitions", sql)? {
            let cell = |at| row.get_bytes(at).unwrap_or_default();
            if !replaced.contains(&(cell(0), cell(1))) {
                others.push(format!("{}.{}", lossy(cell(0)), lossy(cell(1))));
            }
        }
    }
    others.sort();
    others.dedup();
    if !others.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!(
                "{} partitions would be dropped with their table, and are not in the restore: {}",
                others.len(),
                some(&others)
            ),
            "detach them first (ALTER TABLE ... DETACH PARTITION)",
        );
    }
    Ok(())
}

/// Large objects that the server is asked for at once.
const ASKED_AT_ONCE: usize = 10_000;

/// Large objects keep their numbers, so those must be free.
fn refuse_large_objects(
    item: &Item<'_>,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    if item.present.large_objects == 0 {
        return Ok(());
    }
    let entries = item.parts.entries().iter().zip(&item.selection.roles);
    let wanted: Vec<u32> = entries
        .filter(|(_, role)| role.is_some())
        .flat_map(|(entry, _)| made_objects(entry))
        .collect();
    let mut taken = Vec::new();
    for some in wanted.chunks(ASKED_AT_ONCE) {
        let list: Vec<String> = some.iter().map(u32::to_string).collect();
        let sql = format!(
            "SELECT oid FROM pg_catalog.pg_largeobject_metadata \
             WHERE oid = ANY ('{{{}}}'::pg_catalog.oid[]) ORDER BY 1",
            list.join(",")
        );
        let rows = db.rows("asking for large objects", sql)?;
        taken.extend(rows.iter().map(|row| number::<u32>(row, 0).to_string()));
    }
    if !taken.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("{} large objects are there already: {}", taken.len(), some(&taken)),
            "choose schemas or tables, without large objects; or restore under another name (--as)",
        );
    }
    Ok(())
}

/// Entries with rows of tables.
fn row_entries<'a>(item: &'a Item<'_>) -> impl Iterator<Item = &'a Entry> {
    let places = item.selection.places(&[Role::Data]);
    places
        .into_iter()
        .map(|place| &item.parts.entries()[place])
        .filter(|entry| desc(entry) == b"TABLE DATA")
}

/// Whether what has the name of a table of the backup can take its rows.
fn takes_rows(item: &Item<'_>, entry: &Entry) -> bool {
    matches!(kind_of(item, entry), Some(b'r' | b'p'))
}

fn kind_of(item: &Item<'_>, entry: &Entry) -> Option<u8> {
    item.present
        .relation_kind(entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default())
}

/// The rows of a table of the target that has the name of one of the backup's: not those of its
/// children, unless it has none itself, being partitioned there.
fn rows_of(item: &Item<'_>, entry: &Entry) -> Vec<u8> {
    let only = if kind_of(item, entry) == Some(b'p') { &b""[..] } else { b"ONLY " };
    [only, &qualified(entry)[..]].concat()
}

/// Rows alone need their tables, and those empty.
fn tables_for_rows(
    item: &Item<'_>,
    options: &RestoreOptions,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let (mut missing, mut other, mut filled) = (Vec::new(), Vec::new(), Vec::new());
    for entry in row_entries(item) {
        let (schema, name) =
            (entry.namespace().unwrap_or_default(), entry.tag().unwrap_or_default());
        if !item.present.has_relation(schema, name) {
            missing.push(format!("{}.{}", lossy(schema), lossy(name)));
        } else if !takes_rows(item, entry) {
            other.push(format!("{}.{}", lossy(schema), lossy(name)));
        } else if options.existing != Existing::Clean {
            let sql = [b"SELECT EXISTS (SELECT FROM ", &rows_of(item, entry)[..], b")"].concat();
            let rows = db.rows("looking for rows", sql)?;
            if rows.first().and_then(|row| row.get(0)) == Some("t") {
                filled.push(format!("{}.{}", lossy(schema), lossy(name)));
            }
        }
    }
    if !missing.is_empty() {
        let what = format!("{} tables are not there: {}", missing.len(), some(&missing));
        report.add_with_way_out(Severity::Error, subject, what, "restore their definitions too");
    }
    if !other.is_empty() {
        let what = format!("{} are no tables there: {}", other.len(), some(&other));
        let way_out = "rename them, and restore the definitions too; or choose other tables";
        report.add_with_way_out(Severity::Error, subject, what, way_out);
    }
    if !filled.is_empty() {
        let what = format!("{} tables have rows already: {}", filled.len(), some(&filled));
        report.add_with_way_out(Severity::Error, subject, what, "have them emptied (--clean)");
    }
    let mut data = item.selection.places(&[Role::Data]).into_iter();
    let wants_objects = data.any(|place| is_large_object(&item.parts.entries()[place]));
    if item.present.large_objects > 0 && wants_objects {
        let what = format!("it has {} large objects already", item.present.large_objects);
        report.add_with_way_out(
            Severity::Error,
            subject,
            what,
            "choose tables, without large objects",
        );
    }
    Ok(())
}

/// The condition on a trigger or a foreign key that stands in the way of loading rows.
const ENABLED: &str = "t.tgenabled <> 'D'";

/// The bits of a trigger's events: INSERT and TRUNCATE.
const INSERT: u32 = 4;
const TRUNCATE: u32 = 32;

/// Triggers and foreign keys would see half of the rows. A superuser turns them off for the session.
fn triggers(
    item: &Item<'_>,
    options: &RestoreOptions,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let tables: Vec<Vec<u8>> = row_entries(item)
        .filter(|entry| {
            let (schema, name) = (entry.namespace(), entry.tag());
            item.present.has_relation(schema.unwrap_or_default(), name.unwrap_or_default())
        })
        .map(|entry| [&literal(&qualified(entry))[..], b"::pg_catalog.regclass"].concat())
        .collect();
    if tables.is_empty() {
        return Ok(());
    }
    // What fires for replicas too can't be turned off for a session.
    let which = if replica_allowed(facts, db)? { "t.tgenabled IN ('A', 'R')" } else { ENABLED };
    let emptied = if options.existing == Existing::Clean { TRUNCATE } else { 0 };
    let events = INSERT | emptied;
    let rows = db.rows(
        "asking for triggers",
        [
            &b"SELECT t.tgrelid::pg_catalog.regclass::text, coalesce((SELECT c.conname \
             FROM pg_catalog.pg_constraint c WHERE c.oid = t.tgconstraint), t.tgname) \
             FROM pg_catalog.pg_trigger t WHERE t.tgrelid IN ("[..],
            &tables.join(&b","[..])[..],
            format!(") AND {which} AND (t.tgtype & {events}) > 0 ORDER BY 1, 2").as_bytes(),
        ]
        .concat(),
    )?;
    let names: Vec<String> = rows
        .iter()
        .map(|row| {
            let cell = |at| row.get_bytes(at).map(lossy).unwrap_or_default();
            format!("{} {}", cell(0), cell(1))
        })
        .collect();
    if !names.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("triggers and foreign keys would see half of the rows: {}", some(&names)),
            "disable the triggers and drop the foreign keys first; or restore the tables with their \
             definitions (--clean)",
        );
    }
    Ok(())
}

/// Whether the session may say that it is a replica, for which triggers do not fire.
pub(super) fn replica_allowed(facts: &TargetFacts, db: &mut Db) -> Result<bool, RestoreError> {
    if facts.superuser {
        return Ok(true);
    }
    if facts.major() < 15 {
        return Ok(false);
    }
    db.is_true(
        "asking for rights",
        "SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET')",
    )
}

/// Statements that clear away what is in the way; to be run in one transaction.
pub(super) fn clear_sql(item: &Item<'_>, options: &RestoreOptions) -> Vec<u8> {
    if !options.definitions() {
        let tables: Vec<Vec<u8>> = row_entries(item).map(|entry| rows_of(item, entry)).collect();
        if tables.is_empty() {
            return Vec::new();
        }
        return [b"TRUNCATE ", &tables.join(&b", "[..])[..], b";"].concat();
    }
    let entries = item.parts.entries();
    let places = item.selection.places(&[Role::Definition]);
    let there: Vec<&Entry> = places
        .into_iter()
        .map(|place| &entries[place])
        .filter(|entry| item.present.is_in_the_way(entry))
        .collect();
    let mut sql = Vec::new();
    let mut drop_all = |kinds: &[&[u8]], words: &str| {
        let names: Vec<Vec<u8>> = there
            .iter()
            .filter(|entry| kinds.contains(&desc(entry)))
            .map(|entry| qualified(entry))
            .collect();
        if !names.is_empty() {
            sql.extend_from_slice(format!("DROP {words} IF EXISTS ").as_bytes());
            sql.extend_from_slice(&names.join(&b", "[..]));
            sql.push(b';');
        }
    };
    // Together: they may refer to each other in a ring.
    drop_all(&[b"MATERIALIZED VIEW"], "MATERIALIZED VIEW");
    drop_all(&[b"VIEW"], "VIEW");
    drop_all(&[b"FOREIGN TABLE"], "FOREIGN TABLE");
    drop_all(&[b"TABLE"], "TABLE");
    // With a column that owns it a sequence has gone already.
    drop_all(&[b"SEQUENCE"], "SEQUENCE");
    let relations: [&[u8]; 5] =
        [b"MATERIALIZED VIEW", b"VIEW", b"FOREIGN TABLE", b"TABLE", b"SEQUENCE"];
    for entry in there.iter().rev().filter(|entry| !relations.contains(&desc(entry))) {
        sql.extend_from_slice(entry.drop_stmt().unwrap_or_default());
    }
    sql
}
