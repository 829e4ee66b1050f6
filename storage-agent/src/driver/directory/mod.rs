//! Volumes as directory trees: for laptops, tests and machines without ZFS.
//!
//! ```text
//! ROOT/volumes/UUID/volume.json          name, role, epoch, ...: replaced as a whole
//!                   data/                the volume itself
//!                   snapshots/NAME/      tree/ and snapshot.json, never written again
//!                   incoming/            a snapshot that is being made or received
//! ROOT/asides/UUID.KEY/                  what is kept aside of a volume
//! MOUNTS/NAME -> ROOT/volumes/UUID/data  only while the copy is a mounted primary
//! ```
//!
//! A snapshot is a plain copy; it is not atomic, so that of a running app is good only as the
//! base of an increment. Sizes are not enforced. Hard links become copies; sockets, pipes and
//! device files are left out; extended attributes are not kept.

mod aside;
mod changes;
mod files;
mod stream;
mod tree;
mod verbs;

use std::{fs, io, os::unix::fs::symlink, path::PathBuf, sync::Arc};

use flocker_api::{
    agent::{CreateVolume, StorageKind, StorageStatus},
    name::{VolumeId, VolumeName},
    replication::SetReplication,
    volume::{Epoch, Guid, Role, Snapshot},
    work::Trash,
};
use serde::{Deserialize, Serialize};

use self::changes::changes;
use self::files::{make_dir, names, read_json, write_json};
pub(super) use self::stream::{Receiving, Sending};
use super::storage::{LocalCopy, Stamp};
use crate::{error::VolumeError, logic::schedule::Sight};

/// A directory with volumes.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    root: PathBuf,
    mounts: PathBuf,
}

/// `volume.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: VolumeId,
    name: VolumeName,
    size_bytes: Option<u64>,
    role: Role,
    epoch: Epoch,
    /// The `createtxg` of the next snapshot.
    next: u64,
    acknowledged: Vec<Guid>,
    /// The snapshot that `data` equals, while it is known to equal one.
    data_is: Option<Guid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replication: Option<SetReplication>,
    /// `data` is being made what a snapshot is, and may be anything between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    syncing: bool,
    /// The epoch under which a replica was last a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrote: Option<Epoch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trash: Option<Trash>,
}

impl Record {
    /// Of a primary that was just made.
    fn primary(id: VolumeId, name: VolumeName, epoch: Epoch) -> Self {
        Self {
            id,
            name,
            size_bytes: None,
            role: Role::Primary,
            epoch,
            next: 1,
            acknowledged: Vec::new(),
            data_is: None,
            replication: None,
            trash: None,
            syncing: false,
            wrote: None,
        }
    }
}

/// `snapshot.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotRecord {
    guid: Guid,
    createtxg: u64,
}

impl Places {
    fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    fn volume(&self, id: VolumeId) -> PathBuf {
        self.volumes().join(id.to_string())
    }

    fn data(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("data")
    }

    fn incoming(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("incoming")
    }

    fn snapshot(&self, id: VolumeId, name: &str) -> PathBuf {
        self.volume(id).join("snapshots").join(name)
    }

    fn tree(&self, id: VolumeId, name: &str) -> PathBuf {
        self.snapshot(id, name).join("tree")
    }

    fn mount(&self, name: &VolumeName) -> PathBuf {
        self.mounts.join(name.as_str())
    }

    fn record(&self, id: VolumeId) -> Result<Record, VolumeError> {
        read_json(&self.volume(id).join("volume.json"))?.ok_or(VolumeError::NotFound(id))
    }

    fn write(&self, record: &Record) -> Result<(), VolumeError> {
        write_json(&self.volume(record.id).join("volume.json"), record)
    }

    /// Makes a volume's directories. Its insides are for its app and the agent only.
    fn make(&self, id: VolumeId) -> Result<(), VolumeError> {
        let volume = self.volume(id);
        make_dir(&volume, 0o755)?;
        make_dir(&volume.join("snapshots"), 0o700)
    }

    fn snapshots(&self, id: VolumeId) -> Result<Vec<Snapshot>, VolumeError> {
        let mut snapshots = Vec::new();
        for name in names(&self.volume(id).join("snapshots"))? {
            let record = self.snapshot(id, &name).join("snapshot.json");
            if let Some(SnapshotRecord { guid, createtxg }) = read_json(&record)? {
                snapshots.push(Snapshot {
                    name,
                    guid,
                    createtxg,
                });
            }
        }
        snapshots.sort_by_key(|s| s.createtxg);
        Ok(snapshots)
    }

