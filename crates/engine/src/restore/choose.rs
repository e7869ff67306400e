//! Which databases are restored under which names, and what happens to each.

use flexkeep_vault::Vault;
use flexkeep_vault::manifest::{DatabaseSummary, Manifest};

use super::error::RestoreError;
use super::journal::{self, Done, Identity, PART_BYTES};
use super::leftovers;
use super::options::{Existing, RestoreOptions};
use super::parts::Parts;
use super::present::Present;
use super::report::{DatabaseAction, Skipped};
use super::select::{self, Selection};
use super::target::{Target, TargetFacts};
use crate::check::{CheckReport, Severity};

/// The database that every server has.
const MAINTENANCE: &str = "postgres";

/// One database to restore.
pub(super) struct Item<'a> {
    pub(super) parts: Parts<'a>,
    /// Its name on the target.
    pub(super) name: String,
    pub(super) action: DatabaseAction,
    /// Whether the database counts as new: its properties are set, and nothing in it is in the way.
    pub(super) fresh: bool,
    /// Whether it has the journal of this restore.
    pub(super) has_journal: bool,
    /// What the journal says, as of now.
    pub(super) done: Done,
    pub(super) identity: Identity,
    pub(super) present: Present,
    pub(super) selection: Selection,
}

/// The chosen databases with their names on the target, in the backup's order.
pub(super) fn databases<'a>(
    manifest: &'a Manifest,
    options: &RestoreOptions,
) -> Result<Vec<(&'a DatabaseSummary, String)>, RestoreError> {
    let all = &manifest.databases;
    for choice in &options.databases {
        if !all.iter().any(|database| database.name == choice.name) {
            let mut near: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
            near.sort_by_key(|one| strsim::damerau_levenshtein(one, &choice.name));
            let place = format!("backup {}", manifest.backup);
            let (kind, name) = ("database", choice.name.clone());
            return Err(RestoreError::NoSuchObject { place, kind, name, near });
        }
    }
    let mut chosen: Vec<(&DatabaseSummary, String)> = Vec::new();
    for database in all {
        let wanted = options.databases.iter().filter(|choice| choice.name == database.name);
        if options.databases.is_empty() {
            chosen.push((database, database.name.clone()));
        }
        for choice in wanted {
            let name = choice.restored_as.as_ref().unwrap_or(&database.name);
            chosen.push((database, name.clone()));
        }
    }
    for (at, (_, name)) in chosen.iter().enumerate() {
        if chosen[..at].iter().any(|(_, other)| other == name) {
            let text = format!("two databases would be restored as {name:?}");
            return Err(RestoreError::Options(text));
        }
        if matches!(name.as_str(), "template0" | "template1") || name.is_empty() || name.len() > 63
        {
            let text = format!("no database can be restored as {name:?}; choose another name");
            return Err(RestoreError::Options(text));
        }
    }
    Ok(chosen)
}

/// Reads the parts of each database, and decides what happens to it.
pub(super) fn items<'a>(
    vault: &Vault,
    manifest: &'a Manifest,
    options: &RestoreOptions,
    target: &Target,
    facts: &TargetFacts,
    report: &mut CheckReport,
) -> Result<Vec<Item<'a>>, RestoreError> {
    let mut items = Vec::new();
    for (summary, name) in databases(manifest, options)? {
        let parts = Parts::read(vault, summary)?;
        let identity = identity(manifest, summary, options);
        let seen = look(target, facts, &name, &identity, &summary.encoding, options.resume)?;
        let mut item = Item {
            parts,
            name,
            action: DatabaseAction::Create,
            fresh: !seen.exists,
            has_journal: false,
            done: seen.done,
            identity,
            present: seen.present,
            selection: Selection { roles: Vec::new(), also: Vec::new(), skipped: Vec::new() },
        };
        decide(&mut item, seen.exists, seen.journal, options, report);
        if item.has_journal {
            item.fresh = seen.fresh.unwrap_or(item.fresh);
        }
        item.selection = if options.is_selective() {
            select::chosen(&item.parts, options, &item.present)?
        } else {
            select::everything(&item.parts, options)
        };
        without_journal(&mut item);
        items.push(item);
    }
    if options.resume {
        settle_finished(&mut items, options.existing, report);
    }
    Ok(items)
}

/// Leaves out the journal that the backup's source had of a restore.
fn without_journal(item: &mut Item<'_>) {
    let entries = item.parts.entries();
    let is_journal = journal::is_in_backup(entries);
    let mut found = false;
    for (role, entry) in item.selection.roles.iter_mut().zip(entries) {
        if role.is_some() && is_journal(entry) {
            (*role, found) = (None, true);
        }
    }
    if found {
        item.selection.skipped.push(Skipped {
            object: format!("schema {}", journal::SCHEMA),
            reason: "it is the journal of a restore that the source had not completed, so the \
                     backup may lack what that restore was to bring"
                .to_owned(),
        });
    }
}

fn identity(manifest: &Manifest, summary: &DatabaseSummary, options: &RestoreOptions) -> Identity {
    Identity {
        backup: manifest.backup.clone(),
        // In ASCII, as it is kept in a database of any encoding.
        database: summary.name.escape_default().to_string(),
        options: options.identity().escape_default().to_string(),
    }
}

