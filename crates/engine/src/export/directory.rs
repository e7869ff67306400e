//! One database as a folder, as `pg_dump -Fd` writes it: `toc.dat`, a file for the rows of each
//! table, one for each large object, and lists of these.
//!
//! A file's data are chunk after chunk, each compressed by itself: zstd, gzip and pg_restore read
//! frames and members that follow each other as one. The folder gets its name when all of it is
//! there and durable.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flexkeep_pg_archive::{Toc, Version, blocks};
use flexkeep_vault::contents::EntryKind;
use flexkeep_vault::large_objects;

use super::ExportError;
use super::damage::Damage;
use super::database::{Source, Written};
use super::encode::{Codec, ReadyError, Worker, check_row, terminator_frame};
use super::partial::{self, OwnName};
use crate::options::{DEFAULT_LEVEL, ExportTarget};

const TOC: &str = "toc.dat";

/// How often a folder is put where other exports put theirs at the same time.
const TRIES: usize = 20;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A chunk, ready to be written.
enum Ready {
    /// Goes into the table's file.
    Rows(Vec<u8>),
    Objects(Vec<Object>),
}

/// A large object, or a part of one.
struct Object {
    begins: Option<u32>,
    ends: bool,
    bytes: Vec<u8>,
}

pub(super) fn write(
    source: &Source<'_>,
    toc: Toc,
    name: &str,
    damage: &mut Damage,
) -> Result<Option<Written>, ExportError> {
    let options = source.context.options;
    let ExportTarget::Folder(folder) = &options.to else {
        return Err(ExportError::Internal("a directory archive outside of a folder".to_owned()));
    };
    let toc = one_list(toc, source.version)?;
    let files = toc
        .entries()
        .iter()
        .filter_map(|entry| toc.directory_file(entry).map(|file| (entry.dump_id(), file)));
    let files: HashMap<i32, String> = files.collect();
    let codec = source.codec;
    let mut output = Output::create(folder, name, codec)?;
    let mut at = None;
    let sound = source.run(
        damage,
        |worker, kind, chunk| {
            if kind == EntryKind::Table {
                check_row(worker.buffer.raw(), chunk)?;
            }
            prepare(worker, codec, kind)
        },
        |job, ready| {
            if at != Some(job.entry) {
                at = Some(job.entry);
                output.start(&source.entries, job.entry, &files)?;
            }
            output.chunk(ready)
        },
    )?;
    if !sound {
        return Ok(None);
    }
    output.start(&source.entries, source.entries.len(), &files)?;
    let tables = source.entries.iter().filter(|entry| entry.kind == EntryKind::Table).count();
    (0..tables).for_each(|_| source.context.progress.object_done());
    output.toc(&toc)?;
    let (path, bytes) = output.finish(options.overwrite)?;
    Ok(Some(source.written(name, path, bytes)))
}

/// Before version 1.16 pg_restore reads one list for every entry of large objects: only one of them
/// may stay.
fn one_list(toc: Toc, version: Version) -> Result<Toc, ExportError> {
    if version >= Version::V1_16 {
        return Ok(toc);
    }
    let (header, mut entries) = toc.into_parts();
    let mut lists = 0;
    entries.retain(|entry| {
        let is_list = entry.desc() == Some(b"BLOBS");
        lists += usize::from(is_list);
        !is_list || lists == 1
    });
    Toc::new(header, entries)
        .map_err(|error| ExportError::Internal(format!("a directory has no toc.dat: {error}")))
}

