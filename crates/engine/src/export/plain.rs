//! One database as SQL for psql.
//!
//! The SQL is that of the stock pg_restore: it gets the archive through a pipe, uncompressed, and
//! what it writes is taken from another one. So neither the archive nor the SQL is ever held, and
//! the SQL is exactly what `pg_dump -Fp` has.

use std::io::{self, Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use flate2::write::GzEncoder;
use flexkeep_pg_archive::{Toc, Version};
use flexkeep_vault::contents::EntryKind;

use super::ExportError;
use super::composer::{ArchiveOut, ComposeError};
use super::custom;
use super::damage::Damage;
use super::database::{Context, Source, Written};
use super::encode::{BlockError, Codec};
use super::sink::{self, Sink};
use crate::error::ToolError;
use crate::options::ExportCompression;
use crate::tools::{ClientTools, RunningTool};

const PG_RESTORE: &str = "pg_restore";

/// Bytes that are taken from the pipe at once.
const PORTION: usize = 256 << 10;

/// How long pg_restore may take to end after its output has.
const END_LIMIT: Duration = Duration::from_secs(60);

/// gzip level of SQL; pg_dump's.
const GZIP_LEVEL: u32 = 6;

/// zstd level of SQL. The fast levels of chunks take twice the space without their own settings.
const ZSTD_LEVEL: i32 = 1;

/// The pg_restore that is to write the SQL: of the server's own major version, or the next newer
/// one there is, as a newer one writes settings that an older server does not know.
pub(super) fn tool(context: &Context<'_>) -> Result<ClientTools, ExportError> {
    let major = context.options.pg_restore.unwrap_or(context.server_major);
    Ok(ClientTools::find_oldest(context.options.pg_bin.as_deref(), major)?)
}

/// What it is given.
pub(super) fn form(tool: &ClientTools, stored: Version) -> (Version, Codec) {
    let reads = Version::for_pg_restore(tool.major).unwrap_or(stored);
    (reads.min(stored), Codec::None)
}

/// The ending of a file.
pub(super) fn suffix(compression: Option<ExportCompression>) -> &'static str {
    match compression {
        None | Some(ExportCompression::None) => ".sql",
        Some(ExportCompression::Gzip(_)) => ".sql.gz",
        Some(ExportCompression::Zstd(_)) => ".sql.zst",
    }
}

pub(super) fn write(
    source: &Source<'_>,
    toc: Toc,
    name: &str,
    tool: &ClientTools,
    damage: &mut Damage,
) -> Result<Option<Written>, ExportError> {
    let options = source.context.options;
    let mut command = std::process::Command::new(tool.program(PG_RESTORE));
    command.args(["--file", "-"]).env("LC_ALL", "C").env_remove("PG_COLOR");
    if options.create {
        command.arg("--create");
    }
    // Large objects are written in hexadecimal, twice as long.
    let objects: u64 = source
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::LargeObjects)
        .flat_map(|entry| &entry.chunks)
        .map(|chunk| u64::from(chunk.raw_bytes))
        .sum();
    let sink = Sink::create(options, name, source.estimate(&toc) + objects + objects / 8)?;
    let mut text = Encoder::new(sink, options.compression)
        .map_err(|error| sink::write_error(options, name, error))?;
    let (mut running, input) = RunningTool::start_with_input(&mut command, PG_RESTORE)?;
    let output = running.take_stdout();
    let (fed, taken) = std::thread::scope(|scope| {
        let taker = scope.spawn(move || text.take(output).map(|()| text));
        let fed = feed(source, toc, input, damage);
        if !matches!(fed, Ok(true)) {
            // What it would still write is not wanted.
            running.kill();
        }
        (fed, join(taker))
    });
    let pipe_broke = matches!(&fed, Err(Fed::Pipe));
    match fed {
        // Then it has ended, or nobody has taken its output any more.
        Ok(true) | Err(Fed::Pipe) => {}
        Ok(false) => return Ok(None),
        Err(Fed::Other(error)) => return Err(error),
    }
    let text = taken?.map_err(|error| sink::write_error(options, name, error))?;
    let (status, stderr) = running.wait(END_LIMIT)?;
    if pipe_broke || !status.success() {
        let (tool, status) = (PG_RESTORE.to_owned(), status.to_string());
        return Err(ToolError::Failed { tool, status, stderr }.into());
    }
    let sink = text.end().map_err(|error| sink::write_error(options, name, error))?;
    let (path, bytes) = sink.finish(options.overwrite)?;
    let mut written = source.written(name, path, bytes);
    written.major = tool.major;
    if tool.major > source.context.server_major {
        written.notes.push(format!(
            "{name} was written by {}: a server older than {} may not know a setting in it",
            tool.version.replace("pg_dump", PG_RESTORE),
            tool.major
        ));
    }
    Ok(Some(written))
}

