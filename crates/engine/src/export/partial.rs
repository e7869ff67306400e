//! A file that appears under its name only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ExportError;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file being written as `.<name>.partial`; removed when it is dropped before
/// [`Partial::finish`].
pub(super) struct Partial {
    final_path: PathBuf,
    partial_path: PathBuf,
    finished: bool,
}

impl Partial {
    /// Begins the file `name` of `folder`. A partial file that a killed export left is replaced.
    /// Only the owner may read a `secret` one.
    pub(super) fn create(
        folder: &Path,
        name: &str,
        secret: bool,
    ) -> Result<(Self, BufWriter<File>), ExportError> {
        let final_path = folder.join(name);
        let partial_path = folder.join(format!(".{name}.partial"));
        let failed =
            |source| ExportError::File { operation: "create", path: folder.join(name), source };
        // Never through a link, nor with the mode of something that is there.
        match fs::remove_file(&partial_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if secret { 0o600 } else { 0o666 })
            .open(&partial_path)
            .map_err(failed)?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok((Self { final_path, partial_path, finished: false }, writer))
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> ExportError {
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
        drop(file);
        if !overwrite && self.final_path.symlink_metadata().is_ok() {
            return Err(ExportError::Exists { path: self.final_path.clone() });
        }
        fs::rename(&self.partial_path, &self.final_path)
            .map_err(|source| self.failed("finish", source))?;
        self.finished = true;
        sync_folder_of(&self.final_path).map_err(|source| self.failed("finish", source))?;
        Ok((self.final_path.display().to_string(), bytes))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.partial_path)
        {
            tracing::warn!("cannot remove {}: {error}", self.partial_path.display());
        }
    }
}

fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether there is something of that name, also a link to nowhere.
pub(super) fn is_there(path: &Path) -> Result<bool, ExportError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => {
            Err(ExportError::File { operation: "look at", path: path.to_owned(), source })
        }
    }
}
