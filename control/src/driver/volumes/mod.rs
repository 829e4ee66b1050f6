//! What operators do with volumes: finds the volume, checks that nobody is in the way, has the
//! agents do it, and remembers what must not be lost.
//!
//! | module | duty |
//! | --- | --- |
//! | `errands` | jobs of control itself |
//! | `turn` | rollback and restore |
//! | `archive` | archives, passed on |
//! | `verify` | compares two copies |
//! | `keeper` | what goes on by itself: copies of volumes that belong to no app, the trash |

pub(crate) mod archive;
pub(crate) mod errands;
mod keeper;
mod turn;
mod verify;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::CreateVolume,
    name::{JobId, NodeName, VolumeId, VolumeName},
    volume::{Epoch, Role, VolumeStatus},
    work::{
        GRACE_MS_MAX, JobRequest, JobState, JobStatus, NewVolume, NodeJob, OnNode, SnapshotDetail,
        Trashed, VolumeCopy, VolumeReport, VolumeRequest, VolumeVerb, Work, called, is_named,
    },
};
use futures_util::future::join_all;

use super::control::{Control, refuse_moving};
use crate::{
    error::Refusal,
    logic::{
        report::whole_ms,
        state::{Change, Life, State},
        volumes::{self, Known, VolumeRecord, find, find_trashed, meant},
    },
};

use errands::Errand;

pub(super) use keeper::run as keep;

/// How long the answer to a request waits for the job's end.
const WAIT: Duration = Duration::from_secs(2);
/// How long one node of several may take for its part.
const PART_MAX: Duration = Duration::from_secs(60);

/// A job that is to be done by an agent.
struct Order {
    volume: VolumeId,
    epoch: Epoch,
    by: String,
    work: Work,
}

impl Order {
    fn of(known: &Known, by: &str, work: Work) -> Self {
        Self {
            volume: known.id,
            epoch: known.epoch,
            by: by.to_owned(),
            work,
        }
    }
}

impl Control {
    /// All volumes, those of apps and those that belong to none.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeReport> {
        let state = self.context().ledger.state();
        let known = volumes::all(&state).into_values();
        known.map(|known| self.report_volume(known)).collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn volume(&self, name: &VolumeName) -> Result<VolumeReport, Refusal> {
        Ok(self.report_volume(self.known_volume(name)?))
    }

    fn known_volume(&self, name: &VolumeName) -> Result<Known, Refusal> {
        let state = self.context().ledger.state();
        find(&state, name).ok_or_else(|| {
            let all = volumes::all(&state);
            let names = all.keys().map(|(name, _)| name.as_str());
            Refusal::UnknownVolume {
                name: name.clone(),
                meant: meant(name.as_str(), names),
            }
        })
    }

    fn report_volume(&self, known: Known) -> VolumeReport {
        let observed = self.context().observations.current();
        let seen = observed.nodes.iter();
        let seen = seen.filter_map(|(node, seen)| Some((node, seen.last.as_ref()?)));
        let copies = seen.flat_map(|(node, status)| {
            let volumes = status.volumes.iter().filter(|volume| volume.id == known.id);
            volumes.map(|volume| VolumeCopy {
                node: node.clone(),
                volume: volume.clone(),
            })
        });
        let mut copies: Vec<_> = copies.collect();
        copies.sort_by_key(|copy| (copy.volume.role != Role::Primary, copy.node.clone()));
        VolumeReport {
            name: known.name,
            id: known.id,
            app: known.app.map(|(app, _)| app),
            node: known.node,
            epoch: known.epoch,
            replication: known.replication,
            copies,
        }
    }

    /// Makes a volume that belongs to no app.
    ///
    /// # Errors
    /// When the name is taken, a node is not there, or its agent refuses.
    pub async fn create_volume(&self, request: &NewVolume) -> Result<VolumeReport, Refusal> {
        let context = self.context();
        let copies = request.replication.iter().flat_map(|policy| &policy.nodes);
        for node in copies.chain([&request.node]) {
            self.check_node(node)?;
        }
        let record = VolumeRecord {
            id: VolumeId::random(),
            name: request.name.clone(),
            node: request.node.clone(),
            epoch: Epoch(1),
            size_bytes: request.size_bytes,
            replication: request.replication.clone(),
            trashed_until_ms: None,
        };
        // Stored first: what an agent has made and nobody knows would never go away.
        self.put_new(record.clone()).await?;
        let create = CreateVolume {
            id: record.id,
            name: record.name.clone(),
            size_bytes: record.size_bytes,
            epoch: record.epoch,
        };
        let made = context.peers.create_volume(&record.node, &create).await;
        if let Err(error) = made {
            if !error.code.is_transient() {
                let id = record.id;
                context
                    .ledger
                    .commit(vec![Change::DropVolume { id }])
                    .await?;
            }
            return Err(Refusal::Agent(error));
        }
        tracing::info!(volume = %record.name, node = %record.node, by = request.by, "created");
        self.look_at([&record.node]).await;
        keeper::keep_copies(context).await;
        self.volume(&record.name)
    }

