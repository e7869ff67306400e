//! A blob that is written from its start to its end in blocks, several of them on their way at
//! once.

use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use flexkeep_vault::store::{BlockLimits, BlockStore, BlockUpload, StoreError};

use super::ExportError;
use super::sink::store_error;

/// The usual length of a block, bytes.
pub(super) const BLOCK_BYTES: u64 = 8 << 20;

/// The longest block that is sent, bytes: it is held in memory until it has arrived.
pub(super) const LONGEST_SENT_BYTES: u64 = 96 << 20;

/// Bytes of blocks on their way at once, and their most.
const UNDER_WAY_BYTES: u64 = 128 << 20;
const UNDER_WAY: u64 = 4;

/// Blocks that an estimate may be wrong by, and those of the table of contents: one in so many.
const RESERVE: usize = 10;

/// The numbers of the blocks that come first but are written last.
pub(super) const HEAD: u32 = 900_000;

/// How long the blocks of a blob of about `bytes` bytes have to be.
pub(super) fn block_bytes(bytes: u64, limits: &BlockLimits) -> u64 {
    let blocks = (limits.blocks - limits.blocks / RESERVE).max(1) as u64;
    bytes.div_ceil(blocks).next_multiple_of(1 << 20).clamp(BLOCK_BYTES, LONGEST_SENT_BYTES)
}

/// How many blocks of that length may be on their way.
fn under_way(block_bytes: u64) -> u64 {
    (UNDER_WAY_BYTES / block_bytes).clamp(1, UNDER_WAY)
}

/// Cuts what is written into blocks. What follows [`BlobWriter::begin_head`] comes first in the
/// blob.
pub(super) struct BlobWriter {
    store: Arc<dyn BlockStore>,
    upload: BlockUpload,
    block_bytes: usize,
    buffer: Vec<u8>,
    body: Vec<u32>,
    head: Option<Vec<u32>>,
    written: u64,
    queue: Option<SyncSender<(u32, Vec<u8>)>>,
    senders: Vec<JoinHandle<()>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

impl BlobWriter {
    pub(super) fn new(store: &Arc<dyn BlockStore>, name: &str, bytes: u64) -> Self {
        let block_bytes = block_bytes(bytes, &store.limits());
        Self {
            store: Arc::clone(store),
            upload: store.begin(name),
            block_bytes: usize::try_from(block_bytes).unwrap_or(BLOCK_BYTES as usize),
            buffer: Vec::new(),
            body: Vec::new(),
            head: None,
            written: 0,
            queue: None,
            senders: Vec::new(),
            failure: Arc::default(),
        }
    }

    /// What is written from now on comes before all that was.
    pub(super) fn begin_head(&mut self) -> io::Result<()> {
        self.send_buffer()?;
        self.head = Some(Vec::new());
        Ok(())
    }

