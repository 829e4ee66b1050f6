//! Much of something: small files, holes, odd names, snapshots. Small enough here to be tested
//! each time; the same in full size is measured by [`crate::measure`].

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::{ffi::OsStringExt, fs::FileExt},
    path::Path,
    time::Duration,
};

use flocker_api::{
    name::VolumeId,
    replication::{Keep, SetReplication, VolumePolicy},
    volume::Epoch,
};
use flocker_storage_agent::driver::transport::TransferLimits;
use tokio::time::Instant;

use crate::{
    bed::{Bed, Dice, Node},
    tree::assert_same,
};

/// How much of each.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub files: u64,
    pub sparse_bytes: u64,
    pub snapshots: u64,
}

/// What took how long.
pub type Times = Vec<(String, Duration)>;

/// Replicates a full stream, an increment and nothing, and compares.
async fn three_rounds(
    bed: &Bed,
    id: VolumeId,
    what: &str,
    change: impl Fn(&Path),
    times: &mut Times,
) {
    let (a, b) = (&bed.a, &bed.b);
    for round in ["full", "increment", "nothing"] {
        let started = Instant::now();
        a.replicate(id, 1, b).await.unwrap();
        times.push((format!("{what}, {round}"), started.elapsed()));
        if round == "full" {
            change(&a.path(id).await);
        }
    }
    let started = Instant::now();
    let same = compare(a, b, id).await;
    same.expect("the replica can be looked at");
    times.push((format!("{what}, comparison"), started.elapsed()));
}

async fn gone(bed: &Bed, id: VolumeId) {
    for node in [&bed.a, &bed.b] {
        node.volumes.destroy(id, Epoch(2)).await.unwrap();
    }
}

async fn compare(a: &Node, b: &Node, id: VolumeId) -> Result<(), std::io::Error> {
    // Long files are compared where something was written only.
    let big = a.path(id).await.join("sparse");
    if fs::metadata(&big).is_ok_and(|m| m.len() > 1 << 30) {
        b.volumes.promote(id, Epoch(2)).await.unwrap();
        let theirs = File::open(b.path(id).await.join("sparse"))?;
        let ours = File::open(big)?;
        assert_eq!(ours.metadata()?.len(), theirs.metadata()?.len());
        let end = ours.metadata()?.len() - 4096;
        for at in [0, 4096, end / 2, end] {
            let (mut one, mut two) = (vec![1; 4096], vec![2; 4096]);
            ours.read_exact_at(&mut one, at)?;
            theirs.read_exact_at(&mut two, at)?;
            assert_eq!(one, two, "at {at}");
        }
        return Ok(());
    }
    assert_same(&a.facts(id).await, &b.replica_facts(id).await, "in the end");
    Ok(())
}

pub async fn small_files(bed: &Bed, files: u64, times: &mut Times) {
    let mut dice = Dice(41);
    let id = bed.a.create("many").await;
    let root = bed.a.path(id).await;
    for number in 0..files {
        let directory = root.join(format!("d{}", number / 500));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{number}")), dice.bytes(4096)).unwrap();
    }
    let change = |root: &Path| {
        for number in (0..files).step_by(10) {
            let file = root
                .join(format!("d{}", number / 500))
                .join(format!("f{number}"));
            fs::write(file, b"changed").unwrap();
        }
    };
    three_rounds(bed, id, &format!("{files} files of 4 KiB"), change, times).await;
    gone(bed, id).await;
}

pub async fn sparse_file(bed: &Bed, bytes: u64, times: &mut Times) {
    let id = bed.a.create("sparse").await;
    let path = bed.a.path(id).await.join("sparse");
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    for at in [0, bytes / 2, bytes - 4096] {
        file.write_all_at(&[7; 4096], at).unwrap();
    }
    drop(file);
    let change = |root: &Path| {
        let file = File::options()
            .write(true)
            .open(root.join("sparse"))
            .unwrap();
        file.write_all_at(b"more", bytes / 4).unwrap();
    };
    let what = format!("a sparse file of {} MiB", bytes >> 20);
    three_rounds(bed, id, &what, change, times).await;
    let used = bed.b.volumes.get(id).await.unwrap().used_bytes;
    assert!(
        used < 64 << 20 || bed.zfs().is_none(),
        "{used} bytes are used"
    );
}

