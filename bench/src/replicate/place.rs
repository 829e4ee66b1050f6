//! Where replication is measured: a zfs-fuse of its own with a pool for each of two nodes, and
//! the agents of both, plain and with mutual TLS.
//!
//! The program starts itself again in mount and PID namespaces: whatever happens, nothing
//! outlives it and nothing of the machine's own pools is seen.

#![expect(
    clippy::disallowed_methods,
    reason = "starts the programs that are measured"
)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use flocker_api::{
    agent::{CreateVolume, EpochRequest, NodeStatus, ReplicateReply, ReplicateRequest},
    client::{Client, Endpoint},
    name::{NodeName, VolumeId},
    replication::SetReplication,
    tls::{
        Credentials, Expected, Files, Identity, Role,
        authority::{Authority, Existing, Order},
    },
    volume::{Epoch, VolumeStatus},
};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long a daemon or an agent may take to answer.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a verb may take.
const VERB_MAX: Duration = Duration::from_secs(120);
/// Size of a pool's file; sparse.
const POOL_BYTES: u64 = 4 << 30;
/// The epoch of every volume here.
const EPOCH: Epoch = Epoch(1);
/// Set in the process that is inside.
const INSIDE: &str = "FLOCKER_BENCH_INSIDE";

/// Whether this process is the one inside; otherwise runs that one to its end.
///
/// # Errors
/// When the namespaces cannot be had.
pub(super) fn enter() -> Result<Option<bool>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let place = tempfile::tempdir()?;
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, place.path())
        .env("TMPDIR", place.path())
        .status()
        .context("cannot run unshare of util-linux")?;
    Ok(Some(status.success()))
}

/// Runs a program to its end and gives its output.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {complaint}"
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The daemon, its pools, the agents.
pub(super) struct Place {
    folder: tempfile::TempDir,
    programs: PathBuf,
    authority: Authority,
    _daemon: Ended,
}

