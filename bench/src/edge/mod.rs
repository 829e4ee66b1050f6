//! `flocker-bench edge`: what the edge costs beside its peers, all in the same run.
//!
//! ```text
//!   core A: load ──────────────┐            ┌──► origin        one thread each
//!   core B:                    └► subject ──┘                  one worker: flocker, haproxy, ...
//! ```
//! Subjects take turns, each started anew; figures are medians of what the rounds gave, ratios
//! and differences are of the same round. Processor time is read from /proc around a window in
//! which the load runs; system calls and instructions are counted in runs of their own. A run
//! that does not say what it seems to say is refused, with the reason (`measure`).

mod client;
mod counts;
mod cpu;
pub mod figures;
mod h2_client;
mod load;
mod measure;
mod origin;
pub mod page;
mod peers;
mod place;
mod poller;
mod routes;
mod sessions;
mod show;
mod subject;
mod summary;
mod switch;
mod verbs;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

pub use self::subject::Subject;
use self::{
    figures::{Figures, Head, WorkloadFigures},
    measure::Terms,
    place::Bench,
    summary::Counted,
    workload::{SESSIONS, Sessions, WORKLOADS, Workload},
};
use crate::report::Machine;

/// What is compared, on what, and where the figures go.
///
/// The proxy has one core to itself, load and origin share another. Subjects take turns, so that
/// what changes on the machine changes for all of them; a table says medians and ranges, and the
/// ratio of flocker to each. Runs that mean nothing are refused and done again: a request failed,
/// the rate was not met, load or origin was the limit, others used the machine.
///
/// Workloads: bulk-1, bulk-16, pingpong-64, connect, http1-keepalive, http1-close, http1-large,
/// http2, sni-connect, sni-bulk, tls-handshake, tls-resumed, tls-keepalive, tls-bulk, websocket;
/// memory of sessions: idle-tcp, idle-http, idle-tls, idle-websocket, parked-tcp, parked-http
/// (`idle` is all of these); and what only the edge does: routes-1, routes-1000, routes-1000000
/// (`routes`), switch-1, switch-3 (`switch`).
///
/// Configurations of the peers are in bench/peers, each as its distribution has it and tuned.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    flocker-bench edge --workload all --peers haproxy,nginx --runs 5 --json edge.json\n  \
    flocker-bench edge --workload connect,pingpong-64 --runs 3\n  \
    flocker-bench edge --workload http2 --runs 1 --seconds 0.5 --allow-disturbed   to try things\n  \
    flocker-bench report edge.json --out edge.html")]
pub struct EdgeArgs {
    /// What is asked of them: names with commas between, or `all`
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "all",
        value_name = "W,..."
    )]
    pub workload: Vec<String>,
    /// With whom the edge is compared, each in two configurations: haproxy, nginx, none
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "haproxy,nginx",
        value_name = "PEER,..."
    )]
    pub peers: Vec<String>,
    /// Rounds: each subject has a turn in each
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Length of a timed run, in s
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    pub seconds: f64,
    /// Write the figures for programs here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The edge's program [default: flocker-proxy beside this program]
    #[arg(long, value_name = "FILE")]
    pub proxy: Option<PathBuf>,
    /// What is left out: syscalls (strace), instructions (callgrind, slow), latency
    #[arg(long, value_delimiter = ',', value_name = "WHAT,...")]
    pub without: Vec<Part>,
    /// Exchanges whose system calls are counted
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u64).range(100..))]
    pub counted: u64,
    /// Count runs on a machine that others use, too, or with a load that is the limit: to try
    /// things, not to publish
    #[arg(long)]
    pub allow_disturbed: bool,
    /// Sessions that are held where memory is measured; as many as descriptors allow
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sessions: u64,
    /// Share of a core that others may use in a run; cores count in ticks, so that a short run
    /// knows it to some percent only
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    pub foreign: f64,
}

/// Parts that take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// Counting system calls.
    Syscalls,
    /// Counting instructions.
    Instructions,
    /// Measuring latencies.
    Latency,
}

/// Connections that a subject must be able to hold, but for memory.
const CONNECTIONS: usize = 4096;