    async fn put_new(&self, record: VolumeRecord) -> Result<(), Refusal> {
        let name = record.name.clone();
        let decide = |state: &State| match find(state, &name) {
            Some(other) => Err(Refusal::VolumeExists {
                name: name.clone(),
                node: other.node,
            }),
            None => Ok(vec![Change::PutVolume {
                record: Box::new(record),
            }]),
        };
        self.context().ledger.transact(decide).await.map(drop)
    }

    /// Has these nodes asked how they are, so that what was done shows.
    async fn look_at(&self, nodes: impl IntoIterator<Item = &NodeName>) {
        let asked = nodes
            .into_iter()
            .map(|node| super::observer::ask_node(self.context(), node));
        join_all(asked).await;
    }

    /// Does something with a volume. Answers with the jobs that it became, in their order; one
    /// that takes long still runs.
    ///
    /// # Errors
    /// When there is no such volume, somebody is in the way, or an agent refuses.
    pub async fn volume_work(
        self: &Arc<Self>,
        name: &VolumeName,
        request: VolumeRequest,
    ) -> Result<Vec<NodeJob>, Refusal> {
        let by = request.by;
        if let VolumeVerb::Undelete { name: wanted } = request.verb {
            return self.undelete(name, wanted, &by).await;
        }
        let known = self.known_volume(name)?;
        if let Some((app, _)) = &known.app {
            refuse_moving(&self.context().ledger.state(), app)?;
        }
        let jobs = match request.verb {
            VolumeVerb::Snapshot { name } => {
                let work = Work::Snapshot { name };
                self.at_primary(&known, &by, work).await?
            }
            VolumeVerb::Resize { size_bytes } => {
                let work = Work::Resize { size_bytes };
                self.at_primary(&known, &by, work).await?
            }
            VolumeVerb::Preview { to } => {
                let work = Work::Preview { to };
                self.at_primary(&known, &by, work).await?
            }
            VolumeVerb::Clone { from, name } => self.clone_to(&known, from, name, &by).await?,
            VolumeVerb::DestroySnapshot { name } => {
                self.destroy_snapshot(&known, &name, &by).await?
            }
            VolumeVerb::Destroy { grace_ms } => self.destroy(&known, grace_ms, &by).await?,
            VolumeVerb::RollBack { to, stop_app } => {
                vec![self.roll_back(&known, to, stop_app, &by).await?]
            }
            VolumeVerb::Restore {
                from,
                snapshot,
                name,
                stop_app,
            } => {
                let restore = turn::Restore {
                    from,
                    snapshot,
                    name,
                    stop_app,
                };
                vec![self.restore(&known, restore, &by).await?]
            }
            VolumeVerb::Verify { replica, sample } => {
                vec![self.verify(&known, replica, sample, &by).await?]
            }
            // Answered above, where its volume may be in the trash.
            VolumeVerb::Undelete { .. } => Vec::new(),
        };
        self.look_at(jobs.iter().map(|job| &job.node)).await;
        Ok(jobs)
    }

    async fn at_primary(
        &self,
        known: &Known,
        by: &str,
        work: Work,
    ) -> Result<Vec<NodeJob>, Refusal> {
        let job = self.begin(&known.node, Order::of(known, by, work)).await?;
        Ok(vec![job])
    }

    /// Begins a job and waits for a moment. What failed at once is an error.
    async fn begin(&self, node: &NodeName, order: Order) -> Result<NodeJob, Refusal> {
        let request = JobRequest {
            id: JobId::random(),
            volume: order.volume,
            epoch: order.epoch,
            by: order.by,
            work: order.work,
        };
        let begun = self.context().peers.begin_job(node, &request, WAIT).await;
        let job = begun.map_err(Refusal::Agent)?;
        let node = node.clone();
        match (job.state, &job.error) {
            (JobState::Failed | JobState::Cancelled, Some(error)) => {
                Err(Refusal::Agent(error.clone()))
            }
            _ => Ok(NodeJob { node, job }),
        }
    }

