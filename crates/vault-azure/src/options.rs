//! What can be chosen besides the place.

use std::time::Duration;

use crate::sas::Sas;

/// How to open a [`crate::BlobPlace`].
#[derive(Clone, Debug, Default)]
pub struct BlobOptions {
    /// Used when the place's URL has no signature of its own: the caller's
    /// `AZURE_STORAGE_SAS_TOKEN`.
    pub sas: Option<Sas>,
    /// Signature for the container of what changes, where that of the data container has no rights
    /// there: a signature for one container opens no other.
    pub runs_sas: Option<Sas>,
    /// Make containers that are missing. Without it opening sends no request at all.
    pub create_containers: bool,
    /// When to give up.
    pub retry: RetryLimits,
    /// How objects are cut.
    pub upload: UploadLimits,
    /// PEM certificates to trust besides the system's, for a proxy that opens TLS, or the emulator.
    pub trusted_pem: Option<String>,
}

/// How long what may pass is tried again. There is no other layer of retries below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// No new try of a request begins this long after its first one began, and one that is under
    /// way is cut off then.
    pub total: Duration,
    /// Pause after the first failure; it doubles from try to try, give or take a half.
    pub first_pause: Duration,
    /// Longest pause, unless the service asks for a longer one.
    pub max_pause: Duration,
    /// Time for the answer to a request, without that for its body.
    pub answer: Duration,
    /// The slowest connection that is waited for, bytes per second: a body gets the time that it
    /// takes at this speed on top of [`RetryLimits::answer`] and [`RetryLimits::total`].
    pub slowest_bytes_per_second: u64,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(300),
            first_pause: Duration::from_millis(200),
            max_pause: Duration::from_secs(20),
            answer: Duration::from_secs(30),
            slowest_bytes_per_second: 64 << 10,
        }
    }
}

impl RetryLimits {
    /// What a body of that length may take.
    pub(crate) fn transfer(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.slowest_bytes_per_second.max(1))
    }
}

/// How objects are cut for upload. A call holds a copy of what is under way: of a whole small
/// object, or of [`UploadLimits::parallel_blocks`] blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Objects up to this length go in one request, longer ones in blocks: a failure then repeats
    /// one block only.
    pub single_put_bytes: usize,
    /// Length of a block.
    pub block_bytes: usize,
    /// How many blocks of one object are under way at once.
    pub parallel_blocks: usize,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self { single_put_bytes: 8 << 20, block_bytes: 4 << 20, parallel_blocks: 4 }
    }
}
