//! The contract between the Functions host and a custom handler, over real sockets.

mod failures;
mod host;
mod http;
mod logs;
mod outputs;
mod process;
mod registration;
mod service_bus;
mod service_bus_batch;
mod timer;
mod transport;
