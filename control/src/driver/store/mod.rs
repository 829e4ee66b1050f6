//! Where the state is kept. One seam, two engines: a redb file, and memory.
//!
//! What a store owes its caller:
//! 1. A commit is all or nothing. A [`Durability::Synced`] one is durable before it returns,
//!    with all that were committed before it. A [`Durability::Lazy`] one may be forgotten when
//!    the program or the machine ends; what is forgotten is always the newest.
//! 2. A conditional change ([`Change::SwapPrimary`], [`Change::DrawToken`],
//!    [`Change::Journal`] at a place that is taken) is checked against what is stored, not
//!    against what the caller believes, and refuses the whole commit.
//! 3. After an error other than a conflict the caller cannot know whether the commit took
//!    place; it reads again before it writes again.

mod memory;
mod redb;

use std::path::PathBuf;

use crate::logic::state::{Change, Conflict, State};

pub use self::{memory::MemoryStore, redb::RedbStore};

/// Keeps the state.
pub trait Store: Send + Sync + 'static {
    /// The state as it was last committed.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self) -> Result<State, StoreError>;

    /// Commits changes, all or none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a condition does not hold; then nothing is changed.
    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError>;
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything: it is on disk before it is acknowledged.
    Synced,
    /// Nothing yet: the next synced commit takes it along. For what is simply done again if
    /// it is forgotten, where a sync would keep requests waiting.
    Lazy,
}

/// What goes wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A condition of the commit does not hold.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The file cannot be opened.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file was written by another version.
    #[error("the store has schema {found}, this version reads schema {expected}")]
    Schema {
        /// What the file says.
        found: u64,
        /// What would be right.
        expected: u64,
    },
    /// A row is not what it should be.
    #[error("row {key} of table {table} of the store is unreadable")]
    Row {
        /// The table.
        table: &'static str,
        /// The row.
        key: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing the file failed.
    #[error("the store does not work")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}
