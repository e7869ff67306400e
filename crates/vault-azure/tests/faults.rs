//! Faults of networks and of the service, made by a proxy before Azurite: the right result, or a
//! clear error in bounded time.

mod kit;

use std::time::{Duration, Instant};

use flexkeep_tests::{Azurite, FaultProxy, HttpFault, Requests};
use flexkeep_vault::store::{Etag, PutMode, SharedStore, Store, StoreErrorKind};
use flexkeep_vault_azure::BlobOptions;

use kit::{bytes, open, patient_for};

/// Longer than one request of the tests' options takes.
const BIG: usize = 9 << 20;

const PUTS: Requests = Requests("PUT", "/box/name?");
const GETS: Requests = Requests("GET", "/box/name?");

struct Service {
    azurite: Azurite,
    proxy: FaultProxy,
}

impl Service {
    fn start() -> Self {
        let azurite = Azurite::start();
        let proxy = FaultProxy::start(azurite.port());
        let service = Self { azurite, proxy };
        // Makes the containers.
        service.straight();
        service
    }

    /// A store without the proxy.
    fn straight(&self) -> SharedStore {
        open(&self.azurite.container_url("box"), &patient_for(Duration::from_secs(60))).data
    }

    /// A store behind the proxy.
    fn store(&self, options: &BlobOptions) -> SharedStore {
        let url = self.azurite.container_url("box");
        let url = url.replacen(
            &format!(":{}/", self.azurite.port()),
            &format!(":{}/", self.proxy.port()),
            1,
        );
        open(&url, &BlobOptions { create_containers: false, ..options.clone() }).data
    }

    fn patient(&self) -> SharedStore {
        self.store(&patient_for(Duration::from_secs(60)))
    }
}

/// All that may happen to a put, at whichever of its requests.
fn put_faults() -> Vec<HttpFault> {
    vec![
        HttpFault::CutRequest(0),
        HttpFault::CutRequest(70_000),
        HttpFault::DropAnswer,
        HttpFault::CutAnswer(0),
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", None),
        HttpFault::Answer(429, "TooManyRequests", None),
        HttpFault::Answer(408, "RequestTimeout", None),
        HttpFault::FlipBit(12_345),
        HttpFault::Delay(Duration::from_millis(200)),
    ]
}

