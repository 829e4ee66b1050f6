//! A subject: a proxy that is started on its own core with a configuration for one workload, or
//! nothing at all, `direct`.
#![expect(
    clippy::disallowed_methods,
    reason = "starts the programs that are compared"
)]

use std::{
    fmt, fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;

use super::{
    cpu,
    peers::{self, Place},
    place::Bench,
};

/// How long one may take to listen; under valgrind this is long.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(20);

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The edge, with epoll.
    Flocker,
    /// The edge, with io_uring.
    #[serde(rename = "flocker-io_uring")]
    FlockerUring,
    /// HAProxy as the distribution configures it.
    Haproxy,
    /// HAProxy as its experts would.
    HaproxyTuned,
    /// nginx as the distribution configures it.
    Nginx,
    /// nginx as its experts would.
    NginxTuned,
    /// No proxy at all: what load and origin cost by themselves.
    Direct,
}

impl Subject {
    /// All, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Flocker,
        Self::FlockerUring,
        Self::Haproxy,
        Self::HaproxyTuned,
        Self::Nginx,
        Self::NginxTuned,
        Self::Direct,
    ];

    /// As in tables and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flocker => "flocker",
            Self::FlockerUring => "flocker-io_uring",
            Self::Haproxy => "haproxy",
            Self::HaproxyTuned => "haproxy-tuned",
            Self::Nginx => "nginx",
            Self::NginxTuned => "nginx-tuned",
            Self::Direct => "direct",
        }
    }

    /// Whether it is one of ours: only those park.
    pub(super) fn is_flocker(self) -> bool {
        matches!(self, Self::Flocker | Self::FlockerUring)
    }

    /// Its program.
    pub(super) fn program(self, bench: &Bench) -> Option<PathBuf> {
        match self {
            Self::Flocker | Self::FlockerUring => Some(bench.proxy.clone()),
            Self::Haproxy | Self::HaproxyTuned => Some("/usr/sbin/haproxy".into()),
            Self::Nginx | Self::NginxTuned => Some("/usr/sbin/nginx".into()),
            Self::Direct => None,
        }
    }

    fn arguments(self, config: &Path, folder: &Path) -> Vec<PathBuf> {
        let flag = |text: &str| PathBuf::from(text);
        match self {
            Self::Flocker | Self::FlockerUring => vec![flag("--config"), config.into()],
            Self::Haproxy | Self::HaproxyTuned => vec![flag("-db"), flag("-f"), config.into()],
            // Modules are found below its own prefix, so that one stays.
            Self::Nginx | Self::NginxTuned => {
                vec![
                    flag("-e"),
                    folder.join("error.log"),
                    flag("-c"),
                    config.into(),
                ]
            }
            Self::Direct => Vec::new(),
        }
    }

    /// How many processes it has.
    fn processes(self) -> usize {
        match self {
            Self::Nginx | Self::NginxTuned => 2,
            _ => 1,
        }
    }

    /// The same arguments, only to have the configuration checked.
    fn check(self) -> Option<&'static str> {
        match self {
            Self::Flocker | Self::FlockerUring => Some("--check"),
            Self::Haproxy | Self::HaproxyTuned => Some("-c"),
            Self::Nginx | Self::NginxTuned => Some("-t"),
            Self::Direct => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is put around a subject's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Around {
    Nothing,
    /// `valgrind --tool=callgrind`, which writes its counts below this folder.
    Callgrind(PathBuf),
}

/// A subject that runs; ends with the value.
#[derive(Debug)]
pub(super) struct Running {
    subject: Subject,
    child: Option<Child>,
    pids: Vec<u32>,
    address: SocketAddr,
    folder: TempDir,
}

