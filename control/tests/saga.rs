//! The move against a simulated world: killed at every commit and at every call, each call
//! lost, repeated or refused, nodes and edges dying. Whatever happens: never two writers, never
//! a lost acknowledged write, every move ends, no gate stays paused, routes lead to the app.

mod world;

use std::{sync::Arc, time::Duration};

use flocker_api::{
    ErrorCode,
    app::OnBusy,
    control::{MoveState, MoveStep, StepState},
    volume::Epoch,
};
use flocker_control::{driver::peers::Method, error::Refusal};
use tokio::time::timeout;
use world::{
    BrittleStore, Cluster, Fault, Loses, app, begin, blank_edge, edge_names, ended, node_name,
    notes, with_token,
};

/// No test waits longer than this, on the virtual clock.
const LONG: Duration = Duration::from_secs(600);

async fn move_without_trouble(cluster: &Cluster) -> flocker_api::control::MoveStatus {
    let control = cluster.control();
    let begun = begin(&control).await;
    let status = ended(&control, begun.id).await;
    control.stop().await;
    status
}

#[tokio::test(start_paused = true)]
async fn an_app_moves_and_nothing_fails() {
    let cluster = Cluster::serving();
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    assert!(
        status
            .steps
            .iter()
            .all(|step| step.state == StepState::Done)
    );
    assert_eq!(
        status.rounds.len(),
        3,
        "two rounds of pre-copy, one of prepare"
    );
    assert!(status.final_delta.is_some() && status.token.is_some());
    assert!(status.pause_ms.is_some() && status.paused_at_ms.is_some());
    assert_eq!(status.app_start_ms, Some(5.0));
    assert!(status.held > 0 && status.refused == 0);
    cluster.check();
    assert_eq!(cluster.world.lock().failed, 0);
    assert!(cluster.world.lock().released > 0);
    let state = cluster.finish().await;
    let primary = &state.primaries[&notes()];
    assert_eq!((primary.node.as_str(), primary.epoch), ("n2", Epoch(2)));
}

#[tokio::test(start_paused = true)]
async fn an_app_moves_there_and_back() {
    let cluster = Cluster::serving();
    move_without_trouble(&cluster).await;
    let control = cluster.control();
    let back = flocker_api::control::MoveRequest {
        app: notes(),
        to: node_name("n1"),
    };
    let begun = control.begin_move(&back).await.unwrap();
    assert_eq!(ended(&control, begun.id).await.state, MoveState::Done);
    assert_eq!(control.moves()[0].id, begun.id, "newest first");
    control.stop().await;
    assert_eq!(cluster.world.lock().failed, 0);
    cluster.finish().await;
}

/// Commits that a move without trouble takes.
async fn commits_of_a_move() -> usize {
    const PLENTY: usize = 1_000;
    let cluster = Cluster::serving();
    let store = BrittleStore::new(&cluster.store, PLENTY, Loses::Commit);
    let control = cluster.control_on(Arc::clone(&store) as _);
    let begun = begin(&control).await;
    ended(&control, begun.id).await;
    control.stop().await;
    PLENTY - store.left()
}

#[tokio::test(start_paused = true)]
async fn control_killed_at_every_commit() {
    let commits = commits_of_a_move().await;
    assert!(commits > 10, "{commits} commits");
    for loses in [Loses::Commit, Loses::Answer, Loses::Unsynced] {
        // The first commit is the one that begins the move.
        for good in 1..commits {
            let cluster = Cluster::serving();
            let store = BrittleStore::new(&cluster.store, good, loses);
            let control = cluster.control_on(Arc::clone(&store) as _);
            begin(&control).await;
            timeout(LONG, store.dead.notified()).await.unwrap();
            control.stop().await;
            a_fresh_control_ends_it(&cluster, loses, "n2", good).await;
        }
    }
}

