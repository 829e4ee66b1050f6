//! The keeper's own side: `flocker-bench keeper`.
//!
//! Single-threaded on purpose: between a spawn and its entry in the table no exit can be
//! reaped, so none is ever missed.
#![expect(
    clippy::disallowed_methods,
    reason = "starting programs is what a keeper is for"
)]

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use super::{Outcome, Program, Reply, Request, Verb};

/// Serves requests until standard input ends, then ends everything that came from here.
///
/// # Errors
/// When the process cannot be made a keeper, or the other side cannot be read.
pub fn run() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the reaper of orphans")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(Helper::default().serve());
    end_all();
    // The thread that reads stdin may still sit in its read: leave without waiting for it.
    std::process::exit(i32::from(served.is_err()));
}

/// A child: who waits for its end, and when it will be killed.
#[derive(Debug, Default)]
struct Process {
    /// Set once it has ended.
    exit: Option<i32>,
    waiters: Vec<u64>,
    kill_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Helper {
    processes: HashMap<i32, Process>,
}

impl Helper {
    async fn serve(mut self) -> Result<()> {
        let mut children = signal(SignalKind::child())?;
        // A keeper ends by the end of its input only, in the order its owner wants.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            let kill_at = self.processes.values().filter_map(|p| p.kill_at).min();
            let kill = async {
                match kill_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.request(&line)?,
                    None => return Ok(()),
                },
                _ = children.recv() => self.reap()?,
                _ = terminate.recv() => {}
                () = kill => self.kill_late(),
            }
        }
    }

    fn request(&mut self, line: &str) -> Result<()> {
        let Request { id, verb } = serde_json::from_str(line).context("no request line")?;
        match verb {
            Verb::Start(program) => {
                let outcome = match start(&program) {
                    Ok(pid) => {
                        self.processes.insert(pid, Process::default());
                        Outcome::Started { pid }
                    }
                    Err(error) => Outcome::Failed {
                        message: format!("{error:#}"),
                    },
                };
                reply(id, outcome)
            }
            Verb::Wait { pid } => self.wait(id, pid, None),
            Verb::Stop {
                pid,
                signal,
                grace_ms,
            } => {
                send(pid, Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
                self.wait(id, pid, Some(Duration::from_millis(grace_ms)))
            }
        }
    }

    fn wait(&mut self, id: u64, pid: i32, grace: Option<Duration>) -> Result<()> {
        let Some(process) = self.processes.get_mut(&pid) else {
            let message = format!("process {pid} was not started here");
            return reply(id, Outcome::Failed { message });
        };
        if let Some(code) = process.exit {
            return reply(id, Outcome::Exited { code });
        }
        process.waiters.push(id);
        if let Some(grace) = grace {
            process.kill_at = Some(now() + grace);
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            // Orphans of our children are reaped without a word.
            let Some(process) = self.processes.get_mut(&pid.as_raw_nonzero().get()) else {
                continue;
            };
            let code = exit_code(status);
            process.exit = Some(code);
            process.kill_at = None;
            for id in process.waiters.drain(..) {
                reply(id, Outcome::Exited { code })?;
            }
        }
        Ok(())
    }

    fn kill_late(&mut self) {
        let now = now();
        for (pid, process) in &mut self.processes {
            if process.kill_at.is_some_and(|at| at <= now) {
                process.kill_at = None;
                send(*pid, Signal::KILL);
            }
        }
    }
}

fn now() -> Instant {
    Instant::now()
}

fn start(program: &Program) -> Result<i32> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&program.log)
        .with_context(|| format!("cannot write {}", program.log.display()))?;
    let (name, arguments) = program.argv.split_first().context("no program given")?;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .envs(&program.environment)
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(match &program.input {
            Some(path) => Stdio::from(
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            ),
            None => Stdio::null(),
        });
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    i32::try_from(child.id()).context("a pid is beyond its type")
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended meanwhile; its exit is what is waited for, not this.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn reply(id: u64, outcome: Outcome) -> Result<()> {
    let mut line = serde_json::to_vec(&Reply { id, outcome })?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}

/// Kills children until there are none: what they leave behind becomes a child in turn.
/// As the init of a PID namespace the kernel does the same once more when this returns.
fn end_all() {
    loop {
        let children = children();
        for pid in &children {
            send(*pid, Signal::KILL);
        }
        let mut reaped = false;
        for pid in children.into_iter().filter_map(Pid::from_raw) {
            reaped |= rustix::process::waitpid(Some(pid), WaitOptions::empty()).is_ok();
        }
        if !reaped {
            return;
        }
    }
}

/// Processes whose parent this is.
fn children() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    super::super::process::all()
        .into_iter()
        .filter(|process| process.parent == own)
        .map(|process| process.pid)
        .collect()
}
