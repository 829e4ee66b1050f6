//! Volumes as datasets `POOL/flocker/UUID`.
//!
//! Identity is the UUID; name, role and epoch are user properties, and the mount point follows
//! from the name. Nothing is ever mounted but by the agent: datasets are `canmount=noauto`,
//! streams are received unmounted, and everything below the pool's root is read-only unless it
//! is a primary. `receive -F` and `send -R/-p` are not used at all: the first destroys what it
//! finds in its way, the others carry properties over the replica's own.
//!
//! Whatever the file system, a replica is unmounted while it receives: on zfs-fuse a dataset
//! that is mounted meanwhile shows old content afterwards, and a mount costs 10 ms.

mod aside;
mod aside_look;
mod command;
mod health;
mod look;
mod parse;
mod patience;
mod probe;
mod resume;
mod stream;
mod verbs;
mod version;

use std::path::{Path, PathBuf};

use flocker_api::{
    agent::{CreateVolume, StorageKind, StorageStatus},
    name::{VolumeId, VolumeName},
    replication::SetReplication,
    volume::{Epoch, Guid, Role, Snapshot},
};
use futures_util::future::try_join_all;

pub(super) use self::stream::{Receiving, Sending};
use self::{
    command::{CommandError, run},
    health::Health,
    parse::{Failure, MORE_PROPERTIES, PROPERTIES},
    patience::zfs_patiently,
    probe::{Capabilities, Capability, identify, probe},
};
use super::storage::{LocalCopy, Stamp, Stream};
use crate::error::VolumeError;

/// What a listing prints in each line.
const COLUMNS: &str = "name,property,value,source";

/// A pool's `flocker` datasets.
#[derive(Debug)]
pub(crate) struct Zfs {
    /// `POOL/flocker`.
    parent: String,
    mount_root: PathBuf,
    capabilities: Capabilities,
    health: Health,
}

async fn zfs(arguments: &[&str]) -> Result<String, CommandError> {
    run("zfs", arguments).await
}

/// Health and how full it is, in percent, of a pool.
pub(super) async fn pool_state(pool: &str) -> Result<String, VolumeError> {
    Ok(run("zpool", &["list", "-H", "-o", "health,capacity", pool]).await?)
}

/// Turns a failure that means "it is already so" into success.
fn unless(expected: Failure, result: Result<String, CommandError>) -> Result<(), VolumeError> {
    match result {
        Err(error) if error.failure != expected => Err(error.into()),
        _ => Ok(()),
    }
}

impl Zfs {
    pub(crate) async fn open(pool: &str, mount_root: &Path) -> Result<Self, VolumeError> {
        let mut capabilities = identify().await?;
        let text = zfs(&[
            "get",
            "-Hp",
            "-o",
            "property,value",
            "canmount,readonly,atime",
            pool,
        ])
        .await
        .map_err(|error| match error.failure {
            Failure::NotFound => VolumeError::Command(format!(
                "there is no pool '{pool}'; make it with 'zpool create {pool} DEVICE'"
            )),
            _ => error.into(),
        })?;
        for (property, value) in [("canmount", "off"), ("readonly", "on"), ("atime", "off")] {
            if !text
                .lines()
                .any(|line| line == format!("{property}\t{value}"))
            {
                zfs(&["set", &format!("{property}={value}"), pool]).await?;
            }
        }
        let parent = format!("{pool}/flocker");
        let create = [
            "create",
            "-o",
            "canmount=off",
            "-o",
            "mountpoint=none",
            &parent,
        ];
        unless(Failure::Exists, zfs(&create).await)?;
        probe(&mut capabilities, pool, &parent).await?;
        tracing::info!(
            version = capabilities.version, can = ?capabilities.names(), "the file system"
        );
        if let Some(doubt) = &capabilities.doubt {
            tracing::warn!("{doubt}");
        }
        Ok(Self {
            parent,
            mount_root: mount_root.to_owned(),
            capabilities,
            health: Health::default(),
        })
    }

    pub(crate) fn kind(&self) -> StorageKind {
        self.capabilities.kind
    }

