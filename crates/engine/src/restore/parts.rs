//! A database of the backup: its table of contents and the list of its data.

use std::collections::{BTreeMap, HashMap};

use flexkeep_pg_archive::{Entry, Limits, Section, Toc};
use flexkeep_vault::contents::{Entry as Data, EntryKind};
use flexkeep_vault::manifest::DatabaseSummary;
use flexkeep_vault::{Vault, VaultError, meta_name};

use super::error::RestoreError;
use super::target::lossy;
use crate::export::Damage;

/// One database of a backup.
pub(super) struct Parts<'a> {
    pub(super) summary: &'a DatabaseSummary,
    pub(super) toc: Toc,
    pub(super) data: Vec<Data>,
    /// From dump ids to places in `data`.
    data_of: HashMap<i32, usize>,
}

impl<'a> Parts<'a> {
    /// Reads both and proves that they fit each other.
    pub(super) fn read(vault: &Vault, summary: &'a DatabaseSummary) -> Result<Self, RestoreError> {
        let mut damage = Damage::default();
        let mut note =
            |object: &flexkeep_vault::manifest::ObjectRef, error: VaultError, what: &str| {
                if !error.is_damage() {
                    return Err(RestoreError::Vault(error));
                }
                let (name, database) = (meta_name(&object.hash), Some(summary.name.as_str()));
                damage.add(object.hash, name, &error, database, what.to_owned());
                Ok(())
            };
        let limits = Limits::default();
        let mut toc = None;
        match vault.get_meta(&summary.toc, limits.max_total_bytes) {
            Ok(raw) => {
                let read = Toc::read(&mut raw.as_slice(), &limits);
                let database = summary.name.clone();
                toc = Some(read.map_err(|source| RestoreError::Toc { database, source })?);
            }
            Err(error) => note(&summary.toc, error, "(table of contents)")?,
        }
        let mut data = Vec::new();
        if let Err(error) = vault.read_contents(&summary.contents, |entry| data.push(entry)) {
            note(&summary.contents, error, "(contents list)")?;
        }
        match toc {
            Some(toc) if damage.objects.is_empty() => Self::of(summary, toc, data),
            _ => Err(RestoreError::Damaged { objects: damage.objects, more: false }),
        }
    }

    fn of(summary: &'a DatabaseSummary, toc: Toc, data: Vec<Data>) -> Result<Self, RestoreError> {
        let wrong = |problem: String| {
            Err(RestoreError::Inconsistent { database: summary.name.clone(), problem })
        };
        let data_of: HashMap<i32, usize> =
            data.iter().enumerate().map(|(place, one)| (one.dump_id, place)).collect();
        if data_of.len() != data.len() {
            return wrong("the contents list has the data of an entry twice".to_owned());
        }
        let mut with_data = 0;
        for entry in toc.entries().iter().filter(|entry| entry.had_dumper()) {
            with_data += 1;
            let blobs = entry.desc() == Some(b"BLOBS");
            let found = data_of.get(&entry.dump_id()).map(|place| &data[*place]);
            if found.is_none_or(|found| (found.kind == EntryKind::LargeObjects) != blobs) {
                return wrong(format!("the contents list lacks the data of {}", name_of(entry)));
            }
            if !blobs && entry.copy_stmt().is_none() {
                return wrong(format!("{} has no COPY statement", name_of(entry)));
            }
        }
        if with_data != data.len() {
            return wrong("the contents list has data that belongs to no entry".to_owned());
        }
        let cut_off = |one: &&Data| one.chunks.last().is_some_and(|chunk| chunk.continued);
        if let Some(one) = data.iter().find(cut_off) {
            return wrong(format!("the data of {} has no end", data_name(one)));
        }
        Ok(Self { summary, toc, data, data_of })
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.toc.entries()
    }

    /// The data of an entry.
    pub(super) fn data_of(&self, entry: &Entry) -> Option<&Data> {
        self.data_of.get(&entry.dump_id()).map(|place| &self.data[*place])
    }
}

