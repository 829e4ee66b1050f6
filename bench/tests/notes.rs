//! `notes` and the load end to end: what was acknowledged survives any end of the program.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "starts the program it is about, waits for events with deadlines; a failed step ends the test"
)]

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flocker_bench::load::{Kind, Load, LoadConfig, Outcome, Target, Trace, journal_of_notes};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// Longest wait for anything that happens at once on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running `notes`, killed when dropped.
struct Notes {
    child: Child,
    address: SocketAddr,
}

impl Notes {
    async fn start(volume: &Path, address: SocketAddr) -> Self {
        let child = spawn(volume, address);
        let mut notes = Self { child, address };
        let end = Instant::now() + DEADLINE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert_eq!(notes.child.try_wait().unwrap(), None, "notes has ended");
            assert!(Instant::now() < end, "notes does not listen");
            sleep(Duration::from_millis(5)).await;
        }
        notes
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn kept(&self, client: &str) -> HashSet<u64> {
        journal_of_notes(self.address, "notes", client)
            .await
            .unwrap()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test starts the program it is about"
)]
fn spawn(volume: &Path, address: SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_notes"))
        .env("FLOCKER_ADDRESS", address.ip().to_string())
        .env("FLOCKER_VOLUME", volume)
        .env("NOTES_PORT", address.port().to_string())
        .env("FLOCKER_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// An address that is free now.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn load(address: SocketAddr) -> Load {
    let target = Target {
        name: "direct".to_owned(),
        address,
    };
    let mut config = LoadConfig::new(vec![target], "notes", 400);
    config.mix.reads_percent = 30;
    config.drain = Duration::from_secs(2);
    Load::start(config).unwrap()
}

async fn until_answered(load: &Load, count: u64) {
    let end = Instant::now() + DEADLINE;
    while load.answered() < count {
        assert!(Instant::now() < end, "only {} answers", load.answered());
        sleep(Duration::from_millis(5)).await;
    }
}

fn acknowledged(trace: &Trace) -> Vec<u64> {
    trace.acknowledged(0..u64::MAX).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_under_load() {
    let (volume, address) = (tempfile::tempdir().unwrap(), free_address());
    let notes = Notes::start(volume.path(), address).await;
    let load = load(address);
    until_answered(&load, 300).await;
    notes.signal(Signal::KILL);
    drop(notes);
    // The end is seen by the load as failures, not as silence and not as success.
    let end = Instant::now() + DEADLINE;
    while load.failed() == 0 {
        assert!(Instant::now() < end, "no request has failed");
        sleep(Duration::from_millis(5)).await;
    }
    let trace = load.stop().await.unwrap();
    let failed = trace.samples.iter().filter(|s| s.outcome.is_failure());
    assert!(failed.count() > 0);

    let notes = Notes::start(volume.path(), address).await;
    let kept = notes.kept(&trace.client).await;
    let acknowledged = acknowledged(&trace);
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    let lost: Vec<&u64> = acknowledged
        .iter()
        .filter(|at| !kept.contains(at))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_what_is_in_flight_and_ends_at_once() {
    let (volume, address) = (tempfile::tempdir().unwrap(), free_address());
    let mut notes = Notes::start(volume.path(), address).await;
    let load = load(address);
    until_answered(&load, 100).await;
    notes.signal(Signal::TERM);
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = notes.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "notes does not end");
        sleep(Duration::from_millis(2)).await;
    };
    assert!(status.success(), "{status}");
    let trace = load.stop().await.unwrap();
    let unanswered = |s: &&flocker_bench::load::Sample| s.outcome == Outcome::Unanswered;
    assert_eq!(trace.samples.iter().filter(unanswered).count(), 0);

    let notes = Notes::start(volume.path(), address).await;
    assert_eq!(trace.lost(0..u64::MAX, &notes.kept(&trace.client).await), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_service_answers_everything_and_reads_show_every_write() {
    let (volume, address) = (tempfile::tempdir().unwrap(), free_address());
    let notes = Notes::start(volume.path(), address).await;
    let load = load(address);
    until_answered(&load, 400).await;
    let trace = load.stop().await.unwrap();
    let wrong: Vec<_> = trace
        .samples
        .iter()
        .filter(|s| s.outcome != Outcome::Answered)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(trace.samples.iter().any(|s| s.kind == Kind::Read));
    let kept = notes.kept(&trace.client).await;
    assert_eq!(
        kept,
        acknowledged(&trace).into_iter().collect::<HashSet<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_of_the_same_volume_is_refused() {
    let volume = tempfile::tempdir().unwrap();
    let _first = Notes::start(volume.path(), free_address()).await;
    let mut second = spawn(volume.path(), free_address());
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = second.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            second.kill().unwrap();
        }
        sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.code(), Some(1));
}
