//! What the program logs, changed while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, reload::Handle};

/// A handle on the filter.
#[derive(Debug, Clone)]
pub struct Log {
    handle: Handle<EnvFilter, Registry>,
    /// The filter now, and whether it was changed.
    now: Arc<Mutex<(String, bool)>>,
}

/// The filter is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{filter}' is not a log filter ({reason}): write a level such as debug, or targets with levels such as flocker_proxy=debug"
)]
pub struct InvalidFilter {
    /// What was given.
    pub filter: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Log {
    /// Behind this handle is this filter.
    #[must_use]
    pub fn new(handle: Handle<EnvFilter, Registry>, filter: String) -> Self {
        Self {
            handle,
            now: Arc::new(Mutex::new((filter, false))),
        }
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> String {
        self.lock().0.clone()
    }

    /// The filter, if it was changed since the start.
    #[must_use]
    pub fn changed(&self) -> Option<String> {
        let now = self.lock();
        now.1.then(|| now.0.clone())
    }

    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// It is none.
    pub fn set(&self, filter: &str) -> Result<(), InvalidFilter> {
        let invalid = |reason: String| InvalidFilter {
            filter: filter.to_owned(),
            reason,
        };
        let parsed = EnvFilter::try_new(filter).map_err(|error| invalid(error.to_string()))?;
        self.handle
            .reload(parsed)
            .map_err(|error| invalid(error.to_string()))?;
        let before = std::mem::replace(&mut *self.lock(), (filter.to_owned(), true));
        tracing::info!(
            before = before.0,
            now = filter,
            "the log filter was changed"
        );
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (String, bool)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
