//! One backup.

use flexkeep_vault::manifest::{DatabaseSummary, Manifest};
use jiff::Timestamp;

use crate::render::backup::{contents, new};
use crate::render::losses;
use crate::render::table::{Align, Table};
use crate::render::text::cell;
use crate::render::units;

/// The folder in the commands, for the reader to replace.
const FOLDER: &str = "FOLDER";

/// All that there is to know about a backup.
pub(crate) fn page(manifest: &Manifest, vault_option: &str, now: Timestamp) -> String {
    let mut out = head(manifest, now);
    for block in [
        losses::block(&manifest.losses),
        databases(manifest),
        extensions(&manifest.databases),
        losses::notes(&manifest.notes),
        commands(manifest, vault_option),
    ] {
        if !block.is_empty() {
            out.push_str(&format!("\n{block}"));
        }
    }
    out
}

fn head(manifest: &Manifest, now: Timestamp) -> String {
    let (source, totals) = (&manifest.source, manifest.totals);
    let mut server = format!("{}, PostgreSQL {}", manifest.server, source.version);
    if source.flexible_server {
        server.push_str(", Azure Flexible Server");
    }
    if source.standby {
        server.push_str(", a standby");
    }
    let duration = units::between(manifest.started, manifest.sealed);
    let started = units::time(manifest.started);
    let age = units::age(manifest.started, now);
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        out.push_str(&format!("{name:<10} {}\n", cell(value)));
    };
    line("Status", losses::status(manifest));
    line("Backup", &manifest.backup);
    line("Server", &server);
    line("Started", &format!("{started} ({age})"));
    let sealed = units::time(manifest.sealed);
    line("Sealed", &format!("{sealed}, after {}", units::duration(duration)));
    line("Contents", &contents(&totals));
    line("Data", &units::bytes(totals.raw_bytes));
    line("Stored", &units::bytes(totals.stored_bytes));
    line("New", &new(&totals));
    let roles = if manifest.globals.is_some() { "yes" } else { "no" };
    line("Roles", roles);
    line("Made by", &format!("{}, {}", manifest.tool, source.pg_dump));
    out
}

fn databases(manifest: &Manifest) -> String {
    let mut table = Table::new(&[
        ("DATABASE", Align::Left),
        ("TABLES", Align::Right),
        ("ROWS", Align::Right),
        ("LARGE OBJECTS", Align::Right),
        ("DATA", Align::Right),
        ("STORED", Align::Right),
        ("NEW", Align::Right),
        ("ATTEMPTS", Align::Right),
        ("SNAPSHOT", Align::Left),
    ]);
    for database in &manifest.databases {
        let totals = database.totals;
        table.row(vec![
            database.name.clone(),
            units::count(totals.tables),
            units::count(totals.rows),
            units::count(totals.large_objects),
            units::bytes(totals.raw_bytes),
            units::bytes(totals.stored_bytes),
            units::bytes(totals.new_stored_bytes),
            units::count(database.attempts.into()),
            units::time(database.snapshot_time),
        ]);
    }
    format!("Databases\n{}", table.render("  "))
}

fn extensions(databases: &[DatabaseSummary]) -> String {
    let mut out = String::new();
    for database in databases.iter().filter(|one| !one.extensions.is_empty()) {
        let names: Vec<String> =
            database.extensions.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
        out.push_str(&format!("  {}: {}\n", cell(&database.name), cell(&names.join(", "))));
    }
    if out.is_empty() { out } else { format!("Extensions\n{out}") }
}

