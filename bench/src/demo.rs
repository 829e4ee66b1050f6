//! The demo: two stateful apps, deployed from the example files, move under load.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use flocker_api::client::Endpoint;

use crate::{
    load::Target,
    scenario::{self, Cluster, MoveArgs, Plan, ReportFiles, Workload},
    testbed::{
        Testbed, ready,
        stage::{self, BedOptions, Ending},
    },
};

/// What the demo can be told.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    #[command(flatten)]
    bed: BedOptions,
    /// Requests per second to notes [default: 2000; 300 with --short]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: Option<u32>,
    /// Less load, for a shorter time: for tests
    #[arg(long)]
    short: bool,
}

/// How long the example apps may take until they serve.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(90);

/// Runs the demo.
///
/// # Errors
/// When the bed cannot be put up, or a part of the demo cannot be carried out.
pub fn run(options: &DemoOptions) -> Result<Ending> {
    let choice = stage::choose(&options.bed)?;
    stage::runtime()?.block_on(stage::on_bed(&options.bed, &choice, async |bed| {
        bed.up().await?;
        show(bed, options).await
    }))
}

/// Moves what is asked for: on the cluster that is named, else on a bed with the example apps.
///
/// # Errors
/// When the bed cannot be put up, or a move cannot be tried.
pub fn run_move(options: &MoveArgs) -> Result<Ending> {
    let plans = options.plans();
    if let Some(cluster) = options.cluster()? {
        let performed = scenario::perform(&cluster, &plans, &options.files);
        return stage::runtime()?.block_on(performed).map(Ending::of);
    }
    let choice = stage::choose(&options.bed)?;
    stage::runtime()?.block_on(stage::on_bed(&options.bed, &choice, async |bed| {
        bed.up().await?;
        deploy(bed).await?;
        let cluster = cluster(bed)?;
        let performed = scenario::perform(&cluster, &plans, &options.files);
        performed.await.map(Ending::of)
    }))
}

async fn show(bed: &Testbed, options: &DemoOptions) -> Result<Ending> {
    deploy(bed).await?;
    let plans = [Workload::Notes, Workload::Postgres].map(|workload| {
        let mut plan = Plan::new(workload);
        if workload == Workload::Notes {
            let usual = if options.short { 300 } else { plan.rate };
            plan.rate = options.rate.unwrap_or(usual);
        }
        if options.short {
            plan.settle = Duration::from_millis(1500);
            plan.warm_up = plan.settle;
        }
        plan
    });
    let output = &bed.folders().output;
    let files = ReportFiles {
        json: Some(output.join("report.json")),
        svg: Some(output.join("move.svg")),
    };
    let cluster = cluster(bed)?;
    let performed = scenario::perform(&cluster, &plans, &files);
    performed.await.map(Ending::of)
}

/// The bed as a client of it sees it.
fn cluster(bed: &Testbed) -> Result<Cluster> {
    Ok(Cluster {
        edges: bed
            .plan
            .edges()
            .iter()
            .map(|edge| Target {
                name: edge.name.clone(),
                address: edge.http,
            })
            .collect(),
        postgres_port: 5432,
        host: "notes.demo".to_owned(),
        control: Endpoint::Tcp(bed.plan.control()),
        flockerctl: bed.folders().program("flockerctl")?,
    })
}

/// Deploys the example apps and waits until they serve.
async fn deploy(bed: &Testbed) -> Result<()> {
    let examples = bed.folders().config.join("examples");
    let application = examples.join("application.yml");
    let deployment = examples.join("deployment.yml");
    let (application, deployment) = (application.to_string_lossy(), deployment.to_string_lossy());
    say!("\n$ flockerctl deploy application.yml deployment.yml --yes");
    let timeout = format!("{}s", DEPLOY_TIMEOUT.as_secs());
    flockerctl(
        bed,
        &[
            "deploy",
            &application,
            &deployment,
            "--yes",
            "--timeout",
            &timeout,
        ],
    )
    .await?;
    // Through every edge, as the load will come.
    for edge in bed.plan.edges() {
        ready::until(&edge.name, DEPLOY_TIMEOUT, || {
            ready::http(edge.http, "notes.demo", "/healthz")
        })
        .await?;
    }
    Ok(())
}

/// Runs `flockerctl` against the bed, its output being ours.
async fn flockerctl(bed: &Testbed, arguments: &[&str]) -> Result<()> {
    let program = bed.folders().program("flockerctl")?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo shows the real flockerctl"
    )]
    let status = tokio::process::Command::new(program)
        .arg("--control")
        .arg(bed.plan.control().to_string())
        .args(arguments)
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot start flockerctl")?;
    if !status.success() {
        bail!("flockerctl {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