#[test]
fn a_create_survives_every_fault() {
    let service = Service::start();
    let (store, straight) = (service.patient(), service.straight());
    for requests in [PUTS, Requests::BLOCKS, Requests::COMMITS] {
        for fault in put_faults() {
            for body in [bytes(200_000), bytes(BIG)] {
                let before = service.proxy.seen().len();
                service.proxy.fail(requests.clone(), 1, fault.clone());
                let etag = store
                    .put("name", &body, PutMode::Create)
                    .unwrap_or_else(|error| panic!("{fault:?} {requests:?}: {error:?}"));
                service.proxy.heal();
                assert_eq!(straight.head("name").unwrap().unwrap().etag, etag, "{fault:?}");
                assert!(straight.get("name", u64::MAX).unwrap() == body, "{fault:?}");
                assert!(service.proxy.seen().len() > before);
                straight.delete("name").unwrap();
                if body.len() < BIG && requests != PUTS {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_lost_answer_is_told_from_somebody_elses_work() {
    let service = Service::start();
    let (store, straight) = (service.patient(), service.straight());
    for (name, requests, body) in
        [("name", PUTS, bytes(1000)), ("big", Requests::COMMITS, bytes(BIG))]
    {
        // Ours: the answer to the create, then to the update, is lost.
        service.proxy.fail(requests.clone(), 1, HttpFault::DropAnswer);
        let first = store.put(name, &body, PutMode::Create).unwrap();
        assert_eq!(straight.head(name).unwrap().unwrap().etag, first);
        service.proxy.fail(requests.clone(), 1, HttpFault::DropAnswer);
        let second = store.put(name, &body, PutMode::Update(first.clone())).unwrap();
        assert_ne!(first, second);
        assert_eq!(straight.head(name).unwrap().unwrap().etag, second);
        // Another's: the first try fails without taking effect, and the second finds it taken.
        service.proxy.fail(requests.clone(), 1, HttpFault::Answer(500, "InternalError", None));
        let error = store.put(name, &body, PutMode::Create).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error:?}");
        service.proxy.fail(requests.clone(), 1, HttpFault::CutRequest(0));
        let error = store.put(name, &body, PutMode::Update(first)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Changed, "{error:?}");
        assert_eq!(straight.head(name).unwrap().unwrap().etag, second, "nothing was changed");
    }
}

#[test]
fn a_retry_repeats_one_block_only() {
    let service = Service::start();
    let store = service.patient();
    service.proxy.fail_later(Requests::BLOCKS, 1, 1, HttpFault::CutRequest(100_000));
    store.put("big", &bytes(BIG), PutMode::Create).unwrap();
    // 9 MiB in blocks of 4 MiB.
    assert_eq!(service.proxy.count(Requests::BLOCKS), 3 + 1);
    assert_eq!(service.proxy.count(Requests::COMMITS), 1);
}

#[test]
fn damage_on_the_way_is_noticed_by_the_service() {
    let service = Service::start();
    let store = service.patient();
    for (name, body) in [("name", bytes(1000)), ("big", bytes(BIG))] {
        let before = service.proxy.count(Requests("PUT", name));
        service.proxy.fail(Requests("PUT", name), 2, HttpFault::FlipBit(500));
        store.put(name, &body, PutMode::Create).unwrap();
        let requests = service.proxy.count(Requests("PUT", name)) - before;
        // One request, or three blocks and their list; and each damaged one was refused.
        assert_eq!(requests, if body.len() < BIG { 1 + 2 } else { 4 + 2 });
        assert!(service.straight().get(name, u64::MAX).unwrap() == body);
    }
}

#[test]
fn a_get_goes_on_where_it_broke() {
    let service = Service::start();
    let store = service.patient();
    let body = bytes(BIG);
    service.straight().put("name", &body, PutMode::Create).unwrap();
    for fault in [
        HttpFault::CutAnswer(0),
        HttpFault::CutAnswer(1_000_000),
        HttpFault::DropAnswer,
        HttpFault::CutRequest(0),
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", None),
        HttpFault::Answer(429, "TooManyRequests", None),
    ] {
        service.proxy.fail(GETS, 3, fault.clone());
        let got = store.get("name", BIG as u64);
        assert!(got.unwrap_or_else(|error| panic!("{fault:?}: {error:?}")) == body, "{fault:?}");
        service.proxy.heal();
    }
}

#[test]
fn a_get_that_is_overtaken_by_an_overwrite_reads_one_version() {
    let service = Service::start();
    let (store, straight) = (service.patient(), service.straight());
    let (old, new) = (vec![1; BIG], vec![2; BIG + 1]);
    straight.put("name", &old, PutMode::Create).unwrap();
    service.proxy.fail(GETS, 1, HttpFault::CutAnswer(3_000_000));
    service.proxy.fail_later(GETS, 0, 1, HttpFault::Delay(Duration::from_millis(1500)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Between the broken answer and the rest.
            while service.proxy.count(GETS) < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            straight.put("name", &new, PutMode::Overwrite).unwrap();
        });
        let got = store.get("name", u64::MAX).unwrap();
        assert!(got == old || got == new, "{} bytes, mixed", got.len());
    });
}

#[test]
fn what_the_service_asks_for_is_waited_for() {
    let service = Service::start();
    let store = service.patient();
    service.proxy.fail(Requests::ALL, 1, HttpFault::Answer(503, "ServerBusy", Some(2)));
    let started = Instant::now();
    assert_eq!(store.head("name").unwrap(), None);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    // Longer than we are ready to wait: told at once.
    service.proxy.fail(Requests::ALL, 1, HttpFault::Answer(503, "ServerBusy", Some(3600)));
    let started = Instant::now();
    let error = store.head("name").unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// Every call of the trait, with how it failed.
fn all_fail(store: &dyn Store) -> Vec<StoreErrorKind> {
    let mut none = |_| {};
    vec![
        store.put("name", b"1", PutMode::Create).unwrap_err().kind,
        store.put("name", b"1", PutMode::Overwrite).unwrap_err().kind,
        store.put("name", b"1", PutMode::Update(Etag("1".into()))).unwrap_err().kind,
        store.put("name", &bytes(BIG), PutMode::Create).unwrap_err().kind,
        store.get("name", 9).unwrap_err().kind,
        store.head("name").unwrap_err().kind,
        store.list("", &mut none).unwrap_err().kind,
        store.delete("name").unwrap_err().kind,
    ]
}

#[test]
fn a_service_that_never_works_ends_every_call() {
    let service = Service::start();
    let mut options = patient_for(Duration::from_millis(400));
    options.retry.answer = Duration::from_millis(150);
    // Blocks get what they need at this speed on top: next to nothing.
    options.retry.slowest_bytes_per_second = 1 << 30;
    let store = service.store(&options);
    for fault in [
        HttpFault::Freeze,
        HttpFault::DropAnswer,
        HttpFault::Answer(500, "InternalError", None),
        HttpFault::Answer(503, "ServerBusy", Some(0)),
    ] {
        service.proxy.fail(Requests::ALL, u32::MAX, fault.clone());
        let started = Instant::now();
        let kinds = all_fail(&*store);
        assert_eq!(kinds, [const { StoreErrorKind::Unavailable }; 8], "{fault:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "{fault:?} {:?}", started.elapsed());
        service.proxy.heal();
    }
}

#[test]
fn a_frozen_server_and_a_dead_one_end_every_call() {
    let mut service = Service::start();
    let mut options = patient_for(Duration::from_millis(500));
    options.create_containers = false;
    options.retry.slowest_bytes_per_second = 1 << 30;
    let store = open(&service.azurite.container_url("box"), &options).data;
    let patient = service.straight();
    patient.put("here", b"1", PutMode::Create).unwrap();
    service.azurite.pause();
    assert_eq!(all_fail(&*store), [const { StoreErrorKind::Unavailable }; 8]);
    service.azurite.resume();
    assert_eq!(patient.get("here", 9).unwrap(), b"1");
    service.azurite.kill_nine();
    assert_eq!(all_fail(&*store), [const { StoreErrorKind::Unavailable }; 8]);
    service.azurite.start_again();
    // The emulator forgets what it had in memory only; that the same store gets its answer counts.
    if let Err(error) = patient.head("here") {
        assert_eq!(error.kind, StoreErrorKind::NoSuchPlace, "{error:?}");
    }
}

#[test]
fn uploads_of_one_name_at_once_do_not_mix_their_blocks() {
    let service = Service::start();
    let mut options = patient_for(Duration::from_secs(60));
    options.upload.single_put_bytes = 0;
    options.upload.block_bytes = 50_000;
    let store = service.store(&options);
    service.proxy.fail_at_random(
        7,
        100,
        &[HttpFault::DropAnswer, HttpFault::CutRequest(10), HttpFault::Answer(500, "X", None)],
    );
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6_u8)
            .map(|i| {
                let store = &store;
                scope.spawn(move || store.put("contended", &[i; 200_000], PutMode::Create))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let won: Vec<usize> = (0..6).filter(|i| results[*i].is_ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error:?}");
    }
    let body = service.straight().get("contended", u64::MAX).unwrap();
    assert!(body == vec![won[0] as u8; 200_000], "the winner's bytes are there");
}
