//! The dead letters of an app's queues: to be looked at, sent again or removed, whether a host runs
//! or not.

use std::path::Path;
use std::sync::Arc;

use flexkeep_bus::{BusError, LocalQueues, MessageState, Peeked};
use jiff::Timestamp;

use crate::error::HostError;
use crate::function::{Connection, Function};
use crate::function_json::load_functions;
use crate::settings::Settings;

/// Dead letters of one queue that are listed; more of them would be a list that nobody reads.
const MAX_LISTED: usize = 1000;

/// The queue files of an app, opened for those who care for the dead letters.
pub struct DeadLetters {
    files: Vec<(Arc<Connection>, LocalQueues)>,
}

/// A message that failed too often, or that nobody took in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number, unique in its queue file.
    pub id: i64,
    /// The queue that it was on.
    pub queue: String,
    /// The message's id.
    pub message: String,
    /// When it became a dead letter.
    pub died: Timestamp,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub description: String,
    /// The message's body.
    pub body: Vec<u8>,
    file: usize,
}

impl DeadLetters {
    /// Opens the queue files that the functions of the app in `app_root` use.
    ///
    /// # Errors
    /// What is wrong with the app's functions or settings, or a queue file that is not there or cannot
    /// be opened.
    pub fn open(app_root: &Path, settings: &Settings) -> Result<Self, HostError> {
        let functions = load_functions(app_root, app_root, settings, None)?;
        let mut files: Vec<(Arc<Connection>, LocalQueues)> = Vec::new();
        for (connection, _) in functions.iter().flat_map(Function::queues) {
            if files.iter().any(|(known, _)| known.path == connection.path) {
                continue;
            }
            // Opening would make one.
            if let Err(source) = std::fs::metadata(&connection.path) {
                return Err(HostError::Read { path: connection.path.clone(), source });
            }
            let queues =
                LocalQueues::open(&connection.path).map_err(|source| error(connection, source))?;
            files.push((connection.clone(), queues));
        }
        Ok(Self { files })
    }

    /// The dead letters of all queues in these files, those of one queue in the order in which they were
    /// sent.
    ///
    /// # Errors
    /// One of a queue file.
    pub fn list(&self) -> Result<Vec<DeadLetter>, HostError> {
        let mut letters = Vec::new();
        for (file, (connection, queues)) in self.files.iter().enumerate() {
            let failed = |source| error(connection, source);
            for queue in queues.queues().map_err(failed)? {
                let dead = queues.peek_dead(&queue.name, MAX_LISTED).map_err(failed)?;
                letters.extend(dead.into_iter().filter_map(|one| letter(file, &queue.name, one)));
            }
        }
        Ok(letters)
    }

    /// Puts it back on its queue, as if it had just been sent.
    ///
    /// # Errors
    /// One of the queue file; that it is not a dead letter any more is one too.
    pub fn resubmit(&self, letter: &DeadLetter) -> Result<(), HostError> {
        let (connection, queues) = &self.files[letter.file];
        queues.resubmit_dead(&letter.queue, letter.id).map_err(|source| error(connection, source))
    }

    /// Removes it for good.
    ///
    /// # Errors
    /// Those of [`Self::resubmit`].
    pub fn purge(&self, letter: &DeadLetter) -> Result<(), HostError> {
        let (connection, queues) = &self.files[letter.file];
        let purged = queues.purge_dead(&letter.queue, Some(letter.id));
        purged.map(|_| ()).map_err(|source| error(connection, source))
    }
}

fn letter(file: usize, queue: &str, peeked: Peeked) -> Option<DeadLetter> {
    let MessageState::Dead { at, reason, description } = peeked.state else { return None };
    Some(DeadLetter {
        id: peeked.sequence_number,
        queue: queue.to_owned(),
        message: peeked.message.id,
        died: at,
        deliveries: peeked.delivery_count,
        reason,
        description,
        body: peeked.message.body,
        file,
    })
}

fn error(connection: &Connection, source: BusError) -> HostError {
    let Connection { setting, path } = connection;
    HostError::Queue { setting: setting.clone(), path: path.clone(), source: source.into() }
}
