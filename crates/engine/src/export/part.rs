//! A part of a database: chosen schemas and tables with what they need.

use flexkeep_pg_archive::Toc;
use flexkeep_vault::manifest::DatabaseSummary;

use super::ExportError;
use crate::options::ExportOptions;
use crate::restore::RestoreError;
use crate::restore::select;

/// Names that a note lists.
const SHOWN: usize = 10;

/// The table of contents of the chosen part, and what is to be said of it.
pub(super) fn of(
    toc: Toc,
    database: &DatabaseSummary,
    options: &ExportOptions,
) -> Result<(Toc, Vec<String>), ExportError> {
    let (schemas, tables) = (&options.schemas, &options.tables);
    let part = select::for_archive(&toc, &database.name, schemas, tables).map_err(unknown)?;
    let (header, entries) = toc.into_parts();
    let kept = entries.into_iter().zip(part.wanted);
    let kept = kept.filter_map(|(entry, wanted)| wanted.then_some(entry)).collect();
    let toc = Toc::new(header, kept).map_err(|error| {
        ExportError::Internal(format!("a part has no table of contents: {error}"))
    })?;
    let place = format!("database {:?}", database.name);
    let mut notes = vec![format!("{place}: only what was chosen, without large objects")];
    if !part.also.is_empty() {
        notes.push(format!("{place}: also, as it is needed: {}", list(&part.also)));
    }
    let skipped: Vec<String> =
        part.skipped.iter().map(|one| format!("{} ({})", one.object, one.reason)).collect();
    if !skipped.is_empty() {
        notes.push(format!("{place}: left out: {}", list(&skipped)));
    }
    Ok((toc, notes))
}

fn list(names: &[String]) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len().min(SHOWN)].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

fn unknown(error: RestoreError) -> ExportError {
    match error {
        RestoreError::NoSuchObject { place, kind, name, near } => {
            ExportError::NoSuchObject { place, kind, name, near }
        }
        other => ExportError::Options(other.to_string()),
    }
}
