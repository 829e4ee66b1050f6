//! The node's volumes: every verb that the API offers on them, on whichever storage.
//!
//! One thing at a time is done with a volume; a verb waits until the one before is through.
//! A verb that finds what it asks for is done.

#![expect(
    clippy::disallowed_methods,
    reason = "snapshots are named by the time at which they are taken"
)]

use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    agent::{CreateVolume, ReplicateReply, ReplicateRequest, StorageStatus},
    name::{NodeName, VolumeId},
    replication::VolumePolicy,
    tls::{self, Listener},
    volume::{Epoch, Role, Snapshot, VolumeStatus},
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    asides::Asides,
    directory::Directory,
    idle::Connections,
    index::{Entry, Index, Knowledge},
    receiver,
    replicator::What,
    scheduler::{self, Scheduler},
    storage::{LocalCopy, Storage},
    transport::{Link, TransferLimits, over},
    zfs::Zfs,
};
use crate::{
    error::VolumeError,
    logic::{label::Label, schedule::Pace},
    metrics::Rounds,
};

/// Connections of senders, also of those that have nothing to send now; more wait in the listener's queue.
const SESSIONS_MAX: usize = 128;
/// How long the receives that run when the agent ends may take to be undone.
const END_MAX: Duration = Duration::from_secs(10);

/// Where a node keeps its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageConfig {
    /// Datasets `POOL/flocker/UUID` of a ZFS pool.
    Zfs {
        /// The pool; it must exist.
        pool: String,
        /// Volumes are mounted at `MOUNT_ROOT/NAME`.
        mount_root: PathBuf,
    },
    /// Copies of directory trees.
    Directory {
        /// Where they are kept; made if it does not exist.
        root: PathBuf,
        /// Where primaries appear by name; `ROOT/mounts` if not given.
        mount_root: Option<PathBuf>,
    },
}

/// The node's volumes. Cheap to clone; all clones are the same volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Storage,
    node: NodeName,
    link: Link,
    index: Index,
    asides: Asides,
    scheduler: Arc<Scheduler>,
    rounds: Rounds,
}

/// The node's volumes, while anybody else has them.
#[derive(Debug, Clone)]
pub(crate) struct WeakVolumes {
    inner: Weak<Inner>,
}

impl WeakVolumes {
    pub(crate) fn upgrade(&self) -> Option<Volumes> {
        let inner = self.inner.upgrade()?;
        Some(Volumes { inner })
    }
}

impl Volumes {
    /// Opens the storage and learns what it can do.
    ///
    /// # Errors
    /// When there is no such pool or directory, or its programs do not answer.
    pub async fn open(config: StorageConfig, node: NodeName) -> Result<Self, VolumeError> {
        Self::open_with(config, node, TransferLimits::default()).await
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`Volumes::open`].
    pub async fn open_with(
        config: StorageConfig,
        node: NodeName,
        limits: TransferLimits,
    ) -> Result<Self, VolumeError> {
        let link = Link {
            limits,
            ..Link::default()
        };
        Self::open_over(config, node, link, Pace::default()).await
    }

    /// The same with another way to its peers, and another pace of replication.
    ///
    /// # Errors
    /// As [`Volumes::open`].
    pub async fn open_over(
        config: StorageConfig,
        node: NodeName,
        link: Link,
        pace: Pace,
    ) -> Result<Self, VolumeError> {
        let storage = match config {
            StorageConfig::Zfs { pool, mount_root } => {
                Storage::Zfs(Zfs::open(&pool, &mount_root).await?)
            }
            StorageConfig::Directory { root, mount_root } => {
                Storage::Directory(Directory::open(root, mount_root).await?)
            }
        };
        let volumes = Self {
            inner: Arc::new(Inner {
                storage,
                node,
                link,
                index: Index::default(),
                asides: Asides::default(),
                scheduler: Arc::new(Scheduler::new(pace)),
                rounds: Rounds::default(),
            }),
        };
        volumes.take_up_asides().await?;
        volumes.storage().recover().await?;
        volumes.sweep().await?;
        scheduler::start(&volumes);
        Ok(volumes)
    }

