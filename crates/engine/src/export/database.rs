//! One database: what is read of it, what is wanted of it, and the threads that read its chunks.

use std::sync::atomic::{AtomicBool, Ordering};

use flexkeep_pg_archive::{Compression, Limits, Toc, Version};
use flexkeep_vault::contents::{ChunkRef, Entry, EntryKind};
use flexkeep_vault::manifest::DatabaseSummary;
use flexkeep_vault::{Vault, VaultError, chunk_name, meta_name};

use super::damage::{Damage, MOST_DAMAGED};
use super::encode::{Codec, GZIP_LEVEL, ReadyError, Worker};
use super::{
    ExportError, Transfer, compose, custom, directory, oldest_pg_restore, part, pipeline, plain,
};
use crate::entries::{Listed, check_listed, entry_name};
use crate::options::{ExportCompression, ExportFormat, ExportOptions};
use crate::progress::Progress;

/// What an export works with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) vault: &'a Vault,
    pub(super) options: &'a ExportOptions,
    pub(super) progress: &'a Progress,
    /// Major version of the server that was backed up.
    pub(super) server_major: u32,
}

/// A database that was written.
pub(super) struct Written {
    /// Its file's name, or its folder's.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) bytes: u64,
    /// The oldest pg_restore, or for SQL the oldest server, that takes it.
    pub(super) major: u32,
    /// A table of it, for the examples: schema and name.
    pub(super) example: Option<(String, String)>,
    /// Tables, rows and large objects in it.
    pub(super) counts: Counts,
    pub(super) transfer: Option<Transfer>,
    /// What is to be known of it, for people.
    pub(super) notes: Vec<String>,
}

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) tables: u64,
    pub(super) rows: u64,
    pub(super) large_objects: u64,
}

/// One chunk of the entry with this index.
pub(super) struct Job {
    pub(super) entry: usize,
    pub(super) chunk: ChunkRef,
}

/// A database, ready to be written.
pub(super) struct Source<'a> {
    pub(super) context: Context<'a>,
    pub(super) database: &'a DatabaseSummary,
    pub(super) version: Version,
    pub(super) codec: Codec,
    pub(super) entries: Vec<Entry>,
}

/// Writes `database` under the name `name`. `None` when something of it is damaged: then nothing is
/// left, and `damage` has what was found.
pub(super) fn export(
    context: Context<'_>,
    database: &DatabaseSummary,
    name: &str,
    damage: &mut Damage,
) -> Result<Option<Written>, ExportError> {
    let (toc, entries) = read_parts(context.vault, database, damage)?;
    let Some(mut entries) = entries else { return Ok(None) };
    let Some(mut toc) = toc else {
        context.planned(database, &entries);
        let jobs = jobs(&entries);
        context.verify(database, &entries, &jobs, damage)?;
        return Ok(None);
    };
    let mut notes = Vec::new();
    if context.options.is_selective() {
        (toc, notes) = part::of(toc, database, context.options)?;
        let mut wanted = Vec::with_capacity(entries.len());
        wanted.extend(entries.iter().map(|entry| toc.get(entry.dump_id).is_some()));
        let mut wanted = wanted.into_iter();
        entries.retain(|_| wanted.next().unwrap_or(false));
    }
    context.planned(database, &entries);
    let tool = match context.options.format {
        ExportFormat::Plain => Some(plain::tool(&context)?),
        _ => None,
    };
    let form = match &tool {
        Some(tool) => plain::form(tool, toc.header().version),
        None => wanted(context.options, toc.header().version)?,
    };
    let (source, toc) = Source::checked(context, database, toc, entries, form)?;
    let counts = source.counts();
    let example = source.entries.iter().find_map(example);
    let written = match (context.options.format, &tool) {
        (ExportFormat::Plain, Some(tool)) => plain::write(&source, toc, name, tool, damage)?,
        (ExportFormat::Directory, _) => directory::write(&source, toc, name, damage)?,
        _ => match compose::write(&source, toc, name, damage)? {
            compose::Outcome::Done(written) => written,
            compose::Outcome::Stream(toc, reason) => {
                custom::write(&source, toc, name, reason, damage)?
            }
        },
    };
    Ok(written.map(|mut written| {
        written.notes.splice(0..0, notes);
        Written { counts, example, ..written }
    }))
}

/// Proves that what is chosen of a database is there, as far as that can be read.
pub(super) fn check_part(
    context: Context<'_>,
    database: &DatabaseSummary,
) -> Result<(), ExportError> {
    let (toc, _) = read_toc(context.vault, database)?;
    toc.map_or(Ok(()), |toc| part::of(toc, database, context.options).map(drop))
}

/// A table that can be named in a command, by schema and name.
fn example(entry: &Entry) -> Option<(String, String)> {
    let shown = |name: &str| !name.contains(|c: char| c.is_control() || c == '\u{fffd}');
    let (schema, name) = (entry.schema.clone()?, entry.name.clone());
    (entry.kind == EntryKind::Table && shown(&schema) && shown(&name)).then_some((schema, name))
}

