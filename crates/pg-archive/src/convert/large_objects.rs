//! Taking apart the groups of large objects that version 1.16 has.
//!
//! `pg_dump` 17 puts up to 1000 objects with the same owner and ACL into one `BLOB METADATA`
//! entry, whose definition is a list of oids, and gives them one ACL entry. Earlier ones have a
//! `BLOB` entry and an ACL entry per object.

use std::collections::HashMap;

use super::ConvertError;
use crate::entry::{Entry, EntryFields, Section};
use crate::read::parse_decimal;

/// Far above what `pg_dump` puts into a group; it keeps a hostile archive from growing without
/// bound.
const MAX_GROUP: usize = 10_000;
/// The same for the ACLs of all objects together, in bytes.
const MAX_ACL_BYTES: usize = 256 << 20;

const SUBJECT: &[u8] = b"LARGE OBJECT ";

/// One `BLOB METADATA` entry and what belongs to it.
struct Group {
    place: usize,
    oids: Vec<u32>,
    /// The ACL entries for the whole group.
    shared: Vec<usize>,
    /// The comments, labels and ACLs of single objects.
    own: HashMap<u32, Vec<usize>>,
}

/// Replaces each group by one `BLOB` entry per object at the end of the pre-data section, each
/// followed by its comments and ACL.
pub(super) fn ungroup(entries: Vec<Entry>, first_new_id: i32) -> Result<Vec<Entry>, ConvertError> {
    let (groups, moved) = find_groups(&entries)?;
    if groups.is_empty() {
        return Ok(entries);
    }
    let mut expansion = Expansion { next_id: Some(first_new_id), acl_bytes: 0, out: Vec::new() };
    for group in &groups {
        expansion.add_group(&entries, group)?;
    }
    let is_data = |entry: &Entry| matches!(entry.section(), Section::Data | Section::PostData);
    let data_start = entries.iter().position(is_data).unwrap_or(entries.len());
    let mut expanded = Some(expansion.out);
    let mut out = Vec::with_capacity(entries.len() + expanded.as_ref().map_or(0, Vec::len));
    for (place, entry) in entries.into_iter().enumerate() {
        if place == data_start {
            out.extend(expanded.take().into_iter().flatten());
        }
        if !moved[place] {
            out.push(entry);
        }
    }
    Ok(out)
}

/// All groups, and for each entry whether it is part of one.
fn find_groups(entries: &[Entry]) -> Result<(Vec<Group>, Vec<bool>), ConvertError> {
    let mut groups = Vec::new();
    let mut by_id = HashMap::new();
    let mut moved = vec![false; entries.len()];
    for (place, entry) in entries.iter().enumerate() {
        if entry.desc() == Some(b"BLOB METADATA") {
            by_id.insert(entry.dump_id(), groups.len());
            let oids = parse_oids(entry)?;
            groups.push(Group { place, oids, shared: Vec::new(), own: HashMap::new() });
            moved[place] = true;
        }
    }
    for (place, entry) in entries.iter().enumerate() {
        let group = entry.dependencies().first().and_then(|id| by_id.get(id));
        let (Some(&group), Section::None) = (group, entry.section()) else { continue };
        let group = &mut groups[group];
        let tag = entry.tag().unwrap_or_default();
        if let Some(oid) = tag.strip_prefix(SUBJECT) {
            let oid = parse_decimal(oid).filter(|oid| group.oids.contains(oid));
            let oid = oid.ok_or_else(|| error(entry, "its tag names no object of its group"))?;
            group.own.entry(oid).or_default().push(place);
        } else if tag.starts_with(b"LARGE OBJECTS ") {
            group.shared.push(place);
        } else {
            return Err(error(entry, "its tag names neither one large object nor several"));
        }
        moved[place] = true;
    }
    Ok((groups, moved))
}

fn parse_oids(entry: &Entry) -> Result<Vec<u32>, ConvertError> {
    let list = entry.defn().unwrap_or_default();
    let list = list.strip_suffix(b"\n").unwrap_or(list);
    let mut oids = Vec::new();
    for line in list.split(|byte| *byte == b'\n') {
        // Creating an object with oid 0 would create one with some other oid.
        let oid = parse_decimal(line).filter(|oid| *oid != 0);
        let oid = oid.ok_or_else(|| error(entry, "its definition is not a list of oids"))?;
        if oids.len() == MAX_GROUP {
            return Err(error(entry, format!("it has more than {MAX_GROUP} objects")));
        }
        oids.push(oid);
    }
    Ok(oids)
}

struct Expansion {
    next_id: Option<i32>,
    acl_bytes: usize,
    out: Vec<Entry>,
}

