//! Compose files, and Fig's, which are their ancestors: services instead of applications.
//!
//! A service becomes an app of the same name. A Fig file is a mapping of services without a
//! frame, and may hold no more than Fig's own subset; where keys are shared they mean the
//! same, but for links: see [`Wish::Published`].
//!
//! | module | keys |
//! | --- | --- |
//! | `service` | a service as a whole |
//! | `environment` | `environment`, `env_file`, `labels` |
//! | `ports` | `ports`, `expose` |
//! | `mounts` | `volumes` of a service and of the file |
//! | `needs` | `links`, `depends_on` |
//! | `limits` | `deploy`, `mem_limit`, `cpus`, ... |
//! | `health` | `healthcheck` |
//! | `tree` | variables and `<<` in the values of the file, before any key is read |

mod environment;
mod health;
mod limits;
mod mounts;
mod needs;
mod ports;
mod service;
mod tree;

use std::collections::BTreeMap;

use flocker_api::name::AppName;

use self::mounts::NamedVolume;
pub(super) use self::{
    environment::env_file_paths,
    tree::{merged, names, settled},
};
#[cfg(doc)]
use super::declared::Wish;
use super::{
    declared::Applications, deployment::Placed, interpolate::Variables, keys, reader::Reader,
    yaml::Node,
};

/// Whose words a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Compose,
    Fig,
}

/// What Compose files refer to and do not hold.
#[derive(Debug, Default)]
pub(super) struct Outside<'a> {
    /// Variables of whoever deploys.
    pub(super) variables: Variables,
    /// Environment files by their names, as [`env_file_name`] makes them.
    pub(super) env_files: BTreeMap<&'a str, &'a str>,
}

/// What the services of one file share.
struct Frame<'a> {
    dialect: Dialect,
    volumes: BTreeMap<String, NamedVolume>,
    outside: &'a Outside<'a>,
}

/// The name of an environment file: relative to the Compose file that names it.
pub(super) fn env_file_name(compose_file: &str, path: &str) -> String {
    let folder = std::path::Path::new(compose_file).parent();
    let folder = folder.unwrap_or_else(|| std::path::Path::new(""));
    folder.join(path).display().to_string()
}

impl Reader<'_> {
    /// Reads a Compose file, its variables being settled.
    pub(super) fn compose(&mut self, root: &Node, outside: &Outside<'_>) -> Applications {
        let mut found = Applications::default();
        let path = "the Compose file";
        let Some(fields) = self.extensible(root, root.at, path, keys::COMPOSE_FILE) else {
            return found;
        };
        // Compose itself ignores it since long; files still have it.
        if let Some(node) = fields.get("version") {
            self.word_or_number(node, "version", "a version, such as \"3.8\"");
        }
        let frame = Frame {
            dialect: Dialect::Compose,
            volumes: fields
                .get("volumes")
                .map(|node| self.named_volumes(node))
                .unwrap_or_default(),
            outside,
        };
        let services = fields.get("services");
        let entries = services.and_then(|node| self.map(node, "services"));
        for entry in entries.unwrap_or_default() {
            let path = format!("services.{}", entry.key.text);
            self.service(entry, &path, "services", &frame, &mut found);
        }
        found
    }

    /// Reads a Fig file.
    pub(super) fn fig(&mut self, root: &Node, outside: &Outside<'_>) -> Applications {
        let mut found = Applications::default();
        let frame = Frame {
            dialect: Dialect::Fig,
            volumes: BTreeMap::new(),
            outside,
        };
        for entry in self.map(root, "the Fig file").unwrap_or_default() {
            let path = entry.key.text.clone();
            self.service(entry, &path, "the Fig file", &frame, &mut found);
        }
        found
    }

    /// `x-flocker.nodes` of a Compose file.
    pub(super) fn compose_placements(&mut self, root: &Node, declared: &[AppName]) -> Vec<Placed> {
        let super::yaml::Value::Map(entries) = &root.value else {
            return Vec::new();
        };
        let Some(entry) = entries.iter().find(|entry| entry.key.text == "x-flocker") else {
            return Vec::new();
        };
        let fields = self.fields(&entry.value, entry.at, "x-flocker", keys::COMPOSE_EXTENSION);
        let nodes = fields.as_ref().and_then(|fields| fields.get("nodes"));
        nodes
            .map(|node| self.placements(node, "x-flocker.nodes", declared))
            .unwrap_or_default()
    }
}
