//! A file with one event per line.
//!
//! # Crash consistency
//! A line is appended by one write under an exclusive lock on the file, and synced. A writer
//! that dies in the middle (or a loss of power) leaves at most a torn last line, of an event
//! whose `publish` never returned: the next writer removes it. A writer whose disk fills up
//! removes what it wrote itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::EventSink;
use crate::bus::blocking;
use crate::error::{BusError, BusErrorKind};
use crate::event::{CloudEvent, MAX_EVENT_BYTES};

/// What every line that we write begins with: how a torn line of ours is told from the end of a
/// file that is none of our business.
const LINE_START: &[u8] = br#"{"specversion":"1.0","id":""#;

/// How long a writer waits for the others.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Appends events to a file, one line of JSON each. Any number of threads and processes may
/// write to one file. A new file is readable by its owner only.
#[derive(Clone, Debug)]
pub struct FileSink {
    path: PathBuf,
}

impl FileSink {
    /// A sink to the file at `path`, which is created with the first event. Its folder must
    /// exist then.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl EventSink for FileSink {
    async fn publish(&self, event: &CloudEvent) -> Result<(), BusError> {
        let mut line = event.to_json()?;
        line.push(b'\n');
        let path = self.path.clone();
        blocking(move || append(&path, &line)).await
    }
}

fn append(path: &Path, line: &[u8]) -> Result<(), BusError> {
    let explain = |doing: &str, error| explain(path, doing, error);
    let mut file = open(path)?;
    lock(path, &file)?;
    let end = file.metadata().map_err(|error| explain("look at", error))?.len();
    let (start, needs_line_end) = match find_tail(path, &mut file, end)? {
        Tail::Whole => (end, false),
        Tail::LacksLineEnd => (end, true),
        Tail::Torn { start } => {
            tracing::warn!(
                file = %path.display(),
                bytes = end - start,
                "removing a torn last line, which a writer that was killed left"
            );
            file.set_len(start).map_err(|error| explain("mend", error))?;
            (start, false)
        }
    };
    let written = if needs_line_end {
        write_once(&mut file, &[b"\n", line].concat())
    } else {
        write_once(&mut file, line)
    };
    if let Err(error) = written {
        // If this fails too, the next writer finds a torn line and removes it.
        let _ = file.set_len(start);
        return Err(explain("write to", error));
    }
    file.sync_data().map_err(|error| explain("sync", error))?;
    if start == 0 {
        sync_folder(path).map_err(|error| explain("sync the folder of", error))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, BusError> {
    // Opening a pipe would wait for its reader, without end.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(BusError::new(
            BusErrorKind::CannotOpen,
            format!("{} is not a regular file; events need a file of their own", path.display()),
        ));
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| explain(path, "open", error))
}

/// Takes the file for this writer alone, until it is closed.
fn lock(path: &Path, file: &File) -> Result<(), BusError> {
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(BusError::new(
                    BusErrorKind::Busy,
                    format!(
                        "another process kept the events file {} locked for more than {} s; try \
                         again, or see who has it open (lsof, fuser) and end that",
                        path.display(),
                        LOCK_LIMIT.as_secs()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(explain(path, "lock", error)),
        }
    }
}

/// How a file ends.
enum Tail {
    /// With an end of line, or it is empty.
    Whole,
    /// With a whole event, that lacks its end of line only.
    LacksLineEnd,
    /// With a part of an event, from this offset.
    Torn { start: u64 },
}

fn find_tail(path: &Path, file: &mut File, end: u64) -> Result<Tail, BusError> {
    let read = |file: &mut File, bytes: u64| -> io::Result<Vec<u8>> {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(end - bytes))?;
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let explain = |error| explain(path, "read", error);
    if end == 0 || read(file, 1).map_err(explain)? == b"\n" {
        return Ok(Tail::Whole);
    }
    let tail = read(file, end.min(MAX_EVENT_BYTES as u64 + 1)).map_err(explain)?;
    let start = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let reaches_start = start > 0 || tail.len() as u64 == end;
    let torn = &tail[start..];
    if reaches_start && serde_json::from_slice::<CloudEvent>(torn).is_ok() {
        return Ok(Tail::LacksLineEnd);
    }
    let common = torn.len().min(LINE_START.len());
    // A loss of power may leave zeros where the data did not reach the disk.
    let is_ours = torn[..common] == LINE_START[..common] || torn.iter().all(|byte| *byte == 0);
    if !reaches_start || !is_ours {
        return Err(BusError::new(
            BusErrorKind::Foreign,
            format!(
                "{} does not end like a file of events, and was left alone; name another file, or \
                 end its last line",
                path.display()
            ),
        ));
    }
    Ok(Tail::Torn { start: end - torn.len() as u64 })
}

/// Appends all of `bytes` by one call of the operating system.
fn write_once(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match file.write(bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn explain(path: &Path, doing: &str, error: io::Error) -> BusError {
    let (kind, advice) = match error.kind() {
        io::ErrorKind::NotFound => {
            (BusErrorKind::CannotOpen, "its folder does not exist; create that first")
        }
        io::ErrorKind::PermissionDenied => (
            BusErrorKind::CannotOpen,
            "this user may not; check the owner and mode of the file and its folder",
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            (BusErrorKind::ReadOnly, "the disk is mounted read-only; name a file elsewhere")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (BusErrorKind::NoSpace, "there is no space left on its disk; free some and try again")
        }
        _ => (BusErrorKind::Io, "the operating system refused; check the disk"),
    };
    BusError::new(kind, format!("cannot {doing} the events file {}: {advice}", path.display()))
        .with_source(error)
}
