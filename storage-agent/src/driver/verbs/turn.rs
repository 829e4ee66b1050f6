//! What a rollback would lose.

use flocker_api::{
    name::VolumeId,
    volume::{Epoch, Snapshot},
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
        let live = std::fs::canonicalize(&live).unwrap_or(live);
        let compared =
            tokio::task::spawn_blocking(move || Differences::between(&old, &live, keeps));
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
        })
    }

    /// Puts away what was read; what stays is put away by the next start.
    pub(super) async fn put_away(&self, peek: &Peek) {
        if let Err(error) = self.storage().unpeek(peek).await {
            let error = flocker_api::error::chain(&error);
            tracing::warn!(error, place = %peek.path.display(), "what was read stays for now");
        }
    }
}
