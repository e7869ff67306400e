//! Whether the target is fit, looked at before anything is changed.

use std::collections::{BTreeSet, HashSet};

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy as pg;
use flexkeep_vault::manifest::Manifest;

use super::choose::Item;
use super::error::RestoreError;
use super::existing;
use super::options::RestoreOptions;
use super::parts::{Role, desc, is_large_object, name_of};
use super::report::DatabaseAction;
use super::sql::statements;
use super::target::{Db, Target, TargetFacts, lossy, text};
use crate::check::{CheckReport, Severity, size};
use crate::error::some;

/// Extensions that the platform puts into databases itself and lets nobody make.
const PLATFORM_EXTENSIONS: [&[u8]; 3] = [b"azure", b"pgaadauth", b"pg_availability"];

/// Extensions whose library the server must load at its start, or they cannot be made or used.
const PRELOADED: [&str; 7] =
    ["pg_cron", "timescaledb", "pgaudit", "pg_partman_bgw", "pglogical", "pg_squeeze", "age"];

/// Connections of a restore besides its lanes.
const OTHER_CONNECTIONS: u64 = 3;

/// Looks at the server as a whole.
pub(super) fn server(
    manifest: &Manifest,
    target: &Target,
    facts: &TargetFacts,
    db: &mut Db,
    lanes: usize,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    const SUBJECT: &str = "server";
    let role = if facts.superuser { "a superuser" } else { "not a superuser" };
    let kind = if facts.flexible_server { " (Flexible Server)" } else { "" };
    report.add(
        Severity::Ok,
        SUBJECT,
        format!(
            "{}: PostgreSQL {}{kind}; the role {:?} is {role}",
            target.config.describe(),
            facts.version,
            lossy(&facts.user)
        ),
    );
    let source = manifest.source.version_num / 10_000;
    if facts.major() < source {
        report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            format!(
                "the target is PostgreSQL {}, older than the source, which was {source}",
                facts.major()
            ),
            format!(
                "restore into PostgreSQL {source} or newer; or export the backup with --pg-restore {} \
                 and work the archive over by hand",
                facts.major()
            ),
        );
    }
    if facts.standby {
        report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            "the target is a standby, which takes no writes",
            "name the primary",
        );
    }
    let free = db.value(
        "asking for free connections",
        "SELECT pg_catalog.current_setting('max_connections')::bigint \
         - pg_catalog.current_setting('superuser_reserved_connections')::bigint \
         - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
            WHERE backend_type = 'client backend')",
    )?;
    let needed = lanes as u64 + OTHER_CONNECTIONS;
    if free.parse::<i64>().is_ok_and(|free| free < needed.cast_signed()) {
        report.add_with_way_out(
            Severity::Error,
            SUBJECT,
            format!("it has {free} connections free, and {needed} are needed"),
            "end other sessions, or use fewer --lanes",
        );
    }
    Ok(())
}

/// Whether there is room, where that can be known: on a server of this machine whose folder may be
/// read.
pub(super) fn room(
    target: &Target,
    facts: &TargetFacts,
    db: &mut Db,
    needed: u64,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    const SUBJECT: &str = "room";
    let host = target.config.host();
    let local =
        host.is_empty() || host.starts_with('/') || host == "localhost" || host == "127.0.0.1";
    let mut free = None;
    if local && facts.superuser {
        let folder = db.value(
            "asking for the data folder",
            "SELECT pg_catalog.current_setting('data_directory')",
        )?;
        // Another machine's server behind a tunnel has no such folder here.
        if std::path::Path::new(&folder).join("PG_VERSION").exists() {
            free = rustix::fs::statvfs(&folder).ok().map(|stat| stat.f_bavail * stat.f_frsize);
        }
    }
    match free {
        // Long values are compressed in tables; indexes come to the rows.
        Some(free) if free < needed.saturating_mul(2) => report.add_with_way_out(
            if free < needed / 4 { Severity::Error } else { Severity::Warning },
            SUBJECT,
            format!("{} are free for {} of rows, and their indexes", size(free), size(needed)),
            "make room, or restore less at a time",
        ),
        Some(free) => {
            let what =
                format!("{} are free for {} of rows, and their indexes", size(free), size(needed));
            report.add(Severity::Ok, SUBJECT, what);
        }
        None => {
            let what = format!(
                "the free room of the server is not known; the rows are {}, and indexes come to them",
                size(needed)
            );
            report.add(Severity::Note, SUBJECT, what);
        }
    }
    Ok(())
}

