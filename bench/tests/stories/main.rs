//! Stories that cross programs: real binaries, real sockets, things that go wrong.

mod cluster;

use anyhow::{Context, Result, ensure};
use cluster::{APPLICATION, Cluster, DEPLOYMENT, PATIENCE, request};
use flocker_api::{
    ErrorCode,
    control::{MoveState, MoveStep, StepState},
    route::Operation,
    upstream::Balance,
};
use flocker_bench::testbed::ready;
use rustix::process::Signal;
use tokio::net::TcpListener;

#[tokio::test]
async fn an_app_moves_there_and_back_under_load_and_no_request_fails() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let load = cluster.load();
        for to in ["n2", "n1"] {
            let begun = cluster.begin_move("notes", to).await?;
            let ended = cluster.wait_ended(&begun).await?;
            ensure!(ended.state == MoveState::Done, "{ended:?}");
            ensure!(cluster.app().await?.node.as_str() == to, "not at {to}");
        }
        let written = load.end().await?;
        ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
        ensure!(written.acknowledged.len() > 20, "hardly any load");
        cluster.check_journal(&written).await
    })
    .await
}

#[tokio::test]
async fn an_app_changes_in_place_under_load_and_no_request_fails() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_generation(1).await?;
        let container = async || -> Result<_> {
            let seen = cluster.app().await?.container;
            Ok(seen.context("no container")?.runtime_id)
        };
        let mut before = container().await?;
        let load = cluster.load();
        for generation in [2, 3] {
            let reply = cluster.deploy_generation(generation).await?;
            ensure!(reply.changes.len() == 1, "{reply:?}");
            let after = container().await?;
            ensure!(after != before, "it is still the old container");
            before = after;
        }
        let written = load.end().await?;
        ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
        ensure!(written.acknowledged.len() > 20, "hardly any load");
        let again = cluster.deploy_generation(3).await?;
        ensure!(again.changes.is_empty(), "{again:?}");
        cluster.check_journal(&written).await
    })
    .await
}

#[tokio::test]
async fn options_of_a_route_outlive_a_move() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let routes = cluster.routes().await?;
        let [route, ..] = &routes[..] else {
            anyhow::bail!("no edge has the route");
        };
        ensure!(route.body_bytes_max == Some(1 << 20), "{route:?}");
        let mut by_hand = route.clone();
        by_hand.balance = Balance::LeastConnections;
        by_hand.slow_start_ms = 250;
        cluster
            .transact(vec![Operation::Set { route: by_hand }])
            .await?;
        let begun = cluster.begin_move("notes", "n2").await?;
        let ended = cluster.wait_ended(&begun).await?;
        ensure!(ended.state == MoveState::Done, "{ended:?}");
        cluster.wait_serving().await?;
        for moved in cluster.routes().await? {
            let options = (moved.balance, moved.slow_start_ms, moved.body_bytes_max);
            let expected = (Balance::LeastConnections, 250, Some(1 << 20));
            ensure!(options == expected, "{moved:?}");
            ensure!(moved.upstreams != routes[0].upstreams, "{moved:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused_at_once_and_goes_on_serving() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        for (app, to, code, named) in [
            ("notes", "n3", ErrorCode::NotFound, "n3"),
            ("blog", "n2", ErrorCode::NotFound, "blog"),
            ("notes", "n1", ErrorCode::AlreadyExists, "n1"),
        ] {
            let error = match cluster.begin_move(app, to).await {
                Ok(status) => anyhow::bail!("{app} to {to} was taken: {status:?}"),
                Err(error) => error,
            };
            ensure!(
                error.message.contains(named),
                "{error} does not name {named}"
            );
            ensure!(
                error.code == code || error.code == ErrorCode::InvalidRequest,
                "{app} to {to}: {:?} {error}",
                error.code
            );
        }

        let begun = cluster.begin_move("notes", "n2").await?;
        if let Err(second) = cluster.begin_move("notes", "n2").await {
            ensure!(second.code == ErrorCode::Busy, "{:?} {second}", second.code);
            ensure!(second.message.contains("notes"), "{second}");
        } else {
            anyhow::bail!("a second move of a moving app was taken");
        }
        let ended = cluster.wait_ended(&begun).await?;
        ensure!(ended.state == MoveState::Done, "{ended:?}");
        cluster.wait_serving().await
    })
    .await
}

#[tokio::test]
async fn what_stands_against_the_target_is_found_before_the_pause() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let load = cluster.load();

        // A port that another program holds.
        let nodes = cluster.bed.plan.nodes();
        let taken = TcpListener::bind((nodes[1].addresses[0], 8081)).await?;
        refused_in_preflight(cluster, "8081").await?;
        drop(taken);

        // An image that is not there.
        let images = cluster.bed.place("n2")?.folder.join("images/flocker");
        std::fs::rename(images.join("notes.toml"), images.join("gone.toml"))?;
        refused_in_preflight(cluster, "flocker/notes").await?;
        std::fs::rename(images.join("gone.toml"), images.join("notes.toml"))?;

        // A node that does not answer.
        cluster.kill("n2", "agent").await?;
        refused_in_preflight(cluster, "n2").await?;

        let written = load.end().await?;
        ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
        cluster.wait_serving().await
    })
    .await
}

