//! Where an export goes: a container, or a folder in one, whose blobs are put together from blocks
//! that are sent, or that the service copies from the vault by itself.
//!
//! # Lost answers
//! A block that is sent or copied again replaces itself. A commit whose answer was lost is tried
//! again; the blob's metadata then tell whether it had taken effect, as with every other put.
//!
//! # Secrets
//! The source of a copy needs a right of its own: a signature in its URL, or a token in a header.
//! Both go to the service only; a failure keeps status, code and the service's words.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential};
use azure_core::http::Url;
use azure_core::time::OffsetDateTime;
use flexkeep_vault::store::{
    BlockLimits, BlockStore, BlockUpload, CopyRefused, CopySource, PutMode, StoreError,
    StoreErrorKind,
};

use crate::client::{CopyUrl, PutHeaders};
use crate::failure::{BlobError, Failure};
use crate::open::{Shared, create_container};
use crate::options::{BlobOptions, RetryLimits};
use crate::place::{BlobPlace, ChunkTier};
use crate::sas::Sas;
use crate::store::BlobStore;
use crate::store::upload::{PutFailure, settle};

/// Most blocks of a blob.
const MOST_BLOCKS: usize = 50_000;

/// Longest block of Put Block From URL, bytes.
const MOST_COPIED_BYTES: u64 = 4000 << 20;

/// How long a copy is tried again: its bytes can be sent instead. The first one shows whether the
/// service copies at all.
const FIRST_COPY_PATIENCE: Duration = Duration::from_secs(5);
const COPY_PATIENCE: Duration = Duration::from_secs(60);

/// A token is renewed when it has less than this left.
const TOKEN_RESERVE: Duration = Duration::from_secs(300);

/// What tokens for storage are asked for.
const STORAGE_SCOPE: &str = "https://storage.azure.com/.default";

/// A container, or a folder in one, that an export is written into. Made by
/// [`BlobTarget::open`].
pub struct BlobTarget {
    store: Arc<BlobStore>,
    retry: RetryLimits,
    /// Whether the service has copied a block.
    has_copied: AtomicBool,
    /// Without a slash at the end; empty for the container itself.
    folder: String,
    tier: Option<ChunkTier>,
    own: Source,
    vault: Option<Source>,
}

/// A container that blocks are copied from, and the right to read it.
struct Source {
    location: String,
    right: Right,
}

#[derive(Clone)]
enum Right {
    Sas(Sas),
    Token(Arc<Tokens>),
}

/// Tokens that the service shows to the source.
struct Tokens {
    credential: Arc<dyn TokenCredential>,
    last: Mutex<Option<AccessToken>>,
}

impl BlobTarget {
    /// Opens `target`, a place of [`BlobPlace::parse_target`] with its folder. The signature is that
    /// of the URL, else that of `options`, else `credential` is used; so it is for `vault`, the
    /// vault's place and its options, from which the service may copy. Makes the container if the
    /// options ask for it.
    ///
    /// # Errors
    /// If there is no right to be had, or the container can't be made.
    pub fn open(
        target: &(BlobPlace, String),
        options: &BlobOptions,
        vault: Option<(&BlobPlace, &BlobOptions)>,
        credential: Option<Arc<dyn TokenCredential>>,
    ) -> Result<Self, StoreError> {
        let (place, folder) = target;
        let shared = Shared::new(place, credential.clone(), options)
            .map_err(|error| place.open_error(StoreErrorKind::Other, error))?;
        let sas = place.sas.as_ref().or(options.sas.as_ref());
        let store = place.store(&shared, place.container(), sas, options)?;
        if options.create_containers {
            create_container(&store)?;
        }
        let tokens =
            credential.map(|credential| Arc::new(Tokens { credential, last: Mutex::new(None) }));
        let source = |place: &BlobPlace, sas: Option<&Sas>| {
            let right = match (sas, &tokens) {
                (Some(sas), _) => Right::Sas(sas.clone()),
                // A token goes over https only.
                (None, Some(tokens)) if place.is_https() => Right::Token(Arc::clone(tokens)),
                _ => return None,
            };
            Some(Source { location: place.location(place.container()), right })
        };
        let own = source(place, sas).ok_or_else(|| {
            let error = BlobError::new("there is neither a signature nor an identity for it");
            place.open_error(StoreErrorKind::PermissionDenied, error)
        })?;
        let vault = vault.and_then(|(place, options)| {
            source(place, place.sas.as_ref().or(options.sas.as_ref()))
        });
        let (retry, has_copied) = (options.retry.clone(), AtomicBool::new(false));
        let (folder, tier) = (folder.clone(), place.tier);
        Ok(Self { store, retry, has_copied, folder, tier, own, vault })
    }

