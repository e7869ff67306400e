//! Why a vault could not be verified.

use flexkeep_vault::VaultError;

/// Why a vault could not be verified to the end. Damage is no error but a result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The vault could not be read.
    #[error(transparent)]
    Vault(VaultError),
    /// A check of nothing must not look like a success.
    #[error("there is no backup in {place}, so nothing was verified")]
    NothingToVerify {
        /// The vault's place.
        place: String,
    },
    /// It was asked to stop.
    #[error("stopped before everything was verified")]
    Cancelled,
}