    fn copy(&self, record: Record, measure: bool) -> Result<LocalCopy, VolumeError> {
        let mount = self.mount(&record.name);
        let mounted = record.role == Role::Primary
            && fs::read_link(&mount).is_ok_and(|to| to == self.data(record.id));
        let used_bytes = if measure {
            tree::bytes(&self.volume(record.id))?
        } else {
            0
        };
        Ok(LocalCopy {
            snapshots: self.snapshots(record.id)?,
            id: record.id,
            name: record.name,
            role: record.role,
            epoch: record.epoch,
            wrote: record.wrote,
            size_bytes: record.size_bytes,
            used_bytes,
            mounted_at: mounted.then_some(mount),
            acknowledged: record.acknowledged,
            replication: record.replication,
            bookmarks: Vec::new(),
            encrypted: false,
            partial: None,
            trash: record.trash,
            origin: None,
        })
    }

    /// Puts `incoming` in its place as a snapshot.
    fn commit(&self, id: VolumeId, name: &str, guid: Guid) -> Result<Snapshot, VolumeError> {
        let mut record = self.record(id)?;
        let createtxg = record.next;
        record.next += 1;
        self.write(&record)?;
        let incoming = self.incoming(id);
        let snapshot = SnapshotRecord { guid, createtxg };
        write_json(&incoming.join("snapshot.json"), &snapshot)?;
        let to = self.snapshot(id, name);
        fs::rename(&incoming, &to)
            .map_err(|e| VolumeError::io(format!("cannot name snapshot {}", to.display()), e))?;
        Ok(Snapshot {
            name: name.to_owned(),
            guid,
            createtxg,
        })
    }

