//! Whether a contents list has the data of each entry of a table of contents.

use flexkeep_pg_archive::Toc;
use flexkeep_vault::contents::{Entry, EntryKind};

/// What of an entry of a contents list is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    dump_id: i32,
    kind: EntryKind,
    name: String,
    /// Whether its last row has an end.
    ended: bool,
}

impl Listed {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            dump_id: entry.dump_id,
            kind: entry.kind,
            name: entry_name(entry),
            ended: !entry.chunks.last().is_some_and(|chunk| chunk.continued),
        }
    }
}

/// `schema.name` of an entry, for people.
pub(crate) fn entry_name(entry: &Entry) -> String {
    match &entry.schema {
        Some(schema) => format!("{schema}.{}", entry.name),
        None => entry.name.clone(),
    }
}

/// Proves that `listed` has each entry with data of `toc` once, in its order, and each to its end.
///
/// # Errors
/// What does not fit, for people.
pub(crate) fn check_listed(toc: &Toc, listed: &[Listed]) -> Result<(), String> {
    let mut left = listed.iter();
    for entry in toc.entries().iter().filter(|entry| entry.had_dumper()) {
        let (id, blobs) = (entry.dump_id(), entry.desc() == Some(b"BLOBS"));
        let found = left.next();
        let fits = found.is_some_and(|found| {
            found.dump_id == id && (found.kind == EntryKind::LargeObjects) == blobs
        });
        if !fits {
            let tag = String::from_utf8_lossy(entry.tag().unwrap_or_default()).into_owned();
            return Err(format!(
                "the data of entry {id} ({tag}) is not where the contents list should have it"
            ));
        }
    }
    if let Some(extra) = left.next() {
        let Listed { dump_id, name, .. } = extra;
        return Err(format!(
            "the contents list has data of entry {dump_id} ({name}), which is none"
        ));
    }
    match listed.iter().find(|entry| !entry.ended) {
        Some(entry) => Err(format!("the data of {} has no end", entry.name)),
        None => Ok(()),
    }
}
