//! Which entries of a table of contents are restored, and what else these need.

use std::collections::{HashMap, HashSet};

use flexkeep_pg_archive::{Entry, Toc};

use super::error::RestoreError;
use super::options::RestoreOptions;
use super::parts::{Parts, Role, desc, is_large_object, name_of, roles_of};
use super::present::Present;
use super::report::Skipped;
use super::target::lossy;

/// Kinds of entries that stand for a relation which rows or a view can be asked of.
const RELATIONS: [&[u8]; 5] =
    [b"TABLE", b"FOREIGN TABLE", b"VIEW", b"MATERIALIZED VIEW", b"SEQUENCE"];

/// Kinds that belong to one table and bear its name first in their own.
const OF_A_TABLE: [&[u8]; 7] = [
    b"CONSTRAINT",
    b"CHECK CONSTRAINT",
    b"FK CONSTRAINT",
    b"TRIGGER",
    b"RULE",
    b"POLICY",
    b"DEFAULT",
];

/// Kinds that belong to the table that they depend on.
const ON_A_TABLE: [&[u8]; 11] = [
    b"INDEX",
    b"INDEX ATTACH",
    b"STATISTICS",
    b"TABLE DATA",
    b"TABLE ATTACH",
    b"SEQUENCE SET",
    b"SEQUENCE OWNED BY",
    b"ROW SECURITY",
    b"PUBLICATION TABLE",
    b"MATERIALIZED VIEW DATA",
    b"STATISTICS DATA",
];

/// What is restored of one database.
pub(super) struct Selection {
    /// For each entry, what it is; `None` if it is not restored.
    pub(super) roles: Vec<Option<Role>>,
    /// What is made besides what was chosen, because that needs it.
    pub(super) also: Vec<String>,
    /// What was left out although it was chosen, or belongs to what was.
    pub(super) skipped: Vec<Skipped>,
}

impl Selection {
    /// The places of entries with one of these roles, in the order of the table of contents.
    pub(super) fn places(&self, wanted: &[Role]) -> Vec<usize> {
        let is = |role: &Option<Role>| role.is_some_and(|role| wanted.contains(&role));
        self.roles.iter().enumerate().filter(|(_, role)| is(role)).map(|(at, _)| at).collect()
    }

    pub(super) fn skip(&mut self, place: usize, entry: &Entry, reason: impl Into<String>) {
        self.roles[place] = None;
        self.skipped.push(Skipped { object: name_of(entry), reason: reason.into() });
    }
}

/// What is restored of a whole database.
pub(super) fn everything(parts: &Parts<'_>, options: &RestoreOptions) -> Selection {
    let roles = roles_of(parts.entries()).into_iter().map(Some).collect();
    let mut selection = Selection { roles, also: Vec::new(), skipped: Vec::new() };
    by_parts(parts.entries(), options, &mut selection);
    selection
}

/// What is restored of chosen schemas and tables. `present` is what the target has already.
pub(super) fn chosen(
    parts: &Parts<'_>,
    options: &RestoreOptions,
    present: &Present,
) -> Result<Selection, RestoreError> {
    let entries = parts.entries();
    let mut chooser =
        Chooser::of(&parts.toc, &parts.summary.name, &options.schemas, &options.tables)?;
    let mut selection = Selection { roles: Vec::new(), also: Vec::new(), skipped: Vec::new() };
    let has = |entry: &Entry| present.has(entry);
    if options.definitions() {
        chooser.what_is_needed(&has, &mut selection);
    }
    selection.roles = chooser.chosen_roles();
    if options.definitions() {
        without_missing_tables(&parts.toc, &has, &mut selection);
        attach_at_last(&parts.toc, &mut selection);
    }
    by_parts(entries, options, &mut selection);
    Ok(selection)
}

