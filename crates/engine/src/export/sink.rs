//! Where the bytes of one file go: a file, a blob that is put together from blocks, or standard
//! output.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use flexkeep_pg_archive::Toc;
use flexkeep_vault::store::{StoreError, StoreErrorKind};

use super::ExportError;
use super::blob::BlobWriter;
use super::composer::ArchiveOut;
use super::partial::{self, Partial};
use crate::options::{ExportOptions, ExportTarget};

/// The name of what goes to standard output.
pub(super) const STDOUT: &str = "-";

/// Bytes that are collected before they go to standard output.
const STDOUT_BUFFER: usize = 256 << 10;

/// A file being written. Nothing has its final name before [`Sink::finish`].
pub(super) enum Sink {
    File { partial: Partial, writer: BufWriter<File> },
    Blob(BlobWriter),
    Stdout { writer: BufWriter<io::Stdout>, written: u64 },
}

impl Sink {
    /// Begins the file `name`, of about `bytes`.
    pub(super) fn create(
        options: &ExportOptions,
        name: &str,
        bytes: u64,
    ) -> Result<Self, ExportError> {
        Ok(match &options.to {
            ExportTarget::Folder(folder) => {
                let (partial, writer) = Partial::create(folder, name)?;
                Self::File { partial, writer }
            }
            ExportTarget::Blocks(store) => Self::Blob(BlobWriter::new(store, name, bytes)),
            ExportTarget::Stdout => {
                let writer = BufWriter::with_capacity(STDOUT_BUFFER, io::stdout());
                Self::Stdout { writer, written: 0 }
            }
        })
    }

    /// Makes it durable and gives it its name; its path, and its length in bytes. Without
    /// `overwrite` what came there meanwhile stays.
    pub(super) fn finish(self, overwrite: bool) -> Result<(String, u64), ExportError> {
        match self {
            Self::File { partial, writer } => partial.finish(writer, overwrite),
            Self::Blob(writer) => writer.finish(overwrite),
            Self::Stdout { mut writer, written } => {
                writer.flush().map_err(stdout_error)?;
                Ok((STDOUT.to_owned(), written))
            }
        }
    }
}

fn stdout_error(source: io::Error) -> ExportError {
    ExportError::File { operation: "write", path: "standard output".into(), source }
}

/// What a failed write was.
pub(super) fn write_error(options: &ExportOptions, name: &str, source: io::Error) -> ExportError {
    match (source.downcast::<StoreError>(), &options.to) {
        (Ok(error), _) => store_error(error),
        (Err(source), ExportTarget::Folder(folder)) => {
            ExportError::File { operation: "write", path: folder.join(name), source }
        }
        (Err(source), ExportTarget::Blocks(store)) => {
            let path = format!("{}/{name}", store.location()).into();
            ExportError::File { operation: "write", path, source }
        }
        (Err(source), ExportTarget::Stdout) => stdout_error(source),
    }
}

/// What a place said.
pub(super) fn store_error(error: StoreError) -> ExportError {
    if error.kind == StoreErrorKind::AlreadyExists {
        return ExportError::Exists { path: format!("{}/{}", error.location, error.object).into() };
    }
    ExportError::Store(error)
}

/// Where a file of that name is, or will be, for people.
pub(super) fn shown(options: &ExportOptions, name: &str) -> String {
    match &options.to {
        ExportTarget::Folder(folder) => folder.join(name).display().to_string(),
        ExportTarget::Blocks(store) => format!("{}/{name}", store.location()),
        ExportTarget::Stdout => STDOUT.to_owned(),
    }
}

/// Refuses what is there.
pub(super) fn refuse_existing(options: &ExportOptions, name: &str) -> Result<(), ExportError> {
    let there = match &options.to {
        ExportTarget::Folder(folder) => partial::is_there(&folder.join(name))?,
        ExportTarget::Blocks(store) => store.length(name).map_err(store_error)?.is_some(),
        ExportTarget::Stdout => false,
    };
    if there { Err(ExportError::Exists { path: shown(options, name).into() }) } else { Ok(()) }
}

/// Writes a small file in one go.
pub(super) fn write_file(
    options: &ExportOptions,
    name: &str,
    body: &[u8],
) -> Result<(String, u64), ExportError> {
    let mut sink = Sink::create(options, name, body.len() as u64)?;
    sink.write_all(body).map_err(|source| write_error(options, name, source))?;
    sink.finish(options.overwrite)
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { writer, .. } => writer.write(bytes),
            Self::Blob(writer) => writer.write(bytes),
            Self::Stdout { writer, written } => {
                let count = writer.write(bytes)?;
                *written += count as u64;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { writer, .. } => writer.flush(),
            // A block goes when it is full, or at the end.
            Self::Blob(_) => Ok(()),
            Self::Stdout { writer, .. } => writer.flush(),
        }
    }
}

impl ArchiveOut for Sink {
    fn begin(&mut self, toc: &Toc) -> io::Result<()> {
        match self {
            // Its blocks can be put in any order at the end.
            Self::Blob(_) => Ok(()),
            _ => toc.write_to(self),
        }
    }

    fn complete(&mut self, toc: &Toc) -> io::Result<()> {
        match self {
            Self::File { writer, .. } => {
                writer.seek(SeekFrom::Start(0))?;
                toc.write_to(writer)?;
                writer.seek(SeekFrom::End(0))?;
                Ok(())
            }
            Self::Blob(writer) => {
                writer.begin_head()?;
                toc.write_to(writer)
            }
            // pg_dump leaves them out there too; pg_restore does without.
            Self::Stdout { .. } => Ok(()),
        }
    }
}
