//! Puts a bed up for a story and takes it away again, however the story ends.
//!
//! What a bed is made of is decided by [`super::probe`]; what it then does not show is said
//! here.

use std::{future::Future, os::unix::process::CommandExt, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Folders, Logs, Testbed,
    plan::{Ground, Runtime, Storage},
    probe::{self, Choice, Wishes},
};

/// Which bed, and where its parts are.
#[derive(Debug, Clone, Args)]
pub struct BedOptions {
    #[command(flatten)]
    wishes: Wishes,
    /// Folder of the sample files
    #[arg(long, default_value = "config")]
    config: PathBuf,
    /// Folder for reports, logs and what lives as long as the run [default: target/demo]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// What was to be shown was shown.
    Good,
    /// It ran to the end, and was not as it should be.
    Bad,
    /// A signal asked it to stop.
    Interrupted,
}

impl Ending {
    /// The ending of a story that says whether all was as it should be.
    #[must_use]
    pub fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }

    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Set in the environment of the process that lives in a network of its own.
const INSIDE: &str = "FLOCKER_BENCH_INSIDE";

/// Chooses the bed. For one in namespaces this process becomes itself again in a network
/// namespace of its own: load, flockerctl and the bridge live there, pid and terminal stay.
///
/// # Errors
/// When the machine cannot do what was wished for.
pub fn choose(options: &BedOptions) -> Result<Choice> {
    let choice = probe::choose(&options.wishes)?;
    if choice.ground == Ground::Namespaces && std::env::var_os(INSIDE).is_none() {
        #[expect(clippy::disallowed_methods, reason = "becomes itself in a namespace")]
        let error = std::process::Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(error).context("cannot enter a network namespace");
    }
    Ok(choice)
}

/// The runtime of programs that load and watch a bed.
///
/// # Errors
/// When it cannot be made.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Runs `story` on a bed that it puts up itself, and takes the bed away afterwards, however the story ended.
///
/// # Errors
/// When the bed or the story fails.
pub async fn on_bed<S>(options: &BedOptions, choice: &Choice, story: S) -> Result<Ending>
where
    S: AsyncFnOnce(&mut Testbed) -> Result<Ending>,
{
    let folders = Folders::beside_this_program(&options.config, options.output.clone())?;
    let interrupted = interrupted()?;
    let (mut bed, swept) = Testbed::begin(choice, folders)?;
    for what in swept {
        say!("cleaned up: {what}");
    }
    describe(choice);
    let outcome = tokio::select! {
        outcome = story(&mut bed) => outcome,
        () = interrupted => Ok(Ending::Interrupted),
    };
    if matches!(outcome, Ok(Ending::Interrupted)) {
        say!("\ninterrupted: taking the test bed down");
    }
    let logs = match outcome {
        Ok(Ending::Good | Ending::Interrupted) => Logs::Remove,
        _ => Logs::Keep,
    };
    let kept = bed.logs().to_owned();
    let left = bed.down(logs).await;
    if logs == Logs::Keep {
        say!("logs are in {}", kept.display());
    }
    for what in &left {
        say!("left behind: {what}");
    }
    match outcome {
        Ok(Ending::Good) if !left.is_empty() => Ok(Ending::Bad),
        outcome => outcome,
    }
}

/// Ends when the process is asked to stop. The handlers are in place when this returns.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

fn describe(choice: &Choice) {
    let ground = match choice.ground {
        Ground::Namespaces => "two nodes in network, mount and PID namespaces",
        Ground::Loopback => "two nodes on loopback addresses",
    };
    let storage = match choice.storage {
        Storage::Openzfs => "OpenZFS",
        Storage::ZfsFuse => "ZFS (zfs-fuse)",
        Storage::Directory => "directories in place of ZFS",
    };
    let runtime = match choice.runtime {
        Runtime::Docker => "a Docker Engine each",
        Runtime::Process => "plain processes in place of Docker",
    };
    say!("test bed: {ground}, {storage}, {runtime}");
    for reason in &choice.because {
        say!("  {reason}");
    }
    if choice.ground == Ground::Loopback {
        say!("  so this does not show: separate networks, ports 80 and 443");
    }
    if choice.storage == Storage::Directory {
        say!("  so this does not show: ZFS snapshots, increments and their times");
    }
    if choice.runtime == Runtime::Process {
        say!("  so this does not show: starts and stops of real containers");
    }
}

/// Keeps a bed until it is interrupted, and says how to use it.
///
/// # Errors
/// When the bed cannot be put up.
pub async fn keep_bed(options: &BedOptions, choice: &Choice, services: bool) -> Result<Ending> {
    on_bed(options, choice, async |bed| {
        bed.up_nodes().await?;
        if services {
            bed.start_services().await?;
        }
        let control = bed.plan.control();
        let ctl = bed.folders().program("flockerctl")?;
        let enter = match bed.plan.ground {
            Ground::Namespaces => format!("nsenter --net --target {} ", std::process::id()),
            Ground::Loopback => String::new(),
        };
        say!("the test bed is up; Ctrl-C takes it down\n");
        say!("  {enter}{} --control {control} status", ctl.display());
        for edge in bed.plan.edges() {
            say!(
                "  edge {}: http at {}, admin at {}",
                edge.name,
                edge.http,
                edge.admin
            );
        }
        say!("  logs: {}", bed.logs().display());
        std::future::pending().await
    })
    .await
}
