//! Volumes that are kept on another node all the time.

use std::{fs, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    name::VolumeId,
    replication::{Keep, SetReplication, Target, TargetStatus, VolumePolicy},
    volume::{Epoch, VolumeStatus},
};

use crate::{
    bed::{Bed, Dice, Node, fill},
    pools::slow,
    tree::assert_same,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A policy with the other node as its one target.
fn policy(to: &Node, last: u32) -> Option<VolumePolicy> {
    Some(VolumePolicy {
        targets: vec![Target {
            peer: to.name.clone(),
            to: to.address,
        }],
        interval_ms: 1_000,
        keep: Keep {
            last,
            grid: Vec::new(),
        },
    })
}

async fn replicate(from: &Node, id: VolumeId, epoch: u64, policy: Option<VolumePolicy>) {
    let epoch = Epoch(epoch);
    let request = SetReplication { epoch, policy };
    from.volumes.set_replication(id, request).await.unwrap();
}

/// Asks how a copy is until it is so.
async fn until(what: &str, node: &Node, id: VolumeId, so: impl Fn(&VolumeStatus) -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let waits = async {
        loop {
            look.tick().await;
            let all = node.volumes.list().await.unwrap();
            if all.iter().any(|volume| volume.id == id && so(volume)) {
                return;
            }
        }
    };
    if tokio::time::timeout(slow() * DEADLINE, waits)
        .await
        .is_err()
    {
        panic!("{what}: {:#?}", node.volumes.list().await);
    }
}

fn target(volume: &VolumeStatus) -> Option<&TargetStatus> {
    volume.replication.as_ref()?.targets.first()
}

/// Waits until the target has what was written before now.
async fn catches_up(from: &Node, id: VolumeId) {
    let begun = tokio::time::Instant::now();
    until("the copy is current", from, id, |volume| {
        let lag = target(volume).and_then(|target| target.lag_ms);
        lag.is_some_and(|lag| u128::from(lag) < begun.elapsed().as_millis())
    })
    .await;
}

pub async fn a_policy_keeps_a_copy_current(bed: &mut Bed) {
    let mut dice = Dice(3);
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    let root = a.path(id).await;
    replicate(a, id, 1, policy(b, 3)).await;
    for _ in 0..3 {
        fill(&root, 20, 10_000, &mut dice);
        catches_up(a, id).await;
    }
    replicate(a, id, 1, None).await;
    let status = a.volumes.get(id).await.unwrap();
    assert_eq!(status.replication, None);
    let written = a.facts(id).await;
    b.volumes.promote(id, Epoch(2)).await.unwrap();
    assert_same(&written, &b.facts(id).await, "after the last round");
}

pub async fn a_policy_outlives_the_agent_and_ends_with_the_primary(bed: &mut Bed) {
    let id = bed.a.create("notes").await;
    let root = bed.a.path(id).await;
    let wanted = policy(&bed.b, 5);
    replicate(&bed.a, id, 1, wanted.clone()).await;
    catches_up(&bed.a, id).await;
    bed.a.restart().await;
    let (a, b) = (&bed.a, &bed.b);
    let status = a.volumes.get(id).await.unwrap().replication.unwrap();
    assert_eq!((status.epoch, Some(status.policy)), (Epoch(1), wanted));
    fs::write(root.join("after"), "a restart").unwrap();
    catches_up(a, id).await;

    // A move while it runs: the volume's own lock puts both in order.
    a.replicate(id, 1, b).await.unwrap();
    let written = a.facts(id).await;
    b.volumes.promote(id, Epoch(2)).await.unwrap();
    let old = a.volumes.demote(id, Epoch(2)).await.unwrap();
    assert_eq!(old.replication, None);
    assert_same(&written, &b.facts(id).await, "after a move");
    let late = SetReplication {
        epoch: Epoch(1),
        policy: policy(b, 3),
    };
    let refused = a.volumes.set_replication(id, late).await.unwrap_err();
    assert_eq!(ErrorBody::from(refused).code, ErrorCode::StaleEpoch);

    // And the other way.
    replicate(b, id, 2, policy(a, 3)).await;
    fs::write(b.path(id).await.join("back"), "again").unwrap();
    catches_up(b, id).await;
    replicate(b, id, 2, None).await;
    let written = b.facts(id).await;
    a.volumes.promote(id, Epoch(3)).await.unwrap();
    assert_same(&written, &a.facts(id).await, "on the way back");
}

pub async fn a_target_that_comes_back_is_brought_to_the_newest_at_once(bed: &mut Bed) {
    let id = bed.a.create("notes").await;
    let root = bed.a.path(id).await;
    let before = bed.b.address;
    replicate(&bed.a, id, 1, policy(&bed.b, 3)).await;
    catches_up(&bed.a, id).await;
    bed.b.stop().await;
    for round in 0..2 {
        fs::write(root.join("missed"), format!("round {round}")).unwrap();
        until("the round fails", &bed.a, id, |volume| {
            target(volume).is_some_and(|target| target.error.is_some())
        })
        .await;
    }
    bed.b.restart().await;
    assert_ne!(bed.b.address, before);
    replicate(&bed.a, id, 1, policy(&bed.b, 3)).await;
    catches_up(&bed.a, id).await;
    until("the error is forgotten", &bed.a, id, |volume| {
        target(volume).is_some_and(|target| target.error.is_none())
    })
    .await;
    replicate(&bed.a, id, 1, None).await;
    let written = bed.a.facts(id).await;
    bed.b.volumes.promote(id, Epoch(2)).await.unwrap();
    assert_same(&written, &bed.b.facts(id).await, "after an absence");
}

pub async fn nothing_is_sent_while_nothing_changes(bed: &mut Bed) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    fs::write(a.path(id).await.join("once"), "and never again").unwrap();
    replicate(a, id, 1, policy(b, 3)).await;
    catches_up(a, id).await;
    let rounds = |volume: &VolumeStatus| target(volume).map(|target| target.rounds);
    let status = a.volumes.get(id).await.unwrap();
    let (before, snapshots) = (rounds(&status), status.snapshots);
    // Each of these is a look that finds nothing.
    for _ in 0..3 {
        catches_up(a, id).await;
    }
    let status = a.volumes.get(id).await.unwrap();
    assert_eq!(rounds(&status), before);
    assert_eq!(status.snapshots, snapshots);
}
