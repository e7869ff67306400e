//! What a server is, which databases it has, and what of it can't be read.

use std::collections::BTreeSet;

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::manifest::{Extension, Loss, Source};
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::session::{self, number, text};

/// Databases that belong to the platform, not to the user.
const PLATFORM_DATABASES: [&str; 2] = ["azure_maintenance", "azure_sys"];

/// Templates that every server has from its beginning.
const INITIAL_TEMPLATES: [&str; 2] = ["template0", "template1"];

/// Most objects that a loss names; the count is exact in any case.
const OBJECTS_NAMED: usize = 100;

/// SQLSTATE of a missing right.
const NOT_PERMITTED: &str = "42501";

/// A connected server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServerFacts {
    pub(crate) source: Source,
    /// Whether the current role is a superuser.
    pub(crate) superuser: bool,
    /// Whether password hashes may be read.
    pub(crate) reads_passwords: bool,
    /// Whether it may be read which subscriptions there are.
    pub(crate) reads_subscriptions: bool,
}

/// Asks the server what it is.
pub(crate) fn facts(connection: &mut Connection) -> Result<ServerFacts, BackupError> {
    const QUERY: &str = "server facts";
    let version_num = connection.server_version_num();
    let rows = session::rows(
        connection,
        "",
        "asking the server for its version",
        "SELECT pg_catalog.current_setting('server_version'), \
         pg_catalog.pg_is_in_recovery()::int, \
         coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r \
                   WHERE r.rolname = current_user), false)::int, \
         pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')::int, \
         (EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'azure_pg_admin'))::int",
    )?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no server facts".to_owned()))?;
    let version = text(row, 0, QUERY)?.to_owned();
    let flag = |index| number::<u8>(row, index, QUERY).map(|value| value == 1);
    let reads_passwords = flag(3)? && can_read(connection, "pg_authid", "rolpassword")?;
    let reads_subscriptions = reads_subscriptions(connection)?;
    Ok(ServerFacts {
        source: Source {
            version,
            version_num,
            // Not every role may call it; it is for information only.
            system_identifier: connection
                .query("SELECT system_identifier FROM pg_catalog.pg_control_system()")
                .ok()
                .and_then(|rows| rows.first()?.get(0).map(str::to_owned)),
            standby: flag(1)?,
            flexible_server: flag(4)?,
            pg_dump: String::new(),
        },
        superuser: flag(2)?,
        reads_passwords,
        reads_subscriptions,
    })
}

/// Whether a catalog can really be read. To be asked outside of a transaction, which a refusal
/// would end. A managed server may refuse what the privileges allow:
/// `pg_read_all_data` covers catalogs too, and there it must not.
fn can_read(
    connection: &mut Connection,
    catalog: &str,
    columns: &str,
) -> Result<bool, BackupError> {
    let sql = format!("SELECT {columns} FROM pg_catalog.{catalog} LIMIT 1");
    match session::rows(connection, "", "asking what may be read", &sql) {
        Ok(_) => Ok(true),
        Err(BackupError::Server { source, .. }) if source.sqlstate() == Some(NOT_PERMITTED) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The databases to dump, and what is said about the others.
#[derive(Debug, Default)]
pub(crate) struct Databases {
    pub(crate) dump: Vec<Database>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) notes: Vec<String>,
}

/// A database to dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) oid: u32,
}

/// Lists the server's databases and decides about each.
pub(crate) fn databases(
    connection: &mut Connection,
    flexible_server: bool,
    exclude: &[String],
) -> Result<Databases, BackupError> {
    const QUERY: &str = "databases";
    let rows = session::rows(
        connection,
        "",
        "listing the databases",
        "SELECT d.datname, d.oid, d.datallowconn::int, d.datistemplate::int, \
         pg_catalog.has_database_privilege(d.oid, 'CONNECT')::int, d.datconnlimit \
         FROM pg_catalog.pg_database d ORDER BY d.datname",
    )?;
    let mut all = Databases::default();
    let mut unknown: Vec<&String> = exclude.iter().collect();
    for row in &rows {
        let raw_name = session::bytes(row, 0, QUERY)?;
        let name = session::lossy(&raw_name);
        let oid = number(row, 1, QUERY)?;
        let flag = |index| number::<u8>(row, index, QUERY).map(|value| value == 1);
        unknown.retain(|excluded| **excluded != name);
        if flag(3)? {
            if !INITIAL_TEMPLATES.contains(&name.as_str()) {
                all.notes.push(format!("database {name:?} is a template and is not dumped"));
            }
            continue;
        }
        if exclude.contains(&name) {
            all.notes.push(format!("database {name:?} was left out as asked"));
        } else if flexible_server && PLATFORM_DATABASES.contains(&name.as_str()) {
            all.notes.push(format!("database {name:?} belongs to the platform and is not dumped"));
        } else if number::<i32>(row, 5, QUERY)? == -2 {
            all.losses.push(database_loss(&name, "an interrupted DROP DATABASE left it invalid"));
        } else if !flag(2)? {
            all.losses.push(database_loss(&name, "it does not allow connections (datallowconn)"));
        } else if !flag(4)? {
            all.losses.push(database_loss(&name, "the role has no CONNECT privilege on it"));
        } else if raw_name != name.as_bytes() {
            let reason = "its name is not UTF-8; rename it (ALTER DATABASE) to have it dumped";
            all.losses.push(database_loss(&name, reason));
        } else {
            all.dump.push(Database { name, oid });
        }
    }
    all.losses.extend(hidden_subscriptions(connection)?);
    if let Some(name) = unknown.first() {
        return Err(BackupError::NoSuchDatabase((*name).clone()));
    }
    if all.dump.is_empty() {
        let reason = "every database is a template, left out, or not open to this role";
        return Err(BackupError::NothingToDo(reason.to_owned()));
    }
    Ok(all)
}

