//! `notes`: a small HTTP service that keeps what it has accepted, for demos and tests.
//!
//! It appends each accepted note to a journal in its volume and syncs it to disk before it
//! answers. It knows nothing of Flocker but three environment variables, and it does not
//! replicate, compact or authenticate.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /notes`, body `CLIENT SEQUENCE` | 201 and the note's number, once it is on disk |
//! | `GET /notes` | the journal, a line per note: `CLIENT SEQUENCE CHECKSUM` |
//! | `GET /notes/N` | note N, counted from 1 |
//! | `GET /notes/count` | how many there are |
//! | `GET /notes/last?client=CLIENT` | the highest sequence number of a client |
//! | `GET /healthz` | `ok` |

mod journal;
mod request;
mod server;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

/// Keeps notes in a journal that is synced before each answer.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// IP address to listen at
    #[arg(long, env = "FLOCKER_ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port to listen at
    #[arg(long, env = "NOTES_PORT", default_value_t = 8081)]
    port: u16,
    /// Directory of the journal
    #[arg(long, env = "FLOCKER_VOLUME", default_value = "/data")]
    volume: PathBuf,
    /// Longest time for which requests in flight are waited for after SIGTERM, in ms
    #[arg(long, default_value_t = 5000)]
    drain_ms: u64,
    /// What to log, as of tracing's env filter
    #[arg(long, env = "FLOCKER_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .init();
            tracing::error!("--log '{}' is not a filter: {error}", args.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.volume.join("notes.journal");
    let (journal, replay) = journal::Journal::open(&path)?;
    info!(notes = replay.notes, journal = %path.display(), "journal replayed");
    if replay.cut_bytes > 0 {
        warn!(
            bytes = replay.cut_bytes,
            "the journal ended in a torn write that was never acknowledged; cut off"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear SIGINT")?;
        let listener = TcpListener::bind((args.address, args.port))
            .await
            .with_context(|| format!("cannot listen at {}:{}", args.address, args.port))?;
        info!(address = %listener.local_addr()?, "listening");
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server::serve(
            listener,
            journal,
            stop,
            Duration::from_millis(args.drain_ms),
        )
        .await
    })
}