impl Expansion {
    fn add_group(&mut self, entries: &[Entry], group: &Group) -> Result<(), ConvertError> {
        let metadata = &entries[group.place];
        for (index, &oid) in group.oids.iter().enumerate() {
            let first = index == 0;
            let dump_id = if first { metadata.dump_id() } else { self.new_id()? };
            self.add_object(metadata, dump_id, oid)?;
            for &place in group.own.get(&oid).into_iter().flatten() {
                let dependencies = depend_on(dump_id, &entries[place]);
                let fields = EntryFields { dependencies: &dependencies, ..entries[place].fields() };
                self.out.push(Entry::new(fields)?);
            }
            for &place in &group.shared {
                let acl = &entries[place];
                let id = if first { acl.dump_id() } else { self.new_id()? };
                self.add_acl(acl, id, depend_on(dump_id, acl), group.oids[0], oid)?;
            }
        }
        Ok(())
    }

    fn add_object(&mut self, metadata: &Entry, dump_id: i32, oid: u32) -> Result<(), ConvertError> {
        let tag = oid.to_string();
        let create = format!("SELECT pg_catalog.lo_create('{oid}');\n");
        let unlink = format!("SELECT pg_catalog.lo_unlink('{oid}');\n");
        let fields = EntryFields {
            dump_id,
            oid,
            tag: Some(tag.as_bytes()),
            desc: Some(b"BLOB"),
            section: Section::PreData,
            defn: Some(create.as_bytes()),
            drop_stmt: Some(unlink.as_bytes()),
            ..metadata.fields()
        };
        self.out.push(Entry::new(fields)?);
        Ok(())
    }

    fn add_acl(
        &mut self,
        acl: &Entry,
        dump_id: i32,
        dependencies: Vec<i32>,
        named: u32,
        oid: u32,
    ) -> Result<(), ConvertError> {
        let defn = rename_subject(acl.defn().unwrap_or_default(), named, oid)
            .ok_or_else(|| error(acl, "its commands do not name the group's first object"))?;
        self.acl_bytes += defn.len();
        if self.acl_bytes > MAX_ACL_BYTES {
            let reason = format!("the ACLs of all objects exceed {MAX_ACL_BYTES} bytes");
            return Err(error(acl, reason));
        }
        let tag = format!("LARGE OBJECT {oid}");
        let fields = EntryFields {
            dump_id,
            tag: Some(tag.as_bytes()),
            defn: Some(&defn),
            dependencies: &dependencies,
            ..acl.fields()
        };
        self.out.push(Entry::new(fields)?);
        Ok(())
    }

    fn new_id(&mut self) -> Result<i32, ConvertError> {
        let id = self.next_id.ok_or(ConvertError::OutOfIds)?;
        self.next_id = id.checked_add(1);
        Ok(id)
    }
}

/// The entry's dependencies with the object's id in the place of the group's.
fn depend_on(dump_id: i32, entry: &Entry) -> Vec<i32> {
    let mut dependencies = entry.dependencies().to_vec();
    dependencies[0] = dump_id;
    dependencies
}

/// GRANT and REVOKE commands for one large object as commands for another one. Role names, which
/// may hold anything, are in double quotes. `None` if a command is about an unexpected object.
fn rename_subject(commands: &[u8], from: u32, to: u32) -> Option<Vec<u8>> {
    let (from, to) = (from.to_string(), to.to_string());
    let mut out = Vec::with_capacity(commands.len() + 16);
    let mut quoted = false;
    let mut renamed = false;
    let mut at = 0;
    while at < commands.len() {
        let rest = &commands[at..];
        if let Some(subject) = rest.strip_prefix(SUBJECT).filter(|_| !quoted) {
            let after = subject.strip_prefix(from.as_bytes())?;
            if after.first().is_some_and(u8::is_ascii_digit) {
                return None;
            }
            out.extend_from_slice(SUBJECT);
            out.extend_from_slice(to.as_bytes());
            at = commands.len() - after.len();
            renamed = true;
        } else {
            quoted ^= rest[0] == b'"';
            out.push(rest[0]);
            at += 1;
        }
    }
    renamed.then_some(out)
}

fn error(entry: &Entry, reason: impl Into<String>) -> ConvertError {
    ConvertError::LargeObjects { dump_id: entry.dump_id(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(commands: &str) -> Option<String> {
        let out = rename_subject(commands.as_bytes(), 10, 7);
        out.map(|out| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn every_command_is_renamed_and_role_names_are_not() {
        let commands = "REVOKE ALL ON LARGE OBJECT 10 FROM me;\nSET SESSION AUTHORIZATION x;\n\
                        GRANT ALL ON LARGE OBJECT 10 TO \"a \"\" LARGE OBJECT 10 ;\";\n";
        let expected = "REVOKE ALL ON LARGE OBJECT 7 FROM me;\nSET SESSION AUTHORIZATION x;\n\
                        GRANT ALL ON LARGE OBJECT 7 TO \"a \"\" LARGE OBJECT 10 ;\";\n";
        assert_eq!(renamed(commands).as_deref(), Some(expected));
    }

    #[test]
    fn commands_about_another_object_are_refused() {
        assert_eq!(renamed("GRANT ALL ON LARGE OBJECT 11 TO x;\n"), None);
        assert_eq!(renamed("GRANT ALL ON LARGE OBJECT 100 TO x;\n"), None);
        assert_eq!(renamed("GRANT ALL ON TABLE t TO x;\n"), None);
        assert_eq!(renamed(""), None);
    }
}
