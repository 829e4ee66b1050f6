//! What the node keeps aside of its volumes: made where a copy has to go back, listed, discarded.

#![expect(
    clippy::disallowed_methods,
    reason = "what is put aside is named by the time at which it is"
)]

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    agent::CreateVolume,
    aside::{
        Aside, AsideCause, AsideDetails, AsideKey, CommonSnapshot, PATHS_MAX, Resolve, Resolved,
        SetAside,
    },
    name::{VolumeId, VolumeName},
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
};

use super::{
    index::Entry,
    storage::LocalCopy,
    volumes::{Volumes, fresh},
};
use crate::{
    error::VolumeError,
    logic::aside::{Note, cause},
    metrics::AsideCounts,
};

/// What is known to be kept aside, and how often something was.
#[derive(Debug, Default)]
pub(super) struct Asides {
    inner: Mutex<Inner>,
    /// Held while something is put aside, or what was left half done is finished.
    making: tokio::sync::Mutex<()>,
    /// Held while one of them is looked at or resolved.
    busy: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    known: Vec<Aside>,
    counts: AsideCounts,
    /// An attempt has failed, and may have left something half done.
    unfinished: bool,
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
            volume: copy.id,
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
        let making = self.asides_known().making.lock().await;
        let kept = self.storage().keep_aside(copy, &note).await;
        drop(making);
        entry.forget();
        if kept.is_err() {
            self.asides_known().lock().unfinished = true;
        }
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

    /// Finishes what an attempt that failed has left half done, if one has: under its name a copy
    /// may be missing, and must not be taken for absent.
    pub(super) async fn finish_unfinished(&self) -> Result<(), VolumeError> {
        let unfinished = self.asides_known().lock().unfinished;
        if unfinished {
            let _making = self.asides_known().making.lock().await;
            self.take_up_asides().await?;
            self.asides_known().lock().unfinished = false;
        }
        Ok(())
    }

    /// Finishes what a former agent has left, and learns what is kept.
    pub(crate) async fn take_up_asides(&self) -> Result<(), VolumeError> {
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

    /// How many snapshots of each volume were kept at its last tidying only because something
    /// depends on them: what a peer has, what is kept aside, what was cloned or is being read.
    pub(crate) fn kept_for_others(&self) -> Vec<(VolumeId, usize)> {
        let all = self.entries().into_iter();
        let count = |entry: &Entry| entry.kept_for_others.load(Ordering::Relaxed);
        all.map(|(id, entry)| (id, count(&entry))).collect()
    }

    /// One of them.
    pub(crate) fn aside(&self, id: VolumeId, key: AsideKey) -> Option<Aside> {
        let inner = self.asides_known().lock();
        let mut known = inner.known.iter();
        known.find(|a| a.volume == id && a.key == key).cloned()
    }

    /// One of them, and what was changed.
    ///
    /// # Errors
    /// When there is none, or it cannot be looked at.
    pub async fn aside_details(
        &self,
        id: VolumeId,
        key: AsideKey,
        paths_max: usize,
    ) -> Result<AsideDetails, VolumeError> {
        let _busy = self.asides_known().busy.lock().await;
        let aside = self.aside(id, key).ok_or(VolumeError::NoAside(id, key))?;
        let paths_max = paths_max.min(PATHS_MAX);
        let changes = self.storage().aside_changes(&aside, paths_max).await?;
        Ok(AsideDetails { aside, changes })
    }

    /// Does with one of them what somebody has decided.
    ///
    /// # Errors
    /// When there is none, somebody uses it, or the name is taken.
    pub async fn resolve_aside(
        &self,
        id: VolumeId,
        key: AsideKey,
        how: Resolve,
    ) -> Result<Resolved, VolumeError> {
        match how {
            Resolve::Discard => {
                self.discard_aside(id, key).await?;
                Ok(Resolved { volume: None })
            }
            Resolve::Keep { name } => {
                let volume = self.keep_as_volume(id, key, name).await?;
                Ok(Resolved {
                    volume: Some(volume),
                })
            }
        }
    }

    /// Destroys what is kept aside, for good; what is not there is success.
    ///
    /// # Errors
    /// When somebody uses it.
    pub async fn discard_aside(&self, id: VolumeId, key: AsideKey) -> Result<(), VolumeError> {
        let _busy = self.asides_known().busy.lock().await;
        let Some(aside) = self.aside(id, key) else {
            return Ok(());
        };
        self.storage().discard_aside(&aside).await?;
        self.drop_aside(id, key);
        tracing::info!(volume = %id, aside = %key, "what was kept aside is discarded");
        Ok(())
    }

    async fn keep_as_volume(
        &self,
        id: VolumeId,
        key: AsideKey,
        name: VolumeName,
    ) -> Result<VolumeStatus, VolumeError> {
        let _busy = self.asides_known().busy.lock().await;
        let aside = self.aside(id, key).ok_or(VolumeError::NoAside(id, key))?;
        let copies = self.storage().list().await?;
        if let Some(other) = copies.iter().find(|copy| copy.name == name) {
            return Err(VolumeError::NameTaken { name, id: other.id });
        }
        let request = CreateVolume {
            id: VolumeId::random(),
            name,
            size_bytes: None,
            epoch: Epoch(1),
        };
        self.storage().keep_as_volume(&aside, &request).await?;
        self.drop_aside(id, key);
        tracing::info!(
            volume = %id, aside = %key, name = %request.name, new = %request.id,
            "what was kept aside is a volume of its own"
        );
        self.get(request.id).await
    }

    fn drop_aside(&self, id: VolumeId, key: AsideKey) {
        let mut inner = self.asides_known().lock();
        inner.known.retain(|a| !(a.volume == id && a.key == key));
        drop(inner);
        // The snapshot on which it depended may go.
        self.tidy_later(id);
    }

    /// Puts a replica aside as a whole, so that it is sent anew: where it has nothing in common
    /// with its primary, only a person can know whether it is of any worth.
    ///
    /// # Errors
    /// When it is a primary, the epoch is stale, or the copy is not here.
    pub async fn set_aside(&self, id: VolumeId, epoch: Epoch) -> Result<SetAside, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let copy = self.look_up(id, &entry).await?;
        let copy = copy.ok_or(VolumeError::NotFound(id))?;
        fresh(&copy, epoch)?;
        if copy.role == Role::Primary {
            return Err(VolumeError::Busy {
                id,
                reason: "it is the primary here".to_owned(),
            });
        }
        self.storage().unmount(&copy).await?;
        let aside = self.put_aside(&entry, &copy, None, None).await?;
        Ok(SetAside { aside })
    }
}