    pub(crate) fn downgrade(&self) -> WeakVolumes {
        WeakVolumes {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// What is counted of rounds.
    pub(crate) fn rounds(&self) -> &Rounds {
        &self.inner.rounds
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.inner.scheduler
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    /// All volumes of which anything is known.
    pub(super) fn entries(&self) -> Vec<(VolumeId, Arc<Entry>)> {
        self.inner.index.all()
    }

    pub(super) fn asides_known(&self) -> &Asides {
        &self.inner.asides
    }

    pub(crate) fn node(&self) -> &NodeName {
        &self.inner.node
    }

    pub(crate) fn limits(&self) -> &TransferLimits {
        &self.inner.link.limits
    }

    pub(crate) fn link(&self) -> &Link {
        &self.inner.link
    }

    pub(crate) fn origins(&self, of: VolumeId) -> BTreeSet<String> {
        self.inner.index.origins(of)
    }

    pub(crate) fn entry(&self, id: VolumeId) -> Arc<Entry> {
        self.inner.index.entry(id)
    }

    /// Lists everything, and takes that for what is so.
    pub(crate) async fn sweep(&self) -> Result<(), VolumeError> {
        let versions = self.inner.index.versions();
        let copies = self.storage().list().await?;
        for (id, copy) in self.inner.index.take_over(&versions, copies) {
            self.replan(id, copy.as_ref());
        }
        Ok(())
    }

    /// Asks the storage for a copy.
    pub(super) async fn copy(&self, id: VolumeId) -> Result<LocalCopy, VolumeError> {
        let entry = self.entry(id);
        entry.forget();
        let copy = self.look_up(id, &entry).await?;
        copy.ok_or(VolumeError::NotFound(id))
    }

    /// What is known of a copy; the storage is asked where nothing is.
    pub(crate) async fn look_up(
        &self,
        id: VolumeId,
        entry: &Entry,
    ) -> Result<Option<LocalCopy>, VolumeError> {
        match entry.known() {
            Knowledge::Copy(copy) => Ok(Some(*copy)),
            Knowledge::Absent => Ok(None),
            Knowledge::Unknown => {
                let version = entry.version();
                let copy = self.storage().find(id).await?;
                if entry.learn_at(version, copy.clone()) {
                    self.replan(id, copy.as_ref());
                }
                Ok(copy)
            }
        }
    }

    /// Remembers what a copy is, and that it shall be replicated, or no longer.
    pub(crate) fn learn(&self, id: VolumeId, entry: &Entry, copy: Option<LocalCopy>) {
        self.replan(id, copy.as_ref());
        entry.learn(copy);
    }

    fn replan(&self, id: VolumeId, copy: Option<&LocalCopy>) {
        match copy {
            Some(copy) => self.reschedule(copy),
            None => self.unschedule(id),
        }
    }

    pub(super) fn status_of(&self, copy: LocalCopy) -> VolumeStatus {
        let transfer = self.entry(copy.id).progress.status();
        let replication = self.replication_of(&copy);
        VolumeStatus {
            transfer,
            replication,
            ..copy.status()
        }
    }

    /// The storage's state.
    ///
    /// # Errors
    /// None now; what is wrong with the storage is in its status.
    pub async fn status(&self) -> Result<StorageStatus, VolumeError> {
        Ok(self.storage().status().await)
    }

    /// Every copy of a volume on this node, as far as the agent knows: what somebody changed
    /// behind its back shows after the next sweep.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn list(&self) -> Result<Vec<VolumeStatus>, VolumeError> {
        let mut all = Vec::new();
        let entries = self.inner.index.all();
        let mounted = |entry: &Arc<Entry>| match entry.known() {
            Knowledge::Copy(copy) => copy.mounted_at,
            Knowledge::Absent | Knowledge::Unknown => None,
        };
        let paths: Vec<_> = entries.iter().filter_map(|(_, e)| mounted(e)).collect();
        let gone = self.storage().taken_away(&paths);
        for (id, entry) in entries {
            if mounted(&entry).is_some_and(|path| gone.contains(&path)) {
                entry.forget();
            }
            if let Some(copy) = self.look_up(id, &entry).await? {
                all.push(self.status_of(copy));
            }
        }
        all.sort_by_key(|volume| volume.id);
        Ok(all)
    }

    /// One copy.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn get(&self, id: VolumeId) -> Result<VolumeStatus, VolumeError> {
        let copy = self.copy(id).await?;
        let copy = self.storage().measure(copy).await?;
        Ok(self.status_of(copy))
    }

    /// Creates a volume as primary, mounted; answers with the one of this id if it is there.
    ///
    /// # Errors
    /// When the name is taken, or the volume is here under a newer epoch.
    pub async fn create(&self, request: CreateVolume) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(request.id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let mut copies = self.storage().list_all().await?;
        if copies
            .iter()
            .any(|c| c.id == request.id && c.trash.is_some())
        {
            return Err(VolumeError::InTrash(request.id));
        }
        copies.retain(|copy| copy.trash.is_none());
        if let Some(copy) = copies.iter().find(|c| c.id == request.id) {
            fresh(copy, request.epoch)?;
            let ours = copy.role == Role::Primary && copy.epoch == request.epoch;
            if ours && copy.mounted_at.is_none() {
                self.storage().mount(copy).await?;
            }
        } else if let Some(other) = copies.iter().find(|c| c.name == request.name) {
            return Err(VolumeError::NameTaken {
                name: request.name,
                id: other.id,
            });
        } else {
            self.storage().create(&request).await?;
        }
        self.get(request.id).await
    }

    /// Destroys this node's copy with its snapshots; what is not there is success.
    ///
    /// # Errors
    /// When the epoch is stale, or somebody uses it.
    pub async fn destroy(&self, id: VolumeId, epoch: Epoch) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let Some(copy) = self.storage().find(id).await? else {
            return Ok(());
        };
        fresh(&copy, epoch)?;
        self.unschedule(id);
        self.storage().destroy(&copy).await?;
        self.learn(id, &entry, None);
        Ok(())
    }

