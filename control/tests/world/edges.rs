//! The simulated edges.

use std::{net::SocketAddr, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    edge::{EdgeStatus, RouteStatus, RouteTable, TransactionReply},
    gate::{
        GateState, GateStatus, HoldReport, InFlight, PauseReply, PauseRequest, QuiesceReply,
        QuiesceRequest, ResumeReply, ResumeRequest, SwitchRequest, Token,
    },
    name::EdgeName,
    route::{Operation, Route, RouteKey, Transaction},
};
use flocker_control::driver::peers::{Method, Request};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Edge, Inner, RouteEntry, read, refuse, unknown, write};

/// Where an entry leads.
pub fn upstream(entry: &RouteEntry) -> SocketAddr {
    entry.route.upstreams[0]
        .socket()
        .expect("control names addresses")
}

pub(super) fn answer(
    world: &mut Inner,
    name: &EdgeName,
    request: &Request,
) -> Result<Value, ErrorBody> {
    let stubborn = world.stubborn;
    let edge = world.edges.get_mut(name).ok_or_else(|| unknown(request))?;
    if !edge.alive {
        return refuse(
            ErrorCode::Unavailable,
            format!("edge {name} does not answer"),
        );
    }
    let path = request.path.trim_start_matches("/v1/");
    match (request.method, path) {
        (Method::Get, "status") => write(EdgeStatus {
            pid: 1,
            draining: false,
            predecessors: Vec::new(),
            name: name.clone(),
            version: "simulated".to_owned(),
            uptime_s: 0,
            generation: edge.generation,
            routes: edge.routes.len() as u64,
            sessions: 0,
            parked: 0,
            workers: 1,
            listeners: Vec::new(),
        }),
        (Method::Get, "routes") => write(RouteTable {
            generation: edge.generation,
            routes: edge.routes.values().map(status).collect(),
        }),
        (Method::Get, _) if path.starts_with("routes/") => {
            let key: RouteKey = path["routes/".len()..]
                .parse()
                .map_err(|_| unknown(request))?;
            write(status(entry(edge, &key)?))
        }
        (Method::Post, "routes") => transact(edge, read(request)?),
        (Method::Post, "gates/pause") => pause(edge, &read(request)?),
        (Method::Post, "gates/quiesce") => quiesce(edge, &read(request)?, stubborn),
        (Method::Post, "gates/switch") => {
            let SwitchRequest { token, changes, .. } = read(request)?;
            let keys = changes.iter().map(|change| change.key.clone()).collect();
            check_paused(edge, &keys, token)?;
            for change in changes {
                entry(edge, &change.key)?.route.upstreams = change.upstreams;
            }
            edge.generation = edge.generation.next();
            resume(world, name, &keys)
        }
        (Method::Post, "gates/resume") => {
            let ResumeRequest { token, keys } = read(request)?;
            check_paused(edge, &keys, token)?;
            resume(world, name, &keys)
        }
        _ => Err(unknown(request)),
    }
}

/// How long a quiesce waits for requests that stay in flight.
pub(super) fn time_to_quiesce(world: &Inner, request: &Request) -> Option<Duration> {
    let asked = request.path.ends_with("gates/quiesce") && world.stubborn > 0;
    let request: QuiesceRequest = asked.then(|| read(request).ok())??;
    Some(Duration::from_millis(request.deadline_ms))
}

fn entry<'a>(edge: &'a mut Edge, key: &RouteKey) -> Result<&'a mut RouteEntry, ErrorBody> {
    let missing = || ErrorBody::new(ErrorCode::NotFound, format!("no route {key}"));
    edge.routes.get_mut(key).ok_or_else(missing)
}

fn status(entry: &RouteEntry) -> RouteStatus {
    let paused = entry
        .paused
        .is_some_and(|(_, lapses)| Instant::now() < lapses);
    RouteStatus {
        route: entry.route.clone(),
        gate: GateStatus {
            state: if paused {
                GateState::Paused
            } else {
                GateState::Open
            },
            token: entry.token,
            in_flight: 0,
            parked: entry.parked,
            parked_bytes: 0,
            oldest_wait_ms: 0,
            lapses_in_ms: None,
            limits: None,
        },
        requests: 0,
        failed: 0,
        upstreams: Vec::new(),
        unresolved: Vec::new(),
    }
}

