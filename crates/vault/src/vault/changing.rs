//! Small records that are replaced now and then, by whoever saw their last version.

use super::{Vault, VaultError};
use crate::store::{Etag, PutMode, StoreErrorKind};

impl Vault {
    /// A record and its version, `None` when there is none.
    pub(super) fn changing(
        &self,
        name: &str,
        limit_bytes: u64,
    ) -> Result<Option<(Vec<u8>, Etag)>, VaultError> {
        // The version first: a record that is replaced in between is then found changed when it
        // is written, and not the other way round.
        let Some(meta) = self.runs().head(name)? else { return Ok(None) };
        match self.runs().get(name, limit_bytes) {
            Ok(body) => Ok(Some((body, meta.etag))),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a record over the version `before` (`None`: there was none). `false` when somebody
    /// else has written it since. `limit`: the most bytes, and of what.
    pub(super) fn put_changing(
        &self,
        name: &str,
        body: &[u8],
        before: Option<Etag>,
        (limit_bytes, what): (u64, &'static str),
    ) -> Result<bool, VaultError> {
        let bytes = body.len() as u64;
        if bytes > limit_bytes {
            return Err(VaultError::TooLong { what, bytes, limit_bytes });
        }
        let mode = before.map_or(PutMode::Create, PutMode::Update);
        match self.runs().put(name, body, mode) {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind,
                    StoreErrorKind::Changed
                        | StoreErrorKind::AlreadyExists
                        | StoreErrorKind::NotFound
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
