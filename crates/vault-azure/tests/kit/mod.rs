//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use flexkeep_vault_azure::{BlobOptions, BlobPlace, BlobStores, RetryLimits};

/// Opens a place that must be a good one.
#[track_caller]
pub fn open(url: &str, options: &BlobOptions) -> BlobStores {
    let place = BlobPlace::parse(url).unwrap_or_else(|error| panic!("{error}"));
    place.open(None, options).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Bytes that are different everywhere.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Options that make containers and give up after `total`.
pub fn patient_for(total: Duration) -> BlobOptions {
    BlobOptions {
        create_containers: true,
        retry: RetryLimits {
            total,
            first_pause: Duration::from_millis(20),
            ..RetryLimits::default()
        },
        ..BlobOptions::default()
    }
}

/// A credential that always has that token.
pub fn static_token(token: &str) -> Arc<dyn TokenCredential> {
    Arc::new(StaticToken(token.to_owned()))
}

struct StaticToken(String);

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticToken")
    }
}

#[async_trait::async_trait]
impl TokenCredential for StaticToken {
    async fn get_token(
        &self,
        _scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let hour = Duration::from_secs(3600);
        Ok(AccessToken::new(self.0.clone(), OffsetDateTime::now_utc() + hour))
    }
}
