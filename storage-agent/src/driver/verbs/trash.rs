//! The trash: volumes that are destroyed once their grace is over, unless somebody wants them
//! back.
//!
//! What is in the trash is said by one property of the dataset, so that it is there or not,
//! whenever the agent ends. Until when, is a time of the clock on the wall: it outlives restarts.

use std::time::Duration;

use flocker_api::{
    name::{VolumeId, VolumeName},
    volume::{Epoch, Role, VolumeStatus},
    work::{GRACE_MS_MAX, Trash, Trashed},
};

use crate::{
    driver::{
        jobs::{Job, now_ms},
        storage::LocalCopy,
        volumes::{Volumes, WeakVolumes, fresh},
    },
    error::VolumeError,
};

/// Between two looks at whose grace is over.
const LOOK: Duration = Duration::from_secs(20);

fn trashed(copy: LocalCopy) -> Option<Trashed> {
    Some(Trashed {
        id: copy.id,
        name: copy.name,
        role: copy.role,
        epoch: copy.epoch,
        used_bytes: copy.used_bytes,
        trash: copy.trash?,
    })
}

impl Volumes {
    /// Unmounts a copy and puts it in the trash.
    pub(crate) async fn trash(
        &self,
        id: VolumeId,
        epoch: Epoch,
        grace_ms: u64,
        job: &Job,
    ) -> Result<Option<Trashed>, VolumeError> {
        if grace_ms > GRACE_MS_MAX {
            let message = format!("a grace of {grace_ms} ms is above {GRACE_MS_MAX} ms");
            return Err(VolumeError::Refusal(message));
        }
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let Some(copy) = self.storage().find_any(id).await? else {
            return Ok(None);
        };
        fresh(&copy, epoch)?;
        if copy.trash.is_some() {
            return Ok(trashed(copy));
        }
        job.named(&copy.name);
        let at_ms = now_ms();
        let trash = Trash {
            at_ms,
            until_ms: at_ms.saturating_add(grace_ms),
            by: job.by(),
        };
        self.unschedule(id);
        entry.forget();
        self.storage().unmount(&copy).await?;
        let (name, storage) = (copy.name.clone(), self.storage());
        storage.set_trash(&copy, Some(&trash), &name).await?;
        self.learn(id, &entry, None);
        Ok(trashed(LocalCopy {
            trash: Some(trash),
            ..copy
        }))
    }

    /// Takes a copy out of the trash; a primary is mounted again.
    pub(crate) async fn undelete(
        &self,
        id: VolumeId,
        epoch: Epoch,
        name: Option<VolumeName>,
    ) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copies = self.storage().list_all().await?;
        let copy = copies.iter().find(|copy| copy.id == id);
        let copy = copy.ok_or(VolumeError::NotFound(id))?;
        fresh(copy, epoch)?;
        let name = name.unwrap_or_else(|| copy.name.clone());
        let taken =
            |other: &&LocalCopy| other.id != id && other.name == name && other.trash.is_none();
        if let Some(other) = copies.iter().find(taken) {
            return Err(VolumeError::NameTaken { name, id: other.id });
        }
        entry.forget();
        if copy.trash.is_some() {
            self.storage().set_trash(copy, None, &name).await?;
        }
        if copy.role == Role::Primary {
            let copy = self.storage().find(id).await?;
            let copy = copy.ok_or(VolumeError::NotFound(id))?;
            self.storage().mount(&copy).await?;
        }
        self.get(id).await
    }

    /// Destroys a copy for good, be it in the trash or not.
    pub(crate) async fn purge(&self, id: VolumeId, epoch: Epoch) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let Some(copy) = self.storage().find_any(id).await? else {
            return Ok(());
        };
        fresh(&copy, epoch)?;
        entry.forget();
        self.unschedule(id);
        self.storage().destroy(&copy).await?;
        self.learn(id, &entry, None);
        // What the clone began from has nobody left that needs it.
        self.storage().drop_orphans().await
    }

    /// What is in the trash.
    pub(crate) async fn in_trash(&self) -> Result<Vec<Trashed>, VolumeError> {
        let copies = self.storage().list_all().await?;
        let mut found: Vec<_> = copies.into_iter().filter_map(trashed).collect();
        found.sort_by_key(|one| (one.trash.until_ms, one.id));
        Ok(found)
    }

    /// Destroys what has been in the trash for long enough.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn empty_trash(&self, now_ms: u64) -> Result<(), VolumeError> {
        for one in self.in_trash().await? {
            if one.trash.until_ms > now_ms {
                continue;
            }
            match self.purge(one.id, one.epoch).await {
                Ok(()) => {
                    tracing::info!(volume = %one.id, name = %one.name, "its grace is over: destroyed");
                }
                Err(error) => tracing::warn!(volume = %one.id, %error, "it stays in the trash"),
            }
        }
        Ok(())
    }
}

/// Empties the trash for as long as the volumes are there.
pub(crate) async fn watch(volumes: WeakVolumes) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(volumes) = volumes.upgrade() else {
            return;
        };
        if let Err(error) = volumes.empty_trash(now_ms()).await {
            tracing::warn!(%error, "the trash cannot be looked at");
        }
    }
}
