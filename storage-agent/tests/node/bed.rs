//! A cluster's authority, its agents, and one app on them.

#![expect(clippy::disallowed_methods, reason = "the test bed starts programs")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use flocker_api::{
    ErrorBody,
    agent::{
        CreateContainer, CreateVolume, EpochRequest, NodeStatus, ReplicateReply, ReplicateRequest,
    },
    client::{Client, Endpoint},
    container::{ContainerSpec, Mount},
    name::VolumeId,
    tls::{
        Credentials, Expected, Files, Identity, Role,
        authority::{Authority, Existing, Order},
    },
    volume::Epoch,
};
use serde_json::Value;

/// How long anything may take before a test has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Writes to its volume all the time, a line each few milliseconds, as no polite app would.
const WRITER: &str = r#"
command = ["/bin/sh", "-c", '''
trap "" TERM
while :; do date +%s%N >>"$FLOCKER_VOLUME/log"; sleep 0.005; done
''']
"#;

/// An authority of a test.
pub(crate) struct Ca {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Ca {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let day = Duration::from_secs(86_400);
        let authority = Authority::create(&folder.path().join("ca"), SystemTime::now(), day * 30)?;
        Ok(Self { folder, authority })
    }

    /// A certificate that holds for some days; one that is there is replaced.
    pub(crate) fn issue(&self, role: Role, name: &str, days: u64) -> Result<Files> {
        let order = Order {
            identity: Identity::new(role, name),
            addresses: vec![HOST],
            now: SystemTime::now(),
            validity: Duration::from_secs(days * 86_400),
        };
        let folder = self.folder.path().join(format!("{role}-{name}"));
        Ok(self.authority.issue(&order, &folder, Existing::Replace)?)
    }

    pub(crate) fn client(&self, role: Role, name: &str) -> Result<Credentials> {
        Ok(Credentials::load(self.issue(role, name, 1)?)?)
    }
}

/// The `[tls]` table of these files.
pub(crate) fn tls(files: &Files) -> String {
    let path = |path: &Path| path.display().to_string();
    format!(
        "[tls]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
        path(&files.ca),
        path(&files.certificate),
        path(&files.key)
    )
}

/// An agent and its client.
pub(crate) struct Agent {
    pub(crate) node: &'static str,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) process: Child,
    pub(crate) client: Client,
    pub(crate) api: SocketAddr,
    pub(crate) replication: SocketAddr,
}

impl Agent {
    /// Starts an agent with more tables in its configuration, in which `FOLDER` is its own
    /// folder, and waits until it answers.
    pub(crate) async fn start(
        node: &'static str,
        more: &str,
        by: Option<Credentials>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("images"))?;
        fs::write(folder.path().join("images/writer.toml"), WRITER)?;
        let (api, replication) = (free_address()?, free_address()?);
        let path = folder.path().display();
        let more = more.replace("FOLDER", &path.to_string());
        let config = format!(
            r#"
            node = "{node}"
            address = "{HOST}"
            api = {{ listen = "{api}" }}
            replication = {{ listen = "{replication}" }}
            storage = {{ kind = "directory", root = "{path}/volumes" }}
            runtime = {{ kind = "process", images = "{path}/images", state = "{path}/state" }}
            {more}
            "#
        );
        fs::write(folder.path().join("agent.toml"), config)?;
        let mut client = Client::new(Endpoint::Tcp(api), format!("agent of {node}"));
        if let Some(by) = by {
            let expected = Expected::Named(Identity::new(Role::Node, node));
            client = client.with_tls(by, expected);
        }
        let agent = Self {
            node,
            process: spawn(folder.path())?,
            client,
            api,
            replication,
            folder,
        };
        agent.answers().await?;
        Ok(agent)
    }

    pub(crate) async fn answers(&self) -> Result<NodeStatus> {
        let asks = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            loop {
                look.tick().await;
                if let Ok(status) = self.client.get("/v1/status", DEADLINE).await {
                    return status;
                }
            }
        };
        tokio::time::timeout(DEADLINE, asks)
            .await
            .with_context(|| format!("{} does not answer: {}", self.node, self.log()))
    }

    pub(crate) async fn post<A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &(impl serde::Serialize + Sync),
    ) -> Result<A, ErrorBody> {
        let path = format!("/v1/{path}");
        self.client.post(&path, request, DEADLINE).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        // Apps outlive their agent, so a test that failed has to end them itself.
        for pid in app_pids(&self.path("state")) {
            if let Some(group) = rustix::process::Pid::from_raw(pid) {
                let signal = rustix::process::Signal::KILL;
                let _ended = rustix::process::kill_process_group(group, signal);
            }
        }
    }
}

/// The apps that the records of an agent say to run.
pub(crate) fn app_pids(state: &Path) -> Vec<i32> {
    let records = fs::read_dir(state).into_iter().flatten().flatten();
    let pid = |record: fs::DirEntry| {
        let text = fs::read(record.path().join("container.json")).ok()?;
        let life = serde_json::from_slice::<Value>(&text).ok()?["life"].clone();
        let running = life["state"] == "running";
        let pid = life["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|_| running)
    };
    records.filter_map(pid).collect()
}

/// Starts the agent whose configuration is in this folder.
pub(crate) fn spawn(folder: &Path) -> Result<Child> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("agent.log"))?;
    Ok(Command::new(env!("CARGO_BIN_EXE_flocker-storage-agent"))
        .arg("--config")
        .arg(folder.join("agent.toml"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()?)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?)
}

pub(crate) fn at(epoch: u64) -> EpochRequest {
    EpochRequest {
        epoch: Epoch(epoch),
    }
}

/// The writer and its volume.
pub(crate) struct App {
    pub(crate) volume: VolumeId,
}

impl App {
    /// Makes the volume and starts the writer on it.
    pub(crate) async fn start(agent: &Agent) -> Result<Self> {
        let app = Self {
            volume: VolumeId::random(),
        };
        let request = CreateVolume {
            id: app.volume,
            name: "data".parse()?,
            size_bytes: None,
            epoch: Epoch(1),
        };
        let _volume: Value = agent.post("volumes", &request).await?;
        let spec = ContainerSpec {
            volumes: vec![Mount {
                volume: app.volume,
                name: "data".parse()?,
                mountpoint: "/data".into(),
            }],
            ..ContainerSpec::new("writer".parse()?, "writer")
        };
        let request = CreateContainer {
            spec,
            epoch: Epoch(1),
        };
        let _made: Value = agent.post("containers/writer/create", &request).await?;
        let _started: Value = agent.post("containers/writer/start", &at(1)).await?;
        Ok(app)
    }

    pub(crate) async fn replicate(
        &self,
        from: &Agent,
        to: &Agent,
    ) -> Result<ReplicateReply, ErrorBody> {
        let request = ReplicateRequest {
            peer: to.node.parse().expect("a good name"),
            to: to.replication,
            epoch: Epoch(1),
        };
        let path = format!("volumes/{}/replicate", self.volume);
        from.post(&path, &request).await
    }
}
