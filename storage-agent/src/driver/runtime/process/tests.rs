//! Real processes, with a cgroup and without: started, stopped, killed, adopted.

use std::net::Ipv4Addr;

use flocker_api::{
    container::{ContainerSpec, ContainerState, StopPolicy},
    volume::Epoch,
};

use rustix::process::Pid;

use super::{record::Life, *};

/// How long anything may take before a test has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// How apps are told from other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Cgroup,
    ProcessGroup,
}

/// The means that this machine has: cgroups need a writable tree.
fn means() -> Vec<Means> {
    let probe = Cgroups::probe(&format!("probe-{}", std::process::id()));
    match probe {
        Some(_) => vec![Means::Cgroup, Means::ProcessGroup],
        None => vec![Means::ProcessGroup],
    }
}

struct Bed {
    folder: tempfile::TempDir,
    means: Means,
}

impl Bed {
    fn new(means: Means) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        Self { folder, means }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Process {
        let config = ProcessConfig {
            images: self.path("images"),
            state: self.path("state"),
            node: "n1".parse().unwrap(),
            address: Ipv4Addr::LOCALHOST.into(),
            kill_limit: DEADLINE,
            log_bytes_max: 1 << 20,
        };
        match self.means {
            Means::Cgroup => Process::open(config).unwrap(),
            Means::ProcessGroup => Process::with(Process::prepare(config).unwrap(), None).unwrap(),
        }
    }

