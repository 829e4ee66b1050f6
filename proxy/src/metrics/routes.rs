//! What is counted by route, with a bound on how many routes have series of their own.
//!
//! A million routes would be a hundred million lines. A route gets series of its own when it
//! is first used, as long as fewer than `limits.metrics_routes` have them, and keeps them until
//! it is removed; all others are added up under `route="_other"`. Routes that nobody has used
//! have none.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use flocker_api::{edge::UpstreamState, gate::GateState, route::RouteKey};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder},
    metrics::MetricType,
};

use super::{Histogram, RouteDetail, count, durations_of, signed};
use crate::logic::{access::Cause, gate::Gate, session::Table, table::Entry};

/// The route of those without series of their own. No key looks like it.
const OTHER: &str = "_other";

/// The routes that have series of their own.
#[derive(Debug, Default)]
pub struct Shown(Mutex<HashMap<RouteKey, Arc<Gate>>>);

/// One value of the label `route`, and whose numbers it adds up.
struct Line<'t> {
    route: String,
    entries: Vec<&'t Arc<Entry<Arc<Gate>>>>,
}

impl Line<'_> {
    fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.entries.iter().map(|entry| &*entry.gate)
    }

    fn details(&self) -> impl Iterator<Item = &RouteDetail> {
        self.gates().filter_map(|gate| gate.stats.detail())
    }
}

impl Shown {
    /// The used routes, those without series of their own together in the last line.
    fn lines<'t>(&self, table: &'t Table, most: usize) -> (Vec<Line<'t>>, u64) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|key, gate| {
            let entry = table.get(key);
            entry.is_some_and(|entry| Arc::ptr_eq(&entry.gate, gate))
        });
        let mut lines = Vec::new();
        let mut other = Vec::new();
        for entry in table.entries() {
            if entry.gate.stats.requests.value() == 0 {
                continue;
            }
            let key = &entry.route.key;
            if !shown.contains_key(key) {
                if shown.len() >= most {
                    other.push(entry);
                    continue;
                }
                shown.insert(key.clone(), Arc::clone(&entry.gate));
            }
            lines.push(Line {
                route: key.to_string(),
                entries: vec![entry],
            });
        }
        lines.sort_by(|a, b| a.route.cmp(&b.route));
        let others = other.len() as u64;
        if !other.is_empty() {
            lines.push(Line {
                route: OTHER.to_owned(),
                entries: other,
            });
        }
        (lines, others)
    }
}

/// Writes everything that is counted by route.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    table: &Table,
    shown: &Shown,
    most: usize,
    now: Instant,
) -> fmt::Result {
    let (lines, others) = shown.lines(table, most);
    let help = "Used routes that are counted together as route=\"_other\"";
    encoder
        .encode_descriptor("routes_together", help, None, MetricType::Gauge)?
        .encode_gauge(&signed(others))?;
    requests(encoder, &lines)?;
    holds(encoder, &lines)?;
    gates(encoder, &lines, now)?;
    times(encoder, &lines)?;
    upstreams(encoder, &lines, now)
}

fn requests(encoder: &mut DescriptorEncoder<'_>, lines: &[Line<'_>]) -> fmt::Result {
    const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let help = "Requests, or sessions of opaque routes, by route";
    let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    for line in lines {
        let value = line.gates().map(|gate| gate.stats.requests.value()).sum();
        labelled(&mut family, &[("route", &line.route)], value)?;
    }
    let help = "Requests answered by the edge with an error, and sessions closed unserved";
    let mut family = encoder.encode_descriptor("failed", help, None, MetricType::Counter)?;
    for line in lines {
        let value = line.gates().map(|gate| gate.stats.failed.value()).sum();
        labelled(&mut family, &[("route", &line.route)], value)?;
    }
    let help = "Requests and sessions that are over, by who or what ended them";
    let mut family = encoder.encode_descriptor("ended", help, None, MetricType::Counter)?;
    for line in lines {
        for cause in Cause::ALL {
            let value: u64 = line
                .details()
                .map(|detail| detail.ended[cause as usize].value())
                .sum();
            if value > 0 {
                let labels = [("route", line.route.as_str()), ("cause", cause.name())];
                labelled(&mut family, &labels, value)?;
            }
        }
    }
    let help = "HTTP responses by route and class of their status";
    let mut family = encoder.encode_descriptor("responses", help, None, MetricType::Counter)?;
    for line in lines {
        for (at, code) in CODES.iter().enumerate() {
            let value: u64 = line
                .gates()
                .map(|gate| gate.stats.classes[at].value())
                .sum();
            if value > 0 {
                let labels = [("route", line.route.as_str()), ("code", *code)];
                labelled(&mut family, &labels, value)?;
            }
        }
    }
    let help = "Bytes of requests and sessions that are over, heads included, by direction";
    let mut family = encoder.encode_descriptor("route_bytes", help, None, MetricType::Counter)?;
    for line in lines {
        let up = line.details().map(|detail| detail.bytes_up.value()).sum();
        let down = line.details().map(|detail| detail.bytes_down.value()).sum();
        for (to, value) in [("upstream", up), ("client", down)] {
            let labels = [("route", line.route.as_str()), ("to", to)];
            labelled(&mut family, &labels, value)?;
        }
    }
    Ok(())
}

