//! What every store must do. Panics with the name of the promise that is broken.
//!
//! For the tests of stores, in this crate and in others.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use super::{Etag, PutMode, SharedStore, StoreError, StoreErrorKind};

const THREADS: usize = 8;

/// Runs all checks, each on a fresh, empty store that `make` makes.
pub fn run(make: &dyn Fn() -> SharedStore) {
    puts_and_gets(make());
    creates_once(make());
    overwrites_and_updates(make());
    reads_are_limited(make());
    lists_in_order(make());
    lists_by_prefix(make());
    deletes(make());
    refuses_bad_names(make());
    one_concurrent_create_wins(make());
    one_concurrent_update_wins(make());
    readers_never_see_half(make());
    folders_come_and_go(make());
    make().sync().expect("an empty store syncs");
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.expect_err("this call must fail").kind
}

fn names(store: &SharedStore, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    store.list(prefix, &mut |meta| names.push(meta.name)).expect("list");
    names
}

fn create(store: &SharedStore, name: &str, body: &[u8]) -> Etag {
    store
        .put(name, body, PutMode::Create)
        .unwrap_or_else(|error| panic!("create {name}: {error:?}"))
}

fn puts_and_gets(store: SharedStore) {
    for (name, body) in [
        ("empty", Vec::new()),
        ("one", vec![0]),
        ("deep/er/and/deeper", b"x".repeat(1000)),
        ("big", (0..3_000_000_u32).map(|i| (i * 7 % 251) as u8).collect()),
        ("UPPER_lower-1.2.json", vec![255; 3]),
    ] {
        let etag = create(&store, name, &body);
        assert_eq!(store.get(name, body.len() as u64).expect("get"), body, "{name}");
        let meta = store.head(name).expect("head").expect("head sees what was put");
        assert_eq!((meta.name.as_str(), meta.bytes), (name, body.len() as u64));
        assert_eq!(meta.etag, etag, "put and head tell the same etag");
        let mut listed = None;
        store.list(name, &mut |meta| listed = Some(meta)).expect("list");
        assert_eq!(listed, Some(meta), "list and head tell the same");
    }
    assert_eq!(kind(store.get("not/there", 10)), StoreErrorKind::NotFound);
    assert_eq!(store.head("not/there").expect("head"), None);
    assert_eq!(store.head("deep/er").expect("head"), None, "a folder is no object");
    assert_eq!(kind(store.get("deep/er", 10)), StoreErrorKind::NotFound);
}

fn creates_once(store: SharedStore) {
    create(&store, "a/b", b"first");
    let result = store.put("a/b", b"second", PutMode::Create);
    assert_eq!(kind(result), StoreErrorKind::AlreadyExists);
    assert_eq!(store.get("a/b", 99).expect("get"), b"first", "a failed create changes nothing");
}

fn overwrites_and_updates(store: SharedStore) {
    let missing = store.put("x", b"0", PutMode::Update(Etag("1-2-3".to_owned())));
    assert_eq!(kind(missing), StoreErrorKind::Changed, "update of what is not there");
    let first = store.put("x", b"1", PutMode::Overwrite).expect("overwrite of nothing");
    let second = store.put("x", b"2", PutMode::Overwrite).expect("overwrite");
    assert_ne!(first, second, "every version has another etag");
    let stale = store.put("x", b"3", PutMode::Update(first));
    assert_eq!(kind(stale), StoreErrorKind::Changed, "update at an old version");
    assert_eq!(store.get("x", 9).expect("get"), b"2");
    let third = store.put("x", b"4", PutMode::Update(second)).expect("update");
    assert_eq!(store.get("x", 9).expect("get"), b"4");
    store.delete("x").expect("delete");
    let gone = store.put("x", b"5", PutMode::Update(third));
    assert_eq!(kind(gone), StoreErrorKind::Changed, "update of what was deleted");
    assert_eq!(store.head("x").expect("head"), None);
    let mut etags = BTreeSet::new();
    for _ in 0..50 {
        etags.insert(store.put("x", b"same", PutMode::Overwrite).expect("overwrite").0);
    }
    assert_eq!(etags.len(), 50, "versions made in quick succession have different etags");
}

fn reads_are_limited(store: SharedStore) {
    create(&store, "x", b"12345");
    assert_eq!(store.get("x", 5).expect("get of exactly the limit"), b"12345");
    let expected = StoreErrorKind::TooLarge { bytes: 5, limit_bytes: 4 };
    assert_eq!(kind(store.get("x", 4)), expected);
    assert_eq!(store.get("x", u64::MAX).expect("no limit"), b"12345");
}

fn lists_in_order(store: SharedStore) {
    // What a folder sorts differently from a blob container: `-` and `.` come before `/`.
    let all = ["B", "a-b/c", "a.b", "a/b/c", "a/b-c", "a0", "a/b.d/e", "b", "0/1", "_x"];
    for name in all {
        create(&store, name, b"");
    }
    let mut sorted: Vec<String> = all.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(names(&store, ""), sorted, "a list is in ascending byte order of names");
}