/// A workload of any sort.
#[derive(Debug, Clone, Copy)]
enum Task {
    Exchange(&'static Workload),
    Hold(&'static Sessions),
    /// A table of so many routes.
    Routes(&'static str, usize),
    /// A switch on so many edges.
    Switch(&'static str, usize),
}

impl Task {
    fn all() -> impl Iterator<Item = Self> {
        let tables = [
            Self::Routes("routes-1", 1),
            Self::Routes("routes-1000", 1_000),
            Self::Routes("routes-1000000", 1_000_000),
        ];
        let switches = [Self::Switch("switch-1", 1), Self::Switch("switch-3", 3)];
        let exchanges = WORKLOADS.iter().map(Self::Exchange);
        let holds = SESSIONS.iter().map(Self::Hold);
        exchanges.chain(holds).chain(tables).chain(switches)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Exchange(workload) => workload.name,
            Self::Hold(kind) => kind.name,
            Self::Routes(name, _) | Self::Switch(name, _) => name,
        }
    }

    /// The name of all of its sort.
    fn group(&self) -> &'static str {
        match self {
            Self::Exchange(_) => "exchanges",
            Self::Hold(_) => "idle",
            Self::Routes(..) => "routes",
            Self::Switch(..) => "switch",
        }
    }

    /// The configurations that peers need for it.
    fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Exchange(workload) => workload.kinds,
            Self::Hold(kind) => kind.kinds,
            Self::Routes(..) | Self::Switch(..) => &["http1"],
        }
    }
}

impl EdgeArgs {
    /// Measures; whether every subject has figures for every workload.
    ///
    /// # Errors
    /// When it cannot be measured: a peer is not installed, its configuration is refused, a
    /// program does not start, requests fail from the first moment on.
    pub fn run(&self) -> Result<bool> {
        let tasks = self.tasks()?;
        let program = match &self.proxy {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .context("cannot tell where this program is")?
                .with_file_name("flocker-proxy"),
        };
        let mut bench = Bench::new(program, peers::HOST)?;
        let sessions = sessions::possible(self.sessions);
        if tasks.iter().any(|task| matches!(task, Task::Hold(_))) {
            bench.connections = usize::try_from(2 * sessions + 256)?;
        }
        let subjects = self.subjects(&bench)?;
        check_configurations(&subjects, &tasks, &bench)?;
        let mut figures = Figures {
            head: self.head(&bench, &subjects),
            workloads: Vec::new(),
        };
        if sessions < self.sessions && bench.connections > CONNECTIONS {
            let note = format!(
                "{sessions} sessions in place of {}: descriptors",
                self.sessions
            );
            figures.head.notes.push(note);
        }
        let bar = self.progress(&tasks, &subjects);
        for task in tasks {
            let measured = match task {
                Task::Exchange(workload) => self.measure(workload, &subjects, &bench, &bar)?,
                Task::Hold(kind) => {
                    let say = |text: &str| step(&bar, text);
                    sessions::measure(&bench, kind, &subjects, self.runs, sessions, &say)?
                }
                Task::Routes(_, count) => {
                    routes::measure(&bench, count, self.runs, &|text| step(&bar, text))?
                }
                Task::Switch(_, edges) => {
                    switch::measure(&bench, edges, self.runs, &|text| step(&bar, text))?
                }
            };
            bar.suspend(|| show::table(&measured));
            figures.workloads.push(measured);
            // What is measured so far is not lost if the rest fails.
            if let Some(path) = &self.json {
                figures.write(path)?;
            }
        }
        bar.finish_and_clear();
        Ok(show::is_complete(&figures))
    }

    fn tasks(&self) -> Result<Vec<Task>> {
        let mut chosen = Vec::new();
        for name in &self.workload {
            let before = chosen.len();
            chosen.extend(Task::all().filter(|task| {
                let group = task.group();
                [task.name(), group, "all"].contains(&name.as_str())
            }));
            if chosen.len() == before {
                let known: Vec<&str> = Task::all().map(|task| task.name()).collect();
                bail!(
                    "there is no workload '{name}': all, idle, routes, switch, {}",
                    known.join(", ")
                );
            }
        }
        let mut seen = BTreeSet::new();
        chosen.retain(|task| seen.insert(task.name()));
        Ok(chosen)
    }

    /// Who takes part: what was asked for, and io_uring where the edge has it.
    fn subjects(&self, bench: &Bench) -> Result<Vec<Subject>> {
        let mut subjects = vec![Subject::Flocker];
        if subject::check(Subject::FlockerUring, &["tcp"], bench).is_ok() {
            subjects.push(Subject::FlockerUring);
        }
        for peer in &self.peers {
            let (both, package, file) = match peer.as_str() {
                "haproxy" => (
                    [Subject::Haproxy, Subject::HaproxyTuned],
                    "haproxy",
                    "/usr/sbin/haproxy",
                ),
                "nginx" => (
                    [Subject::Nginx, Subject::NginxTuned],
                    "nginx libnginx-mod-stream",
                    "/usr/lib/nginx/modules/ngx_stream_module.so",
                ),
                "none" => continue,
                other => bail!("there is no peer '{other}': haproxy, nginx, none"),
            };
            if !Path::new(file).exists() {
                bail!(
                    "{peer} is not installed ({file}): `apt-get install {package}`, or \
                     `make packages`; or leave it out with --peers"
                );
            }
            subjects.extend(both);
        }
        subjects.push(Subject::Direct);
        Ok(subjects)
    }

