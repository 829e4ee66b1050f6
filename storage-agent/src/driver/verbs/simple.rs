//! Snapshots of operators, limits, clones.

use flocker_api::{
    agent::CreateVolume,
    name::{SnapshotName, VolumeId, VolumeName},
    volume::{Epoch, Role, Snapshot, VolumeStatus},
    work::{OPERATORS, SnapshotDetail},
};

use crate::{
    driver::volumes::{Volumes, fresh, primary},
    error::VolumeError,
    logic::verbs::{clone_label, find_snapshot},
};

impl Volumes {
    /// Takes a snapshot that no retention destroys.
    pub(crate) async fn operator_snapshot(
        &self,
        id: VolumeId,
        epoch: Epoch,
        name: &SnapshotName,
    ) -> Result<Snapshot, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        primary(&copy, epoch)?;
        let named = format!("{OPERATORS}{name}");
        if copy.snapshots.iter().any(|s| s.name == named) {
            return Err(VolumeError::SnapshotExists {
                id,
                name: name.to_string(),
            });
        }
        entry.forget();
        self.storage().snapshot(id, &named, epoch).await?;
        self.touched(id);
        self.storage().find_snapshot(id, &named).await
    }

    /// Destroys a snapshot; none of this name is success. The one from which a peer's next
    /// increment starts, or that a clone began from, is refused.
    pub(crate) async fn remove_snapshot(
        &self,
        id: VolumeId,
        epoch: Epoch,
        name: &str,
    ) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        fresh(&copy, epoch)?;
        let Ok(snapshot) = find_snapshot(id, &copy.snapshots, name) else {
            return Ok(());
        };
        let refuse = |why: &str| {
            let message = format!(
                "snapshot '{}' of volume {} on {} {why}",
                snapshot.name,
                copy.name,
                self.node()
            );
            Err(VolumeError::Refusal(message))
        };
        let base = copy.acknowledged.contains(&snapshot.guid) || entry.has_heard(snapshot.guid);
        if copy.role == Role::Replica && copy.newest() == Some(snapshot) {
            return refuse("is where the replica stands: the next increment starts from it");
        }
        if copy.role == Role::Primary && base {
            return refuse("is where a replica stands: its next increment starts from it");
        }
        if self.origins(id).contains(&snapshot.name) {
            return refuse("is what another volume began from; destroy that one first");
        }
        if entry.pinned().contains(&snapshot.name) {
            return refuse("is being read; see 'flockerctl volume jobs'");
        }
        entry.forget();
        self.storage().destroy_snapshot(id, &snapshot.name).await
    }

    /// Snapshots with what they cost, oldest first.
    pub(crate) async fn snapshots(&self, id: VolumeId) -> Result<Vec<SnapshotDetail>, VolumeError> {
        let copy = self.copy(id).await?;
        self.storage().details(&copy).await
    }

    /// Sets or takes away the limit.
    pub(crate) async fn resize(
        &self,
        id: VolumeId,
        epoch: Epoch,
        size_bytes: Option<u64>,
    ) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        primary(&copy, epoch)?;
        let copy = self.storage().measure(copy).await?;
        let referenced = self.storage().referenced_bytes(&copy).await?;
        if let Some(size) = size_bytes.filter(|size| *size < referenced) {
            return Err(VolumeError::Refusal(format!(
                "volume {} holds {referenced} bytes, more than the {size} that it shall be limited to",
                copy.name
            )));
        }
        entry.forget();
        self.storage().resize(id, size_bytes).await?;
        self.get(id).await
    }

    /// Makes a new volume of a snapshot, or of what is there now.
    pub(crate) async fn clone_volume(
        &self,
        id: VolumeId,
        epoch: Epoch,
        from: Option<&str>,
        new: VolumeId,
        name: VolumeName,
    ) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        fresh(&copy, epoch)?;
        let copies = self.storage().list_all().await?;
        let taken = |other: &&crate::driver::storage::LocalCopy| {
            other.name == name && other.trash.is_none() && other.id != new
        };
        if let Some(other) = copies.iter().find(taken) {
            return Err(VolumeError::NameTaken { name, id: other.id });
        }
        let request = CreateVolume {
            id: new,
            name,
            size_bytes: copy.size_bytes,
            epoch: Epoch(1),
        };
        let made = self.entry(new);
        let _made_lock = made.lock.lock().await;
        entry.forget();
        made.forget();
        let snapshot = match from {
            Some(from) => find_snapshot(id, &copy.snapshots, from)?.name.clone(),
            None => {
                primary(&copy, epoch)?;
                let label = clone_label::name(new);
                if copy.snapshots.iter().all(|s| s.name != label) {
                    self.storage().snapshot(id, &label, epoch).await?;
                    self.touched(id);
                }
                label
            }
        };
        let _pin = entry.pin(&snapshot);
        let cloned = self.storage().clone_to(&copy, &snapshot, &request).await;
        if from.is_none() && (cloned.is_err() || !self.storage().shares()) {
            self.storage().destroy_snapshot(id, &snapshot).await?;
        }
        cloned?;
        self.get(new).await
    }
}