fn join<T>(taker: ScopedJoinHandle<'_, T>) -> Result<T, ExportError> {
    taker.join().map_err(|_| ExportError::Internal("a thread that takes SQL panicked".to_owned()))
}

/// Why pg_restore did not get everything.
enum Fed {
    /// It does not read any more.
    Pipe,
    Other(ExportError),
}

/// Gives pg_restore the archive. False if something is damaged.
fn feed(
    source: &Source<'_>,
    toc: Toc,
    input: ChildStdin,
    damage: &mut Damage,
) -> Result<bool, Fed> {
    let pipe = Pipe(io::BufWriter::with_capacity(PORTION, input));
    // Told from others by its cause; there is no other file that could fail.
    let broken = std::cell::Cell::new(false);
    let failed = |error: BlockError| match error {
        BlockError::Compose(ComposeError::Io(_)) => {
            broken.set(true);
            ExportError::Internal("pg_restore has stopped reading".to_owned())
        }
        other => ExportError::Inconsistent {
            database: source.database.name.clone(),
            problem: other.to_string(),
        },
    };
    let result = custom::stream(source, toc, pipe, damage, &failed);
    match result {
        Ok(pipe) => Ok(pipe.is_some()),
        Err(_) if broken.get() => Err(Fed::Pipe),
        Err(error) => Err(Fed::Other(error)),
    }
}

/// pg_restore's standard input, which it reads from start to end.
struct Pipe(io::BufWriter<ChildStdin>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ArchiveOut for Pipe {
    fn begin(&mut self, toc: &Toc) -> io::Result<()> {
        toc.write_to(self)
    }

    fn complete(&mut self, _toc: &Toc) -> io::Result<()> {
        Ok(())
    }
}

/// The way of the SQL to its file. What is dropped before [`Encoder::end`] has no end that a
/// decompressor would take for one.
enum Encoder {
    Plain(Sink),
    Gzip(Gzip<Sink>),
    Zstd(Box<zstd::stream::Encoder<'static, Sink>>),
}

impl Encoder {
    fn new(sink: Sink, compression: Option<ExportCompression>) -> io::Result<Self> {
        Ok(match compression {
            None | Some(ExportCompression::None) => Self::Plain(sink),
            Some(ExportCompression::Gzip(level)) => {
                let level = flate2::Compression::new(level.unwrap_or(GZIP_LEVEL));
                Self::Gzip(Gzip::new(sink, level))
            }
            Some(ExportCompression::Zstd(level)) => {
                let level = level.unwrap_or(ZSTD_LEVEL);
                let mut encoder = zstd::stream::Encoder::new(sink, level)?;
                encoder.include_checksum(true)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// Takes all that comes out of the pipe.
    fn take(&mut self, mut output: ChildStdout) -> io::Result<()> {
        let mut portion = vec![0; PORTION];
        loop {
            let count = match output.read(&mut portion) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match self {
                Self::Plain(sink) => sink.write_all(&portion[..count])?,
                Self::Gzip(gzip) => gzip.encoder.write_all(&portion[..count])?,
                Self::Zstd(encoder) => encoder.write_all(&portion[..count])?,
            }
        }
    }

    fn end(self) -> io::Result<Sink> {
        match self {
            Self::Plain(sink) => Ok(sink),
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// gzip that ends only when it is finished. The encoder itself writes the end of its stream also when
/// it is dropped, and half of the SQL would be a whole file.
struct Gzip<W: Write> {
    encoder: Box<GzEncoder<Gate<W>>>,
}

/// Where nothing goes any more once it is shut, nor is taken.
struct Gate<W> {
    to: Option<W>,
}

impl<W: Write> Gzip<W> {
    fn new(to: W, level: flate2::Compression) -> Self {
        Self { encoder: Box::new(GzEncoder::new(Gate { to: Some(to) }, level)) }
    }

    fn finish(mut self) -> io::Result<W> {
        self.encoder.try_finish()?;
        self.encoder.get_mut().to.take().ok_or_else(shut)
    }
}

impl<W: Write> Drop for Gzip<W> {
    fn drop(&mut self) {
        self.encoder.get_mut().to = None;
    }
}

impl<W: Write> Write for Gate<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.as_mut().ok_or_else(shut)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().ok_or_else(shut)?.flush()
    }
}

fn shut() -> io::Error {
    io::Error::other("the file was given up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_that_is_given_up_has_no_end() {
        let text = "INSERT INTO t VALUES (1);\n".repeat(10_000);
        for finished in [false, true] {
            let mut file = Vec::new();
            let mut gzip = Gzip::new(&mut file, flate2::Compression::new(6));
            gzip.encoder.write_all(text.as_bytes()).unwrap();
            gzip.encoder.flush().unwrap();
            if finished {
                gzip.finish().unwrap();
            } else {
                drop(gzip);
            }
            let mut read = String::new();
            let result = flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut read);
            assert_eq!(result.is_ok(), finished, "{result:?}");
            assert!(file.len() > 100, "{}", file.len());
        }
    }
}