    fn measure(
        &self,
        workload: &Workload,
        subjects: &[Subject],
        bench: &Bench,
        bar: &ProgressBar,
    ) -> Result<WorkloadFigures> {
        let say = |text: &str| step(bar, text);
        let terms = Terms {
            runs: self.runs,
            length: Duration::try_from_secs_f64(self.seconds).context("--seconds")?,
            foreign_max: self.foreign / 100.0,
            allow_disturbed: self.allow_disturbed,
            latencies: !self.without.contains(&Part::Latency),
        };
        let measured = measure::measure(bench, workload, subjects, &terms, &say)?;
        let mut counted = Vec::new();
        for subject in subjects {
            let mut counts = Counted::default();
            if *subject != Subject::Direct {
                if !self.without.contains(&Part::Syscalls) {
                    say(&format!("{}: system calls of {subject}", workload.name));
                    let calls = counts::syscalls(bench, workload, *subject, self.counted);
                    counts.calls = Some(calls.with_context(|| about(workload, *subject))?);
                }
                if !self.without.contains(&Part::Instructions) {
                    say(&format!("{}: instructions of {subject}", workload.name));
                    let work = counts::work(bench, workload, *subject);
                    counts.work = Some(work.with_context(|| about(workload, *subject))?);
                }
            }
            counted.push(counts);
        }
        Ok(summary::summarise(workload, subjects, &measured, &counted))
    }

    fn progress(&self, tasks: &[Task], subjects: &[Subject]) -> ProgressBar {
        let counts = [Part::Syscalls, Part::Instructions];
        let counts = counts
            .iter()
            .filter(|part| !self.without.contains(part))
            .count();
        let (rounds, proxies) = (self.runs as usize, subjects.len() - 1);
        let steps = |task: &Task| match task {
            Task::Exchange(_) => subjects.len() * (1 + rounds) + proxies * counts,
            Task::Routes(..) | Task::Switch(..) => rounds,
            Task::Hold(kind) if kind.parked => rounds,
            Task::Hold(_) => proxies * rounds,
        };
        let bar = ProgressBar::new(tasks.iter().map(steps).sum::<usize>() as u64);
        let style = ProgressStyle::with_template("{bar:30} {pos:>4}/{len} {eta:>4} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }

    fn head(&self, bench: &Bench, subjects: &[Subject]) -> Head {
        let machine = Machine::this();
        let mut facts = BTreeMap::new();
        for (name, value) in [
            ("cpus", machine_cpus()),
            ("cpu_model", machine.cpu_model),
            ("memory_mib", machine.memory_mib.to_string()),
            ("kernel", machine.kernel),
            ("system", machine.system),
            ("optimised", machine.optimised.to_string()),
            ("proxy_core", bench.proxy_core.to_string()),
            ("load_core", bench.load_core.to_string()),
        ] {
            facts.insert(name.to_owned(), value);
        }
        let versions = subjects.iter().filter_map(|subject| {
            Some((
                subject.name().to_owned(),
                subject::version(*subject, bench)?,
            ))
        });
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        arguments.insert(0, "flocker-bench".to_owned());
        Head {
            machine: facts,
            versions: versions.collect(),
            command: arguments.join(" "),
            date: show::date(),
            commit: show::commit(),
            runs: self.runs,
            seconds: self.seconds,
            allow_disturbed: self.allow_disturbed,
            notes: Vec::new(),
        }
    }
}

/// All of the machine's, whatever this process is bound to.
fn machine_cpus() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let count = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    count.to_string()
}

fn step(bar: &ProgressBar, text: &str) {
    bar.set_message(text.to_owned());
    bar.inc(1);
}

fn about(workload: &Workload, subject: Subject) -> String {
    format!("{}: {subject}", workload.name)
}

/// A configuration that is refused is found out before anything is measured.
fn check_configurations(subjects: &[Subject], tasks: &[Task], bench: &Bench) -> Result<()> {
    let kinds: BTreeSet<&[&str]> = tasks.iter().map(Task::kinds).collect();
    for subject in subjects {
        for kinds in &kinds {
            if let Err(said) = subject::check(*subject, kinds, bench) {
                bail!(
                    "{subject} refuses its configuration for {}: {said}",
                    kinds[0]
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_named_in_the_help() {
        let text = {
            use clap::CommandFactory as _;
            #[derive(clap::Parser)]
            struct Probe {
                #[command(flatten)]
                _edge: EdgeArgs,
            }
            Probe::command().render_long_help().to_string()
        };
        let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for workload in WORKLOADS {
            assert!(
                words.contains(workload.name),
                "{} in {words}",
                workload.name
            );
        }
    }
}
