//! Requests for restores and drills: how far each is, so that one that is delivered twice is done
//! once. Nothing sealed depends on it.

use super::{ServerName, Vault, VaultError};
use crate::hash::ContentHash;
use crate::store::Etag;

/// The most that the record of a request can have, bytes.
const MAX_RESTORE_RECORD_BYTES: u64 = 4 << 20;

/// Hexadecimal digits of a request's hash in a name.
const HASH_DIGITS: usize = 32;

fn folder(server: &ServerName) -> String {
    format!("restores/{server}/")
}

fn record_name(server: &ServerName, request: &str) -> String {
    let hash = ContentHash::of(request.as_bytes()).to_string();
    format!("{}{}.json", folder(server), &hash[..HASH_DIGITS])
}

impl Vault {
    /// The record of a request and its version, `None` when there is none.
    pub fn restore_record(
        &self,
        server: &ServerName,
        request: &str,
    ) -> Result<Option<(Vec<u8>, Etag)>, VaultError> {
        self.changing(&record_name(server, request), MAX_RESTORE_RECORD_BYTES)
    }

    /// Writes the record of a request over the version `before` (`None`: there was none). `false`
    /// when somebody else has written it since: read it again.
    pub fn put_restore_record(
        &self,
        server: &ServerName,
        request: &str,
        body: &[u8],
        before: Option<Etag>,
    ) -> Result<bool, VaultError> {
        let limit = (MAX_RESTORE_RECORD_BYTES, "the record of a restore");
        self.put_changing(&record_name(server, request), body, before, limit)
    }

    /// Removes records of a server for which `is_old` says so, if there are more than `most`.
    /// Records that are gone or cannot be read meanwhile are left alone.
    pub fn prune_restore_records(
        &self,
        server: &ServerName,
        most: usize,
        is_old: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), VaultError> {
        let mut names = Vec::new();
        self.runs().list(&folder(server), &mut |meta| names.push(meta.name))?;
        if names.len() <= most {
            return Ok(());
        }
        for name in names {
            if self.runs().get(&name, MAX_RESTORE_RECORD_BYTES).is_ok_and(|body| is_old(&body)) {
                self.runs().delete(&name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn requests_have_records_of_their_own_and_old_ones_go() {
        let store = Arc::new(MemoryStore::new());
        let vault = Vault::create_in(store.clone(), store).unwrap();
        let server: ServerName = "shop".parse().unwrap();
        assert_eq!(vault.restore_record(&server, "shop/a").unwrap(), None);
        assert!(vault.put_restore_record(&server, "shop/a", b"one", None).unwrap());
        assert!(!vault.put_restore_record(&server, "shop/a", b"other", None).unwrap());
        assert!(vault.put_restore_record(&server, "shop/b", b"b", None).unwrap());
        let (body, etag) = vault.restore_record(&server, "shop/a").unwrap().unwrap();
        assert_eq!(body, b"one");
        assert!(vault.put_restore_record(&server, "shop/a", b"two", Some(etag.clone())).unwrap());
        assert!(!vault.put_restore_record(&server, "shop/a", b"late", Some(etag)).unwrap());
        vault.prune_restore_records(&server, 2, &|_| true).unwrap();
        vault.prune_restore_records(&server, 1, &|body| body == b"b").unwrap();
        assert_eq!(vault.restore_record(&server, "shop/a").unwrap().unwrap().0, b"two");
        assert_eq!(vault.restore_record(&server, "shop/b").unwrap(), None);
    }
}
