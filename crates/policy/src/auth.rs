//! How a server gets to know who connects.

use std::fmt;
use std::str::FromStr;

/// How a server gets to know who connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// By a password, a certificate, or nothing.
    #[default]
    Password,
    /// By an Entra token, a fresh one for each connection.
    Entra,
}

impl Auth {
    /// All of them.
    pub const ALL: [Auth; 2] = [Auth::Password, Auth::Entra];

    /// Its word in a policy and in settings.
    pub fn word(self) -> &'static str {
        match self {
            Auth::Password => "password",
            Auth::Entra => "entra",
        }
    }
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no way to authenticate. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected password or entra")]
pub struct UnknownAuth;

impl FromStr for Auth {
    type Err = UnknownAuth;

    fn from_str(word: &str) -> Result<Self, UnknownAuth> {
        Auth::ALL.into_iter().find(|auth| auth.word() == word).ok_or(UnknownAuth)
    }
}
