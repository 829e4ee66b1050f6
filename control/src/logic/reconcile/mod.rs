//! Desired against observed state: what is to be done next, and what is not well.
//!
//! Pure. Each pass answers with at most one action per app and one transaction per edge; after
//! an action its node is observed again and the next pass sees what came of it. An app that a
//! move owns is never touched. What is known nowhere as ours (routes of operators, containers
//! of others) is left alone.
//!
//! ```text
//!   volume missing, never made -> CreateVolume     container missing  -> CreateContainer
//!   volume not mounted or a replica -> Promote     container stopped  -> StartContainer
//!   declaration changed -> ReplaceContainer        container elsewhere -> RemoveContainer there
//!   deleted -> RemoveContainer, routes removed     old primary elsewhere -> Demote there
//!   serving, policy of the primary is another than declared -> Replicate
//! ```

mod order;
mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flocker_api::{
    ErrorBody,
    agent::{CreateVolume, NodeStatus},
    app::App,
    container::{ContainerSpec, ContainerState, ContainerStatus, Restart},
    edge::{RouteStatus, RouteTable},
    gate::Token,
    name::{AppName, EdgeName, NodeName, VolumeId},
    replication::{SetReplication, Target, VolumePolicy},
    route::{Generation, RouteKey, Transaction},
    volume::{Epoch, Role, VolumeStatus},
};

pub(crate) use self::routes::wanted;
use self::routes::{forgotten_gates, route_changes};
pub(super) use self::{order::Order, routes::lacking};
use super::{
    links,
    state::{AppRecord, Life, Primary, State},
};

/// What was observed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Nodes, as their agents say.
    pub nodes: BTreeMap<NodeName, Seen<NodeStatus>>,
    /// Edges.
    pub edges: BTreeMap<EdgeName, Seen<EdgeReport>>,
}

/// What a peer said last, and how long ago.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// Its newest answer, or why there is none.
    pub answer: Result<Arc<T>, ErrorBody>,
    /// Its last answer that was one, however old.
    pub last: Option<Arc<T>>,
    /// When the newest answer came, Unix time in ms.
    pub observed_ms: f64,
    /// When the question for it was sent: what was done later it may not show.
    pub asked_ms: f64,
    /// Since when it answers, or does not, Unix time in ms.
    pub since_ms: f64,
    /// When it last answered, Unix time in ms.
    pub answered_ms: Option<f64>,
}

impl<T> Seen<T> {
    /// A peer that was not asked yet.
    #[must_use]
    pub fn never(error: ErrorBody) -> Self {
        Self {
            answer: Err(error),
            last: None,
            observed_ms: 0.0,
            asked_ms: 0.0,
            since_ms: 0.0,
            answered_ms: None,
        }
    }

    /// Takes an answer.
    pub fn update(&mut self, answer: Result<T, ErrorBody>, asked_ms: f64, now_ms: f64) {
        let answer = answer.map(Arc::new);
        if answer.is_ok() != self.answer.is_ok() || self.since_ms == 0.0 {
            self.since_ms = now_ms;
        }
        if let Ok(answer) = &answer {
            self.last = Some(Arc::clone(answer));
            self.answered_ms = Some(now_ms);
        }
        self.answer = answer;
        self.asked_ms = asked_ms;
        self.observed_ms = now_ms;
    }

    /// Its newest answer, if it is one.
    #[must_use]
    pub fn ok(&self) -> Option<&T> {
        self.answer.as_ref().ok().map(AsRef::as_ref)
    }
}

/// An edge's table, by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EdgeReport {
    /// Its generation.
    pub generation: Generation,
    /// Since when the edge runs, in s.
    pub uptime_s: u64,
    /// Its routes.
    pub routes: Arc<BTreeMap<RouteKey, RouteStatus>>,
    /// Whether it provides the links of its node's apps.
    pub links: bool,
}

impl EdgeReport {
    /// A table as its edge gave it.
    #[must_use]
    pub fn new(table: RouteTable, uptime_s: u64, links: bool) -> Self {
        let by_key = table.routes.into_iter();
        let by_key = by_key.map(|status| (status.route.key.clone(), status));
        Self {
            generation: table.generation,
            uptime_s,
            routes: Arc::new(by_key.collect()),
            links,
        }
    }
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// For an app, on a node.
    App {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
        /// What.
        what: AppAction,
    },
    /// A change of an edge's table.
    Routes {
        /// The edge.
        edge: EdgeName,
        /// The change.
        transaction: Transaction,
    },
    /// A gate that a move which has ended left paused.
    Resume {
        /// The edge.
        edge: EdgeName,
        /// The token of the pause.
        token: Token,
        /// The routes.
        keys: Vec<RouteKey>,
    },
    /// What control remembers of an app has to be brought up to what was observed.
    Settle {
        /// The app.
        app: AppName,
        /// How.
        how: Settled,
    },
    /// The app shall be on another node and is ready to go.
    Move {
        /// The app.
        app: AppName,
        /// Where it shall be.
        to: NodeName,
    },
}

