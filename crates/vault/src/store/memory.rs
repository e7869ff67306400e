//! A store in memory, for tests and dry runs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    Etag, ObjectMeta, ObjectName, PutMode, Store, StoreError, StoreErrorKind, is_valid_name,
    is_valid_prefix,
};

/// Keeps the contract but for durability: it is gone with the process.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    by_name: BTreeMap<String, (u64, Vec<u8>)>,
    /// Puts so far; the etag of an object is the number of its put.
    puts: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        // No code that can panic runs between two changes that belong together.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(operation: &'static str, object: &str, kind: StoreErrorKind) -> StoreError {
        let location = "memory".to_owned();
        StoreError { operation, object: object.to_owned(), location, kind, source: None }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.lock().by_name.len())
    }
}

fn etag(put: u64) -> Etag {
    Etag(put.to_string())
}

impl Store for MemoryStore {
    fn put(&self, name: ObjectName<'_>, body: &[u8], mode: PutMode) -> Result<Etag, StoreError> {
        let fail = |kind| Err(Self::error(mode.operation(), name, kind));
        if !is_valid_name(name) {
            return fail(StoreErrorKind::BadName);
        }
        let mut objects = self.lock();
        let present = objects.by_name.get(name).map(|(put, _)| etag(*put));
        match (&mode, present) {
            (PutMode::Create, Some(_)) => return fail(StoreErrorKind::AlreadyExists),
            (PutMode::Update(wanted), present) if present.as_ref() != Some(wanted) => {
                return fail(StoreErrorKind::Changed);
            }
            _ => {}
        }
        objects.puts += 1;
        let put = objects.puts;
        objects.by_name.insert(name.to_owned(), (put, body.to_vec()));
        Ok(etag(put))
    }

    fn get(&self, name: ObjectName<'_>, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let fail = |kind| Err(Self::error("read", name, kind));
        if !is_valid_name(name) {
            return fail(StoreErrorKind::BadName);
        }
        match self.lock().by_name.get(name) {
            None => fail(StoreErrorKind::NotFound),
            Some((_, body)) if body.len() as u64 > limit_bytes => {
                fail(StoreErrorKind::TooLarge { bytes: body.len() as u64, limit_bytes })
            }
            Some((_, body)) => Ok(body.clone()),
        }
    }

    fn head(&self, name: ObjectName<'_>) -> Result<Option<ObjectMeta>, StoreError> {
        if !is_valid_name(name) {
            return Err(Self::error("stat", name, StoreErrorKind::BadName));
        }
        Ok(self.lock().by_name.get(name).map(|(put, body)| ObjectMeta {
            name: name.to_owned(),
            bytes: body.len() as u64,
            etag: etag(*put),
        }))
    }

    fn list(
        &self,
        prefix: ObjectName<'_>,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), StoreError> {
        if !is_valid_prefix(prefix) {
            return Err(Self::error("list", prefix, StoreErrorKind::BadName));
        }
        let listed: Vec<ObjectMeta> = self
            .lock()
            .by_name
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, (put, body))| ObjectMeta {
                name: name.clone(),
                bytes: body.len() as u64,
                etag: etag(*put),
            })
            .collect();
        // Outside the lock: `each` may call the store.
        listed.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: ObjectName<'_>) -> Result<(), StoreError> {
        if !is_valid_name(name) {
            return Err(Self::error("delete", name, StoreErrorKind::BadName));
        }
        self.lock().by_name.remove(name);
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::conformance;
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        conformance::run(&|| Arc::new(MemoryStore::new()));
    }
}
