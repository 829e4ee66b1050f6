//! What a bed consists of: addresses, ports, names. Values only; nothing is started here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

/// Where the nodes of a bed live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// Each node in network, mount and PID namespaces of its own, joined by a bridge.
    Namespaces,
    /// Each node on loopback addresses of its own, all in the same namespaces.
    Loopback,
}

/// What the nodes keep volumes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// A file-backed pool of the kernel's OpenZFS per node.
    Openzfs,
    /// A file-backed pool and a zfs-fuse daemon per node.
    ZfsFuse,
    /// A directory per node.
    Directory,
}

/// What the nodes run containers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A Docker Engine per node.
    Docker,
    /// Plain processes.
    Process,
}

/// A node: a name and two addresses. Agent and apps listen at the first, an edge at each.
#[derive(Debug, Clone)]
pub struct Node {
    /// `n1`, `n2`.
    pub name: String,
    /// Its addresses.
    pub addresses: [Ipv4Addr; 2],
}

/// An edge of the bed.
#[derive(Debug, Clone)]
pub struct Edge {
    /// `n1-a`, ...
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its listener for `http` routes.
    pub http: SocketAddr,
    /// Its admin API.
    pub admin: SocketAddr,
}

/// A bed's addresses.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where its nodes live.
    pub ground: Ground,
    /// What they keep volumes on.
    pub storage: Storage,
    /// What they run containers with.
    pub runtime: Runtime,
    /// Third number of the loopback addresses of this bed.
    third: u8,
}

/// Port of the agents' API.
pub const AGENT_PORT: u16 = 7410;
/// Port of control's API.
pub const CONTROL_PORT: u16 = 7420;
/// Port of the edges' admin API.
pub const EDGE_ADMIN_PORT: u16 = 7400;

/// Port of `http` routes where there is a right to low ports.
const HTTP_PORT: u16 = 80;

impl Plan {
    /// A plan; `third` keeps beds on loopback apart.
    #[must_use]
    pub fn new(ground: Ground, storage: Storage, runtime: Runtime, third: u8) -> Self {
        Self {
            ground,
            storage,
            runtime,
            third,
        }
    }

    /// An address of the sample files, as this bed has it.
    #[must_use]
    pub fn address(&self, sample: Ipv4Addr) -> Ipv4Addr {
        match (self.ground, sample.octets()) {
            // 10.77.NODE.I of the samples becomes 127.77.THIRD.(NODE * 10 + I).
            (Ground::Loopback, [10, 77, node, i]) => {
                Ipv4Addr::new(127, 77, self.third, node * 10 + i)
            }
            _ => sample,
        }
    }

    /// A port of the sample files, as this bed has it.
    #[must_use]
    pub fn port(&self, sample: u16) -> u16 {
        match (self.ground, sample) {
            (Ground::Loopback, 80) => 18_080,
            (Ground::Loopback, 443) => 18_443,
            _ => sample,
        }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        [1, 2]
            .map(|n| Node {
                name: format!("n{n}"),
                addresses: [1, 2].map(|i| self.address(Ipv4Addr::new(10, 77, n, i))),
            })
            .into()
    }

    /// The edges: one on each address of each node.
    #[must_use]
    pub fn edges(&self) -> Vec<Edge> {
        let edge = |node: &Node, letter: char, address: Ipv4Addr| Edge {
            name: format!("{}-{letter}", node.name),
            address,
            http: SocketAddr::new(IpAddr::V4(address), self.port(HTTP_PORT)),
            admin: SocketAddr::new(IpAddr::V4(address), EDGE_ADMIN_PORT),
        };
        self.nodes()
            .iter()
            .flat_map(|node| {
                [
                    edge(node, 'a', node.addresses[0]),
                    edge(node, 'b', node.addresses[1]),
                ]
            })
            .collect()
    }

    /// Control's API.
    #[must_use]
    pub fn control(&self) -> SocketAddr {
        let address = self.address(Ipv4Addr::new(10, 77, 0, 1));
        SocketAddr::new(IpAddr::V4(address), CONTROL_PORT)
    }

    /// Where load comes from.
    #[must_use]
    pub fn client(&self) -> Ipv4Addr {
        self.address(Ipv4Addr::new(10, 77, 0, 2))
    }

    /// Rewrites a string of a sample file: addresses and ports of this bed, and what is
    /// under `/run/flocker`, `/var/lib/flocker` and `/usr/lib/flocker` under `folders`.
    #[must_use]
    pub fn rewrite(&self, text: &str, folders: &[(&str, String)]) -> String {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.ip() {
                IpAddr::V4(ip) => {
                    SocketAddr::new(self.address(ip).into(), self.port(address.port())).to_string()
                }
                IpAddr::V6(_) => text.to_owned(),
            };
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return self.address(ip).to_string();
        }
        let (scheme, path) = text
            .split_once(':')
            .filter(|(scheme, _)| *scheme == "unix")
            .map_or(("", text), |(_, path)| ("unix:", path));
        for (from, to) in folders {
            if let Some(rest) = path.strip_prefix(from)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{scheme}{to}{rest}");
            }
        }
        text.to_owned()
    }

    /// Rewrites every string of a TOML value by [`Plan::rewrite`].
    pub fn rewrite_toml(&self, value: &mut toml::Value, folders: &[(&str, String)]) {
        match value {
            toml::Value::String(text) => *text = self.rewrite(text, folders),
            toml::Value::Array(items) => {
                for item in items {
                    self.rewrite_toml(item, folders);
                }
            }
            toml::Value::Table(table) => {
                for (_, item) in table.iter_mut() {
                    self.rewrite_toml(item, folders);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Plan {
        Plan::new(Ground::Loopback, Storage::Directory, Runtime::Process, 9)
    }

    #[test]
    fn namespaces_leave_samples_as_they_are() {
        let plan = Plan::new(Ground::Namespaces, Storage::ZfsFuse, Runtime::Docker, 9);
        for text in ["10.77.1.1:80", "10.77.2.2", "unix:/run/flocker/x.sock"] {
            assert_eq!(plan.rewrite(text, &[]), text);
        }
        assert_eq!(plan.edges().len(), 4);
        assert_eq!(plan.edges()[3].http.to_string(), "10.77.2.2:80");
    }

    #[test]
    fn loopback_moves_addresses_ports_and_folders() {
        let plan = loopback();
        let folders = [("/run/flocker", "/tmp/bed/run".to_owned())];
        for (sample, bed) in [
            ("10.77.1.1:80", "127.77.9.11:18080"),
            ("10.77.2.2:443", "127.77.9.22:18443"),
            ("10.77.0.1:7420", "127.77.9.1:7420"),
            ("10.77.2.1", "127.77.9.21"),
            ("/run/flocker/a.sock", "/tmp/bed/run/a.sock"),
            ("unix:/run/flocker/a.sock", "unix:/tmp/bed/run/a.sock"),
            ("/run/flockerish", "/run/flockerish"),
            ("n1", "n1"),
        ] {
            assert_eq!(plan.rewrite(sample, &folders), bed);
        }
    }

    #[test]
    fn addresses_of_a_bed_are_all_different() {
        let plan = loopback();
        let mut all: Vec<_> = plan.nodes().iter().flat_map(|n| n.addresses).collect();
        all.push(plan.client());
        all.extend(match plan.control().ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(count, 6);
    }
}
