//! Containers: what shall run, and what does.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    name::{AppName, VolumeId, VolumeName},
    volume::Epoch,
};

/// Everything that a runtime needs to make an app's container.
///
/// The container sees these variables besides its own: `FLOCKER_APP`, `FLOCKER_NODE`,
/// `FLOCKER_ADDRESS` (the node's address, on which its ports are to listen) and
/// `FLOCKER_VOLUME` (where it finds its first volume). Links add four more for each; see
/// [`Link`]. What [`Self::environment`] has under the same name wins over those of links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The app that it runs.
    pub app: AppName,
    /// Image: `repository[:tag]` for Docker, a name in the image folder for processes.
    pub image: String,
    /// Replaces the image's own entrypoint, and with it the image's command. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's own command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// TCP ports on which the app listens at its node's address.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Volumes and where the container finds them.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Other apps that it finds by name and by variables, wherever they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Labels of the container itself, for other tools; none begins with `flocker.`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Memory limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Relative CPU weight, 1024 being usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u32>,
    /// CPU limit, in thousandths of one CPU: 1500 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Most processes and threads that it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// What is done when it ends without having been asked to.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How it is asked to end.
    #[serde(default)]
    pub stop: StopPolicy,
    /// How one knows that it serves; without a probe it does once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Probe>,
    /// Command by which one knows, again and again, that it is well. What is seen is reported;
    /// nothing is restarted for it. Readiness is [`Self::ready`]'s alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Command run inside the container shortly before a planned stop (a CHECKPOINT, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Vec<String>>,
}

impl ContainerSpec {
    /// A container of an image, everything else being as usual.
    #[must_use]
    pub fn new(app: AppName, image: impl Into<String>) -> Self {
        Self {
            app,
            image: image.into(),
            entrypoint: None,
            command: None,
            environment: BTreeMap::new(),
            ports: Vec::new(),
            volumes: Vec::new(),
            links: Vec::new(),
            labels: BTreeMap::new(),
            memory_bytes: None,
            cpu_shares: None,
            cpu_millis: None,
            pids_max: None,
            restart: RestartPolicy::default(),
            stop: StopPolicy::default(),
            ready: None,
            health: None,
            pre_stop: None,
        }
    }
}

/// Another app as a container sees it: at its own node's edge, which leads to wherever the
/// other app runs.
///
/// With alias `A` upper-cased (`-` and `.` become `_`), `L` = `local_port`, `R` = `remote_port`
/// and `H` the address of the node's edge at which the link is provided, the container sees
/// `A_PORT_L_TCP=tcp://H:R`, `A_PORT_L_TCP_PROTO=tcp`, `A_PORT_L_TCP_ADDR=H` and
/// `A_PORT_L_TCP_PORT=R`; and the alias, as it is written, resolves to `H`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its host name, and the beginning of its variables.
    pub alias: String,
    /// The port in the variables' names: the one that the other app is known for.
    pub local_port: u16,
    /// The port at which the linking node's edge leads there.
    pub remote_port: u16,
    /// Where it leads. `None`: to whatever the route `tcp:remote_port` leads to, which is then
    /// declared by some app and open on all edges. Otherwise the edge of the linking node provides
    /// the port, for that node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<LinkTarget>,
}

impl Link {
    /// The address at which the edge of the linking app's node provides this link: one of
    /// `127.64.0.0/10`, which all nodes have and nobody else can reach. It is reckoned from the
    /// names of the app and of the link, so that everybody comes to the same without asking.
    #[must_use]
    pub fn address(&self, app: &AppName) -> Ipv4Addr {
        // FNV-1a: well spread, and the same for ever.
        let bytes = app.as_str().bytes().chain([0]).chain(self.alias.bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        // Folded, for its upper bits are the better ones; never the first or last of a network.
        let host = ((hash >> 22) ^ hash) & 0x003f_ffff;
        Ipv4Addr::from(0x7f40_0000 | host.clamp(1, 0x003f_fffe))
    }

    /// Whether an address is one of those at which links are provided.
    #[must_use]
    pub fn provides(address: Ipv4Addr) -> bool {
        u32::from(address) & 0xffc0_0000 == 0x7f40_0000
    }

    /// The variables by which the linking app finds it.
    #[must_use]
    pub fn variables(&self, app: &AppName) -> [(String, String); 4] {
        let alias: String = self
            .alias
            .chars()
            .map(|c| match c {
                '-' | '.' => '_',
                c => c.to_ascii_uppercase(),
            })
            .collect();
        let name = format!("{alias}_PORT_{}_TCP", self.local_port);
        let (host, port) = (self.address(app), self.remote_port);
        [
            (format!("{name}_PROTO"), "tcp".to_owned()),
            (format!("{name}_ADDR"), host.to_string()),
            (format!("{name}_PORT"), port.to_string()),
            (name, format!("tcp://{host}:{port}")),
        ]
    }
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkTarget {
    /// The other app.
    pub app: AppName,
    /// Its port at its node's address.
    pub port: u16,
}

/// What is done when a container ends without having been asked to.
///
/// Between two restarts there is a pause that grows. A container that shall be there and was
/// never started, or that a move has stopped, is started under each policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is left as it is.
    Never,
    /// It is started again when its exit code is not 0.
    OnFailure {
        /// Most restarts in a row; `None`: no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retries_max: Option<u32>,
    },
}

/// A command by which one knows that a container is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments, run inside the container; 0 is well.
    pub command: Vec<String>,
    /// From the end of a run to the beginning of the next, in ms.
    pub interval_ms: u64,
    /// Longest run, in ms; a longer one has failed.
    pub timeout_ms: u64,
    /// So many failed runs in a row make it unwell.
    pub retries: u32,
    /// Time after its start in which failed runs do not count, in ms.
    pub start_period_ms: u64,
}

