//! Canned answers, made of the real messages.

use std::time::{SystemTime, UNIX_EPOCH};

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{
        AppStatus, ClusterStatus, EdgeOutcome, EdgeSummary, MoveState, MoveStatus, MoveStep,
        NodeSummary, Problem, RoundStatus, StepState, StepStatus,
    },
    edge::{RouteStatus, RouteTable},
    gate::{GateState, GateStatus, HoldLimits, HoldReport, ResumeReply, Token},
    route::{Generation, OnMove, Route},
    upstream::Upstream,
};
use flocker_control::formats;
use serde_json::json;

/// Two and a half hours ago: shown as `2h`, whenever within the next half hour.
pub(crate) fn hours_ago() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    u64::try_from(now.as_millis()).expect("it is before the year 500 million") - 9_000_000
}

/// The app `notes` as the sample files declare it.
pub(crate) fn notes() -> AppStatus {
    let read = |name: &str| formats_file(name);
    let files = vec![read("application.yml"), read("deployment.yml")];
    let deployment = formats::parse(&formats::Sources::new(files)).expect("the samples are right");
    let value = json!({
        "app": deployment.apps[0].app,
        "node": "n1",
        "epoch": 3,
        "phase": "serving",
        "last_move": "6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11",
    });
    serde_json::from_value(value).expect("it is an app")
}

/// A sample file.
pub(crate) fn formats_file(name: &str) -> flocker_api::control::SourceFile {
    let path = format!("{}/../config/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    flocker_api::control::SourceFile {
        name: name.to_owned(),
        text: std::fs::read_to_string(path).expect("the samples are there"),
    }
}

/// A cluster where all is well.
pub(crate) fn cluster() -> ClusterStatus {
    let node = |name: &str, address: &str| {
        let value = json!({
            "name": name,
            "agent": format!("{address}:7410"),
            "status": {"Ok": {
                "node": name, "version": "0.1.0", "address": address,
                "replication": format!("{address}:7411"),
                "storage": {"kind": "zfs-fuse", "version": "0.7.0", "capabilities": [],
                            "available_bytes": 1_932_735_283_u64},
                "runtime": {"kind": "docker", "version": "20.10.24"},
                "volumes": [], "containers": []
            }},
            "observed_ms": hours_ago(),
        });
        serde_json::from_value::<NodeSummary>(value).expect("it is a node")
    };
    let edge = |name: &str, admin: &str| EdgeSummary {
        name: name.parse().expect("it is a name"),
        admin: admin.to_owned(),
        generation: Ok(Generation(7)),
        observed_ms: hours_ago(),
    };
    ClusterStatus {
        version: "0.1.0".to_owned(),
        problems: Vec::new(),
        nodes: vec![node("n1", "10.77.1.1"), node("n2", "10.77.2.1")],
        edges: vec![
            edge("n1-a", "10.77.1.1:7400"),
            edge("n2-a", "10.77.2.1:7400"),
        ],
        apps: vec![notes()],
    }
}

/// The same with a dead node.
pub(crate) fn troubled_cluster() -> ClusterStatus {
    let mut cluster = cluster();
    let message = "agent of n2 (10.77.2.1:7410) does not answer: Connection refused";
    let error = ErrorBody::new(ErrorCode::Unavailable, message);
    cluster.nodes[1].status = Err(error.clone());
    cluster.edges[1].generation = Err(error);
    let mut moving = notes();
    moving.phase = flocker_api::control::AppPhase::Unknown;
    moving.reason = Some(message.to_owned());
    moving.node = "n2".parse().expect("it is a name");
    cluster.apps = vec![moving];
    cluster.problems = vec![Problem {
        subject: "node n2".to_owned(),
        message: message.to_owned(),
        next: "it is asked again every second; its apps wait".to_owned(),
        since_ms: hours_ago(),
    }];
    cluster
}

/// A move of `notes`, `done` of whose steps are done.
pub(crate) fn a_move(revision: u64, done: usize) -> MoveStatus {
    let round = |bytes: u64, transfer_ms: f64, full: bool| RoundStatus {
        bytes,
        snapshot_ms: 4.0,
        transfer_ms,
        full,
    };
    let rounds = [
        round(67_318_912, 812.0, true),
        round(1_310_720, 96.0, false),
    ];
    let ended = done == MoveStep::ALL.len();
    MoveStatus {
        id: "6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11"
            .parse()
            .expect("it is an id"),
        revision,
        app: "notes".parse().expect("it is a name"),
        from: "n1".parse().expect("it is a name"),
        to: "n2".parse().expect("it is a name"),
        state: if ended {
            MoveState::Done
        } else {
            MoveState::Running
        },
        reason: None,
        started_ms: hours_ago(),
        ended_ms: ended.then(|| hours_ago() + 2_500),
        steps: steps(done),
        rounds: rounds.into_iter().take(done).collect(),
        final_delta: (done > 5).then(|| round(419_430, 90.0, false)),
        token: (done > 3).then_some(Token(12)),
        paused_at_ms: None,
        pause_ms: ended.then_some(171.3),
        longest_wait_ms: ended.then_some(169.8),
        app_stop_ms: (done > 4).then_some(12.8),
        app_start_ms: (done > 8).then_some(30.6),
        held: if ended { 1_342 } else { 0 },
        refused: 0,
    }
}

