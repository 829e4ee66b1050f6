//! The control service's configuration file, and the one place of its limits and timeouts.
//!
//! [`Config`] can only be made from a file that is wholly right.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use flocker_api::{
    agent::LeasePolicy,
    client::Endpoint,
    config::{ConfigError, load},
    name::{EdgeName, NodeName},
    tls::Files,
};
use serde::Deserialize;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Unix socket of the API.
    pub socket: Option<PathBuf>,
    /// Control's certificate; without it everything is plain TCP.
    pub tls: Option<Files>,
    /// File of the store.
    pub store: PathBuf,
    /// Nodes and edges.
    pub topology: Topology,
    /// Limits and timeouts.
    pub limits: Limits,
}

/// The nodes and edges of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Addresses of the agents by node.
    pub nodes: BTreeMap<NodeName, SocketAddr>,
    /// Edges by name.
    pub edges: BTreeMap<EdgeName, EdgeSite>,
}

impl Topology {
    /// Whether this edge provides the links of its node's apps: of the edges of a node the first
    /// one by name does that may, since an address can be bound once only.
    #[must_use]
    pub fn provides_links(&self, edge: &EdgeName) -> bool {
        let Some(site) = self.edges.get(edge) else {
            return false;
        };
        let mut able = self
            .edges
            .iter()
            .filter(|(_, other)| other.node == site.node && other.links);
        able.next().is_some_and(|(first, _)| first == edge)
    }
}

/// Where an edge is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeSite {
    /// The node on which it runs.
    pub node: NodeName,
    /// Its admin API.
    pub admin: Endpoint,
    /// Whether the admin API speaks mutual TLS.
    pub tls: bool,
    /// Whether it may provide links.
    pub links: bool,
}

/// Limits and timeouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often each agent and edge is asked how it is.
    pub poll: Duration,
    /// How long an agent or edge may take to answer a question or a small verb.
    pub call: Duration,
    /// How long an agent may take to make or remove a container or a volume.
    pub work: Duration,
    /// How long a transfer of a volume may take.
    pub transfer: Duration,
    /// Longest pause between two attempts at something that fails.
    pub retry_max: Duration,
    /// How long a node's lease holds; it is renewed each third of this.
    pub lease_ttl: Duration,
    /// What a node does when its lease runs out.
    pub lease_policy: LeasePolicy,
}

