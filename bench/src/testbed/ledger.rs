//! The folder of a run, and what it takes to clean up after a run that was killed.
//!
//! Namespaces, mounts and processes of a bed end with its keepers. What can stay behind is
//! a folder, empty cgroups, kernel pools, and, on loopback, an app whose keeper was killed
//! as well. Each run writes down who it is before it makes anything; the next run looks at
//! what is there and removes what belongs to nobody alive.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process;

const OWNER_FILE: &str = "owner.json";
const PREFIX: &str = "run-";
const LOGS: &str = "logs-";

/// Who made a run's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Its process.
    pid: i32,
    /// When that started; a pid may be another process later.
    started: u64,
    /// Cgroup under which its engines put containers.
    pub(crate) cgroup: String,
    /// Cgroups of its agents' process runtimes.
    agent_cgroups: Vec<String>,
    /// Pools that it made in the kernel.
    pub(crate) pools: Vec<String>,
}

impl Owner {
    fn is_alive(&self) -> bool {
        process::find(self.pid).is_some_and(|process| process.started == self.started)
    }
}

/// A run's folder.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The folder.
    pub(crate) path: PathBuf,
    /// The folder of its logs, which may outlive it.
    pub(crate) logs: PathBuf,
    /// Its owner: this process.
    pub(crate) owner: Owner,
    /// The number in its name.
    pub(crate) number: u32,
}

impl Run {
    /// Makes the folder of a new run under `parent`.
    pub(crate) fn begin(parent: &Path) -> Result<Self> {
        // A process may have several, each under a parent folder of its own.
        let number = std::process::id();
        let pid = i32::try_from(number).context("a pid is beyond its type")?;
        let started = process::find(pid)
            .context("/proc shows no such process as this")?
            .started;
        fs::create_dir_all(parent)?;
        let path = parent.canonicalize()?.join(format!("{PREFIX}{number}"));
        // An agent names its cgroup by its node and the folder of its state.
        let agent_cgroup = |node: &str| {
            let state = containers(&path.join(node));
            let id = crc32fast::hash(state.as_os_str().as_encoded_bytes());
            format!("flocker/{node}-{id:08x}")
        };
        let owner = Owner {
            pid,
            started,
            cgroup: format!("flocker-bed-{number}"),
            agent_cgroups: ["n1", "n2"].map(agent_cgroup).into(),
            pools: [1, 2].map(|n| format!("flocker-bed-{number}-n{n}")).into(),
        };
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::write(path.join(OWNER_FILE), serde_json::to_vec(&owner)?)?;
        let logs = path.with_file_name(format!("{LOGS}{number}"));
        fs::create_dir_all(&logs)?;
        Ok(Self {
            path,
            logs,
            owner,
            number,
        })
    }

    /// Removes what the run left, and answers with what could not be removed.
    pub(crate) fn end(&self) -> Vec<String> {
        remove(&self.path, Some(&self.owner))
    }
}

/// Where the process runtime of a place keeps what it knows of its containers.
pub(crate) fn containers(place: &Path) -> PathBuf {
    place.join("lib/containers")
}

/// Cleans up after runs under `parent` whose owner is gone; answers with what was found.
pub(crate) fn sweep(parent: &Path) -> Vec<String> {
    let Ok(parent) = parent.canonicalize() else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(&parent) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix(LOGS) {
            // Logs of a run that has ended are for whoever looks before the next one.
            if !parent.join(format!("{PREFIX}{number}")).exists() {
                let _next_time = fs::remove_dir_all(entry.path());
            }
            continue;
        }
        if !name.starts_with(PREFIX) {
            continue;
        }
        let owner: Option<Owner> = fs::read(entry.path().join(OWNER_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if owner.as_ref().is_some_and(Owner::is_alive) {
            continue;
        }
        found.push(format!(
            "{} of a run that was killed",
            entry.path().display()
        ));
        found.extend(remove(&entry.path(), owner.as_ref()));
    }
    found
}

fn remove(path: &Path, owner: Option<&Owner>) -> Vec<String> {
    let mut left = end_processes(path);
    if let Some(owner) = owner {
        for cgroup in owner.agent_cgroups.iter().chain([&owner.cgroup]) {
            remove_cgroups(cgroup);
        }
    }
    if let Err(error) = fs::remove_dir_all(path) {
        left.push(format!("{} could not be removed: {error}", path.display()));
    }
    left
}

/// Kills processes that were told about the run's folder: their environment or arguments
/// name it, and no other program's do.
fn end_processes(path: &Path) -> Vec<String> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let strays = process::all()
        .into_iter()
        .filter(|process| process.pid != own && process::mentions(process.pid, path));
    let mut found = Vec::new();
    for stray in strays {
        let Some(pid) = rustix::process::Pid::from_raw(stray.pid) else {
            continue;
        };
        found.push(format!("process {} had to be killed", stray.pid));
        // By pidfd: should the pid be another process by now, that one is not hit.
        let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        else {
            continue;
        };
        if process::find(stray.pid).as_ref() == Some(&stray) {
            let _gone = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
            wait_end(&handle);
        }
    }
    found
}

/// A pidfd is readable once its process has ended (pidfd_open(2)).
fn wait_end(handle: &rustix::fd::OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let _late = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout));
}

/// Engines that were killed leave empty cgroups, in each hierarchy.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let mut places = vec![root.join(name)];
    if let Ok(entries) = fs::read_dir(root) {
        places.extend(entries.flatten().map(|entry| entry.path().join(name)));
    }
    for place in places.into_iter().filter(|place| place.is_dir()) {
        remove_folders(&place);
    }
}

/// Files of a cgroup go with its folder; folders go from the leaves.
fn remove_folders(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_folders(&entry.path());
            }
        }
    }
    let _busy = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_the_living_stays_and_one_of_the_dead_goes() {
        let parent = tempfile::tempdir().unwrap();
        let run = Run::begin(parent.path()).unwrap();
        assert_eq!(sweep(parent.path()), Vec::<String>::new());
        assert!(run.path.exists());

        let mut dead = run.owner.clone();
        dead.started += 1;
        fs::write(
            run.path.join(OWNER_FILE),
            serde_json::to_vec(&dead).unwrap(),
        )
        .unwrap();
        let found = sweep(parent.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!run.path.exists());
    }

    #[test]
    fn folders_of_others_are_not_touched() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("images")).unwrap();
        assert_eq!(sweep(parent.path()), Vec::<String>::new());
        assert!(parent.path().join("images").exists());
    }
}
