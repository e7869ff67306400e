//! The server: connection, rights, databases, locks and connection slots.

use std::time::Duration;

use flexkeep_pg_copy::{self as pg, Connection};
use flexkeep_vault::manifest::Loss;

use super::{CheckReport, Severity, chain, look_for_tools, some};
use crate::error::BackupError;
use crate::options::BackupOptions;
use crate::session;
use crate::source::{self, Database, ServerFacts};

const SUBJECT: &str = "server";

/// Where Flexible Server has its built-in pooler.
const PGBOUNCER_PORT: u16 = 6432;

/// How long the server may be silent. Every question here is a small one.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Connections of a backup besides its lanes: pg_dump or pg_dumpall, and the one that prepares
/// the next database.
const OTHER_CONNECTIONS: u64 = 2;

/// What was seen of a server.
pub(super) struct Seen {
    /// Size of the databases that a backup would dump, on disk.
    pub(super) bytes: u64,
}

/// What each database adds to the whole.
#[derive(Default)]
pub(super) struct DatabaseSeen {
    pub(super) bytes: u64,
    pub(super) tables: u64,
}

/// Looks at the server and at pg_dump; `None` when there was no connection.
pub(super) fn look(
    target: &pg::Config,
    options: &BackupOptions,
    report: &mut CheckReport,
) -> Option<Seen> {
    let connect = pg::ConnectOptions {
        stall_timeout: options.stall_timeout.min(STALL_LIMIT),
        raw_text: true,
        ..pg::ConnectOptions::default()
    };
    let opened = session::connect(target, target.database(), &connect).and_then(|mut open| {
        session::prepare(&mut open, "")?;
        let facts = source::facts(&mut open)?;
        Ok((open, facts))
    });
    let (mut connection, facts) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.add_error(SUBJECT, &error);
            look_for_tools(options, None, report);
            return None;
        }
    };
    describe(target, &connection, &facts, report);
    look_for_tools(options, Some(facts.source.version_num / 10_000), report);
    passwords(&mut connection, &facts, options, report);
    let databases = match source::databases(
        &mut connection,
        facts.source.flexible_server,
        &options.exclude_databases,
    ) {
        Ok(databases) => databases,
        Err(error) => {
            report.add_error("databases", &error);
            return Some(Seen { bytes: 0 });
        }
    };
    losses(&databases.losses, report);
    for note in &databases.notes {
        report.add(Severity::Note, "databases", note.as_str());
    }
    let seen: Vec<DatabaseSeen> = databases
        .dump
        .iter()
        .map(|database| look_at(target, &connect, database, &facts, report))
        .collect();
    let asked = [
        locks(&mut connection, &seen, report),
        slots(&mut connection, options, report),
        standby(&mut connection, &facts, report),
    ];
    for error in asked.into_iter().filter_map(Result::err) {
        report.add(Severity::Warning, SUBJECT, chain(&error));
    }
    connection.close();
    Some(Seen { bytes: seen.iter().map(|one| one.bytes).sum() })
}

fn look_at(
    target: &pg::Config,
    connect: &pg::ConnectOptions,
    database: &Database,
    facts: &ServerFacts,
    report: &mut CheckReport,
) -> DatabaseSeen {
    super::database::look(target, connect, &database.name, facts, report)
}

fn describe(
    target: &pg::Config,
    connection: &Connection,
    facts: &ServerFacts,
    report: &mut CheckReport,
) {
    let source = &facts.source;
    let kind = if source.flexible_server { " (Flexible Server)" } else { "" };
    let role = if facts.superuser { "a superuser" } else { "not a superuser" };
    report.add(
        Severity::Ok,
        SUBJECT,
        format!(
            "connected to {}: PostgreSQL {}{kind}; the role {:?} is {role}",
            target.describe(),
            source.version,
            target.user()
        ),
    );
    pooler(target, source.flexible_server, report);
    if connection.is_encrypted() {
        report.add(Severity::Ok, SUBJECT, "the connection is encrypted (TLS)");
    } else if is_local(&target.host()) {
        report.add(Severity::Ok, SUBJECT, "the connection is local, without TLS");
    } else {
        report.add_with_way_out(
            Severity::Warning,
            SUBJECT,
            "the connection is not encrypted",
            "add sslmode=verify-full (or require) to the connection string",
        );
    }
}

