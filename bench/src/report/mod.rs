//! What a run means: numbers of each move, verdicts against the budgets, for people and
//! programs.
//!
//! Pure but for [`Machine::this`]. The requests of a move are those that were *meant* to be
//! sent from a second before it began until a second after it ended.

mod machine;
mod text;

use std::{collections::BTreeMap, ops::Range};

use flocker_api::control::{ClusterStatus, MoveState, MoveStatus, StepState};
use hdrhistogram::Histogram;
use serde::Serialize;

pub use machine::Machine;
pub use text::render;

use crate::{
    load::{Keeping, Outcome, Trace},
    scenario::{Run, Workload},
};

/// How far the window of a move reaches beyond it on either side, in us.
const MARGIN_US: u64 = 1_000_000;
/// The budget of a pause beyond what the app itself takes to stop and start, in ms.
pub const OVERHEAD_MS_MAX: f64 = 200.0;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the nodes' storage was: "openzfs", "zfs-fuse" or "directory".
    pub storage: String,
    /// What ran the apps: "docker" or "process".
    pub runtime: String,
    /// Whether all that must hold has held.
    pub passed: bool,
    /// What was asked of the run, and what it gave.
    pub verdicts: Vec<Verdict>,
    /// Each move.
    pub moves: Vec<MoveReport>,
    /// Each load, from its beginning to its end, the time between moves included.
    pub loads: Vec<LoadReport>,
    /// Where it ran.
    pub machine: Machine,
}

/// One thing that was asked of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What was asked.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Whether it held.
    pub held: bool,
    /// Whether the run fails if it does not: budgets of time are only reported.
    pub required: bool,
}

/// One step of a move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub ms: f64,
    /// What it did, in a few words.
    pub detail: String,
}

/// One move, with the requests that were under way around it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveReport {
    /// The app.
    pub app: String,
    /// Where it was.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// How it ended.
    pub state: MoveState,
    /// Why it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From its begin to its end.
    pub total_ms: f64,
    /// Its steps that were begun, in order.
    pub steps: Vec<StepReport>,
    /// Pre-copy rounds.
    pub rounds: usize,
    /// Bytes sent while the app served.
    pub bytes_precopy: u64,
    /// Bytes sent while it was paused.
    pub bytes_final: u64,
    /// The pause, as the edges saw it.
    pub pause_ms: Option<f64>,
    /// The app's own stop.
    pub app_stop_ms: Option<f64>,
    /// The app's own start until ready.
    pub app_start_ms: Option<f64>,
    /// The pause without the app's own stop and start: what Flocker adds.
    pub overhead_ms: Option<f64>,
    /// Requests, or rows, in the window.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, never answered before the load ended.
    pub unanswered: u64,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// Requests that the edges held.
    pub held: u64,
    /// Of these, refused because of a limit or the deadline.
    pub refused: u64,
    /// The longest wait of any request, as its client saw it.
    pub longest_wait_ms: f64,
    /// Median latency in the window.
    pub p50_ms: f64,
    /// 99th percentile in the window.
    pub p99_ms: f64,
    /// Writes that were acknowledged in the window.
    pub acknowledged_writes: u64,
    /// Of these, not there afterwards.
    pub lost_writes: u64,
}

/// One load as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// The app.
    pub app: String,
    /// Requests per second that were meant.
    pub rate: u32,
    /// How long it lasted.
    pub seconds: f64,
    /// Requests.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, never answered before the load ended.
    pub unanswered: u64,
    /// Connections that were opened.
    pub connections_opened: u64,
    /// Writes that were acknowledged.
    pub acknowledged_writes: u64,
    /// Of these, not there afterwards.
    pub lost_writes: u64,
    /// Median latency outside the moves' windows: what is usual.
    pub usual_p50_ms: f64,
    /// 99th percentile outside the moves' windows.
    pub usual_p99_ms: f64,
    /// Whether the generator kept its schedule; if not, the run does not count.
    pub schedule_kept: bool,
    /// How well it did.
    pub keeping: Keeping,
}

/// Window of a move in a trace's own time.
fn window(trace: &Trace, moved: &MoveStatus) -> Range<u64> {
    let at = |unix_ms: u64| {
        #[expect(clippy::cast_precision_loss, reason = "Unix ms stay far below 2^52")]
        let us = (unix_ms as f64 - trace.began_unix_ms) * 1e3;
        micros(us)
    };
    let end = moved.ended_ms.map_or(u64::MAX - MARGIN_US, at);
    at(moved.started_ms).saturating_sub(MARGIN_US)..end + MARGIN_US
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "microseconds of a run of minutes; what is negative becomes zero"
)]
fn micros(us: f64) -> u64 {
    us.max(0.0) as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a run of minutes"
)]
fn millis(us: u64) -> f64 {
    us as f64 / 1e3
}

