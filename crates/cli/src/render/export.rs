//! The end of an export.

use flexkeep_engine::ExportReport;
use flexkeep_vault::manifest::Manifest;

use crate::render::losses;
use crate::render::table::{Align, Table};
use crate::render::text::cell;
use crate::render::units;

/// What was written, and what to do with it.
pub(crate) fn summary(manifest: &Manifest, report: &ExportReport) -> String {
    let folder = report.folder.display().to_string();
    let mut out = format!("Exported {} into {}\n", manifest.backup, cell(&folder));
    let mut table =
        Table::new(&[("FILE", Align::Left), ("SIZE", Align::Right), ("DATABASE", Align::Left)]);
    let mut sum = 0_u64;
    for file in &report.files {
        sum = sum.saturating_add(file.bytes);
        let name = file.path.strip_prefix(&report.folder).unwrap_or(&file.path);
        let database = file.database.clone().unwrap_or_default();
        table.row(vec![name.display().to_string(), units::bytes(file.bytes), database]);
    }
    out.push_str(&table.render("  "));
    out.push_str(&format!("{} in all; every chunk was verified.\n", units::bytes(sum)));
    for block in [losses::notes(&report.notes), losses::block(&manifest.losses)] {
        if !block.is_empty() {
            out.push_str(&format!("\n{block}"));
        }
    }
    out.push_str(&format!(
        "\nIt needs pg_restore {} or newer. The commands are in {}\n",
        report.pg_restore_major,
        cell(&report.folder.join("README.txt").display().to_string())
    ));
    out
}

#[cfg(test)]
mod tests {
    use flexkeep_engine::ExportedFile;

    use super::*;
    use crate::render::show::tests::example;

    #[test]
    fn the_summary_names_files_the_oldest_pg_restore_and_losses() {
        let file = |name: &str, database: Option<&str>, bytes| ExportedFile {
            path: format!("/e/{name}").into(),
            database: database.map(str::to_owned),
            bytes,
        };
        let report = ExportReport {
            folder: "/e".into(),
            files: vec![
                file("roles.sql", None, 999),
                file("shop%20a.dump", Some("shop a"), 20_000_001),
            ],
            notes: vec!["roles.sql: ALTER ROLE x is left out".to_owned()],
            pg_restore_major: 16,
        };
        assert_eq!(
            summary(&example(), &report),
            "Exported shop-20261122T225300Z into /e\n  \
             FILE              SIZE  DATABASE\n  \
             roles.sql        999 B\n  \
             shop%20a.dump  20.0 MB  shop a\n\
             20.0 MB in all; every chunk was verified.\n\n\
             Notes\n  roles.sql: ALTER ROLE x is left out\n\n\
             NOT BACKED UP\n  1 subscription of database shop: sub\n    \
             only a superuser may read subscriptions\n\n\
             It needs pg_restore 16 or newer. The commands are in /e/README.txt\n"
        );
    }
}