/// After a death at the commit that follows `good` ones, the app ends up on `node` and none of
/// its requests has failed.
async fn a_fresh_control_ends_it(cluster: &Cluster, loses: Loses, node: &str, good: usize) {
    if loses == Loses::Unsynced {
        cluster.store.crash();
    }
    let state = cluster.finish().await;
    assert_eq!(
        state.primaries[&notes()].node,
        node_name(node),
        "{loses:?} {good}"
    );
    assert_eq!(cluster.world.lock().failed, 0, "{loses:?} {good}");
}

#[tokio::test(start_paused = true)]
async fn control_killed_at_every_commit_of_an_undo() {
    for loses in [Loses::Commit, Loses::Answer, Loses::Unsynced] {
        for good in 1.. {
            let cluster = Cluster::serving();
            // The last delta never arrives.
            cluster.world.script(|call, inner| {
                (call.is("replicate") && inner.stops > 0).then_some(Fault::Refused)
            });
            let store = BrittleStore::new(&cluster.store, good, loses);
            let control = cluster.control_on(Arc::clone(&store) as _);
            let begun = begin(&control).await;
            let undone = tokio::select! {
                status = ended(&control, begun.id) => Some(status),
                () = store.dead.notified() => None,
            };
            control.stop().await;
            a_fresh_control_ends_it(&cluster, loses, "n1", good).await;
            if undone.is_some() {
                assert!(good > 10, "the undo takes commits too");
                break;
            }
        }
    }
}

/// Calls that a move without trouble takes.
async fn calls_of_a_move() -> usize {
    let cluster = Cluster::serving();
    move_without_trouble(&cluster).await;
    let calls = cluster.world.lock().calls;
    assert!(calls > 25, "{calls} calls");
    calls
}

