//! The verbs on containers: asks what is there, lets `logic::container` decide, does it.
//!
//! Verbs on one app run one after the other. Beside that a fence for each volume keeps the
//! start of a process and the demotion of the volume apart: whoever starts has checked that
//! the volume is the primary, and this stays so until the process is there for a demotion to
//! see.

#![expect(
    clippy::disallowed_methods,
    reason = "a driver that measures how long steps take"
)]

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{CreateContainer, RuntimeStatus, StartReply, StopReply},
    container::{ContainerSpec, ContainerStatus},
    name::{AppName, NodeName, VolumeId},
    volume::{Epoch, Role, VolumeStatus},
};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{
    fence::Fence,
    runtime::{Blueprint, Runtime, process},
    supervisor::Supervisor,
    volumes::{StorageConfig, Volumes},
};
use crate::{
    config::{self, Limits},
    logic::container::{self, Container, Create, Decide, Refusal, Remove, Start, Stop},
};

/// How long an app may hold files open for writing after its processes are gone from the
/// runtime's point of view.
const WRITERS_LIMIT: Duration = Duration::from_secs(2);

/// Between two looks at who still writes.
const WRITERS_INTERVAL: Duration = Duration::from_millis(5);

/// The containers of a node. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Containers {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) node: NodeName,
    pub(super) address: IpAddr,
    storage: StorageConfig,
    pub(super) limits: Limits,
    pub(super) runtime: Runtime,
    volumes: Volumes,
    pub(super) fence: Fence,
    apps: Locks<AppName>,
    /// Taken after the lock of an app, never before.
    fences: Locks<VolumeId>,
    pub(super) supervisor: Supervisor,
}

/// A lock for each of many things.
#[derive(Debug)]
struct Locks<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

impl<K: Eq + Hash> Locks<K> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(key).or_default())
        };
        lock.lock_owned().await
    }
}

/// Which node it is, and its parts.
#[derive(Debug)]
pub struct Parts {
    /// The node.
    pub node: NodeName,
    /// The node's address.
    pub address: IpAddr,
    /// Where volumes are kept, for the paths of those that are not mounted yet.
    pub storage: StorageConfig,
    /// Every limit.
    pub limits: Limits,
    /// What runs containers.
    pub runtime: Runtime,
    /// The node's volumes.
    pub volumes: Volumes,
    /// By which the node ends what runs when its lease does.
    pub fence: Fence,
}

