//! Blobs that are put together from blocks, on Azurite: sent, copied by the service, or refused.

mod kit;

use std::time::Duration;

use flexkeep_tests::{Azurite, FaultProxy, HttpFault, Requests, Rights};
use flexkeep_vault::store::{BlockStore, CopySource, PutMode, SharedStore, StoreErrorKind};
use flexkeep_vault_azure::{BlobOptions, BlobPlace, BlobTarget};

use kit::{bytes, open, patient_for, static_token};

/// Rights on one container; Azurite refuses Put Block From URL to a signature for the account.
const RIGHTS: Rights = Rights { letters: "rcwdl", expired: false };

/// A service with a vault of one object, and a container for exports.
struct Scene {
    azurite: Azurite,
    proxy: FaultProxy,
    /// The container for exports, to look into it.
    out: SharedStore,
    body: Vec<u8>,
}

impl Scene {
    fn start() -> Self {
        let azurite = Azurite::start();
        let proxy = FaultProxy::start(azurite.port());
        let options = patient_for(Duration::from_secs(60));
        let vault = open(&azurite.container_url("vault"), &options).data;
        let out = open(&azurite.container_url("out"), &options).data;
        let body = bytes(700_000);
        vault.put("chunks/ab/abcd", &body, PutMode::Create).unwrap();
        Self { azurite, proxy, out, body }
    }

    fn url(&self, port: u16, path: &str) -> String {
        let container = path.split('/').next().unwrap();
        let sas = self.azurite.container_sas(container, RIGHTS);
        let endpoint = self.azurite.endpoint();
        let endpoint = endpoint.replace(&self.azurite.port().to_string(), &port.to_string());
        format!("{endpoint}/{path}?{sas}")
    }

    fn target(&self, port: u16, options: &BlobOptions) -> BlobTarget {
        let vault = BlobPlace::parse(&self.url(port, "vault")).unwrap();
        let to = BlobPlace::parse_target(&self.url(port, "out/some/folder")).unwrap();
        BlobTarget::open(&to, options, Some((&vault, options)), None).unwrap()
    }

    fn source(&self) -> CopySource<'_> {
        CopySource::Vault { name: "chunks/ab/abcd", bytes: self.body.len() as u64 }
    }

    fn found(&self, name: &str) -> Vec<u8> {
        self.out.get(&format!("some/folder/{name}"), u64::MAX).unwrap()
    }
}

fn options() -> BlobOptions {
    BlobOptions { create_containers: false, ..patient_for(Duration::from_secs(60)) }
}

#[test]
fn a_blob_is_made_of_blocks_that_are_sent_and_blocks_that_the_service_copies() {
    let scene = Scene::start();
    let target = scene.target(scene.azurite.port(), &options());
    assert!(target.may_copy());
    assert!(target.location().ends_with("/out/some/folder"), "{}", target.location());
    let upload = target.begin("shop~2%20.dump");
    target.send(&upload, 900_000, b"head".to_vec()).unwrap();
    target.copy(&upload, 1, &scene.source()).unwrap();
    target.send(&upload, 0, b"not this".to_vec()).unwrap();
    target.send(&upload, 0, b"between".to_vec()).unwrap();
    // Blocks of another upload of the name are not counted, and do not mix with ours.
    let other = target.begin("shop~2%20.dump");
    target.send(&other, 0, b"another's".to_vec()).unwrap();
    let sizes = target.sizes(&upload).unwrap();
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(0, 7), (1, 700_000), (900_000, 4)]);
    assert_eq!(target.length("shop~2%20.dump").unwrap(), None, "nothing before the commit");
    target.commit(&upload, &[900_000, 0, 1], false).unwrap();
    let expected = [b"headbetween".as_slice(), &scene.body].concat();
    assert_eq!(target.length("shop~2%20.dump").unwrap(), Some(expected.len() as u64));

    // A part of it, copied into another blob.
    let upload = target.begin("part");
    let range = 4..(1 << 18) + 11;
    let own = CopySource::Own { name: "shop~2%20.dump", range: range.clone() };
    target.copy(&upload, 0, &own).unwrap();
    target.commit(&upload, &[0], false).unwrap();
    assert!(scene.found("part") == expected[4..range.end as usize]);

    // What is there stays, unless it is to be replaced.
    let again = target.begin("part");
    target.send(&again, 0, b"new".to_vec()).unwrap();
    let error = target.commit(&again, &[0], false).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error:?}");
    assert!(scene.found("part") != b"new");
    let again = target.begin("part");
    target.send(&again, 0, b"new".to_vec()).unwrap();
    target.commit(&again, &[0], true).unwrap();
    assert_eq!(scene.found("part"), b"new");
    target.delete("part").unwrap();
    target.delete("part").unwrap();
    assert_eq!(target.length("part").unwrap(), None);
}

