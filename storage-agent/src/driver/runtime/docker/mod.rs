//! Containers by a Docker Engine, over its unix socket.
//!
//! What the agent must know of a container is in the container's labels, so that the engine
//! is the one place that remembers. A container without our label is never touched, whatever
//! its name. Networking is the host's: an app listens at its node's address. A volume is a
//! bind mount that the kernel resolves at each start, so a container can be made before its
//! volume is mounted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HostConfig,
        RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptions, KillContainerOptions, ListContainersOptions,
        RemoveContainerOptions, WaitContainerOptions,
    },
};
use flocker_api::{
    agent::{RuntimeKind, RuntimeStatus},
    container::{ContainerSpec, ContainerState},
    name::{AppName, NodeName},
    volume::Epoch,
};
use futures_util::StreamExt;
use tokio::sync::{OnceCell, watch};

use super::{Blueprint, Ended, RuntimeError, assignments, pidfd};
use crate::logic::container::{self, Container};

mod image;
mod output;

/// Labels of our containers.
const LABEL_APP: &str = "flocker.app";
const LABEL_NODE: &str = "flocker.node";
const LABEL_EPOCH: &str = "flocker.epoch";
const LABEL_SPEC: &str = "flocker.spec";

/// What its messages call it.
const ENGINE: &str = "Docker Engine";

/// Where the engine is and how long it may take.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Its unix socket.
    pub socket: PathBuf,
    /// The node.
    pub node: NodeName,
    /// The node's address.
    pub address: IpAddr,
    /// How long a request to the engine may take.
    pub request_limit: Duration,
    /// How long a killed container may take to vanish.
    pub kill_limit: Duration,
}

/// A Docker Engine.
#[derive(Debug, Clone)]
pub struct Docker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: DockerConfig,
    /// Made with the first request that finds the engine alive; it survives its restarts.
    client: OnceCell<bollard::Docker>,
    /// Containers whose processes are proven gone and which the engine is still clearing away;
    /// each receiver ends with that.
    settling: Mutex<HashMap<AppName, watch::Receiver<()>>>,
}

