//! One node of a bed in namespaces: network, folders, pool, engine, images.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::{
    images::Image,
    keeper::{Keeper, Program, Space},
    plan::{Ground, Storage},
    ready,
};

/// The engine's socket, in the node's own /run.
const DOCKER_SOCKET: &str = "/run/docker.sock";
const ZFS_FUSE: &str = "zfs-fuse";
/// Size of a node's pool file; sparse.
const POOL_BYTES: u64 = 4 << 30;
/// How long a daemon of a node may take to answer.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a daemon may take to end when asked to.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A place with a keeper: a node, or the control service's own.
#[derive(Debug)]
pub struct Place {
    /// `n1`, `n2`, `control`.
    pub name: String,
    /// Its keeper.
    pub keeper: Keeper,
    /// Its own folder in the run's.
    pub folder: PathBuf,
    /// Where its programs' logs go.
    logs: PathBuf,
    commands: AtomicU32,
    /// Daemons and services, in the order of their start: name, pid.
    started: std::sync::Mutex<Vec<(String, i32)>>,
}

impl Place {
    /// Starts a keeper, which is the program `bench`, and makes its folders.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        ground: Ground,
        bench: &Path,
        run: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let folder = run.join(name);
        fs::create_dir_all(folder.join("lib"))?;
        let logs = logs.join(name);
        fs::create_dir_all(&logs)?;
        let space = match ground {
            Ground::Namespaces => Space::Own,
            Ground::Loopback => Space::Shared,
        };
        let keeper = Keeper::start(bench, name, space, &logs.join("keeper.log"))?;
        Ok(Self {
            name: name.to_owned(),
            keeper,
            folder,
            logs,
            commands: AtomicU32::new(0),
            started: std::sync::Mutex::default(),
        })
    }

    /// Runs a command to its end and answers with its output.
    ///
    /// # Errors
    /// When it fails; with its output.
    pub async fn run<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.ran(Program::new(argv, self.command_log())).await
    }

    async fn ran(&self, program: Program) -> Result<String> {
        let argv = program.argv.join(" ");
        let output = self.keeper.run(program).await;
        tracing::debug!(place = self.name, ok = output.is_ok(), "{argv}");
        output
    }

    fn command_log(&self) -> PathBuf {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        self.logs.join(format!("command-{number}.log"))
    }

    /// Where the log of a daemon is.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Starts a daemon and waits until `ready` says so; hears of it when it ends before.
    ///
    /// # Errors
    /// When it ends or is not ready in time; with the end of its log.
    pub async fn daemon<S: Into<String>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
        environment: &[(&str, String)],
        ready: impl Future<Output = Result<()>>,
    ) -> Result<i32> {
        let mut program = Program::new(argv, self.log(name));
        for (key, value) in environment {
            program = program.with_env(key, value.clone());
        }
        let pid = self.keeper.spawn(program).await?;
        self.remember(name, pid);
        let outcome = tokio::select! {
            outcome = ready => outcome,
            exit = self.keeper.wait(pid) => {
                let code = exit?.code;
                Err(anyhow::anyhow!("it ended with {code} before it was ready"))
            }
        };
        outcome
            .with_context(|| self.tail(name))
            .with_context(|| format!("{name} on {}", self.name))?;
        Ok(pid)
    }

    fn remember(&self, name: &str, pid: i32) {
        self.lock().push((name.to_owned(), pid));
    }

    /// Pid of a daemon that was started here, as its keeper sees it.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<i32> {
        let started = self.lock();
        let found = started.iter().rev().find(|(daemon, _)| daemon == name);
        found.map(|(_, pid)| *pid)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, i32)>> {
        self.started
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The last lines of a daemon's log.
    fn tail(&self, name: &str) -> String {
        let path = self.log(name);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
        format!("last lines of {}:\n  {last}", path.display())
    }

    /// Ends a daemon by a signal, and answers with its exit code.
    ///
    /// # Errors
    /// When no such daemon was started here.
    pub async fn stop(&self, name: &str, signal: Signal) -> Result<i32> {
        let pid = self
            .pid(name)
            .with_context(|| format!("no {name} was started on {}", self.name))?;
        self.lock().retain(|(_, other)| *other != pid);
        Ok(self.keeper.stop(pid, signal, STOP_GRACE).await?.code)
    }

    /// Stops daemons in reverse order, then the keeper and whatever is left.
    ///
    /// # Errors
    /// When the keeper does not end.
    pub async fn end(self) -> Result<()> {
        if self.pid("dockerd").is_some() {
            self.remove_containers().await;
        }
        loop {
            let last = self.lock().pop();
            let Some((name, pid)) = last else { break };
            // It would take seconds to write out a pool that is thrown away.
            if name == ZFS_FUSE {
                continue;
            }
            let exit = self.keeper.stop(pid, Signal::TERM, STOP_GRACE).await;
            tracing::debug!(place = self.name, "{name} ended: {exit:?}");
        }
        self.keeper.end().await
    }

    /// Containers are asked to go first: an engine that is stopped leaves them running.
    async fn remove_containers(&self) {
        let docker = |arguments: &[&str]| {
            let mut argv = vec!["docker".to_owned(), "-H".to_owned(), docker_url()];
            argv.extend(arguments.iter().map(|&text| text.to_owned()));
            argv
        };
        let Ok(list) = self.run(docker(&["ps", "--all", "--quiet"])).await else {
            return;
        };
        let containers: Vec<&str> = list.split_whitespace().collect();
        if !containers.is_empty() {
            let mut argv = docker(&["rm", "--force"]);
            argv.extend(containers.into_iter().map(str::to_owned));
            // What stays is killed with the keeper's PID namespace.
            let _stays = self.run(argv).await;
        }
    }

    /// Makes the folders of a place in namespaces its own: nothing of the machine's state
    /// is seen, nothing is left in it.
    ///
    /// # Errors
    /// When a mount fails.
    pub async fn make_folders(&self) -> Result<()> {
        for folder in ["/run", "/var/lib", "/etc/zfs"] {
            if Path::new(folder).exists() {
                self.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "bed", folder])
                    .await?;
            }
        }
        self.run(["mkdir", "-p", "/run/flocker", "/run/zfs", "/run/lock/zfs"])
            .await?;
        self.run([
            "mkdir",
            "-p",
            "/run/docker",
            "/var/lib/zfs",
            "/var/lib/flocker",
        ])
        .await?;
        let lib = self.folder.join("lib");
        self.run([
            "mount",
            "--bind",
            &lib.to_string_lossy(),
            "/var/lib/flocker",
        ])
        .await?;
        Ok(())
    }

    /// Makes the node's pool; with zfs-fuse, its daemon first.
    ///
    /// # Errors
    /// When there is none in the end.
    pub async fn make_pool(&self, storage: Storage, pool: &str) -> Result<()> {
        if storage == Storage::Directory {
            return Ok(());
        }
        if storage == Storage::ZfsFuse {
            let argv = [ZFS_FUSE, "--no-daemon", "--no-kstat-mount", "-m", "128"];
            // The place's own /run is not seen from here: its own shell looks.
            let socket = ready::until(ZFS_FUSE, DAEMON_TIMEOUT, || async {
                self.run(["test", "-S", "/run/zfs/zfs_socket"]).await?;
                Ok(())
            });
            self.daemon(ZFS_FUSE, argv, &[], socket).await?;
        }
        let file = self.folder.join("pool.img");
        fs::File::create(&file)?.set_len(POOL_BYTES)?;
        let file = file.to_string_lossy();
        self.run(["zpool", "create", "-m", "none", pool, &file])
            .await?;
        Ok(())
    }

    /// Starts the node's engine and gives it the images.
    ///
    /// # Errors
    /// When it does not answer, or refuses an image.
    pub async fn make_engine(&self, cgroup: &str, images: &[Image]) -> Result<()> {
        let data = self.folder.join("docker");
        let argv = [
            "dockerd".to_owned(),
            format!("--data-root={}", data.display()),
            "--exec-root=/run/docker".to_owned(),
            "--pidfile=/run/docker.pid".to_owned(),
            format!("--host={}", docker_url()),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            format!("--cgroup-parent=/{cgroup}"),
        ];
        let answers = ready::until("dockerd", DAEMON_TIMEOUT, || async {
            self.run(["docker", "-H", &docker_url(), "version"]).await?;
            Ok(())
        });
        self.daemon("dockerd", argv, &[], answers).await?;
        for image in images {
            self.import(image).await?;
        }
        Ok(())
    }

    async fn import(&self, image: &Image) -> Result<()> {
        let mut argv = vec!["docker".to_owned(), "-H".to_owned(), docker_url()];
        argv.push("import".to_owned());
        for change in &image.changes {
            argv.extend(["-c".to_owned(), change.clone()]);
        }
        argv.extend(["-".to_owned(), image.name.to_owned()]);
        let program = Program::new(argv, self.command_log()).with_input(&image.tar);
        self.ran(program).await?;
        Ok(())
    }
}

fn docker_url() -> String {
    format!("unix://{DOCKER_SOCKET}")
}
