//! Metrics of continuous replication: counted as rounds run, and read off each volume's status
//! at a scrape.

use std::{sync::atomic::AtomicU64, time::Duration};

use flocker_api::{
    ErrorBody,
    agent::ReplicateReply,
    replication::{TargetState, TargetStatus},
    volume::VolumeStatus,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// How a round ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// A kind of error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    code: String,
}

/// A part of a round.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// A copy that is kept on another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Link {
    volume: String,
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Volume {
    volume: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// What is counted as rounds run. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Rounds {
    rounds: Family<Outcome, Counter>,
    bytes: Counter,
    errors: Family<Kind, Counter>,
    stages: Family<Stage, Histogram>,
}

impl Default for Rounds {
    fn default() -> Self {
        // 1 ms to about two minutes.
        let buckets = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let rounds = Self {
            rounds: Family::default(),
            bytes: Counter::default(),
            errors: Family::default(),
            stages: Family::new_with_constructor(buckets as fn() -> Histogram),
        };
        // A rate can be taken only of what was there before.
        for outcome in ["sent", "unchanged", "failed"] {
            drop(rounds.rounds.get_or_create(&Outcome { outcome }));
        }
        rounds
    }
}

impl Rounds {
    /// A round has ended.
    pub fn ended(&self, result: Result<&ReplicateReply, &ErrorBody>) {
        let outcome = match result {
            Ok(reply) => {
                self.bytes.inc_by(reply.bytes);
                self.stage("snapshot", Duration::from_micros(reply.snapshot_us));
                self.stage("transfer", Duration::from_micros(reply.transfer_us));
                "sent"
            }
            Err(error) => {
                let code = error.code.to_string();
                self.errors.get_or_create(&Kind { code }).inc();
                "failed"
            }
        };
        self.rounds.get_or_create(&Outcome { outcome }).inc();
    }

    /// A round has found that nothing changed, and nothing was sent.
    pub fn unchanged(&self) {
        let outcome = "unchanged";
        self.rounds.get_or_create(&Outcome { outcome }).inc();
    }

    /// A part of the work has ended: `look`, `snapshot`, `transfer`, `sweep`.
    pub fn stage(&self, stage: &'static str, took: Duration) {
        let stage = self.stages.get_or_create(&Stage { stage });
        stage.observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, all: &mut Registry, volumes: &[VolumeStatus]) {
        all.register(
            "replication_rounds",
            "Rounds of continuous replication by how they ended",
            self.rounds.clone(),
        );
        all.register(
            "replication_bytes",
            "Bytes of streams that rounds have sent",
            self.bytes.clone(),
        );
        all.register(
            "replication_errors",
            "Rounds that failed, by error code; diverged is a conflict",
            self.errors.clone(),
        );
        all.register(
            "replication_stage_seconds",
            "How long parts of the work took",
            self.stages.clone(),
        );
        register_links(all, volumes);
    }
}

fn register_links(all: &mut Registry, volumes: &[VolumeStatus]) {
    let lags = Family::<Link, Seconds>::default();
    let bytes = Family::<Link, Gauge>::default();
    let failing = Family::<Link, Gauge>::default();
    let intervals = Family::<Volume, Seconds>::default();
    for volume in volumes {
        let Some(replication) = &volume.replication else {
            continue;
        };
        let name = volume.name.to_string();
        let interval = Duration::from_millis(replication.policy.interval_ms);
        let of = Volume {
            volume: name.clone(),
        };
        intervals.get_or_create(&of).set(interval.as_secs_f64());
        for target in &replication.targets {
            let link = Link {
                volume: name.clone(),
                target: target.peer.to_string(),
            };
            let is_failing = target.state == TargetState::Failing || target.error.is_some();
            failing.get_or_create(&link).set(i64::from(is_failing));
            lags.get_or_create(&link).set(lag_seconds(target));
            if let Some(behind) = target.lag_bytes {
                let behind = i64::try_from(behind).unwrap_or(i64::MAX);
                bytes.get_or_create(&link).set(behind);
            }
        }
    }
    all.register(
        "replication_lag_seconds",
        "Age of a copy: what would be lost if the primary were; +Inf before the first",
        lags,
    );
    all.register(
        "replication_lag_bytes",
        "Bytes written that a copy lacks, as far as the storage tells",
        bytes,
    );
    all.register(
        "replication_failing",
        "Whether the last round to a target failed",
        failing,
    );
    all.register(
        "replication_interval_seconds",
        "Interval of a volume's policy",
        intervals,
    );
}

fn lag_seconds(target: &TargetStatus) -> f64 {
    target
        .lag_ms
        .map_or(f64::INFINITY, |ms| Duration::from_millis(ms).as_secs_f64())
}
