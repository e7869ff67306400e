//! What was found damaged, each object once, with all that needs it.

use std::collections::HashMap;

use flexkeep_vault::{ContentHash, VaultError};

use super::error::DamagedObject;

/// Damaged objects of one database that are looked for before the search ends.
pub(crate) const MOST_DAMAGED: usize = 20;

#[derive(Default)]
pub(crate) struct Damage {
    pub(crate) objects: Vec<DamagedObject>,
    pub(crate) hashes: Vec<ContentHash>,
    places: HashMap<(ContentHash, Option<String>), usize>,
    /// Whether a search ended early.
    pub(crate) more: bool,
}

impl Damage {
    /// Notes a damaged object that `entry` of `database` needs.
    pub(crate) fn add(
        &mut self,
        hash: ContentHash,
        name: String,
        error: &VaultError,
        database: Option<&str>,
        entry: String,
    ) {
        let key = (hash, database.map(str::to_owned));
        if let Some(&place) = self.places.get(&key) {
            let entries = &mut self.objects[place].entries;
            if entries.last() != Some(&entry) {
                entries.push(entry);
            }
            return;
        }
        self.places.insert(key, self.objects.len());
        if !self.hashes.contains(&hash) {
            self.hashes.push(hash);
        }
        self.objects.push(DamagedObject {
            name,
            problem: problem(error),
            database: database.map(str::to_owned),
            entries: vec![entry],
        });
    }

    pub(crate) fn count_of(&self, database: &str) -> usize {
        let of = |object: &&DamagedObject| object.database.as_deref() == Some(database);
        self.objects.iter().filter(of).count()
    }
}

/// The problem without the object's name, which is told apart.
fn problem(error: &VaultError) -> String {
    match error {
        VaultError::DamagedChunk(damaged) => damaged.problem.clone(),
        VaultError::Damaged { problem, .. } => problem.clone(),
        VaultError::Store(error) => error.kind.to_string(),
        other => other.to_string(),
    }
}
