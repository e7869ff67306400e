//! One database as a custom archive that the storage service puts together by itself: the vault's
//! chunks are pieces of an archive already, so that it copies them, and only what lies between
//! them, and small ones, are sent.
//!
//! # Consistency
//! What is sent was read and verified. What is copied was not: the length of each block is compared
//! with that of the chunk, and a chunk of another length (damaged, or stored anew) is read, verified
//! and sent. Places in the archive are those of the lengths that the service has.
//!
//! # What is left behind
//! The archive appears at its commit. Blobs that it is copied from, where it has too many blocks, are
//! named `<archive>.partial/...` and removed at the end, whatever it is; only a process that is
//! killed leaves them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use flexkeep_pg_archive::{Offset, Toc, blocks as archive};
use flexkeep_vault::contents::EntryKind;
use flexkeep_vault::store::{BlockStore, BlockUpload, CopyRefused, CopySource};
use flexkeep_vault::{VaultError, chunk_name};

use super::blob::{HEAD, check_length};
use super::composer::block_start;
use super::damage::Damage;
use super::database::{Job, Source, Written, jobs, not_ready, note_damage};
use super::encode::{Codec, ReadyError, Worker, check_row, terminator_frame};
use super::layout::{self, Block, PieceLength};
use super::sink::store_error;
use super::{ExportError, Transfer, pipeline};
use crate::error::chain;
use crate::options::ExportTarget;

/// Copies that the service is asked for at once.
const COPIES_AT_ONCE: usize = 16;

/// After so many refusals without a copy between them no more is asked for.
const MOST_REFUSALS: u32 = 3;

/// What came of it.
pub(super) enum Outcome {
    /// The archive is there, or something is damaged.
    Done(Option<Written>),
    /// It has to be sent as a whole, with the reason if that was not asked for.
    Stream(Toc, Option<String>),
}

/// Has the service put the archive together, if it can.
pub(super) fn write(
    source: &Source<'_>,
    toc: Toc,
    name: &str,
    damage: &mut Damage,
) -> Result<Outcome, ExportError> {
    let options = source.context.options;
    let ExportTarget::Blocks(store) = &options.to else { return Ok(Outcome::Stream(toc, None)) };
    if options.verify || source.codec != Codec::Stored {
        return Ok(Outcome::Stream(toc, None));
    }
    if !store.may_copy() {
        let reason = "the vault is in no container that it could read".to_owned();
        return Ok(Outcome::Stream(toc, Some(reason)));
    }
    let frame = terminator_frame()
        .map_err(|error| ExportError::Internal(format!("zstd failed: {error}")))?;
    let jobs = jobs(&source.entries);
    let mut composed = Composed {
        source,
        store: Arc::clone(store),
        jobs: &jobs,
        pieces: pieces(source),
        blocks: Vec::new(),
        table_end: table_end(&frame)?,
        copying: Copying::default(),
        copied_bytes: 0,
        sent_bytes: 0,
        starts: Vec::new(),
        at: toc.encoded_len(),
        temporary: Temporary { store: Arc::clone(store), names: Vec::new() },
    };
    composed.blocks = layout::blocks(composed.pieces.iter().map(|one| composed.length(*one)));
    composed.write(toc, name, damage)
}

/// What is between the frames of a table's rows and the next table.
fn table_end(frame: &[u8]) -> Result<Vec<u8>, ExportError> {
    let header = archive::piece_header(frame.len())
        .ok_or_else(|| ExportError::Internal("a frame of no byte".to_owned()))?;
    Ok([&header[..], frame, &archive::END].concat())
}

/// A piece of the archive's body.
#[derive(Clone, Copy)]
enum Piece {
    /// What begins the block of the entry with this index.
    Start(u32),
    /// The chunk of the job with this index.
    Chunk(u32),
    /// What ends the entry's block.
    End(u32),
}

fn pieces(source: &Source<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut job = 0_u32;
    for (index, entry) in (0_u32..).zip(&source.entries) {
        pieces.push(Piece::Start(index));
        for _ in &entry.chunks {
            pieces.push(Piece::Chunk(job));
            job += 1;
        }
        pieces.push(Piece::End(index));
    }
    pieces
}

/// What the threads that have blocks copied know of each other.
#[derive(Default)]
struct Copying {
    refusals: AtomicU32,
    given_up: AtomicBool,
}

/// A block that the service has.
struct Placed {
    bytes: u64,
    /// Entries that begin in it, and where.
    starts: Vec<(i32, u64)>,
}

/// What came of a block that was to be sent.
enum Sent {
    Placed(Placed),
    Damaged(usize, VaultError),
    Failed(ExportError),
}

