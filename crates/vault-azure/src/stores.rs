//! Opens the vaults that a program's places name, with what its environment gives.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use azure_core::credentials::TokenCredential;
use flexkeep_azure_identity::IdentityError;
use flexkeep_vault::{PlaceUrl, RemoteStores, Stores, VaultError};

use crate::options::BlobOptions;
use crate::place::BlobPlace;
use crate::sas::Sas;
use crate::target::BlobTarget;

/// A signature for containers, where the URL of a vault has none.
pub const SAS_VARIABLE: &str = "AZURE_STORAGE_SAS_TOKEN";

/// A signature for the container of what changes, where the other one has no rights there.
pub const RUNS_SAS_VARIABLE: &str = "FLEXKEEP_RUNS_SAS_TOKEN";

/// A signature for the container that an export goes into, where its URL has none.
pub const EXPORT_SAS_VARIABLE: &str = "FLEXKEEP_EXPORT_SAS_TOKEN";

/// Vaults that are kept open; a function app has one or two.
const KEPT: usize = 4;

/// Reads a variable of the environment.
type Env = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Opens vaults in Azure Blob Storage, and keeps those that it has opened: with them their
/// connections and the identity's tokens.
pub struct AzureStores {
    env: Env,
    credential: OnceLock<Arc<dyn TokenCredential>>,
    open: Mutex<Vec<Opened>>,
}

struct Opened {
    url: PlaceUrl,
    /// Whether missing containers were made.
    made: bool,
    stores: Stores,
}

impl fmt::Debug for AzureStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureStores").finish_non_exhaustive()
    }
}

impl AzureStores {
    /// With `env` in place of the process's environment. Nothing is read before a vault is opened.
    pub fn new(env: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { env: Box::new(env), credential: OnceLock::new(), open: Mutex::new(Vec::new()) }
    }

    /// With the environment of the process.
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    /// The signature in a variable.
    fn sas(&self, name: &str, place: &BlobPlace) -> Result<Option<Sas>, VaultError> {
        let text = (self.env)(name).filter(|text| !text.trim().is_empty());
        text.map(|text| Sas::parse(&text)).transpose().map_err(|error| VaultError::BadPlace {
            place: place.to_string(),
            reason: format!("{name} is no shared access signature: {error}"),
        })
    }

    /// The identity, made once.
    fn credential(&self) -> Result<Arc<dyn TokenCredential>, IdentityError> {
        if let Some(known) = self.credential.get() {
            return Ok(Arc::clone(known));
        }
        let made = flexkeep_azure_identity::credential(&|name| (self.env)(name))?.credential;
        Ok(Arc::clone(self.credential.get_or_init(|| made)))
    }
}

impl AzureStores {
    /// Opens the container, or the folder in one, that an export goes into. From a vault that is in
    /// a container too, the service may copy by itself.
    ///
    /// # Errors
    /// `BadPlace` if the URL names no container or there is no right to be had; those of the store.
    pub fn open_target(
        &self,
        url: &PlaceUrl,
        vault: Option<&PlaceUrl>,
    ) -> Result<BlobTarget, VaultError> {
        let bad = |reason: String| VaultError::BadPlace { place: url.to_string(), reason };
        let target =
            BlobPlace::parse_target(url.reveal()).map_err(|error| bad(error.to_string()))?;
        let vault = vault.and_then(|vault| BlobPlace::parse(vault.reveal()).ok());
        let sas = match self.sas(EXPORT_SAS_VARIABLE, &target.0)? {
            Some(sas) => Some(sas),
            None => self.sas(SAS_VARIABLE, &target.0)?,
        };
        let options = BlobOptions { sas, ..BlobOptions::default() };
        let vault_options =
            BlobOptions { sas: self.sas(SAS_VARIABLE, &target.0)?, ..BlobOptions::default() };
        let has_sas =
            |place: &BlobPlace, options: &BlobOptions| place.has_sas() || options.sas.is_some();
        let credential = if has_sas(&target.0, &options)
            && vault.as_ref().is_none_or(|vault| has_sas(vault, &vault_options))
        {
            None
        } else {
            Some(self.credential().map_err(|error| bad(error.to_string()))?)
        };
        let vault = vault.as_ref().map(|vault| (vault, &vault_options));
        Ok(BlobTarget::open(&target, &options, vault, credential)?)
    }
}

impl RemoteStores for AzureStores {
    fn open(&self, url: &PlaceUrl, create: bool) -> Result<Stores, VaultError> {
        // Held while it is opened: two threads that open one vault at once share it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().find(|one| one.url == *url && (one.made || !create));
        if let Some(known) = known {
            return Ok(known.stores.clone());
        }
        let bad = |reason: String| VaultError::BadPlace { place: url.to_string(), reason };
        let place = BlobPlace::parse(url.reveal()).map_err(|error| bad(error.to_string()))?;
        let options = BlobOptions {
            sas: self.sas(SAS_VARIABLE, &place)?,
            runs_sas: self.sas(RUNS_SAS_VARIABLE, &place)?,
            create_containers: create,
            ..BlobOptions::default()
        };
        let credential = if place.has_sas() || options.sas.is_some() {
            None
        } else {
            Some(self.credential().map_err(|error| bad(error.to_string()))?)
        };
        let opened = place.open(credential, &options)?;
        let stores = Stores { data: opened.data, runs: opened.runs };
        open.retain(|one| one.url != *url);
        if open.len() >= KEPT {
            open.remove(0);
        }
        open.push(Opened { url: url.clone(), made: create, stores: stores.clone() });
        Ok(stores)
    }
}
