//! A store that outlasts outages: who holds a snapshot shall not lose it because the vault is away
//! for longer than the store itself tries again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flexkeep_vault::store::{Etag, ObjectMeta, PutMode, SharedStore, Store, StoreError};
use flexkeep_vault::{Vault, VaultError};

/// How long to wait before a call is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is asked meanwhile whether there is still a reason to wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether there is no reason to wait any more.
pub(super) type GivenUp = Arc<dyn Fn() -> bool + Send + Sync>;

/// The same vault, each of whose calls is made again while what it met may pass, for as long as
/// `limit`, and unless it is `given_up`. Calls of a lane can be: what they create has one content,
/// or is looked for by who finds it created.
pub(super) fn vault(
    vault: &Vault,
    limit: Duration,
    given_up: &GivenUp,
) -> Result<Vault, VaultError> {
    let patient = |store: &SharedStore| -> SharedStore {
        Arc::new(Patient { store: Arc::clone(store), limit, given_up: Arc::clone(given_up) })
    };
    Vault::with_stores(patient(vault.data()), patient(vault.runs()))
}

struct Patient {
    store: SharedStore,
    limit: Duration,
    given_up: GivenUp,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Patient {
    fn outlast<T>(&self, call: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut until = None;
        loop {
            let error = match call() {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            if until.is_none() {
                tracing::warn!("{}; waiting for it", crate::error::chain(&error));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.limit);
            let next = Instant::now() + PAUSE;
            while Instant::now() < next {
                if (self.given_up)() || Instant::now() >= until {
                    return Err(error);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

impl Store for Patient {
    fn put(&self, name: &str, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        self.outlast(|| self.store.put(name, body, mode.clone()))
    }

    fn get(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.outlast(|| self.store.get(name, limit_bytes))
    }

    fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.outlast(|| self.store.head(name))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectMeta)) -> Result<(), StoreError> {
        // What was listed before it broke is not listed again.
        let last = std::cell::RefCell::new(None::<String>);
        let each = std::cell::RefCell::new(each);
        self.outlast(|| {
            self.store.list(prefix, &mut |object| {
                let mut last = last.borrow_mut();
                if last.as_ref().is_none_or(|last| object.name > *last) {
                    *last = Some(object.name.clone());
                    (each.borrow_mut())(object);
                }
            })
        })
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.outlast(|| self.store.delete(name))
    }

    fn create_unsynced(&self, name: &str, body: &[u8]) -> Result<Etag, StoreError> {
        self.outlast(|| self.store.create_unsynced(name, body))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.outlast(|| self.store.sync())
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use flexkeep_vault::store::{MemoryStore, StoreErrorKind};

    use super::*;

    /// A store that is away for some calls.
    #[derive(Debug)]
    struct Away {
        store: MemoryStore,
        calls: AtomicU32,
        kind: StoreErrorKind,
    }

    impl Away {
        fn call<T>(&self, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
            let left = |calls: u32| calls.checked_sub(1);
            if self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_err() {
                return call();
            }
            Err(StoreError {
                operation: "read",
                object: "x".to_owned(),
                location: self.location(),
                kind: self.kind.clone(),
                source: None,
            })
        }
    }

    impl Store for Away {
        fn put(&self, name: &str, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
            self.call(|| self.store.put(name, body, mode))
        }

        fn get(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
            self.call(|| self.store.get(name, limit_bytes))
        }

        fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
            self.call(|| self.store.head(name))
        }

        fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectMeta)) -> Result<(), StoreError> {
            let mut first = true;
            self.store.list(prefix, &mut |object| {
                if std::mem::take(&mut first) {
                    each(object);
                }
            })?;
            self.call(|| self.store.list(prefix, each))
        }

        fn delete(&self, name: &str) -> Result<(), StoreError> {
            self.call(|| self.store.delete(name))
        }

        fn location(&self) -> String {
            self.store.location()
        }
    }

    fn patient(calls: u32, kind: StoreErrorKind, limit: Duration, given_up: bool) -> Patient {
        let store = Away { store: MemoryStore::new(), calls: AtomicU32::new(0), kind };
        for name in ["a", "b"] {
            store.put(name, b"1", PutMode::Create).unwrap();
        }
        store.calls.store(calls, Ordering::Relaxed);
        let given_up = AtomicBool::new(given_up);
        let given_up: GivenUp = Arc::new(move || given_up.load(Ordering::Relaxed));
        Patient { store: Arc::new(store), limit, given_up }
    }

    #[test]
    fn what_passes_is_waited_for_and_nothing_is_listed_twice() {
        let store = patient(1, StoreErrorKind::Unavailable, PAUSE * 9, false);
        assert_eq!(store.get("a", 9).unwrap(), b"1");
        let store = patient(1, StoreErrorKind::Unavailable, PAUSE * 9, false);
        let mut names = Vec::new();
        store.list("", &mut |object| names.push(object.name)).unwrap();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn it_is_not_waited_for_without_end_nor_for_what_stays() {
        let began = Instant::now();
        let store = patient(9, StoreErrorKind::PermissionDenied, PAUSE * 9, false);
        assert_eq!(store.get("a", 9).unwrap_err().kind, StoreErrorKind::PermissionDenied);
        let store = patient(9, StoreErrorKind::Unavailable, PAUSE * 9, true);
        assert!(store.head("a").unwrap_err().is_transient());
        let store = patient(9, StoreErrorKind::Unavailable, Duration::ZERO, false);
        assert!(store.delete("a").unwrap_err().is_transient());
        assert!(began.elapsed() < PAUSE, "{:?}", began.elapsed());
    }
}