    /// Removes what a dead agent had not finished. Volumes without a record stay: they count
    /// as absent, yet nobody knows what they are.
    fn sweep(&self) -> Result<(), VolumeError> {
        for id in names(&self.volumes())? {
            let Ok(id) = id.parse() else { continue };
            tree::remove(&self.incoming(id))?;
            let snapshots = self.volume(id).join("snapshots");
            if !snapshots.exists() {
                continue;
            }
            for name in names(&snapshots)? {
                let snapshot = self.snapshot(id, &name);
                if !snapshot.join("snapshot.json").exists() {
                    tree::remove(&snapshot)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what was begun and failed.
    fn drop_incoming(&self, id: VolumeId) {
        if let Err(error) = tree::remove(&self.incoming(id)) {
            tracing::warn!(volume = %id, %error, "what was begun of a snapshot stays for now");
        }
    }

    fn remove_snapshot(&self, id: VolumeId, name: &str) -> Result<(), VolumeError> {
        let snapshot = self.snapshot(id, name);
        // The record goes first: what is left after a crash counts as absent.
        tree::remove(&snapshot.join("snapshot.json"))?;
        tree::remove(&snapshot)
    }

    /// An empty `incoming`.
    fn clean(&self, id: VolumeId) -> Result<PathBuf, VolumeError> {
        let incoming = self.incoming(id);
        tree::remove(&incoming)?;
        make_dir(&incoming, 0o700)?;
        Ok(incoming)
    }

    fn mount_data(&self, record: &Record) -> Result<(), VolumeError> {
        let mount = self.mount(&record.name);
        self.unmount_data(&record.name)?;
        symlink(self.data(record.id), &mount)
            .map_err(|e| VolumeError::io(format!("cannot make {}", mount.display()), e))
    }

    fn unmount_data(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let mount = self.mount(name);
        match fs::remove_file(&mount) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("cannot remove {}", mount.display());
                Err(VolumeError::io(what, error))
            }
            _ => Ok(()),
        }
    }
}

impl Directory {
    pub(crate) async fn open(root: PathBuf, mounts: Option<PathBuf>) -> Result<Self, VolumeError> {
        let root = std::path::absolute(&root)
            .map_err(|e| VolumeError::io(format!("{} is no path", root.display()), e))?;
        let mounts = mounts.unwrap_or_else(|| root.join("mounts"));
        let directory = Self {
            places: Arc::new(Places { root, mounts }),
        };
        directory
            .work(|places| {
                make_dir(&places.volumes(), 0o755)?;
                make_dir(&places.mounts, 0o755)?;
                places.sweep()
            })
            .await?;
        Ok(directory)
    }

    /// Does file work where it may take its time.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Places) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let places = Arc::clone(&self.places);
        let done = tokio::task::spawn_blocking(move || work(&places)).await;
        done.map_err(|e| VolumeError::Command(format!("work on files ended: {e}")))?
    }

    /// Changes a volume's record.
    async fn change(
        &self,
        id: VolumeId,
        change: impl FnOnce(&mut Record) + Send + 'static,
    ) -> Result<(), VolumeError> {
        self.work(move |places| {
            let mut record = places.record(id)?;
            change(&mut record);
            places.write(&record)
        })
        .await
    }

    pub(crate) async fn status(&self) -> StorageStatus {
        let free = rustix::fs::statvfs(&self.places.root);
        StorageStatus {
            kind: StorageKind::Directory,
            version: "1".to_owned(),
            capabilities: Vec::new(),
            available_bytes: free.as_ref().map_or(0, |fs| fs.f_bavail * fs.f_frsize),
            problem: free
                .err()
                .map(|e| format!("{}: {e}", self.places.root.display())),
            doubt: None,
        }
    }

    pub(crate) async fn list(&self) -> Result<Vec<LocalCopy>, VolumeError> {
        self.work(|places| {
            let ids = names(&places.volumes())?;
            let ids = ids.iter().filter_map(|name| name.parse().ok());
            let mut copies = Vec::new();
            for id in ids {
                match places.record(id) {
                    Ok(record) => copies.push(places.copy(record, true)?),
                    // Half made or half destroyed: it counts as absent.
                    Err(VolumeError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(copies)
        })
        .await
    }

    pub(crate) async fn find(&self, id: VolumeId) -> Result<Option<LocalCopy>, VolumeError> {
        self.work(move |places| match places.record(id) {
            Ok(record) => places.copy(record, false).map(Some),
            Err(VolumeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// Bytes that a volume occupies. Takes a walk through all of its files.
    pub(crate) async fn used_bytes(&self, id: VolumeId) -> Result<u64, VolumeError> {
        self.work(move |places| tree::bytes(&places.volume(id)))
            .await
    }

    pub(crate) async fn create(&self, request: &CreateVolume) -> Result<(), VolumeError> {
        let record = Record {
            size_bytes: request.size_bytes,
            ..Record::primary(request.id, request.name.clone(), request.epoch)
        };
        self.work(move |places| {
            places.make(record.id)?;
            make_dir(&places.data(record.id), 0o755)?;
            places.write(&record)?;
            places.mount_data(&record)
        })
        .await
    }

    pub(crate) async fn destroy(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        let (id, name) = (copy.id, copy.name.clone());
        self.work(move |places| {
            places.unmount_data(&name)?;
            // The record goes first: what is left after a crash counts as absent.
            tree::remove(&places.volume(id).join("volume.json"))?;
            tree::remove(&places.volume(id))
        })
        .await
    }

    pub(crate) async fn snapshot(
        &self,
        id: VolumeId,
        name: &str,
        _epoch: Epoch,
    ) -> Result<Option<Snapshot>, VolumeError> {
        let name = name.to_owned();
        self.work(move |places| {
            let incoming = places.clean(id)?;
            let copied = tree::copy(&places.data(id), &incoming.join("tree"));
            if copied.is_err() {
                places.drop_incoming(id);
            }
            copied?;
            places.commit(id, &name, random_guid()).map(Some)
        })
        .await
    }

    pub(crate) async fn find_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<Snapshot, VolumeError> {
        let name = name.to_owned();
        self.work(move |places| {
            let snapshots = places.snapshots(id)?;
            let found = snapshots.into_iter().find(|s| s.name == name);
            found.ok_or_else(|| {
                VolumeError::Command(format!("volume {id} has no snapshot '{name}'"))
            })
        })
        .await
    }

    pub(crate) async fn destroy_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<(), VolumeError> {
        let name = name.to_owned();
        self.work(move |places| places.remove_snapshot(id, &name))
            .await
    }

    pub(crate) async fn promote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        let (id, newest) = (copy.id, copy.newest().cloned());
        self.work(move |places| {
            let mut record = places.record(id)?;
            if let (Role::Replica, Some(newest)) = (record.role, newest) {
                places.prepare_data(&mut record, &newest)?;
            }
            record.role = Role::Primary;
            record.epoch = epoch;
            // From here on the app writes to it.
            record.data_is = None;
            places.write(&record)?;
            places.mount_data(&record)
        })
        .await
    }

    pub(crate) async fn demote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        let id = copy.id;
        self.work(move |places| {
            let mut record = places.record(id)?;
            places.unmount_data(&record.name)?;
            if record.role == Role::Primary {
                record.wrote = Some(record.epoch);
            }
            record.role = Role::Replica;
            record.epoch = epoch;
            places.write(&record)
        })
        .await
    }

    pub(crate) async fn mount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        let id = copy.id;
        self.work(move |places| places.mount_data(&places.record(id)?))
            .await
    }

    pub(crate) async fn unmount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        let name = copy.name.clone();
        if copy.mounted_at.is_none() {
            return Ok(());
        }
        self.work(move |places| places.unmount_data(&name)).await
    }

    pub(crate) async fn set_acknowledged(
        &self,
        id: VolumeId,
        guids: &[Guid],
    ) -> Result<(), VolumeError> {
        let guids = guids.to_vec();
        self.change(id, |record| record.acknowledged = guids).await
    }

    pub(crate) async fn set_replication(
        &self,
        id: VolumeId,
        replication: Option<&SetReplication>,
    ) -> Result<(), VolumeError> {
        let replication = replication.cloned();
        self.change(id, |record| record.replication = replication)
            .await
    }

    /// Compares trees: as dear as a snapshot, but it leaves none.
    pub(crate) async fn look(&self, volumes: &[(VolumeId, String)]) -> Vec<(VolumeId, Sight)> {
        let mut found = Vec::new();
        for (id, newest) in volumes.iter().cloned() {
            let counted = self
                .work(move |places| changes(&places.tree(id, &newest), &places.data(id), 0))
                .await;
            // A tree that changes while it is walked cannot be counted, and has changed.
            let sight = counted.map_or(Sight::Blind, |changes| Sight::Written(changes.bytes));
            found.push((id, sight));
        }
        found
    }

    pub(crate) async fn stamp(
        &self,
        _here: Option<&LocalCopy>,
        stamp: &Stamp,
    ) -> Result<(), VolumeError> {
        let stamp = stamp.clone();
        self.change(stamp.id, move |record| {
            record.name = stamp.name;
            record.size_bytes = stamp.size_bytes;
            record.epoch = stamp.epoch;
        })
        .await
    }

    pub(crate) fn send(&self, id: VolumeId, from: Option<&str>, to: &str) -> Sending {
        let from = from.map(|from| self.places.tree(id, from));
        Sending::start(from, self.places.tree(id, to), self.places.snapshot(id, to))
    }

    pub(crate) fn receive(&self, stamp: &Stamp, from: Option<Guid>, to: &str) -> Receiving {
        Receiving::start(Arc::clone(&self.places), stamp.clone(), from, to.to_owned())
    }
}

impl Places {
    /// Makes a replica's data equal its newest snapshot, at the cost of what differs.
    fn prepare_data(&self, record: &mut Record, newest: &Snapshot) -> Result<(), VolumeError> {
        if record.data_is == Some(newest.guid) {
            return Ok(());
        }
        // Until it is done the data equals nothing.
        record.data_is = None;
        record.syncing = true;
        self.write(record)?;
        tree::sync(&self.tree(record.id, &newest.name), &self.data(record.id))?;
        record.syncing = false;
        record.data_is = Some(newest.guid);
        self.write(record)
    }

    /// Starts a received snapshot: a copy of its base, or nothing.
    fn start(&self, stamp: &Stamp, from: Option<Guid>) -> Result<PathBuf, VolumeError> {
        let id = stamp.id;
        let base = match from {
            None => None,
            Some(guid) => {
                let snapshots = self.snapshots(id)?;
                let base = snapshots.into_iter().find(|s| s.guid == guid);
                Some(base.ok_or_else(|| {
                    VolumeError::Command(format!("volume {id} has no snapshot {guid} here"))
                })?)
            }
        };
        self.make(id)?;
        let tree = self.clean(id)?.join("tree");
        if let Some(base) = base {
            tree::copy(&self.tree(id, &base.name), &tree)?;
        }
        Ok(tree)
    }

    /// Ends a received snapshot: from here on it is there.
    fn end(&self, stamp: &Stamp, to: &str, guid: Guid) -> Result<(), VolumeError> {
        if matches!(self.record(stamp.id), Err(VolumeError::NotFound(_))) {
            self.write(&Record {
                size_bytes: stamp.size_bytes,
                role: Role::Replica,
                ..Record::primary(stamp.id, stamp.name.clone(), stamp.epoch)
            })?;
        }
        self.commit(stamp.id, to, guid)?;
        let mut record = self.record(stamp.id)?;
        let newest = self.snapshots(stamp.id)?.pop();
        match newest {
            // Promotion then costs nothing but a link.
            Some(newest) if record.role == Role::Replica => self.prepare_data(&mut record, &newest),
            _ => Ok(()),
        }
    }
}

fn random_guid() -> Guid {
    // Both halves, because each has a few bits that are not random.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    Guid(high ^ low)
}
