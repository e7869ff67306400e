//! What a test may choose about its server.

use crate::{Server, Version};

/// What a server should be like; [`ServerOptions::start`] starts it.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub(crate) version: Version,
    pub(crate) encoding: String,
    pub(crate) locale: String,
    pub(crate) superuser: String,
    pub(crate) password: Option<String>,
    pub(crate) conf: Vec<String>,
    pub(crate) hba: Vec<String>,
    /// Connection string of the server that it follows.
    pub(crate) primary: Option<String>,
    pub(crate) small_disk_mib: Option<u32>,
}

impl ServerOptions {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
            superuser: "postgres".into(),
            password: None,
            conf: Vec::new(),
            hba: Vec::new(),
            primary: None,
            small_disk_mib: None,
        }
    }

    /// The encoding of the template databases, with a locale that allows it, such as
    /// `("LATIN1", "C")`.
    #[must_use]
    pub fn encoding(mut self, encoding: &str, locale: &str) -> Self {
        self.encoding = encoding.into();
        self.locale = locale.into();
        self
    }

    /// Another name for the superuser than `postgres`.
    #[must_use]
    pub fn superuser(mut self, name: &str) -> Self {
        self.superuser = name.into();
        self
    }

    /// Everyone must give a password (SCRAM), and the superuser's is this one.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A line for postgresql.conf; a later one wins.
    #[must_use]
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push(line.into());
        self
    }

    /// A line for pg_hba.conf, before the general ones.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.into());
        self
    }

    /// [`Server::small_disk`] is a disk of that many MiB, which only the server sees: a place for a
    /// tablespace that gets full.
    #[must_use]
    pub fn small_disk(mut self, mib: u32) -> Self {
        self.small_disk_mib = Some(mib);
        self
    }

    /// Makes the server and waits until it takes connections.
    #[track_caller]
    pub fn start(self) -> Server {
        Server::create(self)
    }
}
