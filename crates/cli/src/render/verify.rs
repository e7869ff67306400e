//! The end of a verification.

use flexkeep_engine::{HurtBackup, ReportedDepth, VerifyReport};

use crate::render::text::{cell, plural};
use crate::render::units;

/// Damaged objects that a page names; `--json` has more.
const NAMED: usize = 20;

/// Tables that a page names of one database.
const ENTRIES: usize = 8;

/// What was looked at, what is damaged, and which backups it hurts.
pub(crate) fn page(report: &VerifyReport) -> String {
    let counts = &report.counts;
    let mut out = format!(
        "Verified {} in {}\n  {} read, {} of {} looked at{}\n",
        plural(counts.backups, "backup"),
        cell(&report.vault),
        plural(counts.meta_objects, "list"),
        units::count(counts.chunks_read),
        plural(counts.chunks, "chunk"),
        depth(report),
    );
    if let Some(left) = report.unreferenced.filter(|left| left.chunks > 0) {
        out.push_str(&format!(
            "  {} ({}) belong to no backup: of one that is being made, or was broken off\n",
            plural(left.chunks, "chunk"),
            units::bytes(left.bytes)
        ));
    }
    if report.is_sound() {
        out.push_str(match report.depth {
            ReportedDepth::All => "All of it is whole.\n",
            ReportedDepth::Sample { .. } => "All that was read is whole.\n",
            ReportedDepth::Sizes => "All is there; the content of the chunks was not read.\n",
        });
        return out;
    }
    out.push_str(&damage(report));
    out.push_str(&hurt(&report.hurt));
    out
}

fn depth(report: &VerifyReport) -> String {
    let bytes = units::bytes(report.counts.stored_bytes_read);
    match report.depth {
        ReportedDepth::All => format!(", every byte ({bytes})"),
        ReportedDepth::Sample { percent, seed } => {
            format!(", a sample of {percent} % ({bytes}; --seed {seed} draws it again)")
        }
        ReportedDepth::Sizes => " (only those of an unexpected length)".to_owned(),
    }
}

fn damage(report: &VerifyReport) -> String {
    if report.damaged.is_empty() && report.unreadable.is_empty() {
        return String::new();
    }
    let mut out = "\nDAMAGED\n".to_owned();
    for part in report.damaged.iter().take(NAMED) {
        out.push_str(&format!("  {}\n    {}\n", cell(&part.object), cell(&part.problem)));
    }
    let more = report.counts.damaged.saturating_sub(NAMED as u64);
    if more > 0 {
        out.push_str(&format!("  and {} more\n", units::count(more)));
    }
    for part in &report.unreadable {
        out.push_str(&format!("  {}\n    {}\n", cell(&part.object), cell(&part.problem)));
    }
    out
}

fn hurt(backups: &[HurtBackup]) -> String {
    if backups.is_empty() {
        return "\nNo readable backup needs what is damaged.\n".to_owned();
    }
    let mut out = "\nHURT: these backups cannot be restored whole\n".to_owned();
    for backup in backups {
        out.push_str(&format!("  {}\n", cell(&backup.backup)));
        for part in &backup.databases {
            let place = match &part.database {
                Some(database) => format!("database {}", cell(database)),
                None => "the whole server".to_owned(),
            };
            let names: Vec<_> = part.entries.iter().take(ENTRIES).map(|name| cell(name)).collect();
            let more = part.count.saturating_sub(names.len() as u64);
            let more =
                if more > 0 { format!(" and {} more", units::count(more)) } else { String::new() };
            out.push_str(&format!("    {place}: {}{more}\n", names.join(", ")));
        }
    }
    out.push_str(
        "Other databases and tables of them are whole. Remove what is damaged and still there from \
         the vault: a new backup then stores again what the server still has of it.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use flexkeep_engine::{
        DamagedPart, HurtDatabase, UnreadableManifest, Unreferenced, VerifiedCounts,
    };
    use jiff::Timestamp;

    use super::*;

    fn report() -> VerifyReport {
        VerifyReport {
            vault: "/srv/vault".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            depth: ReportedDepth::All,
            counts: VerifiedCounts {
                backups: 2,
                meta_objects: 5,
                chunks: 1000,
                chunks_read: 1000,
                stored_bytes_read: 20_000_000,
                raw_bytes_read: 80_000_000,
                damaged: 0,
            },
            damaged: Vec::new(),
            unreadable: Vec::new(),
            hurt: Vec::new(),
            unreferenced: None,
        }
    }

    #[test]
    fn a_sound_vault_is_said_to_be_only_what_was_read_of_it() {
        let page_of = |depth| page(&VerifyReport { depth, ..report() });
        assert!(page_of(ReportedDepth::All).ends_with("All of it is whole.\n"));
        let sample = page_of(ReportedDepth::Sample { percent: 5.0, seed: 7 });
        assert!(sample.contains("a sample of 5 % (20.0 MB; --seed 7 draws it again)"), "{sample}");
        assert!(sample.ends_with("All that was read is whole.\n"));
        assert!(page_of(ReportedDepth::Sizes).contains("was not read"));
    }

    #[test]
    fn damage_is_named_with_the_backups_that_it_hurts() {
        let mut report = report();
        report.counts.damaged = 30;
        report.damaged = (0..30)
            .map(|n| DamagedPart { object: format!("chunks/{n}"), problem: "flipped".to_owned() })
            .collect();
        report.unreadable = vec![UnreadableManifest {
            object: "backups/x/x-1.json".to_owned(),
            problem: "it belongs to the vault b".to_owned(),
        }];
        report.unreferenced = Some(Unreferenced { chunks: 3, bytes: 3000 });
        report.hurt = vec![HurtBackup {
            backup: "shop-1".to_owned(),
            databases: vec![HurtDatabase {
                database: Some("orders".to_owned()),
                entries: vec!["public.items".to_owned()],
                count: 3,
            }],
        }];
        let page = page(&report);
        for text in [
            "DAMAGED\n  chunks/0\n    flipped\n",
            "  and 10 more\n  backups/x/x-1.json\n    it belongs to the vault b\n",
            "  shop-1\n    database orders: public.items and 2 more\n",
            "3 chunks (3.00 kB) belong to no backup",
        ] {
            assert!(page.contains(text), "{text:?} is not in\n{page}");
        }
        assert!(!page.contains("whole.\n\nDAMAGED"));
    }
}
