//! Starts programs: an app's own process, and commands run beside it.
//!
//! Each is started as a shell that reads one line and then becomes the program. Until that
//! line is written it does nothing, so there is time to put it into its cgroup and to write
//! it down; if the agent dies meanwhile, the shell reads the end of its input and ends.

#![expect(
    clippy::disallowed_methods,
    reason = "the process runtime starts programs"
)]

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
};

use super::{
    app::App,
    procfs,
    record::{Life, Record},
};
use crate::driver::runtime::{Output, append_bounded};

/// Waits at the gate, then becomes the program that its arguments name.
pub(super) const GATE: &str = "read -r go && [ \"$go\" = go ] && exec \"$@\" </dev/null";

/// Starts an app and writes down that it runs.
pub(super) async fn start(app: &Arc<App>, record: &Record, boot_id: &str) -> io::Result<()> {
    fs::create_dir_all(&app.folder)?;
    let log = app.log.open()?;
    let mut command = gated(app, record, &record.command);
    command.stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn()?;
    let gate = child.stdin.take();
    let pid = enter(app, &child)?;
    let start_ticks = procfs::start_ticks(pid).ok_or(io::ErrorKind::NotFound)?;
    let running = Life::Running {
        pid,
        start_ticks,
        boot_id: boot_id.to_owned(),
    };
    // From here on its end is seen and written down, also when it never passes the gate,
    // which is closed when this function returns early.
    let written = app.take(pid, child, running);
    written.map_err(io::Error::other)?;
    open(gate).await
}

/// Runs a command beside the app, as its user, in its cgroup; `None` when it took too long
/// and was killed.
pub(super) async fn run(
    app: &App,
    record: &Record,
    command: &[String],
    limit: Duration,
    bytes_max: usize,
) -> io::Result<Option<Output>> {
    let mut command = gated(app, record, command);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let pid = enter(app, &child)?;
    open(child.stdin.take()).await?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let mut output = Output::default();
        let (status, out, err) = tokio::join!(
            child.wait(),
            collect(stdout, &mut output.stdout, bytes_max),
            collect(stderr, &mut output.stderr, bytes_max)
        );
        output.truncated = out? | err?;
        output.exit_code = exit_code(status?).unwrap_or(crate::logic::container::EXIT_UNKNOWN);
        Ok(output)
    };
    let ended = tokio::time::timeout(limit, whole).await;
    if ended.is_err()
        && let Some(group) = Pid::from_raw(pid)
    {
        // ESRCH: all of it has ended by itself.
        let _ended = rustix::process::kill_process_group(group, Signal::KILL);
    }
    ended.ok().transpose()
}

/// Marks every process of a container that keeps its environment.
pub(super) fn marker(folder: &Path) -> String {
    format!("FLOCKER_CONTAINER={}", folder.display())
}

/// Exit code as a shell has it: 128 + N for signal N.
pub(super) fn exit_code(status: ExitStatus) -> Option<i64> {
    let by_signal = || status.signal().map(|signal| i64::from(signal) + 128);
    status.code().map(i64::from).or_else(by_signal)
}

fn gated(app: &App, record: &Record, program: &[String]) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", GATE, "flocker"])
        .args(program)
        .env_clear()
        .envs(&record.environment)
        .env("FLOCKER_CONTAINER", &app.folder)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped());
    if let Some(user) = record.user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Puts a process that waits at its gate into the app's cgroup.
fn enter(app: &App, child: &Child) -> io::Result<i32> {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .ok_or(io::ErrorKind::NotFound)?;
    if let Some(cgroup) = &app.cgroup {
        cgroup.add(pid)?;
    }
    Ok(pid)
}

async fn open(gate: Option<ChildStdin>) -> io::Result<()> {
    let mut gate = gate.ok_or(io::ErrorKind::BrokenPipe)?;
    gate.write_all(b"go\n").await
}

/// Reads to the end; whether there was more than is kept.
async fn collect(
    source: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
    most: usize,
) -> io::Result<bool> {
    let Some(mut source) = source else {
        return Ok(false);
    };
    let mut truncated = false;
    let mut buffer = [0; 4096];
    loop {
        let count = source.read(&mut buffer).await?;
        if count == 0 {
            return Ok(truncated);
        }
        truncated |= append_bounded(kept, &buffer[..count], most);
    }
}