/// How to get it back. The export's README.txt has the rest, for exactly its files.
fn commands(manifest: &Manifest, vault_option: &str) -> String {
    let id = &manifest.backup;
    let mut out = format!("To get it back\n  flexkeep export {id} {vault_option} --to {FOLDER}\n");
    if manifest.globals.is_some() {
        out.push_str(&format!("  psql -X -v ON_ERROR_STOP=1 -d postgres -f {FOLDER}/roles.sql\n"));
    }
    // Names that the export writes in another way than they are called are left to README.txt.
    let plain = |name: &&str| {
        *name != "postgres"
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    for name in manifest.databases.iter().map(|one| one.name.as_str()).filter(plain).take(3) {
        out.push_str(&format!(
            "  pg_restore --create --jobs 4 --dbname postgres {FOLDER}/{name}.dump\n"
        ));
    }
    out.push_str(&format!(
        "{FOLDER}/README.txt then has the commands for all of it. For a pg_restore before 17 add\n\
         --pg-restore MAJOR to the export.\n"
    ));
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use flexkeep_vault::ContentHash;
    use flexkeep_vault::manifest::{Extension, Loss, ObjectRef, Source, Totals};

    use super::*;

    /// A backup with a bit of everything.
    pub(crate) fn example() -> Manifest {
        let object = ObjectRef { hash: ContentHash::of(b"x"), raw_bytes: 1, stored_bytes: 10 };
        let totals = Totals {
            tables: 3,
            rows: 1_234_567,
            large_objects: 2,
            raw_bytes: 1_000_000_000,
            stored_bytes: 250_000_000,
            chunks: 40,
            new_chunks: 4,
            new_stored_bytes: 25_000_000,
        };
        let time = |text: &str| text.parse().unwrap();
        Manifest {
            format: 1,
            vault: "v".to_owned(),
            backup: "shop-20261122T225300Z".to_owned(),
            server: "shop".to_owned(),
            tool: "flexkeep 0.1.0".to_owned(),
            request: None,
            started: time("2026-11-22T22:53:00Z"),
            sealed: time("2026-11-22T22:54:40Z"),
            source: Source {
                version: "17.2".to_owned(),
                version_num: 170_002,
                flexible_server: true,
                pg_dump: "pg_dump (PostgreSQL) 17.2".to_owned(),
                ..Source::default()
            },
            globals: Some(object.clone()),
            databases: vec![DatabaseSummary {
                name: "shop".to_owned(),
                oid: 5,
                encoding: "UTF8".to_owned(),
                snapshot_time: time("2026-11-22T22:53:02Z"),
                attempts: 2,
                toc: object.clone(),
                contents: object,
                extensions: vec![Extension { name: "citext".into(), version: "1.6".into() }],
                totals,
                holders: Vec::new(),
            }],
            losses: vec![Loss {
                database: Some("shop".to_owned()),
                kind: "subscription".to_owned(),
                objects: vec!["sub".to_owned()],
                count: 1,
                reason: "only a superuser may read subscriptions".to_owned(),
            }],
            notes: vec!["database \"scratch\" was left out as asked".to_owned()],
            totals,
        }
    }

    #[test]
    fn the_page_begins_with_the_status_and_ends_with_commands() {
        let now = "2026-11-23T22:53:00Z".parse().unwrap();
        let text = page(&example(), "--vault '/srv/my vault'", now);
        assert!(text.starts_with("Status     with losses\n"), "{text}");
        for part in [
            "Server     shop, PostgreSQL 17.2, Azure Flexible Server\n",
            "Started    2026-11-22T22:53:00Z (24 h ago)\n",
            "Sealed     2026-11-22T22:54:40Z, after 1 m 40 s\n",
            "\nNOT BACKED UP\n  1 subscription of database shop: sub\n    only a superuser",
            "2026-11-22T22:53:02Z\n",
            "\nExtensions\n  shop: citext 1.6\n",
            "flexkeep export shop-20261122T225300Z --vault '/srv/my vault' --to FOLDER\n",
            "psql -X -v ON_ERROR_STOP=1 -d postgres -f FOLDER/roles.sql\n",
            "pg_restore --create --jobs 4 --dbname postgres FOLDER/shop.dump\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_complete_backup_has_no_block_about_losses() {
        let mut manifest = example();
        manifest.losses.clear();
        let text = page(&manifest, "--vault v", manifest.sealed);
        assert!(text.starts_with("Status     complete\n"));
        assert!(!text.contains("NOT BACKED UP"));
    }
}
