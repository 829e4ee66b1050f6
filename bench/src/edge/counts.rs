//! What noise does not touch: system calls by strace, instructions by callgrind, each in runs of
//! their own with a fixed number of exchanges.
#![expect(
    clippy::disallowed_methods,
    reason = "starts strace, and waits for what it counts"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    load::{Load, Pace, Plan},
    origin::Origin,
    place::Bench,
    subject::{Around, Running, Subject, free_address},
    workload::Workload,
};

/// How long a fixed number of exchanges may take, in slow motion.
const LONGEST: Duration = Duration::from_secs(120);
/// How long strace may take to come and go.
const ATTACH: Duration = Duration::from_secs(20);
/// Exchanges under callgrind: the difference of two runs leaves out start and end.
const INSTRUCTIONS: [u64; 2] = [200, 1200];

/// System calls per unit, in all and each kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Calls {
    pub(super) all: f64,
    pub(super) kinds: BTreeMap<String, f64>,
}

/// System calls of a subject.
pub(super) fn syscalls(
    bench: &Bench,
    workload: &Workload,
    subject: Subject,
    exchanges_at_most: u64,
) -> Result<Calls> {
    let origin = Origin::start(free_address()?, workload.speech()?)?;
    let around = Around::Nothing;
    let mut running = Running::start(subject, workload.kinds, origin.address(), bench, &around)?;
    // Without it connections that are made once, pools that fill, are counted with the rest.
    let warm = workload.connections as u64 * 2;
    exchanges(bench, workload, subject, &running, warm)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("counts");
    let strace = Strace::attach(running.pids(), &file)?;
    let count = workload.at_most(exchanges_at_most);
    let result = exchanges(bench, workload, subject, &running, count);
    strace.detach()?;
    result?;
    running.stop()?;
    let text = fs::read_to_string(&file).context("strace has left no counts")?;
    let counts = parse_strace(&text);
    let units = workload.unit.of(count);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_unit = |calls: u64| calls as f64 / units;
    Ok(Calls {
        all: per_unit(counts.values().sum()),
        kinds: counts
            .into_iter()
            .map(|(name, calls)| (name, per_unit(calls)))
            .collect(),
    })
}

/// What callgrind counts per unit, in user space.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Work {
    pub(super) instructions: f64,
    /// Calls of malloc and its kin.
    pub(super) allocations: f64,
}

/// Instructions and allocations, by the difference of two runs.
pub(super) fn work(bench: &Bench, workload: &Workload, subject: Subject) -> Result<Work> {
    let mut counted = Vec::new();
    let [few, many] = match workload.is_stream() {
        false => INSTRUCTIONS,
        true => [64, 320],
    };
    for count in [few, many] {
        let origin = Origin::start(free_address()?, workload.speech()?)?;
        let folder = tempfile::tempdir()?;
        let around = Around::Callgrind(folder.path().to_owned());
        let kinds = workload.kinds;
        let mut running = Running::start(subject, kinds, origin.address(), bench, &around)?;
        exchanges(bench, workload, subject, &running, count)?;
        running.stop()?;
        let mut sum = (0, 0);
        for entry in fs::read_dir(folder.path())?.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            sum.0 += parse_callgrind(&text);
            sum.1 += parse_allocations(&text);
        }
        if sum.0 == 0 {
            bail!("callgrind has counted nothing");
        }
        counted.push(sum);
    }
    let units = workload.unit.of(many - few);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_unit = |many: u64, few: u64| many.saturating_sub(few) as f64 / units;
    Ok(Work {
        instructions: per_unit(counted[1].0, counted[0].0),
        allocations: per_unit(counted[1].1, counted[0].1),
    })
}