/// Takes out of a selection what the target is known to refuse and has in another way, each with
/// the reason.
pub(super) fn leave_out(item: &mut Item<'_>, facts: &TargetFacts) {
    let entries = item.parts.entries();
    for (place, entry) in entries.iter().enumerate() {
        if item.selection.roles[place].is_none() {
            continue;
        }
        let tag = entry.tag().unwrap_or_default();
        let reason = if facts.flexible_server && is_platform_extension(entry) {
            "the platform makes this extension itself"
        } else if !facts.superuser && tag.starts_with(b"EXTENSION ") && desc(entry) == b"COMMENT" {
            "the comment comes with the extension, and only its owner may set it"
        } else if !facts.superuser && is_acl_of_system(entry) {
            "rights on what belongs to the system are given by a superuser only"
        } else if facts.flexible_server && item.name == "postgres" && is_about_database(item, place)
        {
            "this database is the platform's"
        } else {
            continue;
        };
        item.selection.skip(place, entry, reason);
    }
    if item.fresh {
        return;
    }
    for (place, entry) in entries.iter().enumerate() {
        let Some(role) = item.selection.roles[place] else { continue };
        if role == Role::Database {
            item.selection.roles[place] = None;
            if desc(entry) != b"DATABASE" {
                let object = name_of(entry);
                let reason = "the database is not new, and stays as it is".to_owned();
                item.selection.skipped.push(super::report::Skipped { object, reason });
            }
        } else if is_of_present_schema(entry, item) {
            let reason = "the schema is there already, and stays as it is";
            item.selection.skip(place, entry, reason);
        }
    }
}

fn is_about_database(item: &Item<'_>, place: usize) -> bool {
    item.selection.roles[place] == Some(Role::Database)
}

fn is_platform_extension(entry: &Entry) -> bool {
    let tag = entry.tag().unwrap_or_default();
    let name = tag.strip_prefix(b"EXTENSION ").unwrap_or(tag);
    let about = desc(entry) == b"EXTENSION" || tag.starts_with(b"EXTENSION ");
    about && PLATFORM_EXTENSIONS.contains(&name)
}

fn is_acl_of_system(entry: &Entry) -> bool {
    let system: [&[u8]; 2] = [b"pg_catalog", b"information_schema"];
    let in_it = entry.namespace().is_some_and(|schema| system.contains(&schema));
    let tag = entry.tag().unwrap_or_default();
    let of_it = matches!(tag, b"SCHEMA pg_catalog" | b"SCHEMA information_schema");
    let language = matches!(tag, b"LANGUAGE sql" | b"LANGUAGE plpgsql");
    desc(entry).starts_with(b"ACL") && (in_it || of_it || language)
}

/// Whether an entry is a schema that the target has, or its comment or rights.
fn is_of_present_schema(entry: &Entry, item: &Item<'_>) -> bool {
    let tag = entry.tag().unwrap_or_default();
    let name = match desc(entry) {
        b"SCHEMA" => tag,
        b"COMMENT" | b"ACL" | b"SECURITY LABEL" => match tag.strip_prefix(b"SCHEMA ") {
            Some(name) => name,
            None => return false,
        },
        _ => return false,
    };
    // One that this restore has made, before it was interrupted, is not somebody else's.
    let made = item.parts.entries().iter().any(|one| {
        desc(one) == b"SCHEMA" && one.tag() == Some(name) && item.done.has(one.dump_id(), 0)
    });
    item.present.schemas.contains(name) && !made
}

/// Looks at one database: what is in the way, extensions, locale, rights, tablespaces.
pub(super) fn database(
    item: &mut Item<'_>,
    options: &RestoreOptions,
    target: &Target,
    facts: &TargetFacts,
    maintenance: &mut Db,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let subject = format!("database {:?}", item.name);
    if item.action.creates() {
        rights_to_create(item, facts, maintenance, &subject, report)?;
        locale(item, facts, maintenance, &subject, report)?;
        extensions(item, facts, maintenance, &subject, report)?;
    } else if item.action != DatabaseAction::Finished {
        let mut db = target.open(&item.name)?;
        db.prepare(Some(&item.parts.summary.encoding), target.stall)?;
        extensions(item, facts, &mut db, &subject, report)?;
        if !item.has_journal && is_nothing(item) && !existing::may_create(item, &mut db)? {
            item.action = DatabaseAction::Finished;
            report.add(Severity::Note, &subject, "the backup has nothing for it");
        } else if !item.has_journal {
            existing::look(item, options, facts, &mut db, &subject, report)?;
        }
    }
    tablespaces(item, facts, &subject, report);
    Ok(())
}

