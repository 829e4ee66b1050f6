//! A store in memory: what it has committed survives the control that wrote it, for as long
//! as someone holds the store; nothing that was not committed does.

use std::sync::{Mutex, PoisonError};

use super::{Store, StoreError};
use crate::logic::state::{Change, State};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    committed: Mutex<State>,
}

impl Store for MemoryStore {
    fn read(&self) -> Result<State, StoreError> {
        let committed = self.committed.lock();
        Ok(committed.unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut next = committed.clone();
        for change in changes {
            next.apply(change)?;
        }
        *committed = next;
        Ok(())
    }
}