impl Containers {
    /// Puts the parts together; touches nothing.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                node: parts.node,
                address: parts.address,
                storage: parts.storage,
                limits: parts.limits,
                runtime: parts.runtime,
                volumes: parts.volumes,
                fence: parts.fence,
                apps: Locks::new(),
                fences: Locks::new(),
                supervisor: Supervisor::default(),
            }),
        }
    }

    /// The runtime's state.
    pub async fn runtime_status(&self) -> RuntimeStatus {
        self.inner.runtime.status().await
    }

    /// All of ours on this node, by app.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn list(&self) -> Result<Vec<ContainerStatus>, ErrorBody> {
        let found = self.inner.runtime.list().await?;
        self.inner.fence.sync(&found);
        let mut all: Vec<_> = found
            .iter()
            .map(|one| {
                self.supervise(one);
                self.supervised(one, one.status(self.inner.address))
            })
            .collect();
        all.sort_by(|a, b| a.app.cmp(&b.app));
        Ok(all)
    }

    /// Makes an app's container without starting it.
    ///
    /// # Errors
    /// Stale epoch, a missing image, another one that runs, a specification that cannot be.
    pub async fn create(
        &self,
        app: &AppName,
        request: CreateContainer,
    ) -> Result<ContainerStatus, ErrorBody> {
        let CreateContainer { spec, epoch } = request;
        if spec.app != *app {
            return Err(ErrorBody::new(
                ErrorCode::InvalidRequest,
                format!("the specification is of {}, the path says {app}", spec.app),
            ));
        }
        container::check_spec(&spec)?;
        let _one_at_a_time = self.lock(app).await;
        self.check_not_stale(&spec, epoch).await?;
        let existing = self.inner.runtime.find(app).await?;
        match self.decide(app, existing.as_ref(), epoch).create(&spec)? {
            Create::Keep => {}
            Create::Make => {
                self.fetch_image(&spec).await?;
                self.make(&spec, epoch).await?;
            }
            Create::Replace => {
                // Fetched before the old one is gone: it is better than none.
                self.fetch_image(&spec).await?;
                self.leave(app);
                self.inner.runtime.remove(app).await?;
                self.make(&spec, epoch).await?;
            }
        }
        Ok(self.found(app).await?.status(self.inner.address))
    }

    async fn fetch_image(&self, spec: &ContainerSpec) -> Result<(), ErrorBody> {
        let limit = self.inner.limits.pull();
        Ok(self.inner.runtime.fetch_image(&spec.image, limit).await?)
    }

    async fn make(&self, spec: &ContainerSpec, epoch: Epoch) -> Result<(), ErrorBody> {
        let blueprint = Blueprint {
            spec: spec.clone(),
            epoch,
            volume_paths: self.volume_paths(spec),
        };
        Ok(self.inner.runtime.create(&blueprint).await?)
    }

    /// Starts an app's container and waits until it is ready.
    ///
    /// # Errors
    /// A volume that is not the primary of this epoch here; an app that ends or is not ready
    /// in time.
    pub async fn start(&self, app: &AppName, epoch: Epoch) -> Result<StartReply, ErrorBody> {
        let began = Instant::now();
        let _one_at_a_time = self.lock(app).await;
        let spec = self.run(app, epoch).await?;
        let started = began.elapsed();
        // Asked while the probe is awaited: in a pause each request to the runtime counts.
        let ready = async { self.await_ready(&spec).await.map(|()| began.elapsed()) };
        let found = async {
            let found = self.found(app).await;
            if let Ok(container) = &found {
                self.inner.fence.watch(container);
                self.supervise_anew(container);
            }
            found
        };
        let (ready, found) = tokio::join!(ready, found);
        // The lease may have run out between the first look and the watch; then what was
        // started is the fence's to kill.
        self.inner.fence.permit()?;
        Ok(StartReply {
            ready_us: micros(ready?),
            container: found?.status(self.inner.address),
            started_us: micros(started),
        })
    }

    /// Has an app's process run, if its volumes are the primaries of this epoch; the app is
    /// locked. Answers with what it was made of.
    pub(super) async fn run(
        &self,
        app: &AppName,
        epoch: Epoch,
    ) -> Result<ContainerSpec, ErrorBody> {
        let existing = self.inner.runtime.find(app).await?;
        let step = self.decide(app, existing.as_ref(), epoch).start()?;
        // A start is decided only where there is a container.
        let spec = existing
            .map(|found| found.spec)
            .ok_or_else(|| no_container(app))?;
        let _no_demotion = self.fences(&spec).await;
        self.inner.fence.permit()?;
        self.check_primary(&spec, epoch).await?;
        match step {
            Start::Await => {}
            Start::Start => self.inner.runtime.start(app).await?,
        }
        Ok(spec)
    }

    /// Runs an app's pre-stop command, if it has one.
    ///
    /// # Errors
    /// The app does not run, or the command fails.
    pub async fn pre_stop(&self, app: &AppName, epoch: Epoch) -> Result<(), ErrorBody> {
        let _one_at_a_time = self.lock(app).await;
        let existing = self.inner.runtime.find(app).await?;
        let decide = self.decide(app, existing.as_ref(), epoch);
        let Some(command) = &decide.pre_stop()?.spec.pre_stop else {
            return Ok(());
        };
        let limit = Duration::from_millis(self.inner.limits.pre_stop_ms);
        let output = self.hook(app, command, limit).await?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let message = format!(
            "the pre-stop command '{}' of {app} on {} ended with {}: {}",
            command.join(" "),
            self.inner.node,
            output.exit_code,
            output.text().trim_end()
        );
        Err(ErrorBody::new(ErrorCode::Precondition, message)
            .with_details(json!({ "exit_code": output.exit_code, "output": output.text() })))
    }

    /// Stops an app's container and proves that nothing writes to its volumes any more.
    ///
    /// # Errors
    /// Stale epoch; something that outlives SIGKILL or writes all the same.
    pub async fn stop(&self, app: &AppName, epoch: Epoch) -> Result<StopReply, ErrorBody> {
        let began = Instant::now();
        let _one_at_a_time = self.lock(app).await;
        let Some(existing) = self.inner.runtime.find(app).await? else {
            return Ok(StopReply {
                exit_code: None,
                killed: false,
                stopped_us: micros(began.elapsed()),
            });
        };
        // A container that runs under the very epoch of the request needs no look at its volumes,
        // which takes time in a pause: its start has made sure that they are of that epoch.
        if !existing.runs() || existing.epoch != epoch {
            self.check_not_stale(&existing.spec, epoch).await?;
        }
        let stop = self.decide(app, Some(&existing), epoch).stop()?;
        // From here on its end is our doing.
        self.leave(app);
        let (exit_code, killed) = match stop {
            Stop::Nothing => (None, false),
            Stop::Prove { exit_code } => {
                if existing.state != flocker_api::container::ContainerState::Created {
                    self.inner.runtime.stop(&existing).await?;
                }
                (exit_code, false)
            }
            Stop::Stop => {
                let ended = self.inner.runtime.stop(&existing).await?;
                (ended.exit_code, ended.killed)
            }
        };
        let stopped = began.elapsed();
        self.prove_no_writers(&existing.spec).await?;
        Ok(StopReply {
            exit_code,
            killed,
            stopped_us: micros(stopped),
        })
    }

    /// Removes an app's container, which does not run.
    ///
    /// # Errors
    /// Stale epoch, or it runs.
    pub async fn remove(&self, app: &AppName, epoch: Epoch) -> Result<(), ErrorBody> {
        let _one_at_a_time = self.lock(app).await;
        let Some(existing) = self.inner.runtime.find(app).await? else {
            return Ok(());
        };
        self.check_not_stale(&existing.spec, epoch).await?;
        match self.decide(app, Some(&existing), epoch).remove()? {
            Remove::Nothing => Ok(()),
            Remove::Remove => {
                self.forget(app);
                Ok(self.inner.runtime.remove(app).await?)
            }
        }
    }

    /// Does something to a volume that no running container may have: demote, destroy.
    ///
    /// # Errors
    /// Stale epoch; a container that runs has it; or what `work` answers.
    pub async fn without_users<T>(
        &self,
        id: VolumeId,
        epoch: Epoch,
        work: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        let _no_start = self.inner.fences.lock(id).await;
        if let Some(volume) = self.volume(id).await? {
            self.check_volume_epoch(&volume, epoch)?;
        }
        let all = self.inner.runtime.list().await?;
        if let Some(user) = all.iter().find(|one| one.runs() && one.uses(id)) {
            return Err(ErrorBody::new(
                ErrorCode::Busy,
                format!(
                    "volume {id} is used by {}, which runs on {}; stop it first",
                    user.spec.app, self.inner.node
                ),
            ));
        }
        work.await
    }

    pub(super) fn storage(&self) -> &StorageConfig {
        &self.inner.storage
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    pub(super) fn parts(&self) -> (&NodeName, IpAddr, &Limits, &Runtime, &Volumes) {
        let inner = &self.inner;
        (
            &inner.node,
            inner.address,
            &inner.limits,
            &inner.runtime,
            &inner.volumes,
        )
    }

    pub(super) fn volume_paths(&self, spec: &ContainerSpec) -> Vec<PathBuf> {
        let path = |mount: &flocker_api::container::Mount| {
            config::mount_path(&self.inner.storage, &mount.name)
        };
        spec.volumes.iter().map(path).collect()
    }

    /// The local copy of a volume, if there is one.
    pub(super) async fn volume(&self, id: VolumeId) -> Result<Option<VolumeStatus>, ErrorBody> {
        match self.inner.volumes.get(id).await.map_err(ErrorBody::from) {
            Ok(volume) => Ok(Some(volume)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn check_not_stale(&self, spec: &ContainerSpec, epoch: Epoch) -> Result<(), ErrorBody> {
        for mount in &spec.volumes {
            if let Some(volume) = self.volume(mount.volume).await? {
                self.check_volume_epoch(&volume, epoch)?;
            }
        }
        Ok(())
    }

    fn check_volume_epoch(&self, volume: &VolumeStatus, epoch: Epoch) -> Result<(), Refusal> {
        if volume.epoch > epoch {
            return Err(Refusal::StaleEpoch {
                what: format!("volume {}", volume.name),
                node: self.inner.node.clone(),
                current: volume.epoch,
                asked: epoch,
            });
        }
        Ok(())
    }

    /// Every volume is the primary of this very epoch, and mounted; one that is not mounted
    /// (the agent or its file system was restarted) is mounted now.
    async fn check_primary(&self, spec: &ContainerSpec, epoch: Epoch) -> Result<(), ErrorBody> {
        for mount in &spec.volumes {
            if self
                .inner
                .volumes
                .is_primary(mount.volume, epoch)
                .await
                .unwrap_or(false)
            {
                continue;
            }
            let volume = self
                .volume(mount.volume)
                .await?
                .ok_or_else(|| Refusal::NoVolume {
                    app: spec.app.clone(),
                    volume: mount.name.clone(),
                    id: mount.volume,
                    node: self.inner.node.clone(),
                })?;
            self.check_volume_epoch(&volume, epoch)?;
            if volume.role != Role::Primary || volume.epoch != epoch {
                return Err(Refusal::NotPrimary {
                    volume: mount.name.clone(),
                    node: self.inner.node.clone(),
                    epoch,
                }
                .into());
            }
            self.inner.volumes.promote(mount.volume, epoch).await?;
        }
        Ok(())
    }

    /// The runtime says that the app is gone; this asks the kernel who has a file of its
    /// volumes open for writing, whoever it is.
    async fn prove_no_writers(&self, spec: &ContainerSpec) -> Result<(), ErrorBody> {
        let deadline = Instant::now() + WRITERS_LIMIT;
        for (mount, path) in spec.volumes.iter().zip(self.volume_paths(spec)) {
            loop {
                let place = path.clone();
                let scan = tokio::task::spawn_blocking(move || {
                    place.canonicalize().map(|place| process::writers(&place))
                });
                // A path that is not there is not mounted, and nothing is written to it.
                let Some(writer) = scan
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|writers| writers.into_iter().next())
                else {
                    break;
                };
                if Instant::now() > deadline {
                    let message = format!(
                        "process {} ({}) on {} still writes to {} in volume {}, though {} is stopped",
                        writer.pid,
                        writer.name,
                        self.inner.node,
                        writer.file.display(),
                        mount.name,
                        spec.app
                    );
                    return Err(ErrorBody::new(ErrorCode::Busy, message));
                }
                tokio::time::sleep(WRITERS_INTERVAL).await;
            }
        }
        Ok(())
    }

    pub(super) async fn found(&self, app: &AppName) -> Result<Container, ErrorBody> {
        let found = self.inner.runtime.find(app).await?;
        found.ok_or_else(|| no_container(app))
    }

    fn decide<'a>(
        &'a self,
        app: &'a AppName,
        existing: Option<&'a Container>,
        epoch: Epoch,
    ) -> Decide<'a> {
        Decide {
            node: &self.inner.node,
            app,
            existing,
            epoch,
        }
    }

    pub(super) async fn lock(&self, app: &AppName) -> OwnedMutexGuard<()> {
        self.inner.apps.lock(app.clone()).await
    }

    /// The fences of an app's volumes, in an order that is the same for all.
    async fn fences(&self, spec: &ContainerSpec) -> Vec<OwnedMutexGuard<()>> {
        let volumes: BTreeSet<VolumeId> = spec.volumes.iter().map(|mount| mount.volume).collect();
        let mut fences = Vec::new();
        for volume in volumes {
            fences.push(self.inner.fences.lock(volume).await);
        }
        fences
    }
}

fn no_container(app: &AppName) -> ErrorBody {
    let message = format!("the container of {app} was removed by someone else meanwhile");
    ErrorBody::new(ErrorCode::NotFound, message)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