fn prepare(worker: &mut Worker, codec: Codec, kind: EntryKind) -> Result<Ready, ReadyError> {
    let raw = worker.buffer.raw();
    match (kind, codec) {
        // The frame without the length before it.
        (EntryKind::Table, Codec::Stored) => {
            let frame = worker.buffer.object().get(blocks::INT_LEN..).unwrap_or_default();
            Ok(Ready::Rows(frame.to_vec()))
        }
        (EntryKind::Table, _) => Ok(Ready::Rows(compressed(codec, raw)?)),
        (EntryKind::LargeObjects, _) => {
            let object = |record: Result<large_objects::Record<'_>, _>| {
                let record = record?;
                let bytes = compressed(codec, record.bytes)?;
                Ok(Object { begins: record.begins, ends: record.ends, bytes })
            };
            let objects: Result<_, ReadyError> = large_objects::records(raw).map(object).collect();
            Ok(Ready::Objects(objects?))
        }
    }
}

/// A whole frame or member.
fn compressed(codec: Codec, raw: &[u8]) -> Result<Vec<u8>, io::Error> {
    match codec {
        Codec::Stored => zstd::bulk::compress(raw, DEFAULT_LEVEL),
        Codec::Zstd(level) => zstd::bulk::compress(raw, level),
        Codec::Gzip(level) => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(raw)?;
            encoder.finish()
        }
        Codec::None => Ok(raw.to_vec()),
    }
}

fn suffix(codec: Codec) -> &'static str {
    match codec {
        Codec::Stored | Codec::Zstd(_) => ".zst",
        Codec::Gzip(_) => ".gz",
        Codec::None => "",
    }
}

/// The folder being written under a name of its own; removed when it is dropped before
/// [`Output::finish`].
struct Output {
    codec: Codec,
    final_path: PathBuf,
    own: OwnName,
    /// The folder itself, locked.
    folder: File,
    /// The table's file that is open.
    rows: Option<BufWriter<File>>,
    /// The list of large objects that is open, and the object.
    list: Option<BufWriter<File>>,
    object: Option<BufWriter<File>>,
    /// The first entry that is not begun.
    next: usize,
    bytes: u64,
}

impl Output {
    fn create(folder: &Path, name: &str, codec: Codec) -> Result<Self, ExportError> {
        let (own, opened) = OwnName::create(folder, name, |path| {
            fs::DirBuilder::new().mode(partial::FOLDER_MODE).create(path)?;
            File::open(path)
        })?;
        Ok(Self {
            codec,
            final_path: folder.join(name),
            own,
            folder: opened,
            rows: None,
            list: None,
            object: None,
            next: 0,
            bytes: 0,
        })
    }

    fn failed(&self, source: io::Error) -> ExportError {
        ExportError::File { operation: "write", path: self.final_path.clone(), source }
    }

