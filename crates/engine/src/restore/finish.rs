//! The database itself: making it, and what is done last.

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy::{self as pg, quote_ident};
use flexkeep_vault::ContentHash;

use super::choose::Item;
use super::dangling;
use super::error::RestoreError;
use super::journal;
use super::lanes::{server_words, shown, words_about};
use super::leftovers;
use super::options::RestoreOptions;
use super::parts::{Role, desc, name_of};
use super::report::{DatabaseAction, ObjectFailure};
use super::sql::{for_database, statements};
use super::statement::{Dialect, qualified};
use super::target::{Db, Target, TargetFacts, failed, ident, literal, lossy};

/// Waits until no restore is at work in a database that is there.
pub(super) fn wait_for_others(target: &Target, item: &Item<'_>) -> Result<(), RestoreError> {
    let mut db = target.open(&item.name)?;
    db.prepare(None, target.stall)?;
    leftovers::settle(&mut db)?;
    db.connection.close();
    Ok(())
}

/// Makes the database, and drops the one in its place where that was asked for.
pub(super) fn create_database(
    target: &Target,
    facts: &TargetFacts,
    item: &Item<'_>,
    changed: &mut bool,
) -> Result<(), RestoreError> {
    let mut db = target.open_any(std::slice::from_ref(&item.name))?;
    db.prepare(None, target.stall)?;
    db.name_at_work()?;
    let name = quote_ident(&item.name);
    let entry = item.parts.entries().iter().find(|entry| desc(entry) == b"DATABASE");
    let create = |name: &str| match entry {
        Some(entry) => create_statement(entry, name, facts),
        None => {
            let sql = format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(name));
            Ok(sql.into_bytes())
        }
    };
    // One that a killed restore made, see below.
    let beside = name_beside(&item.name);
    let drop_beside = format!("DROP DATABASE IF EXISTS {}", quote_ident(&beside));
    db.run("dropping what a killed restore made", &drop_beside)?;
    if item.action == DatabaseAction::Replace {
        // Sessions of a killed restore would be in the way; one that lives goes on.
        wait_for_others(target, item)?;
        // The server may refuse the new one, such as for its locale: before the old one is gone.
        make(&mut db, create(&beside)?, item)?;
        *changed = true;
        if let Err(error) =
            db.run("dropping the database", format!("DROP DATABASE IF EXISTS {name}"))
        {
            let dropped = db.run("dropping the new database", &drop_beside);
            *changed = dropped.is_err();
            return Err(error);
        }
        let rename = format!("ALTER DATABASE {} RENAME TO {name}", quote_ident(&beside));
        return db.run("naming the database", rename);
    }
    make(&mut db, create(&item.name)?, item)?;
    *changed = true;
    Ok(())
}

fn make(db: &mut Db, sql: Vec<u8>, item: &Item<'_>) -> Result<(), RestoreError> {
    db.connection.execute(sql).map_err(|error| {
        // It was not there a moment ago. Perhaps the session of a killed restore was still making it
        // (then the catalog's index refuses the second one): whoever looks again finds that it is
        // there and empty.
        if matches!(error.sqlstate(), Some("42P04" | "23505")) {
            return RestoreError::Busy { database: item.name.clone() };
        }
        failed("making the database", &item.name, error)
    })
}

/// What a new database is called until the one that it replaces is gone.
fn name_beside(name: &str) -> String {
    let hash = ContentHash::of(name.as_bytes()).to_string();
    format!("flexkeep_new_{}", &hash[..16])
}

/// Gives a new database to its owner, as owners of what is in it may need its rights. A refusal is
/// told at the end, when this is done once more.
pub(super) fn give_to_owner(db: &mut Db, item: &Item<'_>) -> Result<(), RestoreError> {
    let entries = item.parts.entries();
    let place = entries.iter().position(|entry| desc(entry) == b"DATABASE");
    // One that a restore made before it was interrupted may not have its owner yet.
    let is_new = item.action.creates()
        || (item.has_journal
            && item.fresh
            && place.is_some_and(|place| item.selection.roles[place].is_some()));
    let owner = place.and_then(|place| entries[place].owner());
    if let Some(owner) = owner.filter(|owner| is_new && !owner.is_empty()) {
        let name = ident(item.name.as_bytes());
        let sql = [b"ALTER DATABASE ", &name[..], b" OWNER TO ", &ident(owner)[..]].concat();
        if let Err(error) = db.connection.execute(sql)
            && error.server().is_none()
        {
            return Err(failed("making the database", &item.name, error));
        }
    }
    Ok(())
}

/// The first server that knows `LOCALE_PROVIDER`, which newer versions of pg_dump write always.
const KNOWS_PROVIDERS: u32 = 15;

/// The backup's own CREATE DATABASE, under the new name, and without what the target does not have:
/// a tablespace, or the word for the only provider of locales that old servers know.
fn create_statement(
    entry: &Entry,
    name: &str,
    facts: &TargetFacts,
) -> Result<Vec<u8>, RestoreError> {
    let old = entry.tag().unwrap_or_default();
    let renamed = for_database(entry.defn().unwrap_or_default(), old, name.as_bytes())?;
    let Some(create) = renamed.into_iter().next() else {
        return Err(RestoreError::Internal("the backup has no CREATE DATABASE".to_owned()));
    };
    let all = statements(&create)?;
    let tokens = all.first().map(|one| one.tokens.as_slice()).unwrap_or_default();
    let mut kept = Vec::with_capacity(create.len());
    let mut from = 0;
    // Each option is a word, `=` and a value.
    for option in tokens.windows(3) {
        let missing_space = option[0].is("tablespace")
            && option[2].name().is_some_and(|name| !facts.tablespaces.contains(&name));
        let unknown_provider = option[0].is("locale_provider")
            && option[2].is("libc")
            && facts.major() < KNOWS_PROVIDERS;
        if missing_space || unknown_provider {
            kept.extend_from_slice(&create[from..option[0].at.start]);
            from = option[2].at.end;
        }
    }
    kept.extend_from_slice(&create[from..]);
    Ok(kept)
}

