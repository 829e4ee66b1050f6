//! The fence against real processes and directories.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use flocker_api::{
    agent::LeaseRequest,
    container::{ContainerSpec, ContainerState},
    volume::Epoch,
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::*;

const MARGIN: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(20);

struct Bed {
    place: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self {
            place: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self) -> FenceConfig {
        FenceConfig {
            node: "n1".parse().unwrap(),
            storage: StorageConfig::Directory {
                root: self.place.path().to_owned(),
                mount_root: None,
            },
            lease: self.place.path().join("run/lease"),
            watchdog: None,
            margin: MARGIN,
            kill: Duration::from_secs(5),
        }
    }
}

/// A process that leads a group, ignores what it can and has a child that does too.
struct App(Child);

impl App {
    fn start() -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "trap '' TERM HUP INT; sleep 1000 & sleep 1000"])
            .stdin(Stdio::null())
            .process_group(0);
        Self(command.spawn().unwrap())
    }

    fn container(&self) -> Container {
        let pid = i32::try_from(self.0.id()).unwrap();
        Container {
            spec: ContainerSpec::new("web".parse().unwrap(), "web"),
            epoch: Epoch(1),
            state: ContainerState::Running,
            runtime_id: pid.to_string(),
            pid: Some(pid),
        }
    }

    /// Waits for its end; `None` when it outlives the deadline.
    fn end(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if self.0.try_wait().unwrap().is_some() {
                return Some(begun.elapsed());
            }
            std::thread::yield_now();
        }
        None
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ended = kill_process_group(group, Signal::KILL);
        }
        drop(self.0.wait());
    }
}

fn grant(fence: &Fence, ttl: Duration) -> Result<LeaseStatus, ErrorBody> {
    fence.renew(&LeaseRequest {
        stamp: fence.status().stamp,
        ttl_ms: ms(ttl),
        policy: LeasePolicy::Enforced,
        volumes: Vec::new(),
    })
}

fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_blocked_runtime_does_not_stop_the_fence() {
    let bed = Bed::new();
    let fence = Fence::start(bed.config()).unwrap();
    let mut app = App::start();
    fence.watch(&app.container());
    grant(&fence, Duration::from_millis(600)).unwrap();
    // Every thread of the runtime waits for what does not come, with the fence's own cells at
    // hand and the lock of their writers held.
    let (blocked, wait) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let held = fence.clone();
    runtime.spawn(async move {
        let _writers_lock = lock(&held.shared.changing);
        let _never = wait.recv();
    });
    assert!(app.end().is_some(), "the app outlived the lease");
    wait_for("fenced", || fence.status().fence == FencePhase::Fenced);
    assert!(fence.permit().is_err());
    drop(blocked);
    fence.end();
}

#[test]
fn an_app_that_comes_up_too_late_is_swept_away() {
    let bed = Bed::new();
    let fence = Fence::start(bed.config()).unwrap();
    grant(&fence, Duration::from_millis(400)).unwrap();
    wait_for("fenced", || fence.status().fence == FencePhase::Fenced);
    let mut late = App::start();
    fence.sync(&[late.container()]);
    assert!(late.end().is_some());
    // And a lease lets the next one live.
    grant(&fence, DEADLINE).unwrap();
    wait_for("guarding", || fence.permit().is_ok());
    let mut next = App::start();
    fence.sync(&[next.container()]);
    assert!(next.0.try_wait().unwrap().is_none());
    assert_eq!(fence.status().fences, 1);
    fence.end();
}

#[test]
fn a_list_that_was_read_before_a_start_forgets_nobody() {
    let bed = Bed::new();
    let fence = Fence::start(bed.config()).unwrap();
    let mut app = App::start();
    fence.watch(&app.container());
    fence.sync(&[]);
    grant(&fence, Duration::from_millis(400)).unwrap();
    assert!(app.end().is_some());
    fence.end();
}

#[test]
fn what_no_container_is_and_writes_all_the_same_is_ended_too() {
    let bed = Bed::new();
    let (data, mounts) = (
        bed.place.path().join("volumes/x/data"),
        bed.place.path().join("mounts"),
    );
    fs::create_dir_all(&data).unwrap();
    fs::create_dir_all(&mounts).unwrap();
    std::os::unix::fs::symlink(&data, mounts.join("notes")).unwrap();
    // Not ours, and it stays.
    std::os::unix::fs::symlink("/", mounts.join("other")).unwrap();
    let file = data.join("file");
    let script = format!("exec 3>'{}'; echo; read -r _", file.display());
    let mut writer = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("it writes", || file.exists());
    let fence = Fence::start(bed.config()).unwrap();
    grant(&fence, Duration::from_millis(400)).unwrap();
    wait_for("fenced", || fence.status().fence == FencePhase::Fenced);
    wait_for("ended", || writer.try_wait().unwrap().is_some());
    assert!(!mounts.join("notes").exists());
    assert!(mounts.join("other").exists());
    fence.end();
}

#[test]
fn a_lease_is_kept_over_a_restart_and_not_over_a_boot() {
    let bed = Bed::new();
    let fence = Fence::start(bed.config()).unwrap();
    grant(&fence, DEADLINE).unwrap();
    let before = fence.status();
    fence.end();
    let next = Fence::start(bed.config()).unwrap();
    let after = next.status();
    assert_eq!(after.policy, Some(LeasePolicy::Enforced));
    assert!(after.remaining_ms <= before.remaining_ms && after.remaining_ms > 0);
    // A stamp of the run before is no good.
    assert_ne!(after.stamp.incarnation, before.stamp.incarnation);
    next.end();
    let file = bed.config().lease;
    let text = fs::read_to_string(&file).unwrap();
    let boot_id = crate::driver::runtime::process::boot_id();
    fs::write(&file, text.replace(&boot_id, "another")).unwrap();
    let fence = Fence::start(bed.config()).unwrap();
    assert_eq!(fence.status().policy, None);
    assert!(fence.permit().is_ok());
    fence.end();
}

#[test]
fn the_watchdog_is_petted_and_closed_in_order() {
    let bed = Bed::new();
    let device = bed.place.path().join("watchdog");
    fs::write(&device, "").unwrap();
    let config = FenceConfig {
        watchdog: Some(device.clone()),
        ..bed.config()
    };
    let fence = Fence::start(config).unwrap();
    let petted = || fs::read(&device).unwrap().len();
    wait_for("petted", || petted() >= 2);
    fence.end();
    let said = fs::read(&device).unwrap();
    assert!(said.ends_with(b"V"));
    assert!(said[..said.len() - 1].iter().all(|byte| *byte == 0));
    // No device, no start: an operator who asked for it shall not go without.
    let config = FenceConfig {
        watchdog: Some("/nonexistent/watchdog".into()),
        ..bed.config()
    };
    let error = Fence::start(config).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/watchdog"), "{error}");
}

#[test]
fn the_thread_is_alive_and_says_so() {
    let bed = Bed::new();
    let fence = Fence::start(bed.config()).unwrap();
    wait_for("a beat", || fence.silence() < TICK * 3);
    fence.end();
    wait_for("no beat", || fence.silence() > TICK * 3);
}
