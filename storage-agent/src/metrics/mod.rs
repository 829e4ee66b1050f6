//! The agent's metrics: every name and meaning in one list.
//!
//! Counters and histograms are kept as verbs run; what is a state (volumes, containers) is
//! asked at each scrape, so that it cannot be wrong.

mod asides;
mod form;
mod replication;

use std::{sync::atomic::AtomicU64, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{FencePhase, LeasePolicy, LeaseStatus, ReplicateReply},
    aside::Aside,
    container::{ContainerState, ContainerStatus},
    name::VolumeId,
    volume::VolumeStatus,
};
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

pub use self::{asides::AsideCounts, replication::Rounds};

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    node: String,
    version: &'static str,
}

/// A verb of the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

/// A verb that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    verb: &'static str,
    code: String,
}

/// Full or incremental.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VolumeLabels {
    volume: String,
    role: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppLabels {
    app: String,
}

/// What is counted as verbs run.
#[derive(Debug)]
pub struct Metrics {
    node: String,
    durations: Family<Verb, Histogram>,
    errors: Family<Failure, Counter>,
    transfers: Family<Kind, Counter>,
    transfer_bytes: Family<Kind, Counter>,
    killed: Counter,
    rounds: Rounds,
}

/// What is asked at a scrape.
#[derive(Debug, Default)]
pub struct Observed {
    /// Copies of volumes on this node, unless the storage did not answer.
    pub volumes: Option<Vec<VolumeStatus>>,
    /// Free bytes of the storage.
    pub available_bytes: Option<u64>,
    /// What is wrong with the storage, if anything is.
    pub problem: Option<String>,
    /// Our containers on this node, unless the runtime did not answer.
    pub containers: Option<Vec<ContainerStatus>>,
    /// The node's lease.
    pub lease: Option<LeaseStatus>,
    /// Snapshots of each volume that are kept only because something depends on them.
    pub kept_for_others: Vec<(VolumeId, usize)>,
    /// What is kept aside on this node.
    pub asides: Vec<Aside>,
    /// How often something was.
    pub aside_counts: AsideCounts,
}

impl Metrics {
    /// Of this node.
    #[must_use]
    pub fn new(node: String, rounds: Rounds) -> Self {
        // 1 ms to about a minute.
        let buckets = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        Self {
            node,
            durations: Family::new_with_constructor(buckets as fn() -> Histogram),
            errors: Family::default(),
            transfers: Family::default(),
            transfer_bytes: Family::default(),
            killed: Counter::default(),
            rounds,
        }
    }

    /// A verb has ended.
    pub fn verb<T>(&self, verb: &'static str, took: Duration, result: &Result<T, ErrorBody>) {
        self.durations
            .get_or_create(&Verb { verb })
            .observe(took.as_secs_f64());
        if let Err(error) = result {
            self.error(verb, error.code);
        }
    }

    /// A request was refused before it came to a verb, or the verb failed.
    pub fn error(&self, verb: &'static str, code: ErrorCode) {
        let code = code.to_string();
        self.errors.get_or_create(&Failure { verb, code }).inc();
    }

    /// A transfer was acknowledged.
    pub fn transfer(&self, reply: &ReplicateReply) {
        let kind = Kind {
            kind: match reply {
                ReplicateReply { bytes: 0, .. } => "none",
                ReplicateReply { full: true, .. } => "full",
                ReplicateReply { full: false, .. } => "incremental",
            },
        };
        self.transfers.get_or_create(&kind).inc();
        self.transfer_bytes.get_or_create(&kind).inc_by(reply.bytes);
    }

    /// An app had to be killed after its grace.
    pub fn killed(&self) {
        self.killed.inc();
    }

