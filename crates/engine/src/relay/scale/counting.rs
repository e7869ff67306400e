//! A store that counts what is asked of it, and one whose journals are made when they are read.

use std::sync::{Arc, Mutex, PoisonError};

use flexkeep_vault::store::{
    Etag, ObjectMeta, ObjectName, PutMode, SharedStore, Store, StoreError,
};

/// Names that one list call gives, as Azure's at most.
const PAGE: u64 = 5000;

/// What was asked of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) puts: u64,
    pub(crate) gets: u64,
    pub(crate) heads: u64,
    /// List calls, of at most [`PAGE`] names each.
    pub(crate) lists: u64,
    /// Names that they gave.
    pub(crate) listed: u64,
    pub(crate) deletes: u64,
    pub(crate) bytes_put: u64,
    pub(crate) bytes_got: u64,
}

impl Calls {
    /// Each count with its name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("puts", self.puts),
            ("gets", self.gets),
            ("heads", self.heads),
            ("lists", self.lists),
            ("listed", self.listed),
            ("deletes", self.deletes),
            ("bytes_put", self.bytes_put),
            ("bytes_got", self.bytes_got),
        ]
    }
}

/// Counts the calls of another store.
#[derive(Debug)]
pub(crate) struct CountingStore {
    inner: SharedStore,
    calls: Mutex<Calls>,
}

impl CountingStore {
    pub(crate) fn new(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self { inner, calls: Mutex::default() })
    }

    /// The calls since the last time.
    pub(crate) fn take(&self) -> Calls {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, count: impl FnOnce(&mut Calls)) {
        count(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Store for CountingStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        self.count(|calls| {
            calls.puts += 1;
            calls.bytes_put += body.len() as u64;
        });
        self.inner.put(name, body, mode)
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let body = self.inner.get(name, limit_bytes);
        self.count(|calls| {
            calls.gets += 1;
            calls.bytes_got += body.as_ref().map_or(0, |body| body.len() as u64);
        });
        body
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        self.count(|calls| calls.heads += 1);
        self.inner.head(name)
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        let mut names = 0u64;
        let result = self.inner.list(prefix, &mut |meta| {
            names += 1;
            each(meta);
        });
        self.count(|calls| {
            calls.lists += names.div_ceil(PAGE).max(1);
            calls.listed += names;
        });
        result
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        self.count(|calls| calls.deletes += 1);
        self.inner.delete(name)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

/// Makes the body of an object when it is read, where it has one.
pub(crate) type Make = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A store with more objects than there is memory for: some are made when they are read.
pub(crate) struct MadeStore {
    pub(crate) inner: SharedStore,
    pub(crate) make: Make,
}

impl std::fmt::Debug for MadeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MadeStore({:?})", self.inner)
    }
}

impl Store for MadeStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        self.inner.put(name, body, mode)
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        (self.make)(name).map_or_else(|| self.inner.get(name, limit_bytes), Ok)
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(name)
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, each)
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        self.inner.delete(name)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