    fn image(&self, name: &str, text: &str) {
        let file = self.path("images").join(format!("{name}.toml"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Makes and starts an app that is this shell script, and waits until it has said "up".
    async fn start(&self, runtime: &Process, script: &str, grace_ms: u64) -> AppName {
        let app: AppName = "app".parse().unwrap();
        self.image("sh", "command = [\"/bin/sh\"]");
        runtime
            .create(&self.blueprint("sh", Some(script), grace_ms))
            .await
            .unwrap();
        runtime.start(&app).await.unwrap();
        self.says(runtime, &app, "up").await;
        app
    }

    fn blueprint(&self, image: &str, script: Option<&str>, grace_ms: u64) -> Blueprint {
        Blueprint {
            spec: ContainerSpec {
                command: script.map(|script| ["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
                stop: StopPolicy {
                    signal: "SIGTERM".to_owned(),
                    grace_ms,
                },
                ..ContainerSpec::new("app".parse().unwrap(), image)
            },
            epoch: Epoch(4),
            volume_paths: vec![self.path("volume")],
        }
    }

    async fn says(&self, runtime: &Process, app: &AppName, word: &str) {
        eventually(word, async || {
            runtime.last_lines(app, 100).await.contains(word)
        })
        .await;
    }
}

impl Drop for Bed {
    /// A test that failed must not leave its app behind.
    fn drop(&mut self) {
        let Ok(folder) = fs::canonicalize(self.path("state/app")) else {
            return;
        };
        for pid in procfs::kin(None, &spawn::marker(&folder), &[]) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ended = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Looks until it is so, and fails when it is not in time.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looks = async {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        while !is_so().await {
            look.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, looks).await.is_ok(),
        "waited in vain for {what}"
    );
}

async fn found(runtime: &Process, app: &AppName) -> Container {
    runtime.find(app).await.unwrap().unwrap()
}

fn pid_of(container: &Container) -> i32 {
    container.runtime_id.parse().unwrap()
}

#[tokio::test]
async fn a_stop_takes_what_the_app_forked_too() {
    for means in means() {
        let bed = Bed::new(means);
        let runtime = bed.open();
        // One child in the app's group, one that has left its session.
        let script = "trap 'exit 7' TERM; sleep 1000 & echo pid $!; \
                      setsid sleep 1000 & echo pid $!; echo up; wait";
        let app = bed.start(&runtime, script, 10_000).await;
        let container = found(&runtime, &app).await;
        assert!(container.runs());
        let lines = runtime.last_lines(&app, 10).await;
        let pids: Vec<i32> = lines
            .lines()
            .filter_map(|line| line.strip_prefix("pid ")?.parse().ok())
            .collect();
        assert_eq!(pids.len(), 2);
        let ended = runtime.stop(&container).await.unwrap();
        let expected = Ended {
            exit_code: Some(7),
            killed: false,
        };
        assert_eq!(ended, expected, "{means:?}");
        for pid in pids {
            assert_eq!(procfs::start_ticks(pid), None, "{means:?} left {pid}");
        }
        let state = found(&runtime, &app).await.state;
        assert_eq!(state, ContainerState::Exited { code: 7 });
    }
}

#[tokio::test]
async fn an_app_that_does_not_hear_is_killed_after_its_grace() {
    for means in means() {
        let bed = Bed::new(means);
        let runtime = bed.open();
        let script = "trap '' TERM; echo up; while :; do sleep 1000; done";
        let app = bed.start(&runtime, script, 50).await;
        let ended = runtime.stop(&found(&runtime, &app).await).await.unwrap();
        let expected = Ended {
            exit_code: Some(137),
            killed: true,
        };
        assert_eq!(ended, expected, "{means:?}");
    }
}

#[tokio::test]
async fn a_later_agent_adopts_what_runs() {
    for means in means() {
        let bed = Bed::new(means);
        let runtime = bed.open();
        let script = "trap 'exit 7' TERM; sleep 1000 & echo up; wait";
        let app = bed.start(&runtime, script, 10_000).await;
        let before = found(&runtime, &app).await;
        drop(runtime);

        let runtime = bed.open();
        let after = found(&runtime, &app).await;
        assert_eq!(after, before);
        assert!(procfs::start_ticks(pid_of(&after)).is_some());
        let ended = runtime.stop(&after).await.unwrap();
        let unseen = Ended {
            exit_code: None,
            killed: false,
        };
        assert_eq!(ended, unseen, "{means:?}");
        assert_eq!(procfs::start_ticks(pid_of(&after)), None);
    }
}

#[tokio::test]
async fn what_ended_while_no_agent_ran_is_not_taken_for_running() {
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    let app = bed.start(&runtime, "echo up; exec sleep 1000", 100).await;
    let pid = pid_of(&found(&runtime, &app).await);
    drop(runtime);
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually("its end", async || procfs::start_ticks(pid).is_none()).await;

    let runtime = bed.open();
    let state = found(&runtime, &app).await.state;
    // The first runtime's watch lives in this process too, and may have seen the end.
    let unknown = ContainerState::Exited {
        code: container::EXIT_UNKNOWN,
    };
    let seen = ContainerState::Exited {
        code: i64::from(128 + Signal::KILL.as_raw()),
    };
    assert!(state == unknown || state == seen, "{state:?}");
    // The same id with another start is another process: here, this very test.
    drop(runtime);
    let mut record = Record::read(&bed.path("state/app")).unwrap();
    record.life = Life::Running {
        pid: i32::try_from(std::process::id()).unwrap(),
        start_ticks: 1,
        boot_id: boot_id(),
    };
    record.write(&bed.path("state/app")).unwrap();
    let runtime = bed.open();
    assert_eq!(found(&runtime, &app).await.state, unknown);
}

#[tokio::test]
async fn an_exit_is_an_event_and_survives_a_restart() {
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    let app = bed.start(&runtime, "echo up; exit 3", 100).await;
    let code = tokio::time::timeout(DEADLINE, runtime.ended(&app)).await;
    assert_eq!(code.unwrap().unwrap(), Some(3));
    drop(runtime);
    let runtime = bed.open();
    let state = found(&runtime, &app).await.state;
    assert_eq!(state, ContainerState::Exited { code: 3 });
    // It can be started again; the output of the run before is kept before the new one.
    runtime.start(&app).await.unwrap();
    tokio::time::timeout(DEADLINE, runtime.ended(&app))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        fs::read_to_string(bed.path("state/app/log")).unwrap(),
        "up\nup\n"
    );
    assert_eq!(runtime.last_lines(&app, 5).await, "up");
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_at_once_and_says_why() {
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    bed.image("ghost", "command = [\"/nonexistent/ghost\"]");
    let blueprint = bed.blueprint("ghost", None, 100);
    let app = &blueprint.spec.app;
    runtime.create(&blueprint).await.unwrap();
    runtime.start(app).await.unwrap();
    let code = tokio::time::timeout(DEADLINE, runtime.ended(app)).await;
    assert_eq!(code.unwrap().unwrap(), Some(127));
    let lines = runtime.last_lines(app, 5).await;
    assert!(lines.contains("/nonexistent/ghost"), "{lines}");
}

#[tokio::test]
async fn a_gate_that_is_closed_lets_nothing_run() {
    let bed = Bed::new(Means::ProcessGroup);
    let proof = bed.path("proof");
    #[expect(
        clippy::disallowed_methods,
        reason = "the gate alone, without its keeper"
    )]
    let status = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            spawn::GATE,
            "flocker",
            "/bin/sh",
            "-c",
            "echo >\"$0\"",
        ])
        .arg(&proof)
        .stdin(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    assert!(!proof.exists());
}

#[tokio::test]
async fn commands_run_beside_the_app_with_its_environment() {
    for means in means() {
        let bed = Bed::new(means);
        let runtime = bed.open();
        let app = bed
            .start(&runtime, "echo up; exec sleep 1000", 10_000)
            .await;
        let run = async |script: &str, limit| {
            let command = ["/bin/sh", "-c", script].map(str::to_owned);
            runtime.exec(&app, &command, limit, 1 << 10).await
        };
        let output = run(
            "echo $FLOCKER_APP@$FLOCKER_NODE $FLOCKER_VOLUME; echo bad >&2; exit 4",
            DEADLINE,
        );
        let expected = Output {
            exit_code: 4,
            stdout: format!("app@n1 {}\n", bed.path("volume").display()).into_bytes(),
            stderr: b"bad\n".to_vec(),
            truncated: false,
        };
        assert_eq!(output.await.unwrap(), expected);
        let limit = Duration::from_millis(50);
        let error = run("echo $$; exec sleep 1000", limit).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::CommandTimeout { .. }),
            "{error}"
        );
        runtime.stop(&found(&runtime, &app).await).await.unwrap();
    }
}

#[tokio::test]
async fn an_image_may_run_as_a_user_and_its_commands_too() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else; the agent then runs everything as itself.
        return;
    }
    for means in means() {
        let bed = Bed::new(means);
        let runtime = bed.open();
        let script = "id -u; id -G; echo up; exec sleep 1000";
        bed.image(
            "nobody",
            &format!("command = [\"/bin/sh\", \"-c\", \"{script}\"]\nuser = \"nobody\""),
        );
        let blueprint = bed.blueprint("nobody", None, 10_000);
        let app = &blueprint.spec.app;
        runtime.create(&blueprint).await.unwrap();
        runtime.start(app).await.unwrap();
        bed.says(&runtime, app, "up").await;
        assert_eq!(runtime.last_lines(app, 5).await, "65534\n65534\nup");
        let id = ["id", "-u"].map(str::to_owned);
        let output = runtime.exec(app, &id, DEADLINE, 1 << 10).await.unwrap();
        assert_eq!(output.text(), "65534\n");
        let ended = runtime.stop(&found(&runtime, app).await).await.unwrap();
        assert_eq!(ended.exit_code, Some(143), "{means:?}");
    }
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    bed.image("ghost", "command = [\"/bin/sh\"]\nuser = \"no-such-user\"");
    let error = runtime
        .create(&bed.blueprint("ghost", None, 1))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("'no-such-user' is not in /etc/passwd"),
        "{error}"
    );
}

