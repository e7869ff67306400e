//! `README.txt`: what lies in the folder, and the commands that restore it.

use std::fmt::Write;

use flexkeep_vault::manifest::{DatabaseSummary, Loss, Manifest};

use super::database::Written;
use super::{README, ROLES, ROLES_AS_DUMPED, RolesWritten};
use crate::options::{ExportCompression, ExportFormat, ExportOptions, ExportTarget};

/// Extensions of the platform that cannot be made by hand.
const PLATFORM_EXTENSIONS: [&str; 3] = ["azure", "pgaadauth", "pg_availability"];

/// The database that every server has from the start.
const MAINTENANCE: &str = "postgres";

/// Names that a line lists.
const NAMES_SHOWN: usize = 10;

pub(super) struct Readme<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) archives: &'a [(&'a DatabaseSummary, Written)],
    pub(super) roles: RolesWritten,
    pub(super) notes: &'a [String],
    pub(super) pg_restore_major: u32,
    pub(super) options: &'a ExportOptions,
}

impl Readme<'_> {
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.files(&mut out);
        self.roles(&mut out);
        if self.is_plain() {
            self.sql(&mut out);
        } else if self.options.is_selective() {
            self.part(&mut out);
        } else {
            self.databases(&mut out);
            self.single_table(&mut out);
        }
        self.losses(&mut out);
        out
    }

    fn is_plain(&self) -> bool {
        self.options.format == ExportFormat::Plain
    }

    fn head(&self, out: &mut String) {
        let Manifest { backup, server, source, sealed, tool, .. } = self.manifest;
        let kind = if source.flexible_server {
            " (Azure Database for PostgreSQL Flexible Server)"
        } else {
            ""
        };
        let major = self.pg_restore_major;
        line(out, &format!("Backup {backup}"));
        line(out, "");
        line(out, &format!("server      {}", one_line(server)));
        line(out, &format!("PostgreSQL  {}{kind}", one_line(&source.version)));
        line(out, &format!("completed   {}", sealed.strftime("%Y-%m-%d %H:%M:%S UTC")));
        line(out, &format!("made by     {}, {}", one_line(tool), one_line(&source.pg_dump)));
        line(out, "");
        if self.is_plain() {
            line(
                out,
                &format!(
                    "These files are SQL for psql and PostgreSQL {major} or newer, as the stock"
                ),
            );
            line(out, "pg_restore writes it. An older server may not know a setting at the start.");
        } else {
            self.which_pg_restore(out);
        }
        line(out, "The commands take the server from PGHOST, PGPORT, PGUSER and PGPASSWORD (or");
        line(out, "~/.pgpass), and run in this folder.");
        if matches!(self.options.to, ExportTarget::Blocks(_)) {
            line(out, "Download it from the container first, for example with azcopy.");
        }
    }

    fn which_pg_restore(&self, out: &mut String) {
        let major = self.pg_restore_major;
        line(out, &format!("These files need pg_restore {major} or newer; `pg_restore --version`"));
        line(out, "tells yours. Best is that of the server that you restore to. A newer one than");
        line(out, "the server may show errors about settings that the server does not know, such");
        line(out, "as transaction_timeout; nothing is missing then, but it ends with status 1.");
        let zstd = matches!(self.options.compression, None | Some(ExportCompression::Zstd(_)));
        if major >= 16 && zstd {
            line(out, "The data is compressed with zstd, which packages of PostgreSQL support.");
        }
        if major >= 16 {
            line(out, "For an older pg_restore export the backup again with --pg-restore 15.");
        }
    }

    fn files(&self, out: &mut String) {
        heading(out, "Files");
        for (database, written) in self.archives {
            let file = file_name(written);
            let time = database.snapshot_time.strftime("%Y-%m-%d %H:%M:%S UTC");
            line(out, &file);
            line(out, &format!("    database {:?} as of {time}", database.name));
            let counts = &written.counts;
            let (tables, rows) = (count(counts.tables, "table"), count(counts.rows, "row"));
            let objects = count(counts.large_objects, "large object");
            line(out, &format!("    {tables}, {rows}, {objects}, {} bytes", written.bytes));
        }
        if let RolesWritten::For { reduced, .. } = self.roles {
            line(out, ROLES);
            line(out, "    roles, memberships and settings; may hold password hashes");
            if reduced {
                line(out, ROLES_AS_DUMPED);
                line(out, "    the same as pg_dumpall wrote it, with what was left out");
            }
        }
        line(out, README);
        line(out, "    this text");
    }

    fn roles(&self, out: &mut String) {
        let RolesWritten::For { flexible_server, .. } = self.roles else { return };
        heading(out, "1. Roles");
        line(out, "Tables belong to roles, so they come first. It can be run again.");
        line(out, "");
        command(out, &format!("psql -X -v ON_ERROR_STOP=1 -d postgres -f {ROLES}"));
        line(out, "");
        if flexible_server {
            line(out, "Run it as the server's administrator. What the server refuses is shown as");
            line(out, "a WARNING that names the statement, and the rest goes on.");
        } else {
            line(out, "Run it as a superuser.");
        }
        if self.is_plain() {
            line(out, "SQL names owners, so it cannot be restored without the roles.");
            return;
        }
        line(out, "To restore without the roles, give pg_restore --no-owner --no-privileges:");
        line(out, "everything then belongs to the role that restores.");
    }

    /// Databases as SQL.
    fn sql(&self, out: &mut String) {
        heading(out, "2. Databases");
        if self.options.create {
            line(
                out,
                "The SQL makes the database, with its settings and rights. It must not exist",
            );
            line(out, "yet.");
        } else {
            line(
                out,
                "A database must be there and empty. Its own settings and rights are not in the",
            );
            line(out, "SQL; with --create an export has them.");
        }
        line(out, "");
        for (database, written) in self.archives {
            let file = file_name(written);
            let name = if self.options.create { MAINTENANCE } else { &database.name };
            if !self.options.create && database.name != MAINTENANCE {
                make_database(out, &database.name, &database.encoding);
            }
            let psql = format!("PGDATABASE={} psql -X -q -v ON_ERROR_STOP=1", shell(name));
            let read = match self.options.compression {
                None | Some(ExportCompression::None) => format!("{psql} -f '{file}'"),
                Some(ExportCompression::Gzip(_)) => format!("gunzip -c '{file}' | {psql}"),
                Some(ExportCompression::Zstd(_)) => format!("zstd -dc '{file}' | {psql}"),
            };
            command(out, &read);
        }
        let platform = self.archives.iter().any(|(one, _)| has_platform_extensions(one));
        if platform {
            line(out, "");
            line(
                out,
                "Some have extensions of the platform, which cannot be made by hand: without",
            );
            line(out, "ON_ERROR_STOP=1 psql goes on after the errors that tell so.");
        }
    }

    /// A part of a database.
    fn part(&self, out: &mut String) {
        heading(out, "2. The chosen part");
        line(out, "It stands by itself: an empty database is enough. In one that is not empty,");
        line(out, "what is there already, such as a schema, gives errors; pg_restore goes on.");
        line(out, "");
        for (database, written) in self.archives {
            let file = file_name(written);
            make_database(out, "part", &database.encoding);
            command(out, &format!("pg_restore --jobs 4 --dbname part '{file}'"));
        }
    }

    fn databases(&self, out: &mut String) {
        heading(out, "2. Databases");
        line(out, "pg_restore --create makes the database, with its settings and rights. It must");
        line(out, "not exist yet. --jobs is how many connections work at once.");
        line(out, "");
        for (_, written) in self.archives.iter().filter(|(one, _)| one.name != MAINTENANCE) {
            let file = file_name(written);
            command(out, &format!("pg_restore --create --jobs 4 --dbname postgres '{file}'"));
        }
        let maintenance = self.archives.iter().find(|(one, _)| one.name == MAINTENANCE);
        if let Some((_, written)) = maintenance {
            let file = file_name(written);
            line(out, "");
            line(out, "The database postgres is on every server already, so it is filled:");
            line(out, "");
            command(out, &format!("pg_restore --jobs 4 --dbname postgres '{file}'"));
            line(out, "");
            line(out, "That leaves out the database's own settings, rights and comment. Where it");
            line(out, "may be dropped (nothing of value in it, nobody connected), this has them:");
            line(out, "");
            command(
                out,
                &format!("pg_restore --create --clean --if-exists --dbname template1 '{file}'"),
            );
        }
        line(out, "");
        line(out, "pg_restore goes on after an error and ends with status 1 and the number of");
        line(out, "errors; --exit-on-error makes it stop at the first. Options that often help:");
        line(out, "  --no-owner        objects belong to the role that restores");
        line(out, "  --no-privileges   no GRANT and REVOKE");
        line(out, "  --no-tablespaces  everything in the default tablespace");
        self.platform_extensions(out);
    }

    /// Flexible Server makes some extensions by itself and refuses others that try.
    fn platform_extensions(&self, out: &mut String) {
        let found: Vec<_> = self
            .archives
            .iter()
            .filter(|(database, _)| has_platform_extensions(database))
            .collect();
        if found.is_empty() {
            return;
        }
        line(out, "");
        line(out, "These have extensions of the platform, which cannot be made by hand. To leave");
        line(out, "them out, take a list without them, and add --use-list to the command above:");
        line(out, "");
        let pattern = PLATFORM_EXTENSIONS.join("|");
        for (_, written) in found {
            let file = file_name(written);
            command(
                out,
                &format!(
                    "pg_restore --list '{file}' | grep -vE 'EXTENSION (- )?({pattern})( |$)' > '{file}.list'"
                ),
            );
            command(out, &format!("# then: pg_restore --use-list '{file}.list' ..."));
        }
    }

    fn single_table(&self, out: &mut String) {
        heading(out, "A part of a database");
        let Some((_, written)) = self.archives.first() else { return };
        let file = file_name(written);
        line(out, "What is in a file:");
        line(out, "");
        command(out, &format!("pg_restore --list '{file}'"));
        let with_table = self.archives.iter().find(|(_, written)| written.example.is_some());
        let Some((_, written)) = with_table else { return };
        let Some((schema, table)) = &written.example else { return };
        let (schema, table, file) = (shell(schema), shell(table), file_name(written));
        line(out, "");
        line(out, "One table with its rows, into a database of your choice whose schema of that");
        line(out, "name exists (indexes, constraints and triggers are entries of their own):");
        line(out, "");
        command(
            out,
            &format!("pg_restore --dbname TARGET --schema {schema} --table {table} '{file}'"),
        );
        line(out, "");
        line(out, "Its rows only, into the table that is there, or as text:");
        line(out, "");
        command(
            out,
            &format!(
                "pg_restore --dbname TARGET --data-only --schema {schema} --table {table} '{file}'"
            ),
        );
        command(
            out,
            &format!("pg_restore --file - --data-only --schema {schema} --table {table} '{file}'"),
        );
    }

    fn losses(&self, out: &mut String) {
        let names: Vec<&str> = self.archives.iter().map(|(one, _)| one.name.as_str()).collect();
        let concerns = |loss: &&Loss| {
            let database = loss.database.as_deref();
            database.is_none_or(|name| {
                names.contains(&name) || !self.manifest.databases.iter().any(|d| d.name == name)
            })
        };
        let losses: Vec<&Loss> = self.manifest.losses.iter().filter(concerns).collect();
        heading(out, "What this backup does not hold");
        if losses.is_empty() {
            line(out, "Nothing that could not be read was found. No logical backup holds the");
            line(out, "server's configuration and its replication slots.");
        }
        for loss in losses {
            let database = loss.database.as_ref().map(|name| format!(", database {name:?}"));
            let objects: Vec<String> =
                loss.objects.iter().take(NAMES_SHOWN).map(|name| one_line(name)).collect();
            let more = loss.count.saturating_sub(objects.len() as u64);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line(
                out,
                &format!(
                    "- {} {}{}: {}{more}",
                    loss.count,
                    one_line(&loss.kind),
                    database.unwrap_or_default(),
                    objects.join(", ")
                ),
            );
            line(out, &format!("  {}", one_line(&loss.reason)));
        }
        let notes: Vec<&String> = self.notes.iter().chain(&self.manifest.notes).collect();
        if !notes.is_empty() {
            heading(out, "Notes");
            for note in notes {
                line(out, &format!("- {}", one_line(note)));
            }
        }
    }
}

fn file_name(written: &Written) -> String {
    written.name.clone()
}

fn has_platform_extensions(database: &DatabaseSummary) -> bool {
    let of_platform = |name: &String| PLATFORM_EXTENSIONS.contains(&name.as_str());
    database.extensions.iter().any(|extension| of_platform(&extension.name))
}

fn make_database(out: &mut String, name: &str, encoding: &str) {
    let (name, encoding) = (shell(name), shell(encoding));
    command(out, &format!("createdb --template template0 --encoding {encoding} -- {name}"));
}

fn count(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn command(out: &mut String, text: &str) {
    line(out, &format!("    {text}"));
}

fn heading(out: &mut String, text: &str) {
    let _ = write!(out, "\n{text}\n{}\n", "-".repeat(text.chars().count()));
}

/// Text of others on one line, without control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name as one word of a POSIX shell.
fn shell(name: &str) -> String {
    format!("'{}'", name.replace('\'', "'\\''"))
}
