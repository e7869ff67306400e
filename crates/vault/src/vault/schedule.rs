//! What the schedule of a server remembers from one tick to the next. Losing it costs an extra
//! backup, nothing else.

use super::{ServerName, Vault, VaultError};
use crate::store::Etag;

/// The most that the record of a schedule can have, bytes.
pub const MAX_SCHEDULE_BYTES: u64 = 1 << 20;

fn schedule_name(server: &ServerName) -> String {
    format!("schedule/{server}.json")
}

impl Vault {
    /// The record of a server's schedule and its version, `None` when there is none yet.
    pub fn schedule(&self, server: &ServerName) -> Result<Option<(Vec<u8>, Etag)>, VaultError> {
        self.changing(&schedule_name(server), MAX_SCHEDULE_BYTES)
    }

    /// Writes the record of a server's schedule over the version `before` (`None`: there was none).
    /// `false` when somebody else has written it since: read it again.
    pub fn put_schedule(
        &self,
        server: &ServerName,
        body: &[u8],
        before: Option<Etag>,
    ) -> Result<bool, VaultError> {
        let limit = (MAX_SCHEDULE_BYTES, "the record of a schedule");
        self.put_changing(&schedule_name(server), body, before, limit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn of_two_writers_of_a_schedule_the_second_is_told() {
        let store = Arc::new(MemoryStore::new());
        let vault = Vault::create_in(store.clone(), store).unwrap();
        let server: ServerName = "shop".parse().unwrap();
        assert_eq!(vault.schedule(&server).unwrap(), None);
        assert!(vault.put_schedule(&server, b"one", None).unwrap());
        assert!(!vault.put_schedule(&server, b"other", None).unwrap());
        let (body, etag) = vault.schedule(&server).unwrap().unwrap();
        assert_eq!(body, b"one");
        assert!(vault.put_schedule(&server, b"two", Some(etag.clone())).unwrap());
        assert!(!vault.put_schedule(&server, b"late", Some(etag)).unwrap());
        assert_eq!(vault.schedule(&server).unwrap().unwrap().0, b"two");
        let long = vec![b' '; MAX_SCHEDULE_BYTES as usize + 1];
        assert!(vault.put_schedule(&server, &long, None).is_err());
    }
}
