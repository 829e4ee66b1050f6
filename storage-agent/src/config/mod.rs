//! The agent's configuration file, and what it comes to once it is checked.
//!
//! Every limit and timeout of the agent is in [`Limits`], with its default; the documented
//! sample is `config/storage-agent.toml`. A [`Config`] can only be made by checking a file.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use flocker_api::{
    config::{self, ConfigError},
    name::{NodeName, VolumeName},
    tls::Files,
};
use serde::Deserialize;

use crate::{
    driver::{
        fence::FenceConfig, runtime::LogBounds, transport::TransferLimits, volumes::StorageConfig,
    },
    logic::{restart::Backoff, schedule::Pace},
};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node.
    pub node: NodeName,
    /// The node's address, at which apps listen.
    pub address: IpAddr,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where replication streams are taken.
    pub replication: SocketAddr,
    /// Where volumes are kept.
    pub storage: StorageConfig,
    /// What runs containers.
    pub runtime: RuntimeConfig,
    /// The node's certificate; without it everything is plain TCP.
    pub tls: Option<Files>,
    /// Where an enforced lease is written down, so that an agent started again keeps it.
    pub lease: PathBuf,
    /// A watchdog device to pet while all is well.
    pub watchdog: Option<PathBuf>,
    /// Every limit.
    pub limits: Limits,
}

/// What runs containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeConfig {
    /// A Docker Engine.
    Docker {
        /// Its unix socket.
        socket: PathBuf,
    },
    /// Plain processes.
    Process {
        /// Folder of images.
        images: PathBuf,
        /// Folder in which they are remembered.
        state: PathBuf,
    },
}

/// Every limit and timeout, in the file's own form: table `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest request body of the API, in bytes.
    pub body_bytes_max: usize,
    /// Time between two probes of an app that is not ready, in ms.
    pub probe_interval_ms: u64,
    /// How long one probe may take, in ms.
    pub probe_attempt_ms: u64,
    /// How long an app's pre-stop command may take, in ms.
    pub pre_stop_ms: u64,
    /// How long killed processes may take to vanish, in ms.
    pub kill_ms: u64,
    /// How long a request to the Docker Engine may take, in ms.
    pub engine_ms: u64,
    /// How long a scrape of the metrics may wait for the storage and the runtime, in ms.
    pub scrape_ms: u64,
    /// How long the verbs that run may go on after SIGTERM, in ms.
    pub shutdown_ms: u64,
    /// Bytes that must stay free beside a volume that is to come here.
    pub space_margin_bytes: u64,
    /// Lines of an app's output that go into an error about it.
    pub log_lines: usize,
    /// Most lines of an app's output in one answer.
    pub log_reply_lines: usize,
    /// Most bytes of an app's output in one answer, about.
    pub log_reply_bytes: usize,
    /// How much of each app's output the process runtime keeps, in bytes.
    pub log_file_bytes: u64,
    /// How long a question for an app's output may wait for the first line, in ms.
    pub log_wait_ms: u64,
    /// Most bytes of either output of a command run in a container on demand.
    pub exec_bytes_max: usize,
    /// How long pulling an image may take, in ms.
    pub pull_ms: u64,
    /// Pause before an app that ended is started again, doubled with each further time, in ms.
    pub restart_ms: u64,
    /// Longest pause before an app that ended is started again, in ms.
    pub restart_max_ms: u64,
    /// A run of an app that lasts as long as this, in ms, makes the next pause the first again.
    pub restart_good_ms: u64,
    /// How much of a lease is kept for fencing, in ms.
    pub fence_margin_ms: u64,
    /// How long a transfer may take to connect to its peer, in ms.
    pub transfer_connect_ms: u64,
    /// How long a transfer's peer may be silent, heartbeats included, in ms.
    pub transfer_silence_ms: u64,
    /// Time between two heartbeats of ours in a transfer, in ms.
    pub transfer_heartbeat_ms: u64,
    /// How long a transfer may move no byte, or wait for its acknowledgement, in ms.
    pub transfer_stall_ms: u64,
    /// How long a transfer waits for a volume with which something else is done, in ms.
    pub transfer_lock_ms: u64,
    /// Most streams that continuous replication sends at once.
    pub replication_sends_max: usize,
    /// Shortest time between two looks at what has changed, in ms.
    pub replication_look_ms: u64,
    /// Pause after a failed round, doubled with each further one, in ms.
    pub replication_retry_ms: u64,
    /// Longest pause after failed rounds, in ms.
    pub replication_retry_max_ms: u64,
    /// How long a volume is left alone by continuous replication after something else was done
    /// with it, such as a part of a move, in ms.
    pub replication_hold_ms: u64,
    /// Bytes that all transfers to one peer may have in a second; 0: as many as go.
    pub link_bytes_per_second: u64,
    /// Bytes that the transfer of one volume may have in a second; 0: as many as go.
    pub volume_bytes_per_second: u64,
    /// Bytes that `volume verify` reads of one copy in a second.
    pub verify_bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            probe_interval_ms: 3,
            probe_attempt_ms: 1_000,
            pre_stop_ms: 30_000,
            kill_ms: 10_000,
            engine_ms: 60_000,
            scrape_ms: 5_000,
            shutdown_ms: 20_000,
            space_margin_bytes: 16 << 20,
            log_lines: 20,
            log_reply_lines: 1_000,
            log_reply_bytes: 1 << 20,
            log_file_bytes: 64 << 20,
            log_wait_ms: 60_000,
            exec_bytes_max: 4 << 20,
            pull_ms: 600_000,
            restart_ms: 100,
            restart_max_ms: 60_000,
            restart_good_ms: 10_000,
            fence_margin_ms: 2_000,
            transfer_connect_ms: 2_000,
            transfer_silence_ms: 10_000,
            transfer_heartbeat_ms: 2_000,
            transfer_stall_ms: 120_000,
            transfer_lock_ms: 5_000,
            replication_sends_max: 8,
            replication_look_ms: 250,
            replication_retry_ms: 1_000,
            replication_retry_max_ms: 60_000,
            replication_hold_ms: 5_000,
            link_bytes_per_second: 0,
            volume_bytes_per_second: 0,
            verify_bytes_per_second: 64 << 20,
        }
    }
}

