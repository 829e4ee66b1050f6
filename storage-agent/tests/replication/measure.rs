//! What the last delta of a move costs on ZFS, by the agent and by a bare pipe, in one run; and
//! how long much of something takes on either storage.
//!
//! It checks nothing and so is not run with the tests:
//! `cargo test --release -p flocker-storage-agent --test replication -- --ignored --nocapture`

#![expect(clippy::print_stderr, reason = "its output is its result")]

use std::{fs, path::Path, time::Duration};

use flocker_api::volume::Epoch;
use tokio::time::Instant;

use crate::{
    bed::{Bed, Dice, on_directories, on_zfs},
    pools::run,
    scale::{Scale, all},
};

const ROUNDS: u64 = 15;

#[test]
#[ignore = "a measurement"]
fn last_delta() {
    on_zfs("measure::last_delta", |bed| Box::pin(measure(bed)));
}

/// In full size.
const SCALE: Scale = Scale {
    files: 10_000,
    sparse_bytes: 10 << 30,
    snapshots: 1_000,
};

#[test]
#[ignore = "a measurement"]
fn scale_on_zfs() {
    on_zfs("measure::scale_on_zfs", |bed| Box::pin(scale(bed)));
}

#[test]
#[ignore = "a measurement"]
fn scale_on_directories() {
    on_directories(|bed| Box::pin(scale(bed)));
}

async fn scale(bed: &mut Bed) {
    for (what, took) in all(bed, SCALE).await {
        eprintln!("{what:50} {:9.1} ms", took.as_secs_f64() * 1e3);
    }
}

fn dirty(root: &Path, bytes: u64, dice: &mut Dice) {
    if bytes > 0 {
        let file = root.join("dirty");
        let content = dice.bytes(bytes);
        fs::write(&file, content).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
    }
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    let (low, median, high) = (ms(0), ms(times.len() / 2), ms(times.len() - 1));
    eprintln!("{what:40} median {median:6.1} ms   {low:6.1} to {high:6.1}");
}

async fn measure(bed: &mut Bed) {
    let mut dice = Dice(1);
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("notes").await;
    let root = a.path(id).await;
    let volume = a.dataset(id);
    dirty(&root, 16 << 20, &mut dice);
    a.replicate(id, 1, b).await.unwrap();
    for bytes in [0, 2 << 20, 16 << 20] {
        let name = format!("{} KiB", bytes >> 10);
        let mut bare = Vec::new();
        run("zfs", &["snapshot", &format!("{volume}@bare-{bytes}-0")]);
        let to = format!("{}/flocker/bare-{bytes}", b.pool());
        let first = format!("zfs send {volume}@bare-{bytes}-0 | zfs receive -u {to}");
        run("sh", &["-c", &first]);
        for round in 1..=ROUNDS {
            dirty(&root, bytes, &mut dice);
            let started = Instant::now();
            let line = format!(
                "zfs snapshot {volume}@bare-{bytes}-{round} && \
                 zfs send -i @bare-{bytes}-{} {volume}@bare-{bytes}-{round} | zfs receive -u {to}",
                round - 1
            );
            run("sh", &["-c", &line]);
            bare.push(started.elapsed());
        }
        let (mut whole, mut snapshot, mut transfer) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            dirty(&root, bytes, &mut dice);
            let started = Instant::now();
            let reply = a.replicate(id, 1, b).await.unwrap();
            whole.push(started.elapsed());
            snapshot.push(Duration::from_micros(reply.snapshot_us));
            transfer.push(Duration::from_micros(reply.transfer_us));
        }
        report(&format!("{name}: bare snapshot + pipe"), &mut bare);
        report(&format!("{name}: agent, whole request"), &mut whole);
        report(&format!("{name}: agent, snapshot"), &mut snapshot);
        report(&format!("{name}: agent, transfer"), &mut transfer);
        let destroy = format!("zfs destroy -r {to}");
        run("sh", &["-c", &destroy]);
    }
    let mut epoch = 1;
    let (mut promote, mut demote) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (from, to) in [(a, b), (b, a)] {
            from.replicate(id, epoch, to).await.unwrap();
            epoch += 1;
            let started = Instant::now();
            to.volumes.promote(id, Epoch(epoch)).await.unwrap();
            promote.push(started.elapsed());
            let started = Instant::now();
            from.volumes.demote(id, Epoch(epoch)).await.unwrap();
            demote.push(started.elapsed());
        }
    }
    report("promote", &mut promote);
    report("demote", &mut demote);
}
