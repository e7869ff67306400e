//! A store in a folder of a local (or mounted) file system. Linux.
//!
//! # Layout
//! An object is the file of its name under the root. `.tmp/` holds what is being written and the
//! lock files; nothing in it is an object.
//!
//! # Crash consistency
//! A create writes a file that has no name yet (`O_TMPFILE`), makes it durable, and only then
//! links it, so that a killed process leaves nothing and a reader never sees half. Where the file
//! system cannot do that, and for replacing, the file is written under a name of its own in
//! `.tmp/`, made durable, and linked or renamed; what a dead process leaves there is swept by
//! the next one that opens the store (a live writer holds a lock on its file). An unsynced create
//! does the same without waiting for the disk: whole after a crash of the process, but only after
//! [`Store::sync`] after one of the machine. If that sync fails, what was created since the one
//! before is removed, and every later one fails too: the kernel tells of a lost write once.
//!
//! # Concurrency
//! Link fails if the name is taken: of several creates one wins, between threads and processes.
//! Replacing, updating and deleting a name hold a file lock for it. A delete takes the folders that
//! it empties with it, under a lock of their own; a put that finds its folder gone tries again
//! under that lock, so that no number of deletes can keep it from ending.
//!
//! # Etag
//! Inode, size and modification time in nanoseconds. Every put makes a new inode, and sets its
//! time to now, or just after the object that it replaces if the clock says otherwise, so that a
//! later version of a name never has the etag of an earlier one, even if its inode number is
//! used again. (A hash of the content would do too, but to stat a chunk would then mean to read
//! it.)

mod files;
mod listing;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{
    Etag, ObjectMeta, ObjectName, PutMode, Store, StoreError, StoreErrorKind, is_valid_name,
    is_valid_prefix,
};

/// Folder of the store's own files.
const TMP: &str = ".tmp";

/// Only the user that the store runs as may read it: it holds all of a database.
const FOLDER_MODE: Mode = Mode::RWXU;

/// How often a put is tried again when its folder is removed under its hands. Once is enough for
/// what stores do; the rest is for people who clean up.
const FOLDER_RETRIES: usize = 5;

/// When an object that is created becomes durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    /// Before the create returns.
    Now,
    /// At the next [`Store::sync`].
    Later,
}

/// A folder.
#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
    /// Folders under the root that this process has made or seen, and made durable.
    known_folders: Mutex<HashSet<PathBuf>>,
    /// Whether the file system has said no to unnamed files.
    no_unnamed: AtomicBool,
    /// Makes names in `.tmp/` unique within the process.
    counter: AtomicU64,
    /// The folder, opened before the first unsynced create: of a write that failed, the kernel tells
    /// every file that was open then, and one opened later only if nobody has heard of it yet.
    watch: OnceLock<File>,
    /// Whether a sync has failed; locked while one goes on.
    sync_failed: Mutex<bool>,
    /// Objects that were created and not synced yet.
    unsynced: Mutex<Vec<String>>,
}

