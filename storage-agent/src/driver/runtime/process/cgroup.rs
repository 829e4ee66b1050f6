//! A cgroup (v2) for each app: nothing that an app forks can leave it, so it is what kills
//! an app wholly and what proves that it is gone.
//!
//! Where no cgroup tree is writable, the process runtime falls back to what `/proc` tells.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flocker_api::{container::ContainerSpec, name::AppName};

/// Where cgroup v2 is mounted: alone, or beside the v1 controllers.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The cgroups of one agent.
#[derive(Debug)]
pub(super) struct Cgroups {
    folder: PathBuf,
}

impl Cgroups {
    /// A folder of our own in the cgroup tree, named by `id`, if one can be made.
    pub(super) fn probe(id: &str) -> Option<Self> {
        MOUNTS
            .iter()
            .map(Path::new)
            .filter(|mount| mount.join("cgroup.controllers").exists())
            .map(|mount| mount.join("flocker").join(id))
            .find(|folder| fs::create_dir_all(folder).is_ok())
            .map(|folder| {
                // It is there only while an app is in it: an agent that is killed leaves none.
                drop(fs::remove_dir(&folder));
                Self { folder }
            })
    }

    /// The cgroup of an app, whether or not it is there.
    pub(super) fn of(&self, app: &AppName) -> Cgroup {
        Cgroup {
            folder: self.folder.join(app.as_str()),
        }
    }
}

/// The cgroup of one app.
#[derive(Debug)]
pub(super) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes it, with these limits as far as the tree has their controllers.
    ///
    /// Answers with the limits that could not be set.
    pub(super) fn make(&self, spec: &ContainerSpec) -> io::Result<Vec<&'static str>> {
        fs::create_dir_all(&self.folder)?;
        let mut missing = Vec::new();
        let limits = [
            (
                "memory.max",
                spec.memory_bytes.map(|bytes| bytes.to_string()),
            ),
            (
                "cpu.weight",
                spec.cpu_shares.map(|shares| weight(shares).to_string()),
            ),
            // So many microseconds in each tenth of a second.
            (
                "cpu.max",
                spec.cpu_millis
                    .map(|millis| format!("{} 100000", millis * 100)),
            ),
            ("pids.max", spec.pids_max.map(|most| most.to_string())),
        ];
        for (file, value) in limits {
            if value.is_some_and(|value| fs::write(self.folder.join(file), value).is_err()) {
                missing.push(file);
            }
        }
        Ok(missing)
    }

    /// Moves a process in.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// The processes in it; none when it is not there.
    pub(super) fn pids(&self) -> Vec<i32> {
        fs::read_to_string(self.folder.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Sends SIGKILL to all that is in it; false where the kernel cannot (before 5.14).
    pub(super) fn kill(&self) -> bool {
        fs::write(self.folder.join("cgroup.kill"), "1").is_ok()
    }

    /// Removes it, and the agent's folder with the last one; an app that still has processes
    /// keeps it.
    pub(super) fn remove(&self) {
        drop(fs::remove_dir(&self.folder));
        if let Some(agent) = self.folder.parent() {
            drop(fs::remove_dir(agent));
        }
    }
}

/// Docker's CPU shares (2 to 262144, 1024 usual) as a cgroup v2 weight (1 to 10000), as
/// the OCI runtimes convert them.
fn weight(shares: u32) -> u64 {
    let shares = u64::from(shares.clamp(2, 262_144));
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_oci_runtimes_have_it() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(0), 1);
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_empty() {
        let cgroup = Cgroup {
            folder: "/nonexistent/flocker".into(),
        };
        assert_eq!(cgroup.pids(), Vec::<i32>::new());
        assert!(!cgroup.kill());
    }
}
