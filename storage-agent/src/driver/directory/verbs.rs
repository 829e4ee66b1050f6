//! What operators do with directories. A clone is made beside its place and renamed once it is
//! complete; what is left of one that is not goes with the next start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Directory, Places, Record, files::make_dir, names, tree, write_json};
use crate::{
    driver::storage::{LocalCopy, Peek},
    error::VolumeError,
};
use flocker_api::{
    agent::CreateVolume,
    name::{VolumeId, VolumeName},
    volume::Snapshot,
    work::{SnapshotDetail, Trash},
};

/// Ends the name of a clone that is not complete.
const MAKING: &str = ".making";

fn rename(from: &Path, to: &Path) -> Result<(), VolumeError> {
    let what = || format!("cannot rename {} to {}", from.display(), to.display());
    fs::rename(from, to).map_err(|e| VolumeError::io(what(), e))
}

impl Places {
    fn beside(&self, id: VolumeId, ending: &str) -> PathBuf {
        self.volumes().join(format!("{id}{ending}"))
    }

    pub(super) fn recover_verbs(&self) -> Result<(), VolumeError> {
        for name in names(&self.volumes())? {
            let place = self.volumes().join(&name);
            if name.ends_with(MAKING) {
                tree::remove(&place)?;
            }
        }
        Ok(())
    }
}

impl Directory {
    pub(crate) async fn recover(&self) -> Result<(), VolumeError> {
        self.work(Places::recover_verbs).await
    }

    pub(crate) async fn resize(
        &self,
        id: VolumeId,
        size_bytes: Option<u64>,
    ) -> Result<(), VolumeError> {
        self.change(id, move |record| record.size_bytes = size_bytes)
            .await
    }

    pub(crate) async fn referenced_bytes(&self, id: VolumeId) -> Result<u64, VolumeError> {
        self.work(move |places| tree::bytes(&places.data(id))).await
    }

    pub(crate) async fn details(
        &self,
        copy: &LocalCopy,
    ) -> Result<Vec<SnapshotDetail>, VolumeError> {
        let (id, snapshots) = (copy.id, copy.snapshots.clone());
        self.work(move |places| {
            let detail = |snapshot: Snapshot| {
                let place = places.snapshot(id, &snapshot.name);
                let made = fs::metadata(place.join("snapshot.json"));
                let made = made.and_then(|metadata| metadata.modified()).ok();
                let since = made.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                // A snapshot is a copy of its own: what it refers to is what it costs.
                let bytes = tree::bytes(&place.join("tree"))?;
                Ok(SnapshotDetail {
                    created_ms: since
                        .and_then(|since| u64::try_from(since.as_millis()).ok())
                        .unwrap_or_default(),
                    used_bytes: bytes,
                    referenced_bytes: bytes,
                    snapshot,
                })
            };
            snapshots.into_iter().map(detail).collect()
        })
        .await
    }

    pub(crate) async fn clone_to(
        &self,
        copy: &LocalCopy,
        snapshot: &str,
        new: &CreateVolume,
    ) -> Result<(), VolumeError> {
        let (id, snapshot, new) = (copy.id, snapshot.to_owned(), new.clone());
        self.work(move |places| {
            let record = Record {
                size_bytes: new.size_bytes,
                ..Record::primary(new.id, new.name.clone(), new.epoch)
            };
            if !places.volume(new.id).exists() {
                let making = places.beside(new.id, MAKING);
                tree::remove(&making)?;
                make_dir(&making, 0o755)?;
                make_dir(&making.join("snapshots"), 0o700)?;
                let made = tree::copy(&places.tree(id, &snapshot), &making.join("data"))
                    .and_then(|()| write_json(&making.join("volume.json"), &record))
                    .and_then(|()| rename(&making, &places.volume(new.id)));
                if made.is_err() {
                    tree::remove(&making)?;
                }
                made?;
            }
            places.mount_data(&record)
        })
        .await
    }

    pub(crate) async fn set_trash(
        &self,
        copy: &LocalCopy,
        trash: Option<&Trash>,
        name: &VolumeName,
    ) -> Result<(), VolumeError> {
        let (trash, name) = (trash.cloned(), name.clone());
        self.change(copy.id, move |record| {
            record.trash = trash;
            record.name = name;
        })
        .await
    }

    pub(crate) async fn peek(&self, id: VolumeId, snapshot: &str) -> Result<Peek, VolumeError> {
        Ok(Peek {
            path: self.places.tree(id, snapshot),
            dataset: None,
        })
    }
}
