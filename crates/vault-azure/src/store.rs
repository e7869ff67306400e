//! The store: one container.
//!
//! # Layout
//! A blob for each object, under the object's name; nothing else.
//!
//! # Consistency
//! Put Blob and Put Block List are atomic and durable when they answer, and conditions on them
//! (`If-None-Match: *`, `If-Match`) make creates and updates exclusive. A get reads one version:
//! each part after the first asks for the etag of the first, and a change starts it again.
//!
//! # Lost answers
//! A put that took effect although its answer was lost is tried again, and its own work is then in
//! its way. Each put has a drawn id, which the blob keeps in its metadata: found there, the put has
//! succeeded; another one's, and it has lost.

mod download;
mod list;
pub(crate) mod upload;

use std::fmt;
use std::sync::Arc;

use flexkeep_vault::store::{
    Etag, ObjectMeta, ObjectName, PutMode, Store, StoreError, StoreErrorKind, is_valid_name,
    is_valid_prefix,
};

use crate::client::{Container, PutHeaders};
use crate::failure::{BlobError, Failure};
use crate::options::UploadLimits;
use crate::place::ChunkTier;
use crate::runtime::BlobRuntime;
use download::Got;
use upload::PutFailure;

/// What the vault calls its chunks: those that get the tier.
const CHUNKS: &str = "chunks/";
/// What the vault calls its manifests: those that get the tags.
const MANIFESTS: &str = "backups/";

/// The [`Store`] contract on a container of block blobs. Made by [`crate::BlobPlace::open`].
pub struct BlobStore {
    pub(crate) container: Arc<Container>,
    pub(crate) runtime: Arc<BlobRuntime>,
    pub(crate) upload: UploadLimits,
    pub(crate) settings: Settings,
}

/// What a store knows of itself.
pub(crate) struct Settings {
    pub(crate) account: String,
    pub(crate) name: String,
    /// The container's URL without query.
    pub(crate) location: String,
    pub(crate) has_token: bool,
    pub(crate) tier: Option<ChunkTier>,
    pub(crate) tags: Option<String>,
}

impl Settings {
    /// The error for callers, with what to do about it.
    pub(crate) fn error(
        &self,
        operation: &'static str,
        object: &str,
        kind: StoreErrorKind,
        error: BlobError,
    ) -> StoreError {
        let error = match self.advice(&kind, &error) {
            Some(advice) => error.advise(advice),
            None => error,
        };
        StoreError {
            operation,
            object: object.to_owned(),
            location: self.location.clone(),
            kind,
            source: Some(Box::new(error)),
        }
    }

    pub(crate) fn failed(
        &self,
        operation: &'static str,
        object: &str,
        failure: Failure,
    ) -> StoreError {
        self.error(operation, object, failure.kind(), failure.into_error())
    }

    fn advice(&self, kind: &StoreErrorKind, error: &BlobError) -> Option<String> {
        let Self { account, name, .. } = self;
        let code = error.code().unwrap_or_default();
        Some(match kind {
            StoreErrorKind::NoSuchPlace => format!(
                "make the container: az storage container create --account-name {account} --name \
                 {name} --auth-mode login"
            ),
            _ if code.starts_with("BlobImmutable") => "an immutability policy or a legal hold \
                 protects it until that ends; where runs keep what changes there must be none"
                .to_owned(),
            _ if code.contains("Lease") => "somebody holds a lease on it; break that".to_owned(),
            _ if code == "BlobArchived" => {
                "its access tier is Archive; bring it back to Hot, Cool \
                 or Cold first"
                    .to_owned()
            }
            StoreErrorKind::PermissionDenied if error.status().is_none() => return None,
            StoreErrorKind::PermissionDenied if self.has_token => {
                let role = if self.tags.is_some() { "Owner" } else { "Contributor" };
                format!(
                    "the identity needs the role Storage Blob Data {role} on the container {name}, \
                     and the network rules of the account {account} must let it in"
                )
            }
            StoreErrorKind::PermissionDenied => format!(
                "the shared access signature may have expired or be cut off, or it lacks rights: it \
                 needs read, create, write, delete and list{} on the blobs of the container {name}",
                if self.tags.is_some() { ", and tags," } else { "" }
            ),
            _ => return None,
        })
    }
}

impl BlobStore {
    fn plain_error(
        &self,
        operation: &'static str,
        object: &str,
        kind: StoreErrorKind,
    ) -> StoreError {
        let location = self.settings.location.clone();
        StoreError { operation, object: object.to_owned(), location, kind, source: None }
    }

    fn check_name(&self, operation: &'static str, name: &str) -> Result<(), StoreError> {
        if is_valid_name(name) {
            return Ok(());
        }
        Err(self.plain_error(operation, name, StoreErrorKind::BadName))
    }

    fn headers(&self, name: &str, mode: PutMode) -> PutHeaders {
        PutHeaders {
            id: uuid::Uuid::new_v4().simple().to_string(),
            mode,
            tier: self.settings.tier.filter(|_| name.starts_with(CHUNKS)),
            tags: self.settings.tags.clone().filter(|_| name.starts_with(MANIFESTS)),
        }
    }
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.settings.location)
    }
}

impl Store for BlobStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        let operation = mode.operation();
        self.check_name(operation, name)?;
        let refused = match mode {
            PutMode::Create => StoreErrorKind::AlreadyExists,
            PutMode::Overwrite | PutMode::Update(_) => StoreErrorKind::Changed,
        };
        let put = self.headers(name, mode);
        match upload::put(self, name, body, &put) {
            Ok(etag) => Ok(etag),
            Err(PutFailure::Conflict) => Err(self.plain_error(operation, name, refused)),
            Err(PutFailure::Failed(failure)) => Err(self.settings.failed(operation, name, failure)),
        }
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.check_name("read", name)?;
        let (container, blob) = (Arc::clone(&self.container), name.to_owned());
        let got = self
            .runtime
            .wait(async move { download::get(&container, &blob, limit_bytes).await })
            .map_err(|failure| self.settings.failed("read", name, failure))?;
        match got {
            Got::Body(body) => Ok(body),
            Got::TooLarge(bytes) => {
                let kind = StoreErrorKind::TooLarge { bytes, limit_bytes };
                Err(self.plain_error("read", name, kind))
            }
        }
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        self.check_name("stat", name)?;
        let (container, blob) = (Arc::clone(&self.container), name.to_owned());
        match self.runtime.wait(async move { container.properties(&blob).await }) {
            Ok(found) => {
                let name = name.to_owned();
                Ok(Some(ObjectMeta { name, bytes: found.bytes, etag: found.etag }))
            }
            Err(failure) if failure.no_such_blob() => Ok(None),
            Err(failure) => Err(self.settings.failed("stat", name, failure)),
        }
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        if !is_valid_prefix(prefix) {
            return Err(self.plain_error("list", prefix, StoreErrorKind::BadName));
        }
        list::list(self, prefix, each)
            .map_err(|failure| self.settings.failed("list", prefix, failure))
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        self.check_name("delete", name)?;
        let (container, blob) = (Arc::clone(&self.container), name.to_owned());
        self.runtime
            .wait(async move { container.delete(&blob).await })
            .map_err(|failure| self.settings.failed("delete", name, failure))
    }

    fn location(&self) -> String {
        self.settings.location.clone()
    }
}
