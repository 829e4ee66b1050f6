//! What operators do with directories. A clone is made beside its place and renamed once it is
//! complete; what is left of one that is not goes with the next start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Directory, Places, Record, files::make_dir, names, read_json, tree, write_json};
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
/// In a directory that is no volume yet.
const ARRIVING: &str = "arriving.json";
/// The record of the volume that a directory is about to become.
const BECOMES: &str = "becomes.json";

fn rename(from: &Path, to: &Path) -> Result<(), VolumeError> {
    let what = || format!("cannot rename {} to {}", from.display(), to.display());
    fs::rename(from, to).map_err(|e| VolumeError::io(what(), e))
}

impl Places {
    fn beside(&self, id: VolumeId, ending: &str) -> PathBuf {
        self.volumes().join(format!("{id}{ending}"))
    }

    /// What is to become a volume does so where that has been put aside; where not, nothing was
    /// begun with it.
    fn finish_becoming(&self, place: &Path) -> Result<(), VolumeError> {
        let mark = place.join(BECOMES);
        let Some(record) = read_json::<Record>(&mark)? else {
            return Ok(());
        };
        let volume = self.volume(record.id);
        if place != volume {
            if volume.exists() {
                tracing::warn!(volume = %record.id, "it was to be replaced; that is undone");
                return tree::remove(&mark);
            }
            rename(place, &volume)?;
        }
        let newest = self.snapshots(record.id)?.pop();
        let mut now = record;
        if let Some(newest) = newest {
            self.write(&now)?;
            self.prepare_data(&mut now, &newest)?;
            // Its app writes to it from here on.
            now.data_is = None;
        }
        self.write(&now)?;
        tree::remove(&volume.join(BECOMES))
    }

    pub(super) fn recover_verbs(&self) -> Result<(), VolumeError> {
        for name in names(&self.volumes())? {
            let place = self.volumes().join(&name);
            if name.ends_with(MAKING) {
                tree::remove(&place)?;
                continue;
            }
            if place.join(ARRIVING).exists() {
                tree::remove(&place.join("volume.json"))?;
                tree::remove(&place)?;
                continue;
            }
            self.finish_becoming(&place)?;
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

    /// Writes down that a directory is about to become a volume, with all that is set of that.
    pub(crate) async fn will_become(
        &self,
        with: &LocalCopy,
        volume: &LocalCopy,
    ) -> Result<(), VolumeError> {
        let (with, volume) = (with.id, volume.id);
        self.work(move |places| {
            let (coming, was) = (places.record(with)?, places.record(volume)?);
            let record = Record {
                next: coming.next,
                data_is: None,
                acknowledged: Vec::new(),
                ..was
            };
            write_json(&places.volume(with).join(BECOMES), &record)
        })
        .await
    }

    pub(crate) async fn refresh(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.work(move |places| {
            let mut record = places.record(id)?;
            if let Some(newest) = places.snapshots(id)?.pop() {
                places.prepare_data(&mut record, &newest)?;
                // Its app writes to it from here on.
                record.data_is = None;
                places.write(&record)?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn rewind(&self, copy: &LocalCopy, to: &str) -> Result<(), VolumeError> {
        let (id, to) = (copy.id, to.to_owned());
        self.work(move |places| {
            let snapshots = places.snapshots(id)?;
            let newer = snapshots.iter().rev().take_while(|s| s.name != to);
            for snapshot in newer {
                let place = places.snapshot(id, &snapshot.name);
                tree::remove(&place.join("snapshot.json"))?;
                tree::remove(&place)?;
            }
            Ok(())
        })
        .await
    }

    /// A mark that this is no volume yet.
    pub(crate) async fn expect_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.work(move |places| {
            places.make(id)?;
            write_json(&places.volume(id).join(ARRIVING), &())
        })
        .await
    }

    /// What has arrived becomes a volume.
    pub(crate) async fn settle_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.work(move |places| tree::remove(&places.volume(id).join(ARRIVING)))
            .await
    }

    /// What has arrived goes, be it a volume already.
    pub(crate) async fn drop_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.work(move |places| {
            tree::remove(&places.volume(id).join("volume.json"))?;
            tree::remove(&places.volume(id))
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
