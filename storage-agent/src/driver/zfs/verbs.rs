//! What operators do with datasets, each verb so that an agent that is killed between two of its
//! commands leaves what the next start finishes or undoes.
//!
//! A clone is made with all of its properties by one command; a snapshot from which one was to
//! begin that is not there goes with the next start. What is read is a clone, too, mounted
//! read-only at a place of its own: zfs-fuse shows snapshots in no other way.

use flocker_api::{
    agent::CreateVolume,
    name::{VolumeId, VolumeName},
    replication::SetReplication,
    volume::{Epoch, Role, Snapshot},
    work::{SnapshotDetail, Trash},
};
use serde::{Deserialize, Serialize};

use super::{
    Receiving, Zfs,
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
/// Ends the name of what is no volume yet.
const ARRIVING: &str = ".arriving";

/// `flocker:becomes`: the volume that a dataset is about to become.
#[derive(Debug, Serialize, Deserialize)]
struct Becomes {
    id: VolumeId,
    name: VolumeName,
    epoch: Epoch,
    size_bytes: Option<u64>,
    replication: Option<SetReplication>,
}

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

    /// Writes down that a dataset is about to become a volume, with all that is set of that.
    pub(crate) async fn will_become(
        &self,
        with: &LocalCopy,
        volume: &LocalCopy,
    ) -> Result<(), VolumeError> {
        let becomes = Becomes {
            id: volume.id,
            name: volume.name.clone(),
            epoch: volume.epoch,
            size_bytes: volume.size_bytes,
            replication: volume.replication.clone(),
        };
        self.set(with.id, "flocker:becomes", &json(&becomes)).await
    }

    /// Datasets that are to become volumes do so, where these have been put aside; where not,
    /// nothing was begun with them.
    async fn finish_becoming(&self) -> Result<(), VolumeError> {
        let columns = ["get", "-Hp", "-r", "-o", "name,property,value,source"];
        let text = zfs(&[&columns[..], &["type,flocker:becomes", &self.parent]].concat()).await?;
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split('\t').collect())
            .collect();
        let is_there = |dataset: &str| lines.iter().any(|line| line.first() == Some(&dataset));
        for line in &lines {
            let [dataset, "flocker:becomes", value, "local"] = line[..] else {
                continue;
            };
            let Ok(becomes) = serde_json::from_str::<Becomes>(value) else {
                continue;
            };
            let volume = self.dataset(becomes.id);
            if dataset != volume && is_there(&volume) {
                tracing::warn!(volume = %becomes.id, "it was to be replaced; that is undone");
                zfs(&["inherit", "flocker:becomes", dataset]).await?;
                continue;
            }
            if dataset != volume {
                zfs_patiently(&["rename", dataset, &volume]).await?;
            }
            let size = becomes.size_bytes;
            let size = size.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
            let id = becomes.id;
            self.set(id, "flocker:name", becomes.name.as_str()).await?;
            self.set(id, "mountpoint", &self.mount_point(&becomes.name))
                .await?;
            self.set(id, "refquota", &size).await?;
            self.set_replication(id, becomes.replication.as_ref())
                .await?;
            let state = parse::state(Role::Primary, becomes.epoch, None);
            self.set(id, "flocker:state", &state).await?;
            zfs(&["inherit", "flocker:becomes", &volume]).await?;
        }
        Ok(())
    }

    pub(crate) async fn rewind(&self, copy: &LocalCopy, to: &str) -> Result<(), VolumeError> {
        let snapshot = format!("{}@{to}", self.dataset(copy.id));
        zfs_patiently(&["rollback", "-r", &snapshot]).await?;
        Ok(())
    }

    /// A stream into a dataset that is no volume yet.
    pub(crate) fn receive_new(&self, id: VolumeId) -> Result<Receiving, VolumeError> {
        if self.capabilities.encrypted {
            return Err(VolumeError::Encrypted(id));
        }
        let dataset = format!("{}{ARRIVING}", self.dataset(id));
        Receiving::spawn(&["receive", "-u", &dataset])
    }

    /// What has arrived becomes a volume.
    pub(crate) async fn settle_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        let dataset = self.dataset(id);
        zfs_patiently(&["rename", &format!("{dataset}{ARRIVING}"), &dataset]).await?;
        Ok(())
    }

    /// What has arrived goes, be it a volume already.
    pub(crate) async fn drop_new(&self, id: VolumeId) -> Result<(), VolumeError> {
        let dataset = self.dataset(id);
        self.drop_dataset(&format!("{dataset}{ARRIVING}")).await?;
        self.drop_dataset(&dataset).await
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
        let left = |name: &&str| name.starts_with(&prefix) || name.ends_with(ARRIVING);
        for dataset in text.lines().filter(left) {
            self.drop_dataset(dataset).await?;
        }
        self.finish_becoming().await?;
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
