//! The storage agent: arguments, configuration, parts, run, end.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use flocker_api::{
    doctor::{Diagnosis, DoctorRequest, Level},
    tls::{Credentials, Identity, Listener, Role},
};
use flocker_storage_agent::{
    config::{Config, RuntimeConfig},
    driver::{
        admin,
        containers::{Containers, Parts},
        doctor::{self, Patient},
        fence::Fence,
        runtime::{Docker, Process, Runtime, docker::DockerConfig, process::ProcessConfig},
        transport::Link,
        volumes::{Volumes, serve_replication},
    },
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

/// Keeps a node's volumes, replicates them to other nodes and runs its containers.
///
/// It does what the control service tells it over its HTTP API and starts nothing by itself.
/// On SIGTERM it finishes what it is doing and ends; containers run on, and the next agent
/// finds them.
#[derive(Debug, Parser)]
#[command(name = "flocker-storage-agent", version)]
struct Args {
    /// Configuration file (TOML); config/storage-agent.toml explains each key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration file and exit: 0 if it is good, 2 if not.
    #[arg(long)]
    check_config: bool,
    /// Examine this node, say what is wrong and what to do, and exit: 1 if something is broken.
    /// Does not disturb an agent that runs.
    #[arg(long, conflicts_with = "check_config")]
    doctor: bool,
    /// With --doctor: JSON for programs.
    #[arg(long, requires = "doctor")]
    json: bool,
    /// What to log to standard error: error, warn, info, debug, trace, or a tracing filter.
    #[arg(
        long,
        value_name = "FILTER",
        env = "FLOCKER_LOG",
        default_value = "info"
    )]
    log: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log);
    let filter_error = filter.as_ref().err().map(ToString::to_string);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    if let Some(error) = filter_error {
        tracing::error!("--log '{}': {error}", args.log);
        return ExitCode::from(2);
    }
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{}", flocker_api::error::chain(&error));
            return ExitCode::from(2);
        }
    };
    if args.check_config {
        say_ok();
        return ExitCode::SUCCESS;
    }
    let ended = if args.doctor {
        examine(&config, args.json)
    } else {
        run(config).map(|()| ExitCode::SUCCESS)
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer to --check-config")]
fn say_ok() {
    println!("ok");
}

/// Examines the node beside whatever agent runs: so the fence and the apps are not asked.
fn examine(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let diagnosis = runtime.block_on(async {
        let link = link(config)?;
        let storage = &config.storage;
        let node = &config.node;
        let pace = config.limits.pace();
        let volumes = match Volumes::open_over(storage.clone(), node.clone(), link, pace).await {
            Ok(volumes) => volumes,
            Err(error) => return Ok(doctor::without_storage(node, &error)),
        };
        let engine = match &config.runtime {
            RuntimeConfig::Docker { .. } => Some(open_runtime(config)?.status().await),
            RuntimeConfig::Process { .. } => None,
        };
        let patient = Patient {
            node,
            storage,
            volumes: &volumes,
            runtime: engine,
            fence: None,
        };
        anyhow::Ok(doctor::examine(&patient, &DoctorRequest::default()).await)
    })?;
    show(&diagnosis, json)?;
    Ok(match diagnosis.level() {
        Level::Fail => ExitCode::FAILURE,
        Level::Ok | Level::Warn => ExitCode::SUCCESS,
    })
}

#[expect(clippy::print_stdout, reason = "the answer to --doctor")]
fn show(diagnosis: &Diagnosis, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(diagnosis)?);
    } else {
        print!("{diagnosis}");
    }
    Ok(())
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    let fence = Fence::start(config.fence()).context("cannot start the fence")?;
    let ended = runtime.block_on(serve(config, fence.clone()));
    // What still runs beyond its limit is cut off; it is repeated when control asks again.
    runtime.shutdown_timeout(Duration::from_secs(1));
    fence.end();
    ended
}

async fn serve(config: Config, fence: Fence) -> anyhow::Result<()> {
    let node = &config.node;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let link = link(&config)?;
    let tls = link.tls.clone();
    let volumes = Volumes::open_over(
        config.storage.clone(),
        node.clone(),
        link,
        config.limits.pace(),
    )
    .await
    .with_context(|| format!("cannot open the storage of {node}"))?;
    let runtime =
        open_runtime(&config).with_context(|| format!("cannot open the runtime of {node}"))?;
    let api = listen(config.api, "api.listen").await?;
    let replication = listen(config.replication, "replication.listen").await?;
    let replication_address = replication
        .local_addr()
        .context("the replication listener")?;
    let containers = Containers::new(Parts {
        node: node.clone(),
        address: config.address,
        storage: config.storage.clone(),
        limits: config.limits.clone(),
        runtime,
        volumes: volumes.clone(),
        fence,
    });
    tracing::info!(%node, api = %api.local_addr()?, replication = %replication_address, "serving");

    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let limit = Duration::from_millis(config.limits.shutdown_ms);
    let api = Listener::new(api, tls, &[Role::Control, Role::Operator]);
    let api = admin::serve(api, containers, replication_address, until_stopped(), limit);
    let receiver = serve_replication(replication, volumes, until_stopped());
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending; containers run on");
        stop.send_replace(true);
        // The servers end now; this arm must not end before them.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = async { tokio::try_join!(
            async { api.await.context("the API failed") },
            async { receiver.await.context("the replication listener failed") },
        ) } => served.map(drop),
        () = end => Ok(()),
    }
}

/// How this node reaches its peers.
fn link(config: &Config) -> anyhow::Result<Link> {
    Ok(Link {
        limits: config.limits.transfer(),
        tls: credentials(config)?,
        ..Link::default()
    })
}

/// The node's certificate, which must be this node's.
fn credentials(config: &Config) -> anyhow::Result<Option<Credentials>> {
    let Some(files) = config.tls.clone() else {
        tracing::warn!(
            "no [tls]: whoever reaches {} or {} can read and change every volume",
            config.api,
            config.replication
        );
        return Ok(None);
    };
    let credentials = Credentials::load(files).context("cannot use the files of [tls]")?;
    let has = credentials.certificate().identity;
    let wants = Identity::new(Role::Node, config.node.as_str());
    anyhow::ensure!(
        has == wants,
        "tls.certificate is that of {has}; this is {wants}"
    );
    Ok(Some(credentials))
}

async fn listen(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address} ({key})"))
}

fn open_runtime(config: &Config) -> anyhow::Result<Runtime> {
    let limits = &config.limits;
    Ok(match &config.runtime {
        RuntimeConfig::Docker { socket } => Runtime::Docker(Docker::new(DockerConfig {
            socket: socket.clone(),
            node: config.node.clone(),
            address: config.address,
            request_limit: Duration::from_millis(limits.engine_ms),
            kill_limit: limits.kill(),
        })),
        RuntimeConfig::Process { images, state } => {
            Runtime::Process(Process::open(ProcessConfig {
                images: images.clone(),
                state: state.clone(),
                node: config.node.clone(),
                address: config.address,
                kill_limit: limits.kill(),
                log_bytes_max: limits.log_file_bytes,
            })?)
        }
    })
}
