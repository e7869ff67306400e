//! Batons: who holds a snapshot, and who held it.

use std::collections::HashSet;

use flexkeep_vault::manifest::Holder;
use flexkeep_vault::store::PutMode;

use super::journals;
use super::state::{self, Baton, RunObjects};
use crate::error::BackupError;

/// Holders that the manifest lists; of more, the first and the last.
const HOLDERS_LISTED: usize = 1000;

impl RunObjects {
    pub(super) fn put_baton(&self, folder: &str, baton: &Baton) -> Result<(), BackupError> {
        let name = state::baton_name(folder, &baton.holder);
        self.put(&name, baton, PutMode::Overwrite)?;
        Ok(())
    }

    /// Says that a lane lets go of a snapshot. Its baton goes elsewhere: those who look for one that
    /// is held shall not have to read those of all that ever were.
    pub(super) fn leave_baton(&self, folder: &str, holder: &Holder) -> Result<(), BackupError> {
        let baton = Baton { holder: holder.clone(), unlocked: Vec::new(), left: true };
        self.put(&state::left_name(folder, holder), &baton, PutMode::Overwrite)?;
        self.remove(&state::baton_name(folder, holder))
    }

    /// The batons of a snapshot that nobody has let go, newest first.
    pub(super) fn batons(&self, folder: &str) -> Result<Vec<Baton>, BackupError> {
        let mut batons = Vec::new();
        for name in self.names(&state::baton_prefix(folder))?.iter().rev() {
            batons.extend(self.get::<Baton>(name)?.filter(|baton| !baton.left));
        }
        Ok(batons)
    }

    /// Who held a snapshot, in the order of their coming.
    pub(super) fn holders(&self, folder: &str) -> Result<Vec<Holder>, BackupError> {
        let mut names = self.names(&state::left_prefix(folder))?;
        // Those who are still there, or died.
        names.extend(self.names(&state::baton_prefix(folder))?);
        let batons = journals::get_all::<Baton>(self, &names)?;
        let mut holders: Vec<Holder> =
            batons.into_iter().flatten().map(|baton| baton.holder).collect();
        // Who was killed while it left has said both.
        let mut seen = HashSet::new();
        holders.retain(|holder| seen.insert(holder.baton.clone()));
        holders.sort_by_key(|holder| holder.since);
        if holders.len() > HOLDERS_LISTED {
            holders.drain(HOLDERS_LISTED / 2..holders.len() - HOLDERS_LISTED / 2);
        }
        Ok(holders)
    }
}
