//! A hold on a process that is safe from reuse of its id, and an event for its end.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;

/// Takes a hold on a process.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits until the process has ended with all of its threads, and, where it is the first one
/// of a PID namespace, until all other processes of that are gone too: the kernel ends them
/// before it tells of the first one's end (pid_namespaces(7)).
#[expect(
    deprecated,
    reason = "its replacement is unsafe, and what it asks of its caller the owned descriptor keeps"
)]
pub(super) async fn ended(process: Arc<OwnedFd>) -> io::Result<()> {
    AsyncFd::new(process)?.readable().await.map(drop)
}
