//! What the API asks for. Each method checks, commits, and answers; the work is done by the
//! executor and the reconciler.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flocker_api::{
    control::{
        AppStatus, ClusterStatus, DeployReply, DeployRequest, EdgeOutcome, EdgeSummary, FanOut,
        MoveRequest, MoveStatus, NodeSummary, route_keys,
    },
    deploy::Destination,
    doctor::Diagnosis,
    edge::{RouteTable, TransactionReply},
    gate::{
        PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply, ResumeRequest,
        SwitchRequest, Token,
    },
    name::{AppName, MoveId, NodeName, VolumeId},
    route::Transaction,
};
use futures_util::future::join;
use tokio::task::JoinSet;

use super::{
    context::{Claim, Context},
    doctor,
    executor::{self, stale_token},
    leases, observer, reconciler, volumes,
};
use crate::{
    error::Refusal,
    formats::{self, Sources},
    logic::{
        deploy, links,
        migration::{Header, Move},
        report::{self, whole_ms},
        state::{Change, Life, State},
    },
};

/// How long a request waits for the reconciler to let go of an app.
pub(super) const CLAIM_WAIT: Duration = Duration::from_secs(5);

/// The control service.
#[derive(Debug)]
pub struct Control {
    context: Arc<Context>,
    /// All that runs beside the API; ends with this value.
    tasks: Mutex<JoinSet<()>>,
}