impl Docker {
    /// The engine at this socket; it is first spoken to when it is first needed.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                client: OnceCell::new(),
                settling: Mutex::default(),
            }),
        }
    }

    pub(super) async fn status(&self) -> RuntimeStatus {
        let version = async {
            let client = self.client().await?;
            let found = client
                .version()
                .await
                .map_err(|error| self.unreachable(error))?;
            Ok::<_, RuntimeError>(format!(
                "{} (API {})",
                found.version.unwrap_or_default(),
                client.client_version()
            ))
        };
        let (version, problem) = match version.await {
            Ok(version) => (version, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        RuntimeStatus {
            kind: RuntimeKind::Docker,
            version,
            problem,
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        self.settled(None).await;
        let labels = vec![
            LABEL_APP.to_owned(),
            format!("{LABEL_NODE}={}", self.inner.config.node),
        ];
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..Default::default()
        };
        let client = self.client().await?;
        let summaries = client
            .list_containers(Some(options))
            .await
            .map_err(|error| self.unreachable(error))?;
        let mut found = Vec::new();
        for id in summaries.into_iter().filter_map(|summary| summary.id) {
            match client.inspect_container(&id, None).await {
                Ok(answer) => found.extend(parse(answer)),
                // It was removed between the two requests.
                Err(error) if status_code(&error) == Some(404) => {}
                Err(error) => return Err(self.unreachable(error)),
            }
        }
        Ok(found)
    }

    pub(super) async fn find(&self, app: &AppName) -> Result<Option<Container>, RuntimeError> {
        self.settled(Some(app)).await;
        let name = container_name(app);
        match self.client().await?.inspect_container(&name, None).await {
            Ok(answer) => parse(answer)
                .map(Some)
                .ok_or_else(|| RuntimeError::Foreign {
                    name,
                    node: self.inner.config.node.clone(),
                }),
            Err(error) if status_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.unreachable(error)),
        }
    }

    pub(super) async fn create(&self, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let app = &blueprint.spec.app;
        self.check_image(&blueprint.spec.image).await?;
        let options = CreateContainerOptions {
            name: Some(container_name(app)),
            ..Default::default()
        };
        let body = self.body(blueprint)?;
        match self
            .client()
            .await?
            .create_container(Some(options), body)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if status_code(&error) == Some(409) => Err(RuntimeError::Foreign {
                name: container_name(app),
                node: self.inner.config.node.clone(),
            }),
            Err(error) => Err(self.refused("create", app, error)),
        }
    }

    fn body(&self, blueprint: &Blueprint) -> Result<ContainerCreateBody, RuntimeError> {
        let Blueprint {
            spec,
            epoch,
            volume_paths,
        } = blueprint;
        let config = &self.inner.config;
        let inside = spec.volumes.first().map(|mount| &mount.mountpoint);
        let variables =
            container::environment(&BTreeMap::new(), spec, &config.node, config.address, inside);
        let label = serde_json::to_string(spec).map_err(|error| RuntimeError::Refused {
            engine: ENGINE,
            node: config.node.clone(),
            action: "describe",
            app: spec.app.clone(),
            reason: error.to_string(),
        })?;
        // As binds and not as mounts, whose sources the engine wants to see now already.
        let binds = spec
            .volumes
            .iter()
            .zip(volume_paths)
            .map(|(mount, path)| format!("{}:{}", path.display(), mount.mountpoint.display()));
        Ok(ContainerCreateBody {
            image: Some(spec.image.clone()),
            entrypoint: spec
                .entrypoint
                .as_ref()
                .map(|words| match words.is_empty() {
                    // The engine takes an empty list for none given; an empty word takes the image's away.
                    true => vec![String::new()],
                    false => words.clone(),
                }),
            cmd: spec.command.clone(),
            env: Some(assignments(&variables)),
            stop_signal: Some(spec.stop.signal.clone()),
            labels: Some(
                spec.labels
                    .clone()
                    .into_iter()
                    .chain([
                        (LABEL_APP.to_owned(), spec.app.to_string()),
                        (LABEL_NODE.to_owned(), config.node.to_string()),
                        (LABEL_EPOCH.to_owned(), epoch.to_string()),
                        (LABEL_SPEC.to_owned(), label),
                    ])
                    .collect(),
            ),
            host_config: Some(HostConfig {
                network_mode: Some("host".to_owned()),
                binds: Some(binds.collect()),
                memory: spec
                    .memory_bytes
                    .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                cpu_shares: spec.cpu_shares.map(i64::from),
                nano_cpus: spec.cpu_millis.map(|millis| {
                    i64::try_from(millis.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
                }),
                pids_limit: spec.pids_max.map(i64::from),
                extra_hosts: Some(hosts(spec)),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    pub(super) async fn start(&self, app: &AppName) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        client
            .start_container(&container_name(app), None)
            .await
            .map_err(|error| self.refused("start", app, error))
    }

    pub(super) async fn ended(&self, app: &AppName) -> Result<Option<i64>, RuntimeError> {
        let options = WaitContainerOptions {
            condition: "not-running".to_owned(),
        };
        let client = self.client().await?;
        loop {
            let mut answers =
                Box::pin(client.wait_container(&container_name(app), Some(options.clone())));
            match answers.next().await {
                Some(Ok(answer)) => return Ok(Some(answer.status_code)),
                Some(Err(Error::DockerContainerWaitError { code, .. })) => return Ok(Some(code)),
                // The engine has nothing to say yet: ask again.
                Some(Err(Error::RequestTimeoutError)) => {}
                Some(Err(error)) => return Err(self.refused("wait for", app, error)),
                None => {
                    let reason = "it ended its answer before the container ended".to_owned();
                    return Err(self.unreachable_because(reason));
                }
            }
        }
    }

    pub(super) async fn stop(&self, container: &Container) -> Result<Ended, RuntimeError> {
        let app = &container.spec.app;
        let grace = Duration::from_millis(container.spec.stop.grace_ms);
        let witness = container
            .pid
            .and_then(|pid| witness(pid, &container.runtime_id));
        self.signal(app, &container.spec.stop.signal).await?;
        if let Ok(ended) = tokio::time::timeout(grace, self.gone(app, witness.clone())).await {
            return Ok(Ended {
                exit_code: ended?,
                killed: false,
            });
        }
        self.signal(app, "SIGKILL").await?;
        let limit = self.inner.config.kill_limit;
        match tokio::time::timeout(limit, self.gone(app, witness)).await {
            Ok(ended) => Ok(Ended {
                exit_code: ended?,
                killed: true,
            }),
            Err(_) => Err(RuntimeError::Unkillable {
                app: app.clone(),
                node: self.inner.config.node.clone(),
                pids: container.pid.into_iter().collect(),
                limit,
            }),
        }
    }

    /// Waits until all processes of a container are gone. The kernel says so about 100 ms
    /// before the engine, which clears away first; the exit code only the engine can tell.
    async fn gone(
        &self,
        app: &AppName,
        witness: Option<Arc<OwnedFd>>,
    ) -> Result<Option<i64>, RuntimeError> {
        let Some(witness) = witness else {
            return self.ended(app).await;
        };
        tokio::select! {
            code = self.ended(app) => code,
            seen = pidfd::ended(witness) => match seen {
                Ok(()) => {
                    self.settle(app);
                    Ok(None)
                }
                Err(_) => self.ended(app).await,
            },
        }
    }

    /// Lets the engine clear away a container while something else is done.
    fn settle(&self, app: &AppName) {
        let (settled, settling) = watch::channel(());
        lock(&self.inner.settling).insert(app.clone(), settling);
        let (docker, app) = (self.clone(), app.clone());
        tokio::spawn(async move {
            let limit = docker.inner.config.kill_limit;
            // Whatever goes wrong here shows again where the container is asked about.
            drop(tokio::time::timeout(limit, docker.ended(&app)).await);
            lock(&docker.inner.settling).remove(&app);
            drop(settled);
        });
    }

    /// Waits until the engine knows what is known of this app, or of all.
    async fn settled(&self, app: Option<&AppName>) {
        let settling: Vec<_> = lock(&self.inner.settling)
            .iter()
            .filter(|(name, _)| app.is_none_or(|app| app == *name))
            .map(|(_, settling)| settling.clone())
            .collect();
        for mut settling in settling {
            // Nothing is ever sent: the end of the sender is the event.
            while settling.changed().await.is_ok() {}
        }
    }

    /// Sends a signal; a container that does not run needs none.
    async fn signal(&self, app: &AppName, signal: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        let client = self.client().await?;
        match client
            .kill_container(&container_name(app), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            Err(error) if status_code(&error) == Some(409) => Ok(()),
            Err(error) => Err(self.refused("signal", app, error)),
        }
    }

    pub(super) async fn remove(&self, app: &AppName) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptions {
            v: true,
            ..Default::default()
        };
        let client = self.client().await?;
        match client
            .remove_container(&container_name(app), Some(options))
            .await
        {
            Ok(()) => Ok(()),
            Err(error) if status_code(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.refused("remove", app, error)),
        }
    }

    async fn client(&self) -> Result<&bollard::Docker, RuntimeError> {
        let config = &self.inner.config;
        self.inner
            .client
            .get_or_try_init(|| async {
                let path = config.socket.display().to_string();
                let client = bollard::Docker::connect_with_unix(
                    &path,
                    config.request_limit.as_secs(),
                    bollard::API_DEFAULT_VERSION,
                )
                .map_err(|error| self.unreachable(error))?;
                client
                    .negotiate_version()
                    .await
                    .map_err(|error| self.unreachable(error))
            })
            .await
    }

    fn unreachable(&self, error: Error) -> RuntimeError {
        self.unreachable_because(reason(error))
    }

    fn unreachable_because(&self, reason: String) -> RuntimeError {
        RuntimeError::Unreachable {
            engine: ENGINE,
            node: self.inner.config.node.clone(),
            place: self.inner.config.socket.display().to_string(),
            reason,
        }
    }

    fn refused(&self, action: &'static str, app: &AppName, error: Error) -> RuntimeError {
        match status_code(&error) {
            Some(404) if action != "create" => RuntimeError::Gone {
                app: app.clone(),
                node: self.inner.config.node.clone(),
            },
            Some(_) => RuntimeError::Refused {
                engine: ENGINE,
                node: self.inner.config.node.clone(),
                action,
                app: app.clone(),
                reason: reason(error),
            },
            None => self.unreachable(error),
        }
    }
}

/// The entries of links for the container's hosts, once for each name: links to several ports of
/// an app have the same.
fn hosts(spec: &ContainerSpec) -> Vec<String> {
    let links = spec.links.iter();
    let hosts = links.map(|link| format!("{}:{}", link.alias, link.address(&spec.app)));
    hosts.collect::<BTreeSet<_>>().into_iter().collect()
}

fn container_name(app: &AppName) -> String {
    format!("flocker-{app}")
}

fn status_code(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// In the engine's own words, without the library's around them.
fn reason(error: Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message,
        other => flocker_api::error::chain(&other),
    }
}

/// A container of ours; `None` when it is not.
fn parse(answer: ContainerInspectResponse) -> Option<Container> {
    let labels = answer.config?.labels?;
    labels.get(LABEL_APP)?;
    let spec: ContainerSpec = serde_json::from_str(labels.get(LABEL_SPEC)?).ok()?;
    let epoch = Epoch(labels.get(LABEL_EPOCH)?.parse().ok()?);
    let state = answer.state?;
    let code = state.exit_code.unwrap_or(container::EXIT_UNKNOWN);
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok());
    let state = match state.status? {
        ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EMPTY => {
            ContainerState::Created
        }
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::STOPPING
        | ContainerStateStatusEnum::RESTARTING => ContainerState::Running,
        ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::REMOVING
        | ContainerStateStatusEnum::DEAD => ContainerState::Exited { code },
    };
    Some(Container {
        spec,
        epoch,
        state,
        runtime_id: answer.id.unwrap_or_default(),
        // 0 when there is none.
        pid: pid.filter(|pid| *pid > 0),
    })
}

/// A hold on a container's first process, if it can be seen from here: the engine may live in
/// another PID namespace, where its numbers mean other processes.
fn witness(pid: i32, id: &str) -> Option<Arc<OwnedFd>> {
    let process = pidfd::open(pid).ok()?;
    // Asked after the hold was taken: the answer is about what is held.
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    (!id.is_empty() && cgroups.contains(id)).then(|| Arc::new(process))
}

/// A panic elsewhere leaves the map whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
