//! What an agent does about apps that end by themselves, and what it says of those that run.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use flocker_api::{
    ErrorCode,
    agent::CreateContainer,
    container::{
        ContainerSpec, ContainerState, ContainerStatus, Health, HealthCheck, Restart, RestartPolicy,
    },
    exec::{ExecReply, ExecRequest},
    logs::{LogQuery, LogReply},
    volume::Epoch,
};
use serde_json::Value;

use super::bed::{Agent, DEADLINE, at, spawn};

/// Restarts come quickly, and a run of half a second is a good one.
const QUICK: &str = "limits = { restart_ms = 20, restart_max_ms = 100, restart_good_ms = 500 }";
/// Restarts take so long that a test sees the wait.
const SLOW: &str = "limits = { restart_ms = 60000, restart_max_ms = 60000 }";

/// Starts a shell script as an app.
async fn app(agent: &Agent, script: &str, restart: RestartPolicy) -> Result<()> {
    app_as(agent, script, |spec| spec.restart = restart).await
}

async fn app_as(
    agent: &Agent,
    script: &str,
    change: impl FnOnce(&mut ContainerSpec),
) -> Result<()> {
    fs::write(agent.path("images/sh.toml"), "command = ['/bin/sh']")?;
    let mut spec = ContainerSpec::new("sh".parse()?, "sh");
    spec.command = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    change(&mut spec);
    let request = CreateContainer {
        spec,
        epoch: Epoch(1),
    };
    let _made: Value = agent.post("containers/sh/create", &request).await?;
    let _started: Value = agent.post("containers/sh/start", &at(1)).await?;
    Ok(())
}

/// Looks until the app's status is so.
async fn until(
    agent: &Agent,
    what: &str,
    is: impl Fn(&ContainerStatus) -> bool,
) -> Result<ContainerStatus> {
    let looks = async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        loop {
            pause.tick().await;
            let status = agent.answers().await?;
            let found = status.containers.into_iter().find(|one| is(one));
            if let Some(found) = found {
                return anyhow::Ok(found);
            }
        }
    };
    tokio::time::timeout(DEADLINE, looks)
        .await
        .with_context(|| format!("{what}: {}", agent.log()))?
}

async fn logs(agent: &Agent, query: LogQuery) -> Result<LogReply> {
    let path = format!("/v1/containers/sh/logs{}", query.in_url());
    Ok(agent.client.get(&path, DEADLINE).await?)
}

