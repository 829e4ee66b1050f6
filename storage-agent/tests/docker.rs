//! The Docker runtime against a real engine that the test starts for itself.
//!
//! The engine lives in a mount namespace of its own, and where the test does not need to see
//! its processes in a PID namespace too, and dies with it: whatever the test leaves behind, no
//! container, shim or mount outlives it. That needs root, and fails loudly without.

#![expect(clippy::disallowed_methods, reason = "the test bed starts programs")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flocker_api::{
    agent::{FencePhase, LeasePolicy, LeaseRequest},
    container::{ContainerSpec, ContainerState, Link, Mount, StopPolicy},
    logs::{LogLine, LogQuery, LogStream},
    name::{AppName, VolumeId},
    volume::Epoch,
};
use flocker_storage_agent::driver::{
    fence::{Fence, FenceConfig},
    runtime::{Blueprint, Docker, Ended, LogBounds, Runtime, RuntimeError, docker::DockerConfig},
    volumes::StorageConfig,
};

/// How long anything may take before the test has failed.
const DEADLINE: Duration = Duration::from_secs(60);

const IMAGE: &str = "flocker/busybox";

/// Whether the test sees the engine's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processes {
    Seen,
    Hidden,
}

/// A Docker Engine of the test's own.
struct Engine {
    processes: Processes,
    folder: tempfile::TempDir,
    process: Child,
}

