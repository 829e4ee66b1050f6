//! Agents and edges, typed, behind one seam.
//!
//! [`Wire`] carries a request to a peer and brings the answer; [`HttpWire`] does so over HTTP,
//! tests with a simulated world. [`Peers`] gives each verb of `flocker_api::agent`, `edge` and
//! `gate` a method. It neither retries nor interprets: that is the callers' business.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{
        CreateContainer, CreateVolume, EpochRequest, LeaseRequest, LeaseStatus, NodeStatus,
        PreflightReply, PreflightRequest, ReplicateReply, ReplicateRequest, StartReply, StopReply,
    },
    client::{Client, Endpoint},
    container::{ContainerSpec, ContainerStatus, Probe},
    control::EdgeOutcome,
    doctor::{Diagnosis, DoctorRequest},
    edge::{EdgeStatus, RouteStatus, RouteTable, TransactionReply},
    exec::{ExecReply, ExecRequest},
    gate::{
        PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply, ResumeRequest,
        SwitchRequest,
    },
    logs::{LogQuery, LogReply},
    name::{AppName, EdgeName, NodeName, VolumeId},
    replication::SetReplication,
    route::{RouteKey, Transaction},
    stream::{Download, Pieces},
    tls::{Credentials, Expected, Identity, Role},
    volume::{Epoch, VolumeStatus},
};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::config::{Limits, Topology};

/// Another program of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The agent of a node.
    Agent(NodeName),
    /// An edge.
    Edge(EdgeName),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(node) => write!(f, "agent of {node}"),
            Self::Edge(edge) => write!(f, "edge {edge}"),
        }
    }
}

/// How a request is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It asks.
    Get,
    /// It does something.
    Post,
    /// It says how something shall be.
    Put,
    /// It removes something.
    Delete,
}

/// A request on its way to a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// To whom.
    pub peer: Peer,
    /// How it is meant.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The message; null where there is none.
    pub body: Value,
    /// How long the answer may take.
    pub deadline: Duration,
}

/// Carries requests to peers.
pub trait Wire: Send + Sync + 'static {
    /// Sends a request and waits for its answer, up to its deadline.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Value, ErrorBody>>;

    /// Asks for a body of any length, which has to begin within the deadline.
    fn download(
        &self,
        peer: Peer,
        path: String,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Download, ErrorBody>> {
        let _not_needed = (path, deadline);
        async move { Err(no_bodies(&peer)) }.boxed()
    }

    /// Sends a body of any length, and brings the answer.
    fn upload(
        &self,
        peer: Peer,
        path: String,
        pieces: Pieces,
    ) -> BoxFuture<'_, Result<Value, ErrorBody>> {
        let _not_needed = (path, pieces);
        async move { Err(no_bodies(&peer)) }.boxed()
    }
}

fn no_bodies(peer: &Peer) -> ErrorBody {
    let message = format!("the way to the {peer} takes no bodies");
    ErrorBody::new(ErrorCode::Unsupported, message)
}

/// The wire of production: HTTP.
#[derive(Debug)]
pub struct HttpWire {
    clients: BTreeMap<Peer, Client>,
}

impl HttpWire {
    /// A wire to all nodes and edges; with credentials the agents, and the edges of which it
    /// is said, are spoken to by mutual TLS.
    #[must_use]
    pub fn new(topology: &Topology, tls: Option<&Credentials>) -> Self {
        let secure = |client: Client, role, name: &str| match tls {
            Some(tls) => client.with_tls(tls.clone(), Expected::Named(Identity::new(role, name))),
            None => client,
        };
        let agents = topology.nodes.iter().map(|(node, address)| {
            let peer = Peer::Agent(node.clone());
            let client = Client::new(Endpoint::Tcp(*address), peer.to_string());
            (peer, secure(client, Role::Node, node.as_str()))
        });
        let edges = topology.edges.iter().map(|(edge, site)| {
            let peer = Peer::Edge(edge.clone());
            let client = Client::new(site.admin.clone(), peer.to_string());
            let client = match site.tls {
                true => secure(client, Role::Edge, edge.as_str()),
                false => client,
            };
            (peer, client)
        });
        Self {
            clients: agents.chain(edges).collect(),
        }
    }
}

