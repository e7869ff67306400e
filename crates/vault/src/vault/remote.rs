//! Places that are not folders: who opens their stores.

use std::fmt;

use super::{PlaceUrl, VaultError};
use crate::store::SharedStore;

/// The two stores of a vault.
#[derive(Clone, Debug)]
pub struct Stores {
    /// What is write-once.
    pub data: SharedStore,
    /// What changes while backups are made.
    pub runs: SharedStore,
}

/// Opens the stores of places that are reached by a URL. A program makes one when it starts, with
/// the credentials that it has.
pub trait RemoteStores: Send + Sync + fmt::Debug {
    /// Opens the stores at `url`; with `create`, makes what is missing of the place itself.
    ///
    /// # Errors
    /// `BadPlace` if the URL names nothing that this can open, or those of the store.
    fn open(&self, url: &PlaceUrl, create: bool) -> Result<Stores, VaultError>;
}

/// For programs that know only folders.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldersOnly;

impl RemoteStores for FoldersOnly {
    fn open(&self, url: &PlaceUrl, _create: bool) -> Result<Stores, VaultError> {
        let reason = "this program opens only folders".to_owned();
        Err(VaultError::BadPlace { place: url.to_string(), reason })
    }
}