impl Running {
    /// Starts it for these kinds of configuration, in front of an origin.
    pub(super) fn start(
        subject: Subject,
        kinds: &[&str],
        origin: SocketAddr,
        bench: &Bench,
        around: &Around,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary directory")?;
        let Some(program) = subject.program(bench) else {
            return Ok(Self {
                subject,
                child: None,
                pids: Vec::new(),
                address: origin,
                folder,
            });
        };
        let address = free_address()?;
        let config = write(subject, kinds, address, origin, bench, folder.path())?;
        let mut command = match around {
            Around::Nothing => Command::new(&program),
            Around::Callgrind(counts) => {
                let mut command = Command::new("valgrind");
                command.arg("--tool=callgrind").arg("-q").arg(format!(
                    "--callgrind-out-file={}/callgrind.%p",
                    counts.display()
                ));
                command.arg(&program);
                command
            }
        };
        command.args(subject.arguments(&config, folder.path()));
        let errors = fs::File::create(folder.path().join("stderr"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        // Its threads are born on the core of whoever starts it.
        let core = bench.proxy_core;
        let starting = thread::spawn(move || {
            super::place::pin(core)?;
            Ok::<_, anyhow::Error>(command.spawn()?)
        });
        let child = match starting.join() {
            Ok(child) => child.with_context(|| format!("cannot start {}", program.display()))?,
            Err(_) => bail!("the thread that starts {subject} has panicked"),
        };
        let mut running = Self {
            subject,
            child: Some(child),
            pids: Vec::new(),
            address,
            folder,
        };
        running.wait_until_it_listens()?;
        Ok(running)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All its processes.
    pub(super) fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// The admin socket, of the edge.
    pub(super) fn admin(&self) -> PathBuf {
        self.folder.path().join("edge.sock")
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || Instant::now() > until {
                bail!("{} does not listen: {}", self.subject, self.complaints());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let Some(root) = self.child.as_ref().map(Child::id) else {
            return Ok(());
        };
        self.pids = cpu::family(root);
        // A worker is there a little later than the socket that it serves.
        while self.pids.len() < self.subject.processes() {
            if Instant::now() > until {
                bail!("{} has no worker: {}", self.subject, self.complaints());
            }
            thread::sleep(Duration::from_millis(5));
            self.pids = cpu::family(root);
        }
        Ok(())
    }

    /// The end of what it wrote to stderr.
    pub(super) fn complaints(&self) -> String {
        let mut text = String::new();
        let file = fs::File::open(self.folder.path().join("stderr"));
        if let Ok(mut file) = file {
            let _partial = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    /// Ends it and waits.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        signal(child.id(), Signal::TERM);
        let until = Instant::now() + END;
        let mut killed = false;
        while child.try_wait()?.is_none() {
            if Instant::now() > until && !killed {
                self.pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
                killed = true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know has called it before.
        drop(self.stop());
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is as good.
        let _gone = kill_process(pid, signal);
    }
}

/// Writes its configuration into a folder.
fn write(
    subject: Subject,
    kinds: &[&str],
    listen: SocketAddr,
    origin: SocketAddr,
    bench: &Bench,
    folder: &Path,
) -> Result<PathBuf> {
    let identity = bench.identity.folder();
    let place = Place {
        listen,
        origin,
        folder: folder.to_owned(),
        certificate: identity.join("certificate.pem"),
        key: identity.join("key.pem"),
        pem: identity.join("both.pem"),
        connections: bench.connections,
    };
    let text = peers::config(subject, kinds, &place)
        .with_context(|| format!("{subject} has no configuration for {kinds:?}"))?;
    let path = folder.join("config");
    fs::write(&path, text).context("cannot write a configuration")?;
    Ok(path)
}

/// Has the program check the configuration; what it says if it is wrong.
pub(super) fn check(subject: Subject, kinds: &[&str], bench: &Bench) -> Result<(), String> {
    let checked = || -> Result<Option<String>> {
        let (Some(program), Some(flag)) = (subject.program(bench), subject.check()) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let config = write(subject, kinds, address, address, bench, folder.path())?;
        let mut command = Command::new(&program);
        command
            .args(subject.arguments(&config, folder.path()))
            .arg(flag);
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((!output.status.success()).then_some(said))
    };
    match checked() {
        Ok(None) => Ok(()),
        Ok(Some(said)) => Err(said),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// What the program calls itself.
pub(super) fn version(subject: Subject, bench: &Bench) -> Option<String> {
    let flag = match subject {
        Subject::Flocker | Subject::FlockerUring => "--version",
        _ => "-v",
    };
    let output = Command::new(subject.program(bench)?)
        .arg(flag)
        .output()
        .ok()?;
    let all = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&all);
    Some(text.lines().next()?.trim().to_owned())
}

/// An address on loopback that nobody else uses: this process's own, and a port that is free.
pub(super) fn free_address() -> Result<SocketAddr> {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | (high & 63), middle, low.max(1));
    let probe = std::net::TcpListener::bind((ip, 0)).context("no port on loopback")?;
    probe.local_addr().context("no port on loopback")
}
