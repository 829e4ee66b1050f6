//! Compares two copies of a volume: each node reads its own and tells sums of its parts; where
//! these differ, both tell what is in them.

use std::{collections::BTreeMap, sync::Arc};

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, NodeName},
    volume::Snapshot,
    work::{Comparison, Digest, JobProgress, JobRequest, JobState, NodeJob, PATHS_MAX, Work},
};
use serde_json::Value;

use super::{
    Known, WAIT,
    errands::{About, Errand},
};
use crate::{driver::context::Context, driver::control::Control, error::Refusal};

/// Most parts whose paths are asked for.
const LISTED_MAX: usize = 32;
/// Of how many files a sample speaks.
const SAMPLE_OF: u32 = 1_000;

impl Control {
    pub(super) async fn verify(
        &self,
        known: &Known,
        replica: Option<NodeName>,
        sample: u32,
        by: &str,
    ) -> Result<NodeJob, Refusal> {
        if !(1..=SAMPLE_OF).contains(&sample) {
            let message = format!("sample is {sample}; it must be from 1 to {SAMPLE_OF}");
            return Err(Refusal::Malformed(message));
        }
        let replica = self.choose_replica(known, replica)?;
        self.look_at([&known.node, &replica]).await;
        let snapshot = self.newest_common(known, &replica)?;
        let about = About {
            verb: "verify",
            node: known.node.clone(),
            volume: known.id,
            name: known.name.clone(),
            by: by.to_owned(),
        };
        let context = Arc::clone(self.context());
        let errand = context.errands.begin(about, &context.clock);
        let comparing = Comparing {
            context: Arc::clone(&context),
            errand: errand.clone(),
            known: known.clone(),
            replica,
            snapshot,
            sample,
            by: by.to_owned(),
        };
        let running = errand.clone();
        self.spawn(async move { running.run(comparing.compare()).await });
        Ok(errand.ended(WAIT).await)
    }

    fn choose_replica(
        &self,
        known: &Known,
        replica: Option<NodeName>,
    ) -> Result<NodeName, Refusal> {
        if let Some(replica) = replica {
            self.check_node(&replica)?;
            if replica == known.node {
                let message = format!("node '{replica}' has the primary itself");
                return Err(Refusal::Malformed(message));
            }
            return Ok(replica);
        }
        let mut nodes = self.nodes_of(known);
        nodes.retain(|node| *node != known.node);
        match <[NodeName; 1]>::try_from(nodes) {
            Ok([one]) => Ok(one),
            Err(nodes) if nodes.is_empty() => {
                let message = format!("volume '{}' has no copy on another node", known.name);
                let error = ErrorBody::new(ErrorCode::Precondition, message);
                Err(Refusal::Agent(error))
            }
            Err(nodes) => {
                let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
                let message = format!(
                    "volume '{}' has several copies; say which: {}",
                    known.name,
                    names.join(", ")
                );
                Err(Refusal::Malformed(message))
            }
        }
    }

    fn newest_common(&self, known: &Known, replica: &NodeName) -> Result<Snapshot, Refusal> {
        let copies = self.report_volume(known.clone()).copies;
        let of = |node: &NodeName| {
            let copy = copies.iter().find(|copy| copy.node == *node);
            copy.map(|copy| copy.volume.snapshots.as_slice())
                .unwrap_or_default()
        };
        let (ours, theirs) = (of(&known.node), of(replica));
        let mut newest_first = ours.iter().rev();
        let common = newest_first.find(|ours| theirs.iter().any(|s| s.guid == ours.guid));
        common.cloned().ok_or_else(|| {
            let message = format!(
                "the copies of volume '{}' on {} and {replica} have no snapshot in common",
                known.name, known.node
            );
            Refusal::Agent(ErrorBody::new(ErrorCode::Precondition, message))
        })
    }
}

struct Comparing {
    context: Arc<Context>,
    errand: Errand,
    known: Known,
    replica: NodeName,
    snapshot: Snapshot,
    sample: u32,
    by: String,
}