impl Control {
    /// A control service that does nothing yet but answer.
    #[must_use]
    pub fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context: Arc::new(context),
            tasks: Mutex::default(),
        })
    }

    /// Goes on with all unfinished moves.
    pub fn resume_moves(&self) {
        let state = self.context.ledger.state();
        for the_move in state.unfinished() {
            self.spawn(executor::run(
                Arc::clone(&self.context),
                the_move.header().id,
            ));
        }
    }

    /// Observes and reconciles from now on.
    pub fn start(self: &Arc<Self>) {
        self.spawn(observer::run(Arc::clone(&self.context)));
        self.spawn(leases::run(Arc::clone(&self.context)));
        self.spawn(volumes::keep(Arc::clone(&self.context)));
        // The reconciler needs us to begin moves; it must not keep us alive.
        self.spawn(reconciler::run(Arc::clone(self)));
    }

    /// Ends everything that runs beside the API, and waits until it has.
    pub async fn stop(&self) {
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended ones are let go of.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Examines a node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn examine(&self, node: &NodeName) -> Result<Diagnosis, Refusal> {
        self.check_node(node)?;
        Ok(doctor::examine(&self.context, node).await)
    }

    /// The whole cluster on one page.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let context = &self.context;
        let state = context.ledger.state();
        let observed = context.observations.current();
        let moves = self.moves();
        let reconciled = context.reconciled();
        let now_ms = context.clock.now_ms();
        let nodes = context.topology.nodes.iter().filter_map(|(name, agent)| {
            let seen = observed.nodes.get(name)?;
            Some(NodeSummary {
                name: name.clone(),
                agent: *agent,
                status: seen.answer.clone().map(Arc::unwrap_or_clone),
                observed_ms: whole_ms(seen.observed_ms),
                cordoned: state.cordoned.contains(name),
            })
        });
        let edges = context.topology.edges.iter().filter_map(|(name, site)| {
            let seen = observed.edges.get(name)?;
            Some(EdgeSummary {
                name: name.clone(),
                admin: site.admin.to_string(),
                generation: seen.answer.clone().map(|report| report.generation),
                observed_ms: whole_ms(seen.observed_ms),
            })
        });
        let starting = self.context.claims.starting();
        let apps = state.apps.keys().filter_map(|name| {
            report::app_status(&state, &observed, &reconciled.troubles, &starting, name)
        });
        ClusterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            problems: report::problems(
                &state,
                &observed,
                &reconciled.troubles,
                &reconciled.obstacles,
                &moves,
                now_ms,
            ),
            nodes: nodes.collect(),
            edges: edges.collect(),
            apps: apps.collect(),
        }
    }

    /// An app.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn app(&self, name: &AppName) -> Result<AppStatus, Refusal> {
        let state = self.context.ledger.state();
        let observed = self.context.observations.current();
        let troubles = self.context.reconciled().troubles.clone();
        let starting = self.context.claims.starting();
        let status = report::app_status(&state, &observed, &troubles, &starting, name);
        status.ok_or_else(|| Refusal::UnknownApp(name.clone()))
    }

    /// Deploys files.
    ///
    /// # Errors
    /// All that is wrong with them; a plan that is not current any more.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<DeployReply, Refusal> {
        let sources = Sources {
            files: request.files.clone(),
            env_files: request.env_files.clone(),
            variables: request.variables.clone(),
        };
        let deployment = formats::parse(&sources)
            .map_err(|errors| Refusal::Files(errors.iter().map(ToString::to_string).collect()))?;
        let wishes = deploy::Wishes {
            node: request.node.clone(),
            prune: request.prune,
        };
        let nodes = self.context.topology.nodes.keys().cloned().collect();
        let mut claims = Vec::new();
        if !request.dry_run {
            let now = self.context.ledger.state();
            let now = deploy::plan(&now, &nodes, deployment.clone(), &wishes, VolumeId::random);
            for change in now.map_err(Refusal::Files)?.summary {
                claims.extend(self.claim(change.app()).await);
            }
        }
        let mut reply = None;
        self.context
            .ledger
            .transact(|state| {
                let version = deploy::version(state);
                if request.against.is_some_and(|against| against != version) {
                    return Err(Refusal::StalePlan { current: version });
                }
                let plan = deploy::plan(state, &nodes, deployment, &wishes, VolumeId::random);
                let plan = plan.map_err(Refusal::Files)?;
                let comes = |to: &&Destination| {
                    let at = state.primaries.get(&to.app);
                    at.is_none_or(|at| at.node != to.node)
                };
                let mut coming = plan.destinations.iter().filter(comes);
                if let Some(to) = coming.find(|to| state.cordoned.contains(&to.node)) {
                    let node = to.node.clone();
                    return Err(Refusal::Cordoned { node });
                }
                reply = Some(DeployReply {
                    version,
                    changes: plan.summary,
                    apps: plan.destinations,
                });
                Ok::<_, Refusal>(if request.dry_run {
                    Vec::new()
                } else {
                    plan.changes
                })
            })
            .await?;
        reply.ok_or_else(|| Refusal::Malformed("nothing was planned".to_owned()))
    }

    /// Deletes an app; its volumes are kept.
    ///
    /// # Errors
    /// When there is none of this name, or it is being moved.
    pub async fn delete_app(&self, name: &AppName) -> Result<(), Refusal> {
        let _claim = self.claim(name).await;
        let decide = |state: &State| {
            let record = state
                .apps
                .get(name)
                .filter(|record| record.life != Life::Deleted);
            let record = record.ok_or_else(|| Refusal::UnknownApp(name.clone()))?;
            refuse_moving(state, name)?;
            let record = Box::new(deploy::deleted(record));
            Ok(vec![Change::PutApp { record }])
        };
        self.context.ledger.transact(decide).await.map(drop)
    }

    /// Moves an app. Answers when the move has begun.
    ///
    /// # Errors
    /// Whatever can be known at once to stand against it.
    pub async fn begin_move(&self, request: &MoveRequest) -> Result<MoveStatus, Refusal> {
        let (name, to) = (&request.app, &request.to);
        self.check_move(&self.context.ledger.state(), name, to)?;
        let claim = self.context.claims.take_within(name, CLAIM_WAIT).await;
        let _claim = claim.ok_or_else(|| Refusal::AppBusy(name.clone()))?;
        self.begin_claimed_move(name, to).await
    }

    /// [`Control::begin_move`] for who has a claim on the app.
    pub(crate) async fn begin_claimed_move(
        &self,
        name: &AppName,
        to: &NodeName,
    ) -> Result<MoveStatus, Refusal> {
        let context = &self.context;
        let from = self.check_move(&context.ledger.state(), name, to)?;
        let (source, target) = join(
            context.peers.node_status(&from),
            context.peers.node_status(to),
        )
        .await;
        for answer in [source, target] {
            answer.map_err(|error| Refusal::NodeDown {
                app: name.clone(),
                to: to.clone(),
                error,
            })?;
        }
        let id = MoveId::random();
        let begun = context.ledger.transact(|state| {
            let from = self.check_move(state, name, to)?;
            let (Some(record), Some(primary)) = (state.apps.get(name), state.primaries.get(name))
            else {
                return Err(Refusal::UnknownApp(name.clone()));
            };
            let header = Header {
                id,
                app: links::with_links(state, &record.app),
                from,
                to: to.clone(),
                epoch: primary.epoch,
                started_ms: context.clock.now_ms(),
            };
            let forgotten = state
                .forgettable()
                .into_iter()
                .map(|id| Change::ForgetMove { id });
            Ok(executor::begin(header)
                .into_iter()
                .chain(forgotten)
                .collect())
        });
        let state = begun.await?;
        context.progress.advanced(id);
        self.spawn(executor::run(Arc::clone(context), id));
        let the_move = state.moves.get(&id).ok_or(Refusal::UnknownMove(id))?;
        Ok(self.show(the_move))
    }

    /// A move, once its revision is above `after`, or when `wait` has passed.
    ///
    /// # Errors
    /// When there is none of this identity.
    pub async fn move_status(
        &self,
        id: MoveId,
        after: u64,
        wait: Duration,
    ) -> Result<MoveStatus, Refusal> {
        let mut changes = self.context.progress.subscribe();
        let newer = async {
            loop {
                changes.borrow_and_update();
                let state = self.context.ledger.state();
                let the_move = state.moves.get(&id).ok_or(Refusal::UnknownMove(id))?;
                let status = self.show(the_move);
                if status.revision > after || changes.changed().await.is_err() {
                    return Ok(status);
                }
            }
        };
        if let Ok(status) = tokio::time::timeout(wait, newer).await {
            return status;
        }
        let state = self.context.ledger.state();
        let the_move = state.moves.get(&id).ok_or(Refusal::UnknownMove(id))?;
        Ok(self.show(the_move))
    }

    /// All moves, newest first.
    #[must_use]
    pub fn moves(&self) -> Vec<MoveStatus> {
        let state = self.context.ledger.state();
        let mut moves: Vec<_> = state.moves.values().collect();
        moves.sort_by(|a, b| b.header().started_ms.total_cmp(&a.header().started_ms));
        moves
            .into_iter()
            .map(|the_move| self.show(the_move))
            .collect()
    }

    pub(super) fn show(&self, the_move: &Move) -> MoveStatus {
        let doing = self.context.progress.of(the_move.header().id);
        report::move_status(the_move, &doing, self.context.clock.now_ms())
    }

    /// The tables of all edges.
    pub async fn routes(&self) -> Vec<EdgeOutcome<RouteTable>> {
        let peers = &self.context.peers;
        peers
            .on_all_edges(|edge| async move { peers.routes(&edge).await })
            .await
    }

    /// Changes the tables of all edges.
    pub async fn transact(&self, transaction: &Transaction) -> Vec<EdgeOutcome<TransactionReply>> {
        let peers = &self.context.peers;
        let replies =
            peers.on_all_edges(|edge| async move { peers.transact(&edge, transaction).await });
        let replies = replies.await;
        for edge in peers.edges() {
            self.context.observations.poke_edge(edge);
        }
        replies
    }

    /// Pauses routes on all edges under one token.
    ///
    /// # Errors
    /// When one of the routes belongs to an app that is being moved.
    pub async fn pause(&self, mut request: PauseRequest) -> Result<FanOut<PauseReply>, Refusal> {
        let state = self.context.ledger.state();
        for the_move in state.unfinished() {
            let header = the_move.header();
            if route_keys(&header.app)
                .iter()
                .any(|key| request.keys.contains(key))
            {
                refuse_moving(&state, header.app.name())?;
            }
        }
        let given = request.token;
        let mut token = match given {
            Some(token) => token,
            None => self.context.ledger.draw_token(Token(0)).await?,
        };
        request.token = Some(token);
        let mut edges = self.pause_all(&request).await;
        let errors = edges
            .iter()
            .filter_map(|outcome| outcome.result.as_ref().err());
        let newer = errors.filter_map(stale_token).max();
        if let (Some(newer), None) = (newer, given) {
            token = self.context.ledger.draw_token(newer).await?;
            request.token = Some(token);
            edges = self.pause_all(&request).await;
        }
        Ok(FanOut { token, edges })
    }

    async fn pause_all(&self, request: &PauseRequest) -> Vec<EdgeOutcome<PauseReply>> {
        let peers = &self.context.peers;
        peers
            .on_all_edges(|edge| async move { peers.pause(&edge, request).await })
            .await
    }

    /// Waits on all edges until nothing is in flight.
    pub async fn quiesce(&self, request: &QuiesceRequest) -> FanOut<QuiesceReply> {
        let peers = &self.context.peers;
        let edges = peers.on_all_edges(|edge| async move { peers.quiesce(&edge, request).await });
        FanOut {
            token: request.token,
            edges: edges.await,
        }
    }

    /// Retargets paused routes on all edges.
    pub async fn switch(&self, request: &SwitchRequest) -> FanOut<ResumeReply> {
        let peers = &self.context.peers;
        let edges = peers.on_all_edges(|edge| async move { peers.switch(&edge, request).await });
        FanOut {
            token: request.token,
            edges: edges.await,
        }
    }

    /// Resumes routes on all edges.
    pub async fn resume(&self, request: &ResumeRequest) -> FanOut<ResumeReply> {
        let peers = &self.context.peers;
        let edges = peers.on_all_edges(|edge| async move { peers.resume(&edge, request).await });
        FanOut {
            token: request.token,
            edges: edges.await,
        }
    }

    /// The metrics in Prometheus' text form.
    #[must_use]
    pub fn metrics(&self) -> String {
        let observed = self.context.observations.current();
        let now_ms = self.context.clock.now_ms();
        let age = |answered_ms: Option<f64>| {
            answered_ms.map_or(f64::INFINITY, |answered| (now_ms - answered) / 1e3)
        };
        let nodes = observed.nodes.iter();
        let nodes = nodes.map(|(name, seen)| (format!("agent {name}"), age(seen.answered_ms)));
        let edges = observed.edges.iter();
        let edges = edges.map(|(name, seen)| (format!("edge {name}"), age(seen.answered_ms)));
        let ages: BTreeMap<_, _> = nodes.chain(edges).collect();
        self.context
            .metrics
            .render(self.status().problems.len(), ages.into_iter())
    }

    /// Keeps the reconciler from an app for as long as a change of it takes. Who cannot have
    /// the claim goes on without: then only what is observed is a little older.
    async fn claim(&self, app: &AppName) -> Option<Claim> {
        self.context.claims.take_within(app, CLAIM_WAIT).await
    }

    /// Refuses a node that is not there.
    pub(super) fn check_node(&self, node: &NodeName) -> Result<(), Refusal> {
        let known = &self.context.topology.nodes;
        match known.contains_key(node) {
            true => Ok(()),
            false => Err(Refusal::UnknownNode {
                node: node.clone(),
                known: known.keys().cloned().collect(),
            }),
        }
    }

    /// Answers where the app is.
    pub(super) fn check_move(
        &self,
        state: &State,
        name: &AppName,
        to: &NodeName,
    ) -> Result<NodeName, Refusal> {
        let record = state
            .apps
            .get(name)
            .filter(|record| record.life != Life::Deleted);
        let (Some(record), Some(primary)) = (record, state.primaries.get(name)) else {
            return Err(Refusal::UnknownApp(name.clone()));
        };
        if record.life == Life::Deleting {
            return Err(Refusal::Deleting(name.clone()));
        }
        self.check_node(to)?;
        if state.cordoned.contains(to) {
            return Err(Refusal::Cordoned { node: to.clone() });
        }
        refuse_moving(state, name)?;
        if primary.node == *to {
            return Err(Refusal::AlreadyThere {
                app: name.clone(),
                node: to.clone(),
            });
        }
        Ok(primary.node.clone())
    }
}

pub(super) fn refuse_moving(state: &State, name: &AppName) -> Result<(), Refusal> {
    match state.move_of(name) {
        Some(the_move) => Err(Refusal::AlreadyMoving {
            app: name.clone(),
            id: the_move.header().id,
        }),
        None => Ok(()),
    }
}
