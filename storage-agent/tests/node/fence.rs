//! What a node does when nobody confirms it any more.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{FencePhase, LeasePolicy, LeaseRequest, LeaseStatus, OwnedVolume},
    container::ContainerState,
    volume::Epoch,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use super::bed::{Agent, App, DEADLINE, app_pids, at, spawn};

/// Short enough for a test, long enough to start something within.
const TTL: Duration = Duration::from_millis(2_500);
const TABLES: &str = "
    fence = { lease = 'FOLDER/lease' }
    limits = { fence_margin_ms = 500 }
";

async fn node() -> Result<(Agent, App)> {
    let agent = Agent::start("n1", TABLES, None).await?;
    let app = App::start(&agent).await?;
    Ok((agent, app))
}

async fn lease(agent: &Agent) -> Result<LeaseStatus> {
    Ok(agent.client.get("/v1/lease", DEADLINE).await?)
}

/// Reads the node's clock and grants from there, as control does.
async fn grant(agent: &Agent, policy: LeasePolicy, owned: &[OwnedVolume]) -> Result<LeaseRequest> {
    let request = LeaseRequest {
        stamp: lease(agent).await?.stamp,
        ttl_ms: u64::try_from(TTL.as_millis())?,
        policy,
        volumes: owned.to_vec(),
    };
    let _granted: LeaseStatus = agent.client.put("/v1/lease", &request, DEADLINE).await?;
    Ok(request)
}