/// Numbers of a set of requests.
struct Summary {
    requests: u64,
    failed: u64,
    unanswered: u64,
    failures: BTreeMap<String, u64>,
    latency: Histogram<u64>,
}

impl Summary {
    fn of(trace: &Trace, within: impl Fn(u64) -> bool) -> Self {
        let mut summary = Self {
            requests: 0,
            failed: 0,
            unanswered: 0,
            failures: BTreeMap::new(),
            latency: Histogram::new_with_max(3_600_000_000, 3)
                .expect("an hour in microseconds with three digits is a valid range"),
        };
        let chosen = trace
            .samples
            .iter()
            .filter(|sample| within(sample.intended_us));
        for sample in chosen {
            summary.requests += 1;
            summary.latency.saturating_record(sample.latency_us);
            if sample.outcome == Outcome::Unanswered {
                summary.unanswered += 1;
            }
            if sample.outcome.is_failure() {
                summary.failed += 1;
                *summary
                    .failures
                    .entry(in_words(sample.outcome))
                    .or_default() += 1;
            }
        }
        summary
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        millis(self.latency.value_at_quantile(quantile))
    }
}

fn in_words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered => "answered".to_owned(),
        Outcome::Status(status) => format!("status {status}"),
        Outcome::Stale => "an acknowledged write was not to be seen".to_owned(),
        Outcome::Malformed => "malformed answer".to_owned(),
        Outcome::ConnectFailed => "connection refused".to_owned(),
        Outcome::Reset => "connection reset".to_owned(),
        Outcome::ClosedEarly => "connection closed before the answer".to_owned(),
        Outcome::TimedOut => "no answer within 60 s".to_owned(),
        Outcome::Unanswered => "no answer before the load ended".to_owned(),
        Outcome::NotSent => "not sent".to_owned(),
    }
}

/// Numbers of one move of a run.
#[must_use]
pub fn of_move(run: &Run, moved: &MoveStatus) -> MoveReport {
    let window = window(&run.trace, moved);
    let summary = Summary::of(&run.trace, |at| window.contains(&at));
    let overhead_ms = match (moved.pause_ms, moved.app_stop_ms, moved.app_start_ms) {
        (Some(pause), Some(stop), Some(start)) => Some(pause - stop - start),
        _ => None,
    };
    let begun = |state| state != StepState::Waiting;
    let steps = moved.steps.iter().filter(|step| begun(step.state));
    let ended_ms = moved.ended_ms.unwrap_or(moved.started_ms);
    MoveReport {
        app: moved.app.to_string(),
        from: moved.from.to_string(),
        to: moved.to.to_string(),
        state: moved.state,
        reason: moved.reason.clone(),
        total_ms: millis(ended_ms.saturating_sub(moved.started_ms) * 1000),
        steps: steps
            .map(|step| StepReport {
                name: step.step.name(),
                ms: step.elapsed_ms.unwrap_or(0.0),
                detail: step.detail.clone(),
            })
            .collect(),
        rounds: moved.rounds.len(),
        bytes_precopy: moved.rounds.iter().map(|round| round.bytes).sum(),
        bytes_final: moved.final_delta.as_ref().map_or(0, |delta| delta.bytes),
        pause_ms: moved.pause_ms,
        app_stop_ms: moved.app_stop_ms,
        app_start_ms: moved.app_start_ms,
        overhead_ms,
        requests: summary.requests,
        failed: summary.failed,
        unanswered: summary.unanswered,
        held: moved.held,
        refused: moved.refused,
        longest_wait_ms: millis(summary.latency.max()),
        p50_ms: summary.quantile_ms(0.5),
        p99_ms: summary.quantile_ms(0.99),
        acknowledged_writes: run.trace.acknowledged(window.clone()).count() as u64,
        lost_writes: run.trace.lost(window, &run.kept),
        failures: summary.failures,
    }
}

