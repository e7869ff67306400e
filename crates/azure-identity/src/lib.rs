//! The identity that flexkeep has on Azure, and its tokens.
//!
//! [`credential`] finds the identity that the environment gives: a managed one, a workload's, an
//! application's, or a developer's. Clients of Azure services take it as it is. [`TokenSource`]
//! gives its tokens to code that is not asynchronous, and [`entra`] makes them the password of
//! a PostgreSQL connection.

mod choice;
mod error;
mod postgres;
mod redact;
mod source;

pub use choice::{Credential, Kind, credential};
pub use error::{IdentityError, TokenError};
pub use postgres::{AuthError, ENTRA_SCOPE, SCOPE_VARIABLE, entra, entra_with};
pub use source::{Limits, Token, TokenSource};
