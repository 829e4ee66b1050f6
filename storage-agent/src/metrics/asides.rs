//! Metrics of what the node keeps aside of its volumes.

use std::collections::BTreeMap;

use flocker_api::aside::{Aside, AsideCause};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How often something was put aside since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsideCounts {
    /// By why.
    pub made: BTreeMap<AsideCause, u64>,
    /// Copies that went back to a snapshot with nothing to be kept.
    pub taken_back: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kept {
    volume: String,
    cause: &'static str,
}

const CAUSES: [AsideCause; 4] = [
    AsideCause::Diverged,
    AsideCause::Touched,
    AsideCause::RolledBack,
    AsideCause::Unrelated,
];

pub(super) fn register(all: &mut Registry, asides: &[Aside], counts: &AsideCounts) {
    let kept = Family::<Kept, Gauge>::default();
    let bytes = Family::<Kept, Gauge>::default();
    for aside in asides {
        let labels = Kept {
            volume: aside.name.to_string(),
            cause: aside.cause.as_str(),
        };
        kept.get_or_create(&labels).inc();
        let used = i64::try_from(aside.used_bytes).unwrap_or(i64::MAX);
        bytes.get_or_create(&labels).inc_by(used);
    }
    all.register(
        "asides",
        "What is kept of a volume that its primary lacks, until somebody decides",
        kept,
    );
    all.register("aside_bytes", "Bytes that asides occupy", bytes);
    let made = Family::<Cause, Counter>::default();
    for cause in CAUSES {
        let labels = Cause {
            cause: cause.as_str(),
        };
        let count = counts.made.get(&cause).copied().unwrap_or(0);
        made.get_or_create(&labels).inc_by(count);
    }
    all.register(
        "asides_made",
        "How often something was put aside, by why",
        made,
    );
    let taken_back: Counter = Counter::default();
    taken_back.inc_by(counts.taken_back);
    all.register(
        "replicas_taken_back",
        "Replicas that had been touched without a write, and went back to their newest snapshot",
        taken_back,
    );
}
