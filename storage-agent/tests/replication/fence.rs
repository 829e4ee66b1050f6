//! The fence on a real file system: what was written to cannot be any more, and is whole.

#![expect(clippy::disallowed_methods, reason = "somebody has to write")]

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use flocker_api::{
    agent::{FencePhase, LeasePolicy, LeaseRequest},
    volume::{Epoch, Role},
};
use flocker_storage_agent::driver::fence::{Fence, FenceConfig};

use crate::{
    bed::Bed,
    pools::{run, slow},
};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// The lease of a node with a mounted primary runs out while somebody writes to it.
pub async fn a_lapsed_lease_takes_the_volumes_away(bed: &mut Bed) {
    let a = &bed.a;
    let id = a.create("notes").await;
    let path = a.path(id).await;
    let place = tempfile::tempdir().unwrap();
    let fence = Fence::start(FenceConfig {
        node: a.name.clone(),
        storage: a.config(),
        lease: place.path().join("lease"),
        watchdog: None,
        margin: Duration::from_millis(200),
        kill: Duration::from_secs(5),
    })
    .unwrap();
    let script = "exec 3>\"$0/log\"; while :; do echo $((i=i+1)) >&3; done";
    let mut writer = Command::new("/bin/sh")
        .args(["-c", script, path.to_str().unwrap()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let log = path.join("log");
    while fs::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
        tokio::time::sleep(LOOK).await;
    }
    let request = LeaseRequest {
        stamp: fence.status().stamp,
        ttl_ms: 600,
        policy: LeasePolicy::Enforced,
        volumes: Vec::new(),
    };
    fence.renew(&request).unwrap();
    let fenced = async {
        while fence.status().fence != FencePhase::Fenced {
            tokio::time::sleep(LOOK).await;
        }
    };
    let limit = slow() * Duration::from_secs(30);
    tokio::time::timeout(limit, fenced).await.expect("fenced");
    assert!(writer.wait().unwrap().code().is_none(), "it was killed");

    // Not mounted, and a mount by anybody else would be read-only.
    let volume = a.volumes.get(id).await.unwrap();
    assert_eq!((volume.mounted_at, volume.role), (None, Role::Primary));
    if bed.zfs().is_some() {
        let get = ["get", "-H", "-o", "value", "readonly", &a.dataset(id)];
        assert_eq!(run("zfs", &get), "on\n");
    }
    // Its own epoch makes it writable again, with what was written.
    fence.end();
    a.volumes.promote(id, Epoch(1)).await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("1\n2\n"), "{text}");
    fs::write(&log, "more").unwrap();
}
