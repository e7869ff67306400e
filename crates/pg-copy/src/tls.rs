//! TLS as libpq does it, by rustls.

mod binding;
mod setup;
mod stream;
mod verify;

pub(crate) use setup::{TlsSetup, advice};
pub(crate) use stream::TlsStream;