    fn open(&self, file: &str, append: bool) -> Result<BufWriter<File>, ExportError> {
        let mut options = fs::OpenOptions::new();
        let options = options.mode(partial::FILE_MODE);
        let options = if append {
            options.append(true).create(true)
        } else {
            options.write(true).create_new(true)
        };
        let file = options.open(self.own.path().join(file)).map_err(|e| self.failed(e))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    /// Ends what is open and begins the entries up to and with this one; those without a chunk are
    /// files too.
    fn start(
        &mut self,
        entries: &[flexkeep_vault::contents::Entry],
        until: usize,
        files: &HashMap<i32, String>,
    ) -> Result<(), ExportError> {
        while self.next <= until {
            self.end()?;
            let Some(entry) = entries.get(self.next) else { return Ok(()) };
            self.next += 1;
            match (entry.kind, files.get(&entry.dump_id)) {
                (EntryKind::Table, Some(file)) => {
                    let file = format!("{file}{}", suffix(self.codec));
                    self.rows = Some(self.open(&file, false)?);
                }
                (EntryKind::LargeObjects, Some(list)) => self.list = Some(self.open(list, false)?),
                // Of the lists of an old version only the first one has an entry.
                (EntryKind::LargeObjects, None) => {
                    self.list = Some(self.open("blobs.toc", true)?);
                }
                (EntryKind::Table, None) => {
                    let text = format!("entry {} has no file", entry.dump_id);
                    return Err(ExportError::Internal(text));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ExportError> {
        if let Some(mut rows) = self.rows.take() {
            let end = match self.codec {
                Codec::Stored | Codec::Zstd(_) => terminator_frame(),
                other => compressed(other, blocks::COPY_TERMINATOR),
            };
            let end = end.map_err(|error| self.failed(error))?;
            self.put(&mut rows, &end)?;
            self.close(rows)?;
        }
        if self.object.is_some() {
            return Err(ExportError::Internal("a large object has no end".to_owned()));
        }
        match self.list.take() {
            Some(list) => self.close(list),
            None => Ok(()),
        }
    }

    fn put(&mut self, file: &mut BufWriter<File>, bytes: &[u8]) -> Result<(), ExportError> {
        self.bytes += bytes.len() as u64;
        file.write_all(bytes).map_err(|error| self.failed(error))
    }

    fn close(&self, file: BufWriter<File>) -> Result<(), ExportError> {
        file.into_inner().map(drop).map_err(|error| self.failed(error.into_error()))
    }

    fn chunk(&mut self, ready: Ready) -> Result<(), ExportError> {
        match ready {
            Ready::Rows(bytes) => {
                let Some(mut rows) = self.rows.take() else {
                    return Err(ExportError::Internal("rows of no table".to_owned()));
                };
                self.put(&mut rows, &bytes)?;
                self.rows = Some(rows);
                Ok(())
            }
            Ready::Objects(objects) => objects.into_iter().try_for_each(|one| self.object(one)),
        }
    }

    fn object(&mut self, object: Object) -> Result<(), ExportError> {
        if let Some(oid) = object.begins {
            let name = format!("blob_{oid}.dat");
            let line = format!("{oid} {name}\n");
            if let Some(mut list) = self.list.take() {
                self.put(&mut list, line.as_bytes())?;
                self.list = Some(list);
            }
            self.object = Some(self.open(&format!("{name}{}", suffix(self.codec)), false)?);
        }
        let Some(mut file) = self.object.take() else {
            return Err(ExportError::Internal("a part of no large object".to_owned()));
        };
        self.put(&mut file, &object.bytes)?;
        if object.ends {
            return self.close(file);
        }
        self.object = Some(file);
        Ok(())
    }

    fn toc(&mut self, toc: &Toc) -> Result<(), ExportError> {
        let mut file = self.open(TOC, false)?;
        toc.write_directory_to(&mut file).map_err(|error| self.failed(error))?;
        let file = file.into_inner().map_err(|error| self.failed(error.into_error()))?;
        self.bytes += file.metadata().map_err(|error| self.failed(error))?.len();
        Ok(())
    }

    /// Gives what has the name another one, which is returned.
    fn put_aside(&self, overwrite: bool) -> Result<Option<PathBuf>, ExportError> {
        if !partial::is_there(&self.final_path)? {
            return Ok(None);
        }
        if !overwrite {
            return Err(ExportError::Exists { path: self.final_path.clone() });
        }
        refuse_foreign(&self.final_path)?;
        let name = self.final_path.file_name().unwrap_or_default().to_string_lossy();
        let old = format!(".{name}.{}.old", partial::unique());
        let old = self.final_path.with_file_name(old);
        match fs::rename(&self.final_path, &old) {
            Ok(()) => Ok(Some(old)),
            // Another export puts its own there right now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                let path = self.final_path.clone();
                Err(ExportError::File { operation: "replace", path, source })
            }
        }
    }

    /// Makes it durable and gives it its name.
    fn finish(mut self, overwrite: bool) -> Result<(String, u64), ExportError> {
        let failed = |operation| {
            let path = self.final_path.clone();
            move |source: io::Error| ExportError::File { operation, path, source }
        };
        // Many small files: one wait for all of them.
        rustix::fs::syncfs(&self.folder).map_err(|error| failed("write")(error.into()))?;
        for _ in 0..TRIES {
            let old = self.put_aside(overwrite)?;
            match self.own.rename(&self.final_path) {
                Ok(()) => {
                    if let Some(old) = old {
                        partial::remove(&old).map_err(failed("replace"))?;
                    }
                    break;
                }
                // Another export was faster: its folder is the earlier one now.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    if let Some(old) = old {
                        partial::remove(&old).map_err(failed("replace"))?;
                    }
                }
                Err(source) => {
                    // The earlier one again; if that fails too, it stays beside.
                    if let Some(old) = old {
                        let _ = fs::rename(&old, &self.final_path);
                    }
                    return Err(failed("finish")(source));
                }
            }
        }
        if !self.own.is_renamed() {
            let source = io::Error::other("others put theirs there again and again");
            return Err(failed("finish")(source));
        }
        if let Some(parent) = self.final_path.parent() {
            let name = self.final_path.file_name().unwrap_or_default().to_string_lossy();
            partial::sweep(parent, &name, ".old").map_err(failed("replace"))?;
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed("finish"))?;
        }
        Ok((self.final_path.display().to_string(), self.bytes))
    }
}

/// Refuses a folder that has anything which no archive has: it would be gone with the earlier one.
/// What is no folder, or not there, is not looked into.
pub(super) fn refuse_foreign(path: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::File { operation: "look into", path: path.into(), source };
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => return Ok(()),
    }
    let entries = match fs::read_dir(path) {
        // Another export replaces it right now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    let mut foreign: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().map_err(failed)?.is_file();
        if !is_file || !entry.file_name().to_str().is_some_and(is_of_archive) {
            foreign.push(entry.path());
        }
    }
    match foreign.into_iter().min() {
        None => Ok(()),
        Some(file) => Err(ExportError::Foreign { folder: path.to_owned(), file }),
    }
}

