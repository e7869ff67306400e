//! Puts: in one request, or block by block.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use flexkeep_vault::store::{Etag, PutMode, StoreErrorKind};
use tokio::task::AbortHandle;

use super::BlobStore;
use crate::client::{Container, PutHeaders};
use crate::failure::Failure;

/// How often all blocks are sent again because another upload of the same name dropped them.
const ROUNDS: u32 = 5;

/// Why a put did not happen.
#[derive(Debug)]
pub(crate) enum PutFailure {
    /// The condition of its mode does not hold.
    Conflict,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for PutFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Writes `body`. Holds a copy of what is under way only.
pub(super) fn put(
    store: &BlobStore,
    name: &str,
    body: &[u8],
    put: &PutHeaders,
) -> Result<Etag, PutFailure> {
    if body.len() <= store.upload.single_put_bytes {
        let (container, blob) = (Arc::clone(&store.container), name.to_owned());
        let (bytes, put) = (Bytes::copy_from_slice(body), put.clone());
        return store.runtime.wait(async move {
            let (result, failed) = container.put_blob(&blob, bytes, &put).await;
            Ok(settle(&container, &blob, &put, result, failed).await)
        })?;
    }
    let mut dropped = None;
    for _ in 0..ROUNDS {
        let staged = stage_all(store, name, body, &put.id);
        let (container, blob) = (Arc::clone(&store.container), name.to_owned());
        let put = put.clone();
        let result = store.runtime.wait(async move {
            let (result, failed) = match staged {
                Ok(ids) => container.commit(&blob, &ids, &put).await,
                Err(failure) => (Err(failure), 0),
            };
            match result {
                Err(failure) if failure.lost_blocks() => {
                    Ok(after_lost_blocks(&container, &blob, &put, failure).await)
                }
                result => Ok(settle(&container, &blob, &put, result, failed).await.map(Some)),
            }
        })?;
        match result? {
            Some(etag) => return Ok(etag),
            None => dropped = Some("other uploads of the same name dropped the blocks of this one"),
        }
    }
    Err(Failure::broken(dropped.unwrap_or_default()).into())
}

/// Sends all blocks, a bounded number at once; their ids in order.
fn stage_all(
    store: &BlobStore,
    name: &str,
    body: &[u8],
    put_id: &str,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (sender, receiver) = mpsc::channel::<Result<(), Failure>>();
    let mut ids = Vec::new();
    let mut under_way = 0;
    let mut aborts: Vec<AbortHandle> = Vec::new();
    let next = || receiver.recv().unwrap_or_else(|_| Err(Failure::ended()));
    let mut result = Ok(());
    for (index, part) in body.chunks(store.upload.block_bytes.max(1)).enumerate() {
        if under_way >= store.upload.parallel_blocks.max(1) {
            result = next();
            under_way -= 1;
            if result.is_err() {
                break;
            }
        }
        // All ids of a blob have the same length, and no two uploads share one.
        let id = format!("{put_id}-{index:06}").into_bytes();
        ids.push(id.clone());
        let (container, blob) = (Arc::clone(&store.container), name.to_owned());
        let bytes = Bytes::copy_from_slice(part);
        let sender = sender.clone();
        let work = async move { container.stage(&blob, &id, bytes).await };
        aborts.extend(store.runtime.start_task(work, move |done| drop(sender.send(done))));
        under_way += 1;
    }
    while result.is_ok() && under_way > 0 {
        result = next();
        under_way -= 1;
    }
    // Those that are done do not mind.
    aborts.iter().for_each(AbortHandle::abort);
    result.map(|()| ids)
}

/// What a put's last answer means, if tries before it may have taken effect.
pub(crate) async fn settle(
    container: &Container,
    name: &str,
    put: &PutHeaders,
    result: Result<Etag, Failure>,
    failed_before: u32,
) -> Result<Etag, PutFailure> {
    let failure = match result {
        Ok(etag) => return Ok(etag),
        Err(failure) => failure,
    };
    // A create of a name that is taken may be answered with what protects it.
    let protected = failure.kind() == StoreErrorKind::PermissionDenied;
    let gone = matches!(put.mode, PutMode::Update(_)) && failure.no_such_blob();
    let refused = failure.is_conflict() && (!protected || put.mode == PutMode::Create);
    if !refused && !gone {
        return Err(failure.into());
    }
    if failed_before == 0 && !protected {
        return Err(PutFailure::Conflict);
    }
    match container.properties(name).await {
        Ok(found) if found.put_id.as_ref() == Some(&put.id) => Ok(found.etag),
        Ok(_) => Err(PutFailure::Conflict),
        Err(missing) if missing.no_such_blob() && protected => Err(failure.into()),
        Err(missing) if missing.no_such_blob() => Err(PutFailure::Conflict),
        Err(other) => Err(other.into()),
    }
}

/// Our blocks are gone, as another put of the name came first, or our own commit took effect:
/// none when it is worth sending them again.
async fn after_lost_blocks(
    container: &Container,
    name: &str,
    put: &PutHeaders,
    failure: Failure,
) -> Result<Option<Etag>, PutFailure> {
    tracing::debug!(%failure, name, "the blocks of an upload are gone");
    match (container.properties(name).await, &put.mode) {
        (Ok(found), _) if found.put_id.as_ref() == Some(&put.id) => Ok(Some(found.etag)),
        (Ok(_), PutMode::Create) => Err(PutFailure::Conflict),
        (Ok(found), PutMode::Update(etag)) if found.etag != *etag => Err(PutFailure::Conflict),
        (Ok(_), _) => Ok(None),
        (Err(missing), PutMode::Update(_)) if missing.no_such_blob() => Err(PutFailure::Conflict),
        (Err(missing), _) if missing.no_such_blob() => Ok(None),
        (Err(other), _) => Err(other.into()),
    }
}