    /// All of it, as Prometheus reads it.
    #[must_use]
    pub fn text(&self, observed: &Observed) -> String {
        let mut all = Registry::with_prefix("flocker_agent");
        let build = Family::<BuildLabels, Gauge>::default();
        let labels = BuildLabels {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION"),
        };
        build.get_or_create(&labels).set(1);
        all.register(
            "build_info",
            "Node and version of the agent; always 1",
            build,
        );
        all.register(
            "verb_duration_seconds",
            "How long verbs took, failed ones too",
            self.durations.clone(),
        );
        all.register("errors", "Failed verbs by error code", self.errors.clone());
        all.register(
            "transfers",
            "Replications sent and acknowledged; none where there was nothing to send",
            self.transfers.clone(),
        );
        all.register(
            "transfer_bytes",
            "Bytes of streams that were sent and acknowledged",
            self.transfer_bytes.clone(),
        );
        all.register(
            "containers_killed",
            "Stops in which the grace was not enough",
            self.killed.clone(),
        );
        let volumes = observed.volumes.as_deref().unwrap_or_default();
        self.rounds.register(&mut all, volumes);
        register_volumes(&mut all, observed);
        asides::register(&mut all, &observed.asides, &observed.aside_counts);
        register_containers(&mut all, observed);
        register_lease(&mut all, observed);
        let mut text = String::new();
        // Writing to a string cannot fail; a half-written scrape would be refused anyway.
        let _written = encode(&mut text, &all);
        form::older(&text)
    }
}

fn register_volumes(all: &mut Registry, observed: &Observed) {
    let up = gauge(i64::from(observed.volumes.is_some()));
    all.register("storage_up", "Whether the storage answers", up);
    if let Some(bytes) = observed.available_bytes {
        all.register(
            "storage_available_bytes",
            "Free bytes of the storage",
            gauge(signed(bytes)),
        );
    }
    all.register(
        "storage_healthy",
        "Whether the storage says that nothing is wrong with it",
        gauge(i64::from(
            observed.volumes.is_some() && observed.problem.is_none(),
        )),
    );
    let epochs = Family::<VolumeLabels, Gauge>::default();
    let used = Family::<VolumeLabels, Gauge>::default();
    let snapshots = Family::<VolumeLabels, Gauge>::default();
    let pinned = Family::<VolumeLabels, Gauge>::default();
    let sending = Family::<VolumeLabels, Gauge>::default();
    for volume in observed.volumes.iter().flatten() {
        let labels = VolumeLabels {
            volume: volume.name.to_string(),
            role: volume.role.to_string(),
        };
        epochs.get_or_create(&labels).set(signed(volume.epoch.0));
        used.get_or_create(&labels).set(signed(volume.used_bytes));
        let count = i64::try_from(volume.snapshots.len()).unwrap_or(i64::MAX);
        snapshots.get_or_create(&labels).set(count);
        let mut kept = observed.kept_for_others.iter();
        if let Some((_, count)) = kept.find(|(id, _)| *id == volume.id) {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            pinned.get_or_create(&labels).set(count);
        }
        let bytes = volume
            .transfer
            .as_ref()
            .map_or(0, |transfer| signed(transfer.bytes));
        sending.get_or_create(&labels).set(bytes);
    }
    all.register("volume_epoch", "Newest epoch that a copy has seen", epochs);
    all.register("volume_used_bytes", "Bytes that a copy occupies", used);
    all.register("volume_snapshots", "Snapshots of a copy", snapshots);
    all.register(
        "volume_snapshots_pinned",
        "Snapshots that are kept only because something depends on them: a peer, an aside, a clone, a reader",
        pinned,
    );
    all.register(
        "volume_transfer_bytes",
        "Bytes so far of the transfer that runs, sending or receiving",
        sending,
    );
}

fn register_containers(all: &mut Registry, observed: &Observed) {
    let up = gauge(i64::from(observed.containers.is_some()));
    all.register("runtime_up", "Whether the container runtime answers", up);
    let running = Family::<AppLabels, Gauge>::default();
    for container in observed.containers.iter().flatten() {
        let labels = AppLabels {
            app: container.app.to_string(),
        };
        let runs = container.state == ContainerState::Running;
        running.get_or_create(&labels).set(i64::from(runs));
    }
    all.register(
        "container_running",
        "Whether a container of ours runs",
        running,
    );
}

