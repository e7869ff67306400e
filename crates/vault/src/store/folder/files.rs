//! Writing files so that they are whole and durable, or not there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps,
};
use rustix::io::Errno;

use super::super::Etag;
use super::{Durable, FolderStore, TMP, etag};

/// Only the user that the store runs as may read it.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// How long to wait for whoever replaces the same object.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How old a file in `.tmp/` must be before it may be taken for a dead process's: longer than it
/// takes from making it to locking it.
const STALE_AGE: Duration = Duration::from_secs(60);

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::fsync(rustix::fs::open(folder, flags, Mode::empty())?) {
        // File systems that cannot sync a folder make its changes durable by themselves.
        Ok(()) | Err(Errno::INVAL | Errno::BADF) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A file in `.tmp/`, removed when dropped (also after it was linked: that name is its own).
struct Temporary {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The sweep takes what remains.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl FolderStore {
    pub(super) fn create_object(
        &self,
        name: &str,
        body: &[u8],
        durable: Durable,
    ) -> io::Result<Etag> {
        let result = self.with_folder(name, || {
            if !self.no_unnamed.load(Ordering::Relaxed) {
                if let Some(etag) = self.create_unnamed(name, body, durable)? {
                    return Ok(etag);
                }
                self.no_unnamed.store(true, Ordering::Relaxed);
            }
            self.create_named(name, body, durable)
        });
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::AlreadyExists
            && durable == Durable::Now
        {
            // Whoever made it may not have made its name durable yet.
            self.sync_parent(name)?;
        }
        result
    }

    /// `None` when the file system cannot do it.
    fn create_unnamed(
        &self,
        name: &str,
        body: &[u8],
        durable: Durable,
    ) -> io::Result<Option<Etag>> {
        let path = self.path(name);
        if path.symlink_metadata().is_ok() {
            // Not needed for correctness: saves writing 32 MiB for nothing.
            return Err(Errno::EXIST.into());
        }
        let folder = path.parent().unwrap_or(&self.root);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(folder, flags, FILE_MODE) {
            Ok(file) => File::from(file),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = fill(&mut file, body, None, durable)?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, &link, CWD, &path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {}
            // No links here, or no /proc.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::XDEV) => return Ok(None),
            Err(Errno::NOENT) if !Path::new("/proc/self/fd").exists() => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if durable == Durable::Now {
            self.sync_parent(name)?;
        }
        Ok(Some(etag(&stat)))
    }

    fn create_named(&self, name: &str, body: &[u8], durable: Durable) -> io::Result<Etag> {
        let path = self.path(name);
        if path.symlink_metadata().is_ok() {
            return Err(Errno::EXIST.into());
        }
        let mut temporary = self.temporary()?;
        let stat = fill(&mut temporary.file, body, None, durable)?;
        let from = temporary.path.clone();
        match rustix::fs::renameat_with(CWD, &from, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => temporary.renamed = true,
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(CWD, &from, CWD, &path, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
        if durable == Durable::Now {
            self.sync_parent(name)?;
        }
        Ok(etag(&stat))
    }

    /// Replaces, only at the version `expected` if one is given; `None` when it has another.
    pub(super) fn replace_object(
        &self,
        name: &str,
        body: &[u8],
        expected: Option<&Etag>,
    ) -> io::Result<Option<Etag>> {
        let _lock = self.lock_name(name)?;
        let before = self.stat(name)?;
        if let Some(expected) = expected
            && before.as_ref().map(etag).as_ref() != Some(expected)
        {
            return Ok(None);
        }
        let new = self.with_folder(name, || {
            let mut temporary = self.temporary()?;
            let stat = fill(&mut temporary.file, body, before.as_ref(), Durable::Now)?;
            std::fs::rename(&temporary.path, self.path(name))?;
            temporary.renamed = true;
            Ok(etag(&stat))
        })?;
        self.sync_parent(name)?;
        Ok(Some(new))
    }

    fn sync_parent(&self, name: &str) -> io::Result<()> {
        sync_folder(self.path(name).parent().unwrap_or(&self.root))
    }

    fn temporary(&self) -> io::Result<Temporary> {
        self.ensure_folder(Path::new(TMP))?;
        loop {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(TMP).join(format!("{}-{number}", std::process::id()));
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = match rustix::fs::open(&path, flags, FILE_MODE) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            };
            // Says to the sweep of other processes that this one is alive.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Temporary { path, file, renamed: false });
            }
        }
    }

    /// Waits for the lock that replacing, updating and deleting `name` needs; the lock ends with
    /// the file that is returned.
    pub(super) fn lock_name(&self, name: &str) -> io::Result<File> {
        // One of 256 locks: two names may share one, which costs a wait and nothing else.
        let shard = blake3::hash(name.as_bytes()).as_bytes()[0];
        self.lock(&format!("lock-{shard:02x}"), "another process holds the lock of this object")
    }

    /// Waits for the lock under which empty folders are removed.
    pub(super) fn lock_folders(&self) -> io::Result<File> {
        self.lock("lock-folders", "another process holds the lock of the folders")
    }

    fn lock(&self, name: &str, message: &'static str) -> io::Result<File> {
        let path = self.root.join(TMP).join(name);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || -> io::Result<File> {
            self.ensure_folder(Path::new(TMP))?;
            Ok(File::from(rustix::fs::open(&path, flags, FILE_MODE)?))
        };
        let file = open().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // Somebody has cleaned up `.tmp/`.
            self.forget_folders();
            open()
        })?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes what dead processes left in `.tmp/`. What cannot be removed is left: it is in
    /// nobody's way.
    pub(super) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.root.join(TMP)) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with("lock-") {
                continue;
            }
            let old = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE_AGE));
            if !old {
                continue;
            }
            if let Ok(file) = File::open(entry.path())
                && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Writes the body, sets the time that the etag needs, and makes both durable if asked.
fn fill(file: &mut File, body: &[u8], before: Option<&Stat>, durable: Durable) -> io::Result<Stat> {
    file.write_all(body)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut time = (now.as_secs() as i64, now.as_nanos().rem_euclid(1_000_000_000) as i64);
    if let Some(before) = before {
        let (seconds, nanos) = (before.st_mtime, before.st_mtime_nsec as i64);
        let after = if nanos == 999_999_999 { (seconds + 1, 0) } else { (seconds, nanos + 1) };
        time = time.max(after);
    }
    let time = Timespec { tv_sec: time.0, tv_nsec: time.1 };
    rustix::fs::futimens(&*file, &Timestamps { last_access: time, last_modification: time })?;
    if durable == Durable::Now {
        file.sync_all()?;
    }
    Ok(rustix::fs::fstat(&*file)?)
}