/// Numbers of the load of a run.
#[must_use]
pub fn of_load(run: &Run) -> LoadReport {
    let trace = &run.trace;
    let windows: Vec<Range<u64>> = run.moves.iter().map(|moved| window(trace, moved)).collect();
    let all = Summary::of(trace, |_| true);
    let usual = Summary::of(trace, |at| !windows.iter().any(|w| w.contains(&at)));
    LoadReport {
        app: run.workload.to_string(),
        rate: trace.rate,
        seconds: trace.took.as_secs_f64(),
        requests: all.requests,
        failed: all.failed,
        unanswered: all.unanswered,
        connections_opened: trace.connections_opened,
        acknowledged_writes: trace.acknowledged(0..u64::MAX).count() as u64,
        lost_writes: trace.lost(0..u64::MAX, &run.kept),
        usual_p50_ms: usual.quantile_ms(0.5),
        usual_p99_ms: usual.quantile_ms(0.99),
        schedule_kept: trace.keeping.is_kept(),
        keeping: trace.keeping,
    }
}

impl Report {
    /// The report of some runs on a cluster.
    #[must_use]
    pub fn new(runs: &[Run], cluster: &ClusterStatus, machine: Machine) -> Self {
        let moves: Vec<MoveReport> = runs
            .iter()
            .flat_map(|run| run.moves.iter().map(|moved| of_move(run, moved)))
            .collect();
        let loads: Vec<LoadReport> = runs.iter().map(of_load).collect();
        let verdicts = verdicts(runs, &moves, &loads);
        let (storage, runtime) = kinds(cluster);
        Self {
            storage,
            runtime,
            passed: verdicts
                .iter()
                .all(|verdict| verdict.held || !verdict.required),
            verdicts,
            moves,
            loads,
            machine,
        }
    }
}

/// What the nodes' storage and runtime are, as the agents say.
fn kinds(cluster: &ClusterStatus) -> (String, String) {
    let word = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    };
    let first = cluster
        .nodes
        .iter()
        .find_map(|node| node.status.as_ref().ok());
    match first {
        Some(node) => (
            word(serde_json::to_value(node.storage.kind)),
            word(serde_json::to_value(node.runtime.kind)),
        ),
        None => ("unknown".to_owned(), "unknown".to_owned()),
    }
}

/// Judges: nothing failed for notes, nothing lost, each move done, the schedule kept; and
/// whether Flocker's own part of each pause is within its budget.
fn verdicts(runs: &[Run], moves: &[MoveReport], loads: &[LoadReport]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (run, load) in runs.iter().zip(loads) {
        let app = run.workload;
        let done = run
            .moves
            .iter()
            .filter(|m| m.state == MoveState::Done)
            .count();
        verdicts.push(Verdict {
            what: format!("{app}: every move is done"),
            found: match &run.failure {
                Some(failure) => format!("{done} done; {failure}"),
                None => format!("{done} of {}", run.moves.len()),
            },
            held: run.failure.is_none() && done == run.moves.len() && done > 0,
            required: true,
        });
        let (failed, unanswered) = (load.failed, load.unanswered);
        verdicts.push(Verdict {
            what: match app {
                Workload::Notes => format!("{app}: no request fails"),
                Workload::Postgres => format!("{app}: every row is acknowledged in the end"),
            },
            found: format!(
                "{failed} failed, {unanswered} unanswered of {}",
                load.requests
            ),
            held: failed == 0 && unanswered == 0 && load.requests > 0,
            required: true,
        });
        verdicts.push(Verdict {
            what: format!("{app}: no acknowledged write is lost"),
            found: format!("{} lost of {}", load.lost_writes, load.acknowledged_writes),
            held: load.lost_writes == 0 && load.acknowledged_writes > 0,
            required: true,
        });
        if app == Workload::Notes {
            verdicts.push(Verdict {
                what: format!("{app}: requests are sent when they are due"),
                found: format!(
                    "99 of 100 within {:.1} ms, the latest after {:.1} ms",
                    load.keeping.late_p99_ms, load.keeping.late_max_ms
                ),
                held: load.schedule_kept,
                required: false,
            });
        }
    }
    for moved in moves {
        if let Some(overhead) = moved.overhead_ms {
            verdicts.push(Verdict {
                what: format!(
                    "{} {} to {}: pause beyond the app's stop and start at most {OVERHEAD_MS_MAX} ms",
                    moved.app, moved.from, moved.to
                ),
                found: format!("{overhead:.1} ms"),
                held: overhead <= OVERHEAD_MS_MAX,
                required: false,
            });
        }
    }
    verdicts
}

#[cfg(test)]
mod tests;