impl HttpWire {
    fn client(&self, peer: &Peer) -> Result<&Client, ErrorBody> {
        self.clients.get(peer).ok_or_else(|| {
            let message = format!("the {peer} is not in the configuration");
            ErrorBody::new(ErrorCode::NotFound, message)
        })
    }
}

impl Wire for HttpWire {
    fn download(
        &self,
        peer: Peer,
        path: String,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Download, ErrorBody>> {
        async move { self.client(&peer)?.download(&path, deadline).await }.boxed()
    }

    fn upload(
        &self,
        peer: Peer,
        path: String,
        pieces: Pieces,
    ) -> BoxFuture<'_, Result<Value, ErrorBody>> {
        async move { self.client(&peer)?.upload(&path, pieces).await }.boxed()
    }

    fn call(&self, request: Request) -> BoxFuture<'_, Result<Value, ErrorBody>> {
        let Request {
            peer,
            method,
            path,
            body,
            deadline,
        } = request;
        async move {
            let client = self.client(&peer)?;
            match method {
                Method::Get => client.get(&path, deadline).await,
                Method::Post => client.post(&path, &body, deadline).await,
                Method::Put => client.put(&path, &body, deadline).await,
                Method::Delete => client.delete(&path, &body, deadline).await,
            }
        }
        .boxed()
    }
}

/// All agents and edges.
#[derive(Clone)]
pub struct Peers {
    pub(super) wire: Arc<dyn Wire>,
    edges: Arc<[EdgeName]>,
    pub(super) limits: Limits,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

type Answer<T> = Result<T, ErrorBody>;

impl Peers {
    /// The agents and edges of a cluster, reached over a wire.
    #[must_use]
    pub fn new(wire: Arc<dyn Wire>, topology: &Topology, limits: Limits) -> Self {
        Self {
            wire,
            edges: topology.edges.keys().cloned().collect(),
            limits,
        }
    }

    /// The names of all edges.
    #[must_use]
    pub fn edges(&self) -> &[EdgeName] {
        &self.edges
    }

    /// Asks all edges at once.
    pub async fn on_all_edges<T, F: Future<Output = Answer<T>>>(
        &self,
        ask: impl Fn(EdgeName) -> F,
    ) -> Vec<EdgeOutcome<T>> {
        let answers = self.edges.iter().map(|edge| {
            let answer = ask(edge.clone());
            async move {
                EdgeOutcome {
                    edge: edge.clone(),
                    result: answer.await,
                }
            }
        });
        join_all(answers).await
    }

    /// A node as its agent sees it.
    ///
    /// # Errors
    /// The agent's, or why there is no answer; so for all methods.
    pub async fn node_status(&self, node: &NodeName) -> Answer<NodeStatus> {
        self.ask(agent(node), "/v1/status").await
    }

    /// Has a node examine itself.
    ///
    /// # Errors
    /// As [`Self::node_status`].
    pub async fn examine(&self, node: &NodeName, request: &DoctorRequest) -> Answer<Diagnosis> {
        let path = "/v1/doctor".to_owned();
        self.post(agent(node), path, request, self.limits.work)
            .await
    }

    /// A node's lease.
    ///
    /// # Errors
    /// As [`Self::node_status`].
    pub async fn lease(&self, node: &NodeName) -> Answer<LeaseStatus> {
        self.ask(agent(node), "/v1/lease").await
    }

    /// Grants a node a lease.
    ///
    /// # Errors
    /// As [`Self::node_status`].
    pub async fn grant(&self, node: &NodeName, request: &LeaseRequest) -> Answer<LeaseStatus> {
        let path = "/v1/lease".to_owned();
        self.send(agent(node), Method::Put, path, request, self.limits.call)
            .await
    }

    /// What stands against running an app on a node.
    pub async fn preflight(
        &self,
        node: &NodeName,
        request: &PreflightRequest,
    ) -> Answer<PreflightReply> {
        self.post(
            agent(node),
            "/v1/preflight".to_owned(),
            request,
            // An image may have to be pulled.
            self.limits.transfer,
        )
        .await
    }

    /// Creates a volume.
    pub async fn create_volume(
        &self,
        node: &NodeName,
        request: &CreateVolume,
    ) -> Answer<VolumeStatus> {
        self.post(
            agent(node),
            "/v1/volumes".to_owned(),
            request,
            self.limits.work,
        )
        .await
    }