pub(super) fn jobs(entries: &[Entry]) -> Vec<Job> {
    let of = |(entry, one): (usize, &Entry)| {
        one.chunks.iter().map(move |&chunk| Job { entry, chunk }).collect::<Vec<_>>()
    };
    entries.iter().enumerate().flat_map(of).collect()
}

/// The table of contents, or what damage it has.
fn read_toc(
    vault: &Vault,
    database: &DatabaseSummary,
) -> Result<(Option<Toc>, Option<VaultError>), ExportError> {
    let limits = Limits::default();
    match vault.get_meta(&database.toc, limits.max_total_bytes) {
        Ok(raw) => Toc::read(&mut raw.as_slice(), &limits)
            .map(|toc| (Some(toc), None))
            .map_err(|source| ExportError::Toc { database: database.name.clone(), source }),
        Err(error) if error.is_damage() => Ok((None, Some(error))),
        Err(error) => Err(error.into()),
    }
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
    let (toc, damaged) = read_toc(vault, database)?;
    if let Some(error) = damaged {
        note(&database.toc, error, "(table of contents)")?;
    }
    let mut entries = Vec::new();
    match vault.read_contents(&database.contents, |entry| entries.push(entry)) {
        Ok(()) => Ok((toc, Some(entries))),
        Err(error) => {
            note(&database.contents, error, "(contents list)")?;
            Ok((toc, None))
        }
    }
}

/// Which archive version and compression to write.
pub(super) fn wanted(
    options: &ExportOptions,
    stored: Version,
) -> Result<(Version, Codec), ExportError> {
    let version = match options.pg_restore {
        None => stored,
        Some(major) => match Version::for_pg_restore(major) {
            Some(version) if version >= stored => stored,
            Some(version) if version >= Version::V1_14 => version,
            _ => return Err(ExportError::PgRestoreTooOld { major }),
        },
    };
    let codec = match options.compression {
        None if version >= Version::V1_15 => Codec::Stored,
        None => Codec::Gzip(GZIP_LEVEL),
        Some(ExportCompression::Zstd(_)) if version < Version::V1_15 => {
            return Err(ExportError::Options(format!(
                "pg_restore {} cannot read zstd, which came with 16; choose gzip or none",
                options.pg_restore.unwrap_or(15)
            )));
        }
        Some(ExportCompression::Zstd(None)) => Codec::Stored,
        Some(ExportCompression::Zstd(Some(level))) => Codec::Zstd(level),
        Some(ExportCompression::Gzip(level)) => Codec::Gzip(level.unwrap_or(GZIP_LEVEL)),
        Some(ExportCompression::None) => Codec::None,
    };
    Ok((version, codec))
}

/// Why a chunk is not to be written.
enum Refused {
    Vault(VaultError),
    NotReady(ReadyError),
}

impl<'a> Context<'a> {
    fn planned(&self, database: &DatabaseSummary, entries: &[Entry]) {
        if !self.options.is_selective() {
            self.progress.planned(database.totals.tables, database.totals.raw_bytes);
            return;
        }
        let bytes = |entry: &Entry| -> u64 {
            entry.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum()
        };
        let tables = entries.iter().filter(|entry| entry.kind == EntryKind::Table).count();
        self.progress.planned(tables as u64, entries.iter().map(bytes).sum());
    }

    /// Verifies all chunks without writing any.
    fn verify(
        &self,
        database: &DatabaseSummary,
        entries: &[Entry],
        jobs: &[Job],
        damage: &mut Damage,
    ) -> Result<(), ExportError> {
        let none = |_: &mut Worker, _: EntryKind, _: &ChunkRef| Ok(());
        self.run(database, entries, jobs, true, damage, none, |_, ()| Ok(()))
    }

    /// Reads and verifies `jobs` on many threads, has each prepared, and gives what comes of it to
    /// `write`, in order, until the first damaged one; from there on it only verifies.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one step")]
    fn run<T: Send>(
        &self,
        database: &DatabaseSummary,
        entries: &[Entry],
        jobs: &[Job],
        verify_only: bool,
        damage: &mut Damage,
        prepare: impl Fn(&mut Worker, EntryKind, &ChunkRef) -> Result<T, ReadyError> + Sync,
        mut write: impl FnMut(&Job, T) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let threads = self.options.threads.max(1);
        let verify_only = AtomicBool::new(verify_only);
        let work = |worker: &mut Worker, job: &Job| {
            let kind = entries[job.entry].kind;
            let chunk = &job.chunk;
            self.vault.get_chunk(kind, chunk, &mut worker.buffer).map_err(Refused::Vault)?;
            if verify_only.load(Ordering::Relaxed) {
                return Ok(None);
            }
            prepare(worker, kind, chunk).map(Some).map_err(Refused::NotReady)
        };
        let name = &database.name;
        pipeline::in_order(jobs, threads, threads * 2, Worker::new, work, |job, outcome| {
            if self.progress.is_cancelled() {
                return Err(ExportError::Cancelled);
            }
            self.progress.read_some(u64::from(job.chunk.raw_bytes));
            self.progress.done(u64::from(job.chunk.raw_bytes));
            match outcome {
                Ok(Some(ready)) if !verify_only.load(Ordering::Relaxed) => write(job, ready),
                Ok(_) => Ok(()),
                Err(Refused::Vault(error)) if error.is_damage() => {
                    verify_only.store(true, Ordering::Relaxed);
                    note_damage(damage, name, &entries[job.entry], &job.chunk, &error);
                    Ok(())
                }
                Err(Refused::Vault(error)) => Err(error.into()),
                Err(Refused::NotReady(error)) => {
                    Err(not_ready(name, &entries[job.entry], &job.chunk, &error))
                }
            }
        })
    }
}

