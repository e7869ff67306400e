//! A vault in Azure Blob Storage.
