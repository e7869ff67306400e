//! What the Azure Functions host does for an app with a custom handler, on one machine: for
//! development, tests and self-hosting.
//!
//! [`Host::load`] reads an app root (host.json, and a folder with a function.json for each
//! function); [`Host::run`] starts the handler and drives it: timers, queues (the embedded queue of
//! flexkeep-bus only) and HTTP. What the handler sees is what the real host would send, byte for
//! byte, and what the host does when a handler answers, fails, hangs or dies is what the real one
//! does, with these differences, each of which is also said in the log where it matters:
//!
//! - An answer that hangs the real host until the function's time-out (empty, 204, `null`) fails
//!   at once.
//! - The handler's stdin is a pipe that ends with the host. If the host is killed, a watchdog kills
//!   the handler and what it started.
//! - Restarts after exit code 0 or 200 slow down if the handler keeps ending soon, and the host ends
//!   if it does so ten times in a row before it is ready.
//! - An abandoned message waits behind the others, as the embedded queue has it.
//! - Timers and queues start when the handler is ready for the first time.
//! - Keys are asked for only beyond the loopback interface, or if told so. Without keys, only requests
//!   to an address or `localhost` are answered, so that no web page gets in under a name of its own.
//! - Bindings that this host cannot serve are an error at load, not at the first use.

mod admin;
mod budget;
mod client;
mod config;
mod console;
mod cron;
mod dead_letters;
mod dispatch;
mod encode;
mod error;
mod events;
mod function;
mod function_json;
mod host;
mod host_json;
mod http;
mod http_request;
mod json;
mod keys;
mod launch;
mod message;
mod options;
mod outputs;
mod process;
mod queue;
mod queues;
mod routes;
mod schedule;
mod settings;
mod timer;
mod timespan;

pub use dead_letters::{DeadLetter, DeadLetters};
pub use error::HostError;
pub use events::{HostEvent, Observer, Settlement};
pub use function::{AuthLevel, FunctionInfo, TriggerInfo};
pub use function_json::FUNCTION_FILE;
pub use host::{Host, HostExit};
pub use host_json::HOST_FILE;
pub use keys::{FUNCTION_KEY_SETTING, KEYS_FILE, MASTER_KEY_SETTING};
pub use options::HostOptions;
pub use process::CleanExit;
pub use settings::{LOCAL_SETTINGS_FILE, Settings};