    /// A node's copy of a volume.
    pub async fn volume(&self, node: &NodeName, id: VolumeId) -> Answer<VolumeStatus> {
        self.ask(agent(node), &format!("/v1/volumes/{id}")).await
    }

    /// Brings a replica up to date.
    pub async fn replicate(
        &self,
        node: &NodeName,
        id: VolumeId,
        request: &ReplicateRequest,
    ) -> Answer<ReplicateReply> {
        let path = format!("/v1/volumes/{id}/replicate");
        self.post(agent(node), path, request, self.limits.transfer)
            .await
    }

    /// Says how a node's copy of a volume is replicated.
    pub async fn set_replication(
        &self,
        node: &NodeName,
        id: VolumeId,
        request: &SetReplication,
    ) -> Answer<VolumeStatus> {
        let path = format!("/v1/volumes/{id}/replication");
        self.send(agent(node), Method::Put, path, request, self.limits.call)
            .await
    }

    /// Makes a node's copy of a volume the writable one.
    pub async fn promote(
        &self,
        node: &NodeName,
        id: VolumeId,
        epoch: Epoch,
    ) -> Answer<VolumeStatus> {
        let path = format!("/v1/volumes/{id}/promote");
        self.post(agent(node), path, &EpochRequest { epoch }, self.limits.work)
            .await
    }

    /// Makes a node's copy of a volume a replica.
    pub async fn demote(
        &self,
        node: &NodeName,
        id: VolumeId,
        epoch: Epoch,
    ) -> Answer<VolumeStatus> {
        let path = format!("/v1/volumes/{id}/demote");
        self.post(agent(node), path, &EpochRequest { epoch }, self.limits.work)
            .await
    }

    /// Makes an app's container.
    pub async fn create_container(
        &self,
        node: &NodeName,
        spec: &ContainerSpec,
        epoch: Epoch,
    ) -> Answer<ContainerStatus> {
        let path = format!("/v1/containers/{}/create", spec.app);
        let request = CreateContainer {
            spec: spec.clone(),
            epoch,
        };
        // Its image may have to be pulled.
        self.post(agent(node), path, &request, self.limits.transfer)
            .await
    }

    /// Starts an app's container and waits until it is ready.
    pub async fn start(
        &self,
        node: &NodeName,
        spec: &ContainerSpec,
        epoch: Epoch,
    ) -> Answer<StartReply> {
        let path = format!("/v1/containers/{}/start", spec.app);
        let ready = Duration::from_millis(match &spec.ready {
            Some(
                Probe::Tcp { timeout_ms, .. }
                | Probe::Http { timeout_ms, .. }
                | Probe::Exec { timeout_ms, .. },
            ) => *timeout_ms,
            None => 0,
        });
        let deadline = ready + self.limits.work;
        self.post(agent(node), path, &EpochRequest { epoch }, deadline)
            .await
    }

    /// Runs an app's pre-stop hook.
    pub async fn pre_stop(&self, node: &NodeName, app: &AppName, epoch: Epoch) -> Answer<Value> {
        let path = format!("/v1/containers/{app}/pre-stop");
        self.post(agent(node), path, &EpochRequest { epoch }, self.limits.work)
            .await
    }

    /// Stops an app's container and proves that its writers are gone.
    pub async fn stop(
        &self,
        node: &NodeName,
        spec: &ContainerSpec,
        epoch: Epoch,
    ) -> Answer<StopReply> {
        let path = format!("/v1/containers/{}/stop", spec.app);
        let deadline = Duration::from_millis(spec.stop.grace_ms) + self.limits.work;
        self.post(agent(node), path, &EpochRequest { epoch }, deadline)
            .await
    }

    /// Removes an app's container; stops it first if it runs.
    pub async fn remove_container(
        &self,
        node: &NodeName,
        app: &AppName,
        epoch: Epoch,
    ) -> Answer<Value> {
        self.send(
            agent(node),
            Method::Delete,
            format!("/v1/containers/{app}"),
            &EpochRequest { epoch },
            self.limits.work,
        )
        .await
    }