/// A pooler hands statements of one session to several ones of the server, which loses settings
/// and snapshots.
fn pooler(target: &pg::Config, flexible_server: bool, report: &mut CheckReport) {
    if target.port() != PGBOUNCER_PORT {
        return;
    }
    let severity = if flexible_server { Severity::Error } else { Severity::Warning };
    report.add_with_way_out(
        severity,
        SUBJECT,
        format!(
            "port {PGBOUNCER_PORT} is usually PgBouncer's, through which no snapshot can be shared"
        ),
        "connect to the server itself, mostly port=5432",
    );
}

fn is_local(host: &str) -> bool {
    host.is_empty()
        || host.starts_with(['/', '@'])
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn passwords(
    connection: &mut Connection,
    facts: &ServerFacts,
    options: &BackupOptions,
    report: &mut CheckReport,
) {
    if facts.reads_passwords || !options.role_passwords {
        return;
    }
    match source::password_loss(connection) {
        Ok(loss) => losses(&loss.into_iter().collect::<Vec<_>>(), report),
        Err(error) => report.add(Severity::Warning, "roles", chain(&error)),
    }
}

/// What a backup would list as lost.
pub(super) fn losses(losses: &[Loss], report: &mut CheckReport) {
    for loss in losses {
        let subject = match &loss.database {
            Some(name) => format!("database {name:?}"),
            None if loss.kind == "role password" => "roles".to_owned(),
            None => SUBJECT.to_owned(),
        };
        let Loss { kind, objects, count, reason, .. } = loss;
        let is_plural = kind.ends_with('s') || kind.ends_with("data");
        let plural = if *count == 1 || is_plural { "" } else { "s" };
        let what = format!(
            "{count} {kind}{plural} would not be in the backup ({}): {reason}",
            some(objects)
        );
        report.add(Severity::Warning, &subject, what);
    }
}

/// The lock table must hold every table of a database at once, and those of the next one, which
/// is being prepared meanwhile.
fn locks(
    connection: &mut Connection,
    seen: &[DatabaseSeen],
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    const QUERY: &str = "lock settings";
    let rows = session::rows(
        connection,
        "",
        "asking for the size of the lock table",
        "SELECT pg_catalog.current_setting('max_locks_per_transaction'), \
         pg_catalog.current_setting('max_connections')::bigint \
           + pg_catalog.current_setting('max_prepared_transactions')::bigint, \
         (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype = 'relation')",
    )?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no lock settings".to_owned()))?;
    let (each, owners): (u64, u64) =
        (session::number(row, 0, QUERY)?, session::number(row, 1, QUERY)?);
    let held: u64 = session::number(row, 2, QUERY)?;
    let mut tables: Vec<u64> = seen.iter().map(|one| one.tables).collect();
    tables.sort_unstable_by(|a, b| b.cmp(a));
    let needed: u64 = tables.iter().take(2).sum();
    let room = each.saturating_mul(owners);
    // A tenth is kept free for everybody else.
    let wanted = (needed + held) + (needed + held) / 10;
    let what = format!(
        "up to {needed} tables are locked at once, the lock table has room for {room} locks \
         (max_locks_per_transaction = {each})"
    );
    if wanted <= room {
        report.add(Severity::Ok, "locks", what);
    } else {
        let value = wanted.div_ceil(owners.max(1)).next_multiple_of(64);
        report.add_with_way_out(
            Severity::Warning,
            "locks",
            what,
            format!("set max_locks_per_transaction = {value} and restart the server"),
        );
    }
    Ok(())
}

fn slots(
    connection: &mut Connection,
    options: &BackupOptions,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    const QUERY: &str = "connection settings";
    let rows = session::rows(
        connection,
        "",
        "asking for the connections",
        "SELECT (SELECT pg_catalog.sum(setting::bigint * CASE name \
                   WHEN 'max_connections' THEN 1 ELSE -1 END) FROM pg_catalog.pg_settings \
                 WHERE name IN ('max_connections', 'superuser_reserved_connections', \
                                'reserved_connections')), \
         (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
          WHERE backend_type IN ('client backend', 'walsender') \
            AND pid <> pg_catalog.pg_backend_pid()), \
         (SELECT r.rolconnlimit FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), \
         (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
          WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid())",
    )?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no slots".to_owned()))?;
    let (most, used): (u64, u64) =
        (session::number(row, 0, QUERY)?, session::number(row, 1, QUERY)?);
    let (limit, own): (i64, i64) =
        (session::number(row, 2, QUERY)?, session::number(row, 3, QUERY)?);
    let lanes = options.lanes.max(1) as u64;
    let needed = lanes + OTHER_CONNECTIONS;
    let mut free = most.saturating_sub(used);
    if limit >= 0 {
        free = free.min(u64::try_from(limit.saturating_sub(own)).unwrap_or(0));
    }
    let what = format!("{free} connections are free, a backup with {lanes} lanes takes {needed}");
    if needed <= free {
        report.add(Severity::Ok, "connections", what);
    } else {
        // With one lane, too, there are pg_dump and pg_dumpall beside it.
        let least = 1 + OTHER_CONNECTIONS;
        let severity = if free < least { Severity::Error } else { Severity::Warning };
        report.add_with_way_out(
            severity,
            "connections",
            what,
            "use fewer lanes, or raise max_connections or the role's connection limit",
        );
    }
    database_limits(connection, lanes, report)
}