    /// Takes a snapshot of a primary.
    ///
    /// # Errors
    /// When this copy is not the primary of that epoch.
    pub async fn snapshot(&self, id: VolumeId, epoch: Epoch) -> Result<Snapshot, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.copy(id).await?;
        primary(&copy, epoch)?;
        let name = next_label(epoch);
        entry.forget();
        self.storage().snapshot(id, &name, epoch).await?;
        self.touched(id);
        self.tidy_later(id);
        self.storage().find_snapshot(id, &name).await
    }

    /// Takes a snapshot and brings the peer's replica up to it.
    ///
    /// # Errors
    /// When this copy is not the primary of that epoch, the peer refuses or does not answer,
    /// or its copy has diverged.
    pub async fn replicate(
        &self,
        id: VolumeId,
        request: ReplicateRequest,
    ) -> Result<ReplicateReply, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let copy = self.look_up(id, &entry).await?;
        let copy = copy.ok_or(VolumeError::NotFound(id))?;
        primary(&copy, request.epoch)?;
        if copy.encrypted {
            return Err(VolumeError::Encrypted(id));
        }
        self.touched(id);
        let name = next_label(request.epoch);
        self.transfer(&entry, copy, &request, What::New(name), Connections::New)
            .await
    }

    /// Makes this copy the primary: writable, mounted fresh.
    ///
    /// # Errors
    /// When the epoch is stale or the copy is not here.
    pub async fn promote(&self, id: VolumeId, epoch: Epoch) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let copy = self.copy(id).await?;
        fresh(&copy, epoch)?;
        if copy.epoch == epoch && copy.role == Role::Primary && copy.mounted_at.is_some() {
            return Ok(self.status_of(copy));
        }
        self.storage().promote(&copy, epoch).await?;
        self.touched(id);
        self.get(id).await
    }

    /// Makes this copy a replica: unmounted, read-only.
    ///
    /// # Errors
    /// When the epoch is stale, the copy is not here, or somebody uses it.
    pub async fn demote(&self, id: VolumeId, epoch: Epoch) -> Result<VolumeStatus, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        entry.forget();
        let copy = self.copy(id).await?;
        fresh(&copy, epoch)?;
        if copy.epoch == epoch && copy.role == Role::Replica && copy.mounted_at.is_none() {
            return Ok(self.status_of(copy));
        }
        self.storage().demote(&copy, epoch).await?;
        if copy.replication.is_some() {
            self.storage().set_replication(id, None).await?;
        }
        self.get(id).await
    }

    /// Makes the primary of exactly this epoch writable and mounts it, if it is not mounted.
    /// Whether it was so.
    pub(crate) async fn remount(&self, id: VolumeId, epoch: Epoch) -> Result<bool, VolumeError> {
        let entry = self.entry(id);
        let _lock = entry.lock.lock().await;
        let Some(copy) = self.storage().find(id).await? else {
            return Ok(false);
        };
        if primary(&copy, epoch).is_err() || copy.mounted_at.is_some() {
            return Ok(false);
        }
        entry.forget();
        let promoted = self.storage().promote(&copy, epoch).await;
        entry.forget();
        promoted.map(|()| true)
    }

    /// Where a volume is mounted now.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn mount_path(&self, id: VolumeId) -> Result<Option<PathBuf>, VolumeError> {
        Ok(self.copy(id).await?.mounted_at)
    }

    /// Whether this copy is the primary of exactly this epoch, mounted and writable.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn is_primary(&self, id: VolumeId, epoch: Epoch) -> Result<bool, VolumeError> {
        let copy = self.storage().find(id).await?;
        Ok(copy.is_some_and(|copy| {
            copy.role == Role::Primary && copy.epoch == epoch && copy.mounted_at.is_some()
        }))
    }
}

