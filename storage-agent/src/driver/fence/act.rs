//! Killing and taking away, and the proof of both.
//!
//! Nothing in here waits without a deadline: processes by pidfd, programs by polling. A volume
//! is taken away last, and its plain unmount is the proof that nobody has a file of it open.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use flocker_api::name::AppName;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, getpgid, kill_process, kill_process_group, pidfd_send_signal},
};

use super::mounts::mounted_below;
use crate::{
    config::mounts,
    driver::{
        runtime::{hold, process::writers},
        volumes::StorageConfig,
    },
};

/// Longest run of one program of the file system; another try follows.
const PROGRAM_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what is about to end.
const LOOK: Duration = Duration::from_millis(2);

/// A process that must not outlive the lease.
#[derive(Debug)]
pub(super) struct Target {
    app: AppName,
    pid: Pid,
    hold: OwnedFd,
    /// The app's own cgroup: what it forks cannot leave it.
    cgroup: Option<PathBuf>,
    /// Whether it leads a process group of its own.
    leads: bool,
}

impl Target {
    /// Takes a hold on a process that runs.
    pub(super) fn open(app: AppName, pid: i32) -> io::Result<Self> {
        let hold = hold(pid)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            app,
            leads: getpgid(Some(pid)).is_ok_and(|group| group == pid),
            cgroup: cgroup(pid),
            pid,
            hold,
        })
    }

    pub(super) fn app(&self) -> &AppName {
        &self.app
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// ESRCH and the like mean that it has ended, which [`Self::lives`] sees.
    fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            drop(fs::write(cgroup.join("cgroup.kill"), "1"));
        }
        // The group's id is the process's own, which nobody else can get while it lives.
        if self.leads && self.leader_lives() {
            let _ended = kill_process_group(self.pid, Signal::KILL);
        }
        let _ended = pidfd_send_signal(&self.hold, Signal::KILL);
    }

    fn leader_lives(&self) -> bool {
        let mut end = [PollFd::new(&self.hold, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        !matches!(poll(&mut end, Some(&at_once)), Ok(ready) if ready > 0)
    }

    /// Whether anything of it does.
    pub(super) fn lives(&self) -> bool {
        let procs = self.cgroup.as_ref().map(|path| path.join("cgroup.procs"));
        let kin = procs.and_then(|path| fs::read_to_string(path).ok());
        self.leader_lives() || kin.is_some_and(|kin| !kin.trim().is_empty())
    }
}

/// The cgroup (v2) that the process runtime has made for this app, if it has.
fn cgroup(pid: Pid) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_pid())).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Any other may hold more than the app, in the end this agent itself.
    path.split('/')
        .any(|part| part == "flocker")
        .then_some(())?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .map(|mount| Path::new(mount).join(path))
        .find(|folder| folder.join("cgroup.procs").exists())
}

/// Where volumes can be written.
#[derive(Debug)]
pub(super) enum Ground {
    /// Mounted datasets below this name, with its `/`.
    Zfs { below: String },
    /// Links from `mounts` to directories below `volumes`.
    Directory { mounts: PathBuf, volumes: PathBuf },
}

/// A volume that can be written.
struct Open {
    place: PathBuf,
    dataset: Option<String>,
}

impl Ground {
    pub(super) fn of(storage: &StorageConfig) -> Self {
        match storage {
            StorageConfig::Zfs { pool, .. } => Self::Zfs {
                below: format!("{pool}/flocker/"),
            },
            StorageConfig::Directory { root, .. } => Self::Directory {
                mounts: mounts(storage),
                volumes: root.join("volumes"),
            },
        }
    }

    fn open(&self) -> io::Result<Vec<Open>> {
        match self {
            Self::Zfs { below } => {
                let text = fs::read_to_string("/proc/self/mountinfo")?;
                let open = mounted_below(&text, below).into_iter();
                Ok(open
                    .map(|(dataset, place)| Open {
                        place,
                        dataset: Some(dataset),
                    })
                    .collect())
            }
            Self::Directory { mounts, volumes } => {
                let entries = match fs::read_dir(mounts) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                    entries => entries?,
                };
                let places = entries.flatten().map(|entry| entry.path());
                let ours =
                    |place: &PathBuf| fs::read_link(place).is_ok_and(|to| to.starts_with(volumes));
                let open = |place| Open {
                    place,
                    dataset: None,
                };
                Ok(places.filter(ours).map(open).collect())
            }
        }
    }
}

/// Kills all targets and takes all volumes away. Whether it is proven that nothing of ours runs
/// and nothing can be written.
pub(super) fn fence(targets: &[std::sync::Arc<Target>], ground: &Ground, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut dead = true;
    for target in targets.iter().filter(|target| target.lives()) {
        tracing::warn!(app = %target.app, pid = target.pid(), "killed by the fence");
        target.kill();
    }
    while let Some(target) = targets.iter().find(|target| target.lives()) {
        if Instant::now() > deadline {
            tracing::error!(app = %target.app, pid = target.pid(), "it outlives SIGKILL");
            dead = false;
            break;
        }
        // What it has forked meanwhile is new.
        target.kill();
        std::thread::sleep(LOOK);
    }
    match ground.open() {
        Ok(open) => open
            .iter()
            .fold(dead, |proven, one| take_away(one) && proven),
        Err(error) => {
            tracing::error!(%error, "what is mounted cannot be read");
            false
        }
    }
}

/// Whether the volume cannot be written any more.
fn take_away(open: &Open) -> bool {
    let place = open.place.display();
    // Whoever still has a file open there was started by nobody we know, and writes all the same.
    let real = fs::read_link(&open.place).unwrap_or_else(|_| open.place.clone());
    for writer in writers(&real) {
        tracing::warn!(pid = writer.pid, name = writer.name, %place, "killed by the fence: it writes to a volume");
        if let Some(pid) = Pid::from_raw(writer.pid) {
            let _ended = kill_process(pid, Signal::KILL);
        }
    }
    let Some(dataset) = &open.dataset else {
        return match fs::remove_file(&open.place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%place, %error, "it cannot be taken away");
                false
            }
            _ => true,
        };
    };
    // Not needed for the proof: nothing is mounted again but by an agent that knows its lease.
    if let Err(reason) = program("zfs", &["set", "readonly=on", dataset]) {
        tracing::warn!(dataset, reason, "it is not set read-only");
    }
    let path = open.place.to_string_lossy();
    match program("umount", &[&path]) {
        Ok(()) => true,
        Err(reason) => {
            tracing::error!(dataset, reason, "it cannot be unmounted; tried again");
            false
        }
    }
}

/// Runs a program, for at most [`PROGRAM_MAX`]; one that hangs is left to the kernel.
fn program(name: &str, arguments: &[&str]) -> Result<(), String> {
    let mut child = Command::new(name)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run '{name}': {error}"))?;
    let deadline = Instant::now() + PROGRAM_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("'{name} {}': {status}", arguments.join(" "))),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK),
            Ok(None) => {
                drop(child.kill());
                return Err(format!("'{name}' took longer than {PROGRAM_MAX:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
