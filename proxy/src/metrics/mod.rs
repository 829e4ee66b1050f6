//! Every metric of the edge: the counters that workers and gates keep, and the one list of the
//! names under which they are shown.
//!
//! Workers count for themselves, without knowing of one another; a scrape adds them up. What a
//! name means is said once, as its help text below.

#![expect(
    clippy::disallowed_methods,
    reason = "a scrape shows how long gates have been as they are"
)]

mod routes;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    driver::edge::Edge,
    logic::access::{Cause, Timers},
};

pub use self::routes::Shown;

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
    /// Connections and requests refused by lists of addresses.
    pub denied: Counter,
    /// Connections refused because their client had too many.
    pub client_sessions_exceeded: Counter,
    /// Connections refused because their client came too fast.
    pub client_rate_exceeded: Counter,
    /// Connections of trusted proxies without a proper PROXY header.
    pub proxy_headers_malformed: Counter,
    /// Requests and sessions refused because the upstreams were full and so was the line.
    pub upstreams_full: Counter,
    /// Upstreams ejected for failing clients.
    pub ejections: Counter,
    /// Upstreams that failed a client.
    pub upstream_errors: Counter,
    /// Requests that were sent again on a new connection.
    pub retries: Counter,
    /// Upstream connections opened.
    pub connects: Counter,
    /// Upstream connections used again.
    pub reuses: Counter,
    /// TLS handshakes with clients that were done.
    pub tls_handshakes: Counter,
    /// Those of them that resumed a session.
    pub tls_resumed: Counter,
    /// TLS handshakes with clients that failed.
    pub tls_failures: Counter,
    /// Bytes relayed to clients.
    pub bytes_down: Counter,
    /// Bytes relayed to upstreams.
    pub bytes_up: Counter,
    /// HTTP/2 connections of clients now.
    pub h2_connections: Counter,
    /// Streams of these now.
    pub h2_streams: Counter,
    /// HTTP/2 connections that were ended because of a flood of frames.
    pub h2_floods: Counter,
    /// From a request's head to the end of its response.
    pub request_time: Histogram,
    /// How long the parked waited.
    pub hold_time: Histogram,
    /// Lines of the access log that were not written, for want of time.
    pub access_dropped: Counter,
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
    /// What takes more room, made for a route that is used: of a million most never are.
    detail: OnceLock<Box<RouteDetail>>,
}

/// What is counted for a route once it is used.
#[derive(Debug, Default)]
pub struct RouteDetail {
    /// Requests and sessions that are over, by who or what ended them.
    pub ended: [Counter; Cause::ALL.len()],
    /// Bytes sent to upstreams.
    pub bytes_up: Counter,
    /// Bytes sent to clients.
    pub bytes_down: Counter,
    /// How long those waited that were parked.
    pub hold_time: Histogram,
    /// How long upstreams took to be connected.
    pub connect_time: Histogram,
    /// How long upstreams took to answer.
    pub response_time: Histogram,
    /// From beginning to end.
    pub total_time: Histogram,
}

impl RouteStats {
    /// The rest, if the route has been used.
    #[must_use]
    pub fn detail(&self) -> Option<&RouteDetail> {
        self.detail.get().map(|detail| &**detail)
    }

    /// Counts a request or session that is over.
    pub fn over(&self, cause: Cause, timers: &Timers, bytes_up: u64, bytes_down: u64) {
        let detail = self.detail.get_or_init(Box::default);
        detail.ended[cause as usize].inc();
        detail.bytes_up.add(bytes_up);
        detail.bytes_down.add(bytes_down);
        for (histogram, time) in [
            (&detail.hold_time, timers.held),
            (&detail.connect_time, timers.connect),
            (&detail.response_time, timers.response),
            (&detail.total_time, Some(timers.total)),
        ] {
            if let Some(time) = time {
                histogram.observe(time);
            }
        }
    }

    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
    }
}