    /// Begins a job and waits for its end.
    async fn through(&self, node: &NodeName, order: Order) -> Result<NodeJob, Refusal> {
        let mut begun = self.begin(node, order).await?;
        let ending = async {
            while begun.job.state == JobState::Running {
                let peers = &self.context().peers;
                begun.job = peers.job(node, begun.job.id, WAIT).await?;
            }
            Ok::<_, ErrorBody>(())
        };
        let ended = tokio::time::timeout(PART_MAX, ending).await;
        ended
            .map_err(|_| {
                let message = format!("node {node} has not ended its part within {PART_MAX:?}");
                ErrorBody::new(ErrorCode::Timeout, message)
            })
            .and_then(|ended| ended)
            .map_err(Refusal::Agent)?;
        match begun.job.error.clone() {
            Some(error) => Err(Refusal::Agent(error)),
            None => Ok(begun),
        }
    }

    async fn clone_to(
        &self,
        known: &Known,
        from: Option<String>,
        name: VolumeName,
        by: &str,
    ) -> Result<Vec<NodeJob>, Refusal> {
        let record = VolumeRecord {
            id: VolumeId::random(),
            name: name.clone(),
            node: known.node.clone(),
            epoch: Epoch(1),
            size_bytes: None,
            replication: None,
            trashed_until_ms: None,
        };
        let id = record.id;
        self.put_new(record).await?;
        let work = Work::Clone { from, id, name };
        let cloned = self.at_primary(known, by, work).await;
        if let Err(Refusal::Agent(error)) = &cloned
            && !error.code.is_transient()
        {
            let forget = vec![Change::DropVolume { id }];
            self.context().ledger.commit(forget).await?;
        }
        cloned
    }

    /// The nodes that have a copy, as far as is known; the primary's last.
    fn nodes_of(&self, known: &Known) -> Vec<NodeName> {
        let copies = self.report_volume(known.clone()).copies;
        let nodes: BTreeSet<_> = copies.into_iter().map(|copy| copy.node).collect();
        let replicas = nodes.into_iter().filter(|node| *node != known.node);
        replicas.chain([known.node.clone()]).collect()
    }

    async fn destroy_snapshot(
        &self,
        known: &Known,
        name: &str,
        by: &str,
    ) -> Result<Vec<NodeJob>, Refusal> {
        let copies = self.report_volume(known.clone()).copies;
        let snapshots = copies.iter().flat_map(|copy| &copy.volume.snapshots);
        if !snapshots.clone().any(|snapshot| is_named(snapshot, name)) {
            let hint = meant(name, snapshots.map(|snapshot| called(&snapshot.name)));
            let hint = hint.map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
            let message = format!("volume '{}' has no snapshot '{name}'{hint}", known.name);
            return Err(Refusal::Agent(ErrorBody::new(ErrorCode::NotFound, message)));
        }
        let mut jobs = Vec::new();
        for node in self.nodes_of(known) {
            let name = name.to_owned();
            let order = Order::of(known, by, Work::DestroySnapshot { name });
            jobs.push(self.through(&node, order).await?);
        }
        Ok(jobs)
    }

    /// The primary first: once it is unmounted nothing more is written. A node that does not
    /// answer follows when it does.
    async fn destroy(
        &self,
        known: &Known,
        grace_ms: u64,
        by: &str,
    ) -> Result<Vec<NodeJob>, Refusal> {
        if let Some((app, life)) = &known.app
            && *life != Life::Deleted
        {
            return Err(Refusal::VolumeInUse {
                volume: known.name.clone(),
                app: app.clone(),
                what: "remove the app first: flockerctl app rm",
            });
        }
        if grace_ms > GRACE_MS_MAX {
            let message = format!("a grace of {grace_ms} ms is above {GRACE_MS_MAX} ms");
            return Err(Refusal::Malformed(message));
        }
        let context = self.context();
        let work = || match grace_ms {
            0 => Work::Destroy,
            grace_ms => Work::Trash { grace_ms },
        };
        let mut jobs = vec![
            self.through(&known.node, Order::of(known, by, work()))
                .await?,
        ];
        let until_ms = whole_ms(context.clock.now_ms()).saturating_add(grace_ms);
        let decide = |state: &State| Ok::<_, Refusal>(volumes::to_trash(state, known, until_ms));
        context.ledger.transact(decide).await?;
        for node in self.nodes_of(known) {
            if node != known.node {
                let order = Order::of(known, by, work());
                match self.through(&node, order).await {
                    Ok(job) => jobs.push(job),
                    Err(error) => {
                        tracing::warn!(volume = %known.name, %node, %error, "the copy there follows later");
                    }
                }
            }
        }
        Ok(jobs)
    }

