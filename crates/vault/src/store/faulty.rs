//! A decorator that makes a store fail as stores do, at a chosen call, for tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Etag, ObjectMeta, ObjectName, PutMode, SharedStore, Store, StoreError, StoreErrorKind,
};

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and fails as unavailable.
    FailBefore,
    /// The call takes effect, but its answer is lost: it fails as unavailable.
    FailAfter,
    /// No room is left: the call does nothing.
    NoSpace,
    /// The process dies before the call: it does nothing, and every later call fails.
    CrashBefore,
    /// The process dies after the call took effect; its answer and every later call fail.
    CrashAfter,
    /// One bit of what a get returns is wrong: this one, modulo the length.
    FlipBit(u64),
    /// A get returns only this many bytes.
    Truncate(usize),
}

/// Which calls an index counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// All of them.
    All,
    /// Puts and deletes.
    Writes,
    /// Gets.
    Gets,
}

/// The plan of faults and the count of calls, shared by all stores that one process would use.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Vec<(Calls, u64, Fault)>,
    random: Option<Random>,
    crashed: bool,
    all: u64,
    writes: u64,
    gets: u64,
}

#[derive(Debug)]
struct Random {
    state: u64,
    per_mille: u64,
}

impl Faults {
    /// No faults: counts only.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// One fault at the `index`-th (from 0) of `calls`.
    pub fn at(calls: Calls, index: u64, fault: Fault) -> Arc<Self> {
        Self::plan(vec![(calls, index, fault)])
    }

    /// Several faults.
    pub fn plan(plan: Vec<(Calls, u64, Fault)>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { plan, ..State::default() }) })
    }

    /// About `per_mille` of all calls fail as unavailable, half of them after they took effect;
    /// the same `seed` gives the same faults in the same calls.
    pub fn seeded(seed: u64, per_mille: u64) -> Arc<Self> {
        let random = Some(Random { state: seed, per_mille });
        Arc::new(Self { state: Mutex::new(State { random, ..State::default() }) })
    }

    /// How many of `calls` were made so far, failed ones too.
    pub fn count(&self, calls: Calls) -> u64 {
        let state = self.lock();
        match calls {
            Calls::All => state.all,
            Calls::Writes => state.writes,
            Calls::Gets => state.gets,
        }
    }

    /// Whether a crash has happened.
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, call: Calls) -> Option<Fault> {
        let mut state = self.lock();
        let index_all = state.all;
        state.all += 1;
        let counter = match call {
            Calls::All => None,
            Calls::Writes => Some(&mut state.writes),
            Calls::Gets => Some(&mut state.gets),
        };
        let index = counter.map(|counter| {
            *counter += 1;
            *counter - 1
        });
        if state.crashed {
            return Some(Fault::CrashBefore);
        }
        let planned = state.plan.iter().find(|(calls, at, _)| {
            *calls == Calls::All && *at == index_all || *calls == call && Some(*at) == index
        });
        let fault = planned.map(|(_, _, fault)| *fault).or_else(|| {
            let roll = state.random.as_mut()?;
            let value = roll.next();
            (value % 1000 < roll.per_mille).then_some(if value >> 32 & 1 == 0 {
                Fault::FailBefore
            } else {
                Fault::FailAfter
            })
        });
        if matches!(fault, Some(Fault::CrashBefore | Fault::CrashAfter)) {
            state.crashed = true;
        }
        fault
    }
}

impl Random {
    /// SplitMix64: good enough to spread faults, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A store that fails where [`Faults`] say.
#[derive(Debug)]
pub struct FaultyStore {
    inner: SharedStore,
    faults: Arc<Faults>,
}

impl FaultyStore {
    /// Wraps `inner`.
    pub fn wrap(inner: SharedStore, faults: Arc<Faults>) -> SharedStore {
        Arc::new(Self { inner, faults })
    }

