//! The end of a backup.

use flexkeep_vault::manifest::{Manifest, Totals};

use crate::render::losses;
use crate::render::text::plural;
use crate::render::units;

/// What was backed up, and what was not.
pub(crate) fn summary(manifest: &Manifest, vault_option: &str) -> String {
    let totals = manifest.totals;
    let duration = units::between(manifest.started, manifest.sealed);
    let speed = totals.raw_bytes as f64 / duration.as_secs_f64().max(0.001);
    let mut out = format!("Sealed {} ({})\n", manifest.backup, losses::status(manifest));
    let mut line = |name: &str, value: String| out.push_str(&format!("  {name:<10} {value}\n"));
    line("databases", units::count(manifest.databases.len() as u64));
    line("contents", contents(&totals));
    line("data", units::bytes(totals.raw_bytes));
    line("stored", format!("{} for this backup", units::bytes(totals.stored_bytes)));
    line("new", new(&totals));
    line("time", format!("{}, {}/s", units::duration(duration), units::bytes(speed as u64)));
    let retried = manifest.databases.iter().filter(|one| one.attempts > 1).count();
    if retried > 0 {
        let what = plural(retried as u64, "database");
        line("attempts", format!("{what} took more than one; `show` tells which"));
    }
    for block in [losses::notes(&manifest.notes), losses::block(&manifest.losses)] {
        if !block.is_empty() {
            out.push_str(&format!("\n{block}"));
        }
    }
    out.push_str(&format!("\nLook at it: flexkeep show {} {vault_option}\n", manifest.backup));
    out
}

/// Tables, rows and large objects.
pub(crate) fn contents(totals: &Totals) -> String {
    let mut text = format!("{}, {}", plural(totals.tables, "table"), plural(totals.rows, "row"));
    if totals.large_objects > 0 {
        text.push_str(&format!(", {}", plural(totals.large_objects, "large object")));
    }
    text
}

/// What the backup added to the vault.
pub(crate) fn new(totals: &Totals) -> String {
    let new = units::bytes(totals.new_stored_bytes);
    match units::percent(totals.new_stored_bytes, totals.stored_bytes) {
        Some(percent) => format!("{new} added to the vault ({percent} of stored)"),
        None => format!("{new} added to the vault"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::show::tests::example;

    #[test]
    fn the_summary_has_sizes_speed_and_losses() {
        let text = summary(&example(), "--vault /srv/vault");
        for part in [
            "Sealed shop-20261122T225300Z (with losses)\n",
            "  contents   3 tables, 1,234,567 rows, 2 large objects\n",
            "  data       1.00 GB\n",
            "  stored     250 MB for this backup\n",
            "  new        25.0 MB added to the vault (10 % of stored)\n",
            "  time       1 m 40 s, 10.0 MB/s\n",
            "  attempts   1 database took more than one",
            "\nNotes\n  database \"scratch\" was left out as asked\n",
            "\nNOT BACKED UP\n  1 subscription of database shop: sub\n",
            "flexkeep show shop-20261122T225300Z --vault /srv/vault\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_backup_of_nothing_has_no_percentage() {
        assert_eq!(new(&Totals::default()), "0 B added to the vault");
        assert_eq!(contents(&Totals::default()), "0 tables, 0 rows");
    }
}