impl Default for Limits {
    fn default() -> Self {
        LimitsFile::default().with(&LeaseFile::default())
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Names the file and the place, and says what would be right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: File = load(path)?;
        file.check().map_err(|reason| ConfigError::Value {
            path: path.to_owned(),
            reason,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    api: ApiFile,
    tls: Option<Files>,
    store: StoreFile,
    #[serde(default)]
    node: Vec<NodeFile>,
    #[serde(default)]
    edge: Vec<EdgeFile>,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    lease: LeaseFile,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LeaseFile {
    ttl_ms: u64,
    policy: LeasePolicy,
}

impl Default for LeaseFile {
    fn default() -> Self {
        Self {
            ttl_ms: 10_000,
            policy: LeasePolicy::Advisory,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiFile {
    listen: SocketAddr,
    socket: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFile {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: NodeName,
    agent: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeFile {
    name: EdgeName,
    node: NodeName,
    admin: Endpoint,
    #[serde(default)]
    tls: bool,
    #[serde(default = "yes")]
    links: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsFile {
    poll_ms: u64,
    call_ms: u64,
    work_ms: u64,
    transfer_ms: u64,
    retry_ms_max: u64,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            poll_ms: 1_000,
            call_ms: 3_000,
            work_ms: 60_000,
            transfer_ms: 3_600_000,
            retry_ms_max: 2_000,
        }
    }
}

impl LimitsFile {
    fn with(&self, lease: &LeaseFile) -> Limits {
        Limits {
            poll: Duration::from_millis(self.poll_ms),
            call: Duration::from_millis(self.call_ms),
            work: Duration::from_millis(self.work_ms),
            transfer: Duration::from_millis(self.transfer_ms),
            retry_max: Duration::from_millis(self.retry_ms_max),
            lease_ttl: Duration::from_millis(lease.ttl_ms),
            lease_policy: lease.policy,
        }
    }

    fn check(&self) -> Result<(), String> {
        let values = [
            ("poll_ms", self.poll_ms),
            ("call_ms", self.call_ms),
            ("work_ms", self.work_ms),
            ("transfer_ms", self.transfer_ms),
            ("retry_ms_max", self.retry_ms_max),
        ];
        match values.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("limits.{key} must be at least 1")),
            None => Ok(()),
        }
    }
}

impl File {
    fn check(self) -> Result<Config, String> {
        self.limits.check()?;
        if self.lease.ttl_ms < 1_000 {
            return Err("lease.ttl_ms must be at least 1000".to_owned());
        }
        if self.node.is_empty() {
            return Err("at least one [[node]] is needed".to_owned());
        }
        let mut topology = Topology::default();
        for node in self.node {
            if let Some((other, _)) = topology.nodes.iter().find(|(_, at)| **at == node.agent) {
                return Err(format!(
                    "node '{}' and node '{other}' have the same agent, {}",
                    node.name, node.agent
                ));
            }
            if topology
                .nodes
                .insert(node.name.clone(), node.agent)
                .is_some()
            {
                return Err(format!("node '{}' is there twice", node.name));
            }
        }
        for edge in self.edge {
            if !topology.nodes.contains_key(&edge.node) {
                return Err(format!(
                    "edge '{}' is on node '{}', which is not among the [[node]]s",
                    edge.name, edge.node
                ));
            }
            let mut others = topology.edges.iter();
            if let Some((other, _)) = others.find(|(_, site)| site.admin == edge.admin) {
                return Err(format!(
                    "edge '{}' and edge '{other}' have the same admin address, {}",
                    edge.name, edge.admin
                ));
            }
            let site = EdgeSite {
                node: edge.node,
                admin: edge.admin,
                tls: edge.tls,
                links: edge.links,
            };
            if site.tls && self.tls.is_none() {
                return Err(format!(
                    "edge '{}' speaks TLS, for which control needs a certificate: write [tls]",
                    edge.name
                ));
            }
            if topology.edges.insert(edge.name.clone(), site).is_some() {
                return Err(format!("edge '{}' is there twice", edge.name));
            }
        }
        Ok(Config {
            listen: self.api.listen,
            socket: self.api.socket,
            tls: self.tls,
            store: self.store.path,
            topology,
            limits: self.limits.with(&self.lease),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check()
    }

    const HEAD: &str = "[api]\nlisten = '127.0.0.1:7420'\n[store]\npath = '/tmp/x'\n";

    #[test]
    fn the_sample_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/control.toml");
        let config = Config::load(&path).unwrap();
        assert_eq!(config.topology.nodes.len(), 2);
        assert_eq!(config.topology.edges.len(), 4);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| check(&format!("{HEAD}{text}")).unwrap_err();
        assert!(message("").contains("at least one [[node]]"));
        let n1 = "[[node]]\nname = 'n1'\nagent = '10.0.0.1:1'\n";
        assert!(message(&format!("{n1}{n1}")).contains("the same agent, 10.0.0.1:1"));
        let stray = "[[edge]]\nname = 'e'\nnode = 'n2'\nadmin = '10.0.0.1:2'\n";
        assert!(message(&format!("{n1}{stray}")).contains("edge 'e' is on node 'n2'"));
        let secure = "[[edge]]\nname = 'e'\nnode = 'n1'\nadmin = '10.0.0.1:2'\ntls = true\n";
        assert!(message(&format!("{n1}{secure}")).contains("write [tls]"));
        assert!(message(&format!("{n1}[limits]\npoll_ms = 0\n")).contains("limits.poll_ms"));
        assert!(message(&format!("{n1}[lease]\nttl_ms = 5\n")).contains("lease.ttl_ms"));
        assert!(message(&format!("{n1}[lease]\npolicy = 'firm'\n")).contains("`advisory`"));
        assert!(message(&format!("{n1}[limits]\npol_ms = 5\n")).contains("pol_ms"));
    }
}