impl Engine {
    async fn start(processes: Processes) -> Result<Self> {
        // Short, for a unix socket's path holds 107 bytes.
        let folder = tempfile::Builder::new().prefix("fd").tempdir_in("/tmp")?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = fs::File::create(at("log"))?;
        let hidden = ["--pid", "--fork", "--kill-child", "--mount-proc"];
        let hidden = match processes {
            Processes::Hidden => hidden.as_slice(),
            Processes::Seen => &[],
        };
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(hidden)
            .arg("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args([
                "--pidfile",
                &at("pid"),
                "-H",
                &format!("unix://{}", at("socket")),
            ])
            .args(["--bridge=none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("dockerd cannot be started: docker.io and util-linux are needed")?;
        let mut engine = Self {
            processes,
            folder,
            process,
        };
        engine.ready().await?;
        engine.import()?;
        Ok(engine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn ready(&mut self) -> Result<()> {
        let answers = async {
            let mut look = tokio::time::interval(Duration::from_millis(50));
            loop {
                look.tick().await;
                if self.docker(&["version"]).status()?.success() {
                    return anyhow::Ok(());
                }
                if self.process.try_wait()?.is_some() {
                    anyhow::bail!("dockerd ended; it needs root");
                }
            }
        };
        let answered = tokio::time::timeout(DEADLINE, answers).await;
        answered
            .unwrap_or_else(|_| Err(anyhow::anyhow!("dockerd does not answer")))
            .with_context(|| fs::read_to_string(self.folder.path().join("log")).unwrap_or_default())
    }

    /// An image of one static program.
    fn import(&self) -> Result<()> {
        let root = self.path("root");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is needed")?;
        for name in ["sh", "sleep", "cat", "sync", "grep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
        }
        let tar = Command::new("tar")
            .arg("c")
            .arg("-C")
            .arg(&root)
            .arg(".")
            .output()?;
        let mut import = self
            .docker(&["import", "-c", "CMD [\"/bin/sleep\", \"1000\"]", "-", IMAGE])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut input = import.stdin.take().context("its input")?;
        input.write_all(&tar.stdout)?;
        drop(input);
        ensure!(import.wait()?.success(), "the image cannot be imported");
        Ok(())
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.path("socket").display()))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn runtime(&self) -> Runtime {
        runtime(&self.path("socket"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The end of the first process of its PID namespace is the end of all; without one
        // the engine has to end its containers and its helpers itself.
        if self.processes == Processes::Seen
            && let Ok(pid) = i32::try_from(self.process.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            drop(self.docker(&["rm", "-f", "flocker-seen"]).status());
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        } else {
            drop(self.process.kill());
        }
        drop(self.process.wait());
    }
}

fn runtime(socket: &Path) -> Runtime {
    Runtime::Docker(Docker::new(DockerConfig {
        socket: socket.to_owned(),
        node: "n1".parse().expect("a good name"),
        address: Ipv4Addr::LOCALHOST.into(),
        request_limit: DEADLINE,
        kill_limit: DEADLINE,
    }))
}

fn blueprint(app: &str, script: Option<&str>, grace_ms: u64, volume: &Path) -> Result<Blueprint> {
    Ok(Blueprint {
        spec: ContainerSpec {
            command: script.map(|script| ["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
            environment: BTreeMap::from([("MODE".to_owned(), "own".to_owned())]),
            ports: vec![8081],
            volumes: vec![Mount {
                volume: VolumeId::random(),
                name: "notes".parse()?,
                mountpoint: "/data".into(),
            }],
            cpu_shares: Some(512),
            stop: StopPolicy {
                signal: "SIGINT".to_owned(),
                grace_ms,
            },
            ..ContainerSpec::new(app.parse()?, IMAGE)
        },
        epoch: Epoch(4),
        volume_paths: vec![volume.to_owned()],
    })
}

/// Waits until the app has written this line into its volume.
async fn wrote(volume: &Path, line: &str) -> Result<String> {
    let looks = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        loop {
            look.tick().await;
            let text = fs::read_to_string(volume.join("journal")).unwrap_or_default();
            if text.lines().any(|written| written == line) {
                return text;
            }
        }
    };
    tokio::time::timeout(DEADLINE, looks)
        .await
        .with_context(|| format!("'{line}' was never written"))
}

#[tokio::test]
async fn a_container_lives_its_life_on_a_real_engine() -> Result<()> {
    let engine = Engine::start(Processes::Hidden).await?;
    let runtime = engine.runtime();
    let status = runtime.status().await;
    assert_eq!(status.problem, None);

    // A foreign container, with a name that looks like ours, is neither seen nor touched.
    let foreign = [
        "create",
        "--name",
        "flocker-foreign",
        "--network",
        "none",
        IMAGE,
    ];
    ensure!(engine.docker(&foreign).status()?.success());
    assert_eq!(runtime.list().await?, []);
    let error = runtime.find(&"foreign".parse()?).await.err();
    assert!(
        matches!(error, Some(RuntimeError::Foreign { .. })),
        "{error:?}"
    );

    // The container is made before its volume is there, as on the target of a move.
    let volume = engine.path("volume");
    let script = "trap 'echo bye >>/data/journal; exit 7' INT; \
                  echo $FLOCKER_APP $FLOCKER_NODE $FLOCKER_ADDRESS $FLOCKER_VOLUME $MODE \
                  >>/data/journal; echo said; while :; do sleep 0.05; done";
    let made = blueprint("notes", Some(script), 20_000, &volume)?;
    let app: AppName = made.spec.app.clone();
    runtime.create(&made).await?;
    let found = runtime.find(&app).await?.context("it was just made")?;
    assert_eq!(found.state, ContainerState::Created);
    assert_eq!((&found.spec, found.epoch), (&made.spec, Epoch(4)));
    fs::create_dir_all(&volume)?;

    runtime.start(&app).await?;
    wrote(&volume, "notes n1 127.0.0.1 /data own").await?;
    let output = runtime
        .exec(
            &app,
            &["/bin/sh", "-c", "echo beside; exit 4"].map(str::to_owned),
            DEADLINE,
            1 << 10,
        )
        .await?;
    assert_eq!((output.exit_code, output.text().as_str()), (4, "beside\n"));
    assert_eq!(runtime.last_lines(&app, 5).await, "said");

    // Another agent finds it by what the engine remembers.
    let later = engine.runtime();
    let running = later.find(&app).await?.context("it runs")?;
    assert_eq!((&running.spec, running.runs()), (&made.spec, true));
    assert_eq!(later.list().await?, std::slice::from_ref(&running));

    let ended = later.stop(&running).await?;
    let by_signal = Ended {
        exit_code: Some(7),
        killed: false,
    };
    assert_eq!(ended, by_signal);
    assert!(wrote(&volume, "bye").await?.ends_with("bye\n"));
    let again = later.stop(&running).await?;
    assert_eq!(again, by_signal, "a repeated stop is success");
    let state = later.find(&app).await?.map(|found| found.state);
    assert_eq!(state, Some(ContainerState::Exited { code: 7 }));

    // It starts again from where it is, and can be removed when it has ended.
    runtime.start(&app).await?;
    assert_eq!(runtime.stop(&running).await?, by_signal);
    runtime.remove(&app).await?;
    runtime.remove(&app).await?;
    assert_eq!(runtime.find(&app).await?, None);

    deaf(&runtime, &volume).await?;
    missing(&runtime, &volume).await
}

/// An app that does not hear its signal is killed after its grace.
async fn deaf(runtime: &Runtime, volume: &Path) -> Result<()> {
    let script = "trap '' INT; echo deaf >>/data/journal; while :; do sleep 1000; done";
    let made = blueprint("deaf", Some(script), 50, volume)?;
    runtime.create(&made).await?;
    runtime.start(&made.spec.app).await?;
    wrote(volume, "deaf").await?;
    let running = runtime.find(&made.spec.app).await?.context("it runs")?;
    let ended = runtime.stop(&running).await?;
    let by_force = Ended {
        exit_code: Some(137),
        killed: true,
    };
    assert_eq!(ended, by_force);
    Ok(runtime.remove(&made.spec.app).await?)
}

/// What is not there is named, with its node.
async fn missing(runtime: &Runtime, volume: &Path) -> Result<()> {
    let mut made = blueprint("ghost", None, 50, volume)?;
    made.spec.image = "flocker/absent:9".to_owned();
    let error = runtime.create(&made).await.err().context("no image")?;
    let message = error.to_string();
    assert!(
        message.starts_with("image flocker/absent:9 is not on n1"),
        "{message}"
    );
    let error = runtime
        .start(&made.spec.app)
        .await
        .err()
        .context("no container")?;
    assert!(matches!(error, RuntimeError::Gone { .. }), "{error}");
    Ok(())
}

/// Where the container's processes can be seen, their end is seen before the engine tells of
/// it; what is asked afterwards waits for the engine.
#[tokio::test]
async fn the_kernel_is_believed_before_the_engine() -> Result<()> {
    let engine = Engine::start(Processes::Seen).await?;
    let runtime = engine.runtime();
    let volume = engine.path("volume");
    let script = "trap 'exit 7' INT; sleep 1000 & echo up >>/data/journal; wait";
    let made = blueprint("seen", Some(script), 20_000, &volume)?;
    let app = &made.spec.app;
    runtime.create(&made).await?;
    for _ in 0..2 {
        runtime.start(app).await?;
        wrote(&volume, "up").await?;
        let running = runtime.find(app).await?.context("it runs")?;
        let pid = running.pid.context("its process")?;
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        let ended = runtime.stop(&running).await?;
        // The engine may have been quicker for once; then it has told the exit code as well.
        assert!(matches!(ended.exit_code, None | Some(7)), "{ended:?}");
        assert!(!ended.killed);
        let root = fs::read_link(format!("/proc/{pid}/root"));
        assert!(root.is_err(), "{pid} is still there");
        let found = runtime.find(app).await?.context("it ended")?;
        assert_eq!(found.state, ContainerState::Exited { code: 7 });
        fs::remove_file(volume.join("journal"))?;
    }
    Ok(runtime.remove(app).await?)
}

/// The fence of a node that stores in directories below `root`.
fn fence(root: &Path) -> Result<Fence> {
    Ok(Fence::start(FenceConfig {
        node: "n1".parse()?,
        storage: StorageConfig::Directory {
            root: root.to_owned(),
            mount_root: None,
        },
        lease: root.join("lease"),
        watchdog: None,
        margin: Duration::from_millis(200),
        kill: Duration::from_secs(10),
    })?)
}

/// Grants a lease, and waits until it has run out and the fence has done what it is for.
async fn lapse(fence: &Fence) -> Result<()> {
    let grant = LeaseRequest {
        stamp: fence.status().stamp,
        ttl_ms: 600,
        policy: LeasePolicy::Enforced,
        volumes: Vec::new(),
    };
    let renewed = fence.renew(&grant);
    renewed.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let fenced = async {
        while fence.status().fence != FencePhase::Fenced {
            tokio::task::yield_now().await;
        }
    };
    let fenced = tokio::time::timeout(DEADLINE, fenced).await;
    fenced.context("it does not fence")
}

/// The lease of a node runs out while a deaf app and what it has forked write to its volume: both
/// are dead when the fence says so, without the engine's help; what is not ours runs on.
#[tokio::test]
async fn the_fence_kills_containers_and_has_proof_of_it() -> Result<()> {
    let engine = Engine::start(Processes::Seen).await?;
    let runtime = engine.runtime();
    let root = engine.path("agent");
    let volume = root.join("volumes/notes");
    fs::create_dir_all(&volume)?;
    fs::create_dir_all(root.join("mounts"))?;
    let mount = root.join("mounts/notes");
    std::os::unix::fs::symlink(&volume, &mount)?;
    let bystander = [
        "run",
        "-d",
        "--name",
        "bystander",
        "--network",
        "none",
        IMAGE,
    ];
    ensure!(engine.docker(&bystander).status()?.success());
    let script = "trap '' INT TERM; \
                  (while :; do echo more >>/data/journal; sleep 0.01; done) & \
                  while :; do sleep 1000; done";
    let made = blueprint("seen", Some(script), 20_000, &volume)?;
    let app = &made.spec.app;
    runtime.create(&made).await?;

    let fence = fence(&root)?;
    runtime.start(app).await?;
    let running = runtime.find(app).await?.context("it runs")?;
    let pid = running.pid.context("its process")?;
    fence.watch(&running);
    wrote(&volume, "more").await?;
    lapse(&fence).await?;

    let written = fs::metadata(volume.join("journal"))?.len();
    ensure!(
        fs::read_link(format!("/proc/{pid}/root")).is_err(),
        "{pid} lives"
    );
    ensure!(!mount.exists(), "the volume can still be reached");
    fence.end();
    // The engine comes to know of it, and by then nothing more was written.
    let ended = runtime.stop(&running).await?;
    let found = runtime.find(app).await?.context("it ended")?;
    assert_eq!(
        found.state,
        ContainerState::Exited { code: 137 },
        "{ended:?}"
    );
    assert_eq!(fs::metadata(volume.join("journal"))?.len(), written);
    let top = engine.docker(&["top", "bystander"]).status()?;
    ensure!(top.success(), "a container that is not ours was killed");
    ensure!(
        engine
            .docker(&["rm", "-f", "bystander"])
            .status()?
            .success()
    );
    Ok(runtime.remove(app).await?)
}

/// The first lines of an app's log, when there are so many.
async fn lines_of(runtime: &Runtime, app: &AppName, count: usize) -> Result<Vec<LogLine>> {
    let bounds = LogBounds {
        lines: 100,
        bytes: 1 << 20,
    };
    let mut query = LogQuery {
        wait_ms: 20_000,
        ..LogQuery::default()
    };
    let mut lines = Vec::new();
    while lines.len() < count {
        let reply = runtime.logs(app, &query, bounds).await?;
        ensure!(!reply.lines.is_empty(), "{lines:?}");
        query.after = reply.cursor;
        lines.extend(reply.lines);
    }
    Ok(lines)
}

/// What was declared of the app `full` stands in the engine.
fn limits_are_the_engines(engine: &Engine) -> Result<()> {
    let inspected = engine
        .docker(&["inspect", "flocker-full"])
        .stdout(Stdio::piped())
        .output()?;
    let all: serde_json::Value = serde_json::from_slice(&inspected.stdout)?;
    let host = &all[0]["HostConfig"];
    assert_eq!(host["NanoCpus"], 1_500_000_000_u64);
    assert_eq!(host["PidsLimit"], 64);
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(
        host["RestartPolicy"]["Name"], "no",
        "restarts are the agent's"
    );
    assert_eq!(all[0]["Config"]["Labels"]["tier"], "front");
    Ok(())
}

/// What Compose files say of a container arrives in it, and what it writes can be asked for.
#[tokio::test]
async fn a_container_is_what_its_specification_says() -> Result<()> {
    let engine = Engine::start(Processes::Hidden).await?;
    let runtime = engine.runtime();
    let volume = engine.path("volume");
    fs::create_dir_all(&volume)?;
    let mut made = blueprint("full", None, 20_000, &volume)?;
    let spec = &mut made.spec;
    let script = "echo said $0 $1; grep database /etc/hosts; echo $DATABASE_PORT_5432_TCP; \
                  echo wrong >&2; exec sleep 1000";
    spec.entrypoint = Some(["/bin/sh", "-c"].map(str::to_owned).to_vec());
    spec.command = Some([script, "zero", "one"].map(str::to_owned).to_vec());
    spec.cpu_shares = None;
    spec.cpu_millis = Some(1_500);
    spec.pids_max = Some(64);
    spec.memory_bytes = Some(64 << 20);
    spec.labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    let link = Link {
        alias: "database".to_owned(),
        local_port: 5432,
        remote_port: 5432,
        to: None,
    };
    let at = link.address(&spec.app);
    spec.links = vec![link];
    let app = spec.app.clone();
    runtime.create(&made).await?;
    runtime.start(&app).await?;
    let lines = lines_of(&runtime, &app, 4).await?;
    let of = |stream| {
        let lines = lines.iter().filter(move |line| line.stream == Some(stream));
        lines.map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    let out = of(LogStream::Stdout);
    assert_eq!(out[0], "said zero one");
    assert_eq!(
        out[1].split_whitespace().next(),
        Some(at.to_string().as_str())
    );
    assert_eq!(out[2], format!("tcp://{at}:5432"));
    assert_eq!(of(LogStream::Stderr), ["wrong"]);
    assert!(lines.iter().all(|line| line.at_ms.is_some()));

    limits_are_the_engines(&engine)?;

    // An image that is nowhere: which, where, and that no registry gave it.
    let error = runtime
        .fetch_image("registry.invalid/absent:9", Duration::from_secs(20))
        .await
        .err()
        .context("no image")?
        .to_string();
    assert!(
        error.contains("registry.invalid/absent:9 is not on n1"),
        "{error}"
    );
    assert!(error.contains("no registry gave it"), "{error}");
    let running = runtime.find(&app).await?.context("it runs")?;
    runtime.stop(&running).await?;
    Ok(runtime.remove(&app).await?)
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_a_problem_and_not_a_crash() {
    let runtime = runtime(Path::new("/nonexistent/docker.sock"));
    let problem = runtime.status().await.problem.unwrap_or_default();
    assert!(problem.contains("/nonexistent/docker.sock"), "{problem}");
    let error = runtime.list().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
}
