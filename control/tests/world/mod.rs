//! A simulated world behind control's wire: agents with volumes, epochs and containers, edges
//! with routes and gates, and traffic that writes through every edge whenever anything moves.
//!
//! It plays by the rules of `flocker_api` and keeps watch: two writers, a writer on a replica,
//! a copy that would lose an acknowledged write are written down as violations when they
//! happen. Time is tokio's, so that tests run on a virtual clock.

#![expect(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

mod agents;
mod cluster;
mod edges;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::OwnedVolume,
    container::{ContainerSpec, ContainerState},
    gate::Token,
    name::{AppName, EdgeName, NodeName, VolumeId, VolumeName},
    replication::ReplicationStatus,
    route::{Generation, Route, RouteKey},
    volume::{Epoch, Role},
};
use flocker_control::driver::peers::{Method, Peer, Request, Wire};
use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::Value;
use tokio::{sync::Notify, time::Instant};

pub use cluster::*;
pub use edges::upstream;

/// The simulated world.
#[derive(Default)]
pub struct World {
    inner: Mutex<Inner>,
    /// Told when a call was swallowed by [`Fault::Freeze`].
    pub frozen: Notify,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not arrive.
    Lost,
    /// It arrives and is carried out, but its answer does not come back.
    AnswerLost,
    /// It never returns, and does not arrive.
    Freeze,
    /// It is carried out and never returns.
    FreezeAfter,
    /// It is refused for a reason that does not pass.
    Refused,
    /// Its node dies when it arrives.
    KillTarget,
}

/// Says what happens to a call; `None`: nothing special.
pub type Script = Box<dyn FnMut(&Call<'_>, &mut Inner) -> Option<Fault> + Send>;

/// A call as scripts see it.
pub struct Call<'a> {
    /// How many came before it.
    pub number: usize,
    /// The request.
    pub request: &'a Request,
}

impl Call<'_> {
    /// Whether its path ends like this: "replicate", "stop", "gates/pause".
    pub fn is(&self, verb: &str) -> bool {
        self.request.path.ends_with(verb)
    }
}

#[derive(Default)]
pub struct Inner {
    pub nodes: BTreeMap<NodeName, Node>,
    pub edges: BTreeMap<EdgeName, Edge>,
    /// Writes that were answered.
    pub acknowledged: Vec<u64>,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Requests that were held and answered in the end.
    pub released: u64,
    /// What must never happen, and did.
    pub violations: Vec<String>,
    /// Containers that were stopped while they ran.
    pub stops: u64,
    /// Calls so far.
    pub calls: usize,
    /// Calls that change something are carried out twice.
    pub twice: bool,
    /// How long each call of a verb takes.
    pub slow: BTreeMap<&'static str, Duration>,
    /// Requests that stay in flight when a route is paused.
    pub stubborn: u64,
    script: Option<Script>,
    next_write: u64,
}

pub struct Node {
    pub address: std::net::IpAddr,
    pub alive: bool,
    pub copies: BTreeMap<VolumeId, Copy>,
    pub containers: BTreeMap<AppName, Container>,
    /// What its preflight objects to.
    pub objections: Vec<String>,
    /// The volumes of its last lease.
    pub owned: Vec<OwnedVolume>,
}

pub struct Copy {
    pub name: VolumeName,
    pub role: Role,
    pub epoch: Epoch,
    pub mounted: bool,
    pub content: Vec<u64>,
    pub replication: Option<ReplicationStatus>,
}

pub struct Container {
    pub spec: ContainerSpec,
    pub epoch: Epoch,
    pub state: ContainerState,
}

pub struct Edge {
    pub alive: bool,
    pub generation: Generation,
    pub routes: BTreeMap<RouteKey, RouteEntry>,
}

pub struct RouteEntry {
    pub route: Route,
    pub token: Token,
    /// When paused: since when, and when the pause lapses.
    pub paused: Option<(Instant, Instant)>,
    pub parked: u64,
}

impl World {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Containers that were stopped, and requests that failed.
    pub fn stops_and_failed(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.stops, inner.failed)
    }

    /// What happens to calls from now on.
    pub fn script(
        &self,
        script: impl FnMut(&Call<'_>, &mut Inner) -> Option<Fault> + Send + 'static,
    ) {
        self.lock().script = Some(Box::new(script));
    }

    /// Nothing special happens from now on.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.script = None;
        inner.twice = false;
        inner.slow.clear();
    }

    /// A node dies: its agent does not answer, its containers are gone.
    pub fn kill(&self, node: &str) {
        self.lock().kill(&node_name(node));
    }

    /// A node boots: its containers have ended, its volumes are not mounted.
    pub fn revive(&self, node: &str) {
        if let Some(node) = self.lock().nodes.get_mut(&node_name(node)) {
            node.alive = true;
        }
    }
}

impl Inner {
    pub fn kill(&mut self, node: &NodeName) {
        let node = self.nodes.get_mut(node).expect("the node exists");
        node.alive = false;
        for container in node.containers.values_mut() {
            if container.state == ContainerState::Running {
                container.state = ContainerState::Exited { code: 137 };
            }
        }
        for copy in node.copies.values_mut() {
            copy.mounted = false;
        }
    }

    /// One request through each route of each edge, then a look at what must never be.
    pub fn traffic(&mut self) {
        let routes: Vec<(EdgeName, RouteKey)> = self
            .edges
            .iter()
            .filter(|(_, edge)| edge.alive)
            .flat_map(|(name, edge)| edge.routes.keys().map(|key| (name.clone(), key.clone())))
            .collect();
        for (edge, key) in routes {
            self.request(&edge, &key);
        }
        self.look();
    }