/// How a copy shall be replicated now: only while it is the primary of the policy's epoch.
pub(super) fn active_policy(copy: &LocalCopy) -> Option<&VolumePolicy> {
    let replication = copy.replication.as_ref()?;
    let active = copy.role == Role::Primary && copy.epoch == replication.epoch;
    replication.policy.as_ref().filter(|_| active)
}

/// Refuses what comes under an epoch that has passed.
pub(super) fn fresh(copy: &LocalCopy, asked: Epoch) -> Result<(), VolumeError> {
    if asked < copy.epoch {
        return Err(VolumeError::StaleEpoch {
            id: copy.id,
            asked,
            current: copy.epoch,
        });
    }
    Ok(())
}

/// Refuses what only the primary of exactly this epoch may do.
pub(super) fn primary(copy: &LocalCopy, asked: Epoch) -> Result<(), VolumeError> {
    fresh(copy, asked)?;
    if copy.role != Role::Primary || copy.epoch != asked {
        return Err(VolumeError::NotPrimary {
            id: copy.id,
            role: copy.role,
            epoch: copy.epoch,
        });
    }
    Ok(())
}

pub(super) fn next_label(epoch: Epoch) -> String {
    // A clock before 1970 gives names that sort wrongly, which nothing relies on.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    Label { epoch, micros }.to_string()
}

/// Receives replication streams until `shutdown` resolves; running receives are then aborted
/// and waited for.
///
/// # Errors
/// None now; a connection that cannot be taken is logged.
pub async fn serve_replication(
    listener: TcpListener,
    volumes: Volumes,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), VolumeError> {
    tokio::pin!(shutdown);
    let mut listener = Listener::new(listener, volumes.link().tls.clone(), &[tls::Role::Node]);
    let slots = Arc::new(Semaphore::new(SESSIONS_MAX));
    let mut sessions = JoinSet::new();
    let stop = CancellationToken::new();
    loop {
        while sessions.try_join_next().is_some() {}
        let accepting = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        let ((stream, address, identity), slot) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepting => accepted,
        };
        let connection = over(stream, identity, address, volumes.limits(), stop.clone());
        let volumes = volumes.clone();
        sessions.spawn(async move {
            let _slot = slot;
            receiver::serve(connection, &volumes).await;
        });
    }
    drop(listener);
    stop.cancel();
    let ended = async { while sessions.join_next().await.is_some() {} };
    if timeout(END_MAX, ended).await.is_err() {
        tracing::warn!("receives are still under way; they end with this agent");
    }
    Ok(())
}