    pub(crate) fn doubt(&self) -> Option<&str> {
        self.capabilities.doubt.as_deref()
    }

    pub(crate) async fn status(&self) -> StorageStatus {
        let get = ["get", "-Hp", "-o", "value", "available", &self.parent];
        let (available_bytes, problem) = match zfs(&get).await {
            Ok(text) => {
                let available = text.trim().parse().unwrap_or_default();
                (available, self.pool_trouble().await)
            }
            Err(error) => (0, Some(error.error.to_string())),
        };
        StorageStatus {
            kind: self.capabilities.kind,
            version: self.capabilities.version.clone(),
            capabilities: self.capabilities.names(),
            available_bytes,
            problem,
            doubt: self.capabilities.doubt.clone(),
        }
    }

    fn dataset(&self, id: VolumeId) -> String {
        format!("{}/{id}", self.parent)
    }

    fn mount_point(&self, name: &VolumeName) -> String {
        self.mount_root
            .join(name.as_str())
            .to_string_lossy()
            .into_owned()
    }

    async fn set(&self, id: VolumeId, property: &str, value: &str) -> Result<(), VolumeError> {
        zfs(&["set", &format!("{property}={value}"), &self.dataset(id)]).await?;
        Ok(())
    }

    /// Lists what is beneath a dataset, as text or as JSON.
    async fn get(&self, dataset: &str) -> Result<Vec<LocalCopy>, CommandError> {
        let json = self.capabilities.has(Capability::Json);
        let more = self.capabilities.kind == StorageKind::OpenZfs;
        let properties = format!("{PROPERTIES}{}", if more { MORE_PROPERTIES } else { "" });
        let arguments: &[&str] = match (json, more) {
            (true, _) => &["-j", "-p", "-t", "filesystem,snapshot,bookmark"],
            (false, true) => &["-Hp", "-o", COLUMNS, "-t", "filesystem,snapshot,bookmark"],
            (false, false) => &["-Hp", "-o", COLUMNS],
        };
        let text = zfs(&[&["get", "-r"], arguments, &[&properties, dataset]].concat()).await?;
        let read = if json {
            parse::copies_of_json
        } else {
            parse::copies
        };
        read(&self.parent, &text).map_err(|error| CommandError {
            failure: Failure::Other,
            error,
        })
    }

    pub(crate) async fn list(&self) -> Result<Vec<LocalCopy>, VolumeError> {
        Ok(self.get(&self.parent).await?)
    }