/// A volume inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Absolute path inside the container.
    pub mountpoint: PathBuf,
}

/// How an app is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// Name of the signal: `SIGTERM`, `SIGINT` for PostgreSQL.
    pub signal: String,
    /// How long it may take before it is killed, in ms.
    pub grace_ms: u64,
}

impl Default for StopPolicy {
    /// `SIGTERM`, 10 s, as Docker has it.
    fn default() -> Self {
        Self {
            signal: "SIGTERM".to_owned(),
            grace_ms: 10_000,
        }
    }
}

/// How one knows that an app serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// The port takes connections.
    Tcp {
        /// Port at the node's address.
        port: u16,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
    /// `GET path` answers 2xx.
    Http {
        /// Port at the node's address.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
    /// The command, run inside the container, exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// How long the app may take, in ms.
        timeout_ms: u64,
    },
}

/// Life of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, not started yet.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited {
        /// Exit code; 128 + N for signal N; -1 when nobody could see it.
        code: i64,
    },
}

/// A container of ours on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The app that it runs.
    pub app: AppName,
    /// Its life.
    #[serde(flatten)]
    pub state: ContainerState,
    /// Its image.
    pub image: String,
    /// The epoch under which it was made.
    pub epoch: Epoch,
    /// Where its ports are to be found.
    pub addresses: Vec<SocketAddr>,
    /// The runtime's own name for it (container id, process id).
    pub runtime_id: String,
    /// How often its agent has started it again since it was last started on demand.
    #[serde(default)]
    pub restarts: u32,
    /// What its health check says, if it has one and runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What its agent does about its having ended by itself; `None` when it runs, or when it was
    /// stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
}

/// What the health check of a container that runs says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Health {
    /// It has not been well yet, and its start period is not over.
    Starting,
    /// It is well.
    Well,
    /// It has failed too often in a row.
    Unwell {
        /// How often.
        failures: u32,
        /// What the last run said.
        reason: String,
    },
}

/// What an agent does about a container that has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Restart {
    /// It is started again soon.
    Waiting {
        /// After this time, in ms.
        in_ms: u64,
    },
    /// Its restart policy leaves it as it is.
    Left {
        /// Why, in words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(alias: &str) -> Link {
        Link {
            alias: alias.to_owned(),
            local_port: 5432,
            remote_port: 15432,
            to: None,
        }
    }

    #[test]
    fn a_link_has_the_four_variables_of_the_first_flocker() {
        let web: AppName = "web".parse().unwrap();
        let address = link("my-db").address(&web);
        let variables = link("my-db").variables(&web);
        let expected = [
            ("MY_DB_PORT_5432_TCP_PROTO", "tcp".to_owned()),
            ("MY_DB_PORT_5432_TCP_ADDR", address.to_string()),
            ("MY_DB_PORT_5432_TCP_PORT", "15432".to_owned()),
            ("MY_DB_PORT_5432_TCP", format!("tcp://{address}:15432")),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        assert_eq!(variables, expected);
    }

    #[test]
    fn links_have_loopback_addresses_of_their_own() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let app: AppName = format!("web-{number}").parse().unwrap();
            for alias in ["db", "cache"] {
                let address = link(alias).address(&app);
                assert!(Link::provides(address), "{address}");
                seen.insert(address);
            }
        }
        assert!(seen.len() >= 398, "{}", seen.len());
        assert!(!Link::provides(Ipv4Addr::LOCALHOST));
        assert!(!Link::provides(Ipv4Addr::new(127, 128, 0, 1)));
    }
}
