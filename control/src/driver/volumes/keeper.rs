//! What goes on by itself with volumes that belong to no app: their primaries are told where they
//! are replicated, copies of what was destroyed follow it, and what is gone for good is forgotten.

use std::time::Duration;

use flocker_api::{
    ErrorBody,
    name::{JobId, NodeName},
    replication::{SetReplication, Target, VolumePolicy},
    volume::Role,
    work::{JobRequest, Work},
};

use super::{Shared, copy_of};
use crate::{
    driver::context::Context,
    logic::{report::whole_ms, state::Change, volumes::VolumeRecord},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Sees to it until it is dropped.
pub(crate) async fn run(context: Shared) {
    loop {
        tokio::time::sleep(LOOK).await;
        keep_copies(&context).await;
        follow_trash(&context).await;
    }
}

/// Tells each primary where it is replicated, where it does not know.
pub(super) async fn keep_copies(context: &Context) {
    let state = context.ledger.state();
    let observed = context.observations.current();
    for record in state.volumes.values() {
        if record.trashed_until_ms.is_some() {
            continue;
        }
        let seen = observed.nodes.get(&record.node);
        let Some(status) = seen.and_then(|seen| seen.ok()) else {
            continue;
        };
        let Some(copy) = copy_of(&status.volumes, record.id) else {
            continue;
        };
        if copy.role != Role::Primary || copy.epoch != record.epoch {
            continue;
        }
        let wanted = record.replication.as_ref().map(|declared| {
            let others = declared.nodes.iter().filter(|node| **node != record.node);
            let targets = others.filter_map(|node| {
                let seen = observed.nodes.get(node)?.last.as_ref()?;
                Some(Target {
                    peer: node.clone(),
                    to: seen.replication,
                })
            });
            VolumePolicy {
                targets: targets.collect(),
                interval_ms: declared.interval_ms,
                keep: declared.keep.clone(),
            }
        });
        let known = copy.replication.as_ref().map(|known| &known.policy);
        if known == wanted.as_ref() {
            continue;
        }
        let request = SetReplication {
            epoch: record.epoch,
            policy: wanted,
        };
        let told = context
            .peers
            .set_replication(&record.node, record.id, &request);
        if let Err(error) = told.await {
            tracing::warn!(volume = %record.name, node = %record.node, %error, "it is not told where its copies are");
        }
    }
}

/// Puts copies into the trash whose nodes did not answer before, and forgets what is gone.
async fn follow_trash(context: &Context) {
    let state = context.ledger.state();
    let now_ms = whole_ms(context.clock.now_ms());
    for record in state.volumes.values() {
        let Some(until_ms) = record.trashed_until_ms else {
            continue;
        };
        let grace_ms = until_ms.saturating_sub(now_ms);
        let followed = follow(context, record, grace_ms).await;
        if let Err((node, error)) = followed {
            tracing::warn!(volume = %record.name, %node, %error, "its copy does not follow it into the trash");
            continue;
        }
        if grace_ms == 0 && is_gone(context, record).await {
            let id = record.id;
            if let Err(error) = context.ledger.commit(vec![Change::DropVolume { id }]).await {
                tracing::warn!(volume = %record.name, %error, "what is gone is not forgotten");
            }
        }
    }
}

async fn follow(
    context: &Context,
    record: &VolumeRecord,
    grace_ms: u64,
) -> Result<(), (NodeName, ErrorBody)> {
    let observed = context.observations.current();
    for (node, seen) in &observed.nodes {
        let has = seen
            .ok()
            .and_then(|status| copy_of(&status.volumes, record.id));
        if has.is_none() {
            continue;
        }
        let request = JobRequest {
            id: JobId::random(),
            volume: record.id,
            epoch: record.epoch,
            by: "control".to_owned(),
            work: match grace_ms {
                0 => Work::Destroy,
                grace_ms => Work::Trash { grace_ms },
            },
        };
        let job = context
            .peers
            .begin_job(node, &request, Duration::from_secs(2));
        let job = job.await.map_err(|error| (node.clone(), error))?;
        if let Some(error) = job.error {
            return Err((node.clone(), error));
        }
        context.observations.poke_node(node);
    }
    Ok(())
}

/// Whether no node has it, neither as a volume nor in its trash. One that does not answer may.
async fn is_gone(context: &Context, record: &VolumeRecord) -> bool {
    let observed = context.observations.current();
    for (node, seen) in &observed.nodes {
        let Some(status) = seen.ok() else {
            return false;
        };
        let trashed = context.peers.trash(node).await;
        let gone = trashed.is_ok_and(|all| all.iter().all(|one| one.id != record.id));
        if !gone || copy_of(&status.volumes, record.id).is_some() {
            return false;
        }
    }
    true
}
