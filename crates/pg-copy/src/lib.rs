//! A PostgreSQL connection for COPY at socket speed.
//!
//! [`Connection`] is synchronous: one thread, one blocking socket, one read buffer. COPY data is
//! handed to a [`CopySink`] where it lies in that buffer, row by row, and rows larger than
//! the buffer in parts, so that memory stays bounded whatever the size of a value. Every wait
//! has a limit ([`ConnectOptions`]), and a [`CancelHandle`] ends one from another thread.
//!
//! ```no_run
//! use flexkeep_pg_copy::{Config, ConnectOptions, Connection, CopySink};
//!
//! struct Count(u64);
//!
//! impl CopySink for Count {
//!     type Error = std::convert::Infallible;
//!
//!     fn data(&mut self, part: &[u8], _row_end: bool) -> Result<(), Self::Error> {
//!         self.0 += part.len() as u64;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::parse("postgresql://reader@db.example.org/shop")?;
//! let mut connection = Connection::connect(&config, &ConnectOptions::default())?;
//! connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")?;
//! let mut sink = Count(0);
//! let rows = connection.copy_out("COPY orders TO STDOUT", &mut sink)?;
//! assert!(sink.0 >= rows);
//! connection.close();
//! # Ok(())
//! # }
//! ```

mod auth;
mod binary;
mod cancel;
mod config;
mod connect;
mod connection;
mod dial;
mod error;
mod notice;
mod options;
mod quote;
mod row;
mod tls;
mod transport;
mod wire;

pub use binary::{BINARY_HEADER, BinaryError, BinaryRows, ColumnFormat};
pub use cancel::CancelHandle;
pub use config::{Config, ConfigError, Environment, PasswordError, PasswordProvider, SslMode};
pub use connection::{Connection, CopySink, TransactionStatus};
pub use error::{BoxError, CopyError, Error, ServerError, chain};
pub use options::ConnectOptions;
pub use quote::{quote_ident, quote_literal};
pub use row::Row;