/// A partition of a table that is there gets its place when its rows and indexes are: with its place
/// come the triggers of that table, which must not fire for them, and indexes that it would then have
/// twice.
fn attach_at_last(toc: &Toc, selection: &mut Selection) {
    for (place, entry) in toc.entries().iter().enumerate() {
        let attaches = matches!(desc(entry), b"TABLE ATTACH" | b"INDEX ATTACH");
        if attaches && selection.roles[place].is_some() {
            let restored =
                |id: &i32| toc.position(*id).is_some_and(|at| selection.roles[at].is_some());
            if !entry.dependencies().iter().all(restored) {
                selection.roles[place] = Some(Role::Attach);
            }
        }
    }
}

/// Whether an entry makes the index of this name: by itself, or for a constraint, which bears the
/// name of its table first.
fn is_index_named(entry: &Entry, name: &[u8]) -> bool {
    let tag = entry.tag().unwrap_or_default();
    match desc(entry) {
        b"CONSTRAINT" => tag.strip_suffix(name).is_some_and(|table| table.ends_with(b" ")),
        _ => tag == name,
    }
}

/// A part of a database that is to stand by itself.
pub(crate) struct ArchivePart {
    /// For each entry, whether it belongs to it.
    pub(crate) wanted: Vec<bool>,
    /// What it has besides what was chosen, because that needs it.
    pub(crate) also: Vec<String>,
    /// What it lacks although it belongs to what was chosen.
    pub(crate) skipped: Vec<Skipped>,
}

/// The entries of chosen schemas and tables with all that they need in an empty database, and what
/// an archive of the database has in any case: its encoding, and its own properties.
pub(crate) fn for_archive(
    toc: &Toc,
    database: &str,
    schemas: &[String],
    tables: &[String],
) -> Result<ArchivePart, RestoreError> {
    let mut chooser = Chooser::of(toc, database, schemas, tables)?;
    let mut selection = Selection { roles: Vec::new(), also: Vec::new(), skipped: Vec::new() };
    chooser.what_is_needed(&|_| false, &mut selection);
    chooser.what_follows();
    chooser.nothing_of_the_database();
    selection.roles = chooser.chosen_roles();
    without_missing_tables(toc, &|_| false, &mut selection);
    let session = |role: &Role| matches!(role, Role::Session | Role::Database);
    let wanted = selection.roles.iter().zip(&chooser.roles);
    let wanted = wanted.map(|(chosen, role)| chosen.is_some() || session(role)).collect();
    Ok(ArchivePart { wanted, also: selection.also, skipped: selection.skipped })
}

/// Leaves out what is not among the wanted parts.
fn by_parts(entries: &[Entry], options: &RestoreOptions, selection: &mut Selection) {
    if !options.definitions() {
        name_unfilled(entries, selection);
    }
    for (role, entry) in selection.roles.iter_mut().zip(entries) {
        let is_data = matches!(role, Some(Role::Data)) || is_large_object(entry);
        let refresh = matches!(role, Some(Role::Refresh));
        let wanted = match (options.definitions(), options.data()) {
            (true, true) => true,
            (true, false) => !is_data && !refresh,
            _ => is_data,
        };
        let wanted = wanted && (options.acls || !matches!(role, Some(Role::Acl)));
        if !wanted {
            *role = None;
        }
    }
}

/// Rows alone fill no materialised view; those that are not filled are named.
fn name_unfilled(entries: &[Entry], selection: &mut Selection) {
    for (place, entry) in entries.iter().enumerate() {
        if selection.roles[place].is_some() && desc(entry) == b"MATERIALIZED VIEW DATA" {
            let reason = "rows alone are restored, and it is not filled; REFRESH MATERIALIZED VIEW \
                          does that";
            selection.skip(place, entry, reason);
        }
    }
}

struct Chooser<'a> {
    toc: &'a Toc,
    database: &'a str,
    entries: &'a [Entry],
    roles: Vec<Role>,
    wanted: Vec<bool>,
    /// Tables that were chosen, not only needed: by dump id.
    tables: HashSet<i32>,
}

