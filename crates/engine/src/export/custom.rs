//! One database as a custom archive, written from its start to its end.

use flexkeep_pg_archive::Toc;
use flexkeep_vault::contents::{Entry, EntryKind};

use super::composer::{ArchiveOut, ComposeError, Composer};
use super::damage::Damage;
use super::database::{Context, Source, Written};
use super::encode::{Block, BlockError, Ready};
use super::sink::{self, Sink};
use super::{ExportError, Transfer};
use crate::options::ExportTarget;

/// Writes the archive. `refused` says why the storage service does not do it by itself, where that
/// was tried.
pub(super) fn write(
    source: &Source<'_>,
    toc: Toc,
    name: &str,
    refused: Option<String>,
    damage: &mut Damage,
) -> Result<Option<Written>, ExportError> {
    let options = source.context.options;
    let sink = Sink::create(options, name, source.estimate(&toc))?;
    let failed = |error| match error {
        BlockError::Compose(ComposeError::Io(error)) => sink::write_error(options, name, error),
        other => inconsistent(source, &other),
    };
    let Some(sink) = stream(source, toc, sink, damage, &failed)? else { return Ok(None) };
    let (path, bytes) = sink.finish(options.overwrite)?;
    let mut written = source.written(name, path, bytes);
    if matches!(options.to, ExportTarget::Blocks(_)) {
        written.transfer = Some(Transfer { copied_bytes: 0, sent_bytes: bytes, refused });
    }
    Ok(Some(written))
}

fn inconsistent(source: &Source<'_>, error: &BlockError) -> ExportError {
    let database = source.database.name.clone();
    ExportError::Inconsistent { database, problem: error.to_string() }
}

/// Writes the archive into `out`; `None` if something is damaged.
pub(super) fn stream<W: ArchiveOut>(
    source: &Source<'_>,
    toc: Toc,
    out: W,
    damage: &mut Damage,
    failed: &dyn Fn(BlockError) -> ExportError,
) -> Result<Option<W>, ExportError> {
    let composer = Composer::new(out, toc).map_err(|error| failed(error.into()))?;
    let (codec, context) = (source.codec, source.context);
    let mut archive =
        Archive { composer, source, entries: &source.entries, at: 0, block: None, context };
    let sound = source.run(
        damage,
        |worker, kind, chunk| worker.ready(codec, kind, chunk),
        |job, ready| archive.chunk(job.entry, ready).map_err(failed),
    )?;
    if !sound {
        return Ok(None);
    }
    archive.until(source.entries.len()).map_err(failed)?;
    archive.composer.finish().map(Some).map_err(|error| failed(error.into()))
}

/// The archive being written, entry by entry.
struct Archive<'a, W> {
    composer: Composer<W>,
    source: &'a Source<'a>,
    entries: &'a [Entry],
    /// The first entry whose block is not begun.
    at: usize,
    block: Option<Block>,
    context: Context<'a>,
}

impl<W: ArchiveOut> Archive<'_, W> {
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
        let codec = self.source.codec;
        self.block = Some(Block::start(&mut self.composer, codec, entry.kind, entry.dump_id)?);
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
