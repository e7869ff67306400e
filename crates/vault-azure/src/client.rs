//! One container's requests, each with its retries.

use std::collections::HashMap;

use azure_core::http::{ClientMethodOptions, Context, Etag as HttpEtag};
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientGetPropertiesResultHeaders,
    BlobContainerClientListBlobsOptions, BlockBlobClientCommitBlockListOptions,
    BlockBlobClientCommitBlockListResultHeaders, BlockBlobClientStageBlockFromUrlOptions,
    BlockBlobClientStageBlockOptions, BlockBlobClientUploadOptions, BlockListType, BlockLookupList,
    DeleteSnapshotsOptionType, HttpRange,
};
use azure_storage_blob::{BlobClient, BlobContainerClient};
use bytes::Bytes;
use flexkeep_vault::store::{Etag, ObjectMeta, PutMode, is_valid_name};
use futures_util::TryStreamExt;

use crate::checksum::{BodyCrc64, crc64};
use crate::failure::Failure;
use crate::options::RetryLimits;
use crate::place::ChunkTier;
use crate::retry::with_retries;

/// Metadata that says which put wrote a blob. Only letters: its rules are those of an identifier.
const PUT_ID: &str = "flexkeepput";

/// Names in one page of a list: the service's most.
const PAGE_NAMES: i32 = 5000;

/// A container and how to reach it.
pub(crate) struct Container {
    pub(crate) client: BlobContainerClient,
    pub(crate) limits: RetryLimits,
}

/// What the service is to read by itself, and with which right. Shown nowhere.
pub(crate) struct CopyUrl {
    /// With a signature, if that is the right.
    pub(crate) url: String,
    /// `Bearer ...`, if a token is.
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<std::ops::Range<u64>>,
}

/// What a put sends besides the bytes.
#[derive(Clone, Debug)]
pub(crate) struct PutHeaders {
    /// Drawn for each put: a put whose answer was lost finds its own work by it.
    pub(crate) id: String,
    pub(crate) mode: PutMode,
    pub(crate) tier: Option<ChunkTier>,
    pub(crate) tags: Option<String>,
}

/// What the service tells of a blob.
pub(crate) struct Properties {
    pub(crate) bytes: u64,
    pub(crate) etag: Etag,
    pub(crate) put_id: Option<String>,
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) objects: Vec<ObjectMeta>,
    pub(crate) next: Option<String>,
}

impl PutHeaders {
    fn metadata(&self) -> Option<HashMap<String, String>> {
        Some(HashMap::from([(PUT_ID.to_owned(), self.id.clone())]))
    }

    fn if_match(&self) -> Option<HttpEtag> {
        match &self.mode {
            PutMode::Update(etag) => Some(quoted(etag)),
            PutMode::Create | PutMode::Overwrite => None,
        }
    }

    fn if_none_match(&self) -> Option<HttpEtag> {
        (self.mode == PutMode::Create).then(|| "*".into())
    }
}

/// A result, and how many tries had failed before it.
pub(crate) type Tried<T> = (Result<T, Failure>, u32);

impl Container {
    pub(crate) fn blob(&self, name: &str) -> BlobClient {
        self.client.blob_client(name)
    }

    /// Put Blob: the whole object in one request.
    pub(crate) async fn put_blob(&self, name: &str, body: Bytes, put: &PutHeaders) -> Tried<Etag> {
        let blob = self.blob(name);
        let bytes = body.len() as u64;
        let crc = BodyCrc64(crc64(&body));
        let (result, failed) = with_retries(&self.limits, bytes, || {
            let options = BlockBlobClientUploadOptions {
                if_match: put.if_match(),
                if_none_match: put.if_none_match(),
                metadata: put.metadata(),
                tier: put.tier.map(Into::into),
                blob_tags_string: put.tags.clone(),
                method_options: ClientMethodOptions { context: Context::new().with_value(crc) },
                // One request, whatever its length.
                partition_size: Some(std::num::NonZero::<u64>::MAX),
                ..Default::default()
            };
            blob.upload(body.clone().into(), Some(options))
        })
        .await;
        (result.and_then(|done| stored(done.etag)), failed)
    }

    /// Put Block.
    pub(crate) async fn stage(&self, name: &str, id: &[u8], body: Bytes) -> Result<(), Failure> {
        let blob = self.blob(name).block_blob_client();
        let bytes = body.len() as u64;
        let crc = crc64(&body).to_vec();
        let (result, _) = with_retries(&self.limits, bytes, || {
            let options = BlockBlobClientStageBlockOptions {
                transactional_content_crc64: Some(crc.clone()),
                ..Default::default()
            };
            blob.stage_block(id, bytes, body.clone().into(), Some(options))
        })
        .await;
        result.map(drop)
    }

    /// Put Block From URL: the service reads `bytes` bytes by itself. A source that has no signature
    /// in its URL takes a token.
    pub(crate) async fn copy_block(
        &self,
        name: &str,
        id: &[u8],
        source: &CopyUrl,
        bytes: u64,
        limits: &RetryLimits,
    ) -> Result<(), Failure> {
        let blob = self.blob(name).block_blob_client();
        // Nothing passes through us: the wait is for a service that copies at 10 MiB/s at least.
        let counted = bytes / (10 << 20) * limits.slowest_bytes_per_second;
        let (result, _) = with_retries(limits, counted, || {
            let options = BlockBlobClientStageBlockFromUrlOptions {
                copy_source_authorization: source.authorization.clone(),
                source_range: source.range.as_ref().map(|range| {
                    HttpRange::new(range.start, range.end.saturating_sub(range.start))
                }),
                ..Default::default()
            };
            blob.stage_block_from_url(id, 0, source.url.clone(), Some(options))
        })
        .await;
        result.map(drop)
    }