/// A process that is killed when it is no longer needed.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Place {
    pub(super) fn make(programs: &Path) -> Result<Self> {
        run("mount", &["--make-rprivate", "/"])?;
        for place in ["/run/zfs", "/run/lock/zfs", "/var/lib/zfs"] {
            fs::create_dir_all(place)?;
            run("mount", &["-t", "tmpfs", "none", place])?;
        }
        let daemon = Command::new("zfs-fuse")
            .args(["--no-daemon", "--no-kstat-mount", "-m", "128"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run zfs-fuse")?;
        let daemon = Ended(daemon);
        let folder = tempfile::tempdir()?;
        let end = Instant::now() + START_MAX;
        while run("zpool", &["list"]).is_err() {
            ensure!(Instant::now() < end, "zfs-fuse does not answer");
        }
        for node in ["a", "b"] {
            let file = folder.path().join(format!("{node}.img"));
            fs::File::create(&file)?.set_len(POOL_BYTES)?;
            let pool = format!("pool{node}");
            run(
                "zpool",
                &["create", "-m", "none", &pool, &file.to_string_lossy()],
            )?;
        }
        let month = Duration::from_secs(30 * 86_400);
        let authority = Authority::create(&folder.path().join("ca"), SystemTime::now(), month)?;
        Ok(Self {
            folder,
            programs: programs.to_owned(),
            authority,
            _daemon: daemon,
        })
    }

    /// Starts the agents of both nodes.
    pub(super) async fn agents(&self, tls: bool) -> Result<[Agent; 2]> {
        Ok([self.agent("a", tls).await?, self.agent("b", tls).await?])
    }

    async fn agent(&self, node: &str, tls: bool) -> Result<Agent> {
        let folder = self.folder.path().join(format!("{node}-tls-{tls}"));
        fs::create_dir_all(folder.join("images"))?;
        let free = || TcpListener::bind((HOST, 0))?.local_addr();
        let (api, replication): (SocketAddr, SocketAddr) = (free()?, free()?);
        let path = folder.display();
        let mut config = format!(
            "node = '{node}'\naddress = '{HOST}'\n\
             api = {{ listen = '{api}' }}\nreplication = {{ listen = '{replication}' }}\n\
             storage = {{ kind = 'zfs', pool = 'pool{node}', mount_root = '{path}/mounts' }}\n\
             runtime = {{ kind = 'process', images = '{path}/images', state = '{path}/state' }}\n"
        );
        let mut client = Client::new(Endpoint::Tcp(api), format!("agent of {node}"));
        if tls {
            let Files {
                ca,
                certificate,
                key,
            } = self.issue(Role::Node, node)?;
            config.push_str(&format!(
                "[tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
                ca.display(),
                certificate.display(),
                key.display()
            ));
            let by = Credentials::load(self.issue(Role::Operator, "bench")?)?;
            let expected = Expected::Named(Identity::new(Role::Node, node));
            client = client.with_tls(by, expected);
        }
        let file = folder.join("agent.toml");
        fs::write(&file, config)?;
        let process = Command::new(self.programs.join("flocker-storage-agent"))
            .arg("--config")
            .arg(&file)
            .env("FLOCKER_LOG", "warn")
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()
            .context("cannot run flocker-storage-agent")?;
        let agent = Agent {
            name: node.parse()?,
            client,
            replication,
            process: Ended(process),
        };
        let end = Instant::now() + START_MAX;
        while agent.status().await.is_err() {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            ensure!(Instant::now() < end, "the agent of {node}: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(agent)
    }

    fn issue(&self, role: Role, name: &str) -> Result<Files> {
        let order = Order {
            identity: Identity::new(role, name),
            addresses: vec![HOST],
            now: SystemTime::now(),
            validity: Duration::from_secs(86_400),
        };
        let folder = self.folder.path().join(format!("{role}-{name}"));
        Ok(self.authority.issue(&order, &folder, Existing::Replace)?)
    }
}

/// A running agent.
pub(super) struct Agent {
    pub(super) name: NodeName,
    client: Client,
    pub(super) replication: SocketAddr,
    process: Ended,
}

impl Agent {
    pub(super) async fn status(&self) -> Result<NodeStatus> {
        Ok(self.client.get("/v1/status", VERB_MAX).await?)
    }

    /// A new volume, and where it is mounted.
    pub(super) async fn create(&self, name: &str) -> Result<(VolumeId, PathBuf)> {
        let request = CreateVolume {
            id: VolumeId::random(),
            name: name.parse()?,
            size_bytes: None,
            epoch: EPOCH,
        };
        let made: VolumeStatus = self.client.post("/v1/volumes", &request, VERB_MAX).await?;
        Ok((made.id, made.mounted_at.context("a new volume is mounted")?))
    }

    pub(super) async fn replicate(&self, id: VolumeId, to: &Self) -> Result<ReplicateReply> {
        let request = ReplicateRequest {
            peer: to.name.clone(),
            to: to.replication,
            epoch: EPOCH,
        };
        let path = format!("/v1/volumes/{id}/replicate");
        Ok(self.client.post(&path, &request, VERB_MAX).await?)
    }

    pub(super) async fn destroy(&self, id: VolumeId) -> Result<()> {
        let path = format!("/v1/volumes/{id}");
        let request = EpochRequest { epoch: EPOCH };
        let _: serde_json::Value = self.client.delete(&path, &request, VERB_MAX).await?;
        Ok(())
    }

    pub(super) async fn keep(&self, id: VolumeId, request: &SetReplication) -> Result<()> {
        let path = format!("/v1/volumes/{id}/replication");
        let _: VolumeStatus = self.client.put(&path, request, VERB_MAX).await?;
        Ok(())
    }

    /// Processor time of the agent and of the programs that it has waited for.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.0.id()))?;
        // utime, stime, cutime, cstime are fields 14 to 17 (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').context("a stat line")?.1;
        let ticks = fields.split_whitespace().skip(11).take(4);
        let ticks: u64 = ticks.map(|field| field.parse().unwrap_or(0)).sum();
        let second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
    }
}
