//! `flocker-control`: configuration, start, signals, end. Nothing else.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use flocker_api::tls::{Credentials, Listener, Role};
use flocker_control::{
    config::Config,
    driver::{
        context::{Clock, Context},
        control::Control,
        peers::HttpWire,
        server,
        store::RedbStore,
    },
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// The control service: knows all nodes and edges, deploys apps and moves them.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file (TOML).
    #[arg(long, default_value = "/etc/flocker/control.toml")]
    config: PathBuf,

    /// Read and check the configuration file, and end.
    #[arg(long)]
    check_config: bool,

    /// What is logged: a level, or `target=level` pairs.
    #[arg(long, env = "FLOCKER_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return end(&error.into(), 2),
    };
    if args.check_config {
        say("ok");
        return ExitCode::SUCCESS;
    }
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => return end(&anyhow::Error::new(error).context("--log"), 2),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error, 1),
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let store = RedbStore::open(&config.store)?;
    let tls = credentials(&config)?;
    let wire = HttpWire::new(&config.topology, tls.as_ref());
    let context = Context::new(
        Arc::new(store),
        Arc::new(wire),
        config.topology,
        config.limits,
        Clock::system(),
    )?;
    let tcp = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen at {}", config.listen))?;
    let tcp = Listener::new(tcp, tls, &[Role::Control, Role::Operator]);
    let unix = match &config.socket {
        Some(path) => {
            let bound = server::bind_unix(path);
            Some(bound.with_context(|| format!("cannot listen at {}", path.display()))?)
        }
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let control = Control::new(context);
    control.resume_moves();
    control.start();
    info!(listen = %config.listen, "ready");
    let served = server::serve(Arc::clone(&control), tcp, unix, ended).await;
    // A move that runs is left where its journal says; the next start goes on with it.
    control.stop().await;
    if let Some(path) = &config.socket {
        drop(std::fs::remove_file(path));
    }
    Ok(served?)
}

/// Control's certificate, which must be a control's.
fn credentials(config: &Config) -> anyhow::Result<Option<Credentials>> {
    let Some(files) = config.tls.clone() else {
        warn!(
            "no [tls]: whoever reaches {} can command the cluster",
            config.listen
        );
        return Ok(None);
    };
    let credentials = Credentials::load(files).context("cannot use the files of [tls]")?;
    let has = credentials.certificate().identity;
    anyhow::ensure!(
        has.role == Role::Control,
        "tls.certificate is that of {has}; make one with 'flockerctl ca control'"
    );
    Ok(Some(credentials))
}

fn end(error: &anyhow::Error, code: u8) -> ExitCode {
    complain(&format!("flocker-control: {error:#}"));
    ExitCode::from(code)
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "there is no log yet, or it cannot say more"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}
