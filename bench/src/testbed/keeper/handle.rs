//! The owner's side of a keeper: start it, ask it for programs, end it.
#![expect(
    clippy::disallowed_methods,
    reason = "the test bed starts its helper processes"
)]

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
};

use super::{Outcome, Program, Reply, Request, Verb};

/// How long a keeper may take to end everything and go.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// In which namespaces a keeper lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Network, mount and PID namespaces of its own.
    Own,
    /// Those of its owner.
    Shared,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + N for signal N.
    pub code: i32,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>;

/// A running keeper. Dropping it ends it and everything in it.
#[derive(Debug)]
pub struct Keeper {
    name: String,
    child: Child,
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    pending: Pending,
    next: AtomicU64,
}

impl Keeper {
    /// Starts a keeper, which is the program `bench`; what it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(bench: &Path, name: &str, space: Space, log: &Path) -> Result<Self> {
        let mut command = match space {
            Space::Own => {
                let mut command = Command::new("unshare");
                command
                    .args(["--net", "--mount", "--propagation", "private"])
                    .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
                    .arg("--")
                    .arg(bench);
                command
            }
            Space::Shared => Command::new(bench),
        };
        let log = std::fs::File::create(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .arg("keeper")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C goes to the terminal's foreground group: not to keepers, which are
            // ended in order by their owner.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the keeper of {name}"))?;
        let input = child.stdin.take().context("a keeper without input")?;
        let output = child.stdout.take().context("a keeper without output")?;
        let pending = Pending::default();
        tokio::spawn(read_replies(output, Arc::clone(&pending)));
        Ok(Self {
            name: name.to_owned(),
            child,
            input: tokio::sync::Mutex::new(Some(input)),
            pending,
            next: AtomicU64::new(1),
        })
    }

    /// A process of this system whose network and mount namespaces are the keeper's.
    ///
    /// # Errors
    /// When the keeper has ended.
    pub fn pid(&self) -> Result<u32> {
        self.child
            .id()
            .with_context(|| format!("the keeper of {} has ended", self.name))
    }

    /// Starts a program and answers with its pid as the keeper sees it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn spawn(&self, program: Program) -> Result<i32> {
        let what = program.argv.first().cloned().unwrap_or_default();
        match self.ask(Verb::Start(program)).await? {
            Outcome::Started { pid } => Ok(pid),
            Outcome::Failed { message } => bail!("{what} in {}: {message}", self.name),
            Outcome::Exited { .. } => bail!("the keeper of {} talks nonsense", self.name),
        }
    }

    /// Waits for a process to end.
    ///
    /// # Errors
    /// When the keeper has ended or does not know it.
    pub async fn wait(&self, pid: i32) -> Result<Exit> {
        self.exited(Verb::Wait { pid }).await
    }

    /// Sends a signal and waits for the end; kills after `grace`.
    ///
    /// # Errors
    /// As [`Keeper::wait`].
    pub async fn stop(
        &self,
        pid: i32,
        signal: rustix::process::Signal,
        grace: Duration,
    ) -> Result<Exit> {
        self.exited(Verb::Stop {
            pid,
            signal: signal.as_raw(),
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        })
        .await
    }

    /// Runs a program to its end and answers with what it printed.
    ///
    /// # Errors
    /// When it exits with anything but 0; with its output.
    pub async fn run(&self, program: Program) -> Result<String> {
        let argv = program.argv.join(" ");
        let log = program.log.clone();
        let pid = self.spawn(program).await?;
        let exit = self.wait(pid).await?;
        let output = std::fs::read_to_string(&log).unwrap_or_default();
        // What it said is in the answer or in the error.
        let _gone = std::fs::remove_file(&log);
        if exit.code != 0 {
            bail!(
                "`{argv}` in {} failed with {}: {}",
                self.name,
                exit.code,
                output.trim()
            );
        }
        Ok(output)
    }

    /// Ends the keeper and everything in it, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn end(mut self) -> Result<()> {
        drop(self.input.get_mut().take());
        if tokio::time::timeout(END_TIMEOUT, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
            bail!(
                "the keeper of {} did not end within {END_TIMEOUT:?} and was killed",
                self.name
            );
        }
        Ok(())
    }

    async fn exited(&self, verb: Verb) -> Result<Exit> {
        match self.ask(verb).await? {
            Outcome::Exited { code } => Ok(Exit { code }),
            Outcome::Failed { message } => bail!("{}: {message}", self.name),
            Outcome::Started { .. } => bail!("the keeper of {} talks nonsense", self.name),
        }
    }

    async fn ask(&self, verb: Verb) -> Result<Outcome> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        let mut line = serde_json::to_vec(&Request { id, verb })?;
        line.push(b'\n');
        let gone = || anyhow!("the keeper of {} has ended", self.name);
        let mut input = self.input.lock().await;
        let pipe = input.as_mut().ok_or_else(gone)?;
        pipe.write_all(&line).await.map_err(|_| gone())?;
        drop(input);
        receiver.await.map_err(|_| gone())
    }
}

/// Hands replies to those who wait for them; when the keeper ends, they hear of it.
async fn read_replies(output: ChildStdout, pending: Pending) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str::<Reply>(&line) {
            Ok(Reply { id, outcome }) => {
                if let Some(waiter) = lock(&pending).remove(&id) {
                    // Who no longer waits does not want to know.
                    let _unwanted = waiter.send(outcome);
                }
            }
            Err(error) => tracing::warn!("a keeper wrote '{line}': {error}"),
        }
    }
    lock(&pending).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