/// Whether pg_dump, of any version, writes a file of this name into a directory.
fn is_of_archive(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if name == TOC || name == "blobs.toc" {
        return true;
    }
    if let Some(list) = name.strip_prefix("blobs_") {
        return list.strip_suffix(".toc").is_some_and(is_number);
    }
    let plain = [".gz", ".lz4", ".zst"].iter().find_map(|end| name.strip_suffix(end));
    let Some(stem) = plain.unwrap_or(name).strip_suffix(".dat") else { return false };
    is_number(stem.strip_prefix("blob_").unwrap_or(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_pg_dump_writes_is_of_an_archive() {
        for name in [
            "toc.dat",
            "3300.dat",
            "3300.dat.gz",
            "3300.dat.zst",
            "3300.dat.lz4",
            "blobs.toc",
            "blobs_12.toc",
            "blob_7.dat",
            "blob_7.dat.zst",
        ] {
            assert!(is_of_archive(name), "{name}");
        }
        for name in [
            "mine",
            "notes.dat",
            "3300.dat.bak",
            "toc.dat.gz",
            "photos.zst",
            "blob_.dat",
            "blobs_.toc",
            ".dat",
            "3300",
            "3300.dat.gz.gz",
        ] {
            assert!(!is_of_archive(name), "{name}");
        }
    }

    #[test]
    fn of_two_that_write_one_folder_at_once_the_last_one_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let create = || Output::create(folder.path(), "shop.dir", Codec::None).unwrap();
        let fill = |output: &Output, text: &[u8]| {
            let mut file = output.open("1.dat", false).unwrap();
            file.write_all(text).unwrap();
        };
        let (first, second, given_up) = (create(), create(), create());
        fill(&first, b"first");
        fill(&second, b"second");
        second.finish(true).unwrap();
        drop(given_up);
        first.finish(true).unwrap();
        let there = fs::read(folder.path().join("shop.dir/1.dat")).unwrap();
        assert_eq!(there, b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");

        let late = create();
        fs::write(folder.path().join("shop.dir/mine"), "1").unwrap();
        let error = late.finish(true).unwrap_err();
        assert!(
            matches!(&error, ExportError::Foreign { file, .. } if file.ends_with("mine")),
            "{error}"
        );
        assert!(folder.path().join("shop.dir/1.dat").exists(), "nothing was removed");
    }
}