    pub(crate) async fn find(&self, id: VolumeId) -> Result<Option<LocalCopy>, VolumeError> {
        match self.get(&self.dataset(id)).await {
            Ok(mut copies) => Ok(copies.pop()),
            Err(error) if error.failure == Failure::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn create(&self, request: &CreateVolume) -> Result<(), VolumeError> {
        let refquota = request.size_bytes.map(|bytes| format!("refquota={bytes}"));
        let mountpoint = format!("mountpoint={}", self.mount_point(&request.name));
        let name = format!("flocker:name={}", request.name);
        let state = format!(
            "flocker:state={}",
            parse::state(Role::Primary, request.epoch, None)
        );
        let mut options = vec![
            "readonly=off",
            "canmount=noauto",
            &mountpoint,
            &name,
            &state,
        ];
        options.extend(refquota.as_deref());
        let mut arguments = vec!["create"];
        for option in options {
            arguments.extend(["-o", option]);
        }
        let dataset = self.dataset(request.id);
        arguments.push(&dataset);
        zfs(&arguments).await?;
        zfs_patiently(&["mount", &dataset]).await?;
        Ok(())
    }

    pub(crate) async fn destroy(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        self.unmount(copy).await?;
        let dataset = self.dataset(copy.id);
        self.release_clones(&dataset).await?;
        unless(
            Failure::NotFound,
            zfs_patiently(&["destroy", "-r", &dataset]).await,
        )?;
        // The mount point is left only where something was put beneath it; that stays.
        if let Err(error) = tokio::fs::remove_dir(self.mount_point(&copy.name)).await {
            tracing::debug!(volume = %copy.id, %error, "the mount point stays");
        }
        Ok(())
    }

    pub(crate) async fn snapshot(
        &self,
        id: VolumeId,
        name: &str,
        epoch: Epoch,
    ) -> Result<Option<Snapshot>, VolumeError> {
        let stamp = format!("flocker:epoch={epoch}");
        let snapshot = format!("{}@{name}", self.dataset(id));
        zfs(&["snapshot", "-o", &stamp, &snapshot]).await?;
        // Its guid is known to `zfs get`, and to the first bytes of its stream.
        Ok(None)
    }

    pub(crate) async fn find_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<Snapshot, VolumeError> {
        let snapshot = format!("{}@{name}", self.dataset(id));
        let text = zfs(&[
            "get",
            "-Hp",
            "-o",
            "property,value",
            "guid,createtxg",
            &snapshot,
        ])
        .await?;
        parse::one_snapshot(name, &text)
    }

    pub(crate) async fn destroy_snapshot(
        &self,
        id: VolumeId,
        name: &str,
    ) -> Result<(), VolumeError> {
        let snapshot = format!("{}@{name}", self.dataset(id));
        unless(Failure::NotFound, zfs(&["destroy", &snapshot]).await)
    }

    /// Several at once: OpenZFS takes them in one command; commands that run together wait for
    /// the pool's disks together.
    pub(crate) async fn destroy_snapshots(
        &self,
        id: VolumeId,
        names: &[String],
    ) -> Result<(), VolumeError> {
        if self.capabilities.kind == StorageKind::OpenZfs {
            let snapshots = format!("{}@{}", self.dataset(id), names.join(","));
            return unless(Failure::NotFound, zfs(&["destroy", &snapshots]).await);
        }
        let each = names.iter().map(|name| self.destroy_snapshot(id, name));
        try_join_all(each).await?;
        Ok(())
    }

    pub(crate) async fn promote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        self.unmount(copy).await?;
        if copy.partial.is_some() {
            // Nobody goes on with it any more, and it pins the snapshot that it is based on.
            self.discard_partial(copy.id).await?;
        }
        let state = parse::state(Role::Primary, epoch, None);
        // Each of them waits for the pool's disks, so they wait together.
        tokio::try_join!(
            self.set(copy.id, "flocker:state", &state),
            self.set(copy.id, "readonly", "off"),
        )?;
        self.mount(copy).await
    }

    pub(crate) async fn demote(&self, copy: &LocalCopy, epoch: Epoch) -> Result<(), VolumeError> {
        self.unmount(copy).await?;
        let wrote = copy.wrote_under();
        let state = parse::state(Role::Replica, epoch, wrote);
        tokio::try_join!(
            self.set(copy.id, "flocker:state", &state),
            self.set(copy.id, "readonly", "on"),
        )?;
        Ok(())
    }

    pub(crate) async fn seal(&self, id: VolumeId) -> Result<(), VolumeError> {
        self.set(id, "readonly", "on").await
    }

    pub(crate) async fn mount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        let dataset = self.dataset(copy.id);
        unless(Failure::Mounted, zfs_patiently(&["mount", &dataset]).await)
    }

    pub(crate) async fn unmount(&self, copy: &LocalCopy) -> Result<(), VolumeError> {
        if copy.mounted_at.is_none() {
            return Ok(());
        }
        match zfs(&["unmount", &self.dataset(copy.id)]).await {
            Err(error) if error.failure == Failure::Busy => Err(VolumeError::Busy {
                id: copy.id,
                reason: format!("it cannot be unmounted: {}", error.error),
            }),
            result => unless(Failure::NotMounted, result),
        }
    }

    /// Back to its newest snapshot.
    async fn roll_back(&self, id: VolumeId, to: &str) -> Result<(), VolumeError> {
        zfs(&["rollback", &format!("{}@{to}", self.dataset(id))]).await?;
        Ok(())
    }

    pub(crate) async fn set_acknowledged(
        &self,
        id: VolumeId,
        guids: &[Guid],
    ) -> Result<(), VolumeError> {
        self.set(id, "flocker:acknowledged", &parse::acknowledged(guids))
            .await
    }

