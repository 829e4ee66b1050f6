//! `flocker-bench`: load, scenarios, and the demo on a test bed of its own.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use flocker_bench::{
    demo::{self, DemoOptions},
    edge::{EdgeArgs, page::ReportArgs},
    replicate::ReplicateArgs,
    scenario::{LoadArgs, MoveArgs},
    testbed::{
        keeper,
        stage::{self, BedOptions, Ending},
    },
    trial::TrialArgs,
};

/// Loads, moves and measures a Flocker cluster; puts one up on this machine if need be.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two stateful apps move between two nodes under load: the whole system on this machine
    Demo(DemoOptions),
    /// A test bed: two nodes, four edges and a control service on this machine
    #[command(subcommand)]
    Testbed(TestbedCommand),
    /// Moves an app there and back under load, on a running cluster
    Move(MoveArgs),
    /// Open-loop load on a notes service
    Load(LoadArgs),
    /// What replication by the agents costs beside a bare `zfs send | zfs receive`
    Replicate(ReplicateArgs),
    /// One edge on loopback: tries under load what it promises
    Trial(TrialArgs),
    /// What the edge costs per request and per byte beside its peers, in the same run
    Edge(EdgeArgs),
    /// One page with tables and drawings from the files of `edge`
    Report(ReportArgs),
    /// Starts programs for a test bed and ends them with it
    #[command(hide = true)]
    Keeper,
}

#[derive(Debug, Subcommand)]
enum TestbedCommand {
    /// Puts one up and keeps it until Ctrl-C
    Up {
        #[command(flatten)]
        bed: BedOptions,
        /// Only nodes, pools and engines: agents, edges and control are started by hand
        #[arg(long)]
        nodes_only: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_log();
    match run(arguments.command) {
        Ok(ending) => ExitCode::from(ending.code()),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<Ending> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Move(options) => demo::run_move(&options),
        Command::Load(options) => stage::runtime()?.block_on(options.run()).map(Ending::of),
        Command::Replicate(options) => options.run().map(Ending::of),
        Command::Trial(options) => options.run().map(Ending::of),
        Command::Edge(options) => options.run().map(Ending::of),
        Command::Report(options) => options.run().map(|()| Ending::Good),
        Command::Keeper => keeper::run().map(|()| Ending::Good),
        Command::Testbed(TestbedCommand::Up { bed, nodes_only }) => {
            let choice = stage::choose(&bed)?;
            stage::runtime()?.block_on(stage::keep_bed(&bed, &choice, !nodes_only))
        }
    }
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLOCKER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
