//! What a backup does not hold.

use flexkeep_vault::manifest::{Loss, Manifest};

use crate::render::text::{cell, plural};
use crate::render::units;

/// Objects named for one loss; the manifest and `--json` have more.
const NAMED: usize = 10;

/// In one word.
pub(crate) fn status(manifest: &Manifest) -> &'static str {
    if manifest.losses.is_empty() { "complete" } else { "with losses" }
}

/// In one word for programs.
pub(crate) fn status_key(manifest: &Manifest) -> &'static str {
    if manifest.losses.is_empty() { "complete" } else { "with_losses" }
}

/// The block about losses, empty when there are none.
pub(crate) fn block(losses: &[Loss]) -> String {
    if losses.is_empty() {
        return String::new();
    }
    let mut out = "NOT BACKED UP\n".to_owned();
    for loss in losses {
        let place = match &loss.database {
            Some(database) => format!("database {}", cell(database)),
            None => "the whole server".to_owned(),
        };
        out.push_str(&format!("  {} of {place}", plural(loss.count, &cell(&loss.kind))));
        let named = loss.objects.len().min(NAMED);
        if named > 0 {
            let names: Vec<_> = loss.objects[..named].iter().map(|name| cell(name)).collect();
            out.push_str(&format!(": {}", names.join(", ")));
            let rest = loss.count.saturating_sub(named as u64);
            if rest > 0 {
                out.push_str(&format!(" and {} more", units::count(rest)));
            }
        }
        out.push_str(&format!("\n    {}\n", cell(&loss.reason)));
    }
    out
}

/// The block about notes, empty when there are none.
pub(crate) fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let lines: String = notes.iter().map(|note| format!("  {}\n", cell(note))).collect();
    format!("Notes\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_names_what_where_how_many_and_why() {
        let objects: Vec<String> = (1..=12).map(|oid| oid.to_string()).collect();
        let loss = Loss {
            database: Some("shop".to_owned()),
            kind: "large object".to_owned(),
            objects,
            count: 2012,
            reason: "permission denied for large object 1".to_owned(),
        };
        let one = Loss { database: None, objects: Vec::new(), count: 1, ..loss.clone() };
        assert_eq!(
            block(&[loss, one]),
            "NOT BACKED UP\n  \
             2,012 large objects of database shop: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2,002 more\n    \
             permission denied for large object 1\n  \
             1 large object of the whole server\n    \
             permission denied for large object 1\n"
        );
        assert_eq!(block(&[]), "");
    }
}
