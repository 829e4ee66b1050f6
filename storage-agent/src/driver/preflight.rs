//! What would stand against running an app on this node. Changes nothing, but an image that is not
//! there is fetched, where that can be: so before anything stops.

use std::{io, net::SocketAddr, path::Path};

use flocker_api::{
    ErrorBody,
    agent::PreflightRequest,
    container::Mount,
    name::NodeName,
    volume::{Role, VolumeStatus},
};
use tokio::net::TcpListener;

use super::containers::Containers;
use crate::logic::container;

/// Every problem in words; none, no objection.
pub(super) async fn check(containers: &Containers, request: &PreflightRequest) -> Vec<String> {
    let (node, address, limits, runtime, volumes) = containers.parts();
    let spec = &request.container;
    if let Err(refusal) = container::check_spec(spec) {
        return vec![refusal.to_string()];
    }
    let mut problems = Vec::new();
    let status = runtime.status().await;
    match status.problem {
        Some(problem) => problems.push(problem),
        None => {
            let image = match request.look_only {
                true => runtime.check_image(&spec.image).await,
                false => runtime.fetch_image(&spec.image, limits.pull()).await,
            };
            problems.extend(image.err().map(|error| flocker_api::error::chain(&error)));
        }
    }
    let ours_runs = match runtime.find(&spec.app).await {
        Ok(found) => found.is_some_and(|found| found.runs()),
        // An engine that does not answer has been told of above.
        Err(_) => false,
    };
    if !ours_runs {
        for port in &spec.ports {
            problems.extend(port_problem(node, SocketAddr::new(address, *port)).await);
        }
    }
    let mut here_bytes = 0;
    for (mount, path) in spec.volumes.iter().zip(containers.volume_paths(spec)) {
        match containers.volume(mount.volume).await {
            Ok(Some(copy)) => {
                here_bytes += copy.used_bytes;
                problems.extend(copy_problem(node, request, &copy));
            }
            Ok(None) => problems.extend(path_problem(node, mount, &path)),
            Err(error) => problems.push(error.message),
        }
    }
    match volumes.status().await {
        Ok(storage) => {
            problems.extend(storage.problem);
            let needed =
                request.volume_bytes.saturating_sub(here_bytes) + limits.space_margin_bytes;
            if storage.available_bytes < needed {
                problems.push(format!(
                    "the storage of {node} has {} bytes free; the volumes of {} need {needed} more",
                    storage.available_bytes, spec.app
                ));
            }
        }
        Err(error) => problems.push(ErrorBody::from(error).message),
    }
    match volumes.list().await {
        Ok(all) => problems.extend(spec.volumes.iter().filter_map(|mount| {
            let other = all
                .iter()
                .find(|v| v.name == mount.name && v.id != mount.volume)?;
            Some(format!(
                "volume name {} is taken on {node} by another volume, {}",
                mount.name, other.id
            ))
        })),
        Err(error) => problems.push(ErrorBody::from(error).message),
    }
    problems.dedup();
    problems
}

async fn port_problem(node: &NodeName, address: SocketAddr) -> Option<String> {
    let error = TcpListener::bind(address).await.err()?;
    Some(match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "port {} of {node} ({address}) is taken by another program",
                address.port()
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{node} does not have the address {}", address.ip())
        }
        _ => format!(
            "port {} of {node} ({address}) cannot be used: {error}",
            address.port()
        ),
    })
}

fn copy_problem(
    node: &NodeName,
    request: &PreflightRequest,
    copy: &VolumeStatus,
) -> Option<String> {
    if copy.epoch > request.epoch {
        return Some(format!(
            "volume {} is at epoch {} on {node}, newer than epoch {} of the request",
            copy.name, copy.epoch, request.epoch
        ));
    }
    if copy.role == Role::Replica
        && let Some(path) = &copy.mounted_at
        && has_writers(path)
    {
        return Some(format!(
            "the replica of volume {} on {node} is written to at {}",
            copy.name,
            path.display()
        ));
    }
    None
}

fn has_writers(path: &Path) -> bool {
    !super::runtime::process::writers(path).is_empty()
}

fn path_problem(node: &NodeName, mount: &Mount, path: &Path) -> Option<String> {
    let taken = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    taken.then(|| {
        format!(
            "the mount path of volume {} on {node}, {}, is taken by something else",
            mount.name,
            path.display()
        )
    })
}
