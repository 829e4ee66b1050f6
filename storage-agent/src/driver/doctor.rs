//! Examines the node: asks everything that the agent relies on, and lets `logic::doctor` judge.
//!
//! Changes nothing, except that it makes the folder of mounts if it is not there.

#![expect(
    clippy::disallowed_methods,
    reason = "certificates are held against the wall clock"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flocker_api::{
    agent::RuntimeStatus,
    doctor::{Diagnosis, DoctorRequest, Finding, PeerAddress},
    error::chain,
    name::NodeName,
    tls::Credentials,
};
use futures_util::future::join_all;

use super::{
    fence::Fence,
    transport::{Link, reach},
    volumes::{StorageConfig, Volumes},
};
use crate::{
    config::{mount_path, mounts},
    error::VolumeError,
    logic::doctor,
};

/// What is examined.
#[derive(Debug)]
pub struct Patient<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Where volumes are kept.
    pub storage: &'a StorageConfig,
    /// The volumes.
    pub volumes: &'a Volumes,
    /// What runs containers, where it may be asked.
    pub runtime: Option<RuntimeStatus>,
    /// The fence, where this is the agent that has it.
    pub fence: Option<&'a Fence>,
}

/// Examines the node.
pub async fn examine(patient: &Patient<'_>, request: &DoctorRequest) -> Diagnosis {
    let volumes = patient.volumes;
    let mut findings = storage(patient).await;
    findings.push(permissions(patient.storage));
    findings.push(place(&mounts(patient.storage)));
    findings.extend(copies(patient).await);
    findings.extend(patient.runtime.as_ref().map(doctor::runtime));
    findings.extend(certificates(volumes.link().tls.as_ref()));
    if let Some(fence) = patient.fence {
        findings.extend(doctor::lease(
            &fence.status(),
            fence.silence(),
            fence.has_watchdog(),
        ));
    }
    let peers = request.peers.iter();
    let peers = peers.filter(|peer| peer.node != *patient.node);
    findings.extend(join_all(peers.map(|peer| reaches(volumes.link(), peer))).await);
    diagnosis(patient.node, findings)
}

/// The diagnosis of a node whose storage cannot even be opened.
#[must_use]
pub fn without_storage(node: &NodeName, error: &VolumeError) -> Diagnosis {
    let remedy = "see to the pool, and to [storage] in the agent's file";
    diagnosis(node, vec![Finding::fail("storage", chain(error), remedy)])
}

fn diagnosis(node: &NodeName, findings: Vec<Finding>) -> Diagnosis {
    Diagnosis {
        node: node.clone(),
        clock_ms: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
        findings,
    }
}

async fn storage(patient: &Patient<'_>) -> Vec<Finding> {
    let status = patient.volumes.storage().status().await;
    let mut findings = doctor::storage(&status);
    let doubt = patient.volumes.storage().doubt();
    findings.extend(doubt.map(|doubt| {
        Finding::warn(
            "version",
            doubt,
            "upgrade it, and scrub the pool afterwards",
        )
    }));
    match patient.storage {
        StorageConfig::Zfs { pool, .. } => match super::zfs::pool_state(pool).await {
            Ok(listed) => findings.extend(doctor::pool(pool, &listed)),
            Err(error) => findings.push(Finding::fail(
                "pool",
                chain(&error),
                format!("import it: zpool import {pool}"),
            )),
        },
        StorageConfig::Directory { root, .. } => findings.push(free(root)),
    }
    findings
}

fn free(root: &Path) -> Finding {
    match rustix::fs::statvfs(root) {
        Err(error) => Finding::fail(
            "space",
            format!("{}: {error}", root.display()),
            "see to the file system of storage.root",
        ),
        Ok(fs) => {
            // As df(1) counts: what is kept for root is neither used nor free.
            let used = fs.f_blocks.saturating_sub(fs.f_bfree);
            let percent = used * 100 / (used + fs.f_bavail).max(1);
            let found = format!("{} is {percent} % full", root.display());
            match percent {
                95.. => Finding::fail("space", found, "free some"),
                80.. => Finding::warn("space", found, "free some"),
                _ => Finding::ok("space", found),
            }
        }
    }
}

fn permissions(storage: &StorageConfig) -> Finding {
    let root = rustix::process::geteuid().is_root();
    match (storage, root) {
        (_, true) => Finding::ok("permissions", "the agent is root"),
        (StorageConfig::Directory { .. }, false) => Finding::warn(
            "permissions",
            "the agent is not root: owners of files and limits of apps are not kept",
            "run it as root",
        ),
        (StorageConfig::Zfs { .. }, false) => Finding::fail(
            "permissions",
            "the agent is not root: nobody else may mount a dataset (zfs-allow(8))",
            "run it as root",
        ),
    }
}

/// The folder in which volumes appear.
fn place(folder: &Path) -> Finding {
    let remedy = "correct storage.mount_root, or the folder";
    let shown = folder.display();
    if let Err(error) = fs::create_dir_all(folder) {
        return Finding::fail("mounts", format!("{shown} cannot be made: {error}"), remedy);
    }
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        Err(error) => Finding::fail(
            "mounts",
            format!("{shown} cannot be written: {error}"),
            remedy,
        ),
        Ok(()) => Finding::ok("mounts", format!("volumes appear in {shown}")),
    }
}

async fn copies(patient: &Patient<'_>) -> Vec<Finding> {
    let all = match patient.volumes.list().await {
        Ok(all) => all,
        Err(error) => {
            let remedy = "see to the file system, then ask again";
            return vec![Finding::fail("volumes", chain(&error), remedy)];
        }
    };
    let findings: Vec<_> = all
        .iter()
        .filter_map(|one| doctor::volume(one, &mount_path(patient.storage, &one.name)))
        .collect();
    if findings.is_empty() {
        return vec![Finding::ok("volumes", format!("{} here", all.len()))];
    }
    findings
}

fn certificates(tls: Option<&Credentials>) -> Vec<Finding> {
    let Some(tls) = tls else {
        return vec![doctor::no_certificate()];
    };
    let now = i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX);
    let mut findings = doctor::certificate(&tls.certificate(), tls.authority_not_after(), now);
    let key = fs::metadata(&tls.files().key);
    findings.extend(key.map(|meta| doctor::key_mode(meta.permissions().mode())));
    findings
}

/// Whether a stream could be sent to a peer: a connection stands, and it is who it should be.
async fn reaches(link: &Link, peer: &PeerAddress) -> Finding {
    match reach(&peer.node, peer.to, link).await {
        Ok(took) => Finding::ok("peers", format!("{} at {} in {took:?}", peer.node, peer.to)),
        Err(error) => Finding::fail(
            "peers",
            format!("{} at {}: {}", peer.node, peer.to, chain(&error)),
            "see to its agent, the network between, and both certificates",
        ),
    }
}

fn unix_time() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}
