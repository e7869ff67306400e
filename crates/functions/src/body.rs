//! Reading a request's body, with limits.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;

/// After a body that is too large, this long the rest is read and thrown away, so that the sender gets to
/// read the answer.
const DISCARD: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the request's body is larger than {limit} bytes; App::body_limit sets the limit")]
    TooLarge { limit: usize },
    #[error("the request's body stopped for {} s", idle.as_secs_f32())]
    Idle { idle: Duration },
    #[error("the request's body broke off")]
    Broken(#[source] axum::Error),
}

/// The whole body: at most `limit` bytes, with pauses of at most `idle`.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    idle: Duration,
) -> Result<Bytes, BodyError> {
    // The length is a hint for the buffer, and a promise for the limit.
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if length > limit as u64 {
        discard(body).await;
        return Err(BodyError::TooLarge { limit });
    }
    let mut first: Option<Bytes> = None;
    let mut buffer = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(BodyError::Idle { idle }),
            Ok(None) => break,
            Ok(Some(Err(source))) => return Err(BodyError::Broken(source)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let size = buffer.len() + first.as_ref().map_or(0, Bytes::len);
        if size + data.len() > limit {
            drop((first, buffer));
            discard(body).await;
            return Err(BodyError::TooLarge { limit });
        }
        if size == 0 {
            // Most bodies come in one piece and need no copy.
            first = Some(data);
            continue;
        }
        if let Some(first) = first.take() {
            // What arrives counts, not what the header says: 64 KiB ahead, then growth by doubling.
            buffer.reserve((length as usize).clamp(size + data.len(), size + data.len() + 65_536));
            buffer.extend_from_slice(&first);
        }
        buffer.extend_from_slice(&data);
    }
    Ok(first.unwrap_or_else(|| buffer.freeze()))
}

async fn discard(mut body: Body) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD, rest).await;
}
