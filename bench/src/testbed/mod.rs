//! The test bed: two nodes, four edges and a control service on one machine.
//!
//! ```text
//!  flocker-bench (load, flockerctl)  10.77.0.2
//!        │ bridge
//!        ├── control   10.77.0.1          flocker-control
//!        ├── n1        10.77.1.1, .1.2    agent, two edges, zfs-fuse, dockerd, apps
//!        └── n2        10.77.2.1, .2.2    agent, two edges, zfs-fuse, dockerd, apps
//! ```
//!
//! In namespaces every place has a network, mounts and processes of its own, and so has
//! `flocker-bench` itself a network, in which the bridge is: nothing of it is in the
//! machine's own network, and all of it ends with the processes. Without the rights for
//! that, the same places are loopback addresses, directories and plain processes.
//!
//! Programs are started from the sample files in `config/demo`; where a bed is less than
//! they say, from copies with addresses, folders and engines rewritten.

mod configs;
pub mod images;
pub mod keeper;
mod ledger;
mod node;
pub mod plan;
pub mod probe;
mod process;
pub mod ready;
pub mod stage;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use node::Place;
use plan::{Ground, Plan, Runtime, Storage};
use probe::Choice;

/// How long a service may take until it answers.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a bed finds its parts and puts its own.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The repository's `config`.
    pub config: PathBuf,
    /// The programs.
    pub programs: PathBuf,
    /// Reports, logs, and folders of runs.
    pub output: PathBuf,
}

impl Folders {
    /// The programs beside this one, and `demo` beside their folder.
    ///
    /// # Errors
    /// When this program's own file cannot be found.
    pub fn beside_this_program(config: &Path, output: Option<PathBuf>) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let programs = own.parent().context("a program without a folder")?;
        let output = match (output, programs.parent()) {
            (Some(output), _) => output,
            (None, Some(target)) => target.join("demo"),
            (None, None) => bail!("{} is in no target folder", own.display()),
        };
        Ok(Self {
            config: config
                .canonicalize()
                .with_context(|| format!("no sample files at {}", config.display()))?,
            programs: programs.to_owned(),
            output,
        })
    }

    /// A program of this project.
    ///
    /// # Errors
    /// When it is not built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{} is not built: run `cargo build --workspace --bins`",
            path.display()
        )
    }
}

/// A bed, standing or being put up. [`Testbed::down`] takes it away; when it is dropped or
/// its process killed instead, its keepers end all that runs, and the next run the rest.
#[derive(Debug)]
pub struct Testbed {
    /// What it consists of.
    pub plan: Plan,
    folders: Folders,
    run: ledger::Run,
    /// `n1`, `n2`, `control`; empty until they are started.
    places: Vec<Place>,
}