/// What is done for an app.
#[derive(Debug, Clone, PartialEq)]
pub enum AppAction {
    /// Create a volume, as primary.
    CreateVolume(CreateVolume),
    /// Make a copy writable and mounted.
    Promote(VolumeId, Epoch),
    /// Make a copy of an earlier epoch a replica.
    Demote(VolumeId, Epoch),
    /// Say how a primary is replicated.
    Replicate(VolumeId, SetReplication),
    /// Make the container.
    CreateContainer(Box<ContainerSpec>, Epoch),
    /// Start the container.
    StartContainer(Box<ContainerSpec>, Epoch),
    /// Remove the container, stopped first.
    RemoveContainer(Box<ContainerSpec>, Epoch),
    /// Make the container that runs anew, behind paused gates.
    ReplaceContainer(Box<App>, Epoch),
}

impl AppAction {
    /// In a few words: "create its container".
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateVolume(_) => "create its volume",
            Self::Promote(..) => "make its volume writable",
            Self::Demote(..) => "make its old copy a replica",
            Self::Replicate(..) => "say how its volume is replicated",
            Self::CreateContainer(..) => "create its container",
            Self::StartContainer(..) => "start its container",
            Self::ReplaceContainer(..) => "make its container anew",
            Self::RemoveContainer(..) => "remove its container",
        }
    }
}

/// What has been observed to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// These volumes exist.
    Made(BTreeSet<VolumeId>),
    /// The container of the old declaration is gone.
    Unchanged,
    /// It has been ready for the first time.
    Started,
    /// Routes that are no longer declared have left all edges.
    RoutesGone(BTreeSet<RouteKey>),
    /// Container and routes of a deleted app are gone.
    Deleted,
}

/// An app that cannot be made as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The app.
    pub app: AppName,
    /// What is in the way.
    pub message: String,
    /// What to do about it.
    pub next: String,
}

/// The outcome of a pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What to do.
    pub actions: Vec<Action>,
    /// What is in the way.
    pub obstacles: Vec<Obstacle>,
}

/// When control itself last did something for an app, Unix time in ms. What was observed by
/// an earlier question does not show it yet.
pub type Touched = BTreeMap<AppName, f64>;

/// Compares desired and observed state.
#[must_use]
pub fn reconcile(state: &State, observed: &Observed, touched: &Touched) -> Plan {
    let mut plan = Plan::default();
    let order = Order::new(state);
    for (name, record) in &state.apps {
        let Some(primary) = state.primaries.get(name) else {
            continue;
        };
        if state.move_of(name).is_some() {
            continue;
        }
        let app = AppView {
            state,
            record,
            primary,
            observed,
            order: &order,
            touched_ms: touched.get(name).copied().unwrap_or(0.0),
        };
        match app.next() {
            Ok(Some(action)) => plan.actions.push(action),
            Ok(None) => {}
            Err(obstacle) => plan.obstacles.push(obstacle),
        }
    }
    for (edge, seen) in &observed.edges {
        if let Some(report) = seen.ok() {
            plan.actions
                .extend(route_changes(state, observed, edge, report));
            plan.actions.extend(forgotten_gates(state, edge, report));
        }
    }
    plan
}

/// An app with what is known of it.
struct AppView<'a> {
    state: &'a State,
    record: &'a AppRecord,
    primary: &'a Primary,
    observed: &'a Observed,
    order: &'a Order<'a>,
    touched_ms: f64,
}