    pub(crate) async fn set_replication(
        &self,
        id: VolumeId,
        replication: Option<&SetReplication>,
    ) -> Result<(), VolumeError> {
        let Some(replication) = replication else {
            zfs(&["inherit", "flocker:replication", &self.dataset(id)]).await?;
            return Ok(());
        };
        let text = serde_json::to_string(replication)
            .expect("policies have string keys and no failing serializer");
        self.set(id, "flocker:replication", &text).await
    }

    pub(crate) async fn stamp(
        &self,
        here: Option<&LocalCopy>,
        stamp: &Stamp,
    ) -> Result<(), VolumeError> {
        let id = stamp.id;
        // A copy that was never stamped is at epoch 0; it is seen to like a new one.
        let here = here.filter(|copy| copy.epoch != Epoch(0));
        if here.is_none() {
            // First, or a mount point would be mounted at.
            self.set(id, "canmount", "noauto").await?;
        }
        let mut properties = Vec::new();
        if here.is_none_or(|copy| copy.name != stamp.name) {
            properties.push(format!("flocker:name={}", stamp.name));
            properties.push(format!("mountpoint={}", self.mount_point(&stamp.name)));
        }
        if here.is_none_or(|copy| copy.size_bytes != stamp.size_bytes) {
            let size = stamp.size_bytes.map(|bytes| bytes.to_string());
            properties.push(format!("refquota={}", size.as_deref().unwrap_or("none")));
        }
        // Each waits for the pool's disks, so they wait together.
        let dataset = self.dataset(id);
        let set = properties.iter().map(async |property| {
            let set = zfs(&["set", property, &dataset]).await;
            set.map_err(VolumeError::from)
        });
        try_join_all(set).await?;
        // The state goes last: until then the copy counts as not stamped.
        if here.is_none_or(|copy| copy.epoch != stamp.epoch) {
            let wrote = here.and_then(|copy| copy.wrote);
            let state = parse::state(Role::Replica, stamp.epoch, wrote);
            self.set(id, "flocker:state", &state).await?;
        }
        Ok(())
    }

    pub(crate) fn send(&self, id: VolumeId, stream: &Stream<'_>) -> Result<Sending, VolumeError> {
        let words = self.send_words(id, stream);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Sending::spawn(&[&["send"], &words[..]].concat())
    }

    /// What follows `zfs send`. The flags are the same for every stream between two nodes: a
    /// replica that has once received large blocks takes no stream without them.
    fn send_words(&self, id: VolumeId, stream: &Stream<'_>) -> Vec<String> {
        if let Some(token) = stream.token {
            return vec!["-t".to_owned(), token.to_owned()];
        }
        let ours = self.features();
        let flags = [
            ("-L", ours.large_blocks && stream.takes.large_blocks),
            ("-e", ours.embedded && stream.takes.embedded),
            ("-c", ours.compressed && stream.takes.compressed),
        ];
        let flags = flags.iter().filter(|(_, both)| *both);
        let mut words: Vec<String> = flags.map(|(flag, _)| (*flag).to_owned()).collect();
        if let Some(from) = stream.from {
            let mark = if from.starts_with('#') { "" } else { "@" };
            words.extend(["-i".to_owned(), format!("{mark}{from}")]);
        }
        words.push(format!("{}@{}", self.dataset(id), stream.to));
        words
    }

    pub(crate) async fn estimate(&self, id: VolumeId, stream: &Stream<'_>) -> Option<u64> {
        if !self.capabilities.has(Capability::Estimate) {
            return None;
        }
        let words = self.send_words(id, stream);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = zfs(&[&["send", "-nP"], &words[..]].concat()).await.ok()?;
        parse::estimate(&text)
    }

    pub(crate) fn receive(&self, id: VolumeId) -> Result<Receiving, VolumeError> {
        if self.capabilities.encrypted {
            return Err(VolumeError::Encrypted(id));
        }
        let dataset = self.dataset(id);
        if self.capabilities.has(Capability::Resume) {
            Receiving::spawn(&["receive", "-s", "-u", &dataset])
        } else {
            Receiving::spawn(&["receive", "-u", &dataset])
        }
    }
}