/// Name, meaning and source of what a worker has now.
const WORKER_GAUGES: [Row<Counter>; 4] = [
    ("sessions", "Downstream connections now", |c| &c.sessions),
    ("parked", "Sessions and requests parked at gates now", |c| {
        &c.parked
    }),
    (
        "h2_connections",
        "HTTP/2 connections of clients now; each is a session as well",
        |c| &c.h2_connections,
    ),
    ("h2_streams", "Streams of these now", |c| &c.h2_streams),
];

/// Name, meaning and source of what a worker counts; `_total` is appended to the name.
const WORKER_COUNTERS: [Row<Counter>; 23] = [
    ("accepted", "Downstream connections accepted", |c| {
        &c.accepted
    }),
    (
        "accept_failures",
        "Accepts that failed for want of descriptors or memory",
        |c| &c.accept_failures,
    ),
    (
        "malformed",
        "Request heads, bodies and ClientHellos refused as malformed",
        |c| &c.malformed,
    ),
    (
        "no_route",
        "Requests and sessions that no route was found for",
        |c| &c.no_route,
    ),
    ("refused", "Requests and sessions refused by a gate", |c| {
        &c.refused
    }),
    ("connects", "Upstream connections opened", |c| &c.connects),
    (
        "connect_failures",
        "Upstream connects that failed, each attempt",
        |c| &c.connect_failures,
    ),
    (
        "denied",
        "Connections and requests refused by lists of addresses",
        |c| &c.denied,
    ),
    (
        "client_sessions_exceeded",
        "Connections refused because their client had too many",
        |c| &c.client_sessions_exceeded,
    ),
    (
        "client_rate_exceeded",
        "Connections refused because their client came too fast",
        |c| &c.client_rate_exceeded,
    ),
    (
        "proxy_headers_malformed",
        "Connections of trusted proxies without a proper PROXY header",
        |c| &c.proxy_headers_malformed,
    ),
    (
        "upstreams_full",
        "Requests and sessions refused because upstreams and their line were full",
        |c| &c.upstreams_full,
    ),
    (
        "ejections",
        "Upstreams left alone for a while because they failed clients",
        |c| &c.ejections,
    ),
    ("reuses", "Upstream connections used again", |c| &c.reuses),
    ("tls_handshakes", "TLS handshakes with clients", |c| {
        &c.tls_handshakes
    }),
    (
        "tls_resumed",
        "TLS handshakes with clients that resumed a session",
        |c| &c.tls_resumed,
    ),
    (
        "tls_failures",
        "TLS handshakes with clients that failed",
        |c| &c.tls_failures,
    ),
    (
        "retries",
        "Requests sent again after a stale upstream connection",
        |c| &c.retries,
    ),
    (
        "upstream_errors",
        "Requests and sessions that failed because of their upstream",
        |c| &c.upstream_errors,
    ),
    ("downstream_bytes", "Bytes sent to clients", |c| {
        &c.bytes_down
    }),
    ("upstream_bytes", "Bytes sent to upstreams", |c| &c.bytes_up),
    (
        "access_dropped",
        "Lines of the access log that were dropped because its writer was behind",
        |c| &c.access_dropped,
    ),
    (
        "h2_floods",
        "HTTP/2 connections ended because of a flood of frames",
        |c| &c.h2_floods,
    ),
];

/// Name, meaning and source of the durations that a worker measures, in s.
const WORKER_HISTOGRAMS: [Row<Histogram>; 2] = [
    (
        "request_seconds",
        "From a request's head to the end of its response",
        |c| &c.request_time,
    ),
    (
        "hold_seconds",
        "How long those waited that were parked and let go",
        |c| &c.hold_time,
    ),
];

type Row<M> = (&'static str, &'static str, fn(&Counters) -> &M);

/// Everything, in the text form of OpenMetrics.
#[must_use]
pub fn encode(edge: &Arc<Edge>) -> String {
    let mut registry = Registry::with_prefix("flocker_edge");
    registry.register_collector(Box::new(Scrape(Arc::clone(edge))));
    let mut text = String::new();
    match text::encode(&mut text, &registry) {
        Ok(()) => text,
        // A String takes everything, and no label of ours is malformed.
        Err(fmt::Error) => String::from("# EOF\n"),
    }
}