impl<'a> Chooser<'a> {
    /// Chooses these, and what belongs to them.
    fn of(
        toc: &'a Toc,
        database: &'a str,
        schemas: &[String],
        tables: &[String],
    ) -> Result<Self, RestoreError> {
        let entries = toc.entries();
        let wanted = vec![false; entries.len()];
        let (roles, chosen) = (roles_of(entries), HashSet::new());
        let mut chooser = Self { toc, database, entries, roles, wanted, tables: chosen };
        for schema in schemas {
            chooser.schema(schema)?;
        }
        for table in tables {
            chooser.table(table)?;
        }
        chooser.what_belongs();
        Ok(chooser)
    }

    fn chosen_roles(&self) -> Vec<Option<Role>> {
        let roles = self.roles.iter().zip(&self.wanted);
        roles.map(|(role, wanted)| wanted.then_some(*role)).collect()
    }

    fn schema(&mut self, schema: &str) -> Result<(), RestoreError> {
        let mut found = false;
        for (place, entry) in self.entries.iter().enumerate() {
            let in_it = entry.namespace() == Some(schema.as_bytes());
            let is_it = desc(entry) == b"SCHEMA" && entry.tag() == Some(schema.as_bytes());
            if in_it || is_it {
                found = true;
                self.wanted[place] = true;
                if RELATIONS.contains(&desc(entry)) {
                    self.tables.insert(entry.dump_id());
                    self.with_partitions(entry.dump_id());
                }
            }
        }
        if found {
            return Ok(());
        }
        let names = self.entries.iter().filter_map(|entry| entry.namespace());
        let names = names.filter(|name| !name.is_empty()).map(lossy);
        Err(self.no_such("schema", schema, names.collect()))
    }

    fn table(&mut self, wanted: &str) -> Result<(), RestoreError> {
        let is_it = |entry: &&Entry| {
            let tag = lossy(entry.tag().unwrap_or_default());
            let schema = lossy(entry.namespace().unwrap_or_default());
            RELATIONS.contains(&desc(entry))
                && (tag == wanted || format!("{schema}.{tag}") == wanted)
        };
        let found: Vec<&Entry> = self.entries.iter().filter(is_it).collect();
        match found.as_slice() {
            [one] => {
                self.tables.insert(one.dump_id());
                self.with_partitions(one.dump_id());
                Ok(())
            }
            [] => {
                let tables = self.entries.iter().filter(|entry| RELATIONS.contains(&desc(entry)));
                let names = tables.map(|entry| {
                    let (schema, tag) = (entry.namespace(), entry.tag());
                    format!(
                        "{}.{}",
                        lossy(schema.unwrap_or_default()),
                        lossy(tag.unwrap_or_default())
                    )
                });
                Err(self.no_such("table", wanted, names.collect()))
            }
            several => {
                let names: Vec<String> = several.iter().map(|entry| name_of(entry)).collect();
                Err(RestoreError::Options(format!(
                    "{wanted:?} can be {}; name the schema too",
                    names.join(" or ")
                )))
            }
        }
    }

    /// A partitioned table comes with all that is below it.
    fn with_partitions(&mut self, table: i32) {
        let mut open = vec![table];
        while let Some(parent) = open.pop() {
            for entry in self.entries.iter().filter(|entry| desc(entry) == b"TABLE ATTACH") {
                let [first, ..] = entry.dependencies() else { continue };
                let child = self.child_of(entry);
                let attaches = entry.dependencies().contains(&parent) && child != Some(parent);
                if let (true, Some(child), _) = (attaches, child, first)
                    && self.tables.insert(child)
                {
                    open.push(child);
                }
            }
        }
    }