/// A move to n2 fails, naming the cause, and no route was ever paused.
async fn refused_in_preflight(cluster: &Cluster, named: &str) -> Result<()> {
    let message = match cluster.begin_move("notes", "n2").await {
        Err(error) => error.message,
        Ok(begun) => {
            let ended = cluster.wait_ended(&begun).await?;
            ensure!(
                ended.state != MoveState::Done,
                "it moved in spite of {named}"
            );
            ensure!(
                ended.paused_at_ms.is_none(),
                "the app was paused: {ended:?}"
            );
            ended.reason.context("a failed move without a reason")?
        }
    };
    ensure!(message.contains(named), "'{message}' does not name {named}");
    Ok(())
}

#[tokio::test]
async fn a_move_ends_although_control_is_killed_at_any_step() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let load = cluster.load();
        for (number, step) in MoveStep::ALL.into_iter().enumerate() {
            let to = ["n2", "n1"][number % 2];
            // An earlier move may have been undone: then the app is already there.
            if cluster.app().await?.node.as_str() == to {
                continue;
            }
            let begun = cluster.begin_move("notes", to).await?;
            // As soon as the step was seen to have begun; it may be over by then, and the
            // move further on: killed anywhere, it has to end.
            ready::until("the step", PATIENCE, || async {
                let status = cluster.move_status(begun.id).await?;
                let begun = status
                    .steps
                    .iter()
                    .any(|s| s.step == step && s.state != StepState::Waiting);
                ensure!(begun || status.ended_ms.is_some(), "{step:?} has not begun");
                Ok(())
            })
            .await?;
            cluster.kill("control", "control").await?;
            cluster.bed.start_control().await?;
            let ended = cluster.wait_ended(&begun).await?;
            ensure!(
                matches!(ended.state, MoveState::Done | MoveState::Undone),
                "killed at {step:?}: {ended:?}"
            );
            cluster.wait_serving().await?;
        }
        let written = load.end().await?;
        ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
        cluster.check_journal(&written).await
    })
    .await
}

#[tokio::test]
async fn a_target_that_dies_in_precopy_costs_nothing() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let load = cluster.load();
        let n2 = cluster.bed.place("n2")?;
        let begun = cluster.begin_move("notes", "n2").await?;
        ready::until("the pre-copy", PATIENCE, || async {
            let status = cluster.move_status(begun.id).await?;
            let begun = status
                .steps
                .iter()
                .any(|s| s.step == MoveStep::Precopy && s.state != StepState::Waiting);
            ensure!(begun, "it has not begun");
            Ok(())
        })
        .await?;
        n2.stop("agent", Signal::KILL).await?;
        let ended = cluster.wait_ended(&begun).await?;
        let written = load.end().await?;
        cluster.wait_serving().await?;
        cluster.check_journal(&written).await?;
        // On a fast machine the move was through before the kill.
        if ended.state != MoveState::Done {
            ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
            ensure!(
                cluster.app().await?.node.as_str() == "n1",
                "it is not at n1"
            );
            ensure!(ended.reason.is_some_and(|reason| reason.contains("n2")));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_edge_that_comes_back_gets_its_routes_again() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        cluster.kill("n1", "edge-n1-a").await?;
        cluster.bed.start_edge("n1-a").await?;
        cluster.wait_serving().await?;
        let (status, _) = request(cluster.edges()[0], "POST /notes", "back 1").await?;
        ensure!(status == 201, "{status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_its_app_running() -> Result<()> {
    Cluster::story(async |cluster| {
        cluster.deploy_notes().await?;
        let load = cluster.load();
        cluster.kill("n1", "agent").await?;
        cluster.bed.start_agent("n1").await?;
        let begun = cluster.begin_move("notes", "n2").await?;
        let ended = cluster.wait_ended(&begun).await?;
        ensure!(ended.state == MoveState::Done, "{ended:?}");
        let written = load.end().await?;
        ensure!(written.failed.is_empty(), "failed: {:?}", written.failed);
        cluster.check_journal(&written).await
    })
    .await
}

#[tokio::test]
async fn a_file_with_mistakes_is_refused_with_its_lines() -> Result<()> {
    Cluster::story(async |cluster| {
        let application = APPLICATION.replace("grace: 10s", "grace: soon");
        let Err(error) = cluster.deploy(&application, DEPLOYMENT).await else {
            anyhow::bail!("it was taken");
        };
        ensure!(error.code == ErrorCode::InvalidRequest, "{error}");
        ensure!(error.message.contains("application.yml:"), "{error}");
        ensure!(
            cluster.status().await?.apps.is_empty(),
            "something was made"
        );
        Ok(())
    })
    .await
}
