//! A vault in Azure Blob Storage.
//!
//! [`BlobPlace`] is a container's URL as users write it; [`BlobPlace::open`] makes the two stores
//! of a vault out of it, one for what is written once and one for what changes; [`AzureStores`]
//! does so for a program, with what its environment gives. What a store
//! promises is written at [`flexkeep_vault::store::Store`]; docs/azure-blob.md says how it is kept
//! on Azure, and which rights it takes.

mod checksum;
mod client;
mod failure;
mod open;
mod options;
mod place;
mod retry;
mod runtime;
mod sas;
mod store;
mod stores;
mod tags;
mod target;

pub use failure::BlobError;
pub use open::BlobStores;
pub use options::{BlobOptions, RetryLimits, UploadLimits};
pub use place::{BadPlace, BlobPlace, ChunkTier};
pub use sas::{BadSas, Sas};
pub use store::BlobStore;
pub use stores::{AzureStores, EXPORT_SAS_VARIABLE, RUNS_SAS_VARIABLE, SAS_VARIABLE};
pub use target::BlobTarget;
