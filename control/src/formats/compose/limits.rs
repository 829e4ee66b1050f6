//! What a service may use: `deploy.resources.limits`, and the keys that older files have.

use std::fmt::Display;

use super::super::{
    application::MEMORY_BYTES_MIN,
    error::Problem,
    keys,
    reader::{Fields, Reader},
    yaml::{Mark, Node},
};

/// Limits of a service.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpu_shares: Option<u32>,
    pub(super) cpu_millis: Option<u64>,
    pub(super) pids_max: Option<u32>,
}

const PIDS: &str = "an integer from 1 to 4194304";

impl Reader<'_> {
    /// All limits of a service.
    pub(super) fn limits(&mut self, fields: &Fields<'_>, path: &str) -> Limits {
        const SHARES: &str = "an integer from 2 to 262144, 1024 being usual";
        let sub = |key: &str| format!("{path}.{key}");
        let mut limits = Limits {
            memory_bytes: fields
                .get("mem_limit")
                .and_then(|node| self.memory(node, &sub("mem_limit"))),
            cpu_shares: fields.get("cpu_shares").and_then(|node| {
                let shares = self.loose_integer(node, &sub("cpu_shares"), 2..=262_144, SHARES)?;
                u32::try_from(shares).ok()
            }),
            cpu_millis: fields
                .get("cpus")
                .and_then(|node| self.cpu_millis(node, &sub("cpus"))),
            pids_max: fields
                .get("pids_limit")
                .and_then(|node| self.pids(node, &sub("pids_limit"))),
        };
        if let Some(node) = fields.get("deploy") {
            let (at, path) = (fields.at("deploy"), sub("deploy"));
            let deployed = self.deploy(node, at, &path).unwrap_or_default();
            let path = format!("{path}.resources.limits");
            self.agree(
                at,
                &path,
                &mut limits.memory_bytes,
                deployed.memory_bytes,
                "mem_limit",
            );
            self.agree(
                at,
                &path,
                &mut limits.cpu_millis,
                deployed.cpu_millis,
                "cpus",
            );
            self.agree(
                at,
                &path,
                &mut limits.pids_max,
                deployed.pids_max,
                "pids_limit",
            );
        }
        limits
    }

    fn deploy(&mut self, node: &Node, at: Mark, path: &str) -> Option<Limits> {
        let fields = self.extensible(node, at, path, keys::DEPLOY)?;
        if let Some(node) = fields.get("replicas") {
            let what = "1: an app runs once, where its volumes are";
            self.loose_integer(node, &format!("{path}.replicas"), 1..=1, what);
        }
        let (node, at) = (fields.get("resources")?, fields.at("resources"));
        let path = format!("{path}.resources");
        let fields = self.fields(node, at, &path, keys::RESOURCES_KEYS)?;
        let (node, at) = (fields.get("limits")?, fields.at("limits"));
        let path = format!("{path}.limits");
        let fields = self.fields(node, at, &path, keys::LIMITS)?;
        let sub = |key: &str| format!("{path}.{key}");
        Some(Limits {
            memory_bytes: fields
                .get("memory")
                .and_then(|node| self.memory(node, &sub("memory"))),
            cpu_shares: None,
            cpu_millis: fields
                .get("cpus")
                .and_then(|node| self.cpu_millis(node, &sub("cpus"))),
            pids_max: fields
                .get("pids")
                .and_then(|node| self.pids(node, &sub("pids"))),
        })
    }

    /// Takes the second where there is no first; two that differ are an error.
    fn agree<T: Copy + PartialEq + Display>(
        &mut self,
        at: Mark,
        path: &str,
        first: &mut Option<T>,
        second: Option<T>,
        key: &str,
    ) {
        match (*first, second) {
            (Some(one), Some(other)) if one != other => {
                let problem = Problem::Refused {
                    path: path.to_owned(),
                    reason: format!("'{key}' of the service says otherwise; leave one of them out"),
                };
                self.note(at, problem);
            }
            (None, Some(_)) => *first = second,
            _ => {}
        }
    }

    fn memory(&mut self, node: &Node, path: &str) -> Option<u64> {
        let bytes = self.bytes(node, path)?;
        if bytes < MEMORY_BYTES_MIN {
            self.bad(node, path, "6M or more");
            return None;
        }
        Some(bytes)
    }

    fn pids(&mut self, node: &Node, path: &str) -> Option<u32> {
        let pids = self.loose_integer(node, path, 1..=4_194_304, PIDS)?;
        u32::try_from(pids).ok()
    }
}