impl Testbed {
    /// Cleans up after runs that were killed and claims a folder for this one.
    /// Answers also with what was cleaned up.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(choice: &Choice, folders: Folders) -> Result<(Self, Vec<String>)> {
        let swept = ledger::sweep(&folders.output);
        let run = ledger::Run::begin(&folders.output)?;
        let plan = Plan::new(
            choice.ground,
            choice.storage,
            choice.runtime,
            free_third(run.number),
        );
        let bed = Self {
            plan,
            folders,
            run,
            places: Vec::new(),
        };
        Ok((bed, swept))
    }

    /// Puts up nodes and services, and waits until all of them answer.
    ///
    /// # Errors
    /// Names what failed and the end of its log.
    pub async fn up(&mut self) -> Result<()> {
        self.up_nodes().await?;
        self.start_services().await
    }

    /// Puts up nodes, with pools and engines and without any service of ours.
    ///
    /// # Errors
    /// Names what failed and the end of its log.
    pub async fn up_nodes(&mut self) -> Result<()> {
        let bench = self.folders.program("flocker-bench")?;
        for name in ["control", "n1", "n2"] {
            let place = Place::start(
                name,
                self.plan.ground,
                &bench,
                &self.run.path,
                &self.run.logs,
            )?;
            self.places.push(place);
        }
        if self.plan.ground == Ground::Namespaces {
            self.join_network().await?;
            for place in &self.places {
                place.make_folders().await?;
            }
        }
        let images = self.images()?;
        let (n1, n2) = (self.place("n1")?, self.place("n2")?);
        tokio::try_join!(self.make_node(n1, &images), self.make_node(n2, &images))?;
        Ok(())
    }

    async fn make_node(&self, place: &Place, images: &[images::Image]) -> Result<()> {
        let pool = place.make_pool(self.plan.storage, self.pool(&place.name));
        let engine = async {
            match self.plan.runtime {
                Runtime::Docker => place.make_engine(&self.run.owner.cgroup, images).await,
                Runtime::Process => Ok(()),
            }
        };
        tokio::try_join!(pool, engine)?;
        Ok(())
    }

    /// Name of a node's pool. Pools in the kernel are the whole machine's: theirs carry the
    /// run's number.
    fn pool(&self, node: &str) -> &str {
        match (self.plan.storage, node) {
            (Storage::Openzfs, "n1") => &self.run.owner.pools[0],
            (Storage::Openzfs, _) => &self.run.owner.pools[1],
            _ => "tank",
        }
    }

    fn images(&self) -> Result<Vec<images::Image>> {
        if self.plan.runtime == Runtime::Process {
            return Ok(Vec::new());
        }
        let folder = self.folders.output.join("images");
        fs::create_dir_all(&folder)?;
        Ok(vec![
            images::notes(&self.folders.program("notes")?, &folder)?,
            images::postgres(
                &self.folders.config.join("demo/images/postgres.sh"),
                &folder,
            )?,
        ])
    }

    /// Joins this process's own network and those of the places by a bridge.
    async fn join_network(&self) -> Result<()> {
        let here = self.place("control")?;
        // Run by a keeper that shares this process's network.
        let bench = self.folders.program("flocker-bench")?;
        let hub = keeper::Keeper::start(&bench, "hub", keeper::Space::Shared, &here.log("hub"))?;
        let ip = async |line: String| {
            let argv = std::iter::once("ip").chain(line.split_whitespace());
            hub.run(keeper::Program::new(argv, here.log("ip"))).await
        };
        ip("link set lo up".to_owned()).await?;
        ip("link add bed type bridge".to_owned()).await?;
        ip(format!("addr add {}/16 dev bed", self.plan.client())).await?;
        ip("link set bed up".to_owned()).await?;
        for place in &self.places {
            let name = &place.name;
            let pid = place.keeper.pid()?;
            ip(format!(
                "link add {name} type veth peer name eth0 netns {pid}"
            ))
            .await?;
            ip(format!("link set {name} master bed up")).await?;
            for address in self.addresses(name) {
                place
                    .run(["ip", "addr", "add", &address, "dev", "eth0"])
                    .await?;
            }
            place.run(["ip", "link", "set", "lo", "up"]).await?;
            place.run(["ip", "link", "set", "eth0", "up"]).await?;
        }
        hub.end().await
    }

    fn addresses(&self, place: &str) -> Vec<String> {
        let nodes = self.plan.nodes();
        match nodes.iter().find(|node| node.name == place) {
            Some(node) => node.addresses.iter().map(|ip| format!("{ip}/16")).collect(),
            None => vec![format!("{}/16", self.plan.control().ip())],
        }
    }

    /// Starts agents, edges and control, and waits until they answer.
    ///
    /// # Errors
    /// Names what failed and the end of its log.
    pub async fn start_services(&self) -> Result<()> {
        for node in self.plan.nodes() {
            self.start_agent(&node.name).await?;
        }
        for edge in self.plan.edges() {
            self.start_edge(&edge.name).await?;
        }
        self.start_control().await
    }

    /// Starts a node's agent and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_agent(&self, node: &str) -> Result<()> {
        let nodes = self.plan.nodes();
        let found = nodes.iter().find(|n| n.name == node);
        let address = found.with_context(|| format!("no node {node}"))?.addresses[0];
        let config = self.config(node, &format!("agent-{node}.toml"))?;
        let api = (address, plan::AGENT_PORT).into();
        self.service(node, "agent", "flocker-storage-agent", &config, api)
            .await
    }

    /// Starts an edge and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_edge(&self, edge: &str) -> Result<()> {
        let edges = self.plan.edges();
        let found = edges.iter().find(|e| e.name == edge);
        let api = found.with_context(|| format!("no edge {edge}"))?.admin;
        let node = edge.split('-').next().unwrap_or(edge);
        let config = self.config(node, &format!("edge-{edge}.toml"))?;
        self.service(node, &format!("edge-{edge}"), "flocker-proxy", &config, api)
            .await
    }

    /// Starts the control service and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_control(&self) -> Result<()> {
        let config = self.config("control", "control.toml")?;
        let api = self.plan.control();
        self.service("control", "control", "flocker-control", &config, api)
            .await
    }

    async fn service(
        &self,
        place: &str,
        name: &str,
        program: &str,
        config: &Path,
        api: std::net::SocketAddr,
    ) -> Result<()> {
        let program = self.folders.program(program)?;
        let argv = [
            program.to_string_lossy().into_owned(),
            "--config".to_owned(),
            config.to_string_lossy().into_owned(),
        ];
        // By this the next run recognises what a killed run left on loopback.
        let run = ("FLOCKER_BED", self.run.path.to_string_lossy().into_owned());
        let answers = ready::until(name, SERVICE_TIMEOUT, || {
            ready::http(api, "flocker", "/healthz")
        });
        self.place(place)?
            .daemon(name, argv, &[run], answers)
            .await?;
        Ok(())
    }

    /// The sample file for this bed: itself where the bed is what it says, else a copy.
    fn config(&self, place: &str, file: &str) -> Result<PathBuf> {
        let sample = self.folders.config.join("demo").join(file);
        let bed = configs::Bed {
            plan: &self.plan,
            folder: &self.place(place)?.folder,
            samples: &self.folders.config.join("demo"),
            programs: &self.folders.programs,
            pool: self.pool(place),
        };
        configs::for_bed(&bed, &sample)
    }

    /// A place by name.
    ///
    /// # Errors
    /// When it is not there, or not yet.
    pub fn place(&self, name: &str) -> Result<&Place> {
        let found = self.places.iter().find(|place| place.name == name);
        found.with_context(|| format!("{name} is not up"))
    }

    /// Where logs of this bed are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.run.logs
    }

    /// The folders of the bed.
    #[must_use]
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Takes the bed away and answers with what is left of it, which should be nothing.
    pub async fn down(mut self, logs: Logs) -> Vec<String> {
        let mut left = Vec::new();
        let (plan, owner) = (&self.plan, &self.run.owner);
        let ends = self.places.drain(..).map(async |place| {
            let mut left = Vec::new();
            if plan.storage == Storage::Openzfs && place.name != "control" {
                left.extend(destroy_pool(&place, &owner.pools).await);
            }
            if let Err(error) = place.end().await {
                left.push(format!("{error:#}"));
            }
            left
        });
        for found in futures_util::future::join_all(ends).await {
            left.extend(found);
        }
        left.extend(self.run.end());
        if logs == Logs::Remove {
            let _none = fs::remove_dir_all(&self.run.logs);
        }
        left
    }
}

/// A number for the loopback addresses of a bed that no other bed is using: beds of runs
/// at the same time have addresses of their own.
fn free_third(run: u32) -> u8 {
    let candidates = (0..250).map(|n| u8::try_from((run + n) % 250).unwrap_or(0) + 1);
    candidates
        .clone()
        .find(|third| {
            let plan = Plan::new(
                Ground::Loopback,
                Storage::Directory,
                Runtime::Process,
                *third,
            );
            std::net::TcpListener::bind(plan.control()).is_ok()
        })
        .or_else(|| candidates.clone().next())
        .unwrap_or(1)
}

/// What becomes of a bed's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// They stay, for whoever wants to know what went wrong.
    Keep,
    /// All went well.
    Remove,
}

async fn destroy_pool(place: &Place, pools: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    for pool in pools.iter().filter(|pool| pool.ends_with(&place.name)) {
        if let Err(error) = place.run(["zpool", "destroy", "-f", pool]).await {
            left.push(format!("pool {pool}: {error:#}"));
        }
    }
    left
}