/// Every byte that a name may have, at its begin, in its middle and at its end.
pub async fn odd_names(bed: &Bed, times: &mut Times) {
    let id = bed.a.create("names").await;
    let root = bed.a.path(id).await;
    for byte in (1..=u8::MAX).filter(|byte| *byte != b'/') {
        for name in [
            vec![byte, b'x'],
            vec![b'y', byte, b'y'],
            vec![b'x', byte],
            vec![byte; 255],
        ] {
            let path = root.join(OsString::from_vec(name));
            fs::write(path, [byte]).unwrap();
        }
    }
    fs::write(root.join("..."), "").unwrap();
    let change = |root: &Path| {
        let directory = root.join(OsString::from_vec(b"new\nline\ttab".to_vec()));
        fs::create_dir(&directory).unwrap();
        fs::rename(root.join("..."), directory.join("\u{1f409}")).unwrap();
    };
    three_rounds(bed, id, "names of every byte", change, times).await;
    gone(bed, id).await;
}

pub async fn snapshots(bed: &Bed, count: u64, times: &mut Times) {
    let (a, b) = (&bed.a, &bed.b);
    let id = a.create("snapshots").await;
    let root = a.path(id).await;
    a.replicate(id, 1, b).await.unwrap();
    // By no interval that would come, but all of them are kept.
    let keep = |last| SetReplication {
        epoch: Epoch(1),
        policy: Some(VolumePolicy {
            targets: Vec::new(),
            interval_ms: 86_400_000,
            keep: Keep {
                last,
                grid: Vec::new(),
            },
        }),
    };
    let all = u32::try_from(count).unwrap();
    a.volumes.set_replication(id, keep(all)).await.unwrap();
    let started = Instant::now();
    for number in 0..count {
        fs::write(root.join(format!("f{}", number % 20)), number.to_string()).unwrap();
        a.volumes.snapshot(id, Epoch(1)).await.unwrap();
    }
    times.push((format!("{count} snapshots, taking"), started.elapsed()));
    let started = Instant::now();
    let there = a.volumes.get(id).await.unwrap().snapshots.len();
    assert!(there as u64 >= count, "{there} snapshots are there");
    times.push((format!("{count} snapshots, looking"), started.elapsed()));
    // However many lie between, it is one increment.
    let started = Instant::now();
    assert!(!a.replicate(id, 1, b).await.unwrap().full);
    times.push((
        format!("{count} snapshots, increment over all"),
        started.elapsed(),
    ));
    a.volumes.set_replication(id, keep(3)).await.unwrap();
    let started = Instant::now();
    a.volumes.tidy(id).await.unwrap();
    times.push((format!("{count} snapshots, tidying"), started.elapsed()));
    assert!(a.snapshots(id).await.len() <= 5);
    bed.is_made_good(a, b, id, 1).await;
    gone(bed, id).await;
}

pub async fn much_of_everything_is_replicated(bed: &mut Bed) {
    let scale = Scale {
        files: 600,
        sparse_bytes: 64 << 20,
        snapshots: 25,
    };
    all(bed, scale).await;
}

/// All of it; what took how long.
pub async fn all(bed: &mut Bed, scale: Scale) -> Times {
    bed.a.patience(TransferLimits::default()).await;
    let mut times = Times::new();
    odd_names(bed, &mut times).await;
    small_files(bed, scale.files, &mut times).await;
    snapshots(bed, scale.snapshots, &mut times).await;
    sparse_file(bed, scale.sparse_bytes, &mut times).await;
    times
}