impl Comparing {
    async fn compare(self) -> Result<Value, ErrorBody> {
        let (ours, theirs) = self.digests(Vec::new()).await?;
        let parts = ours.parts.iter().zip(&theirs.parts).zip(0_u32..);
        let differing = parts.filter(|((ours, theirs), _)| ours != theirs);
        let differing: Vec<u32> = differing.map(|(_, part)| part).collect();
        let mut comparison = Comparison {
            primary: self.known.node.clone(),
            replica: self.replica.clone(),
            snapshot: self.snapshot.clone(),
            entries: ours.entries,
            files_read: ours.files_read,
            bytes_read: ours.bytes_read,
            differences: 0,
            paths: Vec::new(),
        };
        if !differing.is_empty() {
            let mut list = differing.clone();
            list.truncate(LISTED_MAX);
            let rest = differing.len() - list.len();
            let (ours, theirs) = self.digests(list).await?;
            let paths = differing_paths(&ours, &theirs);
            comparison.differences = (paths.len() + rest) as u64;
            comparison.paths = paths.into_iter().take(PATHS_MAX).collect();
            tracing::error!(
                volume = %self.known.name, primary = %comparison.primary,
                replica = %comparison.replica, differences = comparison.differences,
                "the copies of a volume differ"
            );
        }
        serde_json::to_value(comparison).map_err(|error| {
            let message = format!("the comparison cannot be written: {error}");
            ErrorBody::new(ErrorCode::Internal, message)
        })
    }

    async fn digests(&self, list: Vec<u32>) -> Result<(Digest, Digest), ErrorBody> {
        let ours = self.digest(&self.known.node, list.clone(), true);
        tokio::try_join!(ours, self.digest(&self.replica, list, false))
    }

    /// Has a node read its copy. The job there is cancelled where nobody waits any more.
    async fn digest(
        &self,
        node: &NodeName,
        list: Vec<u32>,
        tells: bool,
    ) -> Result<Digest, ErrorBody> {
        let peers = &self.context.peers;
        let request = JobRequest {
            id: JobId::random(),
            volume: self.known.id,
            epoch: self.known.epoch,
            by: self.by.clone(),
            work: Work::Digest {
                guid: self.snapshot.guid,
                sample: self.sample,
                seed: self.snapshot.guid.0,
                list,
            },
        };
        let cancels = Cancels {
            context: Arc::clone(&self.context),
            node: node.clone(),
            id: Some(request.id),
        };
        let mut job = peers.begin_job(node, &request, WAIT).await?;
        while job.state == JobState::Running {
            if tells {
                self.errand.progress(job.progress.map(both));
            }
            job = peers.job(node, request.id, WAIT).await?;
        }
        cancels.over();
        match job.error {
            Some(error) => Err(ErrorBody {
                message: format!("node {node}: {}", error.message),
                ..error
            }),
            None => serde_json::from_value(job.result).map_err(|error| {
                let message = format!("node {node} answered with no digest: {error}");
                ErrorBody::new(ErrorCode::Internal, message)
            }),
        }
    }
}

/// The other side reads as much.
fn both(one: JobProgress) -> JobProgress {
    JobProgress {
        bytes: one.bytes * 2,
        bytes_expected: one.bytes_expected.map(|bytes| bytes * 2),
        bytes_per_second: one.bytes_per_second * 2,
        ..one
    }
}

fn differing_paths(ours: &Digest, theirs: &Digest) -> Vec<String> {
    let sums =
        |digest: &Digest| -> BTreeMap<String, u64> { digest.listed.iter().cloned().collect() };
    let (ours, theirs) = (sums(ours), sums(theirs));
    let mut paths: Vec<_> = ours.keys().chain(theirs.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    paths.retain(|path| ours.get(path) != theirs.get(path));
    paths
}

/// Cancels a job of an agent when it is dropped before that is over.
struct Cancels {
    context: Arc<Context>,
    node: NodeName,
    id: Option<JobId>,
}

impl Cancels {
    fn over(mut self) {
        self.id = None;
    }
}

impl Drop for Cancels {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let (context, node) = (Arc::clone(&self.context), self.node.clone());
        tokio::spawn(async move {
            if let Err(error) = context.peers.cancel_job(&node, id).await {
                tracing::warn!(%node, job = %id, %error, "a job that nobody waits for goes on");
            }
        });
    }
}