/// The encoding of the database that a connection is to.
pub(crate) fn encoding(connection: &mut Connection, database: &str) -> Result<String, BackupError> {
    const SQL: &str = "SELECT pg_catalog.getdatabaseencoding()";
    let rows = session::rows(connection, database, "asking for the encoding", SQL)?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no encoding".to_owned()))?;
    text(row, 0, "encoding").map(str::to_owned)
}

/// What tells the roles of a moment from those of another: one mark for each role and its name.
pub(crate) fn roles(connection: &mut Connection) -> Result<BTreeSet<String>, BackupError> {
    const SQL: &str = "SELECT pg_catalog.concat(r.oid, ' ', pg_catalog.hashname(r.rolname)) \
                       FROM pg_catalog.pg_roles r";
    let rows = session::rows(connection, "", "asking for the roles", SQL)?;
    rows.iter().map(|row| text(row, 0, "roles").map(str::to_owned)).collect()
}

/// Why a database that was dropped is a loss and no mere note: there is another one of its name.
pub(crate) fn made_again(
    connection: &mut Connection,
    name: &str,
) -> Result<Option<&'static str>, BackupError> {
    let name = pg::quote_literal(name);
    let sql = format!("SELECT 1 FROM pg_catalog.pg_database d WHERE d.datname = {name}");
    let rows = session::rows(connection, "", "looking for a database", &sql)?;
    let is_there = !rows.is_empty();
    Ok(is_there
        .then_some("it was dropped and made again during the backup, which does not have it"))
}

/// What a database is called now; `None` when it is gone.
pub(crate) fn name_now(
    connection: &mut Connection,
    oid: u32,
) -> Result<Option<Vec<u8>>, BackupError> {
    let sql = format!("SELECT d.datname FROM pg_catalog.pg_database d WHERE d.oid = {oid}");
    let rows = session::rows(connection, "", "asking for a database's name", &sql)?;
    rows.first().map(|row| session::bytes(row, 0, "database name")).transpose()
}

/// Refuses a connection to another database than was meant: its name may have been given to it since.
/// As long as the connection lasts, nobody can rename or drop it.
pub(crate) fn refuse_other(
    connection: &mut Connection,
    database: &Database,
) -> Result<(), BackupError> {
    const SQL: &str = "SELECT d.oid FROM pg_catalog.pg_database d \
                       WHERE d.datname = pg_catalog.current_database()";
    let rows = session::rows(connection, &database.name, "asking which database it is", SQL)?;
    let found: Option<u32> = rows.first().map(|row| number(row, 0, "database")).transpose()?;
    if found == Some(database.oid) {
        Ok(())
    } else {
        Err(BackupError::DatabaseGone(database.name.clone()))
    }
}

pub(crate) fn renamed_note(before: &str, now: &str) -> String {
    format!("database {before:?} was renamed to {now:?} during the backup")
}

pub(crate) fn database_loss(name: &str, reason: &str) -> Loss {
    Loss {
        database: Some(name.to_owned()),
        kind: "database".to_owned(),
        objects: vec![name.to_owned()],
        count: 1,
        reason: reason.to_owned(),
    }
}

/// Subscriptions of a server that hides their catalog; then it is not known in which database
/// each of them is.
fn hidden_subscriptions(connection: &mut Connection) -> Result<Option<Loss>, BackupError> {
    if reads_subscriptions(connection)? {
        return Ok(None);
    }
    let rows = session::rows(
        connection,
        "",
        "listing the subscriptions",
        "SELECT DISTINCT s.subname FROM pg_catalog.pg_stat_subscription s ORDER BY 1",
    )?;
    let reason = "pg_dump dumps subscriptions for superusers only; in which database each one is \
                  cannot be read";
    Ok(loss(None, "subscription", &names(&rows), reason))
}

fn reads_subscriptions(connection: &mut Connection) -> Result<bool, BackupError> {
    can_read(connection, "pg_subscription", "subname, subdbid")
}