/// Its steps, so many of them done.
fn steps(done: usize) -> Vec<StepStatus> {
    let details = [
        "n2 and 4 edges are ready",
        "2 rounds, the last delta will take about 96 ms",
        "container made on n2, pre-stop hook run",
        "on 4 edges",
        "exited with 0",
        "0.4 MiB in 96 ms",
        "epoch 4",
        "writable on n2",
        "ready after 31 ms",
        "4 of 4 edges",
        "n1 is a replica",
    ];
    let times = [
        12.1, 2_140.0, 61.0, 8.24, 14.0, 96.2, 3.1, 12.4, 31.0, 4.9, 40.0,
    ];
    let steps = MoveStep::ALL
        .iter()
        .enumerate()
        .map(|(index, step)| StepStatus {
            step: *step,
            state: match index {
                index if index < done => StepState::Done,
                index if index == done => StepState::Running,
                _ => StepState::Waiting,
            },
            started_ms: (index <= done).then_some(1_000),
            elapsed_ms: (index <= done).then_some(times[index]),
            detail: if index < done {
                details[index].to_owned()
            } else {
                String::new()
            },
        });
    steps.collect()
}

/// The same move, undone because a step failed.
pub(crate) fn an_undone_move(revision: u64, undone: bool) -> MoveStatus {
    let mut status = a_move(revision, 5);
    status.reason = Some(
        "final_delta: agent of n2 (10.77.2.1:7410) does not answer: connection reset".to_owned(),
    );
    status.steps[5].state = StepState::Failed;
    status.state = MoveState::Undoing;
    if undone {
        status.state = MoveState::Undone;
        status.ended_ms = Some(status.started_ms + 3_100);
        for step in &mut status.steps[2..5] {
            step.state = StepState::Undone;
        }
        status.pause_ms = Some(402.0);
    }
    status
}

/// A table with two routes.
pub(crate) fn table(upstream: &str, parked: u64) -> RouteTable {
    let route = |key: &str, on_move: OnMove, gate: GateStatus| RouteStatus {
        route: Route::new(
            key.parse().expect("it is a key"),
            [upstream.parse::<Upstream>().expect("it is an address")],
        )
        .with_on_move(on_move),
        gate,
        requests: 12_345,
        failed: 2,
        upstreams: Vec::new(),
        unresolved: Vec::new(),
    };
    RouteTable {
        generation: Generation(7),
        routes: vec![
            route("http:notes.demo", OnMove::Close, gate(parked)),
            route("tcp:5432", OnMove::Wait, gate(0)),
        ],
    }
}

fn gate(parked: u64) -> GateStatus {
    let paused = parked > 0;
    GateStatus {
        state: if paused {
            GateState::Paused
        } else {
            GateState::Open
        },
        token: Token(12),
        in_flight: if paused { 0 } else { 3 },
        parked,
        parked_bytes: parked * 100,
        oldest_wait_ms: parked * 3,
        lapses_in_ms: paused.then_some(9_460),
        limits: paused.then(HoldLimits::default),
    }
}

/// Answers of both edges.
pub(crate) fn both<T: Clone>(answer: &T) -> Vec<EdgeOutcome<T>> {
    ["n1-a", "n2-a"]
        .map(|edge| EdgeOutcome {
            edge: edge.parse().expect("it is a name"),
            result: Ok(answer.clone()),
        })
        .to_vec()
}

/// The answer of the first, and the second does not answer.
pub(crate) fn one_of_two<T: Clone>(answer: &T) -> Vec<EdgeOutcome<T>> {
    let mut outcomes = both(answer);
    let message = "edge n2-a (10.77.2.1:7400) does not answer: Connection refused";
    outcomes[1].result = Err(ErrorBody::new(ErrorCode::Unavailable, message));
    outcomes
}

/// What a resume reports.
pub(crate) fn resumed() -> ResumeReply {
    ResumeReply {
        generation: Generation(8),
        holds: vec![HoldReport {
            key: "http:notes.demo".parse().expect("it is a key"),
            paused_us: 4_210,
            lapsed: false,
            released: 1_204,
            longest_wait_us: 4_180,
            refused: 0,
            client_gone: 1,
        }],
    }
}
