//! The instrument in small: it starts every subject, moves bytes through it, counts, and writes
//! what it says it writes. What the figures are is for `flocker-bench edge` on a quiet machine to
//! say; here they only have to be there.

#![expect(
    clippy::disallowed_methods,
    reason = "starts the program that is tested"
)]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use flocker_bench::edge::figures::{Figures, SubjectFigures};

fn edge(arguments: &[&str], json: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flocker-bench"))
        .arg("edge")
        .args([
            "--runs",
            "1",
            "--seconds",
            "0.1",
            "--allow-disturbed",
            "--json",
        ])
        .arg(json)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn figures(arguments: &[&str]) -> Figures {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("edge.json");
    let output = edge(arguments, &file);
    let said = String::from_utf8_lossy(&output.stderr);
    Figures::read(&file).unwrap_or_else(|error| panic!("{arguments:?}: {error:#}: {said}"))
}

fn subject<'f>(figures: &'f Figures, workload: &str, name: &str) -> &'f SubjectFigures {
    let mut workloads = figures.workloads.iter();
    let found = workloads.find(|one| one.workload == workload);
    let mut subjects = found.into_iter().flat_map(|one| &one.subjects);
    let found = subjects.find(|one| one.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {workload}: {figures:?}"))
}

/// A busy machine may delay a run, but nothing may go wrong in it.
fn check_refusals(one: &SubjectFigures) {
    let wrong = one.refused.iter().find(|reason| reason.contains("failed"));
    assert_eq!(wrong, None, "{one:?}");
}

const PEERS: [&str; 4] = ["haproxy", "haproxy-tuned", "nginx", "nginx-tuned"];

/// One from each family of protocols, with all peers; their configurations are checked by
/// `haproxy -c` and `nginx -t` before anything starts.
#[test]
fn all_subjects_are_measured() {
    let workloads = "connect,http1-keepalive";
    let figures = figures(&[
        "--workload",
        workloads,
        "--without",
        "instructions",
        "--counted",
        "150",
    ]);
    for workload in workloads.split(',') {
        for name in ["flocker"].iter().chain(&PEERS) {
            let one = subject(&figures, workload, name);
            assert_eq!(one.runs, 1, "{one:?}");
            check_refusals(one);
            let cpu = one.cpu_per_unit.expect("a proxy takes time").median;
            assert!(cpu > 0.0, "{one:?}");
            let calls = one.syscalls_per_unit.expect("calls were counted").median;
            assert!((2.0..100.0).contains(&calls), "{one:?}");
            let both = one.both_cores_cpu_per_unit.expect("so do load and origin");
            assert!(both.median > cpu && one.p99_added_us.is_some(), "{one:?}");
            assert_eq!(one.ratio.is_some(), *name != "flocker", "{one:?}");
        }
        assert!(subject(&figures, workload, "direct").cpu_per_unit.is_none());
    }
    assert!(!figures.head.command.is_empty() && figures.head.versions.len() >= 5);
}

#[test]
fn streams_http2_tls_and_websockets_pass_through_the_edge() {
    let workloads = "bulk-1,sni-connect,sni-bulk,http1-close,http1-large,http2,websocket,\
                     tls-resumed,tls-keepalive,tls-bulk,tls-handshake";
    let without = "instructions,syscalls,latency";
    let figures = figures(&[
        "--workload",
        workloads,
        "--peers",
        "none",
        "--without",
        without,
    ]);
    for workload in workloads.split(',') {
        let one = subject(&figures, workload.trim(), "flocker");
        assert_eq!(one.runs, 1, "{workload}: {one:?}");
        check_refusals(one);
    }
}

#[test]
fn memory_of_idle_and_parked_sessions_is_measured() {
    let figures = figures(&["--workload", "idle", "--peers", "none", "--sessions", "300"]);
    for workload in [
        "idle-tcp",
        "idle-http",
        "idle-tls",
        "idle-websocket",
        "parked-tcp",
        "parked-http",
    ] {
        let one = subject(&figures, workload, "flocker");
        assert!(one.bytes_per_session.is_some(), "{workload}: {one:?}");
    }
}

#[test]
fn changes_and_switches_fail_nobody() {
    let workloads = "routes-1000,switch-1,switch-3";
    let figures = figures(&["--workload", workloads, "--peers", "none"]);
    for (workload, figure) in [
        ("routes-1000", "one_change_ms"),
        ("routes-1000", "p999_us_beside_bulk_change"),
        ("switch-1", "pause_to_resume_ms"),
        ("switch-3", "pause_to_resume_ms"),
    ] {
        let one = subject(&figures, workload, "flocker");
        assert!(one.more.contains_key(figure), "{workload}: {one:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("edge.json");
    for (arguments, expected) in [
        (
            ["--workload", "bulk"],
            "there is no workload 'bulk': all, idle, routes, switch, bulk-1",
        ),
        (
            ["--peers", "apache"],
            "there is no peer 'apache': haproxy, nginx",
        ),
        (
            ["--proxy", "/nowhere/flocker-proxy"],
            "cargo build --release -p flocker-proxy",
        ),
    ] {
        let output = edge(&arguments, &file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(expected),
            "{arguments:?}: {said}"
        );
        assert!(!file.exists(), "nothing was measured");
    }
}
