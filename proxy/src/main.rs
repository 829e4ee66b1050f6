//! `flocker-proxy`: arguments, configuration, start, drain.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use flocker_proxy::{
    config::Config,
    driver::{admin::Admin, edge::Edge},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The edge of a Flocker cluster: routes TCP, TLS and HTTP to apps, and holds their traffic
/// while they move.
///
/// Start it with a configuration file; every key is explained in config/proxy.toml. Routes are
/// then added, paused and switched with `flockerctl route --edge unix:/run/flocker/edge.sock`,
/// or with JSON over the admin socket.
///
/// SIGTERM and SIGINT stop it: listeners close, requests in flight end, and what is left after
/// limits.drain_ms is cut. Exit status: 0 stopped, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/flocker/proxy.toml")]
    config: PathBuf,
    /// Only check the configuration file.
    #[arg(long)]
    check_config: bool,
    /// What to log: a level, or targets with levels (flocker_proxy=debug).
    #[arg(
        long,
        env = "FLOCKER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
}

/// Longest drain beyond the configured limit before the process ends regardless.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => return complain(2, &format!("--log {}: {error}", arguments.log)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return complain(2, &flocker_api::error::chain(&error)),
    };
    if arguments.check_config {
        return say_ok();
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &format!("{error:#}")),
    }
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say_ok() -> ExitCode {
    println!("ok");
    ExitCode::SUCCESS
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a program that fails"
)]
fn complain(code: u8, message: &str) -> ExitCode {
    eprintln!("flocker-proxy: {message}");
    ExitCode::from(code)
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime of the admin API")?;
    let drain = config.drain;
    let (edge, threads) = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let admin = Admin::bind(&config.admin_socket, config.admin_tcp).await?;
        let (edge, threads) = Edge::start(config)?;
        let serving = tokio::spawn(admin.serve(Arc::clone(&edge)));
        tracing::info!(
            name = %edge.config().name,
            workers = edge.config().workers,
            listeners = edge.status().listeners.len(),
            "serving"
        );
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(
            ?drain,
            "stopping: listeners close, what is in flight may end"
        );
        edge.drain(drain);
        let waiting = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A worker that has panicked has said so.
                drop(thread.join());
            }
        });
        // A second signal ends it at once.
        let waiting = tokio::time::timeout(drain + DRAIN_MARGIN, waiting);
        let ended = tokio::select! {
            ended = waiting => ended.is_ok(),
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        serving.abort();
        // Lets it take its socket away.
        drop(serving.await);
        anyhow::Ok((edge, ended))
    })?;
    drop(edge);
    if threads {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped before everything in flight had ended");
    }
    runtime.shutdown_background();
    Ok(())
}
