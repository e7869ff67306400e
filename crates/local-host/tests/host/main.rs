//! The host on real handler processes and a real queue database.

mod admin;
mod app;
mod bad_input;
mod http;
mod invocation;
mod process;
mod queue;
mod shutdown;
mod timer;