    fn request(&mut self, edge: &EdgeName, key: &RouteKey) {
        let entry = self
            .edges
            .get_mut(edge)
            .and_then(|edge| edge.routes.get_mut(key));
        let Some(entry) = entry else { return };
        if let Some((_, lapses)) = entry.paused {
            if Instant::now() < lapses {
                entry.parked += 1;
                return;
            }
            // The parked are refused and the gate opens towards what it has.
            entry.paused = None;
            self.failed += entry.parked;
            entry.parked = 0;
        }
        let upstream = upstream(entry);
        self.write(upstream);
    }

    /// A write that arrives at an upstream: acknowledged, or an error for its client.
    pub fn write(&mut self, upstream: SocketAddr) {
        let number = self.next_write;
        self.next_write += 1;
        let node = self
            .nodes
            .values_mut()
            .find(|node| node.address == upstream.ip());
        let Some(node) = node.filter(|node| node.alive) else {
            self.failed += 1;
            return;
        };
        let mut containers = node.containers.values();
        let serving = containers.find(|container| {
            container.state == ContainerState::Running
                && container.spec.ports.contains(&upstream.port())
        });
        let Some(container) = serving else {
            self.failed += 1;
            return;
        };
        for mount in &container.spec.volumes {
            match node.copies.get_mut(&mount.volume) {
                Some(copy) if copy.role == Role::Primary && copy.mounted => {
                    copy.content.push(number);
                }
                _ => self
                    .violations
                    .push(format!("a write to a copy that is not primary: {number}")),
            }
        }
        self.acknowledged.push(number);
    }

    /// At most one container of an app runs, and on a writable copy.
    fn look(&mut self) {
        let mut writers = BTreeMap::<AppName, BTreeSet<NodeName>>::new();
        for (name, node) in self.nodes.iter().filter(|(_, node)| node.alive) {
            let running = node.containers.iter();
            for (app, container) in running.filter(|(_, c)| c.state == ContainerState::Running) {
                writers.entry(app.clone()).or_default().insert(name.clone());
                for mount in &container.spec.volumes {
                    let role = node.copies.get(&mount.volume).map(|copy| copy.role);
                    if role != Some(Role::Primary) {
                        self.violations
                            .push(format!("{app} runs on {name} on a copy that is {role:?}"));
                    }
                }
            }
        }
        for (app, nodes) in writers.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
            self.violations
                .push(format!("two writers of {app}: {nodes:?}"));
        }
    }

    fn carry_out(&mut self, request: &Request) -> Result<Value, ErrorBody> {
        match &request.peer {
            Peer::Agent(node) => agents::answer(self, node, request),
            Peer::Edge(edge) => edges::answer(self, edge, request),
        }
    }

    fn arrive(&mut self, request: &Request) -> (Option<Fault>, Duration) {
        self.traffic();
        let number = self.calls;
        self.calls += 1;
        let mut script = self.script.take();
        let fault = script
            .as_mut()
            .and_then(|script| script(&Call { number, request }, self));
        self.script = script;
        let slow = self
            .slow
            .iter()
            .find(|(verb, _)| request.path.ends_with(**verb));
        (
            fault,
            slow.map_or(Duration::from_millis(1), |(_, slow)| *slow),
        )
    }

    fn act(&mut self, request: &Request) -> Result<Value, ErrorBody> {
        let mut answer = self.carry_out(request);
        if self.twice && request.method != Method::Get {
            self.traffic();
            answer = self.carry_out(request);
        }
        self.traffic();
        answer
    }
}

impl Wire for World {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Value, ErrorBody>> {
        async move {
            let (fault, takes) = self.lock().arrive(&request);
            let no_answer = |code| {
                let message = format!("{} does not answer {}", request.peer, request.path);
                Err(ErrorBody::new(code, message))
            };
            match fault {
                Some(Fault::Lost) => return no_answer(ErrorCode::Unavailable),
                Some(Fault::Refused) => return no_answer(ErrorCode::Internal),
                Some(Fault::Freeze) => {
                    self.frozen.notify_one();
                    return std::future::pending().await;
                }
                Some(Fault::KillTarget) => {
                    self.kill("n2");
                    return no_answer(ErrorCode::Unavailable);
                }
                Some(Fault::AnswerLost | Fault::FreezeAfter) | None => {}
            }
            if takes > request.deadline {
                tokio::time::sleep(request.deadline).await;
                return no_answer(ErrorCode::Timeout);
            }
            tokio::time::sleep(takes).await;
            let quiesce = edges::time_to_quiesce(&self.lock(), &request);
            if let Some(wait) = quiesce {
                tokio::time::sleep(wait).await;
            }
            let answer = self.lock().act(&request);
            match fault {
                Some(Fault::AnswerLost) => no_answer(ErrorCode::Timeout),
                Some(Fault::FreezeAfter) => {
                    self.frozen.notify_one();
                    std::future::pending().await
                }
                _ => answer,
            }
        }
        .boxed()
    }
}

pub fn node_name(text: &str) -> NodeName {
    text.parse().expect("a node name")
}

/// What a well-behaved peer says to a request that it does not know.
fn unknown(request: &Request) -> ErrorBody {
    let message = format!(
        "{} has no {:?} {}",
        request.peer, request.method, request.path
    );
    ErrorBody::new(ErrorCode::NotFound, message)
}

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, ErrorBody> {
    Err(ErrorBody::new(code, message))
}

fn read<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, ErrorBody> {
    serde_json::from_value(request.body.clone())
        .map_err(|error| ErrorBody::new(ErrorCode::InvalidRequest, error.to_string()))
}

fn write<T: serde::Serialize>(answer: T) -> Result<Value, ErrorBody> {
    serde_json::to_value(answer)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))
}

/// A world that several parts share.
pub type SharedWorld = Arc<World>;