/// Looks until it is so.
async fn until<T>(what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let looks = async {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        loop {
            pause.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    };
    tokio::time::timeout(DEADLINE, looks)
        .await
        .with_context(|| what.to_owned())?
}

async fn phase(agent: &Agent, phase: FencePhase) -> Result<LeaseStatus> {
    let look = async || {
        let lease = lease(agent).await?;
        Ok((lease.fence == phase).then_some(lease))
    };
    until(&format!("{phase:?}: {}", agent.log()), look).await
}

fn the_app(agent: &Agent) -> Result<Pid> {
    let pids = app_pids(&agent.path("state"));
    ensure!(pids.len() == 1, "{pids:?}: {}", agent.log());
    Pid::from_raw(pids[0]).context("a process")
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// What the writer has written.
fn log(agent: &Agent, app: &App) -> u64 {
    let path = agent.path(&format!("volumes/volumes/{}/data/log", app.volume));
    fs::metadata(path).map_or(0, |meta| meta.len())
}

async fn start(agent: &Agent) -> Result<Value, ErrorBody> {
    agent.post("containers/writer/start", &at(1)).await
}

/// After this no lease holds any more. Time itself is waited for: who could tell is stopped.
const EXPIRED: Duration = Duration::from_millis(2_600);

#[tokio::test]
async fn a_node_that_is_not_confirmed_ends_what_it_runs_and_begins_nothing() -> Result<()> {
    let (agent, app) = node().await?;
    grant(&agent, LeasePolicy::Enforced, &[]).await?;
    let writer = the_app(&agent)?;
    phase(&agent, FencePhase::Fenced).await?;
    assert!(!lives(writer));
    let length = log(&agent, &app);
    let status = agent.answers().await?;
    assert_eq!(status.volumes[0].mounted_at, None);
    assert!(matches!(
        status.containers[0].state,
        ContainerState::Exited { .. }
    ));
    for verb in [
        "containers/writer/start".to_owned(),
        format!("volumes/{}/promote", app.volume),
    ] {
        let refusal = agent.post::<Value>(&verb, &at(1)).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Unavailable);
        assert!(
            refusal.message.contains("the lease of node n1 has run out"),
            "{refusal}"
        );
    }
    assert_eq!(log(&agent, &app), length);

    // Confirmed again, it serves again, with what was written.
    grant(&agent, LeasePolicy::Enforced, &[]).await?;
    phase(&agent, FencePhase::Guarding).await?;
    start(&agent).await?;
    assert!(lives(the_app(&agent)?));
    until("it writes on", async || {
        Ok((log(&agent, &app) > length).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_frozen_node_writes_nothing_when_it_thaws() -> Result<()> {
    let (agent, app) = node().await?;
    let stale = grant(&agent, LeasePolicy::Enforced, &[]).await?;
    let writer = the_app(&agent)?;
    let whole = Pid::from_raw(i32::try_from(agent.process.id())?).context("a process")?;
    // The whole node: agent and app.
    kill_process(whole, Signal::STOP)?;
    kill_process_group(writer, Signal::STOP)?;
    let length = log(&agent, &app);
    // A grant that control has sent meanwhile waits in the socket, as the start of an app does.
    let late = tokio::spawn({
        let client = agent.client.clone();
        async move {
            client
                .put::<_, LeaseStatus>("/v1/lease", &stale, DEADLINE)
                .await
        }
    });
    tokio::time::sleep(EXPIRED).await;
    kill_process(whole, Signal::CONT)?;
    phase(&agent, FencePhase::Fenced).await?;
    let refusal = late.await?.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Precondition, "{refusal}");
    assert!(refusal.message.contains("ran out"), "{refusal}");
    // The app is thawed last, and is dead.
    let _gone = kill_process_group(writer, Signal::CONT);
    assert!(!lives(writer));
    assert_eq!(log(&agent, &app), length);
    Ok(())
}

#[tokio::test]
async fn the_next_agent_keeps_the_deadline_of_the_one_before() -> Result<()> {
    let (mut agent, app) = node().await?;
    grant(&agent, LeasePolicy::Enforced, &[]).await?;
    let writer = the_app(&agent)?;
    // One that comes back in time takes the app up.
    agent.process.kill()?;
    agent.process.wait()?;
    agent.process = spawn(agent.folder.path())?;
    agent.answers().await?;
    assert!(lives(writer));
    assert_eq!(lease(&agent).await?.policy, Some(LeasePolicy::Enforced));
    // One that comes too late ends it, before anybody has told it anything.
    agent.process.kill()?;
    agent.process.wait()?;
    tokio::time::sleep(EXPIRED).await;
    agent.process = spawn(agent.folder.path())?;
    until("it is ended", async || Ok((!lives(writer)).then_some(()))).await?;
    phase(&agent, FencePhase::Fenced).await?;
    assert_eq!(agent.answers().await?.volumes[0].id, app.volume);
    Ok(())
}

#[tokio::test]
async fn an_advisory_lease_that_runs_out_ends_nothing() -> Result<()> {
    let (agent, app) = node().await?;
    grant(&agent, LeasePolicy::Advisory, &[]).await?;
    let writer = the_app(&agent)?;
    let out = async || Ok((lease(&agent).await?.remaining_ms == 0).then_some(()));
    until("the lease has run out", out).await?;
    let length = log(&agent, &app);
    until("it writes on", async || {
        Ok((log(&agent, &app) > length).then_some(()))
    })
    .await?;
    assert!(lives(writer));
    assert_eq!(lease(&agent).await?.fences, 0);
    Ok(())
}

#[tokio::test]
async fn a_primary_waits_for_its_confirmation_after_a_boot() -> Result<()> {
    let (mut agent, app) = node().await?;
    // A boot: nothing runs, nothing is mounted.
    agent.process.kill()?;
    agent.process.wait()?;
    kill_process_group(the_app(&agent)?, Signal::KILL)?;
    fs::remove_file(agent.path("volumes/mounts/data"))?;
    agent.process = spawn(agent.folder.path())?;
    let mounted =
        async || -> Result<bool> { Ok(agent.answers().await?.volumes[0].mounted_at.is_some()) };
    assert!(!mounted().await?);
    // Not by a lease that does not name it, nor under another epoch.
    let owned = |epoch| OwnedVolume {
        id: app.volume,
        epoch: Epoch(epoch),
    };
    for volumes in [&[][..], &[owned(2)]] {
        grant(&agent, LeasePolicy::Advisory, volumes).await?;
        assert!(!mounted().await?);
    }
    agent.process.kill()?;
    agent.process.wait()?;
    agent.process = spawn(agent.folder.path())?;
    agent.answers().await?;
    grant(&agent, LeasePolicy::Advisory, &[owned(1)]).await?;
    assert!(agent.answers().await?.volumes[0].mounted_at.is_some());
    Ok(())
}
