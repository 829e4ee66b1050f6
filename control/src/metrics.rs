//! Every metric of control, its name and meaning, in one list.

use flocker_api::control::MoveStep;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The metrics of one control service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    moves: Family<OutcomeLabel, Counter>,
    steps: Family<StepLabel, Histogram>,
    pause: Histogram,
    problems: Gauge,
    age: Family<PeerLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    actions: Family<OutcomeLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 2 min.
        let new_histogram: fn() -> Histogram =
            || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let mut registry = Registry::with_prefix("flocker_control");
        let metrics = Self {
            moves: Family::default(),
            steps: Family::new_with_constructor(new_histogram),
            pause: new_histogram(),
            problems: Gauge::default(),
            age: Family::default(),
            actions: Family::default(),
            registry: Registry::default(),
        };
        registry.register("moves", "Ended moves, by outcome", metrics.moves.clone());
        registry.register(
            "move_step_seconds",
            "Time that a step of a move took",
            metrics.steps.clone(),
        );
        registry.register(
            "move_pause_seconds",
            "Time for which a move held requests, as the edges saw it",
            metrics.pause.clone(),
        );
        registry.register(
            "problems",
            "What is not as it should be now",
            metrics.problems.clone(),
        );
        registry.register(
            "observed_age_seconds",
            "Time since an agent or edge last answered; infinite when it never has",
            metrics.age.clone(),
        );
        registry.register(
            "reconcile_actions",
            "What the reconciler has done, by outcome",
            metrics.actions.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A move has ended: `done` or `undone`.
    pub(crate) fn move_ended(&self, outcome: &'static str, pause_ms: Option<f64>) {
        self.moves.get_or_create(&OutcomeLabel { outcome }).inc();
        if let Some(pause_ms) = pause_ms {
            self.pause.observe(pause_ms / 1e3);
        }
    }

    /// A step of a move has taken so long.
    pub(crate) fn step_took(&self, step: MoveStep, seconds: f64) {
        let label = StepLabel { step: step.name() };
        self.steps.get_or_create(&label).observe(seconds);
    }

    /// The reconciler has done something.
    pub(crate) fn reconciled(&self, outcome: &'static str) {
        self.actions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// The metrics in Prometheus' text form.
    #[must_use]
    pub fn render(&self, problems: usize, ages: impl Iterator<Item = (String, f64)>) -> String {
        self.problems
            .set(i64::try_from(problems).unwrap_or(i64::MAX));
        for (peer, age) in ages {
            self.age.get_or_create(&PeerLabel { peer }).set(age);
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::default();
        metrics.move_ended("done", Some(120.0));
        metrics.step_took(MoveStep::FinalDelta, 0.08);
        let text = metrics.render(2, std::iter::once(("agent of n1".to_owned(), 0.5)));
        for line in [
            "flocker_control_moves_total{outcome=\"done\"} 1",
            "flocker_control_move_pause_seconds_sum 0.12",
            "flocker_control_move_step_seconds_count{step=\"final_delta\"} 1",
            "flocker_control_problems 2",
            "flocker_control_observed_age_seconds{peer=\"agent of n1\"} 0.5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