/// Login roles whose password hash is not in the backup; on Flexible Server without the platform's
/// own, which nobody restores.
pub(crate) fn password_loss(connection: &mut Connection) -> Result<Option<Loss>, BackupError> {
    let rows = session::rows(
        connection,
        "",
        "listing the roles",
        "SELECT r.rolname FROM pg_catalog.pg_roles r \
         WHERE r.rolcanlogin AND r.rolname !~ '^pg_' \
         AND NOT (r.rolname IN ('azuresu', 'azure_superuser', 'replication') AND \
           EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'azure_pg_admin')) \
         ORDER BY 1",
    )?;
    let reason = "password hashes (pg_authid) can be read by superusers only";
    Ok(loss(None, "role password", &names(&rows), reason))
}

/// What a dump of this database by this role does not hold.
pub(crate) fn database_losses(
    connection: &mut Connection,
    database: &str,
    facts: &ServerFacts,
    unreadable_objects: &std::collections::HashSet<u32>,
) -> Result<Vec<Loss>, BackupError> {
    let mut losses = Vec::new();
    if !facts.superuser && facts.reads_subscriptions {
        let rows = session::rows(
            connection,
            database,
            "listing the subscriptions",
            "SELECT s.subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d \
             ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database() ORDER BY 1",
        )?;
        let reason = "pg_dump dumps subscriptions for superusers only";
        losses.extend(loss(Some(database), "subscription", &names(&rows), reason));
    }
    if !facts.superuser {
        // Where the view shows the options, null means that there are none. It hides those of other
        // roles' mappings from the owner of their server too.
        let rows = session::rows(
            connection,
            database,
            "listing the user mappings",
            "SELECT pg_catalog.format('%s on %s', m.usename, m.srvname) \
             FROM pg_catalog.pg_user_mappings m JOIN pg_catalog.pg_foreign_server s \
             ON s.oid = m.srvid WHERE m.umoptions IS NULL AND NOT (CASE WHEN m.umuser = 0 \
               THEN pg_catalog.pg_has_role(s.srvowner, 'USAGE') \
               ELSE m.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE') \
                 OR pg_catalog.has_server_privilege(s.oid, 'USAGE')) END) ORDER BY 1",
        )?;
        let reason = "the options (such as passwords) of other roles' mappings cannot be read";
        losses.extend(loss(Some(database), "user mapping options", &names(&rows), reason));
    }
    if facts.source.standby {
        losses.extend(unlogged_losses(connection, database)?);
    }
    let mut oids: Vec<u32> = unreadable_objects.iter().copied().collect();
    oids.sort_unstable();
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    let reason = "the role has no SELECT on it (pg_read_all_data does not cover large objects \
                  before PostgreSQL 19)";
    losses.extend(loss(Some(database), "large object", &oids, reason));
    Ok(losses)
}

/// What a standby can't tell: it has the definitions of what is unlogged, and no more.
fn unlogged_losses(connection: &mut Connection, database: &str) -> Result<Vec<Loss>, BackupError> {
    let kinds = [
        ('r', "unlogged table data", "a standby does not have the rows of unlogged tables"),
        ('S', "unlogged sequence state", "a standby does not know where unlogged sequences stand"),
    ];
    let mut losses = Vec::new();
    for (relkind, kind, reason) in kinds {
        let rows = session::rows(
            connection,
            database,
            "listing what is unlogged",
            &format!(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind = '{relkind}' AND c.relpersistence = 'u' ORDER BY 1"
            ),
        )?;
        losses.extend(loss(Some(database), kind, &names(&rows), reason));
    }
    Ok(losses)
}

/// The installed extensions.
pub(crate) fn extensions(
    connection: &mut Connection,
    database: &str,
) -> Result<Vec<Extension>, BackupError> {
    const QUERY: &str = "extensions";
    session::rows(
        connection,
        database,
        "listing the extensions",
        "SELECT e.extname, e.extversion FROM pg_catalog.pg_extension e ORDER BY 1",
    )?
    .iter()
    .map(|row| {
        let name = session::lossy(&session::bytes(row, 0, QUERY)?);
        Ok(Extension { name, version: session::lossy(&session::bytes(row, 1, QUERY)?) })
    })
    .collect()
}

fn names(rows: &[pg::Row]) -> Vec<String> {
    rows.iter().filter_map(|row| row.get_bytes(0)).map(session::lossy).collect()
}

fn loss(database: Option<&str>, kind: &str, objects: &[String], reason: &str) -> Option<Loss> {
    (!objects.is_empty()).then(|| Loss {
        database: database.map(str::to_owned),
        kind: kind.to_owned(),
        objects: objects.iter().take(OBJECTS_NAMED).cloned().collect(),
        count: objects.len() as u64,
        reason: reason.to_owned(),
    })
}
