//! `--vault`: where the backups are.

use std::sync::{Arc, OnceLock};

use flexkeep_vault::store::StoreErrorKind;
use flexkeep_vault::{Place, RemoteStores, Vault, VaultError};
use flexkeep_vault_azure::AzureStores;

use crate::args::VaultArgs;
use crate::env_vars::{self, FLEXKEEP_VAULT};
use crate::exit::{Exit, Failure};
use crate::render::shell;

/// Opens vaults that are not folders; with its environment, as no option holds a secret.
pub(crate) fn remote() -> Arc<dyn RemoteStores> {
    azure() as Arc<dyn RemoteStores>
}

/// The same for what else is in containers.
pub(crate) fn azure() -> Arc<AzureStores> {
    static STORES: OnceLock<Arc<AzureStores>> = OnceLock::new();
    Arc::clone(STORES.get_or_init(|| Arc::new(AzureStores::of_process())))
}

/// A vault's place, and as the user wrote it.
pub(crate) struct Chosen {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// The place of `--vault`, or of the environment.
pub(crate) fn choose(args: &VaultArgs) -> Result<Chosen, Failure> {
    let text = match &args.vault {
        Some(text) => text.clone(),
        None => env_vars::get(FLEXKEEP_VAULT)?.ok_or_else(|| {
            Failure::usage("it is not said where the vault is").hint(format!(
                "give --vault FOLDER or --vault https://..., or set {FLEXKEEP_VAULT}"
            ))
        })?,
    };
    Ok(Chosen { place: text.parse()?, text })
}

impl Chosen {
    /// The option that names this vault, for commands shown to the user.
    pub(crate) fn option(&self) -> String {
        format!("--vault {}", shell::quote(&self.shown()))
    }

    /// As the user wrote it, but for a URL's secrets.
    fn shown(&self) -> String {
        match &self.place {
            Place::Folder(_) => self.text.clone(),
            url => url.to_string(),
        }
    }

    /// Opens the vault, which must be there.
    pub(crate) fn open(&self) -> Result<Vault, Failure> {
        Vault::open(&self.place, remote().as_ref()).map_err(|error| match &error {
            VaultError::NotAVault { place } => self.missing(place),
            VaultError::Store(inner) if inner.kind == StoreErrorKind::NoSuchPlace => {
                let Place::Folder(path) = &self.place else {
                    return Failure { exit: Exit::Usage, ..error.into() };
                };
                if path.exists() {
                    // A file: the error says so.
                    return Failure { exit: Exit::Usage, ..error.into() };
                }
                self.missing(&self.shown())
            }
            _ => error.into(),
        })
    }

    fn missing(&self, place: &str) -> Failure {
        Failure::usage(format!("there is no vault in {place}"))
            .hint("check the place; the first `flexkeep backup` into it makes the vault")
    }

    /// Opens the vault, or makes it; the flag says which.
    pub(crate) fn open_or_create(&self) -> Result<(Vault, bool), Failure> {
        match Vault::open(&self.place, remote().as_ref()) {
            Ok(vault) => return Ok((vault, false)),
            Err(error) if !is_missing(&error) => return Err(error.into()),
            Err(_) => {}
        }
        match Vault::open_or_create(&self.place, remote().as_ref()) {
            Ok(vault) => Ok((vault, true)),
            Err(error) if is_missing(&error) => Err(Failure { exit: Exit::Usage, ..error.into() }),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether there is no vault, rather than one that can't be read.
fn is_missing(error: &VaultError) -> bool {
    match error {
        VaultError::NotAVault { .. } => true,
        VaultError::Store(error) => error.kind == StoreErrorKind::NoSuchPlace,
        _ => false,
    }
}
