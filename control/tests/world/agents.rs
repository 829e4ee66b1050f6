//! The simulated agents.

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{
        CreateContainer, CreateVolume, EpochRequest, FencePhase, LeaseRequest, LeaseStamp,
        LeaseStatus, NodeStatus, PreflightReply, ReplicateReply, ReplicateRequest, RuntimeKind,
        RuntimeStatus, StartReply, StopReply, StorageKind, StorageStatus,
    },
    container::{ContainerState, ContainerStatus},
    doctor::{Diagnosis, DoctorRequest, Finding},
    name::{AppName, NodeName, VolumeId},
    replication::{ReplicationStatus, SetReplication},
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
};
use flocker_control::driver::peers::{Method, Request};
use serde_json::{Value, json};

use super::{Container, Copy, Inner, Node, read, refuse, unknown, write};

pub(super) fn answer(
    world: &mut Inner,
    name: &NodeName,
    request: &Request,
) -> Result<Value, ErrorBody> {
    let node = world.nodes.get_mut(name).ok_or_else(|| unknown(request))?;
    if !node.alive {
        return refuse(
            ErrorCode::Unavailable,
            format!("agent of {name} does not answer"),
        );
    }
    let parts: Vec<_> = request.path.trim_start_matches("/v1/").split('/').collect();
    match (request.method, &parts[..]) {
        (_, [about @ ("status" | "doctor" | "lease" | "preflight")]) => {
            itself(name, node, about, request)
        }
        (Method::Post, ["volumes"]) => create_volume(node, &read(request)?),
        (Method::Get, ["volumes", id]) => {
            let id = volume(id)?;
            let copy = copy(node, id)?;
            write(volume_status(id, copy))
        }
        (Method::Post, ["volumes", id, "replicate"]) => {
            replicate(world, name, volume(id)?, &read(request)?)
        }
        (Method::Put, ["volumes", id, "replication"]) => {
            let SetReplication { epoch, policy } = read(request)?;
            let copy = copy(node, volume(id)?)?;
            check_epoch(copy, epoch)?;
            if copy.role != Role::Primary || copy.epoch != epoch {
                return refuse(ErrorCode::NotPrimary, "only a primary is replicated");
            }
            copy.replication = policy.map(|policy| ReplicationStatus {
                epoch,
                policy,
                targets: Vec::new(),
            });
            write(volume_status(volume(id)?, copy))
        }
        (Method::Post, ["volumes", id, verb @ ("promote" | "demote")]) => {
            let EpochRequest { epoch } = read(request)?;
            let of = volume(id)?;
            let uses = |c: &Container| c.spec.volumes.iter().any(|mount| mount.volume == of);
            let busy = node
                .containers
                .values()
                .any(|c| c.state == ContainerState::Running && uses(c));
            let copy = copy(node, of)?;
            check_epoch(copy, epoch)?;
            if *verb == "demote" && busy {
                return refuse(ErrorCode::Busy, "a container writes to it");
            }
            copy.epoch = epoch;
            copy.role = if *verb == "promote" {
                Role::Primary
            } else {
                Role::Replica
            };
            copy.mounted = copy.role == Role::Primary;
            copy.replication = None;
            let status = volume_status(volume(id)?, copy);
            write(status)
        }
        (Method::Post | Method::Delete, ["containers", app, rest @ ..]) => {
            let app: AppName = app.parse().map_err(|_| unknown(request))?;
            containers(world, name, &app, rest.first().copied(), request)
        }
        _ => Err(unknown(request)),
    }
}

/// What is about the node as a whole.
fn itself(
    name: &NodeName,
    node: &mut Node,
    about: &str,
    request: &Request,
) -> Result<Value, ErrorBody> {
    match (request.method, about) {
        (Method::Get, "status") => write(status(name, node)),
        (Method::Post, "doctor") => {
            let request: DoctorRequest = read(request)?;
            write(Diagnosis {
                node: name.clone(),
                clock_ms: 0,
                findings: vec![Finding::ok("peers", request.peers.len().to_string())],
            })
        }
        (Method::Get, "lease") => write(lease()),
        (Method::Put, "lease") => {
            let request: LeaseRequest = read(request)?;
            node.owned = request.volumes;
            write(lease())
        }
        (Method::Post, "preflight") => write(PreflightReply {
            problems: node.objections.clone(),
        }),
        _ => Err(unknown(request)),
    }
}