struct Scrape(Arc<Edge>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let edge = &self.0;
        let table = edge.table();
        let sum = |pick: fn(&Counters) -> &Counter| -> u64 {
            edge.counters().iter().map(|c| pick(c).value()).sum()
        };
        let gauge = MetricType::Gauge;
        let help = "Generation of the route table";
        encoder
            .encode_descriptor("generation", help, None, gauge)?
            .encode_gauge(&signed(table.generation().0))?;
        encoder
            .encode_descriptor("routes", "Number of routes", None, gauge)?
            .encode_gauge(&signed(table.len() as u64))?;
        for (name, help, pick) in WORKER_GAUGES {
            encoder
                .encode_descriptor(name, help, None, gauge)?
                .encode_gauge(&signed(sum(pick)))?;
        }
        for (name, help, pick) in WORKER_COUNTERS {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            count(counter, sum(pick))?;
        }
        for (name, help, pick) in WORKER_HISTOGRAMS {
            let all: Vec<_> = edge.counters().iter().map(|c| pick(c)).collect();
            durations(&mut encoder, name, help, &all)?;
        }
        let help = "How long quiesces took that ended with nothing in flight";
        durations(
            &mut encoder,
            "quiesce_seconds",
            help,
            &[edge.quiesce_time()],
        )?;
        let most = edge.config().metrics_routes;
        routes::encode(&mut encoder, &table, edge.shown(), most, Instant::now())
    }
}

fn count(mut counter: MetricEncoder<'_>, value: u64) -> Result<(), fmt::Error> {
    counter.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn durations(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    parts: &[&Histogram],
) -> Result<(), fmt::Error> {
    let (sum, total, buckets) = durations_of(parts);
    encoder
        .encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(sum, total, &buckets, None)
}

/// Sum in s, count, and counts by bucket of several histograms together.
fn durations_of(parts: &[&Histogram]) -> (f64, u64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = BUCKETS_US
        .iter()
        .map(|us| (Duration::from_micros(*us).as_secs_f64(), 0))
        .chain([(f64::INFINITY, 0)])
        .collect();
    let mut sum = 0.0;
    for part in parts {
        let (counts, sum_s) = part.values();
        sum += sum_s;
        for (bucket, count) in buckets.iter_mut().zip(counts) {
            bucket.1 += count;
        }
    }
    let total = buckets.iter().map(|(_, count)| count).sum();
    (sum, total, buckets)
}

/// The older text form of the same (exposition format 0.0.4): what a scraper gets that does not
/// ask for OpenMetrics. There the name of a counter is the one of its samples.
#[must_use]
pub fn to_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let total = match of.ends_with(" counter") {
                true => "_total",
                false => "",
            };
            for line in help.take().into_iter().chain([line]) {
                // "# KIND NAME REST"
                let mut words = line.splitn(4, ' ');
                let mut word = || words.next().unwrap_or_default();
                let (hash, kind, name, rest) = (word(), word(), word(), word());
                text.push_str(&format!("{hash} {kind} {name}{total} {rest}\n"));
            }
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_first_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for us in [1, 100, 101, 40_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let (counts, sum) = histogram.values();
        assert_eq!(counts[0], 2);
        assert_eq!(counts[1], 1);
        assert_eq!(counts[BUCKETS_US.len()], 1);
        assert!((sum - 40.000_202).abs() < 1e-9);
    }

    #[test]
    fn the_older_form_names_counters_as_their_samples() {
        let openmetrics = "# HELP a Some words.\n# TYPE a counter\na_total{x=\"# y\"} 1\n\
                           # HELP b More.\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_total Some words.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n\
                    # HELP b More.\n# TYPE b gauge\nb 2\n";
        assert_eq!(to_text(openmetrics), text);
    }

    #[test]
    fn answers_are_counted_by_class() {
        let stats = RouteStats::default();
        for status in [101, 200, 204, 503, 0, 999] {
            stats.answered(status);
        }
        let classes: Vec<_> = stats.classes.iter().map(Counter::value).collect();
        assert_eq!(classes, [1, 2, 0, 0, 1]);
    }
}
