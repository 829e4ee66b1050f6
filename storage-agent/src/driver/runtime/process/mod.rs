//! Containers as plain processes: the embedded default, which needs nothing installed.
//!
//! An image is a file `NAME.toml` in a folder (the tag of `repository:tag` is not looked at);
//! each app runs as a process group of its own, in a cgroup of its own where one can be had.
//! There is no file system of its own: a volume is found where `FLOCKER_VOLUME` says, not at
//! its mountpoint, and limits hold as far as the cgroup tree has their controllers.
//!
//! Apps outlive the agent. A process is held back by a gate until its cgroup is set and its
//! record is on disk, so that no agent can die between a start and the memory of it; a later
//! agent finds it by id, start time and boot, and awaits its end by pidfd. What it cannot
//! learn then is the exit code, which only a parent is told.

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use flocker_api::{
    agent::{RuntimeKind, RuntimeStatus},
    logs::{LogQuery, LogReply},
    name::{AppName, NodeName},
};
use rustix::process::Signal;
use tokio::time::Instant;

use super::{Blueprint, Ended, LogBounds, Output, RuntimeError};
use crate::logic::container::{self, Container};

mod app;
mod cgroup;
mod log;
mod procfs;
mod record;
mod spawn;

pub(crate) use procfs::boot_id;
pub use procfs::{Writer, writers};

use app::{App, lock};
use cgroup::Cgroups;
use record::{Image, Life, Record};

/// Between two looks at how long the apps' output has become.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks for new output that someone waits for.
const LOG_WAIT_INTERVAL: Duration = Duration::from_millis(25);

/// Between two looks at processes that were killed and are about to vanish.
const VANISH_INTERVAL: Duration = Duration::from_millis(2);

/// Where images and state are, and how long things may take.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Folder of images.
    pub images: PathBuf,
    /// Folder in which it remembers its containers; one agent's alone.
    pub state: PathBuf,
    /// The node.
    pub node: NodeName,
    /// The node's address.
    pub address: IpAddr,
    /// How long killed processes may take to vanish.
    pub kill_limit: Duration,
    /// How much of each app's output is kept, in bytes.
    pub log_bytes_max: u64,
}

/// The process runtime.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    boot_id: String,
    cgroups: Option<Cgroups>,
    apps: Mutex<HashMap<AppName, Arc<App>>>,
}

impl Process {
    /// Opens the folders and takes up the containers that an earlier agent left, running ones
    /// too. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The state folder cannot be used, or holds a record that cannot be read.
    pub fn open(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let config = Self::prepare(config)?;
        let id = crc32fast::hash(config.state.as_os_str().as_encoded_bytes());
        let cgroups = Cgroups::probe(&format!("{}-{id:08x}", config.node));
        if cgroups.is_none() {
            tracing::info!("no cgroup v2 tree is writable; apps are known by their process group");
        }
        Self::with(config, cgroups)
    }

    fn prepare(config: ProcessConfig) -> Result<ProcessConfig, RuntimeError> {
        fs::create_dir_all(&config.state)
            .map_err(RuntimeError::io("create the state folder", &config.state))?;
        let state = fs::canonicalize(&config.state)
            .map_err(RuntimeError::io("open the state folder", &config.state))?;
        Ok(ProcessConfig { state, ..config })
    }

    fn with(config: ProcessConfig, cgroups: Option<Cgroups>) -> Result<Self, RuntimeError> {
        let runtime = Self {
            inner: Arc::new(Inner {
                config,
                boot_id: boot_id(),
                cgroups,
                apps: Mutex::new(HashMap::new()),
            }),
        };
        runtime.adopt_all()?;
        runtime.keep_logs();
        Ok(runtime)
    }

    fn adopt_all(&self) -> Result<(), RuntimeError> {
        let state = &self.inner.config.state;
        let entries = fs::read_dir(state).map_err(RuntimeError::io("list", state))?;
        for entry in entries.flatten() {
            let folder = entry.path();
            let record = match Record::read(&folder) {
                Ok(record) => record,
                // A crash while the container was made or removed: it was never started.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(RuntimeError::io("read the record in", folder)(error)),
            };
            let app = self.app(folder, record);
            let name = app.record.borrow().spec.app.clone();
            app.adopt(&self.inner.boot_id)?;
            lock(&self.inner.apps).insert(name, app);
        }
        Ok(())
    }

