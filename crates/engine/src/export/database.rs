//! One database as an archive.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use flexkeep_pg_archive::{Compression, Limits, Toc, Version};
use flexkeep_vault::contents::{ChunkRef, Entry, EntryKind};
use flexkeep_vault::manifest::DatabaseSummary;
use flexkeep_vault::{ChunkBuffer, Vault, VaultError, chunk_name, meta_name};

use super::ExportError;
use super::composer::{ComposeError, Composer};
use super::damage::{Damage, MOST_DAMAGED};
use super::encode::{self, Block, BlockError, Codec, Ready, ReadyError};
use super::partial::Partial;
use super::pipeline;
use crate::entries::{Listed, check_listed, entry_name};
use crate::options::ExportOptions;
use crate::progress::Progress;

/// What an export works with.
pub(super) struct Context<'a> {
    pub(super) vault: &'a Vault,
    pub(super) options: &'a ExportOptions,
    pub(super) progress: &'a Progress,
}

/// A written archive.
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) version: Version,
    /// A table of it, for the examples: schema and name.
    pub(super) example: Option<(String, String)>,
}

/// One chunk of the entry with this index.
struct Job {
    entry: usize,
    chunk: ChunkRef,
}

/// Writes the archive of `database` into the file `name`. `None` when something of it is damaged:
/// then no file is left, and `damage` has what was found.
pub(super) fn export(
    context: &Context<'_>,
    database: &DatabaseSummary,
    name: &str,
    damage: &mut Damage,
) -> Result<Option<Written>, ExportError> {
    let damaged_before = damage.objects.len();
    let (toc, entries) = read_parts(context.vault, database, damage)?;
    let Some(entries) = entries else { return Ok(None) };
    let parts = toc.map(|toc| check_parts(context, database, toc, &entries)).transpose()?;
    let jobs: Vec<Job> = entries
        .iter()
        .enumerate()
        .flat_map(|(entry, one)| one.chunks.iter().map(move |&chunk| Job { entry, chunk }))
        .collect();
    let Some((toc, version, codec)) = parts else {
        verify(context, database, &entries, &jobs, damage)?;
        return Ok(None);
    };
    let (partial, writer) = Partial::create(&context.options.to, name, false)?;
    let fail = |error: BlockError| block_error(&partial, database, error);
    let composer = Composer::new(writer, toc).map_err(|error| fail(error.into()))?;
    let mut archive = Archive { composer, codec, entries: &entries, at: 0, block: None, context };
    run(context, database, &entries, &jobs, Some(codec), damage, |job, ready| {
        archive.chunk(job.entry, ready).map_err(fail)
    })?;
    if damage.objects.len() > damaged_before {
        return Ok(None);
    }
    archive.until(entries.len()).map_err(fail)?;
    let writer: BufWriter<File> = archive.composer.finish().map_err(|error| fail(error.into()))?;
    let (path, bytes) = partial.finish(writer, context.options.overwrite)?;
    context.progress.stored(bytes);
    let example = entries.iter().filter(|entry| entry.kind == EntryKind::Table).find_map(example);
    Ok(Some(Written { path, bytes, version, example }))
}

/// A table that can be named in a command, by schema and name.
fn example(entry: &Entry) -> Option<(String, String)> {
    let shown = |name: &str| !name.contains(|c: char| c.is_control() || c == '\u{fffd}');
    let (schema, name) = (entry.schema.clone()?, entry.name.clone());
    (shown(&schema) && shown(&name)).then_some((schema, name))
}

/// The table of contents and the contents list; `None` for one that is damaged.
fn read_parts(
    vault: &Vault,
    database: &DatabaseSummary,
    damage: &mut Damage,
) -> Result<(Option<Toc>, Option<Vec<Entry>>), ExportError> {
    let mut note = |object: &flexkeep_vault::manifest::ObjectRef, error: VaultError, what: &str| {
        if !error.is_damage() {
            return Err(ExportError::Vault(error));
        }
        let (name, database) = (meta_name(&object.hash), Some(database.name.as_str()));
        damage.add(object.hash, name, &error, database, what.to_owned());
        Ok(())
    };
    let limits = Limits::default();
    let toc = match vault.get_meta(&database.toc, limits.max_total_bytes) {
        Ok(raw) => Some(
            Toc::read(&mut raw.as_slice(), &limits)
                .map_err(|source| ExportError::Toc { database: database.name.clone(), source })?,
        ),
        Err(error) => {
            note(&database.toc, error, "(table of contents)")?;
            None
        }
    };
    let mut entries = Vec::new();
    match vault.read_contents(&database.contents, |entry| entries.push(entry)) {
        Ok(()) => Ok((toc, Some(entries))),
        Err(error) => {
            note(&database.contents, error, "(contents list)")?;
            Ok((toc, None))
        }
    }
}

/// The table of contents in the version that is wanted, and proof that the contents list has the
/// data of each of its entries once, in its order.
fn check_parts(
    context: &Context<'_>,
    database: &DatabaseSummary,
    toc: Toc,
    entries: &[Entry],
) -> Result<(Toc, Version, Codec), ExportError> {
    let inconsistent =
        |problem: String| ExportError::Inconsistent { database: database.name.clone(), problem };
    if toc.header().compression != Compression::Zstd {
        let found = toc.header().compression;
        return Err(inconsistent(format!("its table of contents is for {found} compression")));
    }
    let (version, codec) = wanted(context.options.pg_restore, toc.header().version)?;
    let fails = |source| ExportError::Convert { database: database.name.clone(), source };
    let toc = if codec == Codec::Gzip {
        toc.with_compression(Compression::Gzip).map_err(|error| fails(error.into()))?
    } else {
        toc
    };
    let toc = toc.to_version(version).map_err(fails)?;
    if toc.header().int_size != 4 {
        return Err(inconsistent("its archive has integers of more than 4 bytes".to_owned()));
    }
    let listed: Vec<Listed> = entries.iter().map(Listed::of).collect();
    check_listed(&toc, &listed).map_err(inconsistent)?;
    Ok((toc, version, codec))
}

