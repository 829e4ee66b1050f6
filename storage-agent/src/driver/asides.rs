//! What the node keeps aside of its volumes: made where a copy has to go back, listed, discarded.

#![expect(
    clippy::disallowed_methods,
    reason = "what is put aside is named by the time at which it is"
)]

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    aside::{Aside, AsideCause, AsideKey, CommonSnapshot},
    name::VolumeId,
    volume::{Guid, Snapshot},
};

use super::{index::Entry, storage::LocalCopy, volumes::Volumes};
use crate::{
    error::VolumeError,
    logic::aside::{Note, cause},
    metrics::AsideCounts,
};

/// What is known to be kept aside, and how often something was.
#[derive(Debug, Default)]
pub(super) struct Asides {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: Vec<Aside>,
    counts: AsideCounts,
}

impl Asides {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volumes {
    /// Puts aside what a copy has after a snapshot, and takes the copy back to that; without a
    /// snapshot the whole copy. What is to be kept and why is told by the copy, unless a reason is
    /// given. `None` where nothing was written after it.
    ///
    /// The caller holds the volume's lock, has unmounted the copy, and looks again afterwards at
    /// what it is.
    pub(crate) async fn put_aside(
        &self,
        entry: &Entry,
        copy: &LocalCopy,
        common: Option<&Snapshot>,
        reason: Option<AsideCause>,
    ) -> Result<Option<Aside>, VolumeError> {
        let (told, epoch) = cause(common, copy.wrote_under(), copy.epoch);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        let note = Note {
            key: AsideKey {
                cause: reason.unwrap_or(told),
                epoch,
                micros: u64::try_from(micros).unwrap_or(u64::MAX),
            },
            node: self.node().clone(),
            name: copy.name.clone(),
            common: common.map(|common| CommonSnapshot {
                name: common.name.clone(),
                guid: common.guid,
            }),
        };
        entry.forget();
        let kept = self.storage().keep_aside(copy, &note).await;
        entry.forget();
        let kept = kept?;
        let mut inner = self.asides_known().lock();
        match &kept {
            Some(aside) => {
                tracing::warn!(
                    volume = %copy.id, name = %copy.name, aside = %aside.key,
                    bytes = aside.written_bytes, cause = %aside.cause, epoch = %aside.epoch,
                    "writes that the primary lacks are kept aside"
                );
                *inner.counts.made.entry(aside.cause).or_default() += 1;
                inner.known.push(aside.clone());
            }
            None => {
                tracing::warn!(
                    volume = %copy.id, name = %copy.name,
                    "a copy went back to its newest common snapshot; nothing was written after it"
                );
                inner.counts.taken_back += 1;
            }
        }
        Ok(kept)
    }

    /// Finishes what a former agent has left, and learns what is kept.
    pub(super) async fn take_up_asides(&self) -> Result<(), VolumeError> {
        for id in self.storage().finish_asides().await? {
            tracing::info!(volume = %id, "finished keeping aside what only this node has");
            self.entry(id).forget();
        }
        let known = self.storage().asides().await?;
        self.asides_known().lock().known = known;
        Ok(())
    }

    /// What is kept aside on this node, the oldest first.
    pub fn asides(&self) -> Vec<Aside> {
        let mut known = self.asides_known().lock().known.clone();
        known.sort_by_key(|aside| (aside.key.micros, aside.volume));
        known
    }

    pub(crate) fn aside_counts(&self) -> AsideCounts {
        self.asides_known().lock().counts.clone()
    }

    /// The snapshots of a volume on which something that is kept aside depends.
    pub(super) fn pinned_by_asides(&self, id: VolumeId) -> Vec<Guid> {
        let inner = self.asides_known().lock();
        let of_volume = inner.known.iter().filter(|aside| aside.volume == id);
        of_volume
            .filter_map(|aside| Some(aside.common.as_ref()?.guid))
            .collect()
    }

    /// One of them.
    pub(crate) fn aside(&self, id: VolumeId, key: AsideKey) -> Option<Aside> {
        let inner = self.asides_known().lock();
        let mut known = inner.known.iter();
        known.find(|a| a.volume == id && a.key == key).cloned()
    }

    /// Destroys what is kept aside, for good; what is not there is success.
    ///
    /// # Errors
    /// When somebody uses it.
    pub async fn discard_aside(&self, id: VolumeId, key: AsideKey) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let Some(aside) = self.aside(id, key) else {
            return Ok(());
        };
        self.storage().discard_aside(&aside).await?;
        let mut inner = self.asides_known().lock();
        inner.known.retain(|a| !(a.volume == id && a.key == key));
        drop(inner);
        tracing::info!(volume = %id, aside = %key, "what was kept aside is discarded");
        self.tidy_later(id);
        Ok(())
    }
}