    /// The partition that a TABLE ATTACH entry attaches: it bears its name.
    fn child_of(&self, attach: &Entry) -> Option<i32> {
        let same = |entry: &&Entry| {
            desc(entry) == b"TABLE"
                && entry.tag() == attach.tag()
                && entry.namespace() == attach.namespace()
        };
        let of = attach.dependencies().iter();
        of.filter_map(|id| self.toc.get(*id)).find(same).map(Entry::dump_id)
    }

    fn no_such(&self, kind: &'static str, name: &str, mut near: Vec<String>) -> RestoreError {
        near.sort();
        near.dedup();
        near.sort_by_key(|one| {
            let bare = one.rsplit('.').next().unwrap_or(one);
            strsim::damerau_levenshtein(one, name).min(strsim::damerau_levenshtein(bare, name))
        });
        let place = format!("database {:?}", self.database);
        RestoreError::NoSuchObject { place, kind, name: name.to_owned(), near }
    }

    /// Adds what belongs to the chosen tables, and comments and rights of all that is chosen.
    fn what_belongs(&mut self) {
        let sequences = self.owned_sequences();
        for (place, entry) in self.entries.iter().enumerate() {
            let id = entry.dump_id();
            if self.tables.contains(&id)
                || sequences.contains(&id)
                || self.is_of_a_table(entry, &sequences)
            {
                self.wanted[place] = true;
            }
        }
        self.what_follows();
        self.nothing_of_the_database();
    }

    /// Comments, labels and rights of what is wanted; they come after it.
    fn what_follows(&mut self) {
        let mut ids: HashSet<i32> = self
            .entries
            .iter()
            .zip(&self.wanted)
            .filter(|(_, wanted)| **wanted)
            .map(|(entry, _)| entry.dump_id())
            .collect();
        for (place, entry) in self.entries.iter().enumerate() {
            let follows = matches!(desc(entry), b"COMMENT" | b"SECURITY LABEL" | b"ACL");
            let of = entry.dependencies().first();
            if follows && of.is_some_and(|of| ids.contains(of)) {
                self.wanted[place] = true;
                ids.insert(entry.dump_id());
            }
        }
    }

    fn nothing_of_the_database(&mut self) {
        for (place, role) in self.roles.iter().enumerate() {
            if matches!(role, Role::Session | Role::Database | Role::EventTrigger) {
                self.wanted[place] = false;
            }
        }
    }

    /// Sequences that belong to a column of a chosen table: of an identity, or owned.
    fn owned_sequences(&self) -> HashSet<i32> {
        let mut sequences = HashSet::new();
        for entry in self.entries {
            let depends = entry.dependencies().iter().any(|id| self.tables.contains(id));
            match desc(entry) {
                b"SEQUENCE" if depends => {
                    sequences.insert(entry.dump_id());
                }
                b"SEQUENCE OWNED BY" if depends => {
                    let of = entry.dependencies().iter();
                    sequences.extend(of.copied().filter(|id| {
                        self.toc.get(*id).is_some_and(|one| desc(one) == b"SEQUENCE")
                    }));
                }
                _ => {}
            }
        }
        sequences
    }

    fn is_of_a_table(&self, entry: &Entry, sequences: &HashSet<i32>) -> bool {
        let kind = desc(entry);
        let mut of = entry
            .dependencies()
            .iter()
            .filter(|id| self.tables.contains(id) || sequences.contains(id));
        if kind == b"TABLE ATTACH" {
            return self.child_of(entry).is_some_and(|child| self.tables.contains(&child));
        }
        if kind == b"INDEX ATTACH" {
            // It depends on two indexes; both tables are needed, and that is looked at later.
            return entry.dependencies().iter().any(|id| {
                self.toc.get(*id).is_some_and(|index| {
                    is_index_named(index, entry.tag().unwrap_or_default())
                        && index.dependencies().iter().any(|t| self.tables.contains(t))
                })
            });
        }
        if ON_A_TABLE.contains(&kind) {
            return of.next().is_some();
        }
        // `child fk_name`: a foreign key depends on the table that it points to as well.
        OF_A_TABLE.contains(&kind)
            && of.any(|id| {
                self.toc.get(*id).is_some_and(|table| {
                    let prefix = [table.tag().unwrap_or_default(), b" "].concat();
                    table.namespace() == entry.namespace()
                        && entry.tag().unwrap_or_default().starts_with(&prefix)
                })
            })
    }

