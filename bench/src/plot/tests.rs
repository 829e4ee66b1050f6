//! The drawing of made-up runs: well-formed, small, and nothing left out.

use std::{collections::HashSet, time::Duration};

use flocker_api::{
    control::{ClusterStatus, MoveState, MoveStatus, MoveStep, StepState, StepStatus},
    name::MoveId,
};

use super::*;
use crate::{
    load::{Connection, Keeping, Kind, Outcome, Sample, Trace},
    report::Machine,
    scenario::Workload,
};

/// 2,000 requests/s for 10 s, a move from 3 s to 6 s that holds its routes from 4.6 s to 5.2 s.
pub(super) fn run(requests: u64) -> Run {
    let hold = 4_600_000..5_200_000_u64;
    let samples = (0..requests).map(|number| {
        let intended_us = number * 10_000_000 / requests;
        let usual = 300 + (number * 7919) % 1700;
        let waits = if hold.contains(&intended_us) {
            hold.end - intended_us
        } else {
            0
        };
        let write = number % 10 < 3;
        Sample {
            intended_us,
            latency_us: usual + waits + if write { 3000 } else { 0 },
            edge: 0,
            kind: if write { Kind::Write } else { Kind::Read },
            connection: if number % 11 == 0 {
                Connection::New
            } else {
                Connection::Kept
            },
            outcome: Outcome::Answered,
            sequence: number,
        }
    });
    let trace = Trace {
        began_unix_ms: 1_000_000.0,
        took: Duration::from_secs(10),
        rate: 2000,
        edges: vec!["n1-a".to_owned()],
        client: "w1".to_owned(),
        samples: samples.collect(),
        keeping: Keeping::default(),
        connections_opened: 4,
    };
    Run {
        workload: Workload::Notes,
        moves: vec![moved()],
        failure: None,
        kept: (0..requests).collect::<HashSet<u64>>(),
        trace,
    }
}

fn moved() -> MoveStatus {
    let times: [(u64, f64); 11] = [
        (0, 40.0),
        (40, 1400.0),
        (1440, 140.0),
        (1590, 14.0),
        (1605, 60.0),
        (1666, 220.0),
        (1887, 3.0),
        (1891, 21.0),
        (1912, 260.0),
        (2173, 12.0),
        (2200, 700.0),
    ];
    let steps = MoveStep::ALL
        .into_iter()
        .zip(times)
        .map(|(step, (at, ms))| StepStatus {
            step,
            state: StepState::Done,
            started_ms: Some(1_003_000 + at),
            elapsed_ms: Some(ms),
            detail: String::new(),
        });
    MoveStatus {
        id: MoveId::random(),
        revision: 1,
        app: "notes".parse().unwrap(),
        from: "n1".parse().unwrap(),
        to: "n2".parse().unwrap(),
        state: MoveState::Done,
        reason: None,
        started_ms: 1_003_000,
        ended_ms: Some(1_006_000),
        steps: steps.collect(),
        rounds: Vec::new(),
        final_delta: None,
        token: None,
        paused_at_ms: Some(1_004_600.0),
        pause_ms: Some(600.0),
        longest_wait_ms: None,
        app_stop_ms: Some(60.0),
        app_start_ms: Some(260.0),
        held: 1200,
        refused: 0,
    }
}

fn draw(runs: &[Run]) -> String {
    let cluster = ClusterStatus {
        version: String::new(),
        problems: Vec::new(),
        nodes: Vec::new(),
        edges: Vec::new(),
        apps: Vec::new(),
    };
    render(runs, &Report::new(runs, &cluster, Machine::default()))
}

/// Each tag is closed by its own, attributes are quoted, text has no stray markup.
fn check_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        assert!(!tag.contains('<'), "markup inside a tag: {tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "an open quote: {tag}");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap_or("");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed out of turn");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    assert!(!text.contains("NaN") && !text.contains("inf"));
}

#[test]
fn a_drawing_is_well_formed_and_small_however_many_requests() {
    for requests in [0, 1, 2_000, 200_000] {
        let text = draw(&[run(requests), run(requests)]);
        check_well_formed(&text);
        assert!(
            text.len() < 400_000,
            "{requests} requests: {} bytes",
            text.len()
        );
    }
}

#[test]
fn a_failed_request_is_seen_and_told_of() {
    let mut one = run(20_000);
    one.trace.samples[9_000].outcome = Outcome::Status(503);
    let before = draw(&[run(20_000)])
        .matches("<circle class=\"bad\"")
        .count();
    let text = draw(&[one]);
    check_well_formed(&text);
    assert_eq!(text.matches("<circle class=\"bad\"").count(), before + 1);
    assert!(text.contains("1 of 20,000 requests failed"));
}

#[test]
fn no_dot_is_left_out() {
    // A request every 10 ms is five units wide: each has a cell of its own.
    let text = draw(&[run(1_000)]);
    let shown = text.matches("h0").count();
    // The panel shows 2 s to 7 s of the 10 s.
    assert!((499..=502).contains(&shown), "{shown}");
}

#[test]
fn a_move_that_never_ended_or_paused_is_drawn_as_far_as_it_came() {
    let mut one = run(2_000);
    let moved = &mut one.moves[0];
    moved.state = MoveState::Undone;
    moved.ended_ms = None;
    moved.paused_at_ms = None;
    moved.pause_ms = None;
    moved.steps[4].elapsed_ms = None;
    check_well_formed(&draw(&[one]));
    check_well_formed(&draw(&[]));
}

#[test]
fn names_cannot_break_the_markup() {
    assert_eq!(svg::escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    assert_eq!(thousands(1_234_567), "1,234,567");
    assert_eq!(thousands(12), "12");
}

/// `cargo test -p flocker-bench --lib sample_drawing -- --ignored` writes one to look at.
#[test]
#[ignore = "for eyes: writes a drawing into the target folder"]
fn sample_drawing() {
    let mut second = run(1_000);
    second.workload = Workload::Postgres;
    let path = std::env::current_exe()
        .unwrap()
        .with_file_name("sample.svg");
    std::fs::write(path, draw(&[run(20_000), second])).unwrap();
}
