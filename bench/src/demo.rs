//! The demo: two stateful apps, deployed from the example files, move under load.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::testbed::{
    Testbed, ready,
    stage::{self, BedOptions, Ending},
};

/// What the demo can be told.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    #[command(flatten)]
    bed: BedOptions,
    /// Requests a second to notes
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// A few seconds of load instead of many: for tests
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

async fn show(bed: &Testbed, options: &DemoOptions) -> Result<Ending> {
    let _ = options;
    deploy(bed).await?;
    for (app, to) in [("notes", "n2"), ("notes", "n1"), ("postgres", "n1")] {
        flockerctl(bed, &["move", app, "--to", to]).await?;
    }
    Ok(Ending::Good)
}

/// Deploys the example apps and waits until they serve.
async fn deploy(bed: &Testbed) -> Result<()> {
    let examples = bed.folders().config.join("examples");
    let application = examples.join("application.yml");
    let deployment = examples.join("deployment.yml");
    let (application, deployment) = (application.to_string_lossy(), deployment.to_string_lossy());
    say!("\n$ flockerctl deploy application.yml deployment.yml");
    let timeout = format!("{}s", DEPLOY_TIMEOUT.as_secs());
    flockerctl(
        bed,
        &["deploy", &application, &deployment, "--timeout", &timeout],
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
