//! Report math on made-up runs, checked against numbers worked out by hand.

use std::time::Duration;

use flocker_api::{
    control::{MoveStep, RoundStatus, StepStatus},
    name::MoveId,
};

use super::*;
use crate::load::{Connection, Kind, Sample};

/// 100 requests/s for 10 s, every third a write, each answered in 2 ms.
fn trace() -> Trace {
    let samples = (0..1000_u64)
        .map(|number| Sample {
            intended_us: number * 10_000,
            latency_us: 2_000,
            edge: 0,
            kind: if number % 3 == 0 {
                Kind::Write
            } else {
                Kind::Read
            },
            connection: Connection::Kept,
            outcome: Outcome::Answered,
            sequence: if number % 3 == 0 { number / 3 + 1 } else { 0 },
        })
        .collect();
    Trace {
        began_unix_ms: 1_000_000.0,
        took: Duration::from_secs(10),
        rate: 100,
        edges: vec!["n1-a".to_owned()],
        client: "w1".to_owned(),
        samples,
        keeping: Keeping::default(),
        connections_opened: 4,
    }
}

/// A move from 3 s to 5 s with a pause of 400 ms.
fn moved() -> MoveStatus {
    let step = |step, started_ms, elapsed_ms| StepStatus {
        step,
        state: StepState::Done,
        started_ms: Some(started_ms),
        elapsed_ms: Some(elapsed_ms),
        detail: String::new(),
    };
    let round = |bytes, full| RoundStatus {
        bytes,
        snapshot_ms: 1.0,
        transfer_ms: 2.0,
        full,
    };
    MoveStatus {
        id: MoveId::random(),
        revision: 9,
        app: "notes".parse().unwrap(),
        from: "n1".parse().unwrap(),
        to: "n2".parse().unwrap(),
        state: MoveState::Done,
        reason: None,
        started_ms: 1_003_000,
        ended_ms: Some(1_005_000),
        steps: vec![
            step(MoveStep::Precopy, 1_003_000, 1200.0),
            step(MoveStep::Pause, 1_004_500, 12.0),
        ],
        rounds: vec![round(5000, true), round(70, false)],
        final_delta: Some(round(9, false)),
        token: None,
        paused_at_ms: Some(1_004_500.0),
        pause_ms: Some(400.0),
        longest_wait_ms: Some(399.0),
        app_stop_ms: Some(30.0),
        app_start_ms: Some(120.0),
        held: 40,
        refused: 0,
    }
}

fn run() -> Run {
    Run {
        workload: Workload::Notes,
        moves: vec![moved()],
        failure: None,
        trace: trace(),
        kept: (1..=334).collect(),
    }
}

fn report(run: Run) -> Report {
    let cluster = ClusterStatus {
        version: String::new(),
        problems: Vec::new(),
        nodes: Vec::new(),
        edges: Vec::new(),
        apps: Vec::new(),
    };
    Report::new(&[run], &cluster, Machine::default())
}

#[test]
fn a_move_has_the_requests_from_a_second_before_to_a_second_after() {
    let run = run();
    let numbers = of_move(&run, &run.moves[0]);
    // 2 s to 6 s, at 100 requests/s: numbers 200 to 599, of which 201, 204, ... 597 write.
    assert_eq!(numbers.requests, 400);
    assert_eq!(numbers.acknowledged_writes, 133);
    assert_eq!(
        (numbers.rounds, numbers.bytes_precopy, numbers.bytes_final),
        (2, 5070, 9)
    );
    assert_eq!(numbers.overhead_ms, Some(250.0));
    assert!((numbers.p50_ms - 2.0).abs() < 0.01, "{}", numbers.p50_ms);
    assert!((numbers.total_ms - 2000.0).abs() < 0.01);
}

#[test]
fn the_longest_wait_and_failures_are_those_of_the_window() {
    let mut run = run();
    run.trace.samples[450].latency_us = 400_000;
    run.trace.samples[451].outcome = Outcome::Status(503);
    run.trace.samples[452].outcome = Outcome::Unanswered;
    run.trace.samples[900].latency_us = 900_000;
    run.trace.samples[901].outcome = Outcome::Reset;
    let numbers = of_move(&run, &run.moves[0]);
    assert!((numbers.longest_wait_ms - 400.0).abs() < 1.0);
    assert_eq!((numbers.failed, numbers.unanswered), (1, 1));
    assert_eq!(
        numbers.failures,
        BTreeMap::from([("status 503".to_owned(), 1)])
    );
    let load = of_load(&run);
    assert_eq!((load.failed, load.unanswered, load.requests), (2, 1, 1000));
}

#[test]
fn a_write_is_lost_only_if_it_was_acknowledged_and_is_not_there() {
    let mut run = run();
    // Sequence 151 is number 450, in the window; 301 is number 900, outside.
    for lost in [151, 301] {
        run.kept.remove(&lost);
    }
    assert_eq!(of_move(&run, &run.moves[0]).lost_writes, 1);
    assert_eq!(of_load(&run).lost_writes, 2);
    run.trace.samples[450].outcome = Outcome::ClosedEarly;
    assert_eq!(of_move(&run, &run.moves[0]).lost_writes, 0);
}

#[test]
fn a_clean_run_passes_and_says_which_budget_it_missed() {
    let report = report(run());
    assert!(report.passed, "{:?}", report.verdicts);
    let missed: Vec<&Verdict> = report.verdicts.iter().filter(|v| !v.held).collect();
    assert_eq!(missed.len(), 1);
    assert!(missed[0].what.contains("200 ms"), "{missed:?}");
    let text = render(&report);
    assert!(
        text.contains("PASSED") && text.contains("over  notes n1 to n2"),
        "{text}"
    );
}

#[test]
fn each_thing_that_must_hold_fails_the_run_when_it_does_not() {
    let spoil: [fn(&mut Run); 6] = [
        |run| run.trace.samples[0].outcome = Outcome::Stale,
        |run| run.trace.samples[999].outcome = Outcome::Unanswered,
        |run| run.kept.retain(|number| *number != 7),
        |run| run.moves[0].state = MoveState::Undone,
        |run| run.failure = Some("flockerctl ended with 1".to_owned()),
        |run| run.moves.clear(),
    ];
    for (at, spoil) in spoil.iter().enumerate() {
        let mut run = run();
        spoil(&mut run);
        let report = report(run);
        assert!(!report.passed, "case {at}");
        assert!(render(&report).contains("FAIL  notes"), "case {at}");
    }
}

#[test]
fn programs_find_every_field_that_was_promised() {
    let json = serde_json::to_value(report(run())).unwrap();
    for field in ["storage", "runtime", "moves"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    for field in [
        "app",
        "steps",
        "rounds",
        "bytes_precopy",
        "bytes_final",
        "pause_ms",
        "app_stop_ms",
        "app_start_ms",
        "requests",
        "failed",
        "longest_wait_ms",
        "p50_ms",
        "p99_ms",
        "acknowledged_writes",
        "lost_writes",
    ] {
        assert!(!json["moves"][0][field].is_null(), "{field}");
    }
    assert_eq!(json["moves"][0]["steps"][0]["name"], "precopy");
    assert_eq!(json["moves"][0]["steps"][0]["ms"], 1200.0);
}