    fn call<T>(
        &self,
        calls: Calls,
        operation: &'static str,
        object: &str,
        call: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<(T, Option<Fault>), StoreError> {
        let fail = |kind| {
            let source = Some("injected fault".into());
            let location = self.inner.location();
            Err(StoreError { operation, object: object.to_owned(), location, kind, source })
        };
        match self.faults.next(calls) {
            Some(Fault::FailBefore) => fail(StoreErrorKind::Unavailable),
            Some(Fault::NoSpace) => fail(StoreErrorKind::NoSpace),
            Some(Fault::CrashBefore) => fail(StoreErrorKind::Other),
            Some(Fault::FailAfter) => call().and_then(|_| fail(StoreErrorKind::Unavailable)),
            Some(Fault::CrashAfter) => call().and_then(|_| fail(StoreErrorKind::Other)),
            fault @ (None | Some(Fault::FlipBit(_) | Fault::Truncate(_))) => {
                call().map(|value| (value, fault))
            }
        }
    }
}

impl Store for FaultyStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        let operation = mode.operation();
        self.call(Calls::Writes, operation, name, || self.inner.put(name, body, mode))
            .map(|(etag, _)| etag)
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let (mut body, fault) =
            self.call(Calls::Gets, "read", name, || self.inner.get(name, limit_bytes))?;
        match fault {
            Some(Fault::FlipBit(bit)) if !body.is_empty() => {
                let bit = bit % (body.len() as u64 * 8);
                body[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Some(Fault::Truncate(length)) => body.truncate(length),
            _ => {}
        }
        Ok(body)
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        self.call(Calls::All, "stat", name, || self.inner.head(name)).map(|(meta, _)| meta)
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        self.call(Calls::All, "list", prefix, || self.inner.list(prefix, each)).map(|_| ())
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        self.call(Calls::Writes, "delete", name, || self.inner.delete(name)).map(|_| ())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.call(Calls::All, "sync", "", || self.inner.sync()).map(|_| ())
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryStore, conformance};
    use super::*;

    fn store(faults: &Arc<Faults>) -> SharedStore {
        FaultyStore::wrap(Arc::new(MemoryStore::new()), Arc::clone(faults))
    }

    #[test]
    fn without_faults_it_keeps_the_contract() {
        conformance::run(&|| store(&Faults::none()));
    }

    #[test]
    fn a_lost_answer_takes_effect() {
        let faults = Faults::at(Calls::Writes, 1, Fault::FailAfter);
        let store = store(&faults);
        store.put("a", b"1", PutMode::Create).unwrap();
        let error = store.put("b", b"2", PutMode::Create).unwrap_err();
        assert!(error.is_transient());
        assert_eq!(store.get("b", 9).unwrap(), b"2");
        assert_eq!(faults.count(Calls::Writes), 2);
        assert_eq!(faults.count(Calls::All), 3);
    }

    #[test]
    fn after_a_crash_nothing_works() {
        for (fault, there) in [(Fault::CrashBefore, false), (Fault::CrashAfter, true)] {
            let inner: SharedStore = Arc::new(MemoryStore::new());
            let faults = Faults::at(Calls::All, 0, fault);
            let store = FaultyStore::wrap(Arc::clone(&inner), Arc::clone(&faults));
            assert!(store.put("a", b"1", PutMode::Create).is_err());
            assert!(store.head("a").is_err());
            assert!(faults.crashed());
            assert_eq!(inner.head("a").unwrap().is_some(), there);
        }
    }

    #[test]
    fn gets_can_be_damaged() {
        let faults = Faults::plan(vec![
            (Calls::Gets, 0, Fault::FlipBit(9)),
            (Calls::Gets, 1, Fault::Truncate(1)),
            (Calls::All, 4, Fault::NoSpace),
        ]);
        let store = store(&faults);
        store.put("a", &[0, 0], PutMode::Create).unwrap();
        assert_eq!(store.get("a", 9).unwrap(), [0, 2]);
        assert_eq!(store.get("a", 9).unwrap(), [0]);
        assert_eq!(store.get("a", 9).unwrap(), [0, 0]);
        assert_eq!(store.delete("a").unwrap_err().kind, StoreErrorKind::NoSpace);
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let failures = |seed| -> Vec<bool> {
            let store = store(&Faults::seeded(seed, 200));
            (0..500).map(|_| store.head("a").is_err()).collect()
        };
        assert_eq!(failures(1), failures(1));
        assert_ne!(failures(1), failures(2));
        let count = failures(3).into_iter().filter(|failed| *failed).count();
        assert!((50..150).contains(&count), "{count} of 500 at 200 per mille");
    }
}
