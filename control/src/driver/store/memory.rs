//! A store in memory: what was committed survives the control that wrote it, for as long as
//! someone holds the store. [`MemoryStore::crash`] forgets what was not synced.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Durability, Store, StoreError};
use crate::logic::state::{Change, State};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    committed: State,
    synced: State,
}

impl MemoryStore {
    /// Forgets everything since the last synced commit, as a file does when its program or its
    /// machine ends.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.committed = inner.synced.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn read(&self) -> Result<State, StoreError> {
        Ok(self.lock().committed.clone())
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let mut next = inner.committed.clone();
        for change in changes {
            next.apply(change)?;
        }
        if durability == Durability::Synced {
            inner.synced = next.clone();
        }
        inner.committed = next;
        Ok(())
    }
}