impl FolderStore {
    /// Opens the folder `root`, which must exist.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::at(root.into());
        store.check_root().map_err(|error| store.failure("open", "the folder", error))?;
        store.sweep();
        Ok(store)
    }

    /// Opens the folder `root` and makes it if it is not there; its parent must exist.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::at(root.into());
        let make = || -> io::Result<()> {
            match rustix::fs::mkdir(&store.root, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            store.check_root()?;
            let absolute = std::path::absolute(&store.root)?;
            absolute.parent().map_or(Ok(()), files::sync_folder)
        };
        make().map_err(|error| store.failure("create", "the folder", error))?;
        store.sweep();
        Ok(store)
    }

    /// Whether nothing lies in the folder itself, but what a store or a file system puts there.
    pub fn looks_empty(&self) -> Result<bool, StoreError> {
        let look = || -> io::Result<bool> {
            for entry in std::fs::read_dir(&self.root)? {
                let name = entry?.file_name();
                if name != TMP && name != "lost+found" {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        look().map_err(|error| self.failure("list", "the folder", error))
    }

    fn at(root: PathBuf) -> Self {
        Self {
            root,
            known_folders: Mutex::default(),
            no_unnamed: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            watch: OnceLock::new(),
            sync_failed: Mutex::new(false),
            unsynced: Mutex::default(),
        }
    }

    fn check_root(&self) -> io::Result<()> {
        if std::fs::metadata(&self.root)?.is_dir() { Ok(()) } else { Err(Errno::NOTDIR.into()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the folder (a path relative to the root) and those above it, durably.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.as_os_str().is_empty() {
            return Ok(());
        }
        let known = || self.known_folders.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(Path::new(""));
        self.ensure_folder(parent)?;
        match rustix::fs::mkdir(self.root.join(folder), FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Also when it was there: whoever made it may not have got as far as this.
        files::sync_folder(&self.root.join(parent))?;
        known().insert(folder.to_owned());
        Ok(())
    }

    /// Forgets all folders: some are gone, and finding out which costs more than looking again.
    fn forget_folders(&self) {
        self.known_folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs `write` with the object's folder in place, again if somebody removes the folder, as
    /// [`Store::delete`] does with empty ones.
    fn with_folder<T>(&self, name: &str, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let attempt = || self.ensure_folder(folder).and_then(|()| write());
        let mut result = attempt();
        for _ in 0..FOLDER_RETRIES {
            if !result.as_ref().is_err_and(is_folder_gone) {
                break;
            }
            self.check_root()?;
            let _lock = self.lock_folders()?;
            self.forget_folders();
            result = attempt();
        }
        result
    }

    /// From here on, [`Self::sync_written`] hears of every write that fails.
    fn watch_writes(&self) -> io::Result<()> {
        if self.watch.get().is_none() {
            // Of two threads one is first; both files were opened before anything was written.
            let _ = self.watch.set(File::open(&self.root)?);
        }
        Ok(())
    }

    /// A failure is for good: the kernel forgets what it could not write, and says so once.
    fn sync_written(&self) -> io::Result<()> {
        let folder = File::open(&self.root)?;
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        let unsynced = std::mem::take(&mut *self.unsynced());
        let result = if *failed {
            let message = "an earlier sync failed: what was written before it may be lost";
            Err(io::Error::other(message))
        } else {
            rustix::fs::syncfs(self.watch.get().unwrap_or(&folder)).map_err(io::Error::from)
        };
        *failed = result.is_err();
        if *failed {
            // The cache still shows what the disk does not have: whoever looks for these objects
            // later must not find them.
            for name in &unsynced {
                let _ = std::fs::remove_file(self.path(name));
            }
        }
        result
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(CWD, self.path(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => {
                Ok(Some(stat))
            }
            Ok(_) => Ok(None),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.check_root()?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self, name: &str, limit_bytes: u64) -> io::Result<Result<Vec<u8>, u64>> {
        // Never waits, as opening a pipe would, and never follows a link out of the vault.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::open(self.path(name), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Errno::NOENT.into());
        }
        if metadata.len() > limit_bytes {
            return Ok(Err(metadata.len()));
        }
        let mut body = Vec::new();
        // A length is only believed for as long as a put is atomic; the limit holds regardless.
        body.try_reserve_exact(metadata.len() as usize).map_err(io::Error::other)?;
        (&mut file).take(limit_bytes.saturating_add(1)).read_to_end(&mut body)?;
        if body.len() as u64 > limit_bytes {
            return Ok(Err(body.len() as u64));
        }
        Ok(Ok(body))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // Released before the folders' lock is taken: a replace takes them in the other order.
        let lock = self.lock_name(name)?;
        match std::fs::remove_file(self.path(name)) {
            Ok(()) => {}
            Err(error) if is_missing(&error) => return self.check_root(),
            Err(error) => return Err(error),
        }
        drop(lock);
        let _lock = self.lock_folders()?;
        let mut folder = Path::new(name).parent();
        while let Some(path) = folder.filter(|path| !path.as_os_str().is_empty()) {
            if std::fs::remove_dir(self.root.join(path)).is_err() {
                break;
            }
            self.forget_folders();
            folder = path.parent();
        }
        match files::sync_folder(&self.root.join(folder.unwrap_or(Path::new("")))) {
            // Somebody removed the folder in the meantime; that one makes it durable.
            Err(error) if is_missing(&error) => Ok(()),
            result => result,
        }
    }

    fn failure(&self, operation: &'static str, object: &str, error: io::Error) -> StoreError {
        let errno = Errno::from_io_error(&error);
        let kind = match errno {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StoreErrorKind::NoSpace,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreErrorKind::PermissionDenied,
            Some(Errno::EXIST) => StoreErrorKind::AlreadyExists,
            Some(Errno::NOENT | Errno::NOTDIR | Errno::STALE) if self.check_root().is_err() => {
                StoreErrorKind::NoSuchPlace
            }
            Some(Errno::NOENT) => StoreErrorKind::NotFound,
            Some(
                Errno::INTR
                | Errno::AGAIN
                | Errno::BUSY
                | Errno::TIMEDOUT
                | Errno::MFILE
                | Errno::NFILE
                | Errno::STALE
                | Errno::NOMEM
                | Errno::HOSTDOWN,
            ) => StoreErrorKind::Unavailable,
            _ if error.kind() == io::ErrorKind::TimedOut => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Other,
        };
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = match kind {
            StoreErrorKind::AlreadyExists | StoreErrorKind::NotFound => None,
            _ => Some(Box::new(error)),
        };
        self.error(operation, object, kind, source)
    }

    fn error(
        &self,
        operation: &'static str,
        object: &str,
        kind: StoreErrorKind,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError { operation, object: object.to_owned(), location: self.location(), kind, source }
    }
}

/// Whether a write may have failed because its folder was removed. A file without a name in a
/// folder that is being removed is "not permitted" for ext4 (`__ext4_new_inode`), not missing.
fn is_folder_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::PERM))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn etag(stat: &Stat) -> Etag {
    Etag(format!("{}-{}-{}.{:09}", stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec))
}

fn meta(name: String, stat: &Stat) -> ObjectMeta {
    ObjectMeta { name, bytes: stat.st_size as u64, etag: etag(stat) }
}

impl Store for FolderStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        let operation = mode.operation();
        if !is_valid_name(name) {
            return Err(self.error(operation, name, StoreErrorKind::BadName, None));
        }
        let result = match &mode {
            PutMode::Create => self.create_object(name, body, Durable::Now).map(Some),
            PutMode::Overwrite => self.replace_object(name, body, None),
            PutMode::Update(etag) => self.replace_object(name, body, Some(etag)),
        };
        match result {
            Ok(Some(etag)) => Ok(etag),
            Ok(None) => Err(self.error(operation, name, StoreErrorKind::Changed, None)),
            Err(error) => Err(self.failure(operation, name, error)),
        }
    }

    fn create_unsynced(&self, name: ObjectName<'_>, body: &[u8]) -> Result<Etag, StoreError> {
        let operation = PutMode::Create.operation();
        if !is_valid_name(name) {
            return Err(self.error(operation, name, StoreErrorKind::BadName, None));
        }
        let result =
            self.watch_writes().and_then(|()| self.create_object(name, body, Durable::Later));
        if result.is_ok() {
            self.unsynced().push(name.to_owned());
        }
        result.map_err(|error| self.failure(operation, name, error))
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        if !is_valid_name(name) {
            return Err(self.error("read", name, StoreErrorKind::BadName, None));
        }
        match self.read(name, limit_bytes) {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(bytes)) => {
                let kind = StoreErrorKind::TooLarge { bytes, limit_bytes };
                Err(self.error("read", name, kind, None))
            }
            Err(error) => Err(self.failure("read", name, error)),
        }
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        if !is_valid_name(name) {
            return Err(self.error("stat", name, StoreErrorKind::BadName, None));
        }
        let stat = self.stat(name).map_err(|error| self.failure("stat", name, error))?;
        Ok(stat.map(|stat| meta(name.to_owned(), &stat)))
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        if !is_valid_prefix(prefix) {
            return Err(self.error("list", prefix, StoreErrorKind::BadName, None));
        }
        self.walk(prefix, each).map_err(|error| self.failure("list", prefix, error))
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        if !is_valid_name(name) {
            return Err(self.error("delete", name, StoreErrorKind::BadName, None));
        }
        self.remove(name).map_err(|error| self.failure("delete", name, error))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.sync_written().map_err(|error| self.failure("sync", "the folder", error))
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

#[cfg(test)]
mod tests;