fn register_lease(all: &mut Registry, observed: &Observed) {
    let Some(lease) = &observed.lease else {
        return;
    };
    let enforced = lease.policy == Some(LeasePolicy::Enforced);
    all.register(
        "lease_enforced",
        "Whether the node fences itself when its lease runs out",
        gauge(i64::from(enforced)),
    );
    let remaining = Gauge::<f64, AtomicU64>::default();
    remaining.set(Duration::from_millis(lease.remaining_ms).as_secs_f64());
    all.register(
        "lease_remaining_seconds",
        "Time until the lease runs out; 0 when it has, or there is none",
        remaining,
    );
    all.register(
        "fenced",
        "Whether the node is fencing itself or fenced",
        gauge(i64::from(lease.fence != FencePhase::Guarding)),
    );
    let fences = Counter::<u64>::default();
    fences.inc_by(lease.fences);
    all.register(
        "fences",
        "How often the node has fenced itself since the agent started",
        fences,
    );
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::{Epoch, Role};

    use super::*;

    #[test]
    fn a_scrape_tells_of_verbs_errors_volumes_and_containers() {
        let metrics = Metrics::new("n1".to_owned(), Rounds::default());
        metrics.verb("start", Duration::from_millis(3), &Ok(()));
        let error = ErrorBody::new(ErrorCode::StaleEpoch, "late");
        metrics.verb::<()>("start", Duration::from_millis(1), &Err(error));
        let observed = Observed {
            volumes: Some(vec![VolumeStatus {
                id: VolumeId::random(),
                name: "notes".parse().unwrap(),
                role: Role::Primary,
                epoch: Epoch(3),
                mounted_at: None,
                used_bytes: 7,
                size_bytes: None,
                snapshots: Vec::new(),
                transfer: None,
                replication: None,
            }]),
            available_bytes: Some(9),
            problem: None,
            containers: None,
            lease: None,
            kept_for_others: Vec::new(),
            asides: Vec::new(),
            aside_counts: AsideCounts::default(),
        };
        let text = metrics.text(&observed);
        for line in [
            "flocker_agent_verb_duration_seconds_count{verb=\"start\"} 2",
            "flocker_agent_errors_total{verb=\"start\",code=\"stale_epoch\"} 1",
            "flocker_agent_volume_epoch{volume=\"notes\",role=\"primary\"} 3",
            "flocker_agent_storage_available_bytes 9",
            "flocker_agent_runtime_up 0",
            "flocker_agent_storage_healthy 1",
            "flocker_agent_replication_rounds_total{outcome=\"failed\"} 0",
            "flocker_agent_build_info{node=\"n1\"",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    fn replicated() -> VolumeStatus {
        let text = r#"{
            "id": "00000000-0000-0000-0000-000000000007", "name": "notes", "role": "primary",
            "epoch": 1, "mounted_at": null, "used_bytes": 1, "size_bytes": null, "snapshots": [],
            "replication": {
                "epoch": 1,
                "policy": {
                    "targets": [{"peer": "n2", "to": "10.0.0.2:7411"}], "interval_ms": 10000
                },
                "targets": [
                    {"peer": "n2", "state": "failing", "lag_ms": 2500, "lag_bytes": 9, "rounds": 1},
                    {"peer": "n3", "state": "due", "rounds": 0}
                ]
            }
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs the judge of metrics")]
    fn promtool_finds_nothing_wrong_with_them() {
        let rounds = Rounds::default();
        let error = ErrorBody::new(ErrorCode::Diverged, "no");
        rounds.ended(Err(&error));
        rounds.stage("look", Duration::from_millis(3));
        let metrics = Metrics::new("n1".to_owned(), rounds);
        metrics.verb::<()>("start", Duration::from_millis(1), &Err(error));
        let observed = Observed {
            volumes: Some(vec![replicated()]),
            available_bytes: Some(9),
            containers: Some(Vec::new()),
            ..Observed::default()
        };
        let text = metrics.text(&observed);
        for line in [
            "flocker_agent_replication_lag_seconds{volume=\"notes\",target=\"n2\"} 2.5",
            "flocker_agent_replication_lag_bytes{volume=\"notes\",target=\"n2\"} 9",
            "flocker_agent_replication_failing{volume=\"notes\",target=\"n2\"} 1",
            "flocker_agent_replication_interval_seconds{volume=\"notes\"} 10",
            "flocker_agent_replication_errors_total{code=\"diverged\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let never = "flocker_agent_replication_lag_seconds{volume=\"notes\",target=\"n3\"}";
        let never = text.lines().find_map(|line| line.strip_prefix(never));
        let seconds: f64 = never.unwrap().trim().parse().unwrap();
        assert!(seconds.is_infinite());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let output = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(std::fs::File::open(file.path()).unwrap())
            .output()
            .expect("promtool is there: see scripts/packages");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