/// What is done when all databases are loaded.
pub(super) struct Finish<'a, 'i> {
    pub(super) item: &'a Item<'i>,
    pub(super) facts: &'a TargetFacts,
    pub(super) options: &'a RestoreOptions,
    pub(super) control: &'a mut Db,
    pub(super) failures: Vec<ObjectFailure>,
}

impl Finish<'_, '_> {
    pub(super) fn run(&mut self) -> Result<(), RestoreError> {
        if !self.options.definitions() {
            self.foreign_keys()?;
        }
        for place in self.item.selection.places(&[Role::Database]) {
            self.database_entry(&self.item.parts.entries()[place])?;
        }
        self.last_transaction()
    }

    /// Owner, settings, rights and comment of the database. To repeat them changes nothing.
    fn database_entry(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        let new = self.item.name.as_bytes();
        if desc(entry) == b"DATABASE" {
            let owner = entry.owner().filter(|owner| !owner.is_empty() && self.options.owners);
            if let Some(owner) = owner {
                let sql =
                    [b"ALTER DATABASE ", &ident(new)[..], b" OWNER TO ", &ident(owner)].concat();
                self.attempt(entry, &sql)?;
            }
            return Ok(());
        }
        if desc(entry) == b"ACL" && !self.options.acls {
            return Ok(());
        }
        let old = self.item.parts.summary.name.as_bytes();
        for sql in for_database(entry.defn().unwrap_or_default(), old, new)? {
            self.attempt(entry, &sql)?;
        }
        Ok(())
    }

    /// Runs one statement; what the server refuses is noted.
    fn attempt(&mut self, entry: &Entry, sql: &[u8]) -> Result<(), RestoreError> {
        match self.control.connection.execute(sql) {
            Ok(()) => Ok(()),
            Err(error) if error.server().is_some() && !error.is_transient() => {
                self.note(entry, &error, Some(sql));
                Ok(())
            }
            Err(error) => Err(failed("finishing the database", &self.item.name, error)),
        }
    }

    fn note(&mut self, entry: &Entry, error: &pg::Error, sql: Option<&[u8]>) {
        self.failures.push(ObjectFailure {
            object: name_of(entry),
            error: words_about(entry, error),
            sqlstate: error.sqlstate().map(str::to_owned),
            statement: sql.and_then(|sql| shown(entry, sql)),
        });
    }

    /// Event triggers, which would fire for everything else, and the end of the journal, together:
    /// until this is committed the restore can be continued.
    fn last_transaction(&mut self) -> Result<(), RestoreError> {
        const DOING: &str = "finishing the database";
        let begin = format!("BEGIN; SET LOCAL synchronous_commit = on; {}", journal::drop_sql());
        self.control.run(DOING, begin)?;
        let dialect = Dialect {
            owners: self.options.owners,
            superuser: self.facts.superuser,
            tablespaces: &self.facts.tablespaces,
        };
        for place in self.item.selection.places(&[Role::EventTrigger]) {
            let entry = &self.item.parts.entries()[place];
            self.control.run(DOING, "SAVEPOINT one")?;
            let made = dialect.statements(entry, None);
            let sql = [made.object, made.owner].concat();
            match self.control.connection.execute(&sql) {
                Ok(()) => self.control.run(DOING, "RELEASE SAVEPOINT one")?,
                Err(error) if error.server().is_some() => {
                    self.note(entry, &error, entry.defn());
                    self.control.run(DOING, "ROLLBACK TO SAVEPOINT one")?;
                }
                Err(error) => return Err(failed(DOING, &self.item.name, error)),
            }
        }
        self.control.run(DOING, "COMMIT")
    }

    /// Rows that were loaded without their foreign keys being looked at must not break them.
    fn foreign_keys(&mut self) -> Result<(), RestoreError> {
        let places = self.item.selection.places(&[Role::Data]);
        let entries = places.into_iter().map(|place| &self.item.parts.entries()[place]);
        let tables: Vec<Vec<u8>> = entries
            .filter(|entry| desc(entry) == b"TABLE DATA")
            .map(|entry| [&literal(&qualified(entry))[..], b"::pg_catalog.regclass"].concat())
            .collect();
        if tables.is_empty() {
            return Ok(());
        }
        let sql = dangling::questions_sql(&tables, self.facts.major());
        for row in &self.control.rows(dangling::DOING, sql)? {
            let cell = |at| row.get_bytes(at).unwrap_or_default();
            let sql = cell(2);
            let (error, sqlstate) = match self.control.connection.query(sql) {
                Ok(found) if found.first().and_then(|row| row.get(0)) == Some("t") => {
                    ("rows point to rows that are not there".to_owned(), None)
                }
                Ok(_) => continue,
                Err(error) if error.server().is_some() && !error.is_transient() => (
                    format!("it was not checked: {}", server_words(&error)),
                    error.sqlstate().map(str::to_owned),
                ),
                Err(error) => return Err(failed(dangling::DOING, &self.item.name, error)),
            };
            self.failures.push(ObjectFailure {
                object: format!("foreign key {} {}", lossy(cell(0)), lossy(cell(1))),
                error,
                sqlstate,
                statement: Some(lossy(sql)),
            });
        }
        Ok(())
    }
}
