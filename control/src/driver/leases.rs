//! Confirms every node over and over, each by a task of its own: reads the node's clock, and
//! grants a lease that counts from there, with the volumes whose primary the node is.
//!
//! A node that does not answer gets no lease, and with enforced leases fences itself in time.

use std::{sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody,
    agent::{LeaseRequest, OwnedVolume},
    name::NodeName,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::context::Context;

/// Grants until it is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let mut tasks = JoinSet::new();
    for node in context.topology.nodes.keys().cloned() {
        tasks.spawn(confirm(Arc::clone(&context), node));
    }
    tasks.join_all().await;
}

async fn confirm(context: Arc<Context>, node: NodeName) {
    let mut third = tokio::time::interval(context.limits.lease_ttl / 3);
    third.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        third.tick().await;
        let refusal = grant(&context, &node).await.err();
        // Once for each change, and not for each round.
        match &refusal {
            Some(error) if trouble.as_ref() != Some(error) => {
                tracing::warn!(%node, %error, "the node is not confirmed");
            }
            None if trouble.is_some() => tracing::info!(%node, "the node is confirmed again"),
            _ => {}
        }
        trouble = refusal;
    }
}

async fn grant(context: &Context, node: &NodeName) -> Result<(), ErrorBody> {
    let status = context.peers.lease(node).await?;
    let request = LeaseRequest {
        stamp: status.stamp,
        ttl_ms: whole_ms(context.limits.lease_ttl),
        policy: context.limits.lease_policy,
        volumes: owned(context, node),
    };
    context.peers.grant(node, &request).await.map(drop)
}

/// The volumes whose primary the node is, now.
fn owned(context: &Context, node: &NodeName) -> Vec<OwnedVolume> {
    let state = context.ledger.state();
    let here = state.primaries.iter().filter(|(_, p)| p.node == *node);
    let apart = state
        .volumes
        .values()
        .filter(|record| record.node == *node && record.trashed_until_ms.is_none());
    let apart = apart.map(|record| OwnedVolume {
        id: record.id,
        epoch: record.epoch,
    });
    here.filter_map(|(app, primary)| Some((state.apps.get(app)?, primary.epoch)))
        .flat_map(|(record, epoch)| {
            let mounts = record.app.container.volumes.iter();
            mounts.map(move |mount| OwnedVolume {
                id: mount.volume,
                epoch,
            })
        })
        .chain(apart)
        .collect()
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