impl Limits {
    /// [`Limits::kill_ms`].
    #[must_use]
    pub fn kill(&self) -> Duration {
        Duration::from_millis(self.kill_ms)
    }

    /// [`Limits::pull_ms`].
    #[must_use]
    pub fn pull(&self) -> Duration {
        Duration::from_millis(self.pull_ms)
    }

    /// Those of an app's output.
    #[must_use]
    pub fn logs(&self) -> LogBounds {
        LogBounds {
            lines: self.log_reply_lines,
            bytes: self.log_reply_bytes,
        }
    }

    /// Those of restarts.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff {
            first: Duration::from_millis(self.restart_ms),
            max: Duration::from_millis(self.restart_max_ms),
            good: Duration::from_millis(self.restart_good_ms),
        }
    }

    /// Those of transfers between agents.
    #[must_use]
    pub fn transfer(&self) -> TransferLimits {
        TransferLimits {
            connect: Duration::from_millis(self.transfer_connect_ms),
            silence: Duration::from_millis(self.transfer_silence_ms),
            heartbeat: Duration::from_millis(self.transfer_heartbeat_ms),
            stall: Duration::from_millis(self.transfer_stall_ms),
            lock: Duration::from_millis(self.transfer_lock_ms),
            link_rate: self.link_bytes_per_second,
            volume_rate: self.volume_bytes_per_second,
            verify_bytes_per_second: self.verify_bytes_per_second,
            ..TransferLimits::default()
        }
    }

    /// That of continuous replication.
    #[must_use]
    pub fn pace(&self) -> Pace {
        Pace {
            sends_max: self.replication_sends_max,
            look: Duration::from_millis(self.replication_look_ms),
            retry_first: Duration::from_millis(self.replication_retry_ms),
            retry_max: Duration::from_millis(self.replication_retry_max_ms),
            hold: Duration::from_millis(self.replication_hold_ms),
        }
    }

    /// [`Limits::probe_attempt_ms`].
    #[must_use]
    pub fn probe_attempt(&self) -> Duration {
        Duration::from_millis(self.probe_attempt_ms)
    }
}