/// A node that never fences itself.
fn lease() -> LeaseStatus {
    LeaseStatus {
        stamp: LeaseStamp {
            incarnation: uuid::Uuid::nil(),
            clock_ms: 0,
        },
        policy: None,
        remaining_ms: 0,
        fence: FencePhase::Guarding,
        fences: 0,
    }
}

fn status(name: &NodeName, node: &Node) -> NodeStatus {
    NodeStatus {
        node: name.clone(),
        version: "simulated".to_owned(),
        address: node.address,
        replication: (node.address, 7411).into(),
        storage: StorageStatus {
            kind: StorageKind::Directory,
            version: String::new(),
            capabilities: Vec::new(),
            available_bytes: 1 << 40,
            problem: None,
            doubt: None,
        },
        runtime: RuntimeStatus {
            kind: RuntimeKind::Process,
            version: String::new(),
            problem: None,
        },
        volumes: node
            .copies
            .iter()
            .map(|(id, copy)| volume_status(*id, copy))
            .collect(),
        containers: node.containers.values().map(container_status).collect(),
        lease: Some(lease()),
        asides: Vec::new(),
    }
}

fn volume_status(id: VolumeId, copy: &Copy) -> VolumeStatus {
    VolumeStatus {
        id,
        name: copy.name.clone(),
        role: copy.role,
        epoch: copy.epoch,
        mounted_at: copy.mounted.then(|| "/volumes/notes".into()),
        used_bytes: copy.content.len() as u64,
        size_bytes: None,
        snapshots: Vec::new(),
        transfer: None,
        replication: copy.replication.clone(),
    }
}

fn container_status(container: &Container) -> ContainerStatus {
    ContainerStatus {
        app: container.spec.app.clone(),
        state: container.state.clone(),
        image: container.spec.image.clone(),
        epoch: container.epoch,
        addresses: Vec::new(),
        runtime_id: String::new(),
        restarts: 0,
        health: None,
        restart: None,
    }
}

fn volume(text: &str) -> Result<VolumeId, ErrorBody> {
    text.parse()
        .map_err(|_| ErrorBody::new(ErrorCode::InvalidRequest, "no volume id"))
}

fn copy(node: &mut Node, id: VolumeId) -> Result<&mut Copy, ErrorBody> {
    let copy = node.copies.get_mut(&id);
    copy.ok_or_else(|| ErrorBody::new(ErrorCode::NotFound, format!("no volume {id}")))
}

fn check_epoch(copy: &Copy, epoch: Epoch) -> Result<(), ErrorBody> {
    if epoch < copy.epoch {
        return refuse(
            ErrorCode::StaleEpoch,
            format!("epoch {} is current", copy.epoch),
        );
    }
    Ok(())
}

fn create_volume(node: &mut Node, request: &CreateVolume) -> Result<Value, ErrorBody> {
    let copy = node.copies.entry(request.id).or_insert_with(|| Copy {
        name: request.name.clone(),
        role: Role::Primary,
        epoch: request.epoch,
        mounted: true,
        content: Vec::new(),
        replication: None,
    });
    write(volume_status(request.id, copy))
}