fn texts(reply: &LogReply) -> Vec<&str> {
    reply.lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn an_app_that_ends_by_itself_is_started_again() -> Result<()> {
    let agent = Agent::start("n1", QUICK, None).await?;
    app(
        &agent,
        "echo run; sleep 0.05; exit 3",
        RestartPolicy::Always,
    )
    .await?;
    let status = until(&agent, "three restarts", |app| app.restarts >= 3).await?;
    assert_eq!(status.epoch, Epoch(1));
    let reply = logs(&agent, LogQuery::default()).await?;
    assert!(reply.lines.len() >= 3, "{reply:?}");
    // A stop ends that, in whichever phase it is met.
    let _stopped: Value = agent.post("containers/sh/stop", &at(1)).await?;
    let before = logs(&agent, LogQuery::default()).await?;
    let later = LogQuery {
        after: before.cursor,
        wait_ms: 400,
        ..LogQuery::default()
    };
    assert_eq!(texts(&logs(&agent, later).await?), Vec::<&str>::new());
    let stopped = until(&agent, "stopped", |_| true).await?;
    assert!(matches!(stopped.state, ContainerState::Exited { .. }));
    assert_eq!(stopped.restart, None, "it is control's to start");
    Ok(())
}

#[tokio::test]
async fn a_stop_in_the_pause_before_a_restart_ends_the_restarts() -> Result<()> {
    let agent = Agent::start("n1", SLOW, None).await?;
    app(&agent, "exit 1", RestartPolicy::Always).await.ok();
    let waits = |app: &ContainerStatus| matches!(app.restart, Some(Restart::Waiting { in_ms }) if in_ms > 1_000);
    until(&agent, "the pause", waits).await?;
    let _stopped: Value = agent.post("containers/sh/stop", &at(1)).await?;
    until(&agent, "no restart", |app| app.restart.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn policies_are_kept() -> Result<()> {
    let agent = Agent::start("n1", QUICK, None).await?;
    let on_failure = RestartPolicy::OnFailure {
        retries_max: Some(2),
    };
    let left = |app: &ContainerStatus| matches!(app.restart, Some(Restart::Left { .. }));
    app(&agent, "sleep 0.05; exit 1", on_failure).await?;
    let status = until(&agent, "left after two restarts", left).await?;
    assert_eq!(status.restarts, 2);
    assert_eq!(status.state, ContainerState::Exited { code: 1 });
    let _gone: Value = agent
        .client
        .delete("/v1/containers/sh", &at(1), DEADLINE)
        .await?;
    app(&agent, "sleep 0.05", RestartPolicy::Never).await?;
    let status = until(&agent, "left at once", left).await?;
    assert_eq!(status.restarts, 0);
    // On demand it starts all the same.
    let _started: Value = agent.post("containers/sh/start", &at(1)).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_takes_up_the_apps_of_the_one_before() -> Result<()> {
    let mut agent = Agent::start("n1", QUICK, None).await?;
    let script = "echo run; exec sleep 1000";
    app(&agent, script, RestartPolicy::Always).await?;
    let before = until(&agent, "it runs", |app| {
        app.state == ContainerState::Running
    })
    .await?;
    agent.process.kill()?;
    agent.process.wait()?;
    agent.process = spawn(agent.folder.path())?;
    let status = until(&agent, "it runs on", |_| true).await?;
    assert_eq!(status.runtime_id, before.runtime_id, "it was not restarted");
    assert_eq!(status.restarts, 0);
    // And the new agent watches over it.
    let pid = status.runtime_id.parse()?;
    let pid = rustix::process::Pid::from_raw(pid).context("a process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    until(&agent, "a restart", |app| app.restarts == 1).await?;
    Ok(())
}

#[tokio::test]
async fn output_is_followed_by_asking_again() -> Result<()> {
    let agent = Agent::start("n1", QUICK, None).await?;
    let script = "echo one; echo two >&2; read line </proc/self/fd/0; sleep 0.3; echo three; exec sleep 1000";
    app(&agent, script, RestartPolicy::Always).await?;
    let first = LogQuery {
        wait_ms: 10_000,
        ..LogQuery::default()
    };
    let mut reply = logs(&agent, first).await?;
    let mut seen: Vec<String> = texts(&reply).into_iter().map(str::to_owned).collect();
    while seen.len() < 3 {
        let next = LogQuery {
            after: reply.cursor,
            wait_ms: 10_000,
            ..LogQuery::default()
        };
        reply = logs(&agent, next).await?;
        anyhow::ensure!(!reply.lines.is_empty(), "{seen:?}: {}", agent.log());
        seen.extend(texts(&reply).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, ["one", "two", "three"]);
    let tail = LogQuery {
        tail: Some(1),
        ..LogQuery::default()
    };
    assert_eq!(texts(&logs(&agent, tail).await?), ["three"]);
    Ok(())
}

#[tokio::test]
async fn commands_run_inside_and_need_a_running_app() -> Result<()> {
    let agent = Agent::start("n1", QUICK, None).await?;
    app(&agent, "exec sleep 1000", RestartPolicy::Always).await?;
    let exec = async |script: &str, timeout_ms| {
        let request = ExecRequest {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout_ms,
        };
        agent
            .post::<ExecReply>("containers/sh/exec", &request)
            .await
    };
    let reply = exec("echo $FLOCKER_APP; echo bad >&2; exit 4", 20_000).await?;
    assert_eq!((reply.exit_code, reply.stdout.as_str()), (4, "sh\n"));
    assert_eq!((reply.stderr.as_str(), reply.truncated), ("bad\n", false));
    let error = exec("sleep 1000", 50).await.err().context("too long")?;
    assert_eq!(error.code, ErrorCode::Timeout);
    let _stopped: Value = agent.post("containers/sh/stop", &at(1)).await?;
    let error = exec("true", 20_000).await.err().context("not running")?;
    assert_eq!(error.code, ErrorCode::Precondition, "{error}");
    Ok(())
}

#[tokio::test]
async fn health_is_shown() -> Result<()> {
    let agent = Agent::start("n1", QUICK, None).await?;
    let ill = agent.path("ill");
    let check = HealthCheck {
        command: ["/bin/sh", "-c", &format!("! cat {}", ill.display())]
            .map(str::to_owned)
            .to_vec(),
        interval_ms: 10,
        timeout_ms: 20_000,
        retries: 2,
        start_period_ms: 0,
    };
    app_as(&agent, "exec sleep 1000", |spec| spec.health = Some(check)).await?;
    until(&agent, "well", |app| app.health == Some(Health::Well)).await?;
    fs::write(&ill, "a cold")?;
    let unwell = |app: &ContainerStatus| matches!(&app.health, Some(Health::Unwell { reason, .. }) if reason.contains("a cold"));
    let status = until(&agent, "unwell", unwell).await?;
    assert_eq!(status.restarts, 0, "nothing is restarted for it");
    fs::remove_file(&ill)?;
    until(&agent, "well again", |app| app.health == Some(Health::Well)).await?;
    Ok(())
}
