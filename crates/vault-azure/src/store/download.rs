//! Gets: read in parts of one version; a part that breaks off goes on where it broke.

use std::num::NonZero;

use azure_core::http::{AsyncResponseBody, Etag as HttpEtag};
use azure_storage_blob::models::{BlobClientDownloadOptions, HttpRange};
use flexkeep_vault::store::StoreErrorKind;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::client::Container;
use crate::failure::Failure;
use crate::retry::Tries;

/// The most that one request asks for. All but lists of huge backups come in one.
const PART_BYTES: u64 = 64 << 20;

/// How often a get begins again because the object was replaced meanwhile.
const RESTARTS: u32 = 10;

/// What a get found.
#[derive(Debug)]
pub(crate) enum Got {
    /// All of it.
    Body(Vec<u8>),
    /// More than the caller's limit: this length.
    TooLarge(u64),
}

/// Reads a whole object of at most `limit_bytes`.
pub(super) async fn get(container: &Container, name: &str, limit: u64) -> Result<Got, Failure> {
    let mut tries = Tries::new(&container.limits, 0);
    let mut restarts = 0;
    let mut reader = Reader::new(container, name, limit);
    loop {
        match reader.read(&mut tries).await {
            Ok(Some(bytes)) => return Ok(Got::TooLarge(bytes)),
            Ok(None) if reader.is_whole() => return Ok(Got::Body(reader.body)),
            Ok(None) => {}
            Err(failure) if reader.is_replaced(&failure) => {
                restarts += 1;
                if restarts > RESTARTS {
                    return Err(Failure::broken(
                        "it was replaced again and again while being read",
                    ));
                }
                reader = Reader::new(container, name, limit);
            }
            // The emulator answers the range of an empty object with one that runs backwards,
            // which the client does not take. The service has a status for it, which it does.
            Err(failure) if failure.is_nonsense() && reader.is_empty().await? => {
                return Ok(Got::Body(Vec::new()));
            }
            Err(failure) => tries.pause(failure).await?,
        }
    }
}

/// An object as far as it was read.
struct Reader<'a> {
    container: &'a Container,
    name: &'a str,
    limit: u64,
    body: Vec<u8>,
    /// Length and version of the object, once known.
    version: Option<(u64, HttpEtag)>,
}

impl<'a> Reader<'a> {
    fn new(container: &'a Container, name: &'a str, limit: u64) -> Self {
        Self { container, name, limit, body: Vec::new(), version: None }
    }

    fn is_whole(&self) -> bool {
        self.version.as_ref().is_some_and(|(total, _)| *total == self.body.len() as u64)
    }

    /// Whether the service says that it has no bytes.
    async fn is_empty(&self) -> Result<bool, Failure> {
        Ok(self.version.is_none() && self.container.properties(self.name).await?.bytes == 0)
    }

    /// Whether the version that we began to read is not there any more.
    fn is_replaced(&self, failure: &Failure) -> bool {
        let changed = failure.kind() == StoreErrorKind::Changed || failure.status() == Some(416);
        self.version.is_some() && changed
    }

    /// One request and its answer, added to what is there; the length if it is over the limit.
    async fn read(&mut self, tries: &mut Tries) -> Result<Option<u64>, Failure> {
        let offset = self.body.len() as u64;
        let rest = self.version.as_ref().map_or(self.limit, |(total, _)| total - offset);
        let length = rest.clamp(1, PART_BYTES);
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(offset, length)),
            if_match: self.version.as_ref().map(|(_, etag)| etag.clone()),
            // One request, one stream.
            partition_size: NonZero::new(length as usize),
            parallel: NonZero::new(1),
            ..Default::default()
        };
        let blob = self.container.blob(self.name);
        let answer = tries.attempt(0, blob.download(Some(options))).await?;
        let content_range = answer.headers.get_optional_string(&"content-range".into());
        let (start, end, total) = match content_range {
            Some(text) => parse_content_range(&text)
                .ok_or_else(|| Failure::nonsense("the answer has an odd range"))?,
            // All of it, as of an empty object.
            None => {
                let length = answer.properties.content_length;
                let length = length.ok_or_else(|| Failure::nonsense("the answer has no length"))?;
                (0, length, length)
            }
        };
        if total > self.limit {
            return Ok(Some(total));
        }
        if start != offset || end > total {
            return Err(Failure::nonsense("the answer has another range than was asked for"));
        }
        match &self.version {
            None => {
                let etag = answer.properties.etag.clone();
                let etag = etag.ok_or_else(|| Failure::nonsense("the answer has no etag"))?;
                tries.extend(total);
                // Nothing that a service says may take memory at once that is not there.
                let _ = self.body.try_reserve_exact(total.min(PART_BYTES) as usize);
                self.version = Some((total, etag));
            }
            Some((known, _)) if *known != total => {
                return Err(Failure::nonsense("the object has another length than before"));
            }
            Some(_) => {}
        }
        self.append(answer.body, end, tries).await.map(|()| None)
    }

    /// Takes the stream up to the offset `end`.
    async fn append(
        &mut self,
        mut stream: AsyncResponseBody,
        end: u64,
        tries: &Tries,
    ) -> Result<(), Failure> {
        loop {
            let wait = tries.limit(0);
            match timeout(wait, stream.next()).await {
                Err(_) => return Err(Failure::timed_out(wait)),
                Ok(Some(Err(error))) => return Err(Failure::of(&error)),
                Ok(Some(Ok(bytes))) => {
                    if self.body.len() as u64 + bytes.len() as u64 > end {
                        return Err(Failure::nonsense("the answer is longer than it says"));
                    }
                    self.body.extend_from_slice(&bytes);
                }
                Ok(None) if self.body.len() as u64 == end => return Ok(()),
                Ok(None) => {
                    let have = self.body.len();
                    return Err(Failure::broken(format!(
                        "the answer ended at {have} of {end} bytes"
                    )));
                }
            }
        }
    }
}

/// `bytes 0-99/1000` as start, end (exclusive) and total.
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last) = (start.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
    Some((start, last.checked_add(1).filter(|end| *end > start)?, total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_content_range("bytes 0-99/1000"), Some((0, 100, 1000)));
        for bad in ["", "bytes */10", "bytes 5-4/10", "bytes 0-9/*", "0-9/10"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
