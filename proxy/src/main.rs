//! `flocker-proxy`: arguments, configuration, start, drain.

use std::{
    env::{args_os, current_exe},
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use flocker_proxy::{
    config::Config,
    driver::{
        life::{self, Log, Start},
        privileges,
        takeover::Elder,
    },
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The edge of a Flocker cluster: routes TCP, TLS and HTTP to apps, and holds their traffic
/// while they move.
///
/// Start it with a configuration file; every key is explained in config/proxy.toml. Routes are
/// then added, paused and switched with `flockerctl route --edge unix:/run/flocker/edge.sock`,
/// or with JSON over the admin socket.
///
/// SIGTERM and SIGINT stop it: listeners close, requests in flight end, and what is left after
/// limits.drain_ms is cut. SIGHUP reads the configuration again and opens the access log again.
/// `flockerctl edge upgrade` hands over to a new binary without a refused connection.
/// Exit status: 0 stopped, 1 failed, 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/flocker/proxy.toml")]
    config: PathBuf,
    /// Only check the configuration file.
    #[arg(long, alias = "check-config")]
    check: bool,
    /// Take over from the process at stdin; an upgrade starts the new process so.
    #[arg(long, hide = true)]
    take_over: bool,
    /// What to log: a level, or targets with levels (flocker_proxy=debug).
    #[arg(
        long,
        env = "FLOCKER_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
}

/// It maps large tables by huge pages, and can give back what thousands of parked sessions have
/// left (`MIMALLOC_PURGE_DELAY=0`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longest wait for the old process to hear why we do not take over.
const MEET_MAX: std::time::Duration = std::time::Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => return complain(2, &format!("--log {}: {error}", arguments.log)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            let message = flocker_api::error::chain(&error);
            if arguments.take_over
                && let Ok(elder) = Elder::meet(MEET_MAX)
            {
                elder.fail(message.clone());
            }
            return complain(2, &message);
        }
    };
    if arguments.check {
        return say_ok();
    }
    match run(config, arguments, handle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &format!("{error:#}")),
    }
}

#[expect(clippy::print_stdout, reason = "the answer of --check")]
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

/// No thread runs yet: who we are is settled first.
fn run(
    config: Config,
    arguments: Arguments,
    handle: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
) -> anyhow::Result<()> {
    let needed = config.descriptors();
    let granted = privileges::raise_descriptors(needed);
    if granted < needed {
        tracing::info!(
            granted,
            needed,
            "fewer descriptors than limits.sessions may need"
        );
    }
    if let Some((user, group)) = &config.user {
        let folders: Vec<&Path> = config.admin_socket.parent().into_iter().collect();
        privileges::become_user(user, group.as_deref(), &folders)?;
    }
    let elder = match arguments.take_over {
        true => Some(Elder::meet(config.upgrade_timeout)?),
        false => None,
    };
    life::run(Start {
        log: Log::new(handle, arguments.log),
        config_path: std::path::absolute(&arguments.config)?,
        binary: current_exe()?,
        arguments: args_os().skip(1).collect(),
        config,
        elder,
    })?;
    Ok(())
}
