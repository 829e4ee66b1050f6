//! `flocker-bench move` and `flocker-bench load` against what is running already.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use flocker_api::client::Endpoint;

use super::{Cluster, Plan, Run, Workload, run};
use crate::{
    load::{self, Load, LoadConfig, Target},
    plot,
    report::{self, Machine, Report},
    testbed::stage::BedOptions,
};

fn edge(text: &str) -> Result<Target, String> {
    let wrong = || format!("'{text}' is no edge: write NAME=IP:PORT");
    let (name, address) = text.split_once('=').ok_or_else(wrong)?;
    Ok(Target {
        name: name.to_owned(),
        address: address.parse().map_err(|_| wrong())?,
    })
}

/// Where reports go.
#[derive(Debug, Clone, Default, Args)]
pub struct ReportFiles {
    /// Write the report for programs here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw every request here
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What is moved how often, and where the report goes.
#[derive(Debug, Clone, Args)]
pub struct MoveArgs {
    /// App to move; give it again for several, one after the other
    #[arg(long = "app", required = true, value_name = "notes|postgres")]
    pub apps: Vec<Workload>,
    /// How often each is moved: there, back, ...
    #[arg(long, default_value_t = 2)]
    pub moves: u32,
    /// Requests or rows per second [default: 2000 for notes, 50 for postgres]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: Option<u32>,
    /// Seconds of load before the first move and after each
    #[arg(long, default_value_t = 3)]
    pub settle: u64,
    /// Where its reports go
    #[command(flatten)]
    pub files: ReportFiles,
    /// Edge of a running cluster, its plain HTTP listener; again for each. Without any, a test
    /// bed is put up
    #[arg(long = "edge", value_name = "NAME=IP:PORT", value_parser = edge, requires_all = ["control"])]
    pub edges: Vec<Target>,
    /// Its control service
    #[arg(long, value_name = "ENDPOINT", env = "FLOCKER_CONTROL")]
    pub control: Option<Endpoint>,
    /// Program that moves apps [default: flockerctl beside this program]
    #[arg(long)]
    pub flockerctl: Option<PathBuf>,
    /// Port of PostgreSQL's route at the edges
    #[arg(long, default_value_t = 5432)]
    pub postgres_port: u16,
    /// Host of the route of notes
    #[arg(long, default_value = "notes.demo")]
    pub host: String,
    /// The test bed, if one is put up
    #[command(flatten)]
    pub bed: BedOptions,
}

impl MoveArgs {
    /// The cluster that is named; `None` asks for a test bed.
    ///
    /// # Errors
    /// When `flockerctl` is to be found beside this program and its place is unknown.
    pub fn cluster(&self) -> Result<Option<Cluster>> {
        let Some(control) = self.control.clone().filter(|_| !self.edges.is_empty()) else {
            return Ok(None);
        };
        let beside = || -> Result<PathBuf> {
            let program = std::env::current_exe().context("cannot tell where this program is")?;
            Ok(program.with_file_name("flockerctl"))
        };
        Ok(Some(Cluster {
            edges: self.edges.clone(),
            postgres_port: self.postgres_port,
            host: self.host.clone(),
            control,
            flockerctl: self.flockerctl.clone().map_or_else(beside, Ok)?,
        }))
    }

    /// What is to be done.
    #[must_use]
    pub fn plans(&self) -> Vec<Plan> {
        let plan = |app: &Workload| {
            let usual = Plan::new(*app);
            Plan {
                moves: self.moves,
                rate: self.rate.unwrap_or(usual.rate),
                warm_up: Duration::from_secs(self.settle),
                settle: Duration::from_secs(self.settle),
                ..usual
            }
        };
        self.apps.iter().map(plan).collect()
    }
}

/// Carries out plans on a cluster one after the other, reports to people, and to files where
/// they are named. True if all that must hold has held.
///
/// # Errors
/// When a plan cannot be carried out or a file cannot be written.
pub async fn perform(cluster: &Cluster, plans: &[Plan], files: &ReportFiles) -> Result<bool> {
    let mut runs = Vec::new();
    for plan in plans {
        let (app, rate, edges) = (plan.workload, plan.rate, cluster.edges.len());
        let what = match app {
            Workload::Notes => "requests",
            Workload::Postgres => "rows",
        };
        say!(
            "\n{app}: {rate} {what}/s through {edges} edges, {} moves",
            plan.moves
        );
        runs.push(run(cluster, plan).await?);
    }
    let report = Report::new(&runs, &cluster.status().await?, Machine::this());
    say!("\n{}", report::render(&report));
    if let Some(path) = &files.json {
        let text = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = &files.svg {
        write(path, &plot::render(&runs, &report))?;
    }
    Ok(report.passed)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    say!("written: {}", path.display());
    Ok(())
}

/// Load on a `notes` service, direct or through edges.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Where to send it; again for several, used in turn
    #[arg(long = "to", required = true, value_name = "IP:PORT")]
    pub targets: Vec<SocketAddr>,
    /// Requests per second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: u32,
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Host of the requests
    #[arg(long, default_value = "notes.demo")]
    pub host: String,
}

impl LoadArgs {
    /// Makes the load, checks what was kept, prints the numbers; true if nothing failed.
    ///
    /// # Errors
    /// When it cannot run, or what was written cannot be read back.
    pub async fn run(&self) -> Result<bool> {
        let target = |address: &SocketAddr| Target {
            name: address.to_string(),
            address: *address,
        };
        let targets = self.targets.iter().map(target).collect();
        let load = Load::start(LoadConfig::new(targets, &self.host, self.rate))?;
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let trace = load.stop().await?;
        let kept = load::journal_of_notes(self.targets[0], &self.host, &trace.client).await?;
        let report = report::of_load(&Run {
            workload: Workload::Notes,
            moves: Vec::new(),
            failure: None,
            trace,
            kept,
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
        Ok(report.failed == 0 && report.unanswered == 0 && report.lost_writes == 0)
    }
}