/// Whether nothing in the database is restored.
fn is_nothing(item: &Item<'_>) -> bool {
    let counts = |role: &Option<Role>| {
        role.is_some_and(|role| !matches!(role, Role::Session | Role::Database))
    };
    !item.selection.roles.iter().any(counts)
}

fn rights_to_create(
    item: &Item<'_>,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    if !facts.create_database {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("it must be made, and {:?} may make no database", lossy(&facts.user)),
            "give it CREATEDB; or make the database by hand and restore into it (--into-existing)",
        );
    }
    if item.action == DatabaseAction::Replace {
        may_be_dropped(item, facts, db, subject, report)?;
    }
    Ok(())
}

/// Whether the database that is to be replaced can be dropped.
fn may_be_dropped(
    item: &Item<'_>,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let name = pg::quote_literal(&item.name);
    let owns = db.is_true(
        "asking for the database's owner",
        &format!(
            "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database \
             WHERE datname = {name}"
        ),
    )?;
    if !owns {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("{:?} may not drop it", lossy(&facts.user)),
            "only its owner may; restore under another name (--as)",
        );
    }
    let sessions = db.value(
        "asking for sessions in the database",
        &format!(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
             WHERE datname = {name} AND pid <> pg_catalog.pg_backend_pid() \
             AND application_name NOT IN ('flexkeep restore', 'flexkeep restore, looking')"
        ),
    )?;
    if sessions != "0" {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("{sessions} other sessions use it, and it cannot be dropped"),
            "end them first",
        );
    }
    let holds = db.rows(
        "asking for what keeps the database from being dropped",
        format!(
            "SELECT pg_catalog.format('subscription %I', s.subname) \
             FROM pg_catalog.pg_subscription s \
             JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = {name} \
             UNION ALL SELECT pg_catalog.format('replication slot %I', slot_name) \
             FROM pg_catalog.pg_replication_slots WHERE database = {name} \
             UNION ALL SELECT pg_catalog.format('prepared transaction %L', gid) \
             FROM pg_catalog.pg_prepared_xacts WHERE database = {name}"
        ),
    )?;
    if !holds.is_empty() {
        let names: Vec<String> = holds.iter().map(|row| text(row, 0)).collect();
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("it cannot be dropped while it has these: {}", some(&names)),
            "drop them first (a subscription after ALTER SUBSCRIPTION ... SET (slot_name = NONE), \
             if its slot must stay); or restore under another name (--as)",
        );
    }
    Ok(())
}

/// Whether the server has the locale provider, and the locale as far as it can tell.
fn locale(
    item: &Item<'_>,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    let entries = item.parts.entries();
    let Some(entry) = entries.iter().find(|entry| desc(entry) == b"DATABASE") else {
        return Ok(());
    };
    let all = statements(entry.defn().unwrap_or_default())?;
    let Some(create) = all.first() else { return Ok(()) };
    let setting = |word: &str| {
        let at = create.tokens.iter().position(|token| token.is(word))?;
        let value = lossy(create.tokens.get(at + 2)?.text);
        Some(value.trim_matches('\'').to_owned())
    };
    let provider = setting("LOCALE_PROVIDER").unwrap_or_else(|| "libc".to_owned());
    if provider == "builtin" && facts.major() < 17 {
        report.add(
            Severity::Error,
            subject,
            "it uses the builtin locale provider, which came with 17",
        );
    }
    if provider == "icu"
        && !db.is_true(
            "asking for ICU",
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_collation WHERE collprovider = 'i')",
        )?
    {
        report.add_with_way_out(
            Severity::Error,
            subject,
            "it uses ICU locales, and the target has none",
            "make the database by hand with another locale, and restore into it (--into-existing)",
        );
    }
    for word in ["LOCALE", "LC_COLLATE", "LC_CTYPE"] {
        let Some(name) = setting(word).filter(|_| provider == "libc") else { continue };
        let known = db.is_true(
            "asking for locales",
            &format!(
                "SELECT {0} IN ('C', 'POSIX') OR EXISTS (SELECT FROM pg_catalog.pg_collation c \
                 WHERE c.collprovider = 'c' AND pg_catalog.lower(pg_catalog.replace(c.collcollate, '-', '')) \
                 = pg_catalog.lower(pg_catalog.replace({0}, '-', ''))) OR EXISTS \
                 (SELECT FROM pg_catalog.pg_database d WHERE d.datcollate = {0} OR d.datctype = {0})",
                pg::quote_literal(&name)
            ),
        )?;
        if !known {
            report.add_with_way_out(
                Severity::Warning,
                subject,
                format!("the target does not list its locale {name}, and may refuse it"),
                "install the locale; or make the database by hand with another one, and restore \
                 into it (--into-existing)",
            );
        }
    }
    Ok(())
}