/// Notes a damaged chunk, unless there are too many already.
pub(super) fn note_damage(
    damage: &mut Damage,
    database: &str,
    entry: &Entry,
    chunk: &ChunkRef,
    error: &VaultError,
) {
    if damage.count_of(database) >= MOST_DAMAGED {
        damage.more = true;
        return;
    }
    let name = chunk_name(&chunk.hash);
    damage.add(chunk.hash, name, error, Some(database), entry_name(entry));
}

pub(super) fn not_ready(
    database: &str,
    entry: &Entry,
    chunk: &ChunkRef,
    error: &ReadyError,
) -> ExportError {
    let problem = format!("chunk {} of {}: {error}", chunk.hash, entry_name(entry));
    ExportError::Inconsistent { database: database.to_owned(), problem }
}

impl<'a> Source<'a> {
    /// The table of contents in the version that is wanted, and proof that the contents list has
    /// the data of each of its entries once, in its order.
    fn checked(
        context: Context<'a>,
        database: &'a DatabaseSummary,
        toc: Toc,
        entries: Vec<Entry>,
        (version, codec): (Version, Codec),
    ) -> Result<(Self, Toc), ExportError> {
        let inconsistent = |problem: String| ExportError::Inconsistent {
            database: database.name.clone(),
            problem,
        };
        if toc.header().compression != Compression::Zstd {
            let found = toc.header().compression;
            return Err(inconsistent(format!("its table of contents is for {found} compression")));
        }
        let fails = |source| ExportError::Convert { database: database.name.clone(), source };
        let toc = match codec.compression() {
            Compression::Zstd => toc,
            other => toc.with_compression(other).map_err(|error| fails(error.into()))?,
        };
        let toc = toc.to_version(version).map_err(fails)?;
        if toc.header().int_size != 4 {
            return Err(inconsistent("its archive has integers of more than 4 bytes".to_owned()));
        }
        let listed: Vec<Listed> = entries.iter().map(Listed::of).collect();
        check_listed(&toc, &listed).map_err(inconsistent)?;
        Ok((Self { context, database, version, codec, entries }, toc))
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in &self.entries {
            match entry.kind {
                EntryKind::Table => {
                    counts.tables += 1;
                    counts.rows += entry.rows;
                }
                EntryKind::LargeObjects => counts.large_objects += entry.rows,
            }
        }
        counts
    }

    /// About how many bytes the archive will have: what the vault has of the data, or where that is
    /// made anew, not more than its raw length.
    pub(super) fn estimate(&self, toc: &Toc) -> u64 {
        let of = |chunk: &ChunkRef| {
            u64::from(if self.codec == Codec::Stored {
                chunk.stored_bytes
            } else {
                chunk.raw_bytes
            })
        };
        let data: u64 = self.entries.iter().flat_map(|entry| &entry.chunks).map(of).sum();
        toc.encoded_len() + self.entries.len() as u64 * 64 + data
    }

    /// See [`Context::run`]. Gives whether everything was sound.
    pub(super) fn run<T: Send>(
        &self,
        damage: &mut Damage,
        prepare: impl Fn(&mut Worker, EntryKind, &ChunkRef) -> Result<T, ReadyError> + Sync,
        write: impl FnMut(&Job, T) -> Result<(), ExportError>,
    ) -> Result<bool, ExportError> {
        let before = damage.objects.len();
        let jobs = jobs(&self.entries);
        let (database, entries) = (self.database, &self.entries);
        self.context.run(database, entries, &jobs, false, damage, prepare, write)?;
        Ok(damage.objects.len() == before)
    }

    /// What was written, but for what does not depend on the format.
    pub(super) fn written(&self, name: &str, path: String, bytes: u64) -> Written {
        self.context.progress.stored(bytes);
        Written {
            name: name.to_owned(),
            path,
            bytes,
            major: oldest_pg_restore(self.version),
            example: None,
            counts: Counts::default(),
            transfer: None,
            notes: Vec::new(),
        }
    }
}
