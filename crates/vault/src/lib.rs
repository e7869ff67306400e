//! Content-addressed chunks, write-once manifests, and the stores that keep them.

pub mod contents;
mod hash;
pub mod manifest;
pub mod store;

pub use hash::{BadHash, ContentHash};