#[tokio::test]
async fn images_are_found_by_name_and_refused_by_reason() {
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    bed.image("flocker/notes", "command = [\"/bin/true\"]");
    bed.image("empty", "command = []");
    bed.image("odd", "command = [\"a\"]\ncolour = 1");
    for good in ["flocker/notes", "flocker/notes:15"] {
        runtime.check_image(good).await.unwrap();
    }
    let cases = [
        ("absent", "image absent is not on n1: write "),
        ("../images/empty", "no path below the folder"),
        ("empty", "has no command"),
        ("odd", "colour"),
        ("", "no path below the folder"),
    ];
    for (image, reason) in cases {
        let error = runtime.check_image(image).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{image}: {error}");
    }
}

#[tokio::test]
async fn a_removed_container_leaves_nothing() {
    let bed = Bed::new(Means::ProcessGroup);
    let runtime = bed.open();
    bed.image("sh", "command = [\"/bin/sh\"]");
    let blueprint = bed.blueprint("sh", None, 100);
    let app = &blueprint.spec.app;
    runtime.create(&blueprint).await.unwrap();
    assert_eq!(found(&runtime, app).await.state, ContainerState::Created);
    runtime.remove(app).await.unwrap();
    runtime.remove(app).await.unwrap();
    assert_eq!(runtime.find(app).await.unwrap(), None);
    assert!(!bed.path("state/app").exists());
    let error = runtime.start(app).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Gone { .. }), "{error}");
}