    /// Adds definitions that the wanted entries need and the target lacks.
    fn what_is_needed(&mut self, has: &dyn Fn(&Entry) -> bool, selection: &mut Selection) {
        let by_id: HashMap<i32, usize> = self
            .entries
            .iter()
            .enumerate()
            .map(|(place, entry)| (entry.dump_id(), place))
            .collect();
        let wanted = self.wanted.iter().enumerate().filter(|(_, wanted)| **wanted);
        let mut open: Vec<usize> = wanted.map(|(place, _)| place).collect();
        let mut seen: HashSet<usize> = open.iter().copied().collect();
        let mut needed_sequences = HashSet::new();
        while let Some(place) = open.pop() {
            let entry = &self.entries[place];
            let mut needs: Vec<usize> =
                entry.dependencies().iter().filter_map(|id| by_id.get(id).copied()).collect();
            needs.extend(self.schema_of(entry));
            for need in needs {
                let other = &self.entries[need];
                let definition = self.roles[need] == Role::Definition;
                let table = desc(other) == b"TABLE" && self.roles[place] != Role::Definition;
                if !definition || table || !seen.insert(need) || has(other) {
                    continue;
                }
                self.wanted[need] = true;
                selection.also.push(format!("{}, for {}", name_of(other), name_of(entry)));
                open.push(need);
                if desc(other) == b"SEQUENCE" {
                    needed_sequences.insert(other.dump_id());
                }
                if desc(other) == b"MATERIALIZED VIEW" {
                    self.fill(other);
                }
            }
        }
        // From its beginning it would give numbers that rows have already.
        for (place, entry) in self.entries.iter().enumerate() {
            let of_one = || entry.dependencies().iter().any(|id| needed_sequences.contains(id));
            if desc(entry) == b"SEQUENCE SET" && of_one() {
                self.wanted[place] = true;
            }
        }
    }

    /// Another materialised view can't be filled from one that is not.
    fn fill(&mut self, view: &Entry) {
        for (place, entry) in self.entries.iter().enumerate() {
            let of_it = entry.tag() == view.tag() && entry.namespace() == view.namespace();
            if desc(entry) == b"MATERIALIZED VIEW DATA" && of_it {
                self.wanted[place] = true;
            }
        }
    }

    fn schema_of(&self, entry: &Entry) -> Option<usize> {
        let schema = entry.namespace().filter(|schema| !schema.is_empty())?;
        self.entries.iter().position(|one| desc(one) == b"SCHEMA" && one.tag() == Some(schema))
    }
}

/// Leaves out what hangs on a table that is neither restored nor there: a foreign key into it, or
/// a partition's place in it.
fn without_missing_tables(toc: &Toc, has: &dyn Fn(&Entry) -> bool, selection: &mut Selection) {
    for (place, entry) in toc.entries().iter().enumerate() {
        if selection.roles[place].is_none() {
            continue;
        }
        let missing = entry.dependencies().iter().find_map(|id| {
            let other_place = toc.position(*id)?;
            let other = &toc.entries()[other_place];
            let counts = RELATIONS.contains(&desc(other))
                || matches!(desc(other), b"PUBLICATION" | b"INDEX" | b"CONSTRAINT");
            let there = selection.roles[other_place].is_some() || has(other);
            (counts && !there).then_some(other)
        });
        if let Some(missing) = missing {
            let reason =
                format!("it needs {}, which is neither chosen nor there", name_of(missing));
            selection.skip(place, entry, reason);
        }
    }
}
