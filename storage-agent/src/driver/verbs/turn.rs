//! Rollback and restore: a primary becomes what it was, or what another volume is. What it was
//! until then is kept aside ([`crate::logic::aside`]); replicas follow from the common snapshot.

use flocker_api::{
    aside::AsideCause,
    name::VolumeId,
    volume::{Epoch, Snapshot, VolumeStatus},
    work::Loss,
};

use super::scan::{Differences, Keeps};
use crate::{
    driver::{
        jobs::Job,
        storage::{LocalCopy, Peek},
        volumes::{Volumes, primary},
    },
    error::VolumeError,
    logic::verbs::find_snapshot,
};

impl Volumes {
    /// What a rollback would lose.
    pub(crate) async fn preview(
        &self,
        id: VolumeId,
        epoch: Epoch,
        to: &str,
        job: &Job,
    ) -> Result<Loss, VolumeError> {
        let entry = self.entry(id);
        let (copy, to, _pin) = {
            let _lock = entry.lock.lock().await;
            let copy = self.copy(id).await?;
            primary(&copy, epoch)?;
            let to = find_snapshot(id, &copy.snapshots, to)?.clone();
            let pin = entry.pin(&to.name);
            (copy, to, pin)
        };
        job.named(&copy.name);
        self.loss(&copy, &to).await
    }

    /// Compares a snapshot with what is there now.
    async fn loss(&self, copy: &LocalCopy, to: &Snapshot) -> Result<Loss, VolumeError> {
        let live = copy.mounted_at.clone().ok_or_else(|| {
            VolumeError::Refusal(format!("volume {} is not mounted here", copy.name))
        })?;
        let peek = self.storage().peek(copy.id, &to.name).await?;
        let (old, keeps) = (peek.path.clone(), Keeps::of(self.storage().kind()));
        let compared = tokio::task::spawn_blocking(move || {
            // Directory storage mounts by a link.
            let live = std::fs::canonicalize(&live).unwrap_or(live);
            Differences::between(&old, &live, keeps)
        });
        let compared = compared.await;
        self.put_away(&peek).await;
        let found = compared.map_err(|error| VolumeError::Command(error.to_string()))??;
        let since = copy.snapshots.iter().skip_while(|s| s.guid != to.guid);
        Ok(Loss {
            to: to.clone(),
            snapshots: since.skip(1).cloned().collect(),
            changes: found.count,
            bytes: found.bytes,
            paths: found
                .paths
                .iter()
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
            aside: None,
        })
    }

    /// Puts away what was read; what stays is put away by the next start.
    pub(super) async fn put_away(&self, peek: &Peek) {
        if let Err(error) = self.storage().unpeek(peek).await {
            let error = flocker_api::error::chain(&error);
            tracing::warn!(error, place = %peek.path.display(), "what was read stays for now");
        }
    }

    /// Makes a primary what it was at a snapshot. The caller has made sure that nobody uses it.
    pub(crate) async fn turn_back(
        &self,
        id: VolumeId,
        epoch: Epoch,
        to: &str,
        job: &Job,
    ) -> Result<Loss, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        primary(&copy, epoch)?;
        job.named(&copy.name);
        let to = find_snapshot(id, &copy.snapshots, to)?.clone();
        let mut loss = self.loss(&copy, &to).await?;
        if job.cancel().is_cancelled() {
            return Err(VolumeError::Cancelled);
        }
        entry.forget();
        self.storage().unmount(&copy).await?;
        let kept = self
            .put_aside(&entry, &copy, Some(&to), Some(AsideCause::RolledBack))
            .await;
        entry.forget();
        if kept.is_err() {
            // What is half done is finished, as a start would.
            self.take_up_asides().await?;
        }
        // Whatever it is now, it is the volume.
        let now = self.copy(id).await?;
        self.storage().mount(&now).await?;
        entry.forget();
        loss.aside = kept?.map(|aside| aside.key);
        self.look_up(id, &entry).await?;
        Ok(loss)
    }

    /// Makes a primary what another volume of this node is, which goes up in it. The caller has
    /// made sure that nobody uses it.
    pub(crate) async fn replace(
        &self,
        id: VolumeId,
        epoch: Epoch,
        with: VolumeId,
        job: &Job,
    ) -> Result<VolumeStatus, VolumeError> {
        let (entry, other) = (self.entry(id), self.entry(with));
        let _lock = entry.lock.lock().await;
        let _other_lock = other.lock.lock().await;
        let copy = self.copy(id).await?;
        primary(&copy, epoch)?;
        job.named(&copy.name);
        let with = self.copy(with).await?;
        self.unschedule(with.id);
        entry.forget();
        other.forget();
        self.storage().unmount(&with).await?;
        self.storage().unmount(&copy).await?;
        // From here on a start finishes it.
        self.storage().will_become(&with, &copy).await?;
        let kept = self
            .put_aside(&entry, &copy, None, Some(AsideCause::RolledBack))
            .await;
        if kept.is_err() {
            self.take_up_asides().await?;
        }
        let became = self.storage().recover().await;
        entry.forget();
        other.forget();
        became?;
        let now = self.copy(id).await?;
        self.storage().mount(&now).await?;
        kept?;
        self.get(id).await
    }
}
