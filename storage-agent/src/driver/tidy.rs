//! Destroys the snapshots that nobody needs any more.

use std::{sync::atomic::Ordering, time::Duration};

use flocker_api::{
    name::VolumeId,
    replication::Keep,
    volume::{Guid, Role, Snapshot},
};

use super::{
    index::{Entry, Knowledge},
    storage::LocalCopy,
    volumes::{Volumes, active_policy},
};
use crate::{
    error::VolumeError,
    logic::retention::{expendable, is_in_window},
};

/// How long after a transfer old snapshots are destroyed: out of the way of a move's last
/// steps, which follow one another faster.
const TIDY_AFTER: Duration = Duration::from_secs(3);
/// So many are destroyed at once: together they wait for the pool's disks once.
const BATCH: usize = 8;
/// How long fewer than that may wait for more.
const BATCH_WAITS: Duration = Duration::from_secs(90);

impl Volumes {
    /// Destroys the snapshots that nobody needs any more.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn tidy(&self, id: VolumeId) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        loop {
            // The lock is taken anew for each batch, so that a move waits for one at most.
            let _lock = entry.lock.lock().await;
            let Some(copy) = self.look_up(id, &entry).await? else {
                return Ok(());
            };
            let keep = active_policy(&copy).map(|policy| policy.keep.clone());
            let keep = keep.or_else(|| entry.kept_by_sender()).unwrap_or_default();
            let mut pins = self.pin(&entry, &copy, &keep).await?;
            self.bookmark_bases(&entry, &copy, &pins, &keep).await?;
            pins.extend(self.pinned_by_asides(id));
            // What somebody reads, and what a clone began from, stays for as long.
            let (read, origins) = (entry.pinned(), self.origins(id));
            let gone = expendable(&copy.snapshots, &pins, &keep);
            let free = |s: &Snapshot| !read.contains(&s.name) && !origins.contains(&s.name);
            let all = expendable(&copy.snapshots, &[], &keep).len();
            let gone: Vec<_> = gone.into_iter().filter(free).collect();
            entry
                .kept_for_others
                .store(all - gone.len(), Ordering::Relaxed);
            let gone = gone.into_iter().take(BATCH);
            let names: Vec<_> = gone.map(|s| s.name).collect();
            if names.is_empty() {
                return Ok(());
            }
            let destroyed = self.storage().destroy_snapshots(id, &names).await;
            if destroyed.is_err() {
                entry.forget();
            }
            destroyed?;
            for name in names {
                entry.forget_snapshot(&name);
            }
        }
    }

    /// Whether there are enough to be destroyed at once.
    fn is_worth_tidying(&self, entry: &Entry) -> bool {
        let Knowledge::Copy(copy) = entry.known() else {
            return false;
        };
        let keep = active_policy(&copy).map(|policy| policy.keep.clone());
        let keep = keep.or_else(|| entry.kept_by_sender()).unwrap_or_default();
        expendable(&copy.snapshots, &entry.heard(), &keep).len() >= BATCH
    }

    /// What peers have acknowledged, written down before anything is destroyed by it. What is
    /// among the newest anyway need not be.
    async fn pin(
        &self,
        entry: &Entry,
        copy: &LocalCopy,
        keep: &Keep,
    ) -> Result<Vec<Guid>, VolumeError> {
        let heard = entry.heard();
        if copy.role != Role::Primary || heard.is_empty() {
            return Ok(copy.acknowledged.clone());
        }
        let far = |guid: &Guid| !is_in_window(&copy.snapshots, *guid, keep);
        let far: Vec<Guid> = heard.iter().copied().filter(far).collect();
        if !far.is_empty() && far != copy.acknowledged {
            self.storage().set_acknowledged(copy.id, &far).await?;
            entry.learn(Some(LocalCopy {
                acknowledged: far,
                ..copy.clone()
            }));
        }
        Ok(heard)
    }

    /// Tidies in a while, when there is enough to be tidied, or after some time anyway.
    pub(crate) fn tidy_later(&self, id: VolumeId) {
        let entry = self.entry(id);
        if entry.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let volumes = self.downgrade();
        tokio::spawn(async move {
            let mut waited = Duration::ZERO;
            let volumes = loop {
                tokio::time::sleep(TIDY_AFTER).await;
                waited += TIDY_AFTER;
                // The agent may have ended meanwhile; the next one tidies.
                let Some(volumes) = volumes.upgrade() else {
                    return;
                };
                if waited >= BATCH_WAITS || volumes.is_worth_tidying(&entry) {
                    break volumes;
                }
            };
            entry.tidying.store(false, Ordering::Release);
            if let Err(error) = volumes.tidy(id).await {
                tracing::warn!(volume = %id, %error, "old snapshots stay");
            }
        });
    }
}
