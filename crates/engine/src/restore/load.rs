//! Rows and large objects from chunks into the server, each part in one transaction with its line of
//! the journal.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender};

use flexkeep_pg_archive::Entry;
use flexkeep_pg_copy as pg;
use flexkeep_vault::contents::{ChunkRef, Entry as Data};
use flexkeep_vault::{ChunkBuffer, Vault, VaultError, large_objects as objects};

use super::journal;
use super::lanes::DatabaseWork;
use super::target::Db;

/// Bytes of one message. The server works on one while the next is on its way.
const MESSAGE_BYTES: usize = 256 << 10;

/// Bytes of large objects in one statement, and objects.
const STATEMENT_BYTES: usize = 1 << 20;
const STATEMENT_OBJECTS: usize = 500;

/// Chunks that are read ahead of the one that is being sent.
const AHEAD: usize = 1;

/// Why a part was not loaded.
#[derive(Debug)]
pub(super) enum LoadError {
    Server(pg::Error),
    Vault(VaultError),
    /// The chunks are not what the backup says, though they are whole.
    Wrong(String),
    Cancelled,
}

impl From<pg::Error> for LoadError {
    fn from(error: pg::Error) -> Self {
        Self::Server(error)
    }
}

/// A part of an entry's data.
pub(super) struct Job<'a> {
    pub(super) entry: &'a Entry,
    pub(super) data: &'a Data,
    pub(super) range: Range<usize>,
    pub(super) part: i32,
}

impl Job<'_> {
    fn chunks(&self) -> &[ChunkRef] {
        &self.data.chunks[self.range.clone()]
    }

    pub(super) fn bytes(&self) -> u64 {
        self.chunks().iter().map(|chunk| u64::from(chunk.raw_bytes)).sum()
    }
}

/// Loads rows by one COPY; gives how many the server counted.
pub(super) fn rows(
    db_work: &DatabaseWork<'_>,
    db: &mut Db,
    job: &Job<'_>,
) -> Result<u64, LoadError> {
    let statement = job.entry.copy_stmt().unwrap_or_default();
    db.connection.execute("BEGIN")?;
    let rows = with_chunks(db_work.vault, job, |chunks| {
        let mut source = Rows { chunks, buffer: None, sent: 0, failure: None, db_work };
        let copied = db.connection.copy_in(statement, &mut |part| source.fill(part));
        match (copied, source.failure) {
            (_, Some(failure)) => Err(failure),
            (copied, None) => Ok(copied?),
        }
    })?;
    let end = format!("{}COMMIT", journal::line_sql(job.entry.dump_id(), job.part, rows));
    db.connection.execute(end)?;
    db_work.progress.stored(job.bytes());
    Ok(rows)
}

/// What a reader thread gives: buffers go back and forth.
type Chunks<'a> = (&'a Receiver<Result<ChunkBuffer, VaultError>>, &'a SyncSender<ChunkBuffer>);

/// Reads and verifies the chunks on a thread of its own, one ahead of what `work` takes.
fn with_chunks<T>(
    vault: &Vault,
    job: &Job<'_>,
    work: impl FnOnce(Chunks<'_>) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let (give, take) = mpsc::sync_channel(AHEAD);
    let (give_back, returned) = mpsc::sync_channel::<ChunkBuffer>(AHEAD + 2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for chunk in job.chunks() {
                let mut buffer = returned.try_recv().unwrap_or_default();
                let read = vault.get_chunk(job.data.kind, chunk, &mut buffer);
                let failed = read.is_err();
                if give.send(read.map(|()| buffer)).is_err() || failed {
                    return;
                }
            }
        });
        let result = work((&take, &give_back));
        // The reader ends when nobody takes what it gives.
        drop(take);
        result
    })
}

/// Chunks as the data of a COPY.
struct Rows<'a> {
    chunks: Chunks<'a>,
    buffer: Option<ChunkBuffer>,
    sent: usize,
    failure: Option<LoadError>,
    db_work: &'a DatabaseWork<'a>,
}