#[test]
fn every_fault_on_the_way_ends_in_the_right_bytes() {
    let scene = Scene::start();
    let target = scene.target(scene.proxy.port(), &options());
    for (number, fault) in [
        HttpFault::CutRequest(0),
        HttpFault::DropAnswer,
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", Some(1)),
        HttpFault::Delay(Duration::from_millis(200)),
    ]
    .into_iter()
    .enumerate()
    {
        for requests in [Requests::BLOCKS, Requests::COMMITS] {
            let name = format!("{number}-{}", requests == Requests::COMMITS);
            scene.proxy.fail(requests, 1, fault.clone());
            let upload = target.begin(&name);
            // Whichever of the two is hit.
            target.copy(&upload, 0, &scene.source()).unwrap();
            target.send(&upload, 1, b"end".to_vec()).unwrap();
            target.commit(&upload, &[0, 1], false).unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
            scene.proxy.heal();
            assert!(scene.found(&name) == [&scene.body[..], b"end"].concat(), "{fault:?}");
        }
    }
}

#[test]
fn what_the_service_does_not_copy_is_told_in_bounded_time() {
    let scene = Scene::start();
    let target = scene.target(scene.azurite.port(), &options());
    let upload = target.begin("name");
    // Not there.
    let missing = CopySource::Vault { name: "chunks/ab/gone", bytes: 9 };
    let error = target.copy(&upload, 0, &missing).unwrap_err();
    assert!(format!("{:?}", error.0).contains("CannotVerifyCopySource"), "{error:?}");
    // The emulator fails on a copy with a signature for the account, every time.
    let sas = scene.azurite.account_sas(Rights::ALL);
    let url = format!("{}/vault?{sas}", scene.azurite.endpoint());
    let (vault, to) = (BlobPlace::parse(&url).unwrap(), BlobPlace::parse_target(&url).unwrap());
    let mut brief = options();
    brief.retry.total = Duration::from_secs(1);
    let target = BlobTarget::open(&to, &brief, Some((&vault, &brief)), None).unwrap();
    let started = std::time::Instant::now();
    assert!(target.copy(&upload, 0, &scene.source()).is_err());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // A vault in no container.
    let target = BlobTarget::open(&to, &brief, None, None).unwrap();
    assert!(!target.may_copy());
    assert!(target.copy(&upload, 0, &scene.source()).is_err());
}

#[test]
fn with_an_identity_blocks_are_sent_where_the_service_takes_no_token_for_the_source() {
    let azurite = Azurite::start_https();
    let trusting = BlobOptions {
        trusted_pem: Some(azurite.certificate_pem().to_owned()),
        create_containers: true,
        ..options()
    };
    let place = |name: &str| format!("{}/{name}", azurite.endpoint());
    let vault = BlobPlace::parse(&place("vault")).unwrap();
    let to = BlobPlace::parse_target(&place("out")).unwrap();
    let token = || Some(static_token(&azurite.bearer_token()));
    let data = vault.open(token(), &trusting).unwrap().data;
    data.put("chunks/ab/abcd", &bytes(1000), PutMode::Create).unwrap();
    let target = BlobTarget::open(&to, &trusting, Some((&vault, &trusting)), token()).unwrap();
    assert!(target.may_copy());
    let upload = target.begin("name");
    let source = CopySource::Vault { name: "chunks/ab/abcd", bytes: 1000 };
    // The emulator reads the source without the token that it is given for it.
    let error = target.copy(&upload, 0, &source).unwrap_err();
    assert!(format!("{:?}", error.0).contains("CannotVerifyCopySource"), "{error:?}");
    target.send(&upload, 0, bytes(1000)).unwrap();
    target.commit(&upload, &[0], false).unwrap();
    assert_eq!(target.length("name").unwrap(), Some(1000));
}