#[tokio::test(start_paused = true)]
async fn control_killed_at_every_call() {
    for fault in [Fault::Freeze, Fault::FreezeAfter] {
        // The first two calls are the ones that `begin_move` makes before it answers.
        for number in 2..calls_of_a_move().await {
            let cluster = Cluster::serving();
            cluster
                .world
                .script(move |call, _| (call.number == number).then_some(fault));
            let control = cluster.control();
            begin(&control).await;
            timeout(LONG, cluster.world.frozen.notified())
                .await
                .unwrap();
            control.stop().await;
            cluster.world.heal();
            cluster.store.crash();
            cluster.finish().await;
            assert_eq!(cluster.world.lock().failed, 0, "{fault:?} {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_lost_once() {
    for fault in [Fault::Lost, Fault::AnswerLost] {
        for number in 2..calls_of_a_move().await {
            let cluster = Cluster::serving();
            cluster
                .world
                .script(move |call, _| (call.number == number).then_some(fault));
            let control = cluster.control();
            let begun = begin(&control).await;
            let status = ended(&control, begun.id).await;
            control.stop().await;
            let done = matches!(status.state, MoveState::Done | MoveState::Undone);
            assert!(done, "{fault:?} {number}: {status:#?}");
            assert_eq!(status.reason.is_some(), status.state == MoveState::Undone);
            cluster.finish().await;
            assert_eq!(cluster.world.lock().failed, 0, "{fault:?} {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_carried_out_twice() {
    let cluster = Cluster::serving();
    cluster.world.lock().twice = true;
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    assert_eq!(cluster.world.lock().failed, 0);
    cluster.finish().await;
}

/// A verb that never works before the pivot: the move is undone and says why.
#[tokio::test(start_paused = true)]
async fn each_step_before_the_pivot_failing() {
    let cases = [
        ("preflight", MoveStep::Preflight),
        ("replicate", MoveStep::Precopy),
        ("create", MoveStep::Prepare),
        ("pre-stop", MoveStep::Prepare),
        ("gates/pause", MoveStep::Pause),
        ("gates/quiesce", MoveStep::Pause),
        ("stop", MoveStep::Stop),
    ];
    for (verb, step) in cases {
        let cluster = Cluster::serving();
        cluster.world.script(move |call, _| {
            (call.is(verb) && (verb == "pre-stop" || !call.is("pre-stop")))
                .then_some(Fault::Refused)
        });
        let status = move_without_trouble(&cluster).await;
        assert_eq!(status.state, MoveState::Undone, "{verb}: {status:#?}");
        let reason = status.reason.unwrap();
        assert!(reason.starts_with(step.name()), "{verb}: {reason}");
        let failed = status
            .steps
            .iter()
            .find(|found| found.state == StepState::Failed);
        assert_eq!(failed.map(|found| found.step), Some(step), "{verb}");
        cluster.finish().await;
        assert_eq!(cluster.world.lock().failed, 0, "{verb}");
    }
}

/// A verb that does not work after the pivot: the move is stuck, says why, and goes on as soon
/// as the verb works again.
#[tokio::test(start_paused = true)]
async fn each_step_after_the_pivot_failing() {
    for (verb, step) in [("promote", MoveStep::Promote), ("start", MoveStep::Start)] {
        let cluster = Cluster::serving();
        cluster
            .world
            .script(move |call, _| call.is(verb).then_some(Fault::Refused));
        let control = cluster.control();
        let begun = begin(&control).await;
        let status = ended(&control, begun.id).await;
        assert_eq!(status.state, MoveState::Stuck, "{verb}: {status:#?}");
        assert!(status.reason.unwrap().starts_with(step.name()), "{verb}");
        let problems = control.status().problems;
        assert!(
            problems
                .iter()
                .any(|problem| problem.subject.starts_with("move "))
        );
        cluster.world.heal();
        cluster.settled().await;
        assert_eq!(
            ended(&control, begun.id).await.state,
            MoveState::Done,
            "{verb}"
        );
        control.stop().await;
        cluster.finish().await;
        assert_eq!(cluster.world.lock().failed, 0, "{verb}");
    }
}

/// Edges that refuse the switch get their routes by force; the parked wait for the resume.
#[tokio::test(start_paused = true)]
async fn edges_that_cannot_switch_get_their_routes_from_the_reconciler() {
    for verb in ["gates/switch", "gates/resume"] {
        let cluster = Cluster::serving();
        cluster
            .world
            .script(move |call, _| call.is(verb).then_some(Fault::Lost));
        let control = cluster.control();
        control.start();
        let begun = begin(&control).await;
        let status = ended(&control, begun.id).await;
        assert_eq!(status.state, MoveState::Done, "{verb}: {status:#?}");
        cluster.settled().await;
        control.stop().await;
        cluster.world.heal();
        cluster.finish().await;
        assert_eq!(cluster.world.lock().failed, 0, "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_in_pre_copy_costs_nothing() {
    let cluster = Cluster::serving();
    cluster
        .world
        .script(|call, _| call.is("replicate").then_some(Fault::KillTarget));
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Undone, "{status:#?}");
    assert!(status.reason.unwrap().starts_with("precopy: "));
    assert_eq!(status.pause_ms, None);
    assert_eq!(
        cluster.world.stops_and_failed(),
        (0, 0),
        "the app never stopped"
    );
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_after_the_stop_lets_the_app_start_again_at_the_source() {
    let cluster = Cluster::serving();
    cluster.world.script(|call, inner| {
        (call.is("replicate") && inner.stops > 0).then_some(Fault::KillTarget)
    });
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Undone, "{status:#?}");
    assert!(status.reason.unwrap().starts_with("final_delta: "));
    assert!(status.pause_ms.is_some(), "the hold is reported");
    cluster.check();
    let counted = cluster.world.stops_and_failed();
    assert_eq!(counted, (1, 0), "held, and served at the source");
    assert!(cluster.world.lock().released > 0);
    cluster.world.revive("n2");
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_after_the_pivot_is_waited_for() {
    for verb in ["promote", "start"] {
        let cluster = Cluster::serving();
        let mut dead = false;
        cluster.world.script(move |call, _| {
            let now = call.is(verb) && !std::mem::replace(&mut dead, true);
            now.then_some(Fault::KillTarget)
        });
        let control = cluster.control();
        control.start();
        let begun = begin(&control).await;
        let status = ended(&control, begun.id).await;
        assert_eq!(status.state, MoveState::Stuck, "{verb}: {status:#?}");
        cluster.world.revive("n2");
        cluster.settled().await;
        control.stop().await;
        let state = cluster.finish().await;
        assert_eq!(state.primaries[&notes()].node, node_name("n2"), "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_dies_after_the_pivot_is_tidied_when_it_is_back() {
    let cluster = Cluster::serving();
    cluster.world.script(|call, inner| {
        if call.is("promote") {
            inner.kill(&node_name("n1"));
        }
        None
    });
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    let cleanup = status
        .steps
        .iter()
        .find(|step| step.step == MoveStep::Cleanup)
        .unwrap();
    assert!(
        cleanup.detail.starts_with("left to the reconciler"),
        "{}",
        cleanup.detail
    );
    assert_eq!(cluster.world.lock().failed, 0);
    cluster.world.revive("n1");
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_restarts_with_an_empty_table_gets_its_routes() {
    let cluster = Cluster::serving();
    let [e1, ..] = edge_names();
    let lost = e1.clone();
    cluster.world.script(move |call, inner| {
        if call.is("promote") {
            inner.edges.insert(lost.clone(), blank_edge());
        }
        None
    });
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    cluster.world.heal();
    cluster.world.lock().edges.insert(e1, blank_edge());
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_knows_a_newer_token_is_asked_again_with_a_newer_one() {
    let cluster = Cluster::serving();
    let [_, e2, _] = edge_names();
    with_token(cluster.world.lock().edges.get_mut(&e2).unwrap(), 100);
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    assert_eq!(status.token, Some(flocker_api::gate::Token(101)));
    assert_eq!(cluster.world.lock().failed, 0);
    cluster.finish().await;
}

/// Control dies right after the stop, the store forgets that the stop was begun, and then an
/// edge is gone: the way back starts the app before it lets anyone go.
#[tokio::test(start_paused = true)]
async fn a_stop_that_the_store_forgot_is_undone_all_the_same() {
    let cluster = Cluster::serving();
    cluster
        .world
        .script(|call, _| call.is("/stop").then_some(Fault::FreezeAfter));
    let control = cluster.control();
    begin(&control).await;
    timeout(LONG, cluster.world.frozen.notified())
        .await
        .unwrap();
    control.stop().await;
    cluster.store.crash();
    let [_, e2, _] = edge_names();
    cluster.world.heal();
    cluster.world.lock().edges.get_mut(&e2).unwrap().alive = false;
    let state = cluster.finish().await;
    assert_eq!(state.primaries[&notes()].node, node_name("n1"));
    assert_eq!(cluster.world.stops_and_failed(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_undo_the_move_and_are_named() {
    let cluster = Cluster::serving();
    cluster.world.lock().stubborn = 3;
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Undone, "{status:#?}");
    let reason = status.reason.unwrap();
    assert!(
        reason.contains("3 on http:notes.demo at edge e1"),
        "{reason}"
    );
    assert_eq!(cluster.world.stops_and_failed(), (0, 0));
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_are_left_behind_if_the_policy_says_so() {
    let mut app = app();
    app.move_policy.on_busy = OnBusy::Proceed;
    let cluster = Cluster::serving_with(app);
    cluster.world.lock().stubborn = 3;
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    cluster.finish().await;
}

/// A stop that takes so long that the hold would run out: back before anyone is refused.
#[tokio::test(start_paused = true)]
async fn a_hold_that_would_be_exceeded_is_given_up_in_time() {
    for verb in ["stop", "replicate"] {
        let cluster = Cluster::serving();
        cluster.world.script(move |call, inner| {
            let paused = inner
                .edges
                .values()
                .all(|edge| edge.routes.values().all(|entry| entry.paused.is_some()));
            if call.is(verb) && paused {
                inner.slow.insert(verb, Duration::from_secs(25));
            }
            None
        });
        let status = move_without_trouble(&cluster).await;
        assert_eq!(status.state, MoveState::Undone, "{verb}: {status:#?}");
        let reason = status.reason.unwrap();
        assert!(reason.contains("beyond its hold of 30000 ms"), "{reason}");
        assert_eq!(cluster.world.lock().failed, 0, "{verb}");
        cluster.world.heal();
        cluster.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_against_a_move_is_said_before_anything_changes() {
    let cluster = Cluster::serving();
    let n2 = node_name("n2");
    cluster.world.lock().nodes.get_mut(&n2).unwrap().objections =
        vec!["image 'notes' is not on node n2".to_owned()];
    let status = move_without_trouble(&cluster).await;
    assert_eq!(status.state, MoveState::Undone);
    assert_eq!(
        status.reason.unwrap(),
        "preflight: image 'notes' is not on node n2"
    );
    assert_eq!(cluster.world.stops_and_failed(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_immediate_and_clear() {
    let cluster = Cluster::serving();
    let control = cluster.control();
    let ask = async |app: &str, to: &str| {
        let request = flocker_api::control::MoveRequest {
            app: app.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        let refusal: Refusal = control.begin_move(&request).await.unwrap_err();
        (refusal.code(), refusal.to_string())
    };
    assert_eq!(
        ask("x", "n2").await,
        (ErrorCode::NotFound, "there is no app 'x'".to_owned())
    );
    let nodes = "there is no node 'n9'; the nodes are n1, n2".to_owned();
    assert_eq!(ask("notes", "n9").await, (ErrorCode::NotFound, nodes));
    let there = "app 'notes' is on node 'n1' already".to_owned();
    assert_eq!(ask("notes", "n1").await, (ErrorCode::AlreadyExists, there));
    cluster.world.kill("n2");
    let (code, message) = ask("notes", "n2").await;
    assert_eq!(code, ErrorCode::Unavailable);
    assert!(
        message.starts_with("cannot move app 'notes' to node 'n2': agent of n2"),
        "{message}"
    );
    cluster.world.revive("n2");
    let begun = begin(&control).await;
    let (code, message) = ask("notes", "n2").await;
    assert_eq!(code, ErrorCode::Busy);
    assert!(
        message.contains(&format!("is being moved (move {})", begun.id)),
        "{message}"
    );
    ended(&control, begun.id).await;
    control.stop().await;
}

/// Random faults at random calls, several a move: the invariants hold all the same.
#[tokio::test(start_paused = true)]
async fn random_faults() {
    let faults = [
        Fault::Lost,
        Fault::AnswerLost,
        Fault::Refused,
        Fault::KillTarget,
    ];
    for seed in 1..=60_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = move || {
            // xorshift64*
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
        };
        let cluster = Cluster::serving();
        cluster.world.script(move |call, inner| {
            if next() % 4 == 0 {
                let n2 = node_name("n2");
                inner.nodes.get_mut(&n2).unwrap().alive = true;
            }
            let strikes = call.request.method != Method::Get && next() % 6 == 0;
            strikes.then(|| faults[usize::try_from(next() % 4).unwrap()])
        });
        let control = cluster.control();
        control.start();
        let request = flocker_api::control::MoveRequest {
            app: notes(),
            to: node_name("n2"),
        };
        if let Ok(begun) = control.begin_move(&request).await {
            ended(&control, begun.id).await;
        }
        control.stop().await;
        cluster.world.heal();
        cluster.world.revive("n2");
        cluster.finish().await;
    }
}
