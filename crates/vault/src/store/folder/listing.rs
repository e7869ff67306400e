//! Listing names in byte order, one folder in memory at a time.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::super::ObjectMeta;
use super::{FolderStore, is_missing, meta};

impl FolderStore {
    pub(super) fn walk(&self, prefix: &str, each: &mut dyn FnMut(ObjectMeta)) -> io::Result<()> {
        self.check_root()?;
        let (folder, last) = match prefix.rfind('/') {
            Some(slash) => prefix.split_at(slash + 1),
            None => ("", prefix),
        };
        self.walk_folder(folder, last, each)
    }

    /// Lists the folder `folder` (empty, or ending in `/`), only entries that begin with `last`.
    fn walk_folder(
        &self,
        folder: &str,
        last: &str,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> io::Result<()> {
        for entry in entries(&self.root.join(folder), last)? {
            let name = format!("{folder}{entry}");
            if entry.ends_with('/') {
                self.walk_folder(&name, "", each)?;
                continue;
            }
            match rustix::fs::statat(CWD, self.path(&name), AtFlags::SYMLINK_NOFOLLOW) {
                // A link is no object of ours either, and reading it is refused; but it stands where
                // one was, and whoever looks for objects must not take it for nothing.
                Ok(stat) if is_file_or_link(FileType::from_raw_mode(stat.st_mode)) => {
                    each(meta(name, &stat));
                }
                // Deleted since, or nothing of ours.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_file_or_link(kind: FileType) -> bool {
    kind.is_file() || kind.is_symlink()
}

/// Names in a folder, those of folders with a `/` at the end: so sorted, whole paths come in byte
/// order, as in a blob container.
fn entries(folder: &Path, last: &str) -> io::Result<Vec<String>> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in read {
        let entry = entry?;
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        // A dot begins what is not an object: ours in `.tmp/`, or an editor's.
        if name.starts_with('.') || !name.starts_with(last) || !super::is_valid_name(&name) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => name.push('/'),
            Ok(_) => {}
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(error),
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}
