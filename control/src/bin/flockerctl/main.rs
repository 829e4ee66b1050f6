//! `flockerctl`: the command line of a Flocker cluster, and of a single edge.
//!
//! Arguments, one call or a few of `flocker-api`'s client, and a table or JSON. It keeps no
//! state and decides nothing that the services do not decide.
//!
//! | module | duty |
//! | --- | --- |
//! | `args`, `args_*` | what can be typed |
//! | `commands` | what each verb asks and shows |
//! | `edges` | one edge, or all of them through control |
//! | `output`, `human` | tables, colours, JSON; sizes, durations, ages |
//! | `failure` | errors and exit codes |

mod args;
mod args_asides;
mod args_edge;
mod args_http;
mod args_nodes;
mod args_tls;
mod args_upstreams;
mod args_volume;
mod commands;
mod edges;
mod failure;
mod human;
mod output;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};

use args::{Args, Command};
use commands::Cli;
use failure::{Failure, Verdict};
use output::Output;

fn main() -> ExitCode {
    let args = parse_args();
    let output = Output::new(args.global.json, args.global.color);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(args, &output)));
    failure::exit_code(result, &output)
}

/// Reads the arguments; ends the program when they are wrong or ask for help.
fn parse_args() -> Args {
    let mut command = Args::command();
    let matches = command.clone().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let speaks_to_edges = matches!(args.command, Command::Route(_) | Command::Edge(_));
    if !speaks_to_edges && matches.value_source("edge") == Some(ValueSource::CommandLine) {
        let message = "--edge is for `flockerctl route` and `flockerctl edge`; every other command asks control";
        command.error(ErrorKind::ArgumentConflict, message).exit();
    }
    args
}

async fn run(args: Args, output: &Output) -> Result<Verdict, Failure> {
    // Made where it is needed: certificates are made where there is no cluster yet.
    let cli = || Cli::new(&args.global, output);
    match args.command {
        Command::Status(args) => commands::status::run(&cli()?, &args).await,
        Command::Deploy(args) => commands::deploy::run(&cli()?, &args).await,
        Command::Move(args) => commands::moves::start(&cli()?, &args).await,
        Command::Moves(args) => commands::moves::run(&cli()?, &args).await,
        Command::App(args) => commands::app::run(&cli()?, args).await,
        Command::Node(args) => commands::node::run(&cli()?, args).await,
        Command::Route(args) => commands::route::run(&cli()?, *args).await,
        Command::Edge(args) => commands::edge::run(&cli()?, args).await,
        Command::Volume(args) => commands::volume::run(&cli()?, &args).await,
        Command::Doctor(args) => commands::doctor::run(&cli()?, &args).await,
        Command::Ca(args) => commands::ca::run(output, args),
        Command::Completions { shell } => commands::completions(&cli()?, shell),
    }
}
