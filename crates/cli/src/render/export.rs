//! The end of an export.

use flexkeep_engine::{ExportFormat, ExportReport};
use flexkeep_vault::manifest::Manifest;

use crate::render::losses;
use crate::render::table::{Align, Table};
use crate::render::text::cell;
use crate::render::units;

/// What was written, and what to do with it.
pub(crate) fn summary(manifest: &Manifest, report: &ExportReport) -> String {
    let stdout = report.folder == "-";
    let place = if stdout { "standard output".into() } else { cell(&report.folder) };
    let mut out = format!("Exported {} into {place}\n", manifest.backup);
    let mut table =
        Table::new(&[("FILE", Align::Left), ("SIZE", Align::Right), ("DATABASE", Align::Left)]);
    let mut sum = 0_u64;
    for file in &report.files {
        sum = sum.saturating_add(file.bytes);
        let name = file.path.strip_prefix(&report.folder).unwrap_or(&file.path);
        let name = if stdout { &file.path } else { name.trim_start_matches('/') };
        let database = file.database.clone().unwrap_or_default();
        table.row(vec![name.to_owned(), units::bytes(file.bytes), database]);
    }
    out.push_str(&table.render("  "));
    out.push_str(&format!("{} in all; {}\n", units::bytes(sum), checked(report)));
    for block in [losses::notes(&report.notes), losses::block(&manifest.losses)] {
        if !block.is_empty() {
            out.push_str(&format!("\n{block}"));
        }
    }
    let needs = match report.format {
        ExportFormat::Plain => format!("It is SQL for PostgreSQL {}", report.pg_restore_major),
        _ => format!("It needs pg_restore {}", report.pg_restore_major),
    };
    out.push_str(&format!("\n{needs} or newer."));
    if !stdout {
        let readme = format!("{}/README.txt", report.folder.trim_end_matches('/'));
        out.push_str(&format!(" The commands are in {}", cell(&readme)));
    }
    out.push('\n');
    out
}

/// What was read, and what the storage service copied.
fn checked(report: &ExportReport) -> String {
    let transfers = || report.files.iter().filter_map(|file| file.transfer.as_ref());
    let copied: u64 = transfers().map(|one| one.copied_bytes).sum();
    let mut text = if copied == 0 {
        "every chunk was verified.".to_owned()
    } else {
        format!(
            "{} of them the storage service copied by itself:\nthese were not read, only their \
             lengths compared; `flexkeep verify` reads them in the vault.",
            units::bytes(copied)
        )
    };
    if let Some(reason) = transfers().find_map(|one| one.refused.as_ref()) {
        text.push_str(&format!(
            "\nAll was sent, as the storage service did not copy: {}",
            cell(reason)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use flexkeep_engine::{ExportedFile, Transfer};

    use super::*;
    use crate::render::show::tests::example;

    #[test]
    fn the_summary_names_files_the_oldest_pg_restore_and_losses() {
        let file = |name: &str, database: Option<&str>, bytes| ExportedFile {
            path: format!("/e/{name}"),
            database: database.map(str::to_owned),
            bytes,
            transfer: None,
        };
        let report = ExportReport {
            folder: "/e".into(),
            format: ExportFormat::Custom,
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
    #[test]
    fn what_a_storage_service_copied_is_told_apart() {
        let transfer = |copied_bytes, refused: Option<&str>| {
            let refused = refused.map(str::to_owned);
            Some(Transfer { copied_bytes, sent_bytes: 1000, refused })
        };
        let report = |transfer| ExportReport {
            folder: "https://a.blob.core.windows.net/c".into(),
            format: ExportFormat::Custom,
            files: vec![ExportedFile {
                path: "https://a.blob.core.windows.net/c/shop.dump".into(),
                database: Some("shop".into()),
                bytes: 20_000_001,
                transfer,
            }],
            notes: Vec::new(),
            pg_restore_major: 17,
        };
        let text = summary(&example(), &report(transfer(19_000_000, None)));
        assert!(text.contains("\n  shop.dump  20.0 MB  shop"), "{text}");
        assert!(text.contains("19.0 MB of them the storage service copied by itself"), "{text}");
        assert!(!text.contains("every chunk was verified"), "{text}");
        let text = summary(&example(), &report(transfer(0, Some("403 no"))));
        assert!(
            text.contains("every chunk was verified.\nAll was sent") && text.contains("403 no")
        );
    }
}
