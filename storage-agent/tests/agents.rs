//! Two agents, the real program, with directory storage and the process runtime: the story
//! of a move as the control service would tell it, and what is refused on the way.
//!
//! It is long because it holds one bed and the stories told on it.

#![expect(clippy::disallowed_methods, reason = "the test bed starts programs")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{
        CreateContainer, CreateVolume, EpochRequest, NodeStatus, PreflightReply, PreflightRequest,
        ReplicateReply, ReplicateRequest, StartReply, StopReply,
    },
    aside::{AsideCause, AsideDetails, Resolve, Resolved},
    client::{Client, Endpoint},
    container::{ContainerSpec, ContainerState, ContainerStatus, Mount, Probe},
    name::VolumeId,
    volume::{Epoch, Role, VolumeStatus},
};
use serde_json::Value;

/// How long anything may take before a test has failed.
const DEADLINE: Duration = Duration::from_secs(30);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Serves its volume by HTTP, once it has written its name and address there.
const WEB: &str = r#"
command = ["/bin/sh", "-c", '''
echo "$FLOCKER_NODE" >>"$FLOCKER_VOLUME/visits"
echo up
exec busybox httpd -f -p "$FLOCKER_ADDRESS:$PORT" -h "$FLOCKER_VOLUME"
''']
"#;

/// An agent and its client.
struct Agent {
    node: &'static str,
    folder: tempfile::TempDir,
    process: Child,
    client: Client,
    replication: SocketAddr,
}

impl Agent {
    async fn start(node: &'static str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("images"))?;
        fs::write(folder.path().join("images/web.toml"), WEB)?;
        let (api, replication) = (free_port()?, free_port()?);
        let path = folder.path().display();
        let config = format!(
            r#"
            node = "{node}"
            address = "{HOST}"
            api = {{ listen = "{HOST}:{api}" }}
            replication = {{ listen = "{HOST}:{replication}" }}
            storage = {{ kind = "directory", root = "{path}/volumes" }}
            runtime = {{ kind = "process", images = "{path}/images", state = "{path}/state" }}
            "#
        );
        fs::write(folder.path().join("agent.toml"), config)?;
        let endpoint = Endpoint::Tcp(SocketAddr::new(HOST, api));
        let agent = Self {
            node,
            process: spawn(folder.path())?,
            client: Client::new(endpoint, format!("agent of {node}")),
            replication: SocketAddr::new(HOST, replication),
            folder,
        };
        agent.answers().await?;
        Ok(agent)
    }

    async fn answers(&self) -> Result<NodeStatus> {
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
            .with_context(|| format!("{} does not answer", self.node))
    }