/// The file's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: NodeName,
    address: IpAddr,
    api: Listen,
    replication: Listen,
    storage: Storage,
    runtime: Runtime,
    tls: Option<Files>,
    #[serde(default)]
    fence: FenceFile,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FenceFile {
    lease: Option<PathBuf>,
    watchdog: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    listen: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Storage {
    Zfs {
        pool: String,
        #[serde(default = "mount_root")]
        mount_root: PathBuf,
    },
    Directory {
        root: PathBuf,
        #[serde(default)]
        mount_root: Option<PathBuf>,
    },
}

fn mount_root() -> PathBuf {
    "/var/lib/flocker/volumes".into()
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Runtime {
    Docker {
        #[serde(default = "docker_socket")]
        socket: PathBuf,
    },
    Process {
        #[serde(default = "images")]
        images: PathBuf,
        #[serde(default = "state")]
        state: PathBuf,
    },
}

fn docker_socket() -> PathBuf {
    "/run/docker.sock".into()
}

fn images() -> PathBuf {
    "/etc/flocker/images".into()
}

fn state() -> PathBuf {
    "/var/lib/flocker/containers".into()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the file, and the line and key where they are known.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: File = config::load(path)?;
        file.check().map_err(|reason| ConfigError::Value {
            path: path.to_owned(),
            reason,
        })
    }

    /// What the node's fence needs to know.
    #[must_use]
    pub fn fence(&self) -> FenceConfig {
        FenceConfig {
            node: self.node.clone(),
            storage: self.storage.clone(),
            lease: self.lease.clone(),
            watchdog: self.watchdog.clone(),
            margin: Duration::from_millis(self.limits.fence_margin_ms),
            kill: self.limits.kill(),
        }
    }

    /// Where a volume of this name is mounted when it is.
    #[must_use]
    pub fn mount_path(&self, name: &VolumeName) -> PathBuf {
        mount_path(&self.storage, name)
    }
}

/// Where a volume of this name is mounted when it is.
#[must_use]
pub fn mount_path(storage: &StorageConfig, name: &VolumeName) -> PathBuf {
    mounts(storage).join(name.as_str())
}

/// The folder in which volumes appear.
#[must_use]
pub fn mounts(storage: &StorageConfig) -> PathBuf {
    match storage {
        StorageConfig::Zfs { mount_root, .. }
        | StorageConfig::Directory {
            mount_root: Some(mount_root),
            ..
        } => mount_root.clone(),
        StorageConfig::Directory {
            root,
            mount_root: None,
        } => root.join("mounts"),
    }
}

impl File {
    fn check(self) -> Result<Config, String> {
        if self.address.is_unspecified() {
            return Err(format!(
                "address: {} is no address at which one node's apps could be found",
                self.address
            ));
        }
        // Port 0, "any", may be given twice.
        if self.api.listen == self.replication.listen && self.api.listen.port() != 0 {
            return Err(format!(
                "replication.listen: {} is the API's already",
                self.replication.listen
            ));
        }
        let file = || {
            format!(
                "/run/flocker/{}-{}.lease",
                self.node,
                self.api.listen.port()
            )
        };
        let lease = self.fence.lease.unwrap_or_else(|| file().into());
        absolute("fence.lease", &lease)?;
        if let Some(path) = &self.fence.watchdog {
            absolute("fence.watchdog", path)?;
        }
        for (key, path) in self.tls.iter().flat_map(Files::named) {
            absolute(&format!("tls.{key}"), path)?;
        }
        Ok(Config {
            node: self.node,
            address: self.address,
            api: self.api.listen,
            replication: self.replication.listen,
            storage: self.storage.check()?,
            runtime: self.runtime.check()?,
            tls: self.tls,
            lease,
            watchdog: self.fence.watchdog,
            limits: self.limits.check()?,
        })
    }
}

impl Storage {
    fn check(self) -> Result<StorageConfig, String> {
        match self {
            Self::Zfs { pool, mount_root } => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if !pool.starts_with(|c: char| c.is_ascii_alphabetic())
                    || !pool.chars().all(allowed)
                {
                    return Err(format!("storage.pool: '{pool}' is no name of a pool"));
                }
                absolute("storage.mount_root", &mount_root)?;
                Ok(StorageConfig::Zfs { pool, mount_root })
            }
            Self::Directory { root, mount_root } => {
                absolute("storage.root", &root)?;
                if let Some(path) = &mount_root {
                    absolute("storage.mount_root", path)?;
                }
                Ok(StorageConfig::Directory { root, mount_root })
            }
        }
    }
}

impl Runtime {
    fn check(self) -> Result<RuntimeConfig, String> {
        match self {
            Self::Docker { socket } => {
                absolute("runtime.socket", &socket)?;
                Ok(RuntimeConfig::Docker { socket })
            }
            Self::Process { images, state } => {
                absolute("runtime.images", &images)?;
                absolute("runtime.state", &state)?;
                Ok(RuntimeConfig::Process { images, state })
            }
        }
    }
}

impl Limits {
    fn check(self) -> Result<Self, String> {
        let positive = [
            ("body_bytes_max", self.body_bytes_max as u64),
            ("probe_interval_ms", self.probe_interval_ms),
            ("probe_attempt_ms", self.probe_attempt_ms),
            ("pre_stop_ms", self.pre_stop_ms),
            ("kill_ms", self.kill_ms),
            ("log_reply_lines", self.log_reply_lines as u64),
            ("log_reply_bytes", self.log_reply_bytes as u64),
            ("log_file_bytes", self.log_file_bytes),
            ("exec_bytes_max", self.exec_bytes_max as u64),
            ("pull_ms", self.pull_ms),
            ("restart_ms", self.restart_ms),
            ("scrape_ms", self.scrape_ms),
            ("fence_margin_ms", self.fence_margin_ms),
            ("transfer_connect_ms", self.transfer_connect_ms),
            ("transfer_heartbeat_ms", self.transfer_heartbeat_ms),
            ("transfer_stall_ms", self.transfer_stall_ms),
            ("replication_sends_max", self.replication_sends_max as u64),
            ("replication_look_ms", self.replication_look_ms),
            ("replication_retry_ms", self.replication_retry_ms),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("limits.{key}: must be above 0"));
        }
        if self.transfer_silence_ms / 2 < self.transfer_heartbeat_ms {
            return Err(
                "limits.transfer_silence_ms: must be at least twice transfer_heartbeat_ms"
                    .to_owned(),
            );
        }
        if self.replication_retry_max_ms < self.replication_retry_ms {
            return Err(
                "limits.replication_retry_max_ms: must be at least replication_retry_ms".to_owned(),
            );
        }
        if self.engine_ms < 1_000 {
            return Err("limits.engine_ms: must be at least 1000".to_owned());
        }
        Ok(self)
    }
}

fn absolute(key: &str, path: &Path) -> Result<(), String> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(format!(
            "{key}: '{}' must be an absolute path",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests;
