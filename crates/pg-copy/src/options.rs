//! How a connection behaves, apart from where it goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long opening a connection to one address may take, where nothing else is said.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Limits and names of a connection.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Shown in `pg_stat_activity`; the connection string's own `application_name` wins.
    pub application_name: String,
    /// The longest time for opening a connection to one address, TLS and authentication
    /// included. `None`: `connect_timeout` of the connection string, or 20 s.
    pub connect_timeout: Option<Duration>,
    /// The longest silence while an answer is awaited or while the server takes nothing.
    /// A statement that works for longer without sending anything ends in
    /// [`crate::Error::TimedOut`]. At least 10 ms.
    pub stall_timeout: Duration,
    /// The longest row of a query's answer, in bytes. COPY data has no limit.
    pub max_row_bytes: usize,
    /// Lets a password go in clear text over TCP without TLS, if the server asks for that.
    pub allow_cleartext_password: bool,
    /// Accepts answers that are not UTF-8; see [`crate::Row::get`].
    pub raw_text: bool,
    /// When this becomes true, every wait on the connection ends within about a quarter of a second,
    /// with [`crate::Error::Closed`].
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            application_name: "flexkeep".to_owned(),
            connect_timeout: None,
            stall_timeout: Duration::from_secs(600),
            max_row_bytes: 64 << 20,
            allow_cleartext_password: false,
            raw_text: false,
            stop: None,
        }
    }
}
