//! Azure Functions in Rust: a runtime for [custom handlers].
//!
//! A custom handler is a program that the Functions host starts beside itself and calls over HTTP on
//! the loopback interface. This crate speaks that protocol, so that a function is an async function from
//! a typed event to typed outputs. [`App`] is where to begin:
//!
//! ```no_run
//! use flexkeep_functions::{App, BoxError, Context, Outputs, ServiceBusMessage, logging};
//!
//! # const FUNCTION_JSON: &str = "";
//! async fn resize(message: ServiceBusMessage, cx: Context) -> Result<Outputs, BoxError> {
//!     let order: serde_json::Value = message.json()?;
//!     cx.log(format!("resizing {order}"));
//!     Ok(Outputs::new().message("done", order.to_string()))
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), BoxError> {
//!     logging::init("info")?;
//!     let mut app = App::new();
//!     // Usually include_str!("resize/function.json").
//!     app.service_bus("resize", FUNCTION_JSON, resize)?;
//!     app.run().await?;
//!     Ok(())
//! }
//! ```
//!
//! # What it takes care of
//!
//! - The host encodes values by rules that depend on the declared `dataType`. Events are decoded by what
//!   `function.json` declares, never by how a value looks; a handler that does not fit its `function.json`
//!   is an error at start-up ([`RegisterError`]).
//! - A message body can overwrite the metadata of its own message. What the body may have written is not
//!   believed: see [`ServiceBusMessage`].
//! - The host hangs on an empty answer, turns strings that look like base64 into bytes, and rewrites
//!   strings that look like dates. [`Outputs`] and [`HttpResponse`] send what arrives unchanged, or fail.
//! - A function that runs into the host's time limit has its process killed, and every other invocation
//!   with it. [`Context::deadline`] tells when to stop, and an invocation that does not is cancelled before
//!   the host notices.
//! - Errors and panics become failed invocations, and one line on stderr each. See [`logging`].
//!
//! # What it does not do
//!
//! Forwarded and proxied HTTP (`enableForwardingHttpRequest`, `enableProxyingHttpRequest`) is not supported:
//! leave both off. Neither are input bindings other than the trigger, nor HTTP bodies that are not text in
//! a response: the protocol has no place for them.
//!
//! [custom handlers]: https://learn.microsoft.com/azure/azure-functions/functions-custom-handlers

mod answer;
mod app;
mod bindings;
mod body;
mod context;
mod envelope;
mod error;
mod host_json;
mod host_quirks;
mod http_trigger;
mod invocation;
pub mod logging;
mod outputs;
mod panics;
mod server;
mod service_bus;
mod text;
mod timer;
mod value;

pub use answer::Answer;
pub use app::{App, DEFAULT_BODY_LIMIT};
pub use bindings::TriggerKind;
pub use context::Context;
pub use error::{BoxError, OutputError, PayloadError, RegisterError, ServeError};
pub use host_json::{DEFAULT_FUNCTION_TIMEOUT, HostJsonError, host_json_timeout};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use http_trigger::{HttpRequest, HttpResponse};
pub use invocation::{Invocation, InvocationService};
pub use outputs::Outputs;
pub use service_bus::ServiceBusMessage;
pub use timer::{ScheduleStatus, TimerEvent};

/// The environment variable with the port that the host expects the handler on.
pub const PORT_VARIABLE: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";
/// The environment variable with the folder of host.json.
pub const APP_ROOT_VARIABLE: &str = "FUNCTIONS_APP_ROOT_PATH";
