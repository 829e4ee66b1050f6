//! Finds out which bed this machine can carry, and says why when it is not the best one.
#![expect(
    clippy::disallowed_methods,
    reason = "what a machine can do is found by doing it"
)]

use std::{path::Path, process::Command};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::plan::{Ground, Runtime, Storage};

/// What the user wants of the bed.
#[derive(Debug, Clone, Default, Args)]
pub struct Wishes {
    /// Where the nodes live
    #[arg(long, value_enum, default_value_t)]
    pub bed: BedWish,
    /// What the nodes keep volumes on
    #[arg(long, value_enum, default_value_t)]
    pub storage: StorageWish,
    /// What the nodes run containers with
    #[arg(long, value_enum, default_value_t)]
    pub runtime: RuntimeWish,
}

/// A wish for the ground.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum BedWish {
    /// Namespaces where they can be had
    #[default]
    Auto,
    /// Network, mount and PID namespaces per node (needs root)
    Namespaces,
    /// 127.0.0.0/8 addresses
    Loopback,
}

/// A wish for the storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum StorageWish {
    /// OpenZFS, else zfs-fuse, else directories
    #[default]
    Auto,
    /// ZFS, of whichever make
    Zfs,
    /// Directories
    Directory,
}

/// A wish for the runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RuntimeWish {
    /// Docker where it can be had
    #[default]
    Auto,
    /// A Docker Engine per node
    Docker,
    /// Plain processes
    Process,
}

/// What the bed will be, and why it is not more.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Where the nodes live.
    pub ground: Ground,
    /// What they keep volumes on.
    pub storage: Storage,
    /// What they run containers with.
    pub runtime: Runtime,
    /// A sentence for each thing that is less than the best.
    pub because: Vec<String>,
}

/// Chooses the best bed that the wishes and the machine allow.
///
/// # Errors
/// When something was wished for that this machine cannot do.
pub fn choose(wishes: &Wishes) -> Result<Choice> {
    let mut because = Vec::new();
    let ground = match (wishes.bed, namespaces()) {
        (BedWish::Loopback, _) => Ground::Loopback,
        (_, Ok(())) => Ground::Namespaces,
        (BedWish::Namespaces, Err(reason)) => bail!("no namespaces here: {reason}"),
        (BedWish::Auto, Err(reason)) => {
            because.push(format!(
                "loopback addresses instead of namespaces: {reason}"
            ));
            Ground::Loopback
        }
    };
    // Pools and engines of a node's own need namespaces of its own.
    let unowned = match ground {
        Ground::Namespaces => Ok(()),
        Ground::Loopback => Err("nodes on loopback share one system".to_owned()),
    };
    let storage = match (wishes.storage, unowned.clone().and_then(|()| zfs())) {
        (StorageWish::Directory, _) => Storage::Directory,
        (_, Ok(storage)) => storage,
        (StorageWish::Zfs, Err(reason)) => bail!("no ZFS here: {reason}"),
        (StorageWish::Auto, Err(reason)) => {
            because.push(format!("directories instead of ZFS: {reason}"));
            Storage::Directory
        }
    };
    let runtime = match (wishes.runtime, unowned.and_then(|()| docker())) {
        (RuntimeWish::Process, _) => Runtime::Process,
        (_, Ok(())) => Runtime::Docker,
        (RuntimeWish::Docker, Err(reason)) => bail!("no Docker Engine here: {reason}"),
        (RuntimeWish::Auto, Err(reason)) => {
            because.push(format!("processes instead of Docker: {reason}"));
            Runtime::Process
        }
    };
    Ok(Choice {
        ground,
        storage,
        runtime,
        because,
    })
}

/// Whether namespaces can be made and joined by a bridge.
fn namespaces() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they need root".to_owned());
    }
    for program in ["unshare", "ip", "mount"] {
        find(program)?;
    }
    succeeds(
        Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .args(["ip", "link", "add", "probe", "type", "bridge"]),
    )
}

fn zfs() -> Result<Storage, String> {
    find("zpool")?;
    find("zfs")?;
    if Path::new("/dev/zfs").exists() {
        return Ok(Storage::Openzfs);
    }
    if !Path::new("/dev/fuse").exists() {
        return Err("neither OpenZFS (/dev/zfs) nor FUSE (/dev/fuse) is there".to_owned());
    }
    find("zfs-fuse").map(|_| Storage::ZfsFuse)
}

fn docker() -> Result<(), String> {
    for program in ["dockerd", "docker", "containerd", "runc"] {
        find(program)?;
    }
    if Path::new("/sys/fs/cgroup")
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        Ok(())
    } else {
        Err("no cgroups are mounted at /sys/fs/cgroup".to_owned())
    }
}

/// Folders for programs of the system that may be missing in a user's PATH.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program by name.
pub(crate) fn find(program: &str) -> Result<std::path::PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(std::path::PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("'{program}' is not installed"))
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