impl Rows<'_> {
    fn fill(&mut self, part: &mut Vec<u8>) -> Result<bool, pg::BoxError> {
        if self.db_work.progress.is_cancelled() {
            self.failure = Some(LoadError::Cancelled);
            return Err("cancelled".into());
        }
        if self.buffer.is_none() {
            match self.chunks.0.recv() {
                Err(_) => return Ok(false),
                Ok(Err(error)) => {
                    self.failure = Some(LoadError::Vault(error));
                    return Err("a chunk could not be read".into());
                }
                Ok(Ok(buffer)) => {
                    let bytes = buffer.raw().len() as u64;
                    self.db_work.progress.read_some(bytes);
                    (self.buffer, self.sent) = (Some(buffer), 0);
                }
            }
        }
        let Some(buffer) = self.buffer.take() else { return Ok(false) };
        let raw = buffer.raw();
        let end = raw.len().min(self.sent + MESSAGE_BYTES);
        part.extend_from_slice(&raw[self.sent..end]);
        self.db_work.progress.done((end - self.sent) as u64);
        self.sent = end;
        if end < raw.len() {
            self.buffer = Some(buffer);
        } else {
            // If the reader has ended, nobody needs it.
            let _ = self.chunks.1.try_send(buffer);
        }
        Ok(true)
    }
}

/// Fills large objects, which are there already and empty; gives how many were begun.
pub(super) fn large_objects(
    db_work: &DatabaseWork<'_>,
    db: &mut Db,
    job: &Job<'_>,
) -> Result<u64, LoadError> {
    db.connection.execute("BEGIN; SET LOCAL bytea_output = hex")?;
    let count = with_chunks(db_work.vault, job, |(chunks, back)| {
        let mut writer = Writer { db, sql: String::new(), objects: 0, open: None, count: 0 };
        for _ in job.range.clone() {
            if db_work.progress.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            let buffer = match chunks.recv() {
                Ok(read) => read.map_err(LoadError::Vault)?,
                Err(_) => return Err(LoadError::Wrong("a chunk is missing".to_owned())),
            };
            for record in objects::records(buffer.raw()) {
                let record = record.map_err(|error| LoadError::Wrong(error.to_string()))?;
                writer.record(&record)?;
            }
            let bytes = buffer.raw().len() as u64;
            db_work.progress.read_some(bytes);
            db_work.progress.done(bytes);
            let _ = back.try_send(buffer);
        }
        writer.finish()
    })?;
    let end = format!("{}COMMIT", journal::line_sql(job.entry.dump_id(), job.part, count));
    db.connection.execute(end)?;
    db_work.progress.stored(job.bytes());
    Ok(count)
}

/// Collects parts of objects into statements.
struct Writer<'a> {
    db: &'a mut Db,
    sql: String,
    objects: usize,
    /// The object that is not complete, with the bytes written so far.
    open: Option<(u32, u64)>,
    count: u64,
}

impl Writer<'_> {
    fn record(&mut self, record: &objects::Record<'_>) -> Result<(), LoadError> {
        let (oid, mut offset) = match (record.begins, self.open.take()) {
            (Some(oid), None) => {
                self.count += 1;
                (oid, 0)
            }
            (None, Some(open)) => open,
            _ => return Err(LoadError::Wrong("large objects do not fit each other".to_owned())),
        };
        for bytes in record.bytes.chunks(STATEMENT_BYTES) {
            self.put(oid, offset, bytes)?;
            offset += bytes.len() as u64;
        }
        if !record.ends {
            self.open = Some((oid, offset));
        }
        Ok(())
    }

    fn put(&mut self, oid: u32, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let first = if self.objects == 0 { "" } else { "," };
        self.sql.push_str(&format!("{first}({oid},{offset},'\\x"));
        self.sql.reserve(bytes.len() * 2 + 3);
        for byte in bytes {
            self.sql.push(char::from(HEX[usize::from(byte >> 4)]));
            self.sql.push(char::from(HEX[usize::from(byte & 15)]));
        }
        self.sql.push_str("')");
        self.objects += 1;
        if self.objects >= STATEMENT_OBJECTS || self.sql.len() >= STATEMENT_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LoadError> {
        if self.objects == 0 {
            return Ok(());
        }
        let statement = format!(
            "SELECT pg_catalog.count(pg_catalog.lo_put(v.o::pg_catalog.oid, v.p::pg_catalog.int8, \
             v.d::pg_catalog.bytea)) FROM (VALUES {}) v(o, p, d)",
            self.sql
        );
        self.db.connection.execute(statement)?;
        self.sql.clear();
        self.objects = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<u64, LoadError> {
        self.flush()?;
        if self.open.is_some() {
            return Err(LoadError::Wrong("a large object has no end".to_owned()));
        }
        Ok(self.count)
    }
}