/// What an entry is in a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Settings of the session, made by this program itself.
    Session,
    /// The database itself, its properties, rights and comment.
    Database,
    /// A definition that rows need.
    Definition,
    /// Rows, large objects, positions of sequences.
    Data,
    /// What comes after rows.
    After,
    /// The place of a partition in a table that is there already; after all that.
    Attach,
    /// Policies and row security, and what belongs to them: after all foreign keys, which see every
    /// row then also where an owner is subject to the policies.
    RowSecurity,
    /// Rights; after all that.
    Acl,
    /// Materialised views are filled after that.
    Refresh,
    /// Event triggers and what belongs to them: last, as they would fire for everything else.
    EventTrigger,
}

/// What each entry of a table of contents is.
pub(super) fn roles_of(entries: &[Entry]) -> Vec<Role> {
    let by_id: HashMap<i32, &Entry> =
        entries.iter().map(|entry| (entry.dump_id(), entry)).collect();
    entries.iter().map(|entry| role_of(entry, &by_id)).collect()
}

fn role_of(entry: &Entry, by_id: &HashMap<i32, &Entry>) -> Role {
    let (desc, tag) = (desc(entry), entry.tag().unwrap_or_default());
    match desc {
        b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" => return Role::Session,
        b"DATABASE" | b"DATABASE PROPERTIES" => return Role::Database,
        b"ACL" | b"COMMENT" | b"SECURITY LABEL" if tag.starts_with(b"DATABASE ") => {
            return Role::Database;
        }
        b"EVENT TRIGGER" => return Role::EventTrigger,
        b"COMMENT" | b"SECURITY LABEL" if tag.starts_with(b"EVENT TRIGGER ") => {
            return Role::EventTrigger;
        }
        b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL" => return Role::Acl,
        b"MATERIALIZED VIEW DATA" => return Role::Refresh,
        b"POLICY" | b"ROW SECURITY" => return Role::RowSecurity,
        _ => {}
    }
    match entry.section() {
        Section::PreData => Role::Definition,
        Section::Data => Role::Data,
        // Statistics of indexes and materialised views.
        Section::PostData if desc == b"STATISTICS DATA" => Role::Refresh,
        Section::PostData => Role::After,
        // A comment or a label goes with its object.
        Section::None => {
            let of = entry.dependencies().first().and_then(|id| by_id.get(id));
            match of.map(|of| (self::desc(of), of.section())) {
                Some((b"POLICY", _)) => Role::RowSecurity,
                Some((_, Section::Data | Section::PostData)) => Role::After,
                _ => Role::Definition,
            }
        }
    }
}

/// Whether an entry is about large objects. They count as data, whatever their section.
pub(super) fn is_large_object(entry: &Entry) -> bool {
    let tag = entry.tag().unwrap_or_default();
    match desc(entry) {
        b"BLOB" | b"BLOBS" | b"BLOB METADATA" | b"BLOB COMMENTS" => true,
        b"ACL" | b"COMMENT" | b"SECURITY LABEL" => tag.starts_with(b"LARGE OBJECT"),
        _ => false,
    }
}

pub(super) fn desc(entry: &Entry) -> &[u8] {
    entry.desc().unwrap_or_default()
}

/// `index app.orders_customer`, for people.
pub(super) fn name_of(entry: &Entry) -> String {
    let kind = match entry.desc() {
        Some(b"TABLE DATA") => "rows of".to_owned(),
        Some(b"BLOBS") => "large objects".to_owned(),
        Some(desc) => lossy(desc).to_lowercase(),
        None => "entry".to_owned(),
    };
    let tag = lossy(entry.tag().unwrap_or_default());
    match entry.namespace() {
        Some(schema) if !schema.is_empty() => format!("{kind} {}.{tag}", lossy(schema)),
        _ => format!("{kind} {tag}"),
    }
}

/// Entries with rows of tables, by their COPY statements: rows that are loaded through the root of a
/// partitioning may go into any table that is loaded through the same root.
pub(super) fn by_target<'a>(
    entries: impl Iterator<Item = &'a Entry>,
) -> BTreeMap<&'a [u8], Vec<&'a Entry>> {
    let mut groups: BTreeMap<&[u8], Vec<&Entry>> = BTreeMap::new();
    for entry in entries.filter(|entry| desc(entry) == b"TABLE DATA") {
        groups.entry(entry.copy_stmt().unwrap_or_default()).or_default().push(entry);
    }
    groups
}

/// `schema.name` of data, for people.
pub(super) fn data_name(data: &Data) -> String {
    match &data.schema {
        Some(schema) => format!("{schema}.{}", data.name),
        None => data.name.clone(),
    }
}