fn replicate(
    world: &mut Inner,
    name: &NodeName,
    id: VolumeId,
    request: &ReplicateRequest,
) -> Result<Value, ErrorBody> {
    let source = world
        .nodes
        .get_mut(name)
        .expect("the node was found before");
    let source = copy(source, id)?;
    if source.role != Role::Primary || request.epoch != source.epoch {
        let message = format!("{} at epoch {} cannot send", source.role, source.epoch);
        return refuse(ErrorCode::NotPrimary, message);
    }
    let (content, volume) = (source.content.clone(), source.name.clone());
    let target = world.nodes.get_mut(&request.peer).expect("peers are nodes");
    if !target.alive {
        return refuse(
            ErrorCode::Unavailable,
            format!("{} does not answer", request.peer),
        );
    }
    let target = target.copies.entry(id).or_insert_with(|| Copy {
        name: volume,
        role: Role::Replica,
        epoch: request.epoch,
        mounted: false,
        content: Vec::new(),
        replication: None,
    });
    check_epoch(target, request.epoch)?;
    if target.role == Role::Primary {
        return refuse(ErrorCode::Diverged, "the receiver is primary");
    }
    if !content.starts_with(&target.content) {
        world
            .violations
            .push(format!("{} has what {name} lacks", request.peer));
        return refuse(
            ErrorCode::Diverged,
            "the receiver has what the sender lacks",
        );
    }
    let bytes = (content.len() - target.content.len()) as u64;
    target.content = content;
    target.epoch = request.epoch;
    write(ReplicateReply {
        snapshot: Snapshot {
            name: "s".to_owned(),
            guid: Guid(bytes),
            createtxg: 1,
        },
        bytes,
        full: false,
        snapshot_us: 1_000,
        transfer_us: 2_000,
    })
}

fn containers(
    world: &mut Inner,
    name: &NodeName,
    app: &AppName,
    verb: Option<&str>,
    request: &Request,
) -> Result<Value, ErrorBody> {
    let node = world
        .nodes
        .get_mut(name)
        .expect("the node was found before");
    match (request.method, verb) {
        (Method::Post, Some("create")) => create(node, app, read(request)?),
        (Method::Delete, None) => {
            let EpochRequest { epoch } = read(request)?;
            check_volumes(node, app, epoch)?;
            node.containers.remove(app);
            Ok(json!({}))
        }
        (Method::Post, Some(verb)) => {
            let EpochRequest { epoch } = read(request)?;
            check_volumes(node, app, epoch)?;
            if verb == "start" {
                check_primary(node, app, epoch)?;
            }
            let missing = || ErrorBody::new(ErrorCode::NotFound, format!("no container of {app}"));
            let container = node.containers.get_mut(app).ok_or_else(missing)?;
            match verb {
                "start" => {
                    container.state = ContainerState::Running;
                    write(StartReply {
                        container: container_status(container),
                        started_us: 1_000,
                        ready_us: 5_000,
                    })
                }
                "stop" => {
                    if container.state == ContainerState::Running {
                        container.state = ContainerState::Exited { code: 0 };
                        world.stops += 1;
                    }
                    write(StopReply {
                        exit_code: Some(0),
                        killed: false,
                        stopped_us: 3_000,
                    })
                }
                "pre-stop" => Ok(json!({})),
                _ => Err(unknown(request)),
            }
        }
        _ => Err(unknown(request)),
    }
}

fn create(node: &mut Node, app: &AppName, request: CreateContainer) -> Result<Value, ErrorBody> {
    let CreateContainer { spec, epoch } = request;
    let runs = node.containers.get(app);
    let runs = runs.filter(|container| container.state == ContainerState::Running);
    if let Some(other) = runs {
        if other.spec != spec {
            return refuse(ErrorCode::Busy, format!("{app} runs with another spec"));
        }
        return write(container_status(other));
    }
    let container = Container {
        spec,
        epoch,
        state: ContainerState::Created,
    };
    let status = container_status(&container);
    node.containers.insert(app.clone(), container);
    write(status)
}

fn check_volumes(node: &mut Node, app: &AppName, epoch: Epoch) -> Result<(), ErrorBody> {
    let Some(container) = node.containers.get(app) else {
        return Ok(());
    };
    for mount in &container.spec.volumes {
        if let Some(copy) = node.copies.get(&mount.volume) {
            check_epoch(copy, epoch)?;
        }
    }
    Ok(())
}

fn check_primary(node: &mut Node, app: &AppName, epoch: Epoch) -> Result<(), ErrorBody> {
    let Some(container) = node.containers.get(app) else {
        return Ok(());
    };
    for mount in &container.spec.volumes {
        let copy = node.copies.get(&mount.volume);
        let good = copy
            .is_some_and(|copy| copy.role == Role::Primary && copy.epoch == epoch && copy.mounted);
        if !good {
            let message = format!(
                "volume '{}' is not primary here at epoch {epoch}",
                mount.name
            );
            return refuse(ErrorCode::NotPrimary, message);
        }
    }
    Ok(())
}