fn holds(encoder: &mut DescriptorEncoder<'_>, lines: &[Line<'_>]) -> fmt::Result {
    let help = "Sessions and requests that were parked or would have been, by what became of them";
    let mut family = encoder.encode_descriptor("holds", help, None, MetricType::Counter)?;
    for line in lines {
        let mut outcomes = [0; 4];
        for gate in line.gates() {
            let counts = gate.counts();
            let values = [
                counts.released,
                counts.refused_limit,
                counts.refused_deadline,
                counts.client_gone,
            ];
            for (sum, value) in outcomes.iter_mut().zip(values) {
                *sum += value;
            }
        }
        let names = [
            "released",
            "refused_limit",
            "refused_deadline",
            "client_gone",
        ];
        for (outcome, value) in names.into_iter().zip(outcomes) {
            if value > 0 {
                let labels = [("route", line.route.as_str()), ("outcome", outcome)];
                labelled(&mut family, &labels, value)?;
            }
        }
    }
    Ok(())
}

/// Name and meaning of what a gate is like now.
const GATE_GAUGES: [(&str, &str); 6] = [
    ("in_flight", "Admitted and not yet done, by route"),
    (
        "gate_closed",
        "Whether the gate parks arrivals: 1 paused, 2 letting the parked go, 0 open",
    ),
    ("gate_parked", "Parked at the gate now"),
    ("gate_parked_bytes", "Bytes that the parked have sent ahead"),
    (
        "gate_oldest_wait_seconds",
        "How long the oldest of the parked has waited",
    ),
    (
        "gate_lapses_seconds",
        "Time until the pause lapses; 0 when there is none",
    ),
];

fn gates(encoder: &mut DescriptorEncoder<'_>, lines: &[Line<'_>], now: Instant) -> fmt::Result {
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a gauge shows few digits")]
    let number = |count: u64| count as f64;
    let statuses: Vec<[f64; 6]> = lines
        .iter()
        .map(|line| {
            let mut sums = [0.0_f64; 6];
            for status in line.gates().map(|gate| gate.status(now)) {
                sums[0] += number(status.in_flight);
                sums[1] = sums[1].max(match status.state {
                    GateState::Open => 0.0,
                    GateState::Paused => 1.0,
                    GateState::Draining => 2.0,
                });
                sums[2] += number(status.parked);
                sums[3] += number(status.parked_bytes);
                sums[4] = sums[4].max(seconds(status.oldest_wait_ms));
                sums[5] = sums[5].max(seconds(status.lapses_in_ms.unwrap_or(0)));
            }
            sums
        })
        .collect();
    for (at, (name, help)) in GATE_GAUGES.into_iter().enumerate() {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (line, status) in lines.iter().zip(&statuses) {
            family
                .encode_family(&[("route", line.route.as_str())])?
                .encode_gauge(&status[at])?;
        }
    }
    Ok(())
}

type Times = (&'static str, &'static str, fn(&RouteDetail) -> &Histogram);

/// Name, meaning and source of the durations of a route.
const TIMES: [Times; 4] = [
    (
        "route_hold_seconds",
        "How long those waited that were parked, whatever became of them, by route",
        |detail| &detail.hold_time,
    ),
    (
        "route_connect_seconds",
        "From the admission to a connected upstream, by route",
        |detail| &detail.connect_time,
    ),
    (
        "route_response_seconds",
        "From a connected upstream to the head of its response, by route",
        |detail| &detail.response_time,
    ),
    (
        "route_total_seconds",
        "From the first byte of a request or session to its end, by route",
        |detail| &detail.total_time,
    ),
];