    fn patience(&self) -> RetryLimits {
        let has_copied = self.has_copied.load(Ordering::Relaxed);
        let total = if has_copied { COPY_PATIENCE } else { FIRST_COPY_PATIENCE };
        RetryLimits { total: total.min(self.retry.total), ..self.retry.clone() }
    }

    fn path(&self, name: &str) -> String {
        if self.folder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder) }
    }

    fn failed(&self, operation: &'static str, name: &str, failure: Failure) -> StoreError {
        self.store.settings.failed(operation, &self.path(name), failure)
    }

    /// The container that it copies from, and the name in it.
    fn source(&self, source: &CopySource<'_>) -> Result<(&Source, String), Failure> {
        match source {
            CopySource::Vault { name, .. } => {
                let vault = self.vault.as_ref().ok_or_else(|| {
                    Failure::nonsense("the vault is in no container that the service can read")
                })?;
                Ok((vault, (*name).to_owned()))
            }
            CopySource::Own { name, .. } => Ok((&self.own, self.path(name))),
        }
    }
}

impl Source {
    async fn url(&self, name: &str, source: &CopySourceRange) -> Result<CopyUrl, Failure> {
        let bad = || Failure::nonsense("the source makes no URL");
        let mut url = Url::parse(&self.location).map_err(|_| bad())?;
        url.path_segments_mut().map_err(|()| bad())?.extend(name.split('/'));
        let authorization = match &self.right {
            Right::Sas(sas) => {
                url.set_query(Some(sas.query()));
                None
            }
            Right::Token(tokens) => Some(format!("Bearer {}", tokens.get().await?)),
        };
        Ok(CopyUrl { url: url.into(), authorization, range: source.clone() })
    }
}

type CopySourceRange = Option<std::ops::Range<u64>>;

impl Tokens {
    async fn get(&self) -> Result<String, Failure> {
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = known
            && token.expires_on > OffsetDateTime::now_utc() + TOKEN_RESERVE
        {
            return Ok(token.token.secret().to_owned());
        }
        let token = self.credential.get_token(&[STORAGE_SCOPE], None).await;
        let token = token.map_err(|error| Failure::of(&error))?;
        let secret = token.token.secret().to_owned();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(secret)
    }
}

impl fmt::Debug for BlobTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobTarget({})", self.location())
    }
}

fn block_id(upload: &BlockUpload, index: u32) -> Vec<u8> {
    // All ids of a blob have the same length.
    format!("{}-{index:06}", upload.id).into_bytes()
}

fn index_of(upload: &BlockUpload, id: &[u8]) -> Option<u32> {
    std::str::from_utf8(id).ok()?.strip_prefix(upload.id.as_str())?.strip_prefix('-')?.parse().ok()
}

impl BlockStore for BlobTarget {
    fn location(&self) -> String {
        let location = &self.store.settings.location;
        if self.folder.is_empty() {
            location.clone()
        } else {
            format!("{location}/{}", self.folder)
        }
    }

    fn limits(&self) -> BlockLimits {
        BlockLimits { blocks: MOST_BLOCKS, copied_bytes: MOST_COPIED_BYTES }
    }

    fn may_copy(&self) -> bool {
        self.vault.is_some()
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let (container, blob) = (Arc::clone(&self.store.container), self.path(name));
        match self.store.runtime.wait(async move { container.properties(&blob).await }) {
            Ok(found) => Ok(Some(found.bytes)),
            Err(failure) if failure.no_such_blob() => Ok(None),
            Err(failure) => Err(self.failed("stat", name, failure)),
        }
    }

    fn begin(&self, name: &str) -> BlockUpload {
        let id = uuid::Uuid::new_v4().simple().to_string();
        BlockUpload { name: name.to_owned(), id }
    }

    fn send(&self, upload: &BlockUpload, index: u32, body: Vec<u8>) -> Result<(), StoreError> {
        let (container, blob) = (Arc::clone(&self.store.container), self.path(&upload.name));
        let id = block_id(upload, index);
        self.store
            .runtime
            .wait(async move { container.stage(&blob, &id, body.into()).await })
            .map_err(|failure| self.failed("write", &upload.name, failure))
    }

