//! A test bed leaves nothing behind, however its `flocker-bench` ends.
#![expect(clippy::disallowed_methods, reason = "beds are put up by a program")]

use std::{
    fs,
    io::{BufRead, BufReader, Error, Result},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A bed of nodes without services, standing.
fn put_up(output: &Path, arguments: &[&str]) -> Result<Child> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flocker-bench"))
        .args(["testbed", "up", "--nodes-only", "--config"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"))
        .arg("--output")
        .arg(output)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Error::other("no output"))?;
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.contains("the test bed is up") {
            return Ok(child);
        }
        said += &line;
        said.push('\n');
    }
    Err(Error::other(format!("the bed did not stand up:\n{said}")))
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or_else(|| Error::other("no pid"))?, signal)?;
    Ok(())
}

/// Processes that were told about a folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if bytes.windows(needle.len()).any(|window| window == needle) {
            found.push(String::from_utf8_lossy(&bytes).replace('\0', " "));
        }
    }
    found
}

fn mounts_of(folder: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let needle = folder.to_string_lossy().into_owned();
    mounts
        .lines()
        .filter(|line| line.contains(&needle))
        .map(str::to_owned)
        .collect()
}

fn runs_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("run-")).collect()
}

/// Everything is gone, at the latest after a few seconds.
fn wait_gone(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still there: {left:#?}");
        std::thread::yield_now();
    }
    assert_eq!(mounts_of(folder), Vec::<String>::new());
}

fn interrupted_leaves_nothing(arguments: &[&str]) -> Result<()> {
    let output = tempfile::tempdir()?;
    let mut child = put_up(output.path(), arguments)?;
    assert_ne!(runs_in(output.path()), Vec::<String>::new());
    signal(&child, Signal::INT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    assert_eq!(processes_of(output.path()), Vec::<String>::new());
    assert_eq!(mounts_of(output.path()), Vec::<String>::new());
    assert_eq!(runs_in(output.path()), Vec::<String>::new());
    Ok(())
}

fn killed_leaves_nothing_that_runs(arguments: &[&str]) -> Result<()> {
    let output = tempfile::tempdir()?;
    let mut child = put_up(output.path(), arguments)?;
    signal(&child, Signal::KILL)?;
    child.wait()?;
    wait_gone(output.path());
    // The next run removes the folder, too.
    let before = runs_in(output.path());
    assert_eq!(before.len(), 1);
    let mut next = put_up(output.path(), arguments)?;
    assert!(!runs_in(output.path()).contains(&before[0]));
    signal(&next, Signal::TERM)?;
    assert_eq!(next.wait()?.code(), Some(130));
    assert_eq!(runs_in(output.path()), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_best_bed_leaves_nothing_when_interrupted() {
    interrupted_leaves_nothing(&[]).unwrap();
}

#[test]
fn the_best_bed_leaves_nothing_that_runs_when_killed() {
    killed_leaves_nothing_that_runs(&[]).unwrap();
}

#[test]
fn a_bed_on_loopback_leaves_nothing_when_interrupted() {
    interrupted_leaves_nothing(&["--bed", "loopback"]).unwrap();
}

#[test]
fn a_bed_on_loopback_leaves_nothing_that_runs_when_killed() {
    killed_leaves_nothing_that_runs(&["--bed", "loopback"]).unwrap();
}