    fn app(&self, folder: PathBuf, record: Record) -> Arc<App> {
        let cgroups = self.inner.cgroups.as_ref();
        let cgroup = cgroups.map(|cgroups| cgroups.of(&record.spec.app));
        Arc::new(App::new(folder, record, cgroup))
    }

    pub(super) async fn status(&self) -> RuntimeStatus {
        let images = &self.inner.config.images;
        let problem = fs::read_dir(images).err().map(|error| {
            format!(
                "the folder of images {} cannot be read: {error}",
                images.display()
            )
        });
        let means = if self.inner.cgroups.is_some() {
            "cgroup v2"
        } else {
            "process groups"
        };
        RuntimeStatus {
            kind: RuntimeKind::Process,
            version: format!("{} ({means})", env!("CARGO_PKG_VERSION")),
            problem,
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let apps = lock(&self.inner.apps);
        Ok(apps.values().map(|app| app.container()).collect())
    }

    pub(super) async fn find(&self, app: &AppName) -> Result<Option<Container>, RuntimeError> {
        Ok(lock(&self.inner.apps).get(app).map(|app| app.container()))
    }

    pub(super) async fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
        self.image(image).map(drop)
    }

    fn image(&self, image: &str) -> Result<Image, RuntimeError> {
        let node = &self.inner.config.node;
        let bad = |reason: String| RuntimeError::BadImage {
            image: image.to_owned(),
            node: node.clone(),
            reason,
        };
        let name = match image.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => repository,
            _ => image,
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts
            .iter()
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(bad(
                "its name is no path below the folder of images".to_owned()
            ));
        }
        let file = self.inner.config.images.join(format!("{name}.toml"));
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RuntimeError::NoImage {
                    image: image.to_owned(),
                    node: node.clone(),
                    remedy: format!("write {}", file.display()),
                });
            }
            Err(error) => return Err(RuntimeError::io("read", &file)(error)),
        };
        let image: Image =
            toml::from_str(&text).map_err(|error| bad(format!("{}: {error}", file.display())))?;
        if image.command.is_empty() {
            return Err(bad(format!("{} has no command", file.display())));
        }
        Ok(image)
    }

    pub(super) async fn create(&self, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let Blueprint {
            spec,
            epoch,
            volume_paths,
        } = blueprint.clone();
        let image = self.image(&spec.image)?;
        let config = &self.inner.config;
        let user = match image.user {
            Some(name) if rustix::process::geteuid().is_root() => {
                Some(self.user(&spec.image, &name)?)
            }
            _ => None,
        };
        let mut variables = image.environment;
        variables.entry("PATH".to_owned()).or_insert_with(|| {
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()
        });
        let environment = container::environment(
            &variables,
            &spec,
            &config.node,
            config.address,
            volume_paths.first(),
        );
        let name = spec.app.clone();
        let record = Record {
            command: container::command_line(&image.command, &spec),
            epoch,
            environment,
            user,
            volume_paths,
            life: Life::Created,
            spec,
        };
        let folder = config.state.join(name.as_str());
        record
            .write(&folder)
            .map_err(RuntimeError::io("write the record in", &folder))?;
        let app = self.app(folder, record);
        lock(&self.inner.apps).insert(name, app);
        Ok(())
    }

    fn user(&self, image: &str, name: &str) -> Result<record::User, RuntimeError> {
        let file = Path::new("/etc/passwd");
        let passwd = fs::read_to_string(file).map_err(RuntimeError::io("read", file))?;
        record::find_user(&passwd, name).ok_or_else(|| RuntimeError::BadImage {
            image: image.to_owned(),
            node: self.inner.config.node.clone(),
            reason: format!("its user '{name}' is not in {}", file.display()),
        })
    }

    pub(super) async fn start(&self, name: &AppName) -> Result<(), RuntimeError> {
        let app = self.get(name)?;
        let record = app.record.borrow().clone();
        if matches!(record.life, Life::Running { .. }) {
            return Ok(());
        }
        if let Some(cgroup) = &app.cgroup {
            let missing = cgroup
                .make(&record.spec)
                .map_err(RuntimeError::io("make the cgroup of", name.as_str()))?;
            if !missing.is_empty() {
                tracing::warn!(app = %name, ?missing, "the cgroup tree lacks these controllers");
            }
        }
        spawn::start(&app, &record, &self.inner.boot_id)
            .await
            .map_err(RuntimeError::io("start", &record.command[0]))
    }

    pub(super) async fn ended(&self, name: &AppName) -> Result<Option<i64>, RuntimeError> {
        Ok(self.get(name)?.ended().await)
    }

    pub(super) async fn stop(&self, container: &Container) -> Result<Ended, RuntimeError> {
        let name = &container.spec.app;
        let app = self.get(name)?;
        let policy = &container.spec.stop;
        let mut killed = false;
        if container.runs() {
            let signal = container::signal(&policy.signal).and_then(Signal::from_named_raw);
            app.signal(signal.unwrap_or(Signal::TERM));
            let grace = Duration::from_millis(policy.grace_ms);
            killed = tokio::time::timeout(grace, app.ended()).await.is_err();
        }
        // As with a container's first process, the end of the app is the end of all its kin.
        self.sweep(name, &app).await?;
        Ok(Ended {
            exit_code: app.ended().await,
            killed,
        })
    }

    /// Kills what is left of an app until nothing is, which is the proof that it is gone.
    async fn sweep(&self, name: &AppName, app: &App) -> Result<(), RuntimeError> {
        let limit = self.inner.config.kill_limit;
        let deadline = Instant::now() + limit;
        loop {
            let left = app.processes();
            let running = matches!(app.record.borrow().life, Life::Running { .. });
            if left.is_empty() && !running {
                if let Some(cgroup) = &app.cgroup {
                    cgroup.remove();
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(RuntimeError::Unkillable {
                    app: name.clone(),
                    node: self.inner.config.node.clone(),
                    pids: left,
                    limit,
                });
            }
            app.kill(&left);
            tokio::time::sleep(VANISH_INTERVAL).await;
        }
    }

    pub(super) async fn remove(&self, name: &AppName) -> Result<(), RuntimeError> {
        let Some(app) = lock(&self.inner.apps).remove(name) else {
            return Ok(());
        };
        if let Some(cgroup) = &app.cgroup {
            cgroup.remove();
        }
        fs::remove_dir_all(&app.folder).map_err(RuntimeError::io("remove", &app.folder))
    }

    pub(super) async fn exec(
        &self,
        name: &AppName,
        command: &[String],
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Output, RuntimeError> {
        let app = self.get(name)?;
        let record = app.record.borrow().clone();
        spawn::run(&app, &record, command, limit, bytes_max)
            .await
            .map_err(RuntimeError::io("run", &command[0]))?
            .ok_or_else(|| RuntimeError::CommandTimeout {
                command: command.join(" "),
                app: name.clone(),
                node: self.inner.config.node.clone(),
                limit,
            })
    }

    pub(super) async fn last_lines(&self, name: &AppName, lines: usize) -> String {
        let app = self.get(name);
        app.ok()
            .and_then(|app| app.log.last_lines(lines).ok())
            .unwrap_or_default()
    }

    pub(super) async fn logs(
        &self,
        name: &AppName,
        query: &LogQuery,
        bounds: LogBounds,
    ) -> Result<LogReply, RuntimeError> {
        let app = self.get(name)?;
        let deadline = Instant::now() + Duration::from_millis(query.wait_ms);
        let mut query = query.clone();
        loop {
            let runs = matches!(app.record.borrow().life, Life::Running { .. });
            let reply = app
                .log
                .read(&query, bounds, runs)
                .map_err(RuntimeError::io("read the output of", name.as_str()))?;
            if !reply.lines.is_empty() || Instant::now() >= deadline {
                return Ok(reply);
            }
            // Only what comes from now on is waited for.
            query.after = reply.cursor;
            tokio::time::sleep(LOG_WAIT_INTERVAL).await;
        }
    }

    /// Keeps the apps' output within its limit; ends with the runtime.
    fn keep_logs(&self) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOG_INTERVAL);
            loop {
                looks.tick().await;
                let Some(inner) = inner.upgrade() else { return };
                let apps: Vec<_> = lock(&inner.apps).values().cloned().collect();
                let bytes_max = inner.config.log_bytes_max;
                let kept = tokio::task::spawn_blocking(move || {
                    for app in apps {
                        if let Err(error) = app.log.keep(bytes_max) {
                            tracing::warn!(folder = %app.folder.display(), %error, "its output is not bounded");
                        }
                    }
                });
                drop(kept.await);
            }
        });
    }

    fn get(&self, name: &AppName) -> Result<Arc<App>, RuntimeError> {
        lock(&self.inner.apps)
            .get(name)
            .cloned()
            .ok_or_else(|| RuntimeError::Gone {
                app: name.clone(),
                node: self.inner.config.node.clone(),
            })
    }
}

#[cfg(test)]
mod tests;
