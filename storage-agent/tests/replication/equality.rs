//! A replica equals its primary after every acknowledged snapshot, whatever is done to the files
//! and to the wire, and whichever node is the primary.
//!
//! `FLOCKER_TEST_ROUNDS` says how many rounds, `FLOCKER_TEST_SEED` which ones.

#![expect(
    clippy::print_stderr,
    reason = "the seed is said, to do the same again"
)]

use std::{env, mem};

use flocker_api::{name::VolumeId, volume::Epoch};

use crate::{
    bed::{Bed, Node},
    faults::{Fault, wire},
    pools::{FileSystem, run},
    tree::assert_same,
    workload::Workload,
};

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

pub async fn replicas_equal_under_a_random_workload(bed: &mut Bed) {
    let rounds = number("FLOCKER_TEST_ROUNDS", 30);
    let seed = number("FLOCKER_TEST_SEED", 1);
    let kind = bed.zfs();
    eprintln!("{rounds} rounds of FLOCKER_TEST_SEED={seed} on {kind:?}");
    let mut workload = Workload::new(seed, bed.a.keeps());
    let (mut from, mut to) = (&bed.a, &bed.b);
    let id = from.create("notes").await;
    let (mut epoch, mut faults, mut moves) = (1, 0, 0);
    for round in 0..rounds {
        let when = format!("in round {round} of FLOCKER_TEST_SEED={seed}");
        workload.burst(&from.path(id).await);
        if let Some(kind) = kind
            && workload.dice.roll(4) == 0
        {
            resize_records(&mut workload, kind, &from.dataset(id));
        }
        if workload.dice.roll(6) == 0 {
            faults += u64::from(break_off(&mut workload, from, to, id, epoch).await);
        }
        from.replicate_surely(id, epoch, to).await;
        let ours = from.facts(id).await;
        assert_same(&ours, &to.replica_facts(id).await, &when);
        if workload.dice.roll(8) == 0 {
            epoch += 1;
            from.volumes.demote(id, Epoch(epoch)).await.unwrap();
            to.volumes.promote(id, Epoch(epoch)).await.unwrap();
            assert_same(
                &ours,
                &to.facts(id).await,
                &format!("after the move {when}"),
            );
            mem::swap(&mut from, &mut to);
            moves += 1;
        }
    }
    eprintln!("{rounds} rounds, each equal; {faults} broken off, {moves} moves");
    for node in [from, to] {
        node.volumes.tidy(id).await.unwrap();
        assert!(node.snapshots(id).await.len() <= 5, "few snapshots stay");
    }
}

/// New files get blocks of another size, so that numbers of files come back with other blocks.
fn resize_records(workload: &mut Workload, kind: FileSystem, dataset: &str) {
    let sizes: &[&str] = match kind {
        FileSystem::Fuse => &["512", "4K", "128K"],
        FileSystem::OpenZfs => &["512", "4K", "128K", "1M"],
    };
    let at = workload.dice.roll(u64::try_from(sizes.len()).unwrap());
    let size = sizes[usize::try_from(at).unwrap()];
    run("zfs", &["set", &format!("recordsize={size}"), dataset]);
}

/// Replicates by a wire that is bad somewhere; whether that broke it.
async fn break_off(
    workload: &mut Workload,
    from: &Node,
    to: &Node,
    id: VolumeId,
    epoch: u64,
) -> bool {
    let at = workload.dice.roll(200_000);
    let fault = match workload.dice.roll(3) {
        0 => Fault::Cut(at),
        1 => Fault::Flip(at),
        _ => Fault::LoseAck,
    };
    let by = wire(to.address, fault).await;
    match from.replicate_by(id, epoch, to, by).await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.code().is_transient(), "{error}");
            true
        }
    }
}
