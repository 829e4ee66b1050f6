//! What operators do with datasets, each verb so that an agent that is killed between two of its
//! commands leaves what the next start finishes or undoes.
//!
//! A clone is made with all of its properties by one command; a snapshot from which one was to
//! begin that is not there goes with the next start. What is read is a clone, too, mounted
//! read-only at a place of its own: zfs-fuse shows snapshots in no other way.

use flocker_api::{
    agent::CreateVolume,
    name::{VolumeId, VolumeName},
    volume::{Role, Snapshot},
    work::{SnapshotDetail, Trash},
};
use serde::Serialize;

use super::{
    Zfs,
    command::CommandError,
    parse::{self, Failure},
    patience::zfs_patiently,
    unless, zfs,
};
use crate::{
    driver::storage::{LocalCopy, Peek},
    error::VolumeError,
    logic::verbs::clone_label,
};

/// Begins the name of what is being read.
const LOOK: &str = "look.";

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("records have string keys and no failing serializer")
}

impl Zfs {
    pub(crate) async fn resize(
        &self,
        id: VolumeId,
        size_bytes: Option<u64>,
    ) -> Result<(), VolumeError> {
        let size = size_bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
        self.set(id, "refquota", &size).await
    }

    pub(crate) async fn referenced_bytes(&self, id: VolumeId) -> Result<u64, VolumeError> {
        let dataset = self.dataset(id);
        let text = zfs(&["get", "-Hp", "-o", "value", "referenced", &dataset]).await?;
        Ok(text.trim().parse().unwrap_or_default())
    }

    pub(crate) async fn details(
        &self,
        copy: &LocalCopy,
    ) -> Result<Vec<SnapshotDetail>, VolumeError> {
        let dataset = self.dataset(copy.id);
        let columns = ["get", "-Hp", "-r", "-o", "name,property,value"];
        let text = zfs(&[&columns[..], &["creation,used,referenced", &dataset]].concat()).await?;
        let costs = parse::costs(&text);
        let detail = |snapshot: &Snapshot| {
            let [created_s, used_bytes, referenced_bytes] =
                costs.get(&snapshot.name).copied().unwrap_or_default();
            SnapshotDetail {
                snapshot: snapshot.clone(),
                created_ms: created_s.saturating_mul(1_000),
                used_bytes,
                referenced_bytes,
            }
        };
        Ok(copy.snapshots.iter().map(detail).collect())
    }

    pub(crate) async fn clone_to(
        &self,
        copy: &LocalCopy,
        snapshot: &str,
        new: &CreateVolume,
    ) -> Result<(), VolumeError> {
        let state = parse::state(Role::Primary, new.epoch, None);
        let mut options = vec![
            "readonly=off".to_owned(),
            "canmount=noauto".to_owned(),
            format!("mountpoint={}", self.mount_point(&new.name)),
            format!("flocker:name={}", new.name),
            format!("flocker:state={state}"),
        ];
        options.extend(new.size_bytes.map(|bytes| format!("refquota={bytes}")));
        let from = format!("{}@{snapshot}", self.dataset(copy.id));
        let to = self.dataset(new.id);
        let cloned = clone(&options, &from, &to).await;
        unless(Failure::Exists, cloned)?;
        // zfs-fuse mounts it by itself.
        unless(Failure::Mounted, zfs(&["mount", &to]).await)
    }

    pub(crate) async fn set_trash(
        &self,
        copy: &LocalCopy,
        trash: Option<&Trash>,
        name: &VolumeName,
    ) -> Result<(), VolumeError> {
        let id = copy.id;
        match trash {
            // One property: it is in the trash, or it is not.
            Some(trash) => self.set(id, "flocker:trash", &json(trash)).await,
            None => {
                if *name != copy.name {
                    self.set(id, "flocker:name", name.as_str()).await?;
                    self.set(id, "mountpoint", &self.mount_point(name)).await?;
                }
                zfs(&["inherit", "flocker:trash", &self.dataset(id)]).await?;
                Ok(())
            }
        }
    }

    async fn drop_dataset(&self, dataset: &str) -> Result<(), VolumeError> {
        unless(Failure::NotMounted, zfs(&["unmount", dataset]).await)?;
        unless(
            Failure::NotFound,
            zfs_patiently(&["destroy", "-r", dataset]).await,
        )
    }

    pub(crate) async fn peek(&self, id: VolumeId, snapshot: &str) -> Result<Peek, VolumeError> {
        let token = VolumeId::random();
        let dataset = format!("{}/{LOOK}{token}", self.parent);
        let path = self.mount_root.join(format!(".look-{token}"));
        let options = [
            "canmount=noauto".to_owned(),
            "readonly=on".to_owned(),
            format!("mountpoint={}", path.display()),
        ];
        let from = format!("{}@{snapshot}", self.dataset(id));
        let cloned = clone_mounted(&options, &from, &dataset).await;
        let peek = Peek {
            path,
            dataset: Some(dataset),
        };
        if let Err(error) = cloned {
            self.unpeek(&peek).await?;
            return Err(error.into());
        }
        Ok(peek)
    }

    pub(crate) async fn unpeek(&self, peek: &Peek) -> Result<(), VolumeError> {
        if let Some(dataset) = &peek.dataset {
            let unmounted = zfs_patiently(&["unmount", dataset]).await;
            if let Err(error) = unmounted
                && !matches!(error.failure, Failure::NotMounted | Failure::NotFound)
            {
                return Err(error.into());
            }
            self.drop_dataset(dataset).await?;
        }
        // It is left only where somebody put something beneath it.
        drop(tokio::fs::remove_dir(&peek.path).await);
        Ok(())
    }

    pub(crate) async fn recover(&self) -> Result<(), VolumeError> {
        let text = zfs(&[
            "list",
            "-H",
            "-r",
            "-o",
            "name",
            "-t",
            "filesystem",
            &self.parent,
        ])
        .await?;
        let prefix = format!("{}/{LOOK}", self.parent);
        for dataset in text.lines().filter(|name| name.starts_with(&prefix)) {
            self.drop_dataset(dataset).await?;
        }
        self.drop_orphans().await
    }

    /// Destroys the snapshots that were taken for clones that are not there.
    pub(crate) async fn drop_orphans(&self) -> Result<(), VolumeError> {
        let copies = self.list().await?;
        for copy in &copies {
            for snapshot in &copy.snapshots {
                let clone = clone_label::volume(&snapshot.name);
                if clone.is_some_and(|id| copies.iter().all(|copy| copy.id != id)) {
                    let destroyed = self.destroy_snapshot(copy.id, &snapshot.name).await;
                    if let Err(error) = destroyed {
                        tracing::debug!(volume = %copy.id, %error, "a clone's snapshot stays");
                    }
                }
            }
        }
        Ok(())
    }
}

async fn clone(options: &[String], from: &str, to: &str) -> Result<String, CommandError> {
    let mut arguments = vec!["clone"];
    for option in options {
        arguments.extend(["-o", option]);
    }
    arguments.extend([from, to]);
    zfs_patiently(&arguments).await
}

async fn clone_mounted(options: &[String], from: &str, to: &str) -> Result<(), CommandError> {
    clone(options, from, to).await?;
    match zfs(&["mount", to]).await {
        Err(error) if error.failure != Failure::Mounted => Err(error),
        _ => Ok(()),
    }
}
