//! The one writer of the store, and the state that everyone reads.
//!
//! Readers take the current state without waiting for anything. Writers queue; each sees the
//! state that the one before it committed. What readers see has been committed.

use std::sync::{Arc, PoisonError, RwLock};

use flocker_api::gate::Token;
use tokio::sync::{Mutex, watch};

use super::store::{Durability, Store, StoreError};
use crate::logic::state::{Change, State};

/// The store with its current state.
pub struct Ledger {
    store: Arc<dyn Store>,
    current: RwLock<Arc<State>>,
    /// Held while a commit is under way. `true`: the outcome of one is unknown and the store
    /// must be read before the next.
    writer: Mutex<bool>,
    commits: watch::Sender<u64>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Reads the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let state = store.read()?;
        Ok(Self {
            store,
            current: RwLock::new(Arc::new(state)),
            writer: Mutex::new(false),
            commits: watch::Sender::new(0),
        })
    }

    /// The state as last committed.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Tells of each commit.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Commits changes.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Arc<State>, StoreError> {
        self.transact(|_| Ok::<_, StoreError>(changes)).await
    }

    /// Commits the changes that `decide` makes of the newest state; nobody else writes between.
    ///
    /// # Errors
    /// What `decide` says, or as [`Store::commit`].
    pub async fn transact<E: From<StoreError>>(
        &self,
        decide: impl FnOnce(&State) -> Result<Vec<Change>, E>,
    ) -> Result<Arc<State>, E> {
        self.transact_as(Durability::Synced, decide).await
    }

    /// [`Ledger::transact`] that says what the commit must survive.
    ///
    /// # Errors
    /// As [`Ledger::transact`].
    pub async fn transact_as<E: From<StoreError>>(
        &self,
        durability: Durability,
        decide: impl FnOnce(&State) -> Result<Vec<Change>, E>,
    ) -> Result<Arc<State>, E> {
        let mut in_doubt = self.writer.lock().await;
        if *in_doubt {
            self.publish(self.on_store(Store::read).await?);
            *in_doubt = false;
        }
        let current = self.state();
        let changes = decide(&current)?;
        if changes.is_empty() {
            return Ok(current);
        }
        let mut next = State::clone(&current);
        for change in &changes {
            next.apply(change).map_err(StoreError::from)?;
        }
        *in_doubt = true;
        let committed = self
            .on_store(move |store| store.commit(&changes, durability))
            .await;
        match committed {
            Ok(()) => {
                *in_doubt = false;
                Ok(self.publish(next))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Draws a pause token newer than all drawn before and than `above`.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn draw_token(&self, above: Token) -> Result<Token, StoreError> {
        let state = self
            .transact(|state| {
                let token = Token(state.token.max(above).0 + 1);
                Ok::<_, StoreError>(vec![Change::DrawToken { token }])
            })
            .await?;
        Ok(state.token)
    }

    /// Runs what waits for the disk where it keeps nobody from working.
    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&*store)).await;
        done.map_err(|error| StoreError::Storage(error.into()))?
    }

    fn publish(&self, next: State) -> Arc<State> {
        let next = Arc::new(next);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(&next);
        drop(current);
        self.commits.send_modify(|commits| *commits += 1);
        next
    }
}
