//! What every store promises, kept on Azurite.

mod kit;

use std::sync::atomic::{AtomicU32, Ordering};

use flexkeep_tests::Azurite;
use flexkeep_vault::store::{SharedStore, conformance};
use flexkeep_vault_azure::{BlobOptions, BlobPlace, UploadLimits};

use kit::{open, static_token};

/// Runs the suite, each check in a container of its own.
fn keeps_the_contract(make: impl Fn(&str) -> SharedStore) {
    let count = AtomicU32::new(0);
    conformance::run(&|| make(&format!("check-{}", count.fetch_add(1, Ordering::Relaxed))));
}

#[test]
fn with_a_signature_over_http() {
    let azurite = Azurite::start();
    keeps_the_contract(|container| {
        let options = BlobOptions { create_containers: true, ..BlobOptions::default() };
        open(&azurite.container_url(container), &options).data
    });
}

#[test]
fn with_a_token_over_https_and_every_object_in_blocks() {
    let azurite = Azurite::start_https();
    let options = BlobOptions {
        create_containers: true,
        trusted_pem: Some(azurite.certificate_pem().to_owned()),
        upload: UploadLimits { single_put_bytes: 0, block_bytes: 100_000, parallel_blocks: 3 },
        ..BlobOptions::default()
    };
    keeps_the_contract(|container| {
        let place = BlobPlace::parse(&format!("{}/{container}", azurite.endpoint())).unwrap();
        // The container of what changes, to have had that one too.
        place.open(Some(static_token(&azurite.bearer_token())), &options).unwrap().runs
    });
}