    /// Ends the agent by SIGKILL and starts another one.
    async fn restart(&mut self) -> Result<NodeStatus> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(self.folder.path())?;
        self.answers().await
    }

    async fn post<A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &(impl serde::Serialize + Sync),
    ) -> Result<A, ErrorBody> {
        self.client
            .post(&format!("/v1/{path}"), request, DEADLINE)
            .await
    }

    async fn text(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Endpoint::Tcp(address) = self.client.endpoint() else {
            anyhow::bail!("agents of this test listen on TCP");
        };
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn refusal(
        &self,
        path: &str,
        request: &(impl serde::Serialize + Sync),
    ) -> Result<ErrorBody> {
        match self.post::<Value>(path, request).await {
            Ok(answer) => anyhow::bail!("{path} was not refused: {answer}"),
            Err(error) => Ok(error),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        // Apps outlive their agent, so a test that failed has to end them itself.
        let records = fs::read_dir(self.path("state"))
            .into_iter()
            .flatten()
            .flatten();
        for record in records {
            let Ok(text) = fs::read(record.path().join("container.json")) else {
                continue;
            };
            let life = serde_json::from_slice::<Value>(&text).unwrap_or_default()["life"].clone();
            let pid = life["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if life["state"] == "running"
                && let Some(group) = pid.and_then(rustix::process::Pid::from_raw)
            {
                let _ended =
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
        }
    }
}

fn spawn(folder: &Path) -> Result<Child> {
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

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}

/// An app, its volume, and the requests about them.
struct App {
    volume: VolumeId,
    port: u16,
}

impl App {
    fn new() -> Result<Self> {
        Ok(Self {
            volume: VolumeId::random(),
            port: free_port()?,
        })
    }

    fn spec(&self) -> Result<ContainerSpec> {
        Ok(ContainerSpec {
            environment: BTreeMap::from([("PORT".to_owned(), self.port.to_string())]),
            ports: vec![self.port],
            volumes: vec![Mount {
                volume: self.volume,
                name: "web".parse()?,
                mountpoint: "/data".into(),
            }],
            ready: Some(Probe::Http {
                port: self.port,
                path: "/visits".to_owned(),
                timeout_ms: 20_000,
            }),
            pre_stop: Some(
                ["/bin/sh", "-c", "echo checkpoint >>$FLOCKER_VOLUME/visits"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            ..ContainerSpec::new("web".parse()?, "web")
        })
    }

    fn preflight(&self, epoch: u64) -> Result<PreflightRequest> {
        Ok(PreflightRequest {
            container: self.spec()?,
            volume_bytes: 4096,
            epoch: Epoch(epoch),
            look_only: false,
        })
    }

    async fn create_volume(&self, agent: &Agent) -> Result<VolumeStatus> {
        let request = CreateVolume {
            id: self.volume,
            name: "web".parse()?,
            size_bytes: None,
            epoch: Epoch(1),
        };
        Ok(agent.post("volumes", &request).await?)
    }

    async fn create(&self, agent: &Agent, epoch: u64) -> Result<ContainerStatus> {
        let request = CreateContainer {
            spec: self.spec()?,
            epoch: Epoch(epoch),
        };
        Ok(agent.post("containers/web/create", &request).await?)
    }

    async fn start(&self, agent: &Agent, epoch: u64) -> Result<StartReply> {
        Ok(agent.post("containers/web/start", &at(epoch)).await?)
    }

    async fn stop(&self, agent: &Agent, epoch: u64) -> Result<StopReply> {
        Ok(agent.post("containers/web/stop", &at(epoch)).await?)
    }

    async fn replicate(
        &self,
        from: &Agent,
        to: &Agent,
        epoch: u64,
    ) -> Result<ReplicateReply, ErrorBody> {
        let request = ReplicateRequest {
            peer: to.node.parse().expect("a good name"),
            to: to.replication,
            epoch: Epoch(epoch),
        };
        from.post(&format!("volumes/{}/replicate", self.volume), &request)
            .await
    }

    async fn volume(&self, agent: &Agent, verb: &str, epoch: u64) -> Result<VolumeStatus> {
        Ok(agent
            .post(&format!("volumes/{}/{verb}", self.volume), &at(epoch))
            .await?)
    }

    /// What the app itself says of its volume.
    async fn visits(&self) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect((HOST, self.port)).await?;
        stream.write_all(b"GET /visits HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        Ok(body.to_owned())
    }
}

fn at(epoch: u64) -> EpochRequest {
    EpochRequest {
        epoch: Epoch(epoch),
    }
}

#[tokio::test]
async fn an_app_moves_with_its_volume() -> Result<()> {
    let (n1, n2) = (Agent::start("n1").await?, Agent::start("n2").await?);
    let app = App::new()?;

    // It comes up on n1.
    let volume = app.create_volume(&n1).await?;
    assert_eq!((volume.role, volume.epoch), (Role::Primary, Epoch(1)));
    let free: PreflightReply = n1.post("preflight", &app.preflight(1)?).await?;
    assert_eq!(free.problems, Vec::<String>::new());
    assert_eq!(app.create(&n1, 1).await?.state, ContainerState::Created);
    let started = app.start(&n1, 1).await?;
    assert_eq!(started.container.state, ContainerState::Running);
    assert_eq!(
        started.container.addresses,
        [SocketAddr::new(HOST, app.port)]
    );
    assert!(started.started_us <= started.ready_us);
    assert_eq!(app.visits().await?, "n1\n");
    // Again is as good as once.
    assert_eq!(app.create(&n1, 1).await?.state, ContainerState::Running);
    assert_eq!(app.start(&n1, 1).await?.container, started.container);

    // Pre-copy while it serves; its container is made at the target.
    let full = app.replicate(&n1, &n2, 1).await?;
    assert!(full.full && full.bytes > 0);
    app.create(&n2, 2).await?;
    let refusal = n2.refusal("containers/web/start", &at(2)).await?;
    assert_eq!(refusal.code, ErrorCode::NotPrimary, "{refusal}");
    let _: Value = n1.post("containers/web/pre-stop", &at(1)).await?;

    // A volume in use is not taken away.
    let demote = format!("volumes/{}/demote", app.volume);
    let refusal = n1.refusal(&demote, &at(2)).await?;
    assert_eq!(refusal.code, ErrorCode::Busy);
    assert!(
        refusal.message.contains("used by web, which runs on n1"),
        "{refusal}"
    );

    // The pause: stop, last delta, pivot, promote, start.
    let stopped = app.stop(&n1, 1).await?;
    assert!(!stopped.killed);
    assert!(app.visits().await.is_err());
    let last = app.replicate(&n1, &n2, 1).await?;
    assert!(!last.full);
    let promoted = app.volume(&n2, "promote", 2).await?;
    assert_eq!((promoted.role, promoted.epoch), (Role::Primary, Epoch(2)));
    app.start(&n2, 2).await?;
    assert_eq!(app.visits().await?, "n1\ncheckpoint\nn2\n");

    // The old side becomes the replica and follows.
    let demoted = app.volume(&n1, "demote", 2).await?;
    assert_eq!((demoted.role, demoted.epoch), (Role::Replica, Epoch(2)));
    let refusal = n1.refusal("containers/web/start", &at(1)).await?;
    assert_eq!(refusal.code, ErrorCode::StaleEpoch, "{refusal}");
    let _: Value = n1
        .client
        .delete("/v1/containers/web", &at(2), DEADLINE)
        .await?;
    assert!(!app.replicate(&n2, &n1, 2).await?.full);
    let status = n1.answers().await?;
    assert_eq!(status.containers, []);
    assert_eq!(app.stop(&n2, 2).await?.exit_code, Some(143));
    Ok(())
}

/// A node dies with writes that no other has, another one takes over, and the first comes back:
/// read-only, until it is told that it is no primary any more.
#[tokio::test]
async fn a_node_that_comes_back_keeps_its_tail_aside_and_becomes_a_replica() -> Result<()> {
    let (mut n1, n2, app) = (
        Agent::start("n1").await?,
        Agent::start("n2").await?,
        App::new()?,
    );
    let root = app
        .create_volume(&n1)
        .await?
        .mounted_at
        .context("mounted")?;
    fs::write(root.join("both"), "1")?;
    app.replicate(&n1, &n2, 1).await?;
    fs::write(root.join("tail"), "only here")?;
    n1.process.kill()?;
    let root = app.volume(&n2, "promote", 2).await?;
    let root = root.mounted_at.context("mounted")?;
    fs::write(root.join("since"), "2")?;

    let status = n1.restart().await?;
    ensure!(status.volumes[0].epoch == Epoch(1), "{status:?}");
    // What control does with a primary that the store does not know.
    app.volume(&n1, "demote", 2).await?;
    let reply = app.replicate(&n2, &n1, 2).await?;
    ensure!(!reply.full, "from the common snapshot");
    // Whatever restarts meanwhile, it stays.
    for status in [n1.answers().await?, n1.restart().await?] {
        let volume = &status.volumes[0];
        ensure!(
            volume.role == Role::Replica && volume.epoch == Epoch(2),
            "{volume:?}"
        );
        ensure!(status.volumes.len() == 1, "what is kept is no volume");
        let aside = status.asides.first().context("the tail")?;
        ensure!(
            aside.cause == AsideCause::Diverged && aside.epoch == Epoch(1),
            "{aside:?}"
        );
    }
    let key = n1.answers().await?.asides[0].key;
    let metrics = n1.text("/metrics").await?;
    let gauge = "flocker_agent_asides{volume=\"web\",cause=\"diverged\"} 1";
    ensure!(metrics.contains(gauge), "{metrics}");

    let path = format!("/v1/asides/{}/{key}", app.volume);
    let details: AsideDetails = n1.client.get(&format!("{path}?paths=5"), DEADLINE).await?;
    let changes = details.changes.context("a common snapshot")?;
    ensure!(
        changes.total() == 1 && changes.paths[0].path == "tail",
        "{changes:?}"
    );
    let keep = Resolve::Keep {
        name: "web-before".parse()?,
    };
    let kept: Resolved = n1.post(&path["/v1/".len()..], &keep).await?;
    let place = kept
        .volume
        .context("a volume")?
        .mounted_at
        .context("mounted")?;
    ensure!(fs::read_to_string(place.join("tail"))? == "only here");
    ensure!(!place.join("since").exists());
    let error = n1.refusal(&path["/v1/".len()..], &keep).await?;
    ensure!(error.code == ErrorCode::NotFound, "{error:?}");
    ensure!(n1.answers().await?.asides.is_empty());
    app.replicate(&n2, &n1, 2).await?;
    Ok(())
}

#[tokio::test]
async fn verbs_of_a_past_epoch_are_refused() -> Result<()> {
    let n1 = Agent::start("n1").await?;
    let app = App::new()?;
    app.create_volume(&n1).await?;
    app.volume(&n1, "promote", 5).await?;
    let create = CreateContainer {
        spec: app.spec()?,
        epoch: Epoch(4),
    };
    let refusal = n1.refusal("containers/web/create", &create).await?;
    assert_eq!(refusal.code, ErrorCode::StaleEpoch);
    assert_eq!(refusal.details["current"], 5);
    app.create(&n1, 5).await?;
    app.start(&n1, 5).await?;
    for verb in ["start", "stop", "pre-stop"] {
        let refusal = n1
            .refusal(&format!("containers/web/{verb}"), &at(4))
            .await?;
        assert_eq!(refusal.code, ErrorCode::StaleEpoch, "{verb}: {refusal}");
    }
    let refusal = n1
        .refusal(&format!("volumes/{}/demote", app.volume), &at(4))
        .await?;
    assert_eq!(refusal.code, ErrorCode::StaleEpoch, "{refusal}");
    assert_eq!(app.visits().await?, "n1\n", "it served all along");
    let preflight: PreflightReply = n1.post("preflight", &app.preflight(4)?).await?;
    let problems = preflight.problems.join("; ");
    assert!(
        problems.contains("is at epoch 5 on n1, newer than epoch 4"),
        "{problems}"
    );
    app.stop(&n1, 5).await?;
    Ok(())
}

#[tokio::test]
async fn an_app_outlives_its_agent() -> Result<()> {
    let mut n1 = Agent::start("n1").await?;
    let app = App::new()?;
    app.create_volume(&n1).await?;
    app.create(&n1, 1).await?;
    let before = app.start(&n1, 1).await?.container;
    let status = n1.restart().await?;
    assert_eq!(status.containers, [before]);
    assert_eq!(app.visits().await?, "n1\n", "it was not started again");
    app.start(&n1, 1).await?;
    app.stop(&n1, 1).await?;
    assert!(app.visits().await.is_err());
    // What was stopped stays stopped.
    let status = n1.restart().await?;
    assert!(matches!(
        status.containers[0].state,
        ContainerState::Exited { .. }
    ));
    Ok(())
}

#[tokio::test]
async fn a_dead_peer_is_named_and_leaves_the_app_alone() -> Result<()> {
    let (n1, mut n2) = (Agent::start("n1").await?, Agent::start("n2").await?);
    let app = App::new()?;
    app.create_volume(&n1).await?;
    app.create(&n1, 1).await?;
    app.start(&n1, 1).await?;
    app.replicate(&n1, &n2, 1).await?;
    n2.process.kill()?;
    n2.process.wait()?;
    let error = app
        .replicate(&n1, &n2, 1)
        .await
        .err()
        .context("n2 is dead")?;
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    assert!(
        error.message.contains(&n2.replication.to_string()),
        "{error}"
    );
    assert_eq!(app.visits().await?, "n1\n");
    n2.restart().await?;
    assert!(!app.replicate(&n1, &n2, 1).await?.full);
    app.stop(&n1, 1).await?;
    Ok(())
}

#[tokio::test]
async fn preflight_names_everything_that_stands_against_an_app() -> Result<()> {
    let n1 = Agent::start("n1").await?;
    let app = App::new()?;
    let _taken = TcpListener::bind((HOST, app.port))?;
    let mut request = app.preflight(1)?;
    request.container.image = "absent".to_owned();
    request.volume_bytes = u64::MAX / 2;
    let PreflightReply { problems } = n1.post("preflight", &request).await?;
    for expected in [
        "image absent is not on n1",
        &format!("port {} of n1 (127.0.0.1:{}) is taken", app.port, app.port),
        "the storage of n1 has ",
    ] {
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{expected}: {problems:?}"
        );
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
    Ok(())
}

#[tokio::test]
async fn an_app_that_is_not_ready_says_what_it_said() -> Result<()> {
    let n1 = Agent::start("n1").await?;
    let app = App::new()?;
    app.create_volume(&n1).await?;
    let mut spec = app.spec()?;
    let script = |text: &str| Some(["/bin/sh", "-c", text].map(str::to_owned).to_vec());
    spec.command = script("echo no such luck >&2; exit 3");
    let create = |spec: &ContainerSpec| CreateContainer {
        spec: spec.clone(),
        epoch: Epoch(1),
    };
    let _: ContainerStatus = n1.post("containers/web/create", &create(&spec)).await?;
    let error = n1.refusal("containers/web/start", &at(1)).await?;
    assert_eq!(error.details["exit_code"], 3);
    assert!(
        error
            .message
            .contains("web on n1 ended with 3 before it was ready"),
        "{error}"
    );
    assert!(error.message.contains("no such luck"), "{error}");

    // One that runs and never answers is a timeout, and is then stopped like any other.
    spec.command = script("echo up; exec sleep 1000");
    spec.ready = Some(Probe::Tcp {
        port: app.port,
        timeout_ms: 100,
    });
    let _: ContainerStatus = n1.post("containers/web/create", &create(&spec)).await?;
    let error = n1.refusal("containers/web/start", &at(1)).await?;
    assert_eq!(error.code, ErrorCode::Timeout);
    assert!(
        error
            .message
            .contains("was not ready within 100ms: port 127.0.0.1:"),
        "{error}"
    );
    assert_eq!(app.stop(&n1, 1).await?.exit_code, Some(143));

    // A probe by command.
    spec.command = script("echo up >$FLOCKER_VOLUME/up; exec sleep 1000");
    spec.ready = Some(Probe::Exec {
        command: ["/bin/sh", "-c", "test -f $FLOCKER_VOLUME/up"]
            .map(str::to_owned)
            .to_vec(),
        timeout_ms: 20_000,
    });
    let _: ContainerStatus = n1.post("containers/web/create", &create(&spec)).await?;
    let _: StartReply = n1.post("containers/web/start", &at(1)).await?;
    app.stop(&n1, 1).await?;
    Ok(())
}

/// Looks until it is so, and fails when it is not in time.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<()> {
    let looks = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !is_so().await {
            look.tick().await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE, looks).await;
    seen.with_context(|| format!("waited in vain for {what}"))
}

/// An app that becomes ready, or ends when it is told to, only once a file is there.
fn held(app: &App, agent: &Agent) -> Result<ContainerSpec> {
    let mut spec = app.spec()?;
    let file = agent.path("go");
    let script = format!(
        "trap 'while ! test -f {0}; do sleep 0.01; done; exit 5' TERM; \
         echo up >$FLOCKER_VOLUME/up; while :; do sleep 0.01; done",
        file.display()
    );
    spec.command = Some(["/bin/sh", "-c", &script].map(str::to_owned).to_vec());
    spec.ready = Some(Probe::Exec {
        command: ["test", "-f"]
            .map(str::to_owned)
            .into_iter()
            .chain([file.display().to_string()])
            .collect(),
        timeout_ms: 20_000,
    });
    Ok(spec)
}

#[tokio::test]
async fn sigterm_lets_verbs_end_and_containers_run_on() -> Result<()> {
    let mut n1 = Agent::start("n1").await?;
    let app = App::new()?;
    app.create_volume(&n1).await?;
    let create = CreateContainer {
        spec: held(&app, &n1)?,
        epoch: Epoch(1),
    };
    let _: ContainerStatus = n1.post("containers/web/create", &create).await?;
    let up = n1.path("volumes/mounts/web/up");
    let epoch = at(1);
    let starts = n1.post::<StartReply>("containers/web/start", &epoch);
    let ends = async {
        eventually("the start", async || up.exists()).await?;
        let pid = i32::try_from(n1.process.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let port = match n1.client.endpoint() {
            Endpoint::Tcp(address) => *address,
            Endpoint::Unix(_) => anyhow::bail!("it listens on TCP"),
        };
        eventually("its end", async || {
            tokio::net::TcpStream::connect(port).await.is_err()
        })
        .await?;
        Ok(fs::write(n1.path("go"), "")?)
    };
    let (started, ended) = tokio::join!(starts, ends);
    ended?;
    assert_eq!(started?.container.state, ContainerState::Running);
    let process = &mut n1.process;
    eventually("the agent's end", async || {
        matches!(process.try_wait(), Ok(Some(_)))
    })
    .await?;
    let status = n1.process.wait()?;
    assert!(status.success(), "{status}");
    let status = n1.restart().await?;
    assert_eq!(status.containers[0].state, ContainerState::Running);
    app.stop(&n1, 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_verb_ends_though_its_client_went_away() -> Result<()> {
    let n1 = Agent::start("n1").await?;
    let app = App::new()?;
    app.create_volume(&n1).await?;
    let mut spec = held(&app, &n1)?;
    spec.ready = None;
    let create = CreateContainer {
        spec,
        epoch: Epoch(1),
    };
    let _: ContainerStatus = n1.post("containers/web/create", &create).await?;
    let _: StartReply = n1.post("containers/web/start", &at(1)).await?;
    let up = n1.path("volumes/mounts/web/up");
    eventually("its trap", async || up.exists()).await?;
    let short = Duration::from_millis(100);
    let path = "/v1/containers/web/stop";
    let stop = n1.client.post::<_, StopReply>(path, &at(1), short).await;
    assert_eq!(stop.unwrap_err().code, ErrorCode::Timeout);
    fs::write(n1.path("go"), "")?;
    // Nobody asks again, and it ends all the same.
    let exited = ContainerState::Exited { code: 5 };
    eventually("its end", async || {
        let status = n1.client.get::<NodeStatus>("/v1/status", DEADLINE).await;
        status.is_ok_and(|status| status.containers[0].state == exited)
    })
    .await?;
    assert_eq!(app.stop(&n1, 1).await?.exit_code, Some(5));
    Ok(())
}

#[tokio::test]
async fn the_api_answers_nonsense_with_its_reason() -> Result<()> {
    let n1 = Agent::start("n1").await?;
    let cases = [
        (
            "containers/Web/start",
            serde_json::json!({"epoch": 1}),
            "'Web'",
        ),
        (
            "containers/web/start",
            serde_json::json!({"epoch": -1}),
            "invalid value",
        ),
        (
            "containers/web/start",
            serde_json::json!({"epoch": 1, "x": 1}),
            "unknown field",
        ),
        (
            "volumes/7/promote",
            serde_json::json!({"epoch": 1}),
            "'7' is no volume id",
        ),
    ];
    for (path, request, reason) in cases {
        let error = n1.refusal(path, &request).await?;
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert!(error.message.contains(reason), "{error}");
    }
    let error = n1.refusal("nothing", &serde_json::json!({})).await?;
    assert_eq!(error.code, ErrorCode::NotFound);
    let error = n1.refusal("containers/web/start", &at(1)).await?;
    assert_eq!(error.code, ErrorCode::NotFound);
    let long = serde_json::json!({ "text": "a".repeat(2 << 20) });
    let error = n1.refusal("volumes", &long).await?;
    assert_eq!(error.code, ErrorCode::InvalidRequest, "{error}");
    Ok(())
}

#[test]
fn the_configuration_is_checked_before_anything_opens() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run = |text: &str| {
        let file = folder.path().join("agent.toml");
        fs::write(&file, text)?;
        anyhow::Ok(
            Command::new(env!("CARGO_BIN_EXE_flocker-storage-agent"))
                .args(["--check-config", "--config"])
                .arg(file)
                .output()?,
        )
    };
    let good = include_str!("../../config/storage-agent.toml");
    let output = run(good)?;
    ensure!(output.status.success() && output.stdout == b"ok\n");
    let output = run(&good.replace("kind = \"docker\"", "kind = \"podman\""))?;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("podman"), "{said}");
    Ok(())
}
