//! PostgreSQL's programs that came with the package: the folder `pgbin` beside host.json.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The folder's name in the package.
const FOLDER: &str = "pgbin";

/// More than this is no package of ours, and not worth to fill a temporary disk with, bytes.
const COPY_LIMIT: u64 = 128 << 20;

/// The package's programs, if it has some.
///
/// The platform repairs the execute bit of the handler, but of no other file. Where the package lost
/// theirs, a copy in the folder for temporary files has them, made once.
pub(crate) fn of_package(root: &Path, temp: &Path) -> Option<PathBuf> {
    let folder = root.join(FOLDER);
    if !folder.join("pg_dump").is_file() {
        return None;
    }
    let copied = match Contents::read(&folder) {
        Ok(contents) if contents.executable => return Some(folder),
        Ok(contents) => contents.copy(&folder, temp),
        Err(error) => Err(error),
    };
    match copied {
        Ok(copy) => {
            tracing::warn!(
                folder = %folder.display(),
                copy = %copy.display(),
                "the programs of the package are not executable; a copy is used"
            );
            Some(copy)
        }
        Err(error) => {
            // What is tried to be run then says so for each backup.
            tracing::error!(
                folder = %folder.display(),
                %error,
                "the programs of the package are not executable, and could not be copied"
            );
            Some(folder)
        }
    }
}

/// The files of the folder, by their path within it.
struct Contents {
    files: Vec<(PathBuf, u64)>,
    /// Whether those that are started directly may be.
    executable: bool,
}

impl Contents {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut contents = Self { files: Vec::new(), executable: true };
        contents.read_into(folder, Path::new(""))?;
        for below in ["lib", "libexec"] {
            contents.read_into(folder, Path::new(below))?;
        }
        contents.files.sort();
        Ok(contents)
    }

    fn read_into(&mut self, folder: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(below))? {
            let entry = entry?;
            let metadata = fs::metadata(entry.path())?;
            if !metadata.is_file() {
                continue;
            }
            let name = below.join(entry.file_name());
            if is_started(&name) && metadata.mode() & 0o111 != 0o111 {
                self.executable = false;
            }
            self.files.push((name, metadata.len()));
        }
        Ok(())
    }

    /// A copy below `temp` that can be run: one that an earlier process made, or a new one.
    fn copy(&self, folder: &Path, temp: &Path) -> io::Result<PathBuf> {
        let bytes: u64 = self.files.iter().map(|(_, length)| length).sum();
        if bytes > COPY_LIMIT {
            return Err(io::Error::other(format!("{bytes} bytes are too much for a copy")));
        }
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        let place = temp.join(format!("flexkeep-pgbin-{:016x}", hasher.finish()));
        let new = temp.join(format!("flexkeep-pgbin-{}.new", std::process::id()));
        // Of an earlier process with our number. If it is another user's, the next step fails.
        let _ = fs::remove_dir_all(&new);
        private_folder(&new)?;
        let own = fs::symlink_metadata(&new)?.uid();
        if self.is_whole(&place, own) {
            let _ = fs::remove_dir_all(&new);
            return Ok(place);
        }
        if let Err(error) = self.fill(folder, &new) {
            let _ = fs::remove_dir_all(&new);
            return Err(error);
        }
        // Something else may have the name: the copy of a process that was quicker, one that was
        // damaged since, or what another user put there. Then this one keeps its own.
        Ok(if fs::rename(&new, &place).is_ok() { place } else { new })
    }

    fn fill(&self, folder: &Path, new: &Path) -> io::Result<()> {
        for below in ["lib", "libexec"] {
            private_folder(&new.join(below))?;
        }
        for (name, _) in &self.files {
            let to = new.join(name);
            fs::copy(folder.join(name), &to)?;
            let mode = if is_started(name) { 0o700 } else { 0o600 };
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Whether the folder is our user's alone and has all files. It is made under another name, so
    /// that no half copy bears this one; what it has could still be cleaned up as old files are.
    fn is_whole(&self, place: &Path, own: u32) -> bool {
        let Ok(metadata) = fs::symlink_metadata(place) else { return false };
        let private = metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o077 == 0;
        private
            && self.files.iter().all(|(name, length)| {
                fs::symlink_metadata(place.join(name)).is_ok_and(|metadata| {
                    let runs = !is_started(name) || metadata.mode() & 0o100 != 0;
                    metadata.is_file() && metadata.len() == *length && runs
                })
            })
    }
}

/// Launchers and the loader are started; the loader only reads all others.
fn is_started(name: &Path) -> bool {
    let text = name.to_string_lossy();
    match name.parent() {
        Some(parent) if parent == Path::new("") => text.starts_with("pg_"),
        _ => text.starts_with("lib/ld-linux"),
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package whose `pg_dump` is a script that needs the loader beside it to be executable.
    fn package(mode: u32) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER);
        for below in ["lib", "libexec"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        let script = "#!/bin/sh\nexec \"${0%/*}/lib/ld-linux-x86-64.so.2\"\n";
        let loader = "#!/bin/sh\necho it runs\n";
        let files = [
            ("pg_dump", script),
            ("lib/ld-linux-x86-64.so.2", loader),
            ("libexec/pg_dump", "x"),
            ("ca-certificates.crt", "x"),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            let mode = if is_started(Path::new(name)) { mode } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        root
    }

    fn says(folder: &Path) -> String {
        let output = std::process::Command::new(folder.join("pg_dump")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_app_without_programs_has_none_and_those_that_run_are_used_where_they_are() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(of_package(Path::new("/nonexistent"), temp.path()), None);
        let root = package(0o755);
        assert_eq!(of_package(root.path(), temp.path()), Some(root.path().join(FOLDER)));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn programs_that_lost_their_execute_bits_are_copied_once_and_run() {
        let (root, temp) = (package(0o644), tempfile::tempdir().unwrap());
        let copy = of_package(root.path(), temp.path()).unwrap();
        assert!(copy.starts_with(temp.path()), "{}", copy.display());
        assert_eq!(says(&copy), "it runs\n");
        let made = fs::metadata(&copy).unwrap().ino();
        assert_eq!(of_package(root.path(), temp.path()), Some(copy.clone()));
        assert_eq!(fs::metadata(&copy).unwrap().ino(), made);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_that_others_could_have_written_or_that_misses_a_file_is_not_run() {
        let (root, temp) = (package(0o644), tempfile::tempdir().unwrap());
        let copy = of_package(root.path(), temp.path()).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o777)).unwrap();
        let other = of_package(root.path(), temp.path()).unwrap();
        assert!(other != copy && other.starts_with(temp.path()), "{}", other.display());
        assert_eq!(says(&other), "it runs\n");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(copy.join("libexec/pg_dump")).unwrap();
        assert_eq!(of_package(root.path(), temp.path()), Some(other.clone()));
        assert_eq!(says(&other), "it runs\n");
    }

    #[test]
    fn where_no_copy_can_be_made_the_package_s_own_is_named() {
        let root = package(0o644);
        let nowhere = root.path().join("nowhere");
        assert_eq!(of_package(root.path(), &nowhere), Some(root.path().join(FOLDER)));
    }
}