    /// What an app's container wrote.
    pub async fn logs(&self, node: &NodeName, app: &AppName, query: &LogQuery) -> Answer<LogReply> {
        let path = format!("/v1/containers/{app}/logs{}", query.in_url());
        let deadline = Duration::from_millis(query.wait_ms) + self.limits.call;
        self.send(agent(node), Method::Get, path, &(), deadline)
            .await
    }

    /// Runs a command in an app's container.
    pub async fn exec(
        &self,
        node: &NodeName,
        app: &AppName,
        request: &ExecRequest,
    ) -> Answer<ExecReply> {
        let path = format!("/v1/containers/{app}/exec");
        let deadline = Duration::from_millis(request.timeout_ms) + self.limits.call;
        self.post(agent(node), path, request, deadline).await
    }

    /// An edge as a whole.
    pub async fn edge_status(&self, name: &EdgeName) -> Answer<EdgeStatus> {
        self.ask(edge(name), "/v1/status").await
    }

    /// An edge's table.
    pub async fn routes(&self, name: &EdgeName) -> Answer<RouteTable> {
        self.ask(edge(name), "/v1/routes").await
    }

    /// One route of an edge.
    pub async fn route(&self, name: &EdgeName, key: &RouteKey) -> Answer<RouteStatus> {
        self.ask(edge(name), &format!("/v1/routes/{}", key.in_url()))
            .await
    }

    /// Changes an edge's table.
    pub async fn transact(
        &self,
        name: &EdgeName,
        transaction: &Transaction,
    ) -> Answer<TransactionReply> {
        self.post(
            edge(name),
            "/v1/routes".to_owned(),
            transaction,
            self.limits.call,
        )
        .await
    }

    /// Pauses routes of an edge.
    pub async fn pause(&self, name: &EdgeName, request: &PauseRequest) -> Answer<PauseReply> {
        self.post(
            edge(name),
            "/v1/gates/pause".to_owned(),
            request,
            self.limits.call,
        )
        .await
    }

    /// Waits until nothing that was admitted before the pause is in flight.
    pub async fn quiesce(&self, name: &EdgeName, request: &QuiesceRequest) -> Answer<QuiesceReply> {
        let deadline = Duration::from_millis(request.deadline_ms) + self.limits.call;
        self.post(
            edge(name),
            "/v1/gates/quiesce".to_owned(),
            request,
            deadline,
        )
        .await
    }

    /// Retargets paused routes of an edge and lets the parked go.
    pub async fn switch(&self, name: &EdgeName, request: &SwitchRequest) -> Answer<ResumeReply> {
        self.post(
            edge(name),
            "/v1/gates/switch".to_owned(),
            request,
            self.limits.call,
        )
        .await
    }

    /// Lets the parked of an edge go.
    pub async fn resume(&self, name: &EdgeName, request: &ResumeRequest) -> Answer<ResumeReply> {
        self.post(
            edge(name),
            "/v1/gates/resume".to_owned(),
            request,
            self.limits.call,
        )
        .await
    }

    pub(super) async fn ask<A: DeserializeOwned>(&self, peer: Peer, path: &str) -> Answer<A> {
        self.send(peer, Method::Get, path.to_owned(), &(), self.limits.call)
            .await
    }

    pub(super) async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: Peer,
        path: String,
        message: &Q,
        deadline: Duration,
    ) -> Answer<A> {
        self.send(peer, Method::Post, path, message, deadline).await
    }

    pub(super) async fn send<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: Peer,
        method: Method,
        path: String,
        message: &Q,
        deadline: Duration,
    ) -> Answer<A> {
        let unusable = |what: &str, error: serde_json::Error| {
            let message = format!("{what} {path} of the {peer}: {error}");
            ErrorBody::new(ErrorCode::Internal, message)
        };
        let body = serde_json::to_value(message)
            .map_err(|error| unusable("cannot write a request for", error))?;
        let request = Request {
            peer: peer.clone(),
            method,
            path: path.clone(),
            body,
            deadline,
        };
        let answer = self.wire.call(request).await?;
        serde_json::from_value(answer).map_err(|error| unusable("cannot read the answer to", error))
    }
}

pub(super) fn agent(node: &NodeName) -> Peer {
    Peer::Agent(node.clone())
}

fn edge(name: &EdgeName) -> Peer {
    Peer::Edge(name.clone())
}
