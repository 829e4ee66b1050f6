//! The table that is served: the one cell that is read without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, cache::Cache};

use crate::logic::session::{Table, Tables};

/// The cell.
#[derive(Debug, Clone)]
pub struct Live(Arc<ArcSwap<Table>>);

impl Live {
    /// A cell with this table in it.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(table)))
    }

    /// The table.
    #[must_use]
    pub fn load(&self) -> Arc<Table> {
        self.0.load_full()
    }

    /// Serves another table. Only [`super::edge::Edge`] calls this, under its lock.
    pub fn publish(&self, table: Table) {
        self.0.store(Arc::new(table));
    }

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

/// One thread's view: a load costs one atomic read unless the table has changed.
///
/// The read is relaxed; what orders it is the gate. A table is published before its gates are
/// resumed, and whoever is admitted after that has synchronised with the resume.
#[derive(Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Table>>, Arc<Table>>);

impl Tables for Reader {
    fn current(&mut self) -> &Table {
        self.0.load()
    }
}
