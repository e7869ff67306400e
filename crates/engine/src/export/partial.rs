//! Files and folders that appear under their names only when they are complete.
//!
//! Each is written under a name of its own, `.<name>.<id>.partial`, so that two exports into one
//! folder never write into the same, and locked as long as it is written: what is not locked is of a
//! killed export, and the next one of that name removes it. Where a file system has no locks it stays.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::ExportError;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// An export has what the database has, and roles with their passwords.
pub(super) const FILE_MODE: u32 = 0o600;
pub(super) const FOLDER_MODE: u32 = 0o700;

/// How often a name of its own is looked for.
const TRIES: usize = 100;

/// A file being written; removed when it is dropped before [`Partial::finish`].
pub(super) struct Partial {
    final_path: PathBuf,
    own: OwnName,
}

impl Partial {
    /// Begins the file `name` of `folder`.
    pub(super) fn create(
        folder: &Path,
        name: &str,
    ) -> Result<(Self, BufWriter<File>), ExportError> {
        let (own, file) = OwnName::create(folder, name, |path| {
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
        })?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok((Self { final_path: folder.join(name), own }, writer))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> ExportError {
        ExportError::File { operation, path: self.final_path.clone(), source }
    }

    /// Makes the file durable and gives it its name. Without `overwrite` a file that came there
    /// meanwhile stays.
    pub(super) fn finish(
        mut self,
        writer: BufWriter<File>,
        overwrite: bool,
    ) -> Result<(String, u64), ExportError> {
        let file = writer.into_inner().map_err(|e| self.failed("write", e.into_error()))?;
        file.sync_all().map_err(|source| self.failed("write", source))?;
        let bytes = file.metadata().map_err(|source| self.failed("look at", source))?.len();
        if !overwrite && self.final_path.symlink_metadata().is_ok() {
            return Err(ExportError::Exists { path: self.final_path.clone() });
        }
        // Locked until it has its name.
        self.own.rename(&self.final_path).map_err(|source| self.failed("finish", source))?;
        drop(file);
        sync_folder_of(&self.final_path).map_err(|source| self.failed("finish", source))?;
        Ok((self.final_path.display().to_string(), bytes))
    }
}

/// A name that only this export writes under; what has it is removed when it is dropped before
/// [`OwnName::rename`].
pub(super) struct OwnName {
    path: PathBuf,
    renamed: bool,
}

impl OwnName {
    /// Has `make` make what is to become `name` of `folder`, and locks it as long as the file that
    /// it returns is open. Removes what killed exports left of the same.
    pub(super) fn create(
        folder: &Path,
        name: &str,
        make: impl Fn(&Path) -> io::Result<File>,
    ) -> Result<(Self, File), ExportError> {
        let failed =
            |source| ExportError::File { operation: "create", path: folder.join(name), source };
        sweep(folder, name, ".partial").map_err(failed)?;
        let mut last = io::Error::other("no name of its own is to be had");
        for _ in 0..TRIES {
            let path = folder.join(format!(".{name}.{}.partial", unique()));
            let file = match make(&path) {
                Ok(file) => file,
                // Another export may have swept a folder away before it was opened.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) =>
                {
                    last = error;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            // Before it is locked another export may take it for a killed one's. Where there are no
            // locks nobody sweeps either.
            let taken =
                flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
            if !taken && is_same(&file, &path).map_err(failed)? {
                return Ok((Self { path, renamed: false }, file));
            }
        }
        Err(failed(last))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_renamed(&self) -> bool {
        self.renamed
    }

    /// Gives it another name; what has that is replaced, but for a folder that is not empty.
    pub(super) fn rename(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Text that no other export puts into a name at the same time.
pub(super) fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // The time tells containers apart that share a folder: their processes have the same numbers.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}{:08x}", std::process::id(), now.as_secs() & 0xffff, now.subsec_nanos())
        + &format!("-{count:x}")
}

/// Removes what killed exports left of `name` with this ending, also those of versions that had one
/// name for all.
pub(super) fn sweep(folder: &Path, name: &str, ending: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let Some(rest) = found.strip_prefix('.').and_then(|rest| rest.strip_prefix(name)) else {
            continue;
        };
        if !is_leftover(rest, ending) {
            continue;
        }
        let kind = match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind?,
        };
        if kind.is_file() || kind.is_dir() {
            match File::open(entry.path()) {
                Ok(file) if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() => {
                    continue;
                }
                Err(_) => continue,
                Ok(_) => remove(&entry.path())?,
            }
        } else {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether what follows the name is the ending, or `.<id>` and the ending.
fn is_leftover(rest: &str, ending: &str) -> bool {
    let Some(id) = rest.strip_suffix(ending) else { return false };
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    id.is_empty() || id.strip_prefix('.').is_some_and(is_id)
}

/// Whether the path still leads to the file.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let of_file = file.metadata()?;
    match path.symlink_metadata() {
        Ok(meta) => Ok((meta.dev(), meta.ino()) == (of_file.dev(), of_file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a folder or a file, never what a link points to.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes a folder that only its owner may look into, and those above it that are missing.
pub(super) fn create_folders(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether there is something of that name, also a link to nowhere.
pub(super) fn is_there(path: &Path) -> Result<bool, ExportError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => {
            Err(ExportError::File { operation: "look at", path: path.to_owned(), source })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_that_write_one_name_at_once_both_write_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (first, mut to_first) = Partial::create(folder.path(), "shop.dump").unwrap();
        let (second, mut to_second) = Partial::create(folder.path(), "shop.dump").unwrap();
        let (given_up, _writer) = Partial::create(folder.path(), "shop.dump").unwrap();
        to_second.write_all(b"second").unwrap();
        second.finish(to_second, true).unwrap();
        assert_eq!(fs::read(folder.path().join("shop.dump")).unwrap(), b"second");
        drop(given_up);
        to_first.write_all(b"first").unwrap();
        first.finish(to_first, true).unwrap();
        assert_eq!(fs::read(folder.path().join("shop.dump")).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["shop.dump"]);
    }

    #[test]
    fn what_a_killed_export_left_is_removed_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for left in [".a.dump.partial", ".a.dump.1f-2-3.partial"] {
            fs::write(path(left), "half").unwrap();
        }
        fs::create_dir(path(".a.dump.ff-1-0.partial")).unwrap();
        fs::write(path(".a.dump.ff-1-0.partial/toc.dat"), "half").unwrap();
        let kept = [".a.dump.mine.partial", ".a.dump.x.1f-2-3.partial", ".b.a.dump.partial"];
        for name in kept {
            fs::write(path(name), "of others").unwrap();
        }
        let (_at_work, _writer) = Partial::create(folder.path(), "a.dump").unwrap();
        let (partial, writer) = Partial::create(folder.path(), "a.dump").unwrap();
        assert_eq!(names(folder.path()).len(), kept.len() + 2);
        partial.finish(writer, true).unwrap();
        let left = names(folder.path());
        assert!(kept.iter().all(|name| left.contains(&(*name).to_owned())), "{left:?}");
        assert_eq!(left.len(), kept.len() + 2, "{left:?}");
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        create_folders(&inner).unwrap();
        let (partial, writer) = Partial::create(&inner, "shop.dump").unwrap();
        partial.finish(writer, false).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner.join("shop.dump")), FILE_MODE);
        assert_eq!([mode(&inner), mode(inner.parent().unwrap())], [FOLDER_MODE; 2]);
    }
}
