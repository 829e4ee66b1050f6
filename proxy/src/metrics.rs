//! Every metric of the edge: counters that workers and gates keep, and the one list of names
//! under which they are shown.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that one or many threads count and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of a [`Histogram`], in microseconds; the last is infinite.
pub const BUCKETS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];

/// A distribution of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let index = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[index].inc();
        self.sum_us.add(us);
    }

    /// Counts by bucket, not cumulated, and the sum in s.
    #[must_use]
    pub fn values(&self) -> ([u64; BUCKETS_US.len() + 1], f64) {
        let mut counts = [0; BUCKETS_US.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.value();
        }
        (
            counts,
            Duration::from_micros(self.sum_us.value()).as_secs_f64(),
        )
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Downstream connections now.
    pub sessions: Counter,
    /// Downstream connections accepted.
    pub accepted: Counter,
    /// Accepts that failed for want of descriptors or memory.
    pub accept_failures: Counter,
    /// Parked now.
    pub parked: Counter,
    /// Heads and hellos that were refused.
    pub malformed: Counter,
    /// Arrivals that no route was found for.
    pub no_route: Counter,
    /// Arrivals that a gate refused.
    pub refused: Counter,
    /// Connects that failed, each attempt.
    pub connect_failures: Counter,
    /// Upstreams that failed a client.
    pub upstream_errors: Counter,
    /// Requests that were sent again on a new connection.
    pub retries: Counter,
    /// Upstream connections opened.
    pub connects: Counter,
    /// Upstream connections used again.
    pub reuses: Counter,
    /// Bytes relayed to clients.
    pub bytes_down: Counter,
    /// Bytes relayed to upstreams.
    pub bytes_up: Counter,
    /// From a request's head to the end of its response.
    pub request_time: Histogram,
    /// How long the parked waited.
    pub hold_time: Histogram,
}

/// What is counted for a route.
#[derive(Debug, Default)]
pub struct RouteStats {
    /// Requests, or sessions of opaque routes.
    pub requests: Counter,
    /// Of these, answered by the edge itself with an error or closed without an answer.
    pub failed: Counter,
    /// Answers by class: 1xx to 5xx.
    pub classes: [Counter; 5],
}

impl RouteStats {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
    }
}

/// The metrics as text.
#[must_use]
pub fn encode(edge: &crate::driver::edge::Edge) -> String {
    format!(
        "flocker_edge_generation {}\n# EOF\n",
        edge.table().generation()
    )
}