fn transact(edge: &mut Edge, transaction: Transaction) -> Result<Value, ErrorBody> {
    if transaction
        .against
        .is_some_and(|against| against != edge.generation)
    {
        let message = format!("generation {} is current", edge.generation);
        return refuse(ErrorCode::StaleGeneration, message);
    }
    for operation in transaction.operations {
        match operation {
            Operation::Add { route } | Operation::Set { route } | Operation::Put { route } => {
                put(edge, route);
            }
            Operation::Remove { key } => drop(edge.routes.remove(&key)),
            Operation::Drain { key, .. } => {
                return refuse(ErrorCode::InvalidRequest, format!("{key} is never drained"));
            }
        }
    }
    edge.generation = edge.generation.next();
    write(TransactionReply {
        generation: edge.generation,
    })
}

/// The gate, its token and what is parked there stay.
pub(super) fn put(edge: &mut Edge, route: Route) {
    match edge.routes.get_mut(&route.key) {
        Some(entry) => entry.route = route,
        None => {
            let fresh = RouteEntry {
                route: route.clone(),
                token: Token(0),
                paused: None,
                parked: 0,
            };
            edge.routes.insert(route.key, fresh);
        }
    }
}

fn pause(edge: &mut Edge, request: &PauseRequest) -> Result<Value, ErrorBody> {
    let Some(token) = request.token else {
        return refuse(ErrorCode::InvalidRequest, "control always names a token");
    };
    for key in &request.keys {
        let entry = entry(edge, key)?;
        if token < entry.token {
            let error = ErrorBody::new(ErrorCode::StaleToken, "a newer token holds the gate");
            return Err(error.with_details(json!({ "current": entry.token })));
        }
    }
    let now = Instant::now();
    for key in &request.keys {
        let entry = entry(edge, key)?;
        let since = entry.paused.map_or(now, |(since, _)| since);
        entry.token = token;
        entry.paused = Some((since, now + Duration::from_millis(request.limits.hold_ms)));
    }
    write(PauseReply { token })
}

fn quiesce(edge: &mut Edge, request: &QuiesceRequest, stubborn: u64) -> Result<Value, ErrorBody> {
    check_paused(edge, &request.keys, request.token)?;
    if stubborn == 0 {
        return write(QuiesceReply::Quiesced { closed: 0 });
    }
    let in_flight = request.keys.iter().map(|key| InFlight {
        key: key.clone(),
        count: stubborn,
    });
    write(QuiesceReply::Busy {
        in_flight: in_flight.collect(),
    })
}

fn check_paused(edge: &mut Edge, keys: &Vec<RouteKey>, token: Token) -> Result<(), ErrorBody> {
    for key in keys {
        let entry = entry(edge, key)?;
        if token < entry.token {
            return refuse(ErrorCode::StaleToken, "a newer token holds the gate");
        }
        let paused = entry
            .paused
            .is_some_and(|(_, lapses)| Instant::now() < lapses);
        if !paused || token != entry.token {
            return refuse(
                ErrorCode::NotPaused,
                format!("{key} is not paused by {token}"),
            );
        }
    }
    Ok(())
}

fn resume(world: &mut Inner, name: &EdgeName, keys: &Vec<RouteKey>) -> Result<Value, ErrorBody> {
    let mut holds = Vec::new();
    for key in keys {
        let edge = world
            .edges
            .get_mut(name)
            .expect("the edge was found before");
        let entry = entry(edge, key)?;
        let (since, _) = entry.paused.take().expect("it was checked to be paused");
        let paused_us = u64::try_from(since.elapsed().as_micros()).expect("short");
        let (parked, upstream) = (std::mem::take(&mut entry.parked), upstream(entry));
        holds.push(HoldReport {
            key: key.clone(),
            paused_us,
            lapsed: false,
            released: parked,
            longest_wait_us: paused_us,
            refused: 0,
            client_gone: 0,
        });
        for _ in 0..parked {
            world.write(upstream);
        }
        world.released += parked;
    }
    let edge = world.edges.get(name).expect("the edge was found before");
    write(ResumeReply {
        generation: edge.generation,
        holds,
    })
}