/// Limits of connections to one database, which superusers do not have.
fn database_limits(
    connection: &mut Connection,
    lanes: u64,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    const QUERY: &str = "connection limits";
    // A lane each, and pg_dump beside the first one.
    let needed = lanes + 1;
    let sql = format!(
        "SELECT d.datname, d.datconnlimit FROM pg_catalog.pg_database d \
         WHERE d.datconnlimit BETWEEN 0 AND {} AND NOT d.datistemplate AND d.datallowconn \
         AND pg_catalog.has_database_privilege(d.oid, 'CONNECT') \
         AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) \
         ORDER BY 1",
        needed.saturating_sub(1)
    );
    for row in &session::rows(connection, "", "asking for limits of connections", &sql)? {
        let name = session::lossy(&session::bytes(row, 0, QUERY)?);
        let limit: u64 = session::number(row, 1, QUERY)?;
        let severity = if limit < 2 { Severity::Error } else { Severity::Warning };
        report.add_with_way_out(
            severity,
            &format!("database {name:?}"),
            format!(
                "it takes at most {limit} connections, a backup with {lanes} lanes takes {needed}"
            ),
            "use fewer lanes, or raise its limit (ALTER DATABASE ... CONNECTION LIMIT)",
        );
    }
    Ok(())
}

fn standby(
    connection: &mut Connection,
    facts: &ServerFacts,
    report: &mut CheckReport,
) -> Result<(), BackupError> {
    if !facts.source.standby {
        return Ok(());
    }
    let rows = session::rows(
        connection,
        "",
        "asking for the standby's settings",
        "SELECT pg_catalog.current_setting('max_standby_streaming_delay'), \
         pg_catalog.current_setting('hot_standby_feedback')",
    )?;
    let row = rows.first().ok_or_else(|| BackupError::Internal("no settings".to_owned()))?;
    let delay = session::text(row, 0, "standby settings")?;
    let feedback = session::text(row, 1, "standby settings")?;
    let what = format!(
        "this is a standby (max_standby_streaming_delay = {delay}, hot_standby_feedback = \
         {feedback})"
    );
    if delay == "-1" {
        report.add(Severity::Note, "standby", what);
    } else {
        report.add_with_way_out(
            Severity::Warning,
            "standby",
            format!("{what}; replay cancels reads that hold it up for longer than that"),
            "set max_standby_streaming_delay = -1 for the time of the backup; hot_standby_feedback \
             = on avoids most conflicts",
        );
    }
    Ok(())
}