fn lists_by_prefix(store: SharedStore) {
    for name in ["a/b/1", "a/b/2", "a/bc/3", "a/c/4", "ab", "b/a"] {
        create(&store, name, b"");
    }
    for (prefix, expected) in [
        ("a/b/", vec!["a/b/1", "a/b/2"]),
        ("a/b", vec!["a/b/1", "a/b/2", "a/bc/3"]),
        ("a/", vec!["a/b/1", "a/b/2", "a/bc/3", "a/c/4"]),
        ("a", vec!["a/b/1", "a/b/2", "a/bc/3", "a/c/4", "ab"]),
        ("a/b/1", vec!["a/b/1"]),
        ("a/b/1/", vec![]),
        ("c", vec![]),
        ("c/d/", vec![]),
    ] {
        assert_eq!(names(&store, prefix), expected, "{prefix:?}");
    }
}

fn deletes(store: SharedStore) {
    create(&store, "a/b/c", b"1");
    create(&store, "a/d", b"2");
    store.delete("a/b/c").expect("delete");
    assert_eq!(names(&store, ""), ["a/d"]);
    store.delete("a/b/c").expect("delete of what is not there");
    store.delete("never/was").expect("delete of what never was");
    create(&store, "a/b/c", b"3");
    assert_eq!(store.get("a/b/c", 9).expect("get"), b"3", "a deleted name can be made again");
}

fn refuses_bad_names(store: SharedStore) {
    let long = "x".repeat(201);
    let many = "x/".repeat(500) + "x";
    for bad in [
        "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", ".hidden", "a/.b", "a b", "a\\b",
        "ä", "a\0b", "a\n", "a:b", "a%2fb", &long, &many,
    ] {
        assert_eq!(kind(store.put(bad, b"", PutMode::Create)), StoreErrorKind::BadName, "{bad:?}");
        assert_eq!(kind(store.put(bad, b"", PutMode::Overwrite)), StoreErrorKind::BadName);
        assert_eq!(kind(store.get(bad, 9)), StoreErrorKind::BadName, "{bad:?}");
        assert_eq!(kind(store.head(bad)), StoreErrorKind::BadName, "{bad:?}");
        assert_eq!(kind(store.delete(bad)), StoreErrorKind::BadName, "{bad:?}");
    }
    for bad in ["/", "/a", "a//", "..", "../", "a/../", ".", "a b"] {
        let result = store.list(bad, &mut |_| {});
        assert_eq!(kind(result), StoreErrorKind::BadName, "{bad:?}");
    }
    assert_eq!(names(&store, ""), Vec::<String>::new());
}

/// Runs `work` in all threads at once and returns what each returned.
fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(thread)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
    })
}

fn one_concurrent_create_wins(store: SharedStore) {
    for round in 0..10 {
        let name = format!("contended/{round}/name");
        let results = at_once(|thread| {
            let body = [thread as u8; 5000];
            store.put(&name, &body, PutMode::Create)
        });
        let mut winners = Vec::new();
        for (thread, result) in results.into_iter().enumerate() {
            match result {
                Ok(_) => winners.push(thread as u8),
                Err(error) => assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "exactly one create wins");
        assert_eq!(store.get(&name, 9999).expect("get"), [winners[0]; 5000], "and it is there");
    }
}

fn one_concurrent_update_wins(store: SharedStore) {
    let mut etag = create(&store, "counter", b"0");
    for _ in 0..10 {
        let results =
            at_once(|thread| store.put("counter", &[thread as u8], PutMode::Update(etag.clone())));
        let won: Vec<Etag> = results
            .into_iter()
            .filter_map(|result| match result {
                Ok(etag) => Some(etag),
                Err(error) => {
                    assert_eq!(error.kind, StoreErrorKind::Changed, "{error}");
                    None
                }
            })
            .collect();
        assert_eq!(won.len(), 1, "exactly one update of a version wins");
        etag = won.into_iter().next().expect("one");
    }
}

fn readers_never_see_half(store: SharedStore) {
    const LENGTH: usize = 100_000;
    store.put("whole", &[0; LENGTH], PutMode::Overwrite).expect("put");
    at_once(|thread| {
        for round in 0..20_u8 {
            if thread < 2 {
                let body = [round; LENGTH];
                store.put("whole", &body, PutMode::Overwrite).expect("overwrite");
            } else {
                let body = store.get("whole", LENGTH as u64).expect("get");
                let whole = body.len() == LENGTH && body.iter().all(|byte| *byte == body[0]);
                assert!(whole, "a reader sees all of one put");
            }
        }
    });
}

fn folders_come_and_go(store: SharedStore) {
    let store = &Arc::clone(&store);
    at_once(|thread| {
        for round in 0..30 {
            let name = format!("shared/folder/{thread}-{round}");
            create(store, &name, b"x");
            assert_eq!(store.get(&name, 9).expect("get"), b"x");
            store.delete(&name).expect("delete");
        }
    });
    assert_eq!(names(store, ""), Vec::<String>::new());
}