struct Composed<'a> {
    source: &'a Source<'a>,
    store: Arc<dyn BlockStore>,
    jobs: &'a [Job],
    pieces: Vec<Piece>,
    blocks: Vec<Block>,
    table_end: Vec<u8>,
    copying: Copying,
    copied_bytes: u64,
    sent_bytes: u64,
    /// Where the entries' blocks begin in the archive.
    starts: Vec<(i32, u64)>,
    /// How far the archive is known.
    at: u64,
    temporary: Temporary,
}

impl Composed<'_> {
    fn length(&self, piece: Piece) -> PieceLength {
        let between = |bytes: usize| PieceLength { bytes: bytes as u64, is_chunk: false };
        match piece {
            Piece::Start(_) => between(archive::START_LEN),
            Piece::Chunk(job) => {
                let bytes = u64::from(self.jobs[job as usize].chunk.stored_bytes);
                PieceLength { bytes, is_chunk: true }
            }
            Piece::End(entry) => match self.source.entries[entry as usize].kind {
                EntryKind::Table => between(self.table_end.len()),
                EntryKind::LargeObjects => between(archive::END.len()),
            },
        }
    }

    fn write(
        mut self,
        mut toc: Toc,
        name: &str,
        damage: &mut Damage,
    ) -> Result<Outcome, ExportError> {
        let Some(first) = self.blocks.iter().position(|block| block.copied) else {
            // Nothing of it is worth a copy.
            return Ok(Outcome::Stream(toc, None));
        };
        let limits = self.store.limits();
        let head =
            usize::try_from(toc.encoded_len().div_ceil(layout::SENT_BYTES)).unwrap_or(usize::MAX);
        let parts = layout::parts(self.blocks.len(), head, limits.blocks);
        let target = self.store.begin(name);
        // Whether the service copies at all shows before anything else is done.
        if let Err(refused) = self.copy(&target, 0, self.blocks[first]) {
            return Ok(Outcome::Stream(toc, Some(chain(&refused.0))));
        }
        let before = damage.objects.len();
        let mut list: Vec<u32> = Vec::new();
        let is_archive = parts.is_none();
        let parts = parts.unwrap_or_else(|| vec![0..self.blocks.len(); 1]);
        for (number, part) in parts.iter().enumerate() {
            let upload = if is_archive {
                target.clone()
            } else {
                self.temporary.begin(name, &target.id, number)
            };
            let start = self.at;
            if !self.part(&upload, part.clone(), damage)? || damage.objects.len() > before {
                continue;
            }
            let indexes: Vec<u32> = (0_u32..).take(part.len()).collect();
            if is_archive {
                list = indexes;
                continue;
            }
            self.store.commit(&upload, &indexes, true).map_err(store_error)?;
            check_length(&*self.store, &upload.name, self.at - start)?;
            if let Err(refused) = self.copy_part(&target, &upload, self.at - start, &mut list) {
                return Ok(Outcome::Stream(toc, Some(chain(&refused.0))));
            }
        }
        if damage.objects.len() > before {
            return Ok(Outcome::Done(None));
        }
        self.finish(&mut toc, name, &target, list).map(|written| Outcome::Done(Some(written)))
    }

    /// Has a part copied into the archive.
    fn copy_part(
        &self,
        target: &BlockUpload,
        part: &BlockUpload,
        bytes: u64,
        list: &mut Vec<u32>,
    ) -> Result<(), CopyRefused> {
        for range in layout::ranges(bytes, self.store.limits().copied_bytes) {
            let index = u32::try_from(list.len()).unwrap_or(HEAD);
            self.store.copy(target, index, &CopySource::Own { name: &part.name, range })?;
            list.push(index);
        }
        Ok(())
    }

    /// Writes the table of contents, now that all places are known, and makes the archive.
    fn finish(
        &mut self,
        toc: &mut Toc,
        name: &str,
        target: &BlockUpload,
        body: Vec<u32>,
    ) -> Result<Written, ExportError> {
        for (dump_id, at) in &self.starts {
            toc.set_offset(*dump_id, Offset::At(*at)).map_err(|error| {
                ExportError::Internal(format!("an entry is not as it was: {error}"))
            })?;
        }
        let mut head =
            Head { store: &*self.store, upload: target, buffer: Vec::new(), blocks: Vec::new() };
        let options = self.source.context.options;
        let written = toc.write_to(&mut head).and_then(|()| head.send());
        written.map_err(|error| super::sink::write_error(options, name, error))?;
        let mut blocks = head.blocks;
        blocks.extend(body);
        if blocks.len() > self.store.limits().blocks {
            return Err(ExportError::Options(format!(
                "{name} would have {} blocks, more than a blob can have; export it in parts \
                 (--schema, --table)",
                blocks.len()
            )));
        }
        self.store.commit(target, &blocks, options.overwrite).map_err(store_error)?;
        check_length(&*self.store, name, self.at)?;
        let path = format!("{}/{name}", self.store.location());
        let mut written = self.source.written(name, path, self.at);
        let sent_bytes = self.sent_bytes + toc.encoded_len();
        let copied_bytes = self.copied_bytes;
        written.transfer = Some(Transfer { copied_bytes, sent_bytes, refused: None });
        Ok(written)
    }

    /// Has the service make the blocks of a part; false if something of it is damaged.
    fn part(
        &mut self,
        upload: &BlockUpload,
        part: Range<usize>,
        damage: &mut Damage,
    ) -> Result<bool, ExportError> {
        let indexed: Vec<(u32, Block)> =
            (0_u32..).zip(self.blocks[part.clone()].iter().copied()).collect();
        let mut placed: HashMap<u32, Placed> = HashMap::new();
        let mut to_send = self.copies(upload, &indexed)?;
        let mut sound = self.sends(upload, &to_send, &mut placed, damage)?;
        let sizes = self.store.sizes(upload).map_err(store_error)?;
        to_send.clear();
        for (index, block) in &indexed {
            let size = sizes.get(index).copied();
            if let Some(placed) = placed.get(index) {
                if size != Some(placed.bytes) {
                    return Err(ExportError::Internal(format!(
                        "block {index} of {} has another length than was sent",
                        upload.name
                    )));
                }
            } else if block.copied {
                let bytes = self.length(self.pieces[block.first as usize]).bytes;
                if size == Some(bytes) {
                    self.copied_bytes += bytes;
                    placed.insert(*index, Placed { bytes, starts: Vec::new() });
                } else {
                    to_send.push((*index, *block));
                }
            }
        }
        sound &= self.sends(upload, &to_send, &mut placed, damage)?;
        if !sound {
            return Ok(false);
        }
        for (index, _) in &indexed {
            let Some(placed) = placed.get(index) else {
                return Err(ExportError::Internal(format!("block {index} was not made")));
            };
            self.starts.extend(placed.starts.iter().map(|(id, at)| (*id, self.at + at)));
            self.at += placed.bytes;
        }
        Ok(true)
    }

    /// Has chunks copied; gives the blocks that have to be sent.
    fn copies(
        &self,
        upload: &BlockUpload,
        blocks: &[(u32, Block)],
    ) -> Result<Vec<(u32, Block)>, ExportError> {
        let (copied, mut to_send): (Vec<_>, Vec<_>) =
            blocks.iter().copied().partition(|(_, block)| block.copied);
        let progress = self.source.context.progress;
        let work = |(): &mut (), (index, block): &(u32, Block)| {
            !progress.is_cancelled() && self.try_copy(upload, *index, *block)
        };
        let (threads, window) = (COPIES_AT_ONCE, COPIES_AT_ONCE * 4);
        pipeline::in_order(
            &copied,
            threads,
            window,
            || (),
            work,
            |job, done| {
                progress.check_cancelled(ExportError::Cancelled)?;
                if done {
                    self.count(job.1);
                } else {
                    to_send.push(*job);
                }
                Ok::<(), ExportError>(())
            },
        )?;
        Ok(to_send)
    }

    fn count(&self, block: Block) {
        let progress = self.source.context.progress;
        for piece in &self.pieces[block.pieces()] {
            match piece {
                Piece::Chunk(job) => {
                    progress.done(u64::from(self.jobs[*job as usize].chunk.raw_bytes));
                }
                Piece::End(entry)
                    if self.source.entries[*entry as usize].kind == EntryKind::Table =>
                {
                    progress.object_done();
                }
                _ => {}
            }
        }
    }

    fn try_copy(&self, upload: &BlockUpload, index: u32, block: Block) -> bool {
        if self.copying.given_up.load(Ordering::Relaxed) {
            return false;
        }
        match self.copy(upload, index, block) {
            Ok(()) => {
                self.copying.refusals.store(0, Ordering::Relaxed);
                true
            }
            Err(refused) => {
                tracing::warn!("{}; it is sent", chain(&refused));
                let refusals = self.copying.refusals.fetch_add(1, Ordering::Relaxed) + 1;
                if refusals >= MOST_REFUSALS {
                    self.copying.given_up.store(true, Ordering::Relaxed);
                }
                false
            }
        }
    }

    fn copy(&self, upload: &BlockUpload, index: u32, block: Block) -> Result<(), CopyRefused> {
        let Piece::Chunk(job) = self.pieces[block.first as usize] else { return Ok(()) };
        let chunk = &self.jobs[job as usize].chunk;
        let (name, bytes) = (chunk_name(&chunk.hash), u64::from(chunk.stored_bytes));
        self.store.copy(upload, index, &CopySource::Vault { name: &name, bytes })
    }

    /// Reads, verifies and sends blocks; false if something is damaged.
    fn sends(
        &mut self,
        upload: &BlockUpload,
        blocks: &[(u32, Block)],
        placed: &mut HashMap<u32, Placed>,
        damage: &mut Damage,
    ) -> Result<bool, ExportError> {
        let context = self.source.context;
        let work = |worker: &mut Worker, (index, block): &(u32, Block)| {
            self.send(worker, upload, *index, *block)
        };
        let (mut sound, mut sent_bytes) = (true, 0);
        let threads = context.options.threads.max(1);
        pipeline::in_order(blocks, threads, threads, Worker::new, work, |job, sent| {
            context.progress.check_cancelled(ExportError::Cancelled)?;
            match sent {
                Sent::Placed(block) => {
                    self.count(job.1);
                    sent_bytes += block.bytes;
                    placed.insert(job.0, block);
                    Ok(())
                }
                Sent::Damaged(job, error) => {
                    sound = false;
                    let Job { entry, chunk } = &self.jobs[job];
                    let (name, entry) = (&self.source.database.name, &self.source.entries[*entry]);
                    note_damage(damage, name, entry, chunk, &error);
                    Ok(())
                }
                Sent::Failed(error) => Err(error),
            }
        })?;
        self.sent_bytes += sent_bytes;
        Ok(sound)
    }

    fn send(&self, worker: &mut Worker, upload: &BlockUpload, index: u32, block: Block) -> Sent {
        let (mut body, mut starts) = (Vec::new(), Vec::new());
        for piece in &self.pieces[block.pieces()] {
            match *piece {
                Piece::Start(entry) => {
                    let entry = &self.source.entries[entry as usize];
                    starts.push((entry.dump_id, body.len() as u64));
                    body.extend_from_slice(&block_start(entry.kind, entry.dump_id));
                }
                Piece::End(entry) => match self.source.entries[entry as usize].kind {
                    EntryKind::Table => body.extend_from_slice(&self.table_end),
                    EntryKind::LargeObjects => body.extend_from_slice(&archive::END),
                },
                Piece::Chunk(job) => match self.read(worker, job as usize) {
                    Ok(()) => body.extend_from_slice(worker.buffer.object()),
                    Err(sent) => return sent,
                },
            }
        }
        let bytes = body.len() as u64;
        match self.store.send(upload, index, body) {
            Ok(()) => Sent::Placed(Placed { bytes, starts }),
            Err(error) => Sent::Failed(store_error(error)),
        }
    }

    /// Reads a chunk and verifies it.
    fn read(&self, worker: &mut Worker, job: usize) -> Result<(), Sent> {
        let context = self.source.context;
        let Job { entry, chunk } = &self.jobs[job];
        let entry = &self.source.entries[*entry];
        match context.vault.get_chunk(entry.kind, chunk, &mut worker.buffer) {
            Ok(()) => {}
            Err(error) if error.is_damage() => return Err(Sent::Damaged(job, error)),
            Err(error) => return Err(Sent::Failed(error.into())),
        }
        context.progress.read_some(u64::from(chunk.raw_bytes));
        let row: Result<(), ReadyError> = match entry.kind {
            EntryKind::Table => check_row(worker.buffer.raw(), chunk),
            EntryKind::LargeObjects => Ok(()),
        };
        let name = &self.source.database.name;
        row.map_err(|error| Sent::Failed(not_ready(name, entry, chunk, &error)))
    }
}

/// The table of contents on its way into blocks.
struct Head<'a> {
    store: &'a dyn BlockStore,
    upload: &'a BlockUpload,
    buffer: Vec<u8>,
    blocks: Vec<u32>,
}

impl Head<'_> {
    fn send(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let index = HEAD + u32::try_from(self.blocks.len()).unwrap_or_default();
            let body = std::mem::take(&mut self.buffer);
            self.store.send(self.upload, index, body).map_err(io::Error::other)?;
            self.blocks.push(index);
        }
        Ok(())
    }
}

impl Write for Head<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = layout::SENT_BYTES as usize - self.buffer.len();
        let count = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..count]);
        if count == room {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Blobs that the archive is copied from; removed when it is dropped.
struct Temporary {
    store: Arc<dyn BlockStore>,
    names: Vec<String>,
}

impl Temporary {
    fn begin(&mut self, name: &str, id: &str, number: usize) -> BlockUpload {
        let name = format!("{name}.partial/{id}-{number:05}");
        self.names.push(name.clone());
        self.store.begin(&name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.store.delete(name) {
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}