    fn copy(
        &self,
        upload: &BlockUpload,
        index: u32,
        source: &CopySource<'_>,
    ) -> Result<(), CopyRefused> {
        let refused = |failure| CopyRefused(self.failed("copy", &upload.name, failure));
        let (from, name) = self.source(source).map_err(refused)?;
        let (range, bytes) = match source {
            CopySource::Vault { bytes, .. } => (None, *bytes),
            CopySource::Own { range, .. } => {
                (Some(range.clone()), range.end.saturating_sub(range.start))
            }
        };
        let from = Source { location: from.location.clone(), right: from.right.clone() };
        let (container, blob) = (Arc::clone(&self.store.container), self.path(&upload.name));
        let (id, patience) = (block_id(upload, index), self.patience());
        let work = async move {
            let url = from.url(&name, &range).await?;
            container.copy_block(&blob, &id, &url, bytes, &patience).await
        };
        self.store.runtime.wait(work).map_err(refused)?;
        self.has_copied.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn sizes(&self, upload: &BlockUpload) -> Result<HashMap<u32, u64>, StoreError> {
        let (container, blob) = (Arc::clone(&self.store.container), self.path(&upload.name));
        let blocks = self
            .store
            .runtime
            .wait(async move { container.uncommitted(&blob).await })
            .map_err(|failure| self.failed("stat", &upload.name, failure))?;
        let ours = |(id, bytes): (Vec<u8>, u64)| Some((index_of(upload, &id)?, bytes));
        Ok(blocks.into_iter().filter_map(ours).collect())
    }

    fn commit(
        &self,
        upload: &BlockUpload,
        blocks: &[u32],
        overwrite: bool,
    ) -> Result<(), StoreError> {
        let mode = if overwrite { PutMode::Overwrite } else { PutMode::Create };
        let operation = mode.operation();
        let put = PutHeaders { id: upload.id.clone(), mode, tier: self.tier, tags: None };
        let ids: Vec<Vec<u8>> = blocks.iter().map(|index| block_id(upload, *index)).collect();
        let (container, blob) = (Arc::clone(&self.store.container), self.path(&upload.name));
        let done = self.store.runtime.wait(async move {
            let (result, failed) = container.commit(&blob, &ids, &put).await;
            Ok(settle(&container, &blob, &put, result, failed).await)
        });
        let refused = |kind| StoreError {
            operation,
            object: self.path(&upload.name),
            location: self.store.settings.location.clone(),
            kind,
            source: None,
        };
        match done {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(PutFailure::Conflict)) => Err(refused(StoreErrorKind::AlreadyExists)),
            Ok(Err(PutFailure::Failed(failure))) | Err(failure) => {
                Err(self.failed(operation, &upload.name, failure))
            }
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (container, blob) = (Arc::clone(&self.store.container), self.path(name));
        self.store
            .runtime
            .wait(async move { container.delete(&blob).await })
            .map_err(|failure| self.failed("delete", name, failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counting(std::sync::atomic::AtomicU32);

    #[async_trait::async_trait]
    impl TokenCredential for Counting {
        async fn get_token(
            &self,
            scopes: &[&str],
            _options: Option<azure_core::credentials::TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            assert_eq!(scopes, [STORAGE_SCOPE]);
            let count = self.0.fetch_add(1, Ordering::SeqCst);
            let life = if count == 0 { Duration::from_secs(10) } else { Duration::from_secs(3600) };
            Ok(AccessToken::new(format!("token{count}"), OffsetDateTime::now_utc() + life))
        }
    }

    #[tokio::test]
    async fn a_source_is_opened_by_its_signature_or_by_a_token_that_is_renewed() {
        let location = "https://acct.blob.core.windows.net/vault".to_owned();
        let sas = Sas::parse("sv=1&sig=a%2Bb%3D").unwrap();
        let source = Source { location: location.clone(), right: Right::Sas(sas) };
        let found = source.url("chunks/ab/c%20d", &None).await.unwrap();
        assert_eq!(found.url, format!("{location}/chunks/ab/c%2520d?sv=1&sig=a%2Bb%3D"));
        assert_eq!(found.authorization, None);
        let tokens = Tokens { credential: Arc::new(Counting(0.into())), last: Mutex::new(None) };
        let source = Source { location: location.clone(), right: Right::Token(Arc::new(tokens)) };
        // The first one has too little left to be kept.
        for expected in ["Bearer token0", "Bearer token1", "Bearer token1"] {
            let found = source.url("a", &Some(0..9)).await.unwrap();
            assert_eq!(found.url, format!("{location}/a"));
            assert_eq!(found.authorization.as_deref(), Some(expected));
        }
    }

    #[test]
    fn only_blocks_of_the_upload_itself_are_counted() {
        let upload = BlockUpload { name: "a".into(), id: "0123".into() };
        assert_eq!(index_of(&upload, &block_id(&upload, 7)), Some(7));
        assert_eq!(index_of(&upload, &block_id(&upload, 999_999)), Some(999_999));
        let other = BlockUpload { name: "a".into(), id: "9123".into() };
        assert_eq!(index_of(&upload, &block_id(&other, 7)), None);
        assert_eq!(index_of(&upload, &[0xff]), None);
    }
}