fn extensions(
    item: &Item<'_>,
    facts: &TargetFacts,
    db: &mut Db,
    subject: &str,
    report: &mut CheckReport,
) -> Result<(), RestoreError> {
    const DOING: &str = "asking for extensions";
    let wanted: Vec<String> = item
        .selection
        .places(&[Role::Definition])
        .into_iter()
        .map(|place| &item.parts.entries()[place])
        .filter(|entry| desc(entry) == b"EXTENSION" && !item.present.has_extension(entry))
        .map(|entry| lossy(entry.tag().unwrap_or_default()))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let available = db.set(DOING, "SELECT name FROM pg_catalog.pg_available_extensions")?;
    let setting =
        |name: &str| format!("SELECT coalesce(pg_catalog.current_setting('{name}', true), '')");
    let list = |text: String| -> HashSet<String> {
        text.split(',')
            .map(|word| word.trim().to_lowercase())
            .filter(|word| !word.is_empty())
            .collect()
    };
    let allowed = list(db.value(DOING, &setting("azure.extensions"))?);
    // Who may not see the setting can't be told.
    let loaded = db.value(DOING, &setting("shared_preload_libraries")).map(list).ok();
    let allowed = facts.flexible_server.then_some(&allowed);
    lacking_and_barred(&wanted, &available, allowed, subject, report);
    for name in wanted.iter().filter(|name| PRELOADED.contains(&name.as_str())) {
        if loaded.as_ref().is_some_and(|loaded| !loaded.contains(name)) {
            report.add_with_way_out(
                Severity::Warning,
                subject,
                format!("extension {name} needs its library in shared_preload_libraries, where it is not"),
                "add it to that server parameter and restart the server",
            );
        }
    }
    Ok(())
}

/// Whether the server has the extensions, and allows them.
fn lacking_and_barred(
    wanted: &[String],
    available: &HashSet<Vec<u8>>,
    allowed: Option<&HashSet<String>>,
    subject: &str,
    report: &mut CheckReport,
) {
    let lacking: Vec<String> =
        wanted.iter().filter(|name| !available.contains(name.as_bytes())).cloned().collect();
    if !lacking.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!("the target does not have these extensions: {}", some(&lacking)),
            "install them on the server",
        );
    }
    let is_barred = |name: &&String| {
        let barred = allowed.is_some_and(|allowed| !allowed.contains(&name.to_lowercase()));
        barred && !lacking.contains(name)
    };
    let barred: Vec<String> = wanted.iter().filter(is_barred).cloned().collect();
    if !barred.is_empty() {
        report.add_with_way_out(
            Severity::Error,
            subject,
            format!(
                "the server parameter azure.extensions does not allow these extensions: {}",
                some(&barred)
            ),
            "add them to that parameter",
        );
    }
}

fn tablespaces(item: &Item<'_>, facts: &TargetFacts, subject: &str, report: &mut CheckReport) {
    let entries = item.parts.entries().iter().zip(&item.selection.roles);
    let missing: BTreeSet<String> = entries
        .filter(|(entry, role)| role.is_some() && !is_large_object(entry))
        .filter_map(|(entry, _)| entry.tablespace())
        .filter(|space| !space.is_empty() && !facts.tablespaces.contains(*space))
        .map(lossy)
        .collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.into_iter().collect();
        report.add_with_way_out(
            Severity::Warning,
            subject,
            format!(
                "the target has no tablespace {}; what was there goes into the default one",
                some(&names)
            ),
            "make the tablespaces first if that matters",
        );
    }
}
