//! Moves that are given up, nodes that are drained and cordoned, links that follow: against the
//! simulated world.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod world;

use std::time::Duration;

use flocker_api::{
    app::App,
    container::{ContainerSpec, Link, LinkTarget},
    control::{MoveRequest, MoveState},
    drain::{DrainNode, DrainState, DrainStatus, DrainedState},
    name::AppName,
    route::RouteKey,
    volume::Epoch,
};
use flocker_control::{
    driver::{
        control::Control,
        store::{Durability, Store as _},
    },
    error::Refusal,
    logic::state::{AppRecord, Change, Primary},
};
use world::{Cluster, begin, edge_names, ended, node_name, notes};

/// No test waits longer than this, on the virtual clock.
const LONG: Duration = Duration::from_secs(600);

async fn drained(control: &Control, node: &str) -> DrainStatus {
    let node = node_name(node);
    let mut revision = 0;
    let ends = async {
        loop {
            let wait = Duration::from_secs(60);
            let status = control.drain_status(&node, revision, wait).await.unwrap();
            if status.ended_ms.is_some() {
                return status;
            }
            revision = status.revision;
        }
    };
    tokio::time::timeout(LONG, ends).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_move_may_be_given_up_at_any_time() {
    let mut undone = 0;
    let mut too_late = 0;
    for at_ms in (0..900).step_by(20) {
        let cluster = Cluster::serving();
        let slow = [
            ("replicate", 100),
            ("preflight", 50),
            ("stop", 100),
            ("start", 100),
        ];
        cluster.world.lock().slow = slow
            .map(|(verb, ms)| (verb, Duration::from_millis(ms)))
            .into();
        let control = cluster.control();
        let begun = begin(&control).await;
        tokio::time::sleep(Duration::from_millis(at_ms)).await;
        let aborted = control.abort_move(begun.id).await;
        let status = ended(&control, begun.id).await;
        match aborted {
            Ok(_) => {
                assert_eq!(
                    status.state,
                    MoveState::Undone,
                    "at {at_ms} ms: {status:#?}"
                );
                let reason = status.reason.unwrap_or_default();
                assert!(reason.contains("aborted"), "at {at_ms} ms: {reason}");
                undone += 1;
            }
            Err(Refusal::PastPivot { .. } | Refusal::MoveEnded { .. }) => {
                assert_eq!(status.state, MoveState::Done, "at {at_ms} ms");
                too_late += 1;
            }
            Err(other) => panic!("at {at_ms} ms: {other}"),
        }
        control.stop().await;
        cluster.finish().await;
        assert_eq!(cluster.world.lock().failed, 0, "at {at_ms} ms");
    }
    assert!(
        undone > 10 && too_late > 3,
        "{undone} undone, {too_late} too late"
    );
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_not_forgotten_with_its_control() {
    let cluster = Cluster::serving();
    cluster.world.lock().slow = [("replicate", Duration::from_secs(5))].into();
    let control = cluster.control();
    let begun = begin(&control).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    control.abort_move(begun.id).await.unwrap();
    // It dies before it has undone anything.
    control.stop().await;
    cluster.world.heal();
    let state = cluster.finish().await;
    assert_eq!(state.primaries[&notes()].node, node_name("n1"));
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_is_empty_and_gets_nothing() {
    let cluster = Cluster::serving();
    let control = cluster.control();
    control.start();
    assert!(cluster.until(|_, _| control.status().apps.len() == 1).await);
    let n1 = node_name("n1");
    let begun = control.drain(&n1, DrainNode::default()).await.unwrap();
    assert_eq!(begun.apps.len(), 1);
    let status = drained(&control, "n1").await;
    assert_eq!(status.state, DrainState::Done, "{status:#?}");
    assert_eq!(status.apps[0].state, DrainedState::Moved);
    assert_eq!(status.apps[0].to, Some(node_name("n2")));
    assert!(status.apps[0].pause_ms.is_some());
    cluster.settled().await;
    let back = MoveRequest {
        app: notes(),
        to: n1.clone(),
    };
    let refused = control.begin_move(&back).await.unwrap_err();
    assert!(matches!(refused, Refusal::Cordoned { .. }), "{refused}");
    // A later control knows it too.
    control.stop().await;
    let control = cluster.control();
    let refused = control.begin_move(&back).await.unwrap_err();
    assert!(matches!(refused, Refusal::Cordoned { .. }), "{refused}");
    control.cordon(&n1, false).await.unwrap();
    let begun = control.begin_move(&back).await.unwrap();
    assert_eq!(ended(&control, begun.id).await.state, MoveState::Done);
    control.stop().await;
    cluster.finish().await;
    assert_eq!(cluster.world.lock().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_place_to_go_says_so() {
    let cluster = Cluster::serving();
    let control = cluster.control();
    control.start();
    assert!(cluster.until(|_, _| control.status().apps.len() == 1).await);
    control.cordon(&node_name("n2"), true).await.unwrap();
    let n1 = node_name("n1");
    control.drain(&n1, DrainNode::default()).await.unwrap();
    let status = drained(&control, "n1").await;
    assert_eq!(status.state, DrainState::Incomplete);
    assert_eq!(status.apps[0].state, DrainedState::Stays);
    let reason = status.apps[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("no other node"), "{reason}");
    control.stop().await;
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_drain_leaves_no_app_half_way() {
    for at_ms in [10, 150, 350, 550, 800] {
        let cluster = Cluster::serving();
        cluster.world.lock().slow = [("replicate", 150), ("stop", 100), ("start", 100)]
            .map(|(verb, ms)| (verb, Duration::from_millis(ms)))
            .into();
        let control = cluster.control();
        control.start();
        assert!(cluster.until(|_, _| control.status().apps.len() == 1).await);
        let n1 = node_name("n1");
        control.drain(&n1, DrainNode::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(at_ms)).await;
        control.abort_drain(&n1).await.unwrap();
        let status = drained(&control, "n1").await;
        let moved = status.apps[0].state == DrainedState::Moved;
        let expected = if moved {
            DrainState::Done
        } else {
            DrainState::Incomplete
        };
        assert_eq!(status.state, expected, "at {at_ms} ms");
        control.stop().await;
        let state = cluster.finish().await;
        let there = state.primaries[&notes()].node == node_name("n2");
        assert_eq!(there, moved, "at {at_ms} ms");
        assert_eq!(cluster.world.lock().failed, 0, "at {at_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_follows_the_app_that_it_leads_to() {
    let cluster = Cluster::serving();
    let web: AppName = "web".parse().unwrap();
    let link = Link {
        alias: "db".to_owned(),
        local_port: 5432,
        remote_port: 5432,
        to: Some(LinkTarget {
            app: notes(),
            port: 8081,
        }),
    };
    let address = std::net::SocketAddrV4::new(link.address(&web), 5432);
    let key = RouteKey::Link(address);
    let mut container = ContainerSpec::new(web.clone(), "web");
    container.links = vec![link];
    cluster.declare(AppRecord::new(App::new(container)));
    let primary = Primary {
        node: node_name("n1"),
        epoch: Epoch(1),
    };
    let place = Change::PlacePrimary {
        app: web.clone(),
        primary,
    };
    cluster.store.commit(&[place], Durability::Synced).unwrap();
    let control = cluster.control();
    control.start();
    let [provider, others @ ..] = edge_names();
    let key = &key;
    let leads_to = |address: &str| {
        let address: std::net::SocketAddr = address.parse().unwrap();
        cluster.until(move |_, inner| {
            let entry = inner.edges[&edge_names()[0]].routes.get(key);
            entry.is_some_and(|entry| world::upstream(entry) == address)
        })
    };
    assert!(
        leads_to("127.0.1.1:8081").await,
        "{provider} provides the link"
    );
    let begun = begin(&control).await;
    let status = ended(&control, begun.id).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    // At once, and not when the reconciler sees it.
    assert!(leads_to("127.0.2.1:8081").await);
    cluster.settled().await;
    for edge in others {
        let has = cluster.world.lock().edges[&edge].routes.contains_key(key);
        assert!(!has, "{edge} has the link, too");
    }
    control.delete_app(&web).await.unwrap();
    let gone = cluster.until(|_, inner| {
        inner
            .edges
            .values()
            .all(|edge| !edge.routes.contains_key(key))
    });
    assert!(gone.await, "the link outlives the app that has it");
    control.stop().await;
    cluster.finish().await;
}