    fn send_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.buffer);
        let count = self.body.len() + self.head.as_ref().map_or(0, Vec::len);
        if count >= self.store.limits().blocks {
            return Err(io::Error::other(format!(
                "it is longer than {count} blocks of {} MiB, the most that a blob can have; export \
                 it with less or other compression, in parts (--schema, --table), or into a folder",
                self.block_bytes >> 20
            )));
        }
        let (list, first) = match &mut self.head {
            Some(head) => (head, HEAD),
            None => (&mut self.body, 0),
        };
        let index = first + u32::try_from(list.len()).unwrap_or(HEAD);
        list.push(index);
        let sent = self.queue().send((index, block)).is_ok();
        match take(&self.failure) {
            Some(failure) => Err(io::Error::other(failure)),
            None if sent => Ok(()),
            None => Err(io::Error::other("the threads that send blocks have ended")),
        }
    }

    /// The way to the threads that send, which begin with the first block.
    fn queue(&mut self) -> &SyncSender<(u32, Vec<u8>)> {
        let (store, upload) = (&self.store, &self.upload);
        let (failure, senders) = (&self.failure, &mut self.senders);
        let threads = under_way(self.block_bytes as u64);
        self.queue.get_or_insert_with(|| {
            // A block is handed to a thread that is free: none waits between them.
            let (sender, receiver) = mpsc::sync_channel::<(u32, Vec<u8>)>(0);
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..threads {
                let (store, upload) = (Arc::clone(store), upload.clone());
                let (failure, receiver) = (Arc::clone(failure), Arc::clone(&receiver));
                senders.push(std::thread::spawn(move || {
                    loop {
                        let next = lock(&receiver).recv();
                        let Ok((index, block)) = next else { return };
                        if lock(&failure).is_some() {
                            continue;
                        }
                        if let Err(error) = store.send(&upload, index, block) {
                            lock(&failure).get_or_insert(error);
                        }
                    }
                }));
            }
            sender
        })
    }

    /// Waits for the blocks, and makes the blob of them.
    pub(super) fn finish(mut self, overwrite: bool) -> Result<(String, u64), ExportError> {
        let path = format!("{}/{}", self.store.location(), self.upload.name);
        let failed = |source: io::Error| match source.downcast::<StoreError>() {
            Ok(error) => store_error(error),
            Err(source) => {
                ExportError::File { operation: "write", path: path.clone().into(), source }
            }
        };
        self.send_buffer().map_err(failed)?;
        drop(self.queue.take());
        for sender in std::mem::take(&mut self.senders) {
            if sender.join().is_err() {
                return Err(ExportError::Internal("a thread that sends blocks panicked".into()));
            }
        }
        if let Some(failure) = take(&self.failure) {
            return Err(store_error(failure));
        }
        let mut blocks = self.head.take().unwrap_or_default();
        blocks.append(&mut self.body);
        self.store.commit(&self.upload, &blocks, overwrite).map_err(store_error)?;
        check_length(&*self.store, &self.upload.name, self.written)?;
        Ok((path, self.written))
    }
}

/// Proves that the service has put together what it was sent.
pub(super) fn check_length(
    store: &dyn BlockStore,
    name: &str,
    bytes: u64,
) -> Result<(), ExportError> {
    let found = store.length(name).map_err(store_error)?;
    if found == Some(bytes) {
        return Ok(());
    }
    Err(ExportError::Internal(format!(
        "{}/{name} has {} bytes after {bytes} were committed; do not use it, and delete it",
        store.location(),
        found.map_or_else(|| "no".to_owned(), |found| found.to_string())
    )))
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.block_bytes - self.buffer.len());
        let needed = self.buffer.len() + count;
        if needed > self.buffer.capacity() {
            // Most files of an export are shorter than a block, and none is given more.
            let room = (2 * self.buffer.capacity()).max(needed).min(self.block_bytes);
            self.buffer.reserve_exact(room - self.buffer.len());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        self.written += count as u64;
        if self.buffer.len() == self.block_bytes {
            self.send_buffer()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(failure: &Mutex<Option<StoreError>>) -> Option<StoreError> {
    lock(failure).take()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AZURE: BlockLimits = BlockLimits { blocks: 50_000, copied_bytes: 4000 << 20 };
    const TB: u64 = 1_000_000_000_000;

    #[test]
    fn four_terabytes_are_sent_in_blocks_that_are_few_enough_and_fit_into_memory() {
        assert_eq!(block_bytes(0, &AZURE), BLOCK_BYTES);
        assert_eq!(block_bytes(300 << 30, &AZURE), BLOCK_BYTES);
        for bytes in [TB / 2, TB, 2 * TB, 4 * TB] {
            let block = block_bytes(bytes, &AZURE);
            let blocks = bytes.div_ceil(block);
            assert!(blocks <= 45_000, "{bytes}: {blocks} blocks");
            // Those on their way, and the one that is being filled.
            assert!((under_way(block) + 1) * block <= 192 << 20, "{bytes}: {block}");
        }
        assert_eq!(block_bytes(100 * TB, &AZURE), LONGEST_SENT_BYTES);
    }
}