    async fn undelete(
        &self,
        name: &VolumeName,
        wanted: Option<VolumeName>,
        by: &str,
    ) -> Result<Vec<NodeJob>, Refusal> {
        let context = self.context();
        let state = context.ledger.state();
        let record = find_trashed(&state, name).cloned().ok_or_else(|| {
            let trashed = state.volumes.values();
            let trashed = trashed.filter(|record| record.trashed_until_ms.is_some());
            Refusal::UnknownVolume {
                name: name.clone(),
                meant: meant(name.as_str(), trashed.map(|record| record.name.as_str())),
            }
        })?;
        let back = VolumeRecord {
            name: wanted.unwrap_or_else(|| record.name.clone()),
            trashed_until_ms: None,
            ..record.clone()
        };
        // First: from here on no node destroys it on account of control.
        self.put_new(back.clone()).await?;
        let order = || Order {
            volume: back.id,
            epoch: back.epoch,
            by: by.to_owned(),
            work: Work::Undelete {
                name: Some(back.name.clone()),
            },
        };
        let undeleted = self.through(&back.node, order()).await;
        if undeleted.is_err() {
            let record = Box::new(record);
            context
                .ledger
                .commit(vec![Change::PutVolume { record }])
                .await?;
        }
        let mut jobs = vec![undeleted?];
        for entry in self.trash().await {
            let there = entry.result.iter().flatten().any(|one| one.id == back.id);
            if there && let Ok(job) = self.through(&entry.node, order()).await {
                jobs.push(job);
            }
        }
        self.look_at(jobs.iter().map(|job| &job.node)).await;
        keeper::keep_copies(context).await;
        Ok(jobs)
    }

    /// Asks all nodes at once.
    async fn of_nodes<T, F>(&self, ask: impl Fn(NodeName) -> F) -> Vec<OnNode<T>>
    where
        F: Future<Output = Result<T, ErrorBody>>,
    {
        let nodes = self.context().topology.nodes.keys();
        join_all(nodes.map(|node| {
            let asked = ask(node.clone());
            async move {
                OnNode {
                    node: node.clone(),
                    result: asked.await,
                }
            }
        }))
        .await
    }

    /// What is in the trash of each node.
    pub async fn trash(&self) -> Vec<OnNode<Vec<Trashed>>> {
        let peers = &self.context().peers;
        self.of_nodes(|node| async move { peers.trash(&node).await })
            .await
    }

    /// The jobs of each node.
    pub async fn jobs(&self) -> Vec<OnNode<Vec<JobStatus>>> {
        let (peers, errands) = (&self.context().peers, &self.context().errands);
        let jobs = self.of_nodes(|node| async move {
            let mut jobs = errands.at(&node);
            jobs.extend(peers.jobs(&node).await?);
            jobs.sort_by_key(|job| std::cmp::Reverse(job.started_ms));
            Ok(jobs)
        });
        jobs.await
    }

    /// A job of a node, once it has ended or after a while.
    ///
    /// # Errors
    /// When there is no such node or job.
    pub async fn job(
        &self,
        node: &NodeName,
        id: JobId,
        wait: Duration,
    ) -> Result<NodeJob, Refusal> {
        self.check_node(node)?;
        if let Some(errand) = self.context().errands.find(id) {
            return Ok(errand.ended(wait).await);
        }
        let job = self.context().peers.job(node, id, wait).await;
        let (node, job) = (node.clone(), job.map_err(Refusal::Agent)?);
        Ok(NodeJob { node, job })
    }

    /// Tells a job of a node to end.
    ///
    /// # Errors
    /// As [`Control::job`].
    pub async fn cancel_job(&self, node: &NodeName, id: JobId) -> Result<NodeJob, Refusal> {
        self.check_node(node)?;
        if let Some(errand) = self.context().errands.find(id) {
            errand.cancel();
            return Ok(errand.ended(WAIT).await);
        }
        let job = self.context().peers.cancel_job(node, id).await;
        let (node, job) = (node.clone(), job.map_err(Refusal::Agent)?);
        Ok(NodeJob { node, job })
    }

    /// The snapshots of a volume on each node that has a copy.
    ///
    /// # Errors
    /// When there is no such volume.
    pub async fn volume_snapshots(
        &self,
        name: &VolumeName,
    ) -> Result<Vec<OnNode<Vec<SnapshotDetail>>>, Refusal> {
        let known = self.known_volume(name)?;
        let peers = &self.context().peers;
        let nodes = self.nodes_of(&known);
        let mut asked: Vec<_> = join_all(nodes.into_iter().map(|node| async move {
            let result = peers.snapshots(&node, known.id).await;
            OnNode { node, result }
        }))
        .await;
        asked.reverse();
        Ok(asked)
    }
}

/// The copy that an agent's status shows.
fn copy_of(volumes: &[VolumeStatus], id: VolumeId) -> Option<&VolumeStatus> {
    volumes.iter().find(|volume| volume.id == id)
}

type Shared = Arc<super::context::Context>;