/// Which archive version and compression to write.
pub(super) fn wanted(
    pg_restore: Option<u32>,
    stored: Version,
) -> Result<(Version, Codec), ExportError> {
    let Some(major) = pg_restore else { return Ok((stored, Codec::Zstd)) };
    match Version::for_pg_restore(major) {
        Some(version) if version >= stored => Ok((stored, Codec::Zstd)),
        Some(version) if version >= Version::V1_15 => Ok((version, Codec::Zstd)),
        Some(version) if version >= Version::V1_14 => Ok((version, Codec::Gzip)),
        _ => Err(ExportError::PgRestoreTooOld { major }),
    }
}

/// Verifies all chunks without writing any.
fn verify(
    context: &Context<'_>,
    database: &DatabaseSummary,
    entries: &[Entry],
    jobs: &[Job],
    damage: &mut Damage,
) -> Result<(), ExportError> {
    run(context, database, entries, jobs, None, damage, |_, _| Ok(()))
}

/// Why a chunk is not to be written.
enum Refused {
    Vault(VaultError),
    NotReady(ReadyError),
}

/// Reads and verifies `jobs` on many threads and gives what they make to `write`, in order, until
/// the first damaged one; from there on it only verifies.
fn run(
    context: &Context<'_>,
    database: &DatabaseSummary,
    entries: &[Entry],
    jobs: &[Job],
    codec: Option<Codec>,
    damage: &mut Damage,
    mut write: impl FnMut(&Job, Ready) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let threads = context.options.threads.max(1);
    let verify_only = AtomicBool::new(codec.is_none());
    let work = |buffer: &mut ChunkBuffer, job: &Job| {
        let kind = entries[job.entry].kind;
        context.vault.get_chunk(kind, &job.chunk, buffer).map_err(Refused::Vault)?;
        match codec {
            Some(codec) if !verify_only.load(Ordering::Relaxed) => {
                let ready = encode::ready(codec, kind, &job.chunk, buffer);
                ready.map(Some).map_err(Refused::NotReady)
            }
            _ => Ok(None),
        }
    };
    let name = &database.name;
    pipeline::in_order(jobs, threads, threads * 2, ChunkBuffer::new, work, |job, outcome| {
        if context.progress.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        context.progress.read_some(u64::from(job.chunk.raw_bytes));
        context.progress.done(u64::from(job.chunk.raw_bytes));
        match outcome {
            Ok(Some(ready)) if !verify_only.load(Ordering::Relaxed) => write(job, ready),
            Ok(_) => Ok(()),
            Err(Refused::Vault(error)) if error.is_damage() => {
                verify_only.store(true, Ordering::Relaxed);
                if damage.count_of(name) >= MOST_DAMAGED {
                    damage.more = true;
                    return Ok(());
                }
                let (hash, entry) = (job.chunk.hash, entry_name(&entries[job.entry]));
                damage.add(hash, chunk_name(&hash), &error, Some(name), entry);
                Ok(())
            }
            Err(Refused::Vault(error)) => Err(error.into()),
            Err(Refused::NotReady(error)) => Err(ExportError::Inconsistent {
                database: name.clone(),
                problem: format!(
                    "chunk {} of {}: {error}",
                    job.chunk.hash,
                    entry_name(&entries[job.entry])
                ),
            }),
        }
    })
}

/// The archive being written, entry by entry.
struct Archive<'a> {
    composer: Composer<BufWriter<File>>,
    codec: Codec,
    entries: &'a [Entry],
    /// The first entry whose block is not begun.
    at: usize,
    block: Option<Block>,
    context: &'a Context<'a>,
}

impl Archive<'_> {
    fn chunk(&mut self, entry: usize, ready: Ready) -> Result<(), BlockError> {
        self.until(entry)?;
        if self.at == entry {
            self.start()?;
        }
        match &mut self.block {
            Some(block) => block.chunk(&mut self.composer, ready),
            None => Err(BlockError::Broken("a chunk of no block")),
        }
    }

    /// Writes what comes before the entry `end`: the rest of the open block, unless it is that
    /// entry's, and blocks without a chunk.
    fn until(&mut self, end: usize) -> Result<(), BlockError> {
        while self.at < end {
            self.end_block()?;
            self.start()?;
        }
        if self.at == end {
            self.end_block()?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), BlockError> {
        let entry = &self.entries[self.at];
        let block = Block::start(&mut self.composer, self.codec, entry.kind, entry.dump_id)?;
        self.block = Some(block);
        self.at += 1;
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), BlockError> {
        if let Some(block) = self.block.take() {
            block.end(&mut self.composer)?;
            if self.entries[self.at - 1].kind == EntryKind::Table {
                self.context.progress.object_done();
            }
        }
        Ok(())
    }
}

fn block_error(partial: &Partial, database: &DatabaseSummary, error: BlockError) -> ExportError {
    match error {
        BlockError::Compose(ComposeError::Io(source)) => partial.failed("write", source),
        other => ExportError::Inconsistent {
            database: database.name.clone(),
            problem: other.to_string(),
        },
    }
}