impl AppView<'_> {
    fn next(&self) -> Result<Option<Action>, Obstacle> {
        // Stray copies and containers first: nothing is started while another may be writing.
        if let Some(action) = self.stray() {
            return Ok(Some(action));
        }
        let node = self.observed.nodes.get(&self.primary.node);
        let Some(node) = node.and_then(|seen| self.fresh(seen)) else {
            return Ok(None);
        };
        match self.record.life {
            Life::Deleted => Ok(None),
            Life::Deleting => Ok(self.next_of_deleting(node)),
            Life::Wanted => self.next_of_wanted(node),
        }
    }

    /// A container, or a copy that believes to be primary, on a node that is not the app's.
    fn stray(&self) -> Option<Action> {
        let others = self.observed.nodes.iter();
        let others = others.filter(|(name, _)| **name != self.primary.node);
        for (name, node) in others.filter_map(|(name, seen)| Some((name, self.fresh(seen)?))) {
            if node
                .containers
                .iter()
                .any(|container| container.app == *self.name())
            {
                return Some(self.on(name, self.remove_container()));
            }
            let old = |volume: &&VolumeStatus| {
                volume.role == Role::Primary && volume.epoch < self.primary.epoch
            };
            if let Some(volume) = self.volumes_on(node).find(old) {
                return Some(self.on(name, AppAction::Demote(volume.id, self.primary.epoch)));
            }
        }
        None
    }

    fn next_of_deleting(&self, node: &NodeStatus) -> Option<Action> {
        if node
            .containers
            .iter()
            .any(|container| container.app == *self.name())
        {
            return Some(self.here(self.remove_container()));
        }
        let keys = self.record.retired.iter();
        keys.into_iter()
            .all(|key| self.is_gone(key))
            .then(|| self.settle(Settled::Deleted))
    }

    fn next_of_wanted(&self, node: &NodeStatus) -> Result<Option<Action>, Obstacle> {
        let epoch = self.primary.epoch;
        let spec = &self.record.app.container;
        let container = node
            .containers
            .iter()
            .find(|container| container.app == spec.app);
        if self.record.changed {
            return Ok(self.next_of_changed(container));
        }
        if let Some(action) = self.next_of_volumes(node)? {
            return Ok(Some(action));
        }
        if let Some(left) = container.and_then(|container| container.restart.as_ref()) {
            return self.next_of_ended(left, container);
        }
        let running = container.is_some_and(|one| one.state == ContainerState::Running);
        if !running && self.order.awaited(self.observed, self.record).is_some() {
            return Ok(None);
        }
        let spec = || Box::new(spec.clone());
        let action = match container.map(|container| &container.state) {
            None => self.here(AppAction::CreateContainer(spec(), epoch)),
            Some(ContainerState::Created | ContainerState::Exited { .. }) => {
                self.here(AppAction::StartContainer(spec(), epoch))
            }
            // It runs and has never said that it is ready: asked again, until it is.
            Some(ContainerState::Running) if !self.record.started => {
                self.here(AppAction::StartContainer(spec(), epoch))
            }
            Some(ContainerState::Running) => {
                let next = self.next_of_running().or_else(|| self.next_of_copies(node));
                let dangling = links::dangling(self.state, &self.record.app);
                return match (next, dangling) {
                    (None, Some(why)) => {
                        Err(self.obstacle(why, "deploy what it leads to".to_owned()))
                    }
                    (next, _) => Ok(next),
                };
            }
        };
        Ok(Some(action))
    }

    /// The app ended by itself: that is its node's business, which knows its restart policy.
    fn next_of_ended(
        &self,
        left: &Restart,
        container: Option<&ContainerStatus>,
    ) -> Result<Option<Action>, Obstacle> {
        let well = container.is_some_and(|one| one.state == ContainerState::Exited { code: 0 });
        match left {
            Restart::Left { reason } if !well => Err(self.obstacle(
                reason.clone(),
                format!(
                    "see why: flockerctl app logs {0}; start it: flockerctl app restart {0}",
                    self.name()
                ),
            )),
            Restart::Left { .. } | Restart::Waiting { .. } => Ok(None),
        }
    }

    /// Its declaration is another than its container's. One that runs is replaced behind
    /// paused gates, after the apps that it needs.
    fn next_of_changed(&self, container: Option<&ContainerStatus>) -> Option<Action> {
        let Some(container) = container else {
            return Some(self.settle(Settled::Unchanged));
        };
        if container.state != ContainerState::Running {
            return Some(self.here(self.remove_container()));
        }
        if self.order.unsettled(self.record).is_some() {
            return None;
        }
        let app = Box::new(self.record.app.clone());
        Some(self.here(AppAction::ReplaceContainer(app, self.primary.epoch)))
    }

    fn next_of_volumes(&self, node: &NodeStatus) -> Result<Option<Action>, Obstacle> {
        let epoch = self.primary.epoch;
        let mut made = BTreeSet::new();
        let sizes = self.record.app.volume_sizes.iter().copied();
        let mounts = self.record.app.container.volumes.iter();
        for (mount, size_bytes) in mounts.zip(sizes.chain(std::iter::repeat(None))) {
            let found = node.volumes.iter().find(|volume| volume.id == mount.volume);
            let Some(volume) = found else {
                if self.record.made.contains(&mount.volume) {
                    return Err(self.obstacle(
                        format!(
                            "volume '{}' is missing on node {}",
                            mount.name, self.primary.node
                        ),
                        "look for its pool; it is not made anew, because it had content".to_owned(),
                    ));
                }
                return Ok(Some(self.here(AppAction::CreateVolume(CreateVolume {
                    id: mount.volume,
                    name: mount.name.clone(),
                    size_bytes,
                    epoch,
                }))));
            };
            if volume.epoch > epoch {
                return Err(self.obstacle(
                    format!(
                        "volume '{}' on node {} is at epoch {}, newer than epoch {epoch} of the store",
                        mount.name, self.primary.node, volume.epoch
                    ),
                    "the store is older than the volumes; restore the right store".to_owned(),
                ));
            }
            if volume.role == Role::Replica || volume.mounted_at.is_none() {
                return Ok(Some(self.here(AppAction::Promote(volume.id, epoch))));
            }
            made.insert(volume.id);
        }
        let news = !made.is_subset(&self.record.made);
        Ok(news.then(|| self.settle(Settled::Made(made))))
    }

    /// The app runs: nothing is left but bookkeeping, and a move that was asked for.
    fn next_of_running(&self) -> Option<Action> {
        let gone = self.record.retired.iter().filter(|key| self.is_gone(key));
        let gone: BTreeSet<_> = gone.cloned().collect();
        if !gone.is_empty() {
            return Some(self.settle(Settled::RoutesGone(gone)));
        }
        let to = self.record.wanted.clone()?;
        if self.order.unsettled(self.record).is_some() {
            return None;
        }
        (to != self.primary.node).then(|| Action::Move {
            app: self.name().clone(),
            to,
        })
    }

    /// The primaries' agents have to know where else the volumes are kept.
    fn next_of_copies(&self, node: &NodeStatus) -> Option<Action> {
        let epoch = self.primary.epoch;
        let wanted = self.policy();
        let primaries = self
            .volumes_on(node)
            .filter(|volume| volume.role == Role::Primary && volume.epoch == epoch);
        for volume in primaries {
            let known = volume.replication.as_ref();
            let same = match (known, &wanted) {
                (None, None) => true,
                (Some(known), Some(wanted)) => known.epoch == epoch && known.policy == *wanted,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                let policy = wanted.clone();
                let request = SetReplication { epoch, policy };
                return Some(self.here(AppAction::Replicate(volume.id, request)));
            }
        }
        None
    }

    /// What was declared, with the addresses of the nodes that have ever answered.
    fn policy(&self) -> Option<VolumePolicy> {
        let declared = self.record.app.replication.as_ref()?;
        let others = declared.nodes.iter();
        let others = others.filter(|node| **node != self.primary.node);
        let targets = others.filter_map(|node| {
            let seen = self.observed.nodes.get(node)?.last.as_ref()?;
            Some(Target {
                peer: node.clone(),
                to: seen.replication,
            })
        });
        Some(VolumePolicy {
            targets: targets.collect(),
            interval_ms: declared.interval_ms,
            keep: declared.keep.clone(),
        })
    }

    /// What a node says, unless it said so before control last did something for the app.
    fn fresh<'s>(&self, seen: &'s Seen<NodeStatus>) -> Option<&'s NodeStatus> {
        seen.ok().filter(|_| seen.asked_ms >= self.touched_ms)
    }

    /// Whether a route has left all edges. An edge that does not answer may still have it.
    fn is_gone(&self, key: &RouteKey) -> bool {
        let edges = self.observed.edges.values();
        edges.into_iter().all(|seen| {
            seen.ok()
                .is_some_and(|report| !report.routes.contains_key(key))
        })
    }

    fn volumes_on<'a>(&'a self, node: &'a NodeStatus) -> impl Iterator<Item = &'a VolumeStatus> {
        let mounts = &self.record.app.container.volumes;
        let ours = |id: VolumeId| mounts.iter().any(|mount| mount.volume == id);
        node.volumes.iter().filter(move |volume| ours(volume.id))
    }

    fn remove_container(&self) -> AppAction {
        AppAction::RemoveContainer(
            Box::new(self.record.app.container.clone()),
            self.primary.epoch,
        )
    }

    fn name(&self) -> &AppName {
        self.record.app.name()
    }

    fn here(&self, what: AppAction) -> Action {
        self.on(&self.primary.node, what)
    }

    fn on(&self, node: &NodeName, what: AppAction) -> Action {
        Action::App {
            app: self.name().clone(),
            node: node.clone(),
            what,
        }
    }

    fn settle(&self, how: Settled) -> Action {
        Action::Settle {
            app: self.name().clone(),
            how,
        }
    }

    fn obstacle(&self, message: String, next: String) -> Obstacle {
        Obstacle {
            app: self.name().clone(),
            message,
            next,
        }
    }
}

#[cfg(test)]
mod tests;