    /// Get Block List: the blocks that are not committed, with their lengths.
    pub(crate) async fn uncommitted(&self, name: &str) -> Result<Vec<(Vec<u8>, u64)>, Failure> {
        let blob = self.blob(name).block_blob_client();
        let (result, _) = with_retries(&self.limits, 0, || async {
            let answer = blob.get_block_list(BlockListType::Uncommitted, None).await?;
            answer.into_model()
        })
        .await;
        let blocks = result?.uncommitted_blocks.unwrap_or_default();
        let pairs = blocks.into_iter().map(|block| {
            let bytes = block.size.and_then(|size| u64::try_from(size).ok());
            block.name.zip(bytes).ok_or_else(|| Failure::nonsense("a block has no name or length"))
        });
        pairs.collect()
    }

    /// Put Block List: the object appears.
    pub(crate) async fn commit(
        &self,
        name: &str,
        ids: &[Vec<u8>],
        put: &PutHeaders,
    ) -> Tried<Etag> {
        let blob = self.blob(name).block_blob_client();
        let (result, failed) = with_retries(&self.limits, 0, || async {
            let list = BlockLookupList { latest: Some(ids.to_vec()), ..Default::default() };
            let options = BlockBlobClientCommitBlockListOptions {
                if_match: put.if_match(),
                if_none_match: put.if_none_match(),
                metadata: put.metadata(),
                tier: put.tier.map(Into::into),
                blob_tags_string: put.tags.clone(),
                ..Default::default()
            };
            blob.commit_block_list(list.try_into()?, Some(options)).await?.etag()
        })
        .await;
        (result.and_then(stored), failed)
    }

    /// Get Blob Properties.
    pub(crate) async fn properties(&self, name: &str) -> Result<Properties, Failure> {
        let blob = self.blob(name);
        let (result, _) = with_retries(&self.limits, 0, || async {
            let answer = blob.get_properties(None).await?;
            Ok((answer.content_length()?, answer.etag()?, answer.metadata()?))
        })
        .await;
        let (bytes, etag, mut metadata) = result?;
        let bytes = bytes.ok_or_else(|| Failure::nonsense("the answer has no length"))?;
        Ok(Properties { bytes, etag: stored(etag)?, put_id: metadata.remove(PUT_ID) })
    }

    /// Delete Blob, with snapshots of it that somebody took.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Failure> {
        let blob = self.blob(name);
        let (result, _) = with_retries(&self.limits, 0, || {
            blob.delete(Some(BlobClientDeleteOptions {
                delete_snapshots: Some(DeleteSnapshotsOptionType::Include),
                ..Default::default()
            }))
        })
        .await;
        match result {
            Err(failure) if failure.no_such_blob() => Ok(()),
            result => result.map(drop),
        }
    }

    /// List Blobs: one page. Names that are none of ours are left out.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        marker: Option<&str>,
        names: Option<i32>,
    ) -> Result<Page, Failure> {
        let (result, _) = with_retries(&self.limits, 0, || async {
            let options = BlobContainerClientListBlobsOptions {
                prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
                marker: marker.map(str::to_owned),
                maxresults: Some(names.unwrap_or(PAGE_NAMES)),
                ..Default::default()
            };
            let page = self.client.list_blobs(Some(options))?.into_pages().try_next().await?;
            page.map(|page| page.into_model()).transpose()
        })
        .await;
        let page = result?.ok_or_else(|| Failure::nonsense("the list has no first page"))?;
        let mut objects = Vec::with_capacity(page.blob_items.len());
        for item in page.blob_items {
            let Some(name) = item.name.filter(|name| is_valid_name(name)) else { continue };
            let properties = item.properties.unwrap_or_default();
            let (Some(bytes), Some(etag)) = (properties.content_length, properties.etag) else {
                return Err(Failure::nonsense(format!("{name} is listed without length or etag")));
            };
            objects.push(ObjectMeta { name, bytes, etag: plain(&etag) });
        }
        Ok(Page { objects, next: page.next_marker.filter(|next| !next.is_empty()) })
    }

    /// Create Container.
    pub(crate) async fn create(&self) -> Result<(), Failure> {
        let (result, _) = with_retries(&self.limits, 0, || self.client.create(None)).await;
        match result {
            Err(failure) if failure.code() == "ContainerAlreadyExists" => Ok(()),
            result => result.map(drop),
        }
    }
}

fn stored(etag: Option<HttpEtag>) -> Result<Etag, Failure> {
    etag.map(|etag| plain(&etag)).ok_or_else(|| Failure::nonsense("the answer has no etag"))
}

/// Headers have it in quotes, lists have not.
pub(crate) fn plain(etag: &HttpEtag) -> Etag {
    Etag(etag.as_ref().trim_matches('"').to_owned())
}

/// As conditions need it.
pub(crate) fn quoted(etag: &Etag) -> HttpEtag {
    // What is no header value, such as another store's, matches nothing.
    let plain: String = etag.0.chars().filter(|c| c.is_ascii_graphic() && *c != '"').collect();
    format!("\"{plain}\"").into()
}

impl From<ChunkTier> for azure_storage_blob::models::AccessTier {
    fn from(tier: ChunkTier) -> Self {
        match tier {
            ChunkTier::Hot => Self::Hot,
            ChunkTier::Cool => Self::Cool,
            ChunkTier::Cold => Self::Cold,
        }
    }
}
