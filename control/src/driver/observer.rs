//! Asks every agent and edge how it is, over and over, each by a task of its own, so that a
//! dead one delays nobody. Who reads the answers waits for nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{EdgeName, NodeName},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::context::Context;
use crate::{
    config::Topology,
    logic::reconcile::{EdgeReport, Observed, Seen},
};

/// Up to so many routes a table is read whenever its edge is asked.
const ROUTES_SMALL: u64 = 1_000;

/// The newest answers of all agents and edges.
#[derive(Debug)]
pub struct Observations {
    current: RwLock<Arc<Observed>>,
    changed: watch::Sender<u64>,
    /// By which a peer is asked at once.
    pokes: BTreeMap<NodeName, Notify>,
    edge_pokes: BTreeMap<EdgeName, Notify>,
}

impl Observations {
    pub(crate) fn new(topology: &Topology) -> Self {
        let not_yet = || ErrorBody::new(ErrorCode::Unavailable, "not asked yet");
        let observed = Observed {
            nodes: topology
                .nodes
                .keys()
                .map(|node| (node.clone(), Seen::never(not_yet())))
                .collect(),
            edges: topology
                .edges
                .keys()
                .map(|edge| (edge.clone(), Seen::never(not_yet())))
                .collect(),
        };
        Self {
            current: RwLock::new(Arc::new(observed)),
            changed: watch::Sender::new(0),
            pokes: topology
                .nodes
                .keys()
                .map(|node| (node.clone(), Notify::new()))
                .collect(),
            edge_pokes: topology
                .edges
                .keys()
                .map(|edge| (edge.clone(), Notify::new()))
                .collect(),
        }
    }

    /// What was observed last.
    pub(crate) fn current(&self) -> Arc<Observed> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of each answer.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Has a node asked at once.
    pub(crate) fn poke_node(&self, node: &NodeName) {
        if let Some(poke) = self.pokes.get(node) {
            poke.notify_one();
        }
    }

    /// Has an edge asked at once.
    pub(crate) fn poke_edge(&self, edge: &EdgeName) {
        if let Some(poke) = self.edge_pokes.get(edge) {
            poke.notify_one();
        }
    }

    fn update(&self, change: impl FnOnce(&mut Observed)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut current));
        drop(current);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Observes until it is dropped.
pub async fn run(context: Arc<Context>) {
    let mut tasks = JoinSet::new();
    for node in context.topology.nodes.keys().cloned() {
        tasks.spawn(observe_node(Arc::clone(&context), node));
    }
    for edge in context.topology.edges.keys().cloned() {
        tasks.spawn(observe_edge(Arc::clone(&context), edge));
    }
    tasks.join_all().await;
}

async fn observe_node(context: Arc<Context>, node: NodeName) {
    loop {
        ask_node(&context, &node).await;
        if let Some(poke) = context.observations.pokes.get(&node) {
            drop(tokio::time::timeout(context.limits.poll, poke.notified()).await);
        }
    }
}

/// Asks a node now, and publishes the answer.
pub(crate) async fn ask_node(context: &Context, node: &NodeName) {
    let asked_ms = context.clock.now_ms();
    let answer = context.peers.node_status(node).await;
    let now_ms = context.clock.now_ms();
    context.observations.update(|observed| {
        let seen = observed.nodes.get_mut(node);
        if let Some(seen) = seen {
            seen.update(answer, asked_ms, now_ms);
        }
    });
}

async fn observe_edge(context: Arc<Context>, edge: EdgeName) {
    loop {
        ask_edge(&context, &edge).await;
        if let Some(poke) = context.observations.edge_pokes.get(&edge) {
            drop(tokio::time::timeout(context.limits.poll, poke.notified()).await);
        }
    }
}

async fn ask_edge(context: &Context, edge: &EdgeName) {
    let asked_ms = context.clock.now_ms();
    let answer = edge_report(context, edge).await;
    let now_ms = context.clock.now_ms();
    context.observations.update(|observed| {
        if let Some(seen) = observed.edges.get_mut(edge) {
            seen.update(answer, asked_ms, now_ms);
        }
    });
}

/// An edge's table. A small one is read each time, and its gates with it; a large one only
/// when its generation has changed or the edge was started anew.
async fn edge_report(context: &Context, edge: &EdgeName) -> Result<EdgeReport, ErrorBody> {
    let status = context.peers.edge_status(edge).await?;
    let observed = context.observations.current();
    let known = observed.edges.get(edge).and_then(Seen::ok);
    let same = known
        .filter(|known| known.generation == status.generation && known.uptime_s <= status.uptime_s);
    if let (Some(known), true) = (same, status.routes > ROUTES_SMALL) {
        return Ok(EdgeReport {
            uptime_s: status.uptime_s,
            ..known.clone()
        });
    }
    let table = context.peers.routes(edge).await?;
    let links = context.topology.provides_links(edge);
    Ok(EdgeReport::new(table, status.uptime_s, links))
}