/// Whether a chosen database has the journal of this restore.
pub(super) fn any_begun(
    manifest: &Manifest,
    options: &RestoreOptions,
    target: &Target,
    facts: &TargetFacts,
) -> Result<bool, RestoreError> {
    for (summary, name) in databases(manifest, options)? {
        if !facts.databases.contains(name.as_bytes()) {
            continue;
        }
        let mut db = target.open(&name)?;
        db.prepare(Some(&summary.encoding), target.stall)?;
        let identity = identity(manifest, summary, options);
        if journal::exists(&mut db)?
            && journal::head(&mut db)?.is_some_and(|head| head.identity == identity)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Seen {
    exists: bool,
    journal: Journal,
    done: Done,
    /// Whether our journal says that the database was new.
    fresh: Option<bool>,
    present: Present,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Journal {
    None,
    Ours,
    /// Of another restore, in words.
    Other(String),
}

fn look(
    target: &Target,
    facts: &TargetFacts,
    name: &str,
    identity: &Identity,
    encoding: &str,
    resume: bool,
) -> Result<Seen, RestoreError> {
    if !facts.databases.contains(name.as_bytes()) {
        let present = Present::nothing();
        let (journal, done) = (Journal::None, Done::default());
        return Ok(Seen { exists: false, journal, done, fresh: None, present });
    }
    let mut db = target.open(name)?;
    db.prepare(Some(encoding), target.stall)?;
    if resume {
        leftovers::settle(&mut db)?;
    }
    let (mut done, mut fresh) = (Done::default(), None);
    let journal = if journal::exists(&mut db)? {
        match journal::head(&mut db)? {
            Some(head) if head.identity == *identity && head.part_bytes == PART_BYTES => {
                done = journal::read(&mut db)?;
                fresh = Some(head.fresh);
                Journal::Ours
            }
            Some(head) => Journal::Other(format!(
                "of database {:?} of backup {} ({})",
                head.identity.database, head.identity.backup, head.identity.options
            )),
            None => Journal::Other("that cannot be read".to_owned()),
        }
    } else {
        Journal::None
    };
    let present = Present::ask(&mut db)?;
    Ok(Seen { exists: true, journal, done, fresh, present })
}

fn decide(
    item: &mut Item<'_>,
    exists: bool,
    journal: Journal,
    options: &RestoreOptions,
    report: &mut CheckReport,
) {
    let subject = format!("database {:?}", item.name);
    let mut refuse = |what: &str, way_out: &str| {
        report.add_with_way_out(Severity::Error, &subject, what, way_out);
    };
    let whole = !options.is_selective() && options.definitions();
    if let Journal::Other(whose) = &journal
        && !(options.existing == Existing::Clean && whole)
    {
        let what = format!("it has the journal of another restore, {whose}");
        refuse(
            &what,
            "continue that one with its own options, or give it up by dropping the schema flexkeep_restore",
        );
        return;
    }
    if options.resume {
        item.has_journal = journal == Journal::Ours;
        item.action = if exists { DatabaseAction::Continue } else { DatabaseAction::Create };
        item.fresh = whole && (!exists || options.existing != Existing::Keep);
        return;
    }
    if journal == Journal::Ours && !(options.existing == Existing::Clean && whole) {
        refuse(
            "a restore of it was interrupted",
            "continue it (--continue), or begin anew (--clean)",
        );
        return;
    }
    let is_free = item.name == MAINTENANCE && item.present.is_empty;
    if exists && whole && is_free && options.existing != Existing::Keep {
        (item.action, item.fresh) = (DatabaseAction::Use, true);
        return;
    }
    match action(&item.name, exists, whole, options) {
        Ok(action) => item.action = action,
        Err((what, way_out)) => {
            refuse(what, way_out);
            return;
        }
    }
    if item.action.creates() {
        item.fresh = true;
        item.present = Present::nothing();
    }
}

/// What happens to a database that no restore has begun; or why nothing can, and a way out.
fn action(
    name: &str,
    exists: bool,
    whole: bool,
    options: &RestoreOptions,
) -> Result<DatabaseAction, (&'static str, &'static str)> {
    match (options.existing, exists) {
        (_, false) if !options.definitions() => {
            Err(("it is not there, and rows alone need its tables", "restore the definitions too"))
        }
        (_, false) => Ok(DatabaseAction::Create),
        (Existing::Refuse, true) => Err((
            "it is there already",
            "restore it under another name (--as), into the one that is there \
             (--into-existing), or in its place (--clean)",
        )),
        (Existing::Keep, true) => Ok(DatabaseAction::Use),
        (Existing::Clean, true) if !whole => Ok(DatabaseAction::UseAndDrop),
        (Existing::Clean, true) if name == MAINTENANCE => Err((
            "it is not empty, and a server needs it",
            "restore it under another name (--as), or into it (--into-existing)",
        )),
        (Existing::Clean, true) => Ok(DatabaseAction::Replace),
    }
}

/// Databases are begun in order, and finished in order when all are loaded. So one that is there
/// without a journal was finished if none before it has a journal, and otherwise not begun.
fn settle_finished(items: &mut [Item<'_>], existing: Existing, report: &mut CheckReport) {
    let any = items.iter().any(|item| item.has_journal);
    let mut begun = false;
    for item in items.iter_mut() {
        begun |= item.has_journal;
        let exists = item.action == DatabaseAction::Continue;
        if !exists || item.has_journal || item.present.is_empty {
            continue;
        }
        let subject = format!("database {:?}", item.name);
        if !any {
            report.add_with_way_out(
                Severity::Error,
                &subject,
                "it has no journal of a restore: there is nothing to continue",
                "it was completed, or nothing of it was begun; begin anew to replace it (--clean)",
            );
        } else if !begun {
            item.action = DatabaseAction::Finished;
        } else if existing == Existing::Keep {
            (item.action, item.fresh) = (DatabaseAction::Use, false);
        } else if existing == Existing::Clean && item.name != MAINTENANCE {
            (item.action, item.fresh) = (DatabaseAction::Replace, true);
            item.present = Present::nothing();
        } else {
            report.add_with_way_out(
                Severity::Error,
                &subject,
                "it is there, and the restore had not come to it",
                "continue without it, by naming the others, and restore it by itself (--clean)",
            );
        }
    }
}