fn times(encoder: &mut DescriptorEncoder<'_>, lines: &[Line<'_>]) -> fmt::Result {
    for (name, help, pick) in TIMES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for line in lines {
            let parts: Vec<&Histogram> = line.details().map(pick).collect();
            let (sum, total, buckets) = durations_of(&parts);
            if total > 0 {
                family
                    .encode_family(&[("route", line.route.as_str())])?
                    .encode_histogram::<prometheus_client::encoding::NoLabelSet>(
                    sum, total, &buckets, None,
                )?;
            }
        }
    }
    Ok(())
}

/// Of routes with series of their own only: an address says nothing without its route.
fn upstreams(encoder: &mut DescriptorEncoder<'_>, lines: &[Line<'_>], now: Instant) -> fmt::Result {
    let statuses: Vec<_> = lines
        .iter()
        .filter(|line| line.route != OTHER)
        .flat_map(|line| {
            let of = line.entries.iter().flat_map(|entry| entry.set.status(now));
            of.map(|status| (line.route.as_str(), status))
        })
        .collect();
    let help = "Whether an upstream of a route takes new requests";
    let mut family = encoder.encode_descriptor("upstream_up", help, None, MetricType::Gauge)?;
    for (route, status) in &statuses {
        let address = status.address.to_string();
        family
            .encode_family(&[("route", *route), ("upstream", address.as_str())])?
            .encode_gauge(&i64::from(matches!(
                status.state,
                UpstreamState::Up | UpstreamState::Starting
            )))?;
    }
    let help = "Requests and sessions at an upstream of a route now";
    let mut family =
        encoder.encode_descriptor("upstream_in_flight", help, None, MetricType::Gauge)?;
    for (route, status) in &statuses {
        let address = status.address.to_string();
        family
            .encode_family(&[("route", *route), ("upstream", address.as_str())])?
            .encode_gauge(&signed(status.in_flight))?;
    }
    Ok(())
}

fn labelled<S: EncodeLabelSet>(
    family: &mut MetricEncoder<'_>,
    labels: &S,
    value: u64,
) -> fmt::Result {
    count(family.encode_family(labels)?, value)
}

#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests {
    use flocker_api::route::{Operation, Route, Transaction};

    use super::*;
    use crate::logic::gate::Bell;

    struct Silent;

    impl Bell for Silent {
        fn ring(&self) {}
    }

    fn table(count: u16) -> Table {
        let bell: Arc<dyn Bell> = Arc::new(Silent);
        let operations = (1..=count).map(|port| Operation::Add {
            route: Route::new(
                format!("tcp:{port}").parse().unwrap(),
                ["10.0.0.1:1".parse::<std::net::SocketAddr>().unwrap()],
            ),
        });
        let all = Transaction {
            against: None,
            operations: operations.collect(),
        };
        Table::new()
            .apply(&all, |_| Arc::new(Gate::new(Arc::clone(&bell))))
            .unwrap()
    }

    fn requests(table: &Table, port: u16) -> &super::super::Counter {
        &table.lookup_tcp(port).unwrap().gate.stats.requests
    }

    #[test]
    fn the_first_that_are_used_keep_series_of_their_own_and_the_rest_is_together() {
        let table = table(5);
        let shown = Shown::default();
        assert!(shown.lines(&table, 2).0.is_empty());
        requests(&table, 4).inc();
        requests(&table, 5).inc();
        assert_eq!(shown.lines(&table, 2).0.len(), 2);
        for port in 1..=5 {
            requests(&table, port).inc();
        }
        let (lines, others) = shown.lines(&table, 2);
        let names: Vec<&str> = lines.iter().map(|line| &*line.route).collect();
        assert_eq!((names, others), (vec!["tcp:4", "tcp:5", "_other"], 3));
        let sum: u64 = lines[2]
            .gates()
            .map(|gate| gate.stats.requests.value())
            .sum();
        assert_eq!(sum, 3);
    }

    #[test]
    fn a_route_that_is_removed_makes_room() {
        let before = table(3);
        let shown = Shown::default();
        for port in 1..=3 {
            requests(&before, port).inc();
        }
        let first = shown.lines(&before, 1).0[0].route.clone();
        let remove = Transaction {
            against: None,
            operations: vec![Operation::Remove {
                key: first.parse().unwrap(),
            }],
        };
        let after = before.apply(&remove, |_| unreachable!()).unwrap();
        let (lines, others) = shown.lines(&after, 1);
        assert_ne!(lines[0].route, first);
        assert_eq!(others, 1);
    }
}
