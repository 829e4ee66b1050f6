//! Primaries that nobody has confirmed: read-only and not mounted, until control says that they
//! are this node's.
//!
//! After a boot no dataset is mounted, and what its primary was, another node may be by now. So
//! an agent that starts sets every primary that it finds unmounted read-only. A lease that names
//! the volume under its very epoch is the confirmation; so is a start of its app, which brings
//! the epoch too. The same goes for what a fence has taken away.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use flocker_api::{agent::OwnedVolume, name::VolumeId, volume::Role};

use super::volumes::Volumes;
use crate::error::VolumeError;

/// Which primaries wait for a confirmation.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeSet<VolumeId>,
    /// How often the node had fenced itself when this was looked at.
    fences: u64,
}

impl Confirmations {
    /// Finds them, and makes sure that they are read-only.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub(crate) async fn seal(&self, volumes: &Volumes) -> Result<(), VolumeError> {
        let mut waiting = BTreeSet::new();
        for copy in volumes.storage().list().await? {
            if copy.role == Role::Primary && copy.mounted_at.is_none() {
                volumes.storage().seal(copy.id).await?;
                waiting.insert(copy.id);
            }
        }
        if !waiting.is_empty() {
            tracing::info!(
                volumes = waiting.len(),
                "primaries are read-only until control confirms them"
            );
        }
        self.lock().waiting = waiting;
        Ok(())
    }

    /// Makes those of these volumes writable again that wait for it.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub(crate) async fn confirm(
        &self,
        volumes: &Volumes,
        owned: &[OwnedVolume],
        fences: u64,
    ) -> Result<(), VolumeError> {
        let new_fence = std::mem::replace(&mut self.lock().fences, fences) != fences;
        if new_fence {
            self.seal(volumes).await?;
        }
        let waiting = self.lock().waiting.clone();
        for one in owned.iter().filter(|one| waiting.contains(&one.id)) {
            if volumes.remount(one.id, one.epoch).await? {
                tracing::info!(volume = %one.id, epoch = %one.epoch, "confirmed: writable again");
            }
            self.lock().waiting.remove(&one.id);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
