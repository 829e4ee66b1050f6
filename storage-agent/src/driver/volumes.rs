//! The node's volumes: every verb that the API offers on them, on whichever storage.
//!
//! One thing at a time is done with a volume; a verb waits until the one before is through.
//! A verb that finds what it asks for is done.

#![expect(
    clippy::disallowed_methods,
    reason = "snapshots are named by the time at which they are taken"
)]

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    agent::{CreateVolume, ReplicateReply, ReplicateRequest, StorageStatus},
    name::{NodeName, VolumeId},
    tls::{self, Listener},
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    directory::Directory,
    progress::Progress,
    receiver,
    replicator::Replicator,
    storage::{LocalCopy, Storage},
    transport::{Link, TransferLimits, over},
    zfs::Zfs,
};
use crate::{
    error::VolumeError,
    logic::{label::Label, retention::expendable},
};

/// Streams that are received at once; more wait in the listener's queue.
const SESSIONS_MAX: usize = 64;
/// How long after a transfer old snapshots are destroyed: out of the way of a move's last
/// steps, which follow one another faster.
const TIDY_AFTER: Duration = Duration::from_secs(3);

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
    entries: Mutex<HashMap<VolumeId, Arc<Entry>>>,
}

/// What is kept in memory about a volume; all of it may be lost.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Held while anything is done with it.
    pub(crate) lock: tokio::sync::Mutex<()>,
    pub(crate) progress: Progress,
    /// What each peer has acknowledged last since this agent started.
    acknowledged: Mutex<BTreeMap<NodeName, Guid>>,
    /// The copy as the last replication found it: spares the next one a look before it begins.
    /// Whatever changes role or epoch forgets it.
    known: Mutex<Option<LocalCopy>>,
    /// A tidying is due.
    tidying: AtomicBool,
}

impl Entry {
    /// Forgets what the copy was: it may be about to change.
    pub(crate) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn known(&self) -> Option<LocalCopy> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn learn(&self, copy: &LocalCopy) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(copy.clone());
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
        Self::open_over(config, node, link).await
    }

    /// The same with another way to its peers.
    ///
    /// # Errors
    /// As [`Volumes::open`].
    pub async fn open_over(
        config: StorageConfig,
        node: NodeName,
        link: Link,
    ) -> Result<Self, VolumeError> {
        let storage = match config {
            StorageConfig::Zfs { pool, mount_root } => {
                Storage::Zfs(Zfs::open(&pool, &mount_root).await?)
            }
            StorageConfig::Directory { root, mount_root } => {
                Storage::Directory(Directory::open(root, mount_root).await?)
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                node,
                link,
                entries: Mutex::default(),
            }),
        })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.inner.storage
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

    pub(crate) fn entry(&self, id: VolumeId) -> Arc<Entry> {
        let entries = self.inner.entries.lock();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(entries.entry(id).or_default())
    }

    async fn copy(&self, id: VolumeId) -> Result<LocalCopy, VolumeError> {
        let copy = self.storage().find(id).await?;
        copy.ok_or(VolumeError::NotFound(id))
    }

    fn status_of(&self, copy: LocalCopy) -> VolumeStatus {
        let transfer = self.entry(copy.id).progress.status();
        VolumeStatus {
            transfer,
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

    /// Every copy of a volume on this node.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn list(&self) -> Result<Vec<VolumeStatus>, VolumeError> {
        let copies = self.storage().list().await?;
        Ok(copies.into_iter().map(|c| self.status_of(c)).collect())
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
        let copies = self.storage().list().await?;
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
        self.storage().destroy(&copy).await
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
        self.storage().snapshot(id, &name, epoch).await?;
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
        let known = entry.known();
        let known = known.filter(|copy| primary(copy, request.epoch).is_ok());
        let copy = match known {
            Some(copy) => copy,
            None => self.copy(id).await?,
        };
        primary(&copy, request.epoch)?;
        entry.learn(&copy);
        let replicator = Replicator {
            node: self.node(),
            storage: self.storage(),
            link: self.link(),
            progress: &entry.progress,
        };
        let name = next_label(request.epoch);
        let reply = replicator.run(&copy, &request, &name).await;
        // Also after a failure: each attempt leaves a snapshot.
        self.tidy_later(id);
        if reply.is_err() {
            entry.forget();
        }
        let reply = reply?;
        let acknowledged = entry.acknowledged.lock();
        acknowledged
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request.peer, reply.snapshot.guid);
        Ok(reply)
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
        self.storage().promote(&copy, epoch).await?;
        Ok(true)
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

    /// Destroys the snapshots that nobody needs any more.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub async fn tidy(&self, id: VolumeId) -> Result<(), VolumeError> {
        let entry = self.entry(id);
        let mut pinned = None;
        loop {
            // The lock is taken anew for each snapshot, so that a move waits for one at most.
            let _lock = entry.lock.lock().await;
            let Some(copy) = self.storage().find(id).await? else {
                return Ok(());
            };
            let pins = match &pinned {
                Some(pins) => pins,
                None => &*pinned.insert(self.pin(&entry, &copy).await?),
            };
            let Some(snapshot) = expendable(&copy.snapshots, pins).into_iter().next() else {
                return Ok(());
            };
            self.storage().destroy_snapshot(id, &snapshot.name).await?;
        }
    }

    /// What peers have acknowledged, written down before anything is destroyed by it.
    async fn pin(&self, entry: &Entry, copy: &LocalCopy) -> Result<Vec<Guid>, VolumeError> {
        let heard: Vec<Guid> = {
            let heard = entry.acknowledged.lock();
            let heard = heard.unwrap_or_else(PoisonError::into_inner);
            heard.values().copied().collect()
        };
        if copy.role != Role::Primary || heard.is_empty() || heard == copy.acknowledged {
            return Ok(copy.acknowledged.clone());
        }
        self.storage().set_acknowledged(copy.id, &heard).await?;
        Ok(heard)
    }

    /// Tidies when the volume has been quiet for a while.
    pub(crate) fn tidy_later(&self, id: VolumeId) {
        let entry = self.entry(id);
        if entry.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let volumes = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            tokio::time::sleep(TIDY_AFTER).await;
            entry.tidying.store(false, Ordering::Release);
            // The agent may have ended meanwhile; the next one tidies.
            let Some(inner) = volumes.upgrade() else {
                return;
            };
            if let Err(error) = (Self { inner }).tidy(id).await {
                tracing::warn!(volume = %id, %error, "old snapshots stay");
            }
        });
    }
}

/// Refuses what comes under an epoch that has passed.
fn fresh(copy: &LocalCopy, asked: Epoch) -> Result<(), VolumeError> {
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
fn primary(copy: &LocalCopy, asked: Epoch) -> Result<(), VolumeError> {
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

fn next_label(epoch: Epoch) -> String {
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
