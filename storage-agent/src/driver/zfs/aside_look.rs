//! Looks at what is kept aside: mounts it and a clone of the common snapshot, read-only, where only
//! root comes, and walks both. And makes it a volume of its own.

use std::{collections::BTreeMap, os::unix::fs::DirBuilderExt, path::Path};

use flocker_api::{
    agent::CreateVolume,
    aside::{Aside, Changes},
    volume::Role,
};

use super::{
    Zfs,
    aside::{NOTE, Row},
    parse::{self, Failure},
    unless, zfs, zfs_patiently,
};
use crate::{
    driver::compare::{Kinship, compare},
    error::VolumeError,
};

/// What the clone of a common snapshot is called, before the aside's key.
const BASE: &str = "base-";
/// Where what is looked at is mounted, below the place of volumes; no volume has such a name.
const LOOKS: &str = ".asides";

impl Zfs {
    /// How it differs from the common snapshot. `None` where that is not there any more.
    pub(crate) async fn aside_changes(
        &self,
        aside: &Aside,
        paths_max: usize,
    ) -> Result<Option<Changes>, VolumeError> {
        let Some(common) = &aside.common else {
            return Ok(None);
        };
        let rows = self.aside_rows().await?;
        let tail = format!("{}.{}", aside.volume, aside.key);
        let has = |name: &String| {
            let row = rows.get(name);
            row.is_some_and(|row| row.snapshots.contains(&common.name))
        };
        // Once its volume is destroyed it has the common snapshot itself.
        let volume = aside.volume.to_string();
        let Some(owner) = [&volume, &tail].into_iter().find(|name| has(name)) else {
            return Ok(None);
        };
        let from = format!("{}/{owner}@{}", self.parent, common.name);
        let base = format!("{}/{volume}.{BASE}{}", self.parent, aside.key);
        let tail = format!("{}/{tail}", self.parent);
        let place = self.mount_root.join(LOOKS);
        let places = [place.join("base"), place.join("tail")];
        let looked = async {
            private(&place)?;
            clone_to(&from, &base, &places[0]).await?;
            mount_at(&base, None).await?;
            mount_at(&tail, Some(&places[1])).await?;
            let [old, new] = places.clone();
            let walk = move || compare(&old, &new, Kinship::Clones, paths_max);
            let walked = tokio::task::spawn_blocking(walk).await;
            walked.map_err(|e| VolumeError::Command(format!("the walk ended: {e}")))?
        };
        let looked = looked.await;
        let left = self.end_look(&tail).await;
        let removed = self.remove_base(&base).await;
        let changes = looked?;
        left?;
        removed?;
        Ok(Some(changes))
    }

    async fn end_look(&self, tail: &str) -> Result<(), VolumeError> {
        unless(Failure::NotMounted, zfs_patiently(&["unmount", tail]).await)?;
        Ok(zfs(&["set", "mountpoint=none", tail]).await.map(drop)?)
    }

    async fn remove_base(&self, base: &str) -> Result<(), VolumeError> {
        match zfs_patiently(&["unmount", base]).await {
            Err(error) if matches!(error.failure, Failure::NotMounted | Failure::NotFound) => {}
            unmounted => drop(unmounted?),
        }
        unless(Failure::NotFound, zfs_patiently(&["destroy", base]).await)
    }

    /// Ends the looks in the middle of which an agent has ended.
    pub(super) async fn end_looks(&self, rows: &BTreeMap<String, Row>) -> Result<(), VolumeError> {
        for (name, row) in rows {
            let dataset = format!("{}/{name}", self.parent);
            let Some((_, key)) = name.split_once('.') else {
                continue;
            };
            if key.starts_with(BASE) {
                self.remove_base(&dataset).await?;
            } else if row.note.is_some() && row.looked_at {
                self.end_look(&dataset).await?;
            }
        }
        Ok(())
    }

    /// Makes it a volume of its own. The note goes last, so that all of it may be repeated until
    /// then; under its new name it is a volume whatever the note says.
    pub(crate) async fn keep_as_volume(
        &self,
        aside: &Aside,
        request: &CreateVolume,
    ) -> Result<(), VolumeError> {
        let dataset = format!("{}/{}.{}", self.parent, aside.volume, aside.key);
        let state = parse::state(Role::Primary, request.epoch, None);
        let settings = [
            format!("flocker:name={}", request.name),
            format!("flocker:state={state}"),
            format!("mountpoint={}", self.mount_point(&request.name)),
            "readonly=off".to_owned(),
        ];
        for setting in &settings {
            zfs(&["set", setting, &dataset]).await?;
        }
        for property in ["flocker:replication", "flocker:acknowledged"] {
            zfs(&["inherit", property, &dataset]).await?;
        }
        let volume = self.dataset(request.id);
        zfs_patiently(&["rename", &dataset, &volume]).await?;
        zfs(&["inherit", NOTE, &volume]).await?;
        zfs_patiently(&["mount", &volume]).await?;
        Ok(())
    }
}

fn private(place: &Path) -> Result<(), VolumeError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(place);
    made.map_err(|e| VolumeError::io(format!("cannot make directory {}", place.display()), e))
}

async fn clone_to(from: &str, to: &str, place: &Path) -> Result<(), VolumeError> {
    let mountpoint = format!("mountpoint={}", place.display());
    let clone = [
        "clone",
        "-o",
        "readonly=on",
        "-o",
        "canmount=noauto",
        "-o",
        &mountpoint,
        from,
        to,
    ];
    unless(Failure::Exists, zfs(&clone).await)
}

async fn mount_at(dataset: &str, place: Option<&Path>) -> Result<(), VolumeError> {
    if let Some(place) = place {
        zfs(&["set", &format!("mountpoint={}", place.display()), dataset]).await?;
    }
    unless(Failure::Mounted, zfs_patiently(&["mount", dataset]).await)
}