/// A fixed number of exchanges, in a closed loop, none of which may fail.
fn exchanges(
    bench: &Bench,
    workload: &Workload,
    subject: Subject,
    running: &Running,
    count: u64,
) -> Result<()> {
    let load = Load::start(Plan {
        target: running.address(),
        connections: workload.connections,
        pace: Pace::Closed,
        limit: Some(count),
        hold: false,
        talk: Arc::new(workload.talk(subject, &bench.identity)?),
    })?;
    let until = Instant::now() + LONGEST;
    while !load.has_ended() {
        if Instant::now() > until {
            bail!(
                "{count} exchanges were not over within {LONGEST:?}: {} were",
                load.done()
            );
        }
        sleep(Duration::from_millis(5));
    }
    if let Some(failure) = load.first_failure() {
        bail!("{failure}; {}", running.complaints());
    }
    Ok(())
}

/// strace, attached to all processes of a subject.
struct Strace {
    child: Child,
}

impl Strace {
    fn attach(pids: &[u32], file: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-q", "-o"]).arg(file);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        let mut strace = Self {
            child: child.context("strace cannot be started: apt-get install strace")?,
        };
        let until = Instant::now() + ATTACH;
        while !pids.iter().all(|pid| is_traced(*pid)) {
            if strace.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("strace did not attach; it needs the right to (ptrace(2))");
            }
            sleep(Duration::from_millis(5));
        }
        Ok(strace)
    }

    fn detach(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::INT).context("strace has ended before its time")?;
        }
        let until = Instant::now() + ATTACH;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                self.child.kill()?;
                bail!("strace did not end");
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// All its threads are.
fn is_traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut seen = false;
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return false;
        }
        seen = true;
    }
    seen
}

/// The table of `strace -c`: `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn parse_strace(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let calls = words.get(3)?.parse().ok()?;
        let name = words.get(4..)?.last()?;
        (*name != "total").then(|| ((*name).to_owned(), calls))
    });
    lines.collect()
}

/// The last `totals:` or `summary:` of callgrind's file: its first number is of instructions.
fn parse_callgrind(text: &str) -> u64 {
    let mut lines = text.lines().rev().filter_map(|line| {
        let rest = line
            .strip_prefix("totals:")
            .or_else(|| line.strip_prefix("summary:"))?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    });
    lines.next().unwrap_or(0)
}

/// Calls of functions that allocate. A name stands beside its number only where it comes first:
/// `cfn=(7) malloc`, later `cfn=(7)`; the line after it says how often it is called.
fn parse_allocations(text: &str) -> u64 {
    let mut allocating = BTreeSet::new();
    let (mut called, mut sum) = ("", 0);
    for line in text.lines() {
        if let Some(rest) = line
            .strip_prefix("cfn=")
            .or_else(|| line.strip_prefix("fn="))
        {
            let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
            // A call from within itself has a suffix: malloc'2.
            let name = name.split('\'').next().unwrap_or_default();
            if [
                "malloc",
                "calloc",
                "realloc",
                "posix_memalign",
                "aligned_alloc",
            ]
            .contains(&name)
            {
                allocating.insert(number);
            }
            called = number;
        } else if let Some(rest) = line.strip_prefix("calls=")
            && allocating.contains(called)
        {
            let count = rest.split_ascii_whitespace().next();
            sum += count.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read_with_and_without_errors() {
        let text = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.38    0.000110           1       100        17 recvfrom
 47.62    0.000100           1        50           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.000210           1       150        17 total
";
        let counts = parse_strace(text);
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert_eq!((counts["recvfrom"], counts["sendto"]), (100, 50));
    }

    #[test]
    fn the_total_of_callgrind_is_its_last_word() {
        let text = "version: 1\nevents: Ir\nfn=main\n1 20\nsummary: 30\n\ntotals: 31\n";
        assert_eq!(parse_callgrind(text), 31);
        assert_eq!(parse_callgrind("nothing"), 0);
    }
    #[test]
    fn allocations_are_calls_by_name_or_by_number() {
        let text = "fn=(1) main\n1 5\ncfn=(7) malloc\ncalls=3 0\n1 30\ncfn=(8) free\ncalls=9 0\n\
            fn=(9) other\ncfn=(7)\ncalls=2 0\n1 20\ncfn=(10) realloc'2\ncalls=1 0\n";
        assert_eq!(parse_allocations(text), 6);
    }
}
